//! Looks at a whole folder of segments: what is there, what is damaged, and where the log ends. Changes nothing.
//!
//! Opening a log and `fsck` both stand on it. A *torn tail* is what a crash leaves: unsound bytes behind the last sound
//! frame of the last segment. It is told from *damage* by the frames themselves: each carries the first number of
//! the group it was written with, and a group is only written once everything before it is synced. So a sound frame
//! behind the unsound bytes proves damage exactly if its group began after the records that are unsound; otherwise it
//! belongs to the same unsynced group, of which the disk kept some pages and not others.

use kvtier_device::{Folder, LogFile};

use crate::codec;
use crate::error::{Damage, During, WalError};
use crate::frame::FrameFault;
use crate::scan::{FrameCursor, Step};
use crate::segment::{HeaderFault, SEGMENT_HEADER_BYTES, SEQ_MAX, SegmentHeader, file_name, parse_file_name};

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Headers of all segments; frames of those with records after this position, and of the last one.
    After(u64),
    /// Everything, and every record decoded.
    Everything,
}

/// One segment as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) header: SegmentHeader,
    /// Size of the file.
    pub(crate) file_bytes: u64,
    /// Where its sound frames end.
    pub(crate) sound_bytes: u64,
    /// Where the group of its last sound frame begins.
    pub(crate) last_group_offset: u64,
    /// Last record; `previous_last_seq` if it has none.
    pub(crate) last_seq: u64,
    /// What the next segment's header says its last record is.
    pub(crate) promised: Option<u64>,
    /// Whether it begins an epoch, so that its first record must be a reset.
    pub(crate) begins_epoch: bool,
    /// Whether its frames were read.
    pub(crate) scanned: bool,
}

/// Unsound bytes at the very end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Torn {
    pub(crate) file: String,
    /// Where to cut.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// The whole folder.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Every segment's name, as its number, and size.
    pub(crate) names: Vec<(u64, u64)>,
    /// Segments with a sound header, oldest first.
    pub(crate) segments: Vec<Found>,
    /// In the order of the log; empty when it is sound.
    pub(crate) damage: Vec<Damage>,
    pub(crate) torn: Option<Torn>,
    /// Files that never got a header: a crash while a segment was begun. They hold nothing.
    pub(crate) stillborn: Vec<(String, u64)>,
    /// Files in the folder that are not segments.
    pub(crate) strangers: Vec<String>,
    /// The highest number any name, header or frame mentions.
    pub(crate) seen_seq: u64,
    /// The highest epoch.
    pub(crate) seen_epoch: u64,
    /// Records in the frames that were read and lie after [`Depth::After`].
    pub(crate) record_count: u64,
    /// The log's name.
    pub(crate) log_id: Option<u128>,
    /// A version this build does not read.
    pub(crate) unsupported: Option<(String, String)>,
}

impl Survey {
    /// Reads `folder`. An error only if it cannot be read; what is wrong with its content is in the result.
    pub(crate) async fn take(folder: &dyn Folder, depth: Depth) -> Result<Self, WalError> {
        let mut survey = Self::default();
        survey.names = survey.sort_names(folder.list().await.during("listing", "the journal's folder")?);
        for index in 0..survey.names.len() {
            survey.read_header(folder, index).await?;
        }
        survey.check_chain();
        for index in 0..survey.segments.len() {
            survey.read_frames(folder, index, depth).await?;
        }
        survey.damage.sort_by_key(|damage| (damage.file.clone(), damage.offset));
        Ok(survey)
    }

