//! Looking for blocks that may be resident with gaps between them, such as those of sliding windows.

use std::time::Duration;

use kvtier_client::local::{AcquireChain, Acquired as Leased, LocalClient as Native};
use kvtier_client::{ClientError, SpaceDigest};
use pyo3::prelude::*;

use crate::acquired::Acquired;

/// Resident runs of a list of keys.
pub(crate) struct Runs {
    /// The position of a run's first key, and its lease.
    found: Vec<(usize, Leased)>,
    /// How many keys were looked at.
    end: usize,
}

impl Runs {
    /// Leases every run, a call each; what comes after `gaps_max` gaps is not looked at.
    pub(crate) fn find(
        client: &Native,
        space: SpaceDigest,
        keys: &[&[u8]],
        lease: Duration,
        gaps_max: usize,
    ) -> Result<Self, ClientError> {
        let mut runs = Self { found: Vec::new(), end: 0 };
        let mut gaps = 0;
        while runs.end < keys.len() && gaps <= gaps_max {
            let left = &keys[runs.end..];
            let run =
                client.acquire(&AcquireChain { space, keys: left, lease, stage: false, poll: false, request: None })?;
            let length = run.len();
            if length > 0 {
                runs.found.push((runs.end, run));
            }
            gaps += 1;
            // The key after a run is known not to be there.
            runs.end = keys.len().min(runs.end + length + 1);
        }
        Ok(runs)
    }

    /// (list of (position, Acquired), keys looked at).
    pub(crate) fn into_answer(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let lend = |(at, run)| Ok((at, Py::new(py, Acquired::new(run))?));
        let found = self.found.into_iter().map(lend).collect::<PyResult<Vec<_>>>()?;
        Ok((found, self.end).into_pyobject(py)?.unbind().into_any())
    }
}
