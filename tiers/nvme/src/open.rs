//! Opening data files: whose are they, and do they fit the settings.
//!
//! A file whose first MiB is blank is formatted: first the copy of the superblock, then a sync, then the superblock
//! itself and another sync. So a crash leaves a blank first page (format again) or at least one good copy (repair the
//! other). Nothing else is ever written before the superblock has been found to be this node's. Formatting destroys no
//! truth: blocks are found through the index alone and verified by their headers.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvtier_device::{Disk, DiskBuffer, DiskError, DiskOp, Priority};
use kvtier_engine::place::PAGE_BYTES;
use kvtier_engine::port::BoxFuture;

use crate::device::Opened;
use crate::layout::{FIRST_EXTENT_OFFSET, SUPERBLOCK_OFFSETS};
use crate::presence::Presence;
use crate::scratch::{LANE_PAYLOAD_BYTES, Lane};
use crate::settings::{NvmeSettings, Problem};
use crate::superblock::{NodeId, Superblock, SuperblockError, VERSION};

const PAGE: usize = PAGE_BYTES as usize;

/// One opened disk, in the order of `NvmeSettings::paths`.
pub struct DeviceSource {
    /// Its path, for messages.
    pub path: PathBuf,
    /// The disk. It must not have been grown or cut to fit the settings: that is checked here.
    pub disk: Arc<dyn Disk>,
    /// Watches whether the path still names the disk.
    pub presence: Arc<dyn Presence>,
}

/// Why the tier cannot be opened. Nothing was written unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Settings that cannot work.
    #[error("the NVMe settings are invalid: {}", list(.0))]
    Settings(Vec<Problem>),
    /// The components do not fit the settings: a fault of the program.
    #[error("{0}")]
    Components(String),
    /// The file is not to be used as it is.
    #[error("{path}: {refusal}; {}", .refusal.remedy())]
    Refused {
        /// Which.
        path: String,
        /// Why.
        refusal: Refusal,
    },
    /// The device did not answer.
    #[error("{path}: {action} the superblock failed")]
    Device {
        /// Which.
        path: String,
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: DiskError,
    },
}

