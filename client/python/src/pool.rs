//! Rows of an engine's own memory, stored and loaded by threads that never touch Python.
//!
//! An engine that keeps blocks in a pool of equal rows says which rows, and asks now and then for the answer. A row is
//! copied once, straight between the pool and the daemon's arena, on one of the client's threads:
//!
//! ```text
//!   store   reserve a run of slots -> copy rows into them -> commit         -> one Outcome per key
//!   load    lease a run, staged up -> checksum -> copy into rows -> intact? -> how many from the first on, and why no more
//! ```
//!
//! Memory: the pool's buffer is kept by whoever may still touch it, a call under way included; rows belong to the call
//! until its answer is there. A run is at most [`RUN_BYTES`], so that neither needs room for a whole prompt. If the
//! process dies, the daemon ends its leases and reservations with the connection; if the daemon dies, the call fails, and
//! rows of a load may have been written in part.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvtier_client::local::{AcquireChain, Acquired, Commitment, Lengths, LocalClient as Native, ReserveChain, Slot};
use kvtier_client::{ClientError, DeclineReason, Durability, SpaceDigest};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::argument::{Packed, Space, durability, seconds};
use crate::error::{invalid, plain};
use crate::local::LocalClient;
use crate::memory::{Rows, Slot as PySlot};
use crate::outcome::{Miss, Outcome};
use crate::pending::Pending;
use crate::process::Owned;

/// Bytes that are leased or reserved at a time.
const RUN_BYTES: usize = 64 << 20;

/// A pool of rows, each of which holds a block while the engine says so. `buffer` must lie in one piece and be writable;
/// rows are `stride` bytes apart, and `row_bytes` of each count.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Pool {
    rows: Mutex<Option<Arc<Owned<Rows>>>>,
}

/// How far a load came: the first `count` rows hold their blocks.
#[pyclass(frozen, module = "kvtier", get_all)]
pub(crate) struct Filled {
    /// Rows that hold their blocks, from the first on.
    count: usize,
    /// Why the next one does not: one word of a Miss, or "corrupt" or "stale". None when all do.
    reason: Option<String>,
}

#[pymethods]
impl Filled {
    fn __repr__(&self) -> String {
        format!("<kvtier.Filled: {}{}>", self.count, self.reason.as_ref().map_or(String::new(), |r| format!(", {r}")))
    }
}

/// Which key belongs to which row.
struct Job {
    client: Native,
    pool: Arc<Owned<Rows>>,
    space: SpaceDigest,
    keys: Packed,
    rows: Vec<usize>,
}

impl Pool {
    fn job(&self, client: &LocalClient, space: Space, keys: &[PyBackedBytes], rows: Vec<usize>) -> PyResult<Job> {
        let pool = self.rows.lock().expect("nobody panics while closing").clone();
        let pool = pool.ok_or_else(|| plain("Error", "this pool was closed"))?;
        let count = pool.get()?.count();
        if rows.len() != keys.len() {
            return Err(invalid("rows", format!("{} for {} keys", rows.len(), keys.len()), "give every key one"));
        }
        if let Some(row) = rows.iter().find(|row| **row >= count) {
            return Err(invalid("rows", row.to_string(), &format!("use rows below {count}")));
        }
        let client = client.worker()?.client.get()?.clone();
        Ok(Job { client, pool, space: space.0, keys: Packed::new(keys), rows })
    }
}

#[pymethods]
impl Pool {
    #[new]
    #[pyo3(signature = (buffer, *, stride, row_bytes))]
    fn new(buffer: &Bound<'_, PyAny>, stride: usize, row_bytes: usize) -> PyResult<Self> {
        let rows = Rows::borrow(buffer, stride, row_bytes)?;
        Ok(Self { rows: Mutex::new(Some(Arc::new(Owned::new(rows)))) })
    }

    /// Loads blocks into rows, brought to host memory first and waited for: a Pending[Filled]. `lease` is how long one
    /// run of them may take; with `verify` each is compared with its checksum before it is copied.
    #[pyo3(signature = (client, space, keys, rows, *, lease=10.0, verify=true))]
    fn load_start(
        &self,
        client: &LocalClient,
        space: Space,
        keys: Vec<PyBackedBytes>,
        rows: Vec<usize>,
        lease: f64,
        verify: bool,
    ) -> PyResult<Pending> {
        let lease = seconds("lease", lease)?;
        let job = self.job(client, space, &keys, rows)?;
        let work = move || {
            let (count, reason) = job.load(lease, verify)?;
            // Python gives the buffer back with the answer, not this thread.
            Ok(Box::new(move |py: Python<'_>| {
                drop(job);
                Ok(Py::new(py, Filled { count, reason })?.into_any())
            }) as _)
        };
        client.worker()?.slow()?.change(work).map_err(crate::error::raise)
    }

    /// Stores rows as blocks of one chain: a Pending[list[Outcome]], one for every key. `parent` is the key of the block
    /// before the first. What follows a block that is refused is not written.
    #[pyo3(signature = (client, space, keys, rows, *, parent=None, durability="volatile"))]
    fn store_start(
        &self,
        client: &LocalClient,
        space: Space,
        keys: Vec<PyBackedBytes>,
        rows: Vec<usize>,
        parent: Option<PyBackedBytes>,
        durability: &str,
    ) -> PyResult<Pending> {
        let durability = self::durability(durability)?;
        let job = self.job(client, space, &keys, rows)?;
        let parent = parent.map(|parent| parent.to_vec());
        let work = move || {
            let outcomes = job.store(parent.as_deref(), durability)?;
            Ok(Box::new(move |py: Python<'_>| {
                drop(job);
                Ok(outcomes.into_pyobject(py)?.unbind().into_any())
            }) as _)
        };
        client.worker()?.slow()?.change(work).map_err(crate::error::raise)
    }

    /// Lets go of the buffer, as soon as no call needs it any more.
    fn close(&self) {
        let rows = self.rows.lock().expect("nobody panics while closing").take();
        drop(rows);
    }

    fn __repr__(&self) -> String {
        let rows = self.rows.lock().expect("nobody panics while closing").clone();
        rows.map_or("<kvtier.Pool: closed>".to_owned(), |rows| format!("<kvtier.Pool: {} rows>", rows.peek().count()))
    }
}

