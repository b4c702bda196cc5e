//! Answers as plain values.

use kvtier_client::local::Committed;
use kvtier_client::word;
use kvtier_client::{PutOutcome, wire};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// What became of one put block, or one part of it. A refusal is a value, not an error.
#[pyclass(frozen, module = "kvtier", get_all)]
pub(crate) struct Outcome {
    /// "stored", "duplicate", "part_accepted", "declined" or "rejected".
    kind: &'static str,
    /// CRC-32 of the whole block; None unless it was stored.
    crc32: Option<u32>,
    /// Why it was declined, as one word; else None.
    reason: Option<String>,
    /// The same in words, with what to do; empty when it was not refused.
    detail: String,
}

impl Outcome {
    fn new(kind: &'static str) -> Self {
        Self { kind, crc32: None, reason: None, detail: String::new() }
    }

    fn refused(kind: &'static str, reason: Option<String>, detail: String) -> Self {
        Self { kind, crc32: None, reason, detail }
    }

    /// Of a slot that was not committed.
    pub(crate) fn of_slot(kind: &'static str, reason: Option<String>, detail: String) -> Self {
        match kind {
            "write" => Self::refused("declined", Some("not_committed".to_owned()), "given up".to_owned()),
            kind => Self::refused(kind, reason, detail),
        }
    }
}

impl From<Committed> for Outcome {
    fn from(committed: Committed) -> Self {
        match committed {
            Committed::Stored { crc } => Self { crc32: Some(crc), ..Self::new("stored") },
            Committed::PartAccepted => Self::new("part_accepted"),
            Committed::Duplicate => Self::new("duplicate"),
            Committed::Declined { reason, detail } => {
                Self::refused("declined", Some(word::decline_reason(reason.into())), detail)
            }
            Committed::Rejected(detail) => Self::refused("rejected", None, detail),
        }
    }
}

impl From<PutOutcome> for Outcome {
    fn from(outcome: PutOutcome) -> Self {
        match outcome {
            PutOutcome::Stored { crc32, .. } => Self { crc32: Some(crc32), ..Self::new("stored") },
            PutOutcome::PartAccepted => Self::new("part_accepted"),
            PutOutcome::Duplicate => Self::new("duplicate"),
            PutOutcome::Declined { reason, detail } => {
                Self::refused("declined", Some(word::decline_reason(reason.into())), detail)
            }
            PutOutcome::Rejected { field, value, remedy } => {
                Self::refused("rejected", None, format!("{field} is {value}: {remedy}"))
            }
        }
    }
}

#[pymethods]
impl Outcome {
    /// Whether the daemon has the block, or this part of it, now.
    #[getter]
    fn ok(&self) -> bool {
        matches!(self.kind, "stored" | "duplicate" | "part_accepted")
    }

    fn __repr__(&self) -> String {
        match (&self.reason, self.crc32) {
            (Some(reason), _) => format!("<kvtier.Outcome: {} ({reason}): {}>", self.kind, self.detail),
            (None, Some(crc)) => format!("<kvtier.Outcome: {}, crc32 {crc:08x}>", self.kind),
            (None, None) => format!("<kvtier.Outcome: {} {}>", self.kind, self.detail),
        }
    }
}

/// Why a block is not there. A value, not an error: recompute it.
#[pyclass(frozen, module = "kvtier", get_all)]
pub(crate) struct Miss {
    /// Position in the chain that was asked for.
    index: usize,
    /// One word: "never_stored", "evicted", "corrupt", "restarted", ...
    reason: String,
    /// The same in words.
    detail: String,
    /// How long ago it went, in seconds, where that is known.
    age: Option<f64>,
    /// The tier it was last in; "unspecified" where that is not known.
    tier: String,
}

impl Miss {
    pub(crate) fn new(index: usize, miss: wire::Miss) -> Self {
        let wire::Miss { reason, detail, age_ms, tier } = miss;
        let age = age_ms.map(|age| age as f64 / 1000.0);
        Self { index, reason: word::miss_reason(reason), detail, age, tier: word::tier(tier) }
    }

    /// The one word.
    pub(crate) fn into_reason(self) -> String {
        self.reason
    }

    pub(crate) fn describe(&self) -> String {
        format!("<kvtier.Miss {}: {} {}>", self.index, self.reason, self.detail)
    }
}

#[pymethods]
impl Miss {
    fn __repr__(&self) -> String {
        self.describe()
    }
}

/// A resident block, as lookups name it.
#[pyclass(frozen, module = "kvtier", get_all)]
pub(crate) struct Resident {
    /// The fastest tier that holds it.
    tier: String,
    /// Its length in bytes.
    nbytes: u32,
}

#[pymethods]
impl Resident {
    fn __repr__(&self) -> String {
        format!("<kvtier.Resident: {} bytes in {}>", self.nbytes, self.tier)
    }
}

/// A prefix that stays resident until it is released or its deadline passes.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Lease(pub(crate) kvtier_client::Lease);

#[pymethods]
impl Lease {
    /// The daemon's name for it.
    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.id)
    }

    /// How many blocks it holds.
    #[getter]
    fn blocks(&self) -> u32 {
        self.0.blocks
    }

    /// When it ends by itself: seconds since 1970 by the daemon's clock.
    #[getter]
    fn deadline(&self) -> f64 {
        self.0.deadline_unix_ms as f64 / 1000.0
    }

    fn __repr__(&self) -> String {
        format!("<kvtier.Lease of {} blocks>", self.0.blocks)
    }
}

/// The longest resident prefix of a chain; its length is how many blocks that is.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Lookup(kvtier_client::Lookup);

impl From<kvtier_client::Lookup> for Lookup {
    fn from(found: kvtier_client::Lookup) -> Self {
        Self(found)
    }
}

#[pymethods]
impl Lookup {
    fn __len__(&self) -> usize {
        self.0.prefix.len()
    }

    /// Every block of the prefix.
    #[getter]
    fn prefix(&self) -> Vec<Resident> {
        let resident =
            |block: &kvtier_client::Resident| Resident { tier: word::tier(block.tier.into()), nbytes: block.length };
        self.0.prefix.iter().map(resident).collect()
    }

    /// The lease, when one was asked for and something is resident.
    #[getter]
    fn lease(&self) -> Option<Lease> {
        self.0.lease.clone().map(Lease)
    }

    /// Why the block after the prefix is not there; None when the whole chain is.
    #[getter]
    fn miss(&self) -> Option<Miss> {
        self.0.miss.clone().map(|miss| Miss::new(self.0.prefix.len(), miss))
    }

    fn __repr__(&self) -> String {
        format!("<kvtier.Lookup: {} blocks>", self.0.prefix.len())
    }
}

/// A space that is open on the node.
#[pyclass(frozen, module = "kvtier", get_all)]
pub(crate) struct OpenSpace {
    /// The name for people.
    pub(crate) name: String,
    /// How every call names it, 32 bytes.
    pub(crate) space: Py<PyBytes>,
    /// What it was opened with.
    pub(crate) description: Py<PyAny>,
    /// Resident blocks.
    pub(crate) blocks: u64,
    /// Their bytes.
    pub(crate) nbytes: u64,
}

#[pymethods]
impl OpenSpace {
    fn __repr__(&self) -> String {
        format!("<kvtier.OpenSpace {:?}: {} blocks, {} bytes>", self.name, self.blocks, self.nbytes)
    }
}