/// Why a data file is not to be used as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It holds something else.
    #[error("{0} is not kvtier's")]
    Foreign(&'static str),
    /// A later build made it.
    #[error("the superblock is of version {0}, this build reads version {VERSION}")]
    Newer(u32),
    /// No superblock can be trusted.
    #[error("the superblock is damaged: {0}")]
    Damaged(&'static str),
    /// It belongs to another data directory.
    #[error("the file belongs to node {found}, this is node {wanted}")]
    OtherNode {
        /// What it says.
        found: NodeId,
        /// Who we are.
        wanted: NodeId,
    },
    /// It is another file of this node, or of another size.
    #[error("{setting} is {found} in the file and {wanted} in the settings")]
    OtherShape {
        /// Which setting.
        setting: &'static str,
        /// What the file says.
        found: u64,
        /// What the settings say.
        wanted: u64,
    },
    /// The file has not the size its superblock states.
    #[error("the file has {found} bytes, its superblock states {wanted}")]
    Truncated {
        /// It has.
        found: u64,
        /// It had.
        wanted: u64,
    },
}

impl Refusal {
    /// What an operator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Foreign(_) => "name another path, or wipe its first MiB if nothing needs it",
            Self::Newer(_) => "run the newer build, or remove the file: its blocks will be recomputed",
            Self::Damaged(_) => "remove the file: its blocks will be recomputed",
            Self::OtherNode { .. } => "use the data directory it belongs to, or remove the file",
            Self::OtherShape { .. } => {
                "restore the setting, or remove all data files of this node: their blocks will be recomputed"
            }
            Self::Truncated { .. } => "restore the file, or remove it: its blocks will be recomputed",
        }
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

/// The size with which the disk at `path` is to be opened, for devices that create and grow files: `Some(bytes)` for a
/// file that is missing or whose creation was interrupted, `None` (as it is) for one that holds anything and for a
/// block device. So a file that was truncated is refused by [`crate::NvmeTier::open`] rather than grown again. Blocks.
pub fn bytes_to_create(path: &Path, bytes: u64) -> io::Result<Option<u64>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(bytes)),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    for at in SUPERBLOCK_OFFSETS {
        let mut page = [0; PAGE];
        let got = file.read_at(&mut page, at)?;
        if page[..got].iter().any(|&byte| byte != 0) {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

/// What to do with a file, from its two superblock pages.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// Both copies agree.
    Sound(Superblock),
    /// One copy is to be written again.
    Repair(Superblock, usize),
    /// Never formatted, or interrupted while it was.
    Blank,
}

/// Opens one data file; formats a blank one.
pub(crate) async fn open_device(
    source: DeviceSource,
    number: usize,
    settings: &NvmeSettings,
    node: NodeId,
    lane: Lane,
) -> Result<Opened, OpenError> {
    let path = source.path.display().to_string();
    let file = OpenFile { path: &path, disk: &*source.disk, lane: &lane };
    let wanted = Superblock {
        node,
        device: u16::try_from(number).expect("validated: at most 64 paths"),
        device_count: u16::try_from(settings.paths.len()).expect("validated: at most 64 paths"),
        bytes: settings.bytes,
        extent_bytes: settings.extent_bytes,
        first_extent_offset: FIRST_EXTENT_OFFSET,
    };
    if source.disk.bytes() < FIRST_EXTENT_OFFSET {
        return Err(file.refused(Refusal::Truncated { found: source.disk.bytes(), wanted: settings.bytes }));
    }
    let head = file.read_first_mib().await?;
    match judge(&head).and_then(|finding| compare(finding, &wanted, source.disk.bytes())) {
        Err(refusal) => return Err(file.refused(refusal)),
        Ok(Finding::Sound(_)) => tracing::info!(path, "data file opened"),
        Ok(Finding::Repair(superblock, copy)) => {
            file.write_copy(&superblock, copy).await?;
            tracing::warn!(path, copy, "a copy of the superblock was damaged and has been written again");
        }
        Ok(Finding::Blank) => {
            file.write_copy(&wanted, 1).await?;
            file.write_copy(&wanted, 0).await?;
            tracing::info!(path, bytes = settings.bytes, "data file formatted");
        }
    }
    Ok(Opened { name: path, superblock: wanted, disk: source.disk, presence: source.presence, lane })
}

fn judge(head: &[u8]) -> Result<Finding, Refusal> {
    use SuperblockError as Fault;
    match SUPERBLOCK_OFFSETS.map(|at| decode_page(&head[at as usize..][..PAGE])) {
        [Err(Fault::Version(version)), _] | [_, Err(Fault::Version(version))] => Err(Refusal::Newer(version)),
        [Err(Fault::Foreign), _] => Err(Refusal::Foreign("the first page")),
        [_, Err(Fault::Foreign)] => Err(Refusal::Foreign("the page of the superblock's copy")),
        [Ok(first), Ok(copy)] if first == copy => Ok(Finding::Sound(first)),
        [Ok(_), Ok(_)] => Err(Refusal::Damaged("its two copies disagree")),
        [Ok(first), Err(_)] => Ok(Finding::Repair(first, 1)),
        [Err(_), Ok(copy)] => Ok(Finding::Repair(copy, 0)),
        // The copy is synced before the first page is written: with a blank first page no format ever completed.
        [Err(Fault::Blank), Err(_)] if blank_elsewhere(head) => Ok(Finding::Blank),
        [Err(Fault::Blank), Err(_)] => Err(Refusal::Foreign("the first MiB")),
        [Err(_), Err(_)] => Err(Refusal::Damaged("neither copy can be read")),
    }
}

/// The rest of a superblock's page is zero, or the page is somebody else's.
fn decode_page(page: &[u8]) -> Result<Superblock, SuperblockError> {
    let superblock = Superblock::decode(page)?;
    if page == superblock.encode() { Ok(superblock) } else { Err(SuperblockError::Foreign) }
}

fn blank_elsewhere(head: &[u8]) -> bool {
    let copy = SUPERBLOCK_OFFSETS[1] as usize;
    let zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    zero(&head[..copy]) && zero(&head[copy + PAGE..])
}

fn compare(finding: Finding, wanted: &Superblock, disk_bytes: u64) -> Result<Finding, Refusal> {
    let (Finding::Sound(found) | Finding::Repair(found, _)) = &finding else {
        // A device may be larger than the settings allow us to use.
        return if disk_bytes >= wanted.bytes {
            Ok(finding)
        } else {
            Err(Refusal::OtherShape { setting: "bytes", found: disk_bytes, wanted: wanted.bytes })
        };
    };
    if found.node != wanted.node {
        return Err(Refusal::OtherNode { found: found.node, wanted: wanted.node });
    }
    let shape = [
        ("the place in paths", u64::from(found.device), u64::from(wanted.device)),
        ("the number of paths", u64::from(found.device_count), u64::from(wanted.device_count)),
        ("bytes", found.bytes, wanted.bytes),
        ("extent_bytes", found.extent_bytes, wanted.extent_bytes),
        ("the first extent's offset", found.first_extent_offset, wanted.first_extent_offset),
    ];
    if let Some(&(setting, found, wanted)) = shape.iter().find(|(_, found, wanted)| found != wanted) {
        return Err(Refusal::OtherShape { setting, found, wanted });
    }
    if disk_bytes < found.bytes {
        return Err(Refusal::Truncated { found: disk_bytes, wanted: found.bytes });
    }
    Ok(finding)
}

struct OpenFile<'a> {
    path: &'a str,
    disk: &'a dyn Disk,
    lane: &'a Lane,
}