    /// Last record of the log, 0 if there is none.
    pub(crate) fn last_seq(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.last_seq)
    }

    /// Reports if the index covers more than the log holds: durable records are gone.
    pub(crate) fn check_covered(&mut self, covered_seq: u64) {
        let last_seq = self.last_seq();
        // A repaired log ends with an empty segment that begins beyond what the index covers: that was accepted then.
        let begun = self.segments.last().map_or(0, |last| last.header.first_seq - 1);
        if covered_seq <= last_seq.max(begun) || !self.damage.is_empty() {
            return;
        }
        let (file, offset) = self
            .segments
            .last()
            .map_or_else(|| (file_name(1), 0), |last| (file_name(last.header.first_seq), last.sound_bytes));
        let reason = format!("the index covers record {covered_seq}, but the log ends at {last_seq}");
        self.damage.push(Damage { file, offset, reason });
    }

    fn sort_names(&mut self, listed: Vec<(String, u64)>) -> Vec<(u64, u64)> {
        let mut names = Vec::with_capacity(listed.len());
        for (name, bytes) in listed {
            match parse_file_name(&name).filter(|seq| (1..=SEQ_MAX).contains(seq)) {
                Some(seq) => names.push((seq, bytes)),
                None => self.strangers.push(name),
            }
        }
        names.sort_unstable();
        self.strangers.sort_unstable();
        self.seen_seq = names.last().map_or(0, |(seq, _)| *seq);
        names
    }

    async fn read_header(&mut self, folder: &dyn Folder, index: usize) -> Result<(), WalError> {
        let (seq, bytes) = self.names[index];
        let name = file_name(seq);
        let file = folder.open(&name).await.during("opening", &name)?;
        let read = file.read_at(0, SEGMENT_HEADER_BYTES).await.during("reading", &name)?;
        let header = match SegmentHeader::decode(&read) {
            Ok(header) => header,
            Err(HeaderFault::Version(version)) => {
                let explanation = HeaderFault::Version(version).to_string();
                self.unsupported.get_or_insert((name, explanation));
                return Ok(());
            }
            // Were it more than a stub, the next segment would name it as the one before.
            Err(_) if bytes <= SEGMENT_HEADER_BYTES as u64 => {
                self.stillborn.push((name, bytes));
                return Ok(());
            }
            Err(fault) => {
                self.damage.push(Damage { file: name, offset: 0, reason: fault.to_string() });
                return Ok(());
            }
        };
        self.seen_epoch = self.seen_epoch.max(header.epoch);
        let log_id = *self.log_id.get_or_insert(header.log_id);
        if header.first_seq != seq || header.log_id != log_id {
            let reason = if header.first_seq == seq {
                format!("it belongs to log {:032x}, the others to {log_id:032x}", header.log_id)
            } else {
                format!("its header says that it begins with record {}", header.first_seq)
            };
            self.damage.push(Damage { file: name, offset: 0, reason });
            return Ok(());
        }
        let last_seq = header.previous_last_seq;
        self.segments.push(Found {
            begins_epoch: header.first_seq != last_seq + 1,
            header,
            file_bytes: bytes,
            sound_bytes: SEGMENT_HEADER_BYTES as u64,
            last_group_offset: SEGMENT_HEADER_BYTES as u64,
            last_seq,
            promised: None,
            scanned: false,
        });
        Ok(())
    }

    /// Compares each header with the one before.
    fn check_chain(&mut self) {
        for pair in self.segments.windows(2) {
            let (before, after) = (&pair[0].header, &pair[1].header);
            let reason = if after.previous_first_seq != before.first_seq {
                format!("the segment before it, {}, is missing", file_name(after.previous_first_seq))
            } else if after.epoch < before.epoch {
                format!("its epoch {} is older than {} before it", after.epoch, before.epoch)
            } else if after.epoch == before.epoch && after.first_seq != after.previous_last_seq + 1 {
                format!("records are missing between {} and it", after.previous_last_seq)
            } else {
                continue;
            };
            self.damage.push(Damage { file: file_name(after.first_seq), offset: 0, reason });
        }
        for index in 1..self.segments.len() {
            let after = self.segments[index].header.clone();
            let before = &mut self.segments[index - 1];
            let begins_epoch = before.header.epoch != after.epoch;
            if after.previous_first_seq == before.header.first_seq {
                before.promised = Some(after.previous_last_seq);
                before.last_seq = after.previous_last_seq;
                self.segments[index].begins_epoch = begins_epoch;
            }
        }
    }

    async fn read_frames(&mut self, folder: &dyn Folder, index: usize, depth: Depth) -> Result<(), WalError> {
        let last = index + 1 == self.segments.len();
        let found = &self.segments[index];
        if matches!(depth, Depth::After(seq) if found.promised.is_some_and(|last_seq| last_seq <= seq)) {
            return Ok(());
        }
        let name = file_name(found.header.first_seq);
        let file = folder.open(&name).await.during("opening", &name)?;
        let mut walk = Walk { name, last, promised: found.promised, depth, survey: self };
        let found = walk.frames(file.as_ref(), index).await.during("reading", &walk.name)?;
        self.segments[index] = found;
        Ok(())
    }
}

/// The walk through one segment.
struct Walk<'s> {
    name: String,
    last: bool,
    /// What the next segment's header says this one ends with.
    promised: Option<u64>,
    depth: Depth,
    survey: &'s mut Survey,
}

