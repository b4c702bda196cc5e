//! The segments there are, in memory: where a record is, and which may be deleted.

use crate::segment::SegmentHeader;
use crate::survey::Found;

/// A segment's frames are remembered about every so many bytes.
const MARK_EVERY_BYTES: u64 = 128 << 10;
/// More segments than this are not kept, however small: each costs a read when the log is opened.
pub(crate) const SEGMENTS_RETAINED_MAX: usize = 1024;

/// One segment.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    /// Durable bytes, header included: readers look no further.
    pub(crate) bytes: u64,
    /// Last durable record; `previous_last_seq` while there is none.
    pub(crate) last_seq: u64,
    /// Where some frames begin: sequence number and offset, ascending.
    marks: Vec<(u64, u64)>,
}

impl Segment {
    /// A segment without records.
    pub(crate) fn new(header: SegmentHeader) -> Self {
        let bytes = crate::segment::SEGMENT_HEADER_BYTES as u64;
        Self { bytes, last_seq: header.previous_last_seq, header, marks: Vec::new() }
    }

    /// Remembers where a frame begins, if it is far enough behind the last one remembered.
    pub(crate) fn mark(&mut self, seq: u64, offset: u64) {
        if self.marks.last().is_none_or(|(_, last)| offset >= last + MARK_EVERY_BYTES) {
            self.marks.push((seq, offset));
        }
    }

    /// A frame at or before the record `seq`: its first number and offset.
    fn frame_before(&self, seq: u64) -> (u64, u64) {
        let behind = self.marks.partition_point(|(first, _)| *first <= seq);
        let start = (self.header.first_seq, crate::segment::SEGMENT_HEADER_BYTES as u64);
        behind.checked_sub(1).map_or(start, |index| self.marks[index])
    }
}

/// Where to begin to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) header: SegmentHeader,
    /// Offset of a frame.
    pub(crate) offset: u64,
    /// That frame's first record.
    pub(crate) seq: u64,
    /// Where durable frames end.
    pub(crate) end: u64,
}

/// What retention may keep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) bytes: u64,
    pub(crate) ms: u64,
    pub(crate) covered_seq: u64,
    pub(crate) now_unix_ms: u64,
}

/// All segments, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Table {
    segments: Vec<Segment>,
}

impl Table {
    /// Takes over what a survey found.
    pub(crate) fn from_found(found: &[Found]) -> Self {
        let segments = found.iter().map(|found| {
            let bytes = if found.scanned { found.sound_bytes } else { found.file_bytes };
            Segment { bytes, last_seq: found.last_seq, ..Segment::new(found.header.clone()) }
        });
        Self { segments: segments.collect() }
    }

    /// Adds the segment that is written from now on.
    pub(crate) fn push(&mut self, header: SegmentHeader) {
        assert!(self.newest().is_none_or(|newest| newest.last_seq < header.first_seq), "segments come in order");
        self.segments.push(Segment::new(header));
    }

    /// The segment that is written.
    pub(crate) fn newest(&self) -> Option<&Segment> {
        self.segments.last()
    }

    /// The segment that is written.
    pub(crate) fn newest_mut(&mut self) -> Option<&mut Segment> {
        self.segments.last_mut()
    }

    /// The oldest segment.
    pub(crate) fn oldest(&self) -> Option<&Segment> {
        self.segments.first()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.segments.len()
    }

    /// Bytes of all.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The oldest `after` that can be read from: nothing after it has been deleted.
    pub(crate) fn oldest_after(&self) -> u64 {
        self.oldest().map_or(0, |segment| segment.header.previous_last_seq)
    }

    /// Where the first record after `after` is.
    pub(crate) fn locate(&self, after: u64) -> Option<Place> {
        let index = self.segments.partition_point(|segment| segment.last_seq <= after);
        let segment = self.segments.get(index)?;
        let (seq, offset) = segment.frame_before(after + 1);
        Some(Place { header: segment.header.clone(), offset, seq, end: segment.bytes })
    }

    /// Remembers where a frame of some segment begins.
    pub(crate) fn mark(&mut self, first_seq: u64, seq: u64, offset: u64) {
        let index = self.segments.partition_point(|segment| segment.header.first_seq < first_seq);
        if let Some(segment) = self.segments.get_mut(index).filter(|found| found.header.first_seq == first_seq) {
            segment.mark(seq, offset);
        }
    }

    /// Whether the segment that begins with `first_seq` is there.
    pub(crate) fn holds(&self, first_seq: u64) -> bool {
        self.segments.binary_search_by_key(&first_seq, |segment| segment.header.first_seq).is_ok()
    }

    /// Forgets the segment that was to be written and could not be.
    pub(crate) fn drop_newest(&mut self) {
        self.segments.pop();
    }

    /// Whether the oldest segment may be deleted: covered, not the one that is written, and too many bytes, too many
    /// segments, or too old. A segment's newest record is as old as the next segment's header.
    pub(crate) fn may_retire(&self, keep: Keep) -> bool {
        let [oldest, next, ..] = self.segments.as_slice() else { return false };
        let age_ms = keep.now_unix_ms.saturating_sub(next.header.created_unix_ms);
        let unwanted = self.bytes() > keep.bytes || age_ms >= keep.ms || self.count() > SEGMENTS_RETAINED_MAX;
        unwanted && oldest.last_seq <= keep.covered_seq
    }

    /// Takes the oldest segment out.
    pub(crate) fn retire(&mut self) -> Segment {
        self.segments.remove(0)
    }
}

#[cfg(test)]
mod tests;
