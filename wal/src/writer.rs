//! The loop that writes. One per log, on the thread that owns the folder.
//!
//! Each turn it asks the state what to do, does it with no lock held, and reports back. One group is in flight at a time;
//! what is appended meanwhile is the next group. A group is written when its oldest record is `group_commit_ms_max` old
//! or it has `group_commit_bytes_max`; if somebody waits for one of its records, at once or after the short lingering
//! that `pace` describes.
//!
//! What a crash does at each step of a group: before the write, its records are gone, and nobody was told otherwise; in
//! or after the write and before the sync has returned, some of its frames may survive, and the next opening keeps the
//! sound ones up to the first unsound; after the sync, all survive.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, join, select};
use kvtier_device::{Folder, LogFile};
use kvtier_engine::port::{JournalState, Moment};

use crate::failure::Failure;
use crate::frame::{EncodedGroup, FrameMark, encode_mark};
use crate::pace::Pace;
use crate::reader::Reader;
use crate::recent::Run;
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, file_name};
use crate::shared::Shared;
use crate::table::Keep;

/// How often an idle writer looks for segments that have become too old.
pub(crate) const RETENTION_PAUSE: Duration = Duration::from_secs(30);

/// A group has no more than this in memory, unless it is set larger: one sync should not take for ever.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// A timer is not asked for less than this: its ticks are of a millisecond.
const TIMER_PAUSE_MIN: Duration = Duration::from_millis(1);

/// The segment that is written.
pub(crate) struct Active {
    pub(crate) file: Box<dyn LogFile>,
    pub(crate) header: SegmentHeader,
    pub(crate) seed: u32,
    /// Where the next frame goes: behind the last durable one.
    pub(crate) bytes: u64,
}

/// The writer. [`Writer::run`] drives it to its end.
pub struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) folder: Rc<dyn Folder>,
    pub(crate) log_id: u128,
    pub(crate) active: Option<Active>,
    /// Files of segments that were never begun; removed once there is a new one, which remembers their numbers.
    pub(crate) stillborn: Vec<String>,
    /// Segments that retention gave up and that are still on disk.
    pub(crate) doomed: Vec<String>,
    pub(crate) retry_pause: Duration,
    pub(crate) retry_at: Moment,
    pub(crate) resumed_at: Moment,
    /// When old segments may be looked for again; later after a removal that failed.
    pub(crate) retire_at: Moment,
    /// The last turn deleted a segment: the next one writes first, if there is something to write.
    pub(crate) just_retired: bool,
    pub(crate) pace: Pace,
    pub(crate) _end: EndGuard,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Turn {
    Commit(Run),
    Resume,
    Retire,
    Linger,
    Wait(Duration),
    End,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("log_id", &self.log_id).finish_non_exhaustive()
    }
}

/// Whatever ends the writer, even before it was driven at all, nobody is left waiting.
pub(crate) struct EndGuard(pub(crate) Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.poison("the journal's writer has ended");
        self.0.lock().reads.clear();
    }
}