impl Walk<'_> {
    async fn frames(&mut self, file: &dyn LogFile, index: usize) -> std::io::Result<Found> {
        let mut found = self.survey.segments[index].clone();
        let header = &found.header;
        let start = SEGMENT_HEADER_BYTES as u64;
        let mut cursor = FrameCursor::new(file, header.frame_seed(), start, header.first_seq, found.file_bytes);
        let damage_before = self.survey.damage.len();
        let mut last_seq = header.previous_last_seq;
        found.scanned = true;
        loop {
            match cursor.step().await? {
                Step::End => break,
                Step::Frame(frame, at) => {
                    if frame.group_seq == frame.seq {
                        found.last_group_offset = at;
                    }
                    if frame.count > 0 {
                        last_seq = frame.next_seq() - 1;
                    }
                    self.count(&mut cursor, &frame, at, &found).await?;
                    found.sound_bytes = cursor.offset;
                }
                Step::Fault(fault) => {
                    if !self.step_over(&mut cursor, fault, found.file_bytes).await? {
                        break;
                    }
                }
            }
        }
        self.survey.seen_seq = self.survey.seen_seq.max(last_seq);
        let sound = self.survey.damage.len() == damage_before;
        if let Some(promised) = self.promised.filter(|promised| sound && last_seq != *promised) {
            self.report(cursor.offset, format!("it ends with record {last_seq}, the next segment says {promised}"));
        }
        found.last_seq = last_seq;
        Ok(found)
    }

    async fn count(
        &mut self,
        cursor: &mut FrameCursor<'_>,
        frame: &crate::frame::FrameHeader,
        at: u64,
        found: &Found,
    ) -> std::io::Result<()> {
        let payload = cursor.payload(frame, at).await?;
        if let Err(fault) = codec::check_version(payload) {
            self.survey.unsupported.get_or_insert((self.name.clone(), fault.to_string()));
            return Ok(());
        }
        let first = found.begins_epoch && frame.seq == found.header.first_seq;
        if first || self.depth == Depth::Everything {
            match codec::decode_payload(payload, frame.count) {
                Ok(records) if first => self.check_reset(records.first(), at, &found.header),
                Ok(_) => {}
                Err(fault) => self.report(at, fault.to_string()),
            }
        }
        let after = if let Depth::After(seq) = self.depth { seq } else { 0 };
        let skipped = (after + 1).saturating_sub(frame.seq).min(u64::from(frame.count));
        self.survey.record_count += u64::from(frame.count) - skipped;
        Ok(())
    }

    /// A segment that does not continue the one before it begins an epoch (INV-6).
    fn check_reset(&mut self, record: Option<&kvtier_engine::port::Record>, at: u64, header: &SegmentHeader) {
        let reset = matches!(record, Some(kvtier_engine::port::Record::Reset { epoch, .. }) if *epoch == header.epoch);
        if record.is_some() && !reset {
            self.report(at, format!("epoch {} does not begin with its reset record", header.epoch));
        }
    }

    /// Finds out what unsound bytes mean. Returns whether the walk goes on behind them.
    async fn step_over(
        &mut self,
        cursor: &mut FrameCursor<'_>,
        fault: FrameFault,
        file_bytes: u64,
    ) -> std::io::Result<bool> {
        let (at, expected) = (cursor.offset, cursor.next_seq);
        let proof = find_proof(cursor, expected, self.last).await?;
        if let Some(seq) = proof {
            self.survey.seen_seq = self.survey.seen_seq.max(seq);
            self.report(at, format!("{fault}; record {expected} was here, record {seq} behind it is sound"));
            return Ok(self.depth == Depth::Everything && cursor.offset < file_bytes);
        }
        if self.last {
            self.survey.torn = Some(Torn { file: self.name.clone(), offset: at, bytes: file_bytes - at });
        } else {
            self.report(at, format!("{fault}; the records from {expected} to the segment's end are lost"));
        }
        Ok(false)
    }

    fn report(&mut self, offset: u64, reason: String) {
        self.survey.damage.push(Damage { file: self.name.clone(), offset, reason });
    }
}

/// The first sound frame behind the cursor that proves that `expected` had been durable. In a segment that is not the
/// last everything had been.
async fn find_proof(cursor: &mut FrameCursor<'_>, expected: u64, last: bool) -> std::io::Result<Option<u64>> {
    while let Some(frame) = cursor.resynchronise().await? {
        if !last || frame.group_seq > expected {
            return Ok(Some(frame.seq));
        }
        // Of the same unsynced group: look behind it.
        cursor.offset += frame.frame_bytes() as u64;
    }
    Ok(None)
}
