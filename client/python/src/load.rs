//! Loads: a chain's blocks straight into the buffers of an engine, on a thread of ours and without the GIL.
//!
//! ```text
//!   load_start: arguments checked, buffers borrowed
//!     └ a thread: run of blocks leased, on its way to host memory ─► waited for ─► block by block: compared with its
//!                   └ the next run is asked for before this one is copied             checksum, copied, still its own?
//!     └ Pending[Loaded]: how many blocks from the first on are whole, and why not the next
//! ```
//!
//! A thread with the GIL is needed at both ends only, so an engine that is busy in Python does not slow a load down. The
//! leases are the thread's; if this process dies the daemon ends them with its connection. The buffers are borrowed until
//! the answer is taken or dropped: what is written into them is always memory that is there.

use std::time::{Duration, Instant};

use kvtier_client::local::{AcquireChain, Acquired, LocalClient};
use kvtier_client::{ClientError, SpaceDigest};
use pyo3::prelude::*;

use crate::argument::Packed;
use crate::error::raise;
use crate::memory::Plan;
use crate::outcome::Miss;
use crate::pending::now;

/// What a load is to do.
pub(crate) struct Load {
    pub(crate) space: SpaceDigest,
    pub(crate) keys: Packed,
    pub(crate) plan: Plan,
    /// Compare every block with its checksum.
    pub(crate) verify: bool,
    /// How long a run stays leased.
    pub(crate) lease: Duration,
    /// No run is begun after that long.
    pub(crate) longest: Duration,
    /// Blocks that are leased at a time; the next run is on its way meanwhile.
    pub(crate) run_blocks: usize,
}

/// What a load brought: the first `blocks` blocks are whole in the buffers; of the others nothing is promised.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Loaded {
    /// How many blocks from the first on are whole.
    #[pyo3(get)]
    blocks: usize,
    /// Bytes copied.
    #[pyo3(get)]
    nbytes: usize,
    /// How long it took, from its turn on.
    #[pyo3(get)]
    seconds: f64,
    /// Why the next block is not there; None when all are.
    #[pyo3(get)]
    why: Option<String>,
    error: Option<ClientError>,
}

#[pymethods]
impl Loaded {
    /// What the call that ended it raised; None for a block that is missing.
    #[getter]
    fn error(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.error.clone().map(|error| raise(error).into_value(py).into_any())
    }

    fn __repr__(&self) -> String {
        let rest = self.why.as_ref().map_or_else(String::new, |why| format!(", then {why}"));
        format!("<kvtier.Loaded: {} blocks, {} bytes{rest}>", self.blocks, self.nbytes)
    }
}

/// Why a load stops early.
enum Stop {
    Missing(String),
    Failed(ClientError),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Failed(error)
    }
}

impl Load {
    /// Carries it out. Never raises: what was copied before a failure counts.
    pub(crate) fn run(&self, client: &LocalClient) -> Loaded {
        let began = now();
        let mut loaded = Loaded { blocks: 0, nbytes: 0, seconds: 0.0, why: None, error: None };
        let stopped = self.run_all(client, began, &mut loaded);
        loaded.seconds = began.elapsed().as_secs_f64();
        match stopped {
            Ok(()) => {}
            Err(Stop::Missing(why)) => loaded.why = Some(why),
            Err(Stop::Failed(error)) => {
                loaded.why = Some(error.to_string());
                // A rotten block says nothing about the daemon.
                loaded.error = Some(error).filter(|error| !matches!(error, ClientError::Corrupt { .. }));
            }
        }
        loaded
    }

    fn run_all(&self, client: &LocalClient, began: Instant, loaded: &mut Loaded) -> Result<(), Stop> {
        let keys = self.keys.keys();
        let mut coming = Some(match self.ask(client, &keys, 0) {
            // A daemon that was restarted while nobody asked it anything is found with the second question.
            Err(ClientError::Unavailable { .. } | ClientError::Indeterminate { .. }) => self.ask(client, &keys, 0)?,
            answer => answer?,
        });
        while let Some(run) = coming.take() {
            let first = loaded.blocks;
            let wanted = self.run_blocks.min(keys.len() - first);
            let here = if run.loading > 0 { client.poll(run, true)? } else { run };
            if began.elapsed() > self.longest {
                return Err(Stop::Missing(format!("{first} of {} blocks took longer than allowed", keys.len())));
            }
            if here.len() >= wanted && first + wanted < keys.len() {
                coming = Some(self.ask(client, &keys, first + wanted)?);
            }
            self.copy(&here, wanted, loaded)?;
        }
        Ok(())
    }

    fn ask(&self, client: &LocalClient, keys: &[&[u8]], first: usize) -> Result<Acquired, ClientError> {
        let keys = &keys[first..keys.len().min(first + self.run_blocks)];
        client.acquire(&AcquireChain {
            space: self.space,
            keys,
            lease: self.lease,
            stage: true,
            poll: true,
            request: None,
        })
    }

    /// Copies a run whose first block is the next of the chain.
    fn copy(&self, here: &Acquired, wanted: usize, loaded: &mut Loaded) -> Result<(), Stop> {
        let whole = self.plan.len();
        for index in 0..wanted {
            let block = loaded.blocks;
            let Some(bytes) = here.bytes(index) else {
                let why = here.miss.clone().map_or_else(String::new, |miss| Miss::new(block, miss).describe());
                return Err(Stop::Missing(format!("block {block} of {whole} is gone: {why}")));
            };
            if self.verify {
                here.verify(index)?;
            }
            let copied = self.plan.carry_out(block, bytes)?;
            if !here.is_intact(index) {
                return Err(Stop::Missing(format!("block {block} of {whole} was given back while it was copied")));
            }
            loaded.blocks += 1;
            loaded.nbytes += copied;
        }
        Ok(())
    }
}
