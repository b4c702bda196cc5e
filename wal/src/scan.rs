//! Walks the frames of one segment, and finds the next sound one behind damage.

use std::io;

use kvtier_device::LogFile;

use crate::frame::{FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, FrameFault, FrameHeader};
use crate::window::Window;

/// A walk over frames, from one whose place and number are known.
pub(crate) struct FrameCursor<'f> {
    window: Window<'f>,
    seed: u32,
    /// Where the next frame begins.
    pub(crate) offset: u64,
    /// The sequence number it must begin with.
    pub(crate) next_seq: u64,
}

/// What the walk came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A sound frame at this offset; the cursor stands behind it.
    Frame(FrameHeader, u64),
    /// The end, exactly behind a frame.
    End,
    /// No sound frame at the cursor, which stays there.
    Fault(FrameFault),
}

impl<'f> FrameCursor<'f> {
    /// Starts at `offset`, where the record `next_seq` must be; `end` is where the frames end.
    pub(crate) fn new(file: &'f dyn LogFile, seed: u32, offset: u64, next_seq: u64, end: u64) -> Self {
        Self { window: Window::new(file, end), seed, offset, next_seq }
    }

    /// Takes one step. Each sound frame is longer than its header, so the walk ends.
    pub(crate) async fn step(&mut self) -> io::Result<Step> {
        if self.offset >= self.window.end() {
            return Ok(Step::End);
        }
        let header = match FrameHeader::decode(self.window.at(self.offset, FRAME_HEADER_BYTES).await?) {
            Ok(header) => header,
            Err(fault) => return Ok(Step::Fault(fault)),
        };
        let frame = self.window.at(self.offset, header.frame_bytes()).await?;
        if let Err(fault) = header.verify(frame, self.seed) {
            return Ok(Step::Fault(fault));
        }
        if header.seq != self.next_seq {
            return Ok(Step::Fault(FrameFault::Sequence { found: header.seq, expected: self.next_seq }));
        }
        let at = self.offset;
        self.offset += header.frame_bytes() as u64;
        self.next_seq = header.next_seq();
        Ok(Step::Frame(header, at))
    }

    /// The payload of the frame with `header` that stands at `offset`.
    pub(crate) async fn payload(&mut self, header: &FrameHeader, offset: u64) -> io::Result<&[u8]> {
        let frame = self.window.at(offset, header.frame_bytes()).await?;
        frame.get(FRAME_HEADER_BYTES..).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    /// Looks behind a fault, byte by byte, for the next frame whose checksum agrees and whose number is not below the
    /// one expected; moves there and says so. Without one the cursor moves to the end.
    pub(crate) async fn resynchronise(&mut self) -> io::Result<Option<FrameHeader>> {
        let expected = self.next_seq;
        let mut at = self.offset;
        while at + (FRAME_HEADER_BYTES as u64) < self.window.end() {
            let held = self.window.run(at, FRAME_HEADER_BYTES).await?;
            let Some(ahead) = first_plausible(held, expected) else {
                // The last bytes of the run may be the beginning of a header that continues in the next one.
                let behind = held.len().saturating_sub(FRAME_HEADER_BYTES - 1).max(1);
                at += behind as u64;
                continue;
            };
            at += ahead as u64;
            let header = FrameHeader::decode(self.window.at(at, FRAME_HEADER_BYTES).await?);
            if let Ok(header) = header {
                let frame = self.window.at(at, header.frame_bytes()).await?;
                if header.verify(frame, self.seed).is_ok() {
                    self.offset = at;
                    self.next_seq = header.seq;
                    return Ok(Some(header));
                }
            }
            at += 1;
        }
        self.offset = self.window.end();
        Ok(None)
    }
}

/// Offset of the first place in `held` where a frame could begin. Cheap tests first: this runs over every byte.
fn first_plausible(held: &[u8], expected: u64) -> Option<usize> {
    held.windows(FRAME_HEADER_BYTES).position(|bytes| {
        let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        length != 0
            && length <= FRAME_PAYLOAD_BYTES_MAX
            && FrameHeader::decode(bytes).is_ok_and(|header| header.seq >= expected)
    })
}

#[cfg(test)]
mod tests;
