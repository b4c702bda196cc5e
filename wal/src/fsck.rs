//! Explains a log, and cuts it where it is damaged. For `kvtier fsck`, with no daemon running.

use kvtier_device::Folder;

use crate::error::{Damage, During, WalError};
use crate::segment::{SEGMENT_HEADER_BYTES, SEQ_MAX, SegmentHeader, file_name};
use crate::settings::EPOCH_SKIP;
use crate::survey::{Depth, Survey};

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// File name.
    pub file: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Epoch of its records.
    pub epoch: u64,
    /// First sequence number it was begun for.
    pub first_seq: u64,
    /// Last sound record; below `first_seq` when it has none.
    pub last_seq: u64,
}

/// What there is and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Segments with a sound header, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Sound records.
    pub record_count: u64,
    /// The oldest segment's first sequence number; 0 in an empty log.
    pub first_seq: u64,
    /// The last sound record.
    pub last_seq: u64,
    /// What is damaged, in the order of the log. Empty: the log opens.
    pub damage: Vec<Damage>,
    /// Bytes that the next opening cuts off the end: what a crash leaves, no damage.
    pub torn_tail_bytes: u64,
    /// Files in the folder that are not segments.
    pub strangers: Vec<String>,
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// What was found.
    pub found: Report,
    /// Last record kept; 0: none.
    pub kept_seq: u64,
    /// Files deleted.
    pub deleted: Vec<String>,
    /// File that was cut, and to how many bytes.
    pub cut: Option<(String, u64)>,
    /// Segment that makes the next opening begin a new epoch beyond everything seen.
    pub begun: Option<String>,
}

/// Reads the whole log and decodes every record. Changes nothing.
///
/// `covered_seq` is what the index covers, 0 if unknown: a log that ends before it has lost records.
pub async fn inspect(folder: &dyn Folder, covered_seq: u64) -> Result<Report, WalError> {
    Ok(report(&survey(folder, covered_seq).await?))
}

/// Cuts the log at the first damage, keeps what is before, and leaves an empty segment whose numbers lie beyond
/// everything seen and beyond `covered_seq`, so that the next opening declares a new epoch there. Does nothing to a
/// sound log. A crash at any point leaves a log that is still damaged, and can be repaired again.
pub async fn repair(folder: &dyn Folder, covered_seq: u64, now_unix_ms: u64) -> Result<Repair, WalError> {
    let survey = survey(folder, covered_seq).await?;
    let mut repair =
        Repair { found: report(&survey), kept_seq: survey.last_seq(), deleted: vec![], cut: None, begun: None };
    let Some(first) = survey.damage.first() else { return Ok(repair) };
    // Segments before the first damaged file are kept whole, the file itself up to the damage.
    let kept: Vec<_> = survey.segments.iter().filter(|found| file_name(found.header.first_seq) <= first.file).collect();
    let cut_here = kept.last().filter(|found| file_name(found.header.first_seq) == first.file && first.offset > 0);
    let whole = kept.iter().rfind(|found| file_name(found.header.first_seq) < first.file);
    let previous = cut_here.or(whole);
    let previous_first_seq = previous.map_or(0, |found| found.header.first_seq);
    repair.kept_seq = match cut_here {
        Some(found) => last_seq_before(folder, &found.header, first.offset).await?,
        None => whole.map_or(0, |found| found.last_seq),
    };
    let begun = SegmentHeader {
        first_seq: survey.seen_seq.max(covered_seq).saturating_add(EPOCH_SKIP + 1).min(SEQ_MAX),
        epoch: survey.seen_epoch + 1,
        log_id: survey.log_id.unwrap_or(1),
        previous_first_seq,
        previous_last_seq: repair.kept_seq,
        created_unix_ms: now_unix_ms,
    };
    begin(folder, &begun).await?;
    repair.begun = Some(file_name(begun.first_seq));
    repair.deleted = delete_after(folder, &survey, first, cut_here.is_some()).await?;
    // A torn tail is none any more once a segment follows.
    let torn = whole.filter(|found| found.sound_bytes < found.file_bytes);
    repair.cut = match cut_here {
        Some(_) => Some((first.file.clone(), first.offset)),
        None => torn.map(|found| (file_name(found.header.first_seq), found.sound_bytes)),
    };
    if let Some((name, bytes)) = &repair.cut {
        let file = folder.open(name).await.during("opening", name)?;
        file.truncate(*bytes).await.during("cutting", name)?;
        file.sync().await.during("syncing", name)?;
    }
    Ok(repair)
}

async fn survey(folder: &dyn Folder, covered_seq: u64) -> Result<Survey, WalError> {
    let mut survey = Survey::take(folder, Depth::Everything).await?;
    survey.check_covered(covered_seq);
    match survey.unsupported.take() {
        Some((file, explanation)) => Err(WalError::Unsupported { file, explanation }),
        None => Ok(survey),
    }
}

fn report(survey: &Survey) -> Report {
    let segments = survey.segments.iter().map(|found| SegmentReport {
        file: file_name(found.header.first_seq),
        bytes: found.file_bytes,
        epoch: found.header.epoch,
        first_seq: found.header.first_seq,
        last_seq: found.last_seq,
    });
    Report {
        segments: segments.collect(),
        record_count: survey.record_count,
        first_seq: survey.segments.first().map_or(0, |found| found.header.first_seq),
        last_seq: survey.last_seq(),
        damage: survey.damage.clone(),
        torn_tail_bytes: survey.torn.as_ref().map_or(0, |torn| torn.bytes),
        strangers: survey.strangers.clone(),
    }
}

/// The last record in front of `offset`.
async fn last_seq_before(folder: &dyn Folder, header: &SegmentHeader, offset: u64) -> Result<u64, WalError> {
    let name = file_name(header.first_seq);
    let file = folder.open(&name).await.during("opening", &name)?;
    let start = SEGMENT_HEADER_BYTES as u64;
    let seed = header.frame_seed();
    let mut cursor = crate::scan::FrameCursor::new(file.as_ref(), seed, start, header.first_seq, offset);
    while let crate::scan::Step::Frame(..) = cursor.step().await.during("reading", &name)? {}
    let none = cursor.next_seq == header.first_seq;
    Ok(if none { header.previous_last_seq } else { cursor.next_seq - 1 })
}

/// The segment that remembers the numbers, durable before anything is deleted.
async fn begin(folder: &dyn Folder, header: &SegmentHeader) -> Result<(), WalError> {
    let name = file_name(header.first_seq);
    let file = folder.create(&name).await.during("creating", &name)?;
    file.write_at(0, header.encode().to_vec()).await.during("writing", &name)?;
    file.sync().await.during("syncing", &name)?;
    folder.sync().await.during("syncing the journal's folder for", &name)
}

/// Deletes every segment behind the damage, newest first, and the damaged one itself if nothing of it is kept.
async fn delete_after(
    folder: &dyn Folder,
    survey: &Survey,
    first: &Damage,
    keep_damaged: bool,
) -> Result<Vec<String>, WalError> {
    let mut names: Vec<String> = survey.names.iter().map(|(seq, _)| file_name(*seq)).collect();
    names.retain(|name| *name > first.file || (*name == first.file && !keep_damaged));
    for name in names.iter().rev() {
        folder.remove(name).await.during("deleting", name)?;
        folder.sync().await.during("syncing the journal's folder after deleting", name)?;
    }
    Ok(names)
}
