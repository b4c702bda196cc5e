//! `kvtier put`: cut files into blocks and store them.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use kvtier_client::{Client, PutAnswer, PutBlock, PutOutcome, PutStream, SpaceDigest, word};
use serde::Serialize;
use serde_json::json;

use crate::amount::{show_count, show_size};
use crate::chunk::{Chunk, Chunks};
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::key::{BlockSize, read_keys, show_key};
use crate::space::SpaceArguments;
use crate::table::{Column, draw};
use crate::{output, progress};

/// Arguments of `kvtier put`.
#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    /// Files to store, each as a chain of its own
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    size: BlockSize,
    #[command(flatten)]
    space: SpaceArguments,
    /// Wait until bytes and journal are synced on NVMe
    #[arg(long)]
    durable: bool,
    /// Write the chain's keys here, one per line, for `kvtier get --keys` (one file only)
    #[arg(long, value_name = "FILE")]
    keys_out: Option<PathBuf>,
    /// Use these keys, one per line, instead of the ones made from the content (one file only)
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
}

/// What became of one file.
#[derive(Debug, Default, Serialize)]
struct Report {
    file: PathBuf,
    blocks: u64,
    bytes: u64,
    stored: u64,
    duplicate: u64,
    declined: u64,
    rejected: u64,
    /// The first refusal, in the daemon's words.
    refusal: Option<String>,
    keys: Vec<String>,
}

impl Put {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        if self.files.len() > 1 && (self.keys.is_some() || self.keys_out.is_some()) {
            let what = format!("--keys and --keys-out are for one file, {} were named", self.files.len());
            return Err(Failure::usage(what, "put the files one by one, or use --json for the keys of all"));
        }
        let client = global.connect().await?;
        let space = self.space.find_or_open(&client, self.size.block_bytes).await?;
        let total = self.files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
        let bar = progress::over_bytes(total, global.json);
        let mut reports = Vec::new();
        for file in &self.files {
            bar.set_message(file.display().to_string());
            reports.push(self.put_file(&client, space, file, &bar).await?);
        }
        bar.finish_and_clear();
        self.write_keys(&reports)?;
        if global.json {
            output::json(&json!({ "space": space.to_string(), "files": reports }))?;
        } else {
            output::line(describe(&reports))?;
        }
        check(&reports)
    }

    async fn put_file(
        &self,
        client: &Client,
        space: SpaceDigest,
        path: &Path,
        bar: &ProgressBar,
    ) -> Result<Report, Failure> {
        let file = File::open(path).map_err(Failure::file("open", path))?;
        let mut report = Report { file: path.to_owned(), ..Report::default() };
        let mut given = self.keys.as_deref().map(read_keys).transpose()?.map(Vec::into_iter);
        let mut puts = client.put_stream(space);
        let mut parent = None;
        for chunk in Chunks::new(BufReader::new(file), self.size.block_bytes) {
            let mut chunk = chunk.map_err(Failure::file("read", path))?;
            if let Some(given) = &mut given {
                chunk.key = given.next().ok_or_else(|| {
                    let what = format!("{} has more blocks than --keys has keys", path.display());
                    Failure::usage(what, "give one key per block, or a larger --block-bytes")
                })?;
                chunk.parent = parent.replace(chunk.key.clone());
            }
            bar.inc(chunk.bytes.len() as u64);
            self.send(&mut puts, chunk, &mut report).await?;
            puts.answered().for_each(|answer| report.count(answer));
        }
        for answer in puts.finish().await? {
            report.count(answer);
        }
        Ok(report)
    }

    async fn send(&self, puts: &mut PutStream, chunk: Chunk, report: &mut Report) -> Result<(), Failure> {
        report.blocks += 1;
        report.bytes += chunk.bytes.len() as u64;
        report.keys.push(show_key(&chunk.key));
        let mut block = PutBlock::new(chunk.key, chunk.bytes);
        block.parent = chunk.parent;
        puts.send(if self.durable { block.durable() } else { block }).await?;
        Ok(())
    }

    fn write_keys(&self, reports: &[Report]) -> Result<(), Failure> {
        let Some(path) = &self.keys_out else { return Ok(()) };
        let failed = || Failure::file("write", path);
        let mut out = BufWriter::new(File::create(path).map_err(failed())?);
        for key in reports.iter().flat_map(|report| &report.keys) {
            writeln!(out, "{key}").map_err(failed())?;
        }
        out.flush().map_err(failed())
    }
}

impl Report {
    fn count(&mut self, answer: PutAnswer) {
        match answer.outcome {
            PutOutcome::Stored { .. } | PutOutcome::PartAccepted => self.stored += 1,
            PutOutcome::Duplicate => self.duplicate += 1,
            PutOutcome::Declined { reason, detail } => {
                self.declined += 1;
                let reason = word::decline_reason(reason as i32).replace('_', " ");
                self.refusal.get_or_insert_with(|| format!("{reason}: {detail}"));
            }
            PutOutcome::Rejected { field, value, remedy } => {
                self.rejected += 1;
                self.refusal.get_or_insert_with(|| format!("{field} is {value}: {remedy}"));
            }
        }
    }
}

fn describe(reports: &[Report]) -> String {
    let columns = [
        Column::Text("file"),
        Column::Number("size"),
        Column::Number("blocks"),
        Column::Number("stored"),
        Column::Number("there already"),
        Column::Number("refused"),
        Column::Text("last key"),
    ];
    let rows = reports.iter().map(|report| {
        let last = report.keys.last().map_or("-", String::as_str);
        let last = if last.len() > 16 { format!("{}…", &last[..16]) } else { last.to_owned() };
        vec![
            report.file.display().to_string(),
            show_size(report.bytes),
            show_count(report.blocks),
            show_count(report.stored),
            show_count(report.duplicate),
            show_count(report.declined + report.rejected),
            last,
        ]
    });
    draw(&columns, rows)
}

fn check(reports: &[Report]) -> Result<(), Failure> {
    let count = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let (declined, rejected) = (count(|report| report.declined), count(|report| report.rejected));
    let reason = reports.iter().find_map(|report| report.refusal.clone()).unwrap_or_default();
    if rejected > 0 {
        return Err(Failure::usage(format!("{rejected} blocks were rejected"), reason));
    }
    if declined > 0 {
        return Err(Failure::Declined { what: format!("{declined} blocks were declined"), remedy: reason });
    }
    Ok(())
}