impl Writer {
    /// Writes, serves reads and deletes old segments until the journal is closed. Dropping the future is a crash:
    /// everybody who waits hears that the journal is poisoned.
    pub async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut reader = Reader::new(Arc::clone(&self.shared), Rc::clone(&self.folder));
        let write = async {
            self.write().await;
            shared.poison("the journal is closed");
            shared.serve.raise();
        };
        join(write, reader.serve()).await;
    }

    async fn write(&mut self) {
        loop {
            let turn = self.next_turn();
            self.just_retired = matches!(turn, Turn::Retire);
            match turn {
                Turn::Commit(run) => {
                    let begun = self.shared.clock.now();
                    self.commit(run).await;
                    self.pace.took(begun, self.shared.clock.now(), &self.shared.settings);
                }
                Turn::Resume => self.resume().await,
                Turn::Retire => drop(self.retire_one().await),
                Turn::Linger => self.pace.linger().await,
                Turn::Wait(pause) => self.wait(pause).await,
                Turn::End => return self.leave_mark().await,
            }
        }
    }

    /// Decides under the lock.
    pub(crate) fn next_turn(&self) -> Turn {
        let (now, unix_ms) = (self.shared.clock.now(), self.shared.clock.unix_ms());
        let settings = &self.shared.settings;
        let mut state = self.shared.lock();
        match &state.condition {
            JournalState::Poisoned(_) if state.closing => return Turn::End,
            JournalState::Poisoned(_) => return Turn::Wait(RETENTION_PAUSE),
            JournalState::Suspended(_) if state.closing => return Turn::End,
            JournalState::Suspended(_) if now >= self.retry_at => return Turn::Resume,
            JournalState::Suspended(_) => return Turn::Wait(self.retry_at.since(now)),
            JournalState::Open => {}
        }
        let retire = now >= self.retire_at
            && (!self.doomed.is_empty() || state.table.may_retire(self.keep(state.covered_seq, unix_ms)));
        let mut pause = RETENTION_PAUSE;
        if let Some((since, bytes)) = state.queued() {
            let delay = Duration::from_millis(settings.group_commit_ms_max);
            let bytes_max = usize::try_from(settings.group_commit_bytes_max).unwrap_or(usize::MAX);
            let age = now.since(since);
            let mut due = state.closing || bytes >= bytes_max || age >= delay;
            pause = delay.saturating_sub(age);
            if !due && state.someone_waits() {
                let left = if state.all_wait() { Duration::ZERO } else { self.pace.left(now) };
                due = left.is_zero();
                pause = pause.min(left);
            }
            if due && (self.just_retired || !retire) {
                return Turn::Commit(state.take_group(bytes_max.max(GROUP_BYTES_MAX)));
            }
            if !due && state.someone_waits() && pause < TIMER_PAUSE_MIN {
                return Turn::Linger;
            }
        } else if state.closing {
            return Turn::End;
        }
        if retire { Turn::Retire } else { Turn::Wait(pause) }
    }

    pub(crate) fn keep(&self, covered_seq: u64, now_unix_ms: u64) -> Keep {
        let settings = &self.shared.settings;
        Keep { bytes: settings.retain_bytes, ms: settings.retain_ms, covered_seq, now_unix_ms }
    }

    async fn wait(&self, pause: Duration) {
        let signal = std::pin::pin!(self.shared.commit.wait());
        match select(signal, self.shared.clock.sleep(pause)).await {
            Either::Left(_) | Either::Right(_) => {}
        }
    }

    async fn commit(&mut self, run: Run) {
        match self.write_group(&run).await {
            Ok((bytes, marks)) => {
                let (durable, grown) = self.shared.lock().commit(run, bytes, &marks);
                durable.tell();
                grown.tell();
                self.calm_down();
            }
            Err(Failure::Full(reason)) => {
                let told = {
                    let mut state = self.shared.lock();
                    state.forget_group(&run);
                    state.suspend(run.first_seq, &reason)
                };
                told.tell();
                self.back_off(&reason);
            }
            Err(Failure::Unknown(reason)) => self.poison(&reason),
        }
    }

    /// Writes a group and syncs it. Returns its bytes and where its frames begin in it.
    pub(crate) async fn write_group(&mut self, run: &Run) -> Result<(u64, Vec<FrameMark>), Failure> {
        let mut group = EncodedGroup::encode(run.first_seq, &run.records)
            .map_err(|fault| Failure::Unknown(format!("a queued record cannot be encoded: {fault}")))?;
        let bytes = group.bytes.len() as u64;
        self.check_room(bytes)?;
        let bytes_max = self.shared.settings.segment_bytes_max;
        let roll = self
            .active
            .as_ref()
            .is_none_or(|active| active.bytes > SEGMENT_HEADER_BYTES as u64 && active.bytes + bytes > bytes_max);
        if roll {
            self.begin_segment(run.first_seq, run.epoch).await?;
        }
        let active = self.active.as_mut().expect("there is one now");
        let name = file_name(active.header.first_seq);
        group.seal(active.seed);
        let write = active.file.write_at(active.bytes, group.bytes).await;
        write.map_err(|error| Failure::of_write("writing", &name, &error))?;
        active.file.sync().await.map_err(|error| Failure::of_sync(&name, &error))?;
        active.bytes += bytes;
        Ok((bytes, group.marks))
    }

    /// The hard cap: retention has done what it may.
    fn check_room(&self, bytes: u64) -> Result<(), Failure> {
        let state = self.shared.lock();
        let (held, cap) = (state.table.bytes(), self.shared.settings.wal_bytes_max);
        if held + bytes <= cap {
            return Ok(());
        }
        let covered = state.covered_seq;
        Err(Failure::Full(format!(
            "the log holds {held} bytes of at most wal_bytes_max = {cap}, and the index covers it only up to {covered}"
        )))
    }

    /// A mark that says that everything was synced, so that rot in the last group is not taken for a torn tail.
    async fn leave_mark(&mut self) {
        let (open, next_seq) = {
            let state = self.shared.lock();
            (state.condition == JournalState::Open, state.durable_seq + 1)
        };
        let begun = |active: &&Active| open && active.bytes > SEGMENT_HEADER_BYTES as u64;
        let Some(active) = self.active.as_ref().filter(begun) else { return };
        let name = file_name(active.header.first_seq);
        let written = match active.file.write_at(active.bytes, encode_mark(active.seed, next_seq)).await {
            Ok(()) => active.file.sync().await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!("the journal was closed without its mark: {name}: {error}");
        }
    }

    pub(crate) fn poison(&self, reason: &str) {
        tracing::error!("the journal is poisoned, only a restart helps: {reason}");
        self.shared.poison(reason);
    }

    /// Lengthens the pause before the next attempt.
    pub(crate) fn back_off(&mut self, reason: &str) {
        let longest = Duration::from_millis(self.shared.settings.retry_ms_max);
        self.retry_at = self.shared.clock.now().after(self.retry_pause);
        tracing::warn!("the journal is suspended, next attempt in {:?}: {reason}", self.retry_pause);
        self.retry_pause = (self.retry_pause * 2).min(longest);
    }

    /// Forgets past failures once writing has gone well for as long as the longest pause.
    fn calm_down(&mut self) {
        let longest = Duration::from_millis(self.shared.settings.retry_ms_max);
        let shortest = Duration::from_millis(self.shared.settings.retry_ms_min);
        if self.retry_pause > shortest && self.shared.clock.now().since(self.resumed_at) >= longest {
            self.retry_pause = shortest;
        }
    }
}
