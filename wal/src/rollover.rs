//! Beginning segments and epochs, and deleting what retention gives up.

use std::io;

use kvtier_engine::port::{JournalState, Record};

use crate::codec::record_bytes_in_memory;
use crate::failure::Failure;
use crate::recent::Run;
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, file_name};
use crate::writer::{Active, RETENTION_PAUSE, Writer};

impl Writer {
    /// Begins the segment of `first_seq`: header written and synced, name synced, then used.
    ///
    /// A crash before the header is synced leaves a file of at most a header's size, which the next opening knows to
    /// hold nothing; after it, an empty segment.
    pub(crate) async fn begin_segment(&mut self, first_seq: u64, epoch: u64) -> Result<(), Failure> {
        let (previous_first_seq, previous_last_seq) = {
            let state = self.shared.lock();
            (state.table.newest().map_or(0, |newest| newest.header.first_seq), state.durable_seq)
        };
        let created_unix_ms = self.shared.clock.unix_ms();
        let log_id = self.log_id;
        let header = SegmentHeader { first_seq, epoch, log_id, previous_first_seq, previous_last_seq, created_unix_ms };
        let file = self.create(&header).await?;
        let (seed, bytes) = (header.frame_seed(), SEGMENT_HEADER_BYTES as u64);
        self.shared.lock().table.push(header.clone());
        self.active = Some(Active { file, header, seed, bytes });
        self.doomed.append(&mut self.stillborn);
        Ok(())
    }

    async fn create(&self, header: &SegmentHeader) -> Result<Box<dyn kvtier_device::LogFile>, Failure> {
        let name = file_name(header.first_seq);
        let file = match self.folder.create(&name).await {
            // What a failed attempt left. It holds nothing: no record of this number or a later one is durable.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(&name).await?;
                self.folder.create(&name).await
            }
            other => other,
        };
        let file = file.map_err(|error| Failure::of_write("creating", &name, &error))?;
        if let Err(error) = file.write_at(0, header.encode().to_vec()).await {
            drop(file);
            if let Err(failure) = self.remove(&name).await {
                tracing::warn!("a segment that could not be begun stays for now: {failure:?}");
            }
            return Err(Failure::of_write("writing", &name, &error));
        }
        file.sync().await.map_err(|error| Failure::of_sync(&name, &error))?;
        self.folder.sync().await.map_err(|error| Failure::of_sync("the journal's folder", &error))?;
        Ok(file)
    }

    async fn remove(&self, name: &str) -> Result<(), Failure> {
        match self.folder.remove(name).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::of_write("removing", name, &error)),
            _ => Ok(()),
        }
    }

    /// Tries to take records again: the old segment ends behind its last durable record, a new one begins with a reset
    /// of the next epoch (INV-6).
    pub(crate) async fn resume(&mut self) {
        self.retire_all().await;
        match self.begin_epoch().await {
            Ok((run, bytes)) => {
                self.resumed_at = self.shared.clock.now();
                tracing::info!("the journal takes records again, in epoch {} from record {}", run.epoch, run.first_seq);
                let (durable, grown) = self.shared.lock().resume(run, bytes);
                durable.tell();
                grown.tell();
            }
            Err(Failure::Full(reason)) => {
                let told = {
                    let mut state = self.shared.lock();
                    let next_seq = state.next_seq;
                    state.suspend(next_seq, &reason)
                };
                told.tell();
                self.back_off(&reason);
            }
            Err(Failure::Unknown(reason)) => self.poison(&reason),
        }
    }

    async fn begin_epoch(&mut self) -> Result<(Run, u64), Failure> {
        let (epoch, first_seq, reason) = {
            let state = self.shared.lock();
            let JournalState::Suspended(reason) = &state.condition else {
                return Err(Failure::Unknown("only a suspended journal is resumed".into()));
            };
            (state.epoch + 1, state.next_seq, format!("resumed after a gap: {reason}"))
        };
        self.check_reserve()?;
        if let Some(active) = &self.active {
            let name = file_name(active.header.first_seq);
            let cut = active.file.truncate(active.bytes).await;
            cut.map_err(|error| Failure::of_write("cutting", &name, &error))?;
            active.file.sync().await.map_err(|error| Failure::of_sync(&name, &error))?;
        }
        self.drop_empty_attempt(first_seq).await?;
        let record = Record::Reset { epoch, reason };
        let bytes = record_bytes_in_memory(&record);
        let run = Run { epoch, first_seq, records: vec![record], bytes };
        self.begin_segment(first_seq, epoch).await?;
        let (written, _) = self.write_group(&run).await?;
        Ok((run, written))
    }

    /// An attempt that got as far as the segment and not its reset record is begun again under the same name.
    async fn drop_empty_attempt(&mut self, first_seq: u64) -> Result<(), Failure> {
        if self.active.as_ref().is_none_or(|active| active.header.first_seq != first_seq) {
            return Ok(());
        }
        self.active = None;
        self.shared.lock().table.drop_newest();
        self.remove(&file_name(first_seq)).await
    }

    /// While the log's own cap is the reason, one segment's worth of room must be free before it goes on.
    fn check_reserve(&self) -> Result<(), Failure> {
        let settings = &self.shared.settings;
        let held = self.shared.lock().table.bytes();
        if held + settings.segment_bytes_max <= settings.wal_bytes_max {
            return Ok(());
        }
        Err(Failure::Full(format!(
            "the log holds {held} bytes of at most wal_bytes_max = {}, waiting for the index to cover them",
            settings.wal_bytes_max
        )))
    }

    /// Deletes all that may go.
    async fn retire_all(&mut self) {
        while self.retire_one().await {}
    }

    /// Deletes the oldest segment that may go, durably before the next, so that a crash never leaves a hole. Returns
    /// whether one went.
    pub(crate) async fn retire_one(&mut self) -> bool {
        if self.doomed.is_empty() {
            let unix_ms = self.shared.clock.unix_ms();
            let mut state = self.shared.lock();
            if !state.table.may_retire(self.keep(state.covered_seq, unix_ms)) {
                return false;
            }
            // Readers are told from now on that it is forgotten, whether or not the file goes at once.
            self.doomed.push(file_name(state.table.retire().header.first_seq));
        }
        while let Some(name) = self.doomed.last() {
            if let Err(failure) = self.remove(name).await {
                tracing::warn!("an old segment stays for now: {failure:?}");
                self.retire_at = self.shared.clock.now().after(RETENTION_PAUSE);
                return false;
            }
            if let Err(error) = self.folder.sync().await {
                let (Failure::Unknown(reason) | Failure::Full(reason)) =
                    Failure::of_sync("the journal's folder", &error);
                self.poison(&reason);
                return false;
            }
            self.doomed.pop();
        }
        true
    }
}
