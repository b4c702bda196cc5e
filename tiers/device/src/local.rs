//! The disk a machine has: io_uring where it is allowed, threads where it is not.

use std::sync::Arc;

use crate::aligned::Arena;
use crate::backing::{Backing, IdentityChange, OpenError};
use crate::pool::PoolDisk;
use crate::port::{BoxFuture, Disk, DiskCounters, DiskError, DiskOp, Priority};
use crate::settings::{DiskSettings, Driver};
use crate::uring::{UringDisk, UringProbe, probe};

/// A file or block device, opened by [`open_disk`].
///
/// Dropping it blocks until everything submitted before has been done.
pub struct LocalDisk {
    driven: Driven,
}

enum Driven {
    Uring(UringDisk),
    Pool(PoolDisk),
}

/// Opens what the settings name, creating and preallocating a file if they say so, and starts its driver. Blocks.
///
/// ```
/// use kvtier_device::{AlignedBuffer, Disk, DiskOp, DiskSettings, Priority, conformance::block_on, open_disk};
///
/// let folder = tempfile::tempdir().unwrap();
/// let mut settings = DiskSettings::new(folder.path().join("nvme0"));
/// settings.bytes = Some(1 << 20);
/// let disk = open_disk(&settings).unwrap();
/// let page = AlignedBuffer::holding(b"four kilobytes");
/// let write = DiskOp::Write { offset: 4096, from: page.disk_buffer() };
/// assert_eq!(block_on(disk.submit(vec![write], Priority::Store)), [Ok(())]);
/// assert_eq!(block_on(disk.sync()), Ok(()));
/// ```
pub fn open_disk(settings: &DiskSettings) -> Result<LocalDisk, OpenError> {
    let backing = Arc::new(Backing::open(settings)?);
    let failed =
        |error: std::io::Error| OpenError::Unusable(format!("{} cannot be driven: {error}", settings.path.display()));
    let pool = |reason: &str| {
        let disk = PoolDisk::start(Arc::clone(&backing), settings, reason).map_err(failed)?;
        Ok(LocalDisk { driven: Driven::Pool(disk) })
    };
    let usable = match settings.driver {
        Driver::Pool => return pool("as configured"),
        Driver::Auto | Driver::Uring => probe(),
    };
    let refusal = match usable {
        UringProbe::Refused(reason) => reason,
        UringProbe::Usable => match UringDisk::start(Arc::clone(&backing), settings) {
            Ok(disk) => return Ok(LocalDisk { driven: Driven::Uring(disk) }),
            Err(error) => error.to_string(),
        },
    };
    if settings.driver == Driver::Uring {
        let path = settings.path.display();
        return Err(OpenError::Unusable(format!("{path}: {refusal}; set driver = auto to use threads instead")));
    }
    tracing::warn!(path = %settings.path.display(), reason = %refusal, "driving the disk with threads");
    pool(&refusal)
}

impl LocalDisk {
    /// Offers memory for registration; a driver that has no use for it ignores it.
    pub fn register_arena(&self, arena: Arena) {
        let bytes = arena.bytes;
        self.register_arena_up_to(arena, bytes);
    }

    /// Offers an arena's first `ready_bytes` bytes, because pages behind them may still be moved, as they are while an
    /// arena is prefaulted with huge pages. To be called again with more.
    pub fn register_arena_up_to(&self, arena: Arena, ready_bytes: u64) {
        match &self.driven {
            Driven::Uring(disk) => disk.register_arena_up_to(arena, ready_bytes),
            Driven::Pool(_) => {}
        }
    }

    /// Whether the path still leads to the open file, and the file is as long as it was. Blocks for two system calls.
    pub fn check_identity(&self) -> Result<(), IdentityChange> {
        self.backing().check_identity()
    }

    /// The file or device.
    pub fn backing(&self) -> &Backing {
        match &self.driven {
            Driven::Uring(disk) => disk.backing(),
            Driven::Pool(disk) => disk.backing(),
        }
    }

    fn disk(&self) -> &dyn Disk {
        match &self.driven {
            Driven::Uring(disk) => disk,
            Driven::Pool(disk) => disk,
        }
    }
}

impl Disk for LocalDisk {
    fn bytes(&self) -> u64 {
        self.disk().bytes()
    }

    fn submit(&self, batch: Vec<DiskOp>, priority: Priority) -> BoxFuture<Vec<Result<(), DiskError>>> {
        self.disk().submit(batch, priority)
    }

    fn sync(&self) -> BoxFuture<Result<(), DiskError>> {
        self.disk().sync()
    }

    fn poisoned(&self) -> Option<String> {
        self.disk().poisoned()
    }

    fn mode(&self) -> String {
        self.disk().mode()
    }

    fn counters(&self) -> DiskCounters {
        self.disk().counters()
    }
}
