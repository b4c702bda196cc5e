//! The data files: their superblocks, and every durable block, read and compared: those the index knows, as changed by the
//! records it does not cover yet (a crash leaves some).
//!
//! Files are read as plain files, so that this works where O_DIRECT or io_uring do not.

use std::fs::File;
use std::os::unix::fs::FileExt;

use kvtier_engine::header::{HEADER_BYTES, SlotHeader};
use kvtier_engine::place::PAGE_BYTES;
use kvtier_engine::port::{Index, IndexEntry};
use kvtier_identity::BlockId;
use kvtier_index::{IndexSettings, RocksIndex};
use kvtier_nvme::{Superblock, SuperblockError};
use kvtier_wal::{BlockingFolder, WalError};

use super::told::Told;
use super::{Failure, Report, shown};
use crate::config::Config;

/// Entries read from the index at once.
const SCAN_COUNT: usize = 4096;
/// Damaged blocks that are named; all are counted.
const NAMED_MAX: usize = 20;
const MISSED: &str = "nothing needs to be done: its next reader misses, and the slot is taken out of use";

/// One data file.
struct BlockFile {
    name: String,
    file: Option<File>,
    verified: u64,
    damaged: u64,
}

/// Looks at every data file and, unless `quick`, at every block. `covered` is where the index ends in the log.
pub(super) async fn examine(
    config: &Config,
    settings: IndexSettings,
    covered: u64,
    quick: bool,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut files: Vec<BlockFile> = config.nvme.files.iter().map(|path| open(path, report)).collect();
    if !quick {
        let behind = read_behind(config, covered).await?;
        compare_index(config, settings, &behind, &mut files, report).await?;
        for (block, entry) in &behind.blocks {
            compare(&mut files, *block, entry, report);
        }
    }
    for file in files.iter().filter(|file| file.file.is_some()) {
        let told = match (quick, file.damaged) {
            (true, _) => "its superblock is sound".to_owned(),
            (false, 0) => format!("{} blocks verified", file.verified),
            (false, damaged) => format!("{} blocks verified, {damaged} did not", file.verified),
        };
        report.fine(format!("{}: {told}", file.name));
    }
    Ok(())
}

/// What the log says behind the index. Of a log that is damaged nothing: that has been reported.
async fn read_behind(config: &Config, covered: u64) -> Result<Told, Failure> {
    let mut told = Told::default();
    if !config.wal.directory.is_dir() {
        return Ok(told);
    }
    let folder = BlockingFolder::new(&config.wal.directory);
    match kvtier_wal::replay(&folder, covered, &mut |seq, record| told.apply(seq, record)).await {
        Ok(()) => Ok(told),
        Err(WalError::Damaged { .. } | WalError::Unsupported { .. }) => Ok(Told::default()),
        Err(error) => Err(error.into()),
    }
}

/// Compares every block of the index that the log behind it does not speak of.
async fn compare_index(
    config: &Config,
    settings: IndexSettings,
    behind: &Told,
    files: &mut [BlockFile],
    report: &mut Report,
) -> Result<(), Failure> {
    if !config.index.directory.exists() {
        return Ok(());
    }
    let index = RocksIndex::open(&config.index.directory, settings)?;
    let mut after = None;
    loop {
        let entries = index.scan(after, SCAN_COUNT).await?;
        let Some((last, _)) = entries.last() else { break };
        after = Some(*last);
        for (block, entry) in entries.iter().filter(|(block, _)| !behind.names(*block)) {
            compare(files, *block, entry, report);
        }
    }
    // It closes with a flush, outside of the runtime.
    tokio::task::spawn_blocking(move || drop(index)).await?;
    Ok(())
}

fn open(path: &std::path::Path, report: &mut Report) -> BlockFile {
    let name = shown(path);
    let mut page = vec![0; PAGE_BYTES as usize];
    let opened = File::open(path).and_then(|file| file.read_exact_at(&mut page, 0).map(|()| file));
    let file = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report.fine(format!("{name}: there is none yet; the next start makes it"));
            None
        }
        Err(error) => {
            report.problem(&name, format!("cannot be read: {error}"), "check the device, or remove the file", true);
            None
        }
        Ok(file) => match Superblock::decode(&page) {
            Ok(_) | Err(SuperblockError::Blank) => Some(file),
            Err(error) => {
                let remedy = "the next start mends it from its copy; if it refuses to, remove the file: its blocks are recomputed";
                report.problem(&name, format!("the superblock is damaged: {error}"), remedy, false);
                Some(file)
            }
        },
    };
    BlockFile { name, file, verified: 0, damaged: 0 }
}

fn compare(files: &mut [BlockFile], block: BlockId, entry: &IndexEntry, report: &mut Report) {
    let Some(data) = files.get_mut(usize::from(entry.slot.device)) else {
        let what = format!("block {block} is on device {}, which nvme.files does not name", entry.slot.device);
        report.problem("index", what, "restore nvme.files", false);
        return;
    };
    let Some(file) = &data.file else { return };
    match verify(file, block, entry) {
        Ok(()) => data.verified += 1,
        Err(what) => {
            data.damaged += 1;
            if data.damaged <= NAMED_MAX as u64 {
                let what = format!("block {block} at byte {}: {what}", entry.slot.offset);
                report.problem(&data.name, what, MISSED, false);
            }
        }
    }
}

fn verify(file: &File, block: BlockId, entry: &IndexEntry) -> Result<(), String> {
    let mut header = [0; HEADER_BYTES];
    let mut payload = vec![0; entry.length as usize];
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    file.read_exact_at(&mut header, entry.slot.offset).map_err(unreadable)?;
    file.read_exact_at(&mut payload, entry.slot.offset + PAGE_BYTES).map_err(unreadable)?;
    let found = SlotHeader::decode(&header, crc32fast::hash).map_err(|error| error.to_string())?;
    if (found.block, found.generation, found.length, found.crc) != (block, entry.generation, entry.length, entry.crc) {
        return Err(format!("the slot holds block {} of store {}", found.block, found.generation));
    }
    match crc32fast::hash(&payload) == entry.crc {
        true => Ok(()),
        false => Err("its payload does not have the checksum it was stored with".to_owned()),
    }
}
