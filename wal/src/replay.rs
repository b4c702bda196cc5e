//! Reads the records of a log at rest, in order. For whoever looks at a log that nobody has open.

use kvtier_device::Folder;
use kvtier_engine::port::Record;

use crate::codec::decode_payload;
use crate::error::{During, WalError};
use crate::scan::{FrameCursor, Step};
use crate::segment::{SEGMENT_HEADER_BYTES, file_name};
use crate::survey::{Depth, Found, Survey};

/// Gives `visit` every sound record after `after`, oldest first, with its number. Changes nothing; holds one frame at a
/// time. A torn tail is left out, as the next opening leaves it out; a damaged log is an error, because what
/// follows the damage may take back what is before it.
pub async fn replay(folder: &dyn Folder, after: u64, visit: &mut dyn FnMut(u64, Record)) -> Result<(), WalError> {
    let survey = Survey::take(folder, Depth::After(after)).await?;
    if let Some((file, explanation)) = survey.unsupported {
        return Err(WalError::Unsupported { file, explanation });
    }
    if let Some(damage) = survey.damage.into_iter().next() {
        return Err(damage.into());
    }
    for found in survey.segments.iter().filter(|found| found.scanned) {
        let name = file_name(found.header.first_seq);
        walk(folder, &name, found, after, visit).await.during("reading", &name)?;
    }
    Ok(())
}

async fn walk(
    folder: &dyn Folder,
    name: &str,
    found: &Found,
    after: u64,
    visit: &mut dyn FnMut(u64, Record),
) -> std::io::Result<()> {
    let file = folder.open(name).await?;
    let header = &found.header;
    let start = SEGMENT_HEADER_BYTES as u64;
    let mut cursor = FrameCursor::new(file.as_ref(), header.frame_seed(), start, header.first_seq, found.sound_bytes);
    loop {
        match cursor.step().await? {
            Step::End => return Ok(()),
            Step::Frame(frame, _) if frame.next_seq() <= after + 1 => {}
            Step::Frame(frame, at) => {
                let records = decode_payload(cursor.payload(&frame, at).await?, frame.count)
                    .map_err(|fault| std::io::Error::new(std::io::ErrorKind::InvalidData, fault.to_string()))?;
                (frame.seq..).zip(records).filter(|(seq, _)| *seq > after).for_each(|(seq, record)| visit(seq, record));
            }
            // It was sound a moment ago.
            Step::Fault(fault) => return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, fault.to_string())),
        }
    }
}