impl OpenFile<'_> {
    fn refused(&self, refusal: Refusal) -> OpenError {
        OpenError::Refused { path: self.path.to_owned(), refusal }
    }

    fn failed(&self, action: &'static str) -> impl Fn(DiskError) -> OpenError {
        let path = self.path.to_owned();
        move |source| OpenError::Device { path: path.clone(), action, source }
    }

    async fn read_first_mib(&self) -> Result<bytes::Bytes, OpenError> {
        let bytes = LANE_PAYLOAD_BYTES;
        assert_eq!(u64::from(bytes), FIRST_EXTENT_OFFSET, "a lane holds what lies before the first extent");
        read(self.disk, 0, self.lane.payload(bytes)).await.map_err(self.failed("reading"))?;
        Ok(self.lane.view(bytes))
    }

    async fn write_copy(&self, superblock: &Superblock, copy: usize) -> Result<(), OpenError> {
        self.lane.write(&superblock.encode());
        let from = self.lane.payload(PAGE_BYTES as u32);
        let write = DiskOp::Write { offset: SUPERBLOCK_OFFSETS[copy], from };
        one(self.disk.submit(vec![write], Priority::Store)).await.map_err(self.failed("writing"))?;
        self.disk.sync().await.map_err(self.failed("syncing"))
    }
}

/// Reads at somebody's request, who waits for it.
pub(crate) async fn read(disk: &dyn Disk, offset: u64, into: DiskBuffer) -> Result<(), DiskError> {
    one(disk.submit(vec![DiskOp::Read { offset, into }], Priority::Load)).await
}

/// The result of a batch of one.
pub(crate) async fn one(batch: BoxFuture<Vec<Result<(), DiskError>>>) -> Result<(), DiskError> {
    batch.await.pop().unwrap_or(Err(DiskError::Closed))
}

#[cfg(test)]
mod tests;
