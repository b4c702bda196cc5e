//! The half of the writer that serves reads from the segments.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use kvtier_device::{Folder, LogFile};
use kvtier_engine::port::{JournalState, Position, ReadRefused, Record};

use crate::codec::decode_payload;
use crate::frame::FrameHeader;
use crate::scan::{FrameCursor, Step};
use crate::segment::file_name;
use crate::shared::Shared;
use crate::state::{ReadAnswer, ReadRequest};
use crate::table::Place;

/// A read ends early when it has gone through this many bytes: its answer is then shorter than asked for, not empty.
const READ_BYTES_MAX: u64 = 4 << 20;

/// Serves one request after the other; the file last read from stays open.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    folder: Rc<dyn Folder>,
    open: Option<(u64, Box<dyn LogFile>)>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, folder: Rc<dyn Folder>) -> Self {
        Self { shared, folder, open: None }
    }

    /// Until the journal is closed and nobody waits.
    pub(crate) async fn serve(&mut self) {
        loop {
            let (request, ended) = {
                let mut state = self.shared.lock();
                let ended = state.closing && matches!(state.condition, JournalState::Poisoned(_));
                (state.reads.pop_front(), ended)
            };
            match request {
                Some(request) if request.reply.is_canceled() => {}
                Some(request) => {
                    let answer = self.read(&request).await;
                    let _ = request.reply.send(answer);
                }
                None if ended => return,
                None => {
                    self.open = None;
                    self.shared.serve.wait().await;
                }
            }
        }
    }

    async fn read(&mut self, request: &ReadRequest) -> ReadAnswer {
        let mut records = Vec::new();
        let mut after = request.after;
        let mut bytes_left = READ_BYTES_MAX;
        while records.len() < request.count_max && bytes_left > 0 {
            let place = {
                let state = self.shared.lock();
                if records.is_empty() {
                    state.check_readable(after)?;
                }
                state.table.locate(after)
            };
            let Some(place) = place else { break };
            let first_seq = place.header.first_seq;
            match self.read_segment(place, after, request.count_max, &mut records, &mut bytes_left).await {
                Ok(reached) => after = reached,
                // Retention was faster; the next round says so.
                Err(Unread::Gone) if records.is_empty() && !self.shared.lock().table.holds(first_seq) => {}
                // An empty answer would say that there is nothing yet.
                Err(unread) if records.is_empty() => {
                    return Err(ReadRefused::Unreadable(unread.reason(&file_name(first_seq))));
                }
                Err(_) => break,
            }
        }
        Ok(records)
    }

    /// Reads one segment's records after `after`; returns the last one passed.
    async fn read_segment(
        &mut self,
        place: Place,
        after: u64,
        count_max: usize,
        records: &mut Vec<(Position, Record)>,
        bytes_left: &mut u64,
    ) -> Result<u64, Unread> {
        let name = file_name(place.header.first_seq);
        let file = self.file(place.header.first_seq, &name).await?;
        let mut cursor = FrameCursor::new(file.as_ref(), place.header.frame_seed(), place.offset, place.seq, place.end);
        let mut reached = after;
        let mut marks = Vec::new();
        while records.len() < count_max {
            let at = cursor.offset;
            match cursor.step().await.map_err(|error| Unread::of(&name, &error))? {
                Step::Frame(frame, _) if frame.next_seq() <= after + 1 => marks.push((frame.seq, at)),
                Step::Frame(frame, _) => {
                    marks.push((frame.seq, at));
                    let payload = cursor.payload(&frame, at).await.map_err(|error| Unread::of(&name, &error))?;
                    let decoded = decode_payload(payload, frame.count)
                        .map_err(|fault| Unread::Damaged(format!("{name} at byte {at}: {fault}")))?;
                    let room = count_max - records.len();
                    reached = take(place.header.epoch, &frame, decoded, after, room, records);
                    *bytes_left = bytes_left.saturating_sub(frame.frame_bytes() as u64);
                    if *bytes_left == 0 {
                        break;
                    }
                }
                Step::End => break,
                Step::Fault(fault) => return Err(Unread::Damaged(format!("{name} at byte {at}: {fault}"))),
            }
        }
        let mut state = self.shared.lock();
        marks.into_iter().for_each(|(seq, offset)| state.table.mark(place.header.first_seq, seq, offset));
        Ok(reached)
    }

    async fn file(&mut self, first_seq: u64, name: &str) -> Result<&Box<dyn LogFile>, Unread> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != first_seq) {
            let file = self.folder.open(name).await.map_err(|error| Unread::of(name, &error))?;
            self.open = Some((first_seq, file));
        }
        self.open.as_ref().map(|(_, file)| file).ok_or(Unread::Gone)
    }
}

/// Moves a frame's records after `after` to the answer; returns the last one moved.
fn take(
    epoch: u64,
    frame: &FrameHeader,
    decoded: Vec<Record>,
    after: u64,
    room: usize,
    records: &mut Vec<(Position, Record)>,
) -> u64 {
    let numbered = (frame.seq..).zip(decoded).filter(|(seq, _)| *seq > after).take(room);
    records.extend(numbered.map(|(seq, record)| (Position { epoch, seq }, record)));
    records.last().map_or(after, |(position, _)| position.seq)
}

/// Why a segment gave nothing.
enum Unread {
    /// Its file is not there any more.
    Gone,
    /// It could not be read, or not be believed.
    Damaged(String),
}

impl Unread {
    fn reason(self, name: &str) -> String {
        match self {
            Self::Gone => format!("{name} is gone"),
            Self::Damaged(reason) => reason,
        }
    }

    fn of(name: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::Gone } else { Self::Damaged(format!("{name}: {error}")) }
    }
}