impl Job {
    /// How many rows hold their blocks afterwards, and why no more do.
    fn load(&self, lease: Duration, verify: bool) -> Result<(usize, Option<String>), ClientError> {
        let rows = self.pool.peek();
        let keys = self.keys.keys();
        let mut count = 0;
        while count < keys.len() {
            let run = &keys[count..keys.len().min(count + self.run())];
            let wanted = AcquireChain { space: self.space, keys: run, lease, stage: true, poll: false, request: None };
            let found = self.client.acquire(&wanted)?;
            for index in 0..found.len() {
                if let Some(reason) = carry_in(rows, self.rows[count + index], &found, index, verify) {
                    return Ok((count + index, Some(reason.to_owned())));
                }
            }
            count += found.len();
            if found.len() < run.len() {
                let miss = found.miss.clone().unwrap_or_default();
                return Ok((count, Some(Miss::new(found.len(), miss).into_reason())));
            }
        }
        Ok((count, None))
    }

    /// One outcome per key.
    fn store(&self, parent: Option<&[u8]>, durability: Durability) -> Result<Vec<Outcome>, ClientError> {
        let rows = self.pool.peek();
        let keys = self.keys.keys();
        let mut outcomes = Vec::with_capacity(keys.len());
        let mut parent = parent;
        for (run, rows_of_run) in keys.chunks(self.run()).zip(self.rows.chunks(self.run())) {
            let lengths = Lengths::All(rows.row_bytes());
            let wanted = ReserveChain { space: self.space, keys: run, parent, part: 0, lengths, durability };
            let reserved = self.client.reserve(&wanted)?;
            let whole = self.carry_out(reserved, rows_of_run, &mut outcomes)?;
            parent = run.last().copied();
            if !whole {
                let why = "a block before it was refused".to_owned();
                outcomes.resize_with(keys.len(), || {
                    Outcome::of_slot("declined", Some("no_parent".to_owned()), why.clone())
                });
                break;
            }
        }
        Ok(outcomes)
    }

    /// Copies rows into their slots and commits; whether none was refused.
    fn carry_out(&self, reserved: Vec<Slot>, rows: &[usize], outcomes: &mut Vec<Outcome>) -> Result<bool, ClientError> {
        let first = outcomes.len();
        let mut commitments = Vec::with_capacity(reserved.len());
        let mut places = Vec::with_capacity(reserved.len());
        let mut whole = true;
        for (slot, row) in reserved.into_iter().zip(rows) {
            let refused = matches!(&slot, Slot::Declined { reason, .. } if *reason != DeclineReason::UnderWay)
                || matches!(slot, Slot::Rejected(_));
            whole &= !refused;
            outcomes.push(PySlot::outcome_of(&slot));
            let commitment = match slot {
                // What follows a block without room would never be found: dropping it gives the slot up.
                _ if !whole => continue,
                Slot::Write(mut reservation) => {
                    self.pool.peek().copy_into(*row, &mut reservation);
                    Commitment::Written(reservation)
                }
                Slot::Duplicate(Some(existing)) => Commitment::Existing(existing),
                Slot::Duplicate(None) | Slot::Declined { .. } | Slot::Rejected(_) => continue,
            };
            places.push(outcomes.len() - 1);
            commitments.push(commitment);
        }
        debug_assert!(places.iter().all(|place| *place >= first), "outcomes of this run only");
        if !commitments.is_empty() {
            for (place, committed) in places.into_iter().zip(self.client.commit(commitments)?) {
                outcomes[place] = committed.into();
            }
        }
        Ok(whole)
    }

    /// Blocks of one run.
    fn run(&self) -> usize {
        (RUN_BYTES / self.pool.peek().row_bytes() as usize).max(1)
    }
}

/// Copies one block into its row; why it cannot be used, if so.
fn carry_in(rows: &Rows, row: usize, found: &Acquired, index: usize, verify: bool) -> Option<&'static str> {
    let Some(block) = found.bytes(index) else { return Some("not_in_host") };
    if block.len() != rows.row_bytes() as usize {
        return Some("length");
    }
    if verify && found.verify(index).is_err() {
        return Some("corrupt");
    }
    rows.fill(row, block);
    (!found.is_intact(index)).then_some("stale")
}
