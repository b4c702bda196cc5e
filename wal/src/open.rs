//! Opening a log: survey, cut the torn tail, begin the next epoch's segment.
//!
//! A crash at any step is harmless: the survey changes nothing, cutting twice is cutting once, and a segment that was
//! begun and not used is an empty one, whose numbers the next opening skips.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kvtier_device::Folder;
use kvtier_engine::port::{Clock, Moment, Record};

use crate::codec::record_bytes_in_memory;
use crate::error::{During, WalError};
use crate::failure::Failure;
use crate::journal::Wal;
use crate::pace::Pace;
use crate::segment::file_name;
use crate::settings::{EPOCH_SKIP, Settings};
use crate::shared::Shared;
use crate::state::State;
use crate::survey::{Depth, Found, Survey};
use crate::table::Table;
use crate::writer::{EndGuard, Writer};

/// Bytes rewritten at once.
const REWRITE_BYTES: usize = 1 << 20;

/// What an opening found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The epoch that begins; its reset record is the first one queued.
    pub epoch: u64,
    /// The reset record's sequence number.
    pub reset_seq: u64,
    /// Last record that survived; 0 in an empty log.
    pub last_seq: u64,
    /// Records after the covered position: read them with `read(covered_seq, …)` in pages and apply them to the index.
    pub tail_record_count: u64,
    /// Unsound bytes cut off the end: what the last process was writing when it died.
    pub torn_tail_bytes: u64,
    /// Segments that survived.
    pub segment_count: usize,
    /// Bytes in them.
    pub bytes: u64,
}

impl Wal {
    /// Opens the log in `folder`, or makes a new one. The index covers `covered_seq` (0: nothing).
    ///
    /// Returns the handle, the writer that somebody has to drive on this thread, and what was found. Records can be
    /// appended at once; a full disk does not keep a log from opening, only suspends it. On disk the torn tail is cut and a
    /// segment begun; a log that is refused as damaged or unsupported is not touched. One process at a time: the folder's lock is the caller's.
    pub async fn open(
        folder: Rc<dyn Folder>,
        clock: Arc<dyn Clock>,
        settings: Settings,
        covered_seq: u64,
    ) -> Result<(Arc<Self>, Writer, Recovered), WalError> {
        let problems = settings.validate();
        if !problems.is_empty() {
            return Err(WalError::Settings(problems));
        }
        let mut survey = Survey::take(folder.as_ref(), Depth::After(covered_seq)).await?;
        survey.check_covered(covered_seq);
        if let Some((file, explanation)) = survey.unsupported {
            return Err(WalError::Unsupported { file, explanation });
        }
        if !survey.damage.is_empty() {
            return Err(survey.damage.swap_remove(0).into());
        }
        settle_tail(folder.as_ref(), &survey).await?;
        let (wal, mut writer, recovered) = start(folder, clock, settings, covered_seq, survey);
        begin(&mut writer, &recovered).await?;
        Ok((wal, writer, recovered))
    }
}

/// Makes what survived durable, and nothing else: cuts the torn tail, and writes the last group once more.
///
/// The dead process may not have synced its last group, or its sync may have failed: then the pages in memory are
/// right, marked clean, and not on the disk. Without this they would be promised to readers and lost at a power cut.
async fn settle_tail(folder: &dyn Folder, survey: &Survey) -> Result<(), WalError> {
    let Some(last) = survey.segments.last() else { return Ok(()) };
    let name = file_name(last.header.first_seq);
    let file = folder.open(&name).await.during("opening", &name)?;
    if survey.torn.is_some() {
        file.truncate(last.sound_bytes).await.during("cutting the torn tail of", &name)?;
    }
    let mut offset = last.last_group_offset;
    while offset < last.sound_bytes {
        let left = usize::try_from(last.sound_bytes - offset).unwrap_or(usize::MAX);
        let bytes = file.read_at(offset, left.min(REWRITE_BYTES)).await.during("reading", &name)?;
        if bytes.is_empty() {
            break;
        }
        let count = bytes.len() as u64;
        match file.write_at(offset, bytes).await {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
            written => written.during("rewriting the last group of", &name)?,
        }
        offset += count;
    }
    file.sync().await.during("syncing", &name)
}

/// Makes the new epoch's segment durable before any number of it can be given out: numbers that a process lost are then
/// always below what the next one sees. Without room for it the journal begins suspended.
async fn begin(writer: &mut Writer, recovered: &Recovered) -> Result<(), WalError> {
    match writer.begin_segment(recovered.reset_seq, recovered.epoch).await {
        Ok(()) => {
            let reset = Record::Reset { epoch: recovered.epoch, reason: "restart".into() };
            let bytes = record_bytes_in_memory(&reset);
            let shared = &writer.shared;
            let mut state = shared.lock();
            state.enter(recovered.epoch);
            let queued = state.append(vec![reset], bytes, shared.clock.now(), &shared.settings);
            queued.map(drop).map_err(|overflow| WalError::Thread(overflow.refused.to_string()))
        }
        Err(Failure::Full(reason)) => {
            writer.shared.lock().suspend(recovered.reset_seq, &reason).tell();
            writer.back_off(&reason);
            Ok(())
        }
        Err(Failure::Unknown(reason)) => {
            Err(WalError::Io { action: "beginning a segment".into(), source: io::Error::other(reason) })
        }
    }
}

fn start(
    folder: Rc<dyn Folder>,
    clock: Arc<dyn Clock>,
    settings: Settings,
    covered_seq: u64,
    survey: Survey,
) -> (Arc<Wal>, Writer, Recovered) {
    let last_seq = survey.last_seq();
    let seen = survey.seen_seq.max(last_seq);
    // An empty log begins with 1. Any other goes on beyond every number that the dead process can have given out.
    let reset_seq = if seen == 0 { 1 } else { seen + 1 + EPOCH_SKIP };
    let recovered = Recovered {
        epoch: survey.seen_epoch + 1,
        reset_seq,
        last_seq,
        tail_record_count: survey.record_count,
        torn_tail_bytes: survey.torn.as_ref().map_or(0, |torn| torn.bytes),
        segment_count: survey.segments.len(),
        bytes: survey.segments.iter().map(|segment: &Found| segment.file_bytes).sum(),
    };
    let table = Table::from_found(&survey.segments);
    let mut state = State::new(&settings, table, last_seq, reset_seq, survey.seen_epoch);
    state.covered_seq = covered_seq;
    let retry_pause = Duration::from_millis(settings.retry_ms_min);
    let log_id = survey.log_id.unwrap_or(settings.log_id);
    let shared = Arc::new(Shared::new(state, settings, clock));
    let writer = Writer {
        shared: Arc::clone(&shared),
        folder,
        log_id,
        active: None,
        stillborn: survey.stillborn.into_iter().map(|(name, _)| name).collect(),
        doomed: Vec::new(),
        retry_pause,
        retry_at: Moment::default(),
        resumed_at: Moment::default(),
        retire_at: Moment::default(),
        just_retired: false,
        pace: Pace::default(),
        _end: EndGuard(Arc::clone(&shared)),
    };
    (Arc::new(Wal { shared }), writer, recovered)
}
