//! A persistent tier: moves whole slots between the host arena and devices.
//!
//! The catalog decides which slot; the tier moves bytes and verifies them. A tier never keeps block metadata.

use super::BoxFuture;
use crate::header::SlotHeader;
use crate::place::Slot;

/// Size of one device or arena and of the extents it is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceGeometry {
    /// Usable bytes: a whole number of extents.
    pub bytes: u64,
    /// Bytes of one extent; each extent serves one size class at a time.
    pub extent_bytes: u64,
    /// Device offset of the first extent (a superblock may come before it).
    pub first_extent_offset: u64,
}

/// Write one block: header and payload from `from` to `to`. Until the outcome is known the header page and the bytes
/// between the payload's end and its last page's end belong to the tier; the payload may be read by others.
#[derive(Debug, Clone)]
pub struct Store {
    /// Host slot; the payload is complete, the tier writes the header page.
    pub from: Slot,
    /// Where to.
    pub to: Slot,
    /// What the header will say.
    pub header: SlotHeader,
}

/// Read one block into host memory and verify it.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where from.
    pub from: Slot,
    /// Host slot of at least the transfer's size; its content is undefined unless the outcome is `Verified`.
    pub into: Slot,
    /// What the header must say.
    pub expect: Expect,
}

/// What the index knows of a slot's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expect {
    /// The block.
    pub block: kvtier_identity::BlockId,
    /// Payload bytes.
    pub length: u32,
    /// CRC32 of the payload.
    pub crc: u32,
    /// Which store of the slot.
    pub generation: u64,
}

/// Verify one block in place, with the tier's own scratch memory, at the lowest priority.
#[derive(Debug, Clone, Copy)]
pub struct Verify {
    /// Where.
    pub at: Slot,
    /// What must be there.
    pub expect: Expect,
}

/// What became of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOutcome {
    /// The device took the bytes; they are durable after a successful [`Tier::sync`].
    Written,
    /// The payload in host memory does not have the checksum the header states: somebody wrote to it. Nothing was
    /// written. Not an error: quarantine the host copy and report a miss.
    Corrupt(&'static str),
    /// Nothing is promised about the slot's content.
    Failed(TierError),
}

/// What became of a load or a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadOutcome {
    /// Header and checksum agree with what was expected.
    Verified,
    /// The device answered, but with other bytes. Not an error: quarantine the slot and report a miss.
    Corrupt(&'static str),
    /// The device did not answer.
    Failed(TierError),
}

/// What the caller would do differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TierError {
    /// This operation failed; others may succeed.
    #[error("{0}")]
    Io(String),
    /// A sync failed once: this device takes no more stores until an operator acts (INV-7).
    #[error("device {device} is poisoned: {cause}")]
    Poisoned {
        /// Which device.
        device: u16,
        /// What failed.
        cause: String,
    },
    /// The tier's queue is full; try again later (INV-5).
    #[error("the device queue is full")]
    Busy,
    /// The tier is shutting down.
    #[error("the tier is closed")]
    Closed,
}

/// Condition of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// Takes loads and stores.
    Up,
    /// Takes neither for now: too many reads failed (the breaker is open). Comes back by itself.
    Tripped,
    /// Takes loads only, for good: a sync failed, or its file was deleted, replaced or truncated.
    Poisoned,
}

/// What `status` and the metrics show of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceHealth {
    /// Condition.
    pub state: DeviceState,
    /// How it is driven and what went wrong, for people.
    pub detail: String,
    /// Operations at the device.
    pub in_flight_count: u64,
    /// Operations waiting.
    pub queued_count: u64,
    /// Bytes read since start.
    pub read_bytes: u64,
    /// Bytes written since start.
    pub written_bytes: u64,
}

/// A tier of devices. Outcomes are in the order of the batch.
pub trait Tier: Send + Sync + 'static {
    /// One geometry per device, in the order of `Slot::device`.
    fn geometry(&self) -> Vec<DeviceGeometry>;
    /// Writes a batch. Stores yield to loads.
    fn store(&self, batch: Vec<Store>) -> BoxFuture<Vec<StoreOutcome>>;
    /// Reads and verifies a batch. Loads overtake stores.
    fn load(&self, batch: Vec<Load>) -> BoxFuture<Vec<LoadOutcome>>;
    /// Makes every store that has *completed* on these devices durable. Concurrent calls may share one sync.
    fn sync(&self, devices: Vec<u16>) -> BoxFuture<Result<(), TierError>>;
    /// Verifies a batch in place.
    fn verify(&self, batch: Vec<Verify>) -> BoxFuture<Vec<LoadOutcome>>;
    /// One entry per device.
    fn health(&self) -> Vec<DeviceHealth>;
}
