//! `kvtier get`: write blocks to a file, every block verified.
//!
//! The file appears under its name only when every block has come and agreed with its checksum; until then the bytes
//! stand beside it in `NAME.part`, which is removed when something is missing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use kvtier_client::{GetAnswer, GetStream, word};
use serde_json::{Value, json};

use crate::amount::{show_count, show_size, show_time};
use crate::clock::Stopwatch;
use crate::command::lookup::explain_miss;
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::key::{BlockSize, KeyArguments};
use crate::space::SpaceArguments;
use crate::{output, progress};

/// Arguments of `kvtier get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    #[command(flatten)]
    keys: KeyArguments,
    #[command(flatten)]
    size: BlockSize,
    #[command(flatten)]
    space: SpaceArguments,
    /// File to write; - is standard output
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

/// What came.
#[derive(Debug, Default)]
struct Got {
    blocks: u64,
    bytes: u64,
    tiers: std::collections::BTreeMap<String, u64>,
}

impl Get {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let to_stdout = self.output.as_os_str() == "-";
        if to_stdout && global.json {
            return Err(Failure::usage(
                "--json and the blocks cannot both go to standard output",
                "name an --output FILE",
            ));
        }
        if !to_stdout && !self.force && self.output.exists() {
            let what = format!("{} is there already", self.output.display());
            return Err(Failure::usage(what, "name another --output, or add --force"));
        }
        let keys = self.keys.read(&self.size)?;
        let client = global.connect().await?;
        let space = self.space.find(&client).await?;
        let watch = Stopwatch::start();
        let answers = client.get_keys(space.space, &keys).await?;
        let bar = progress::over(keys.len() as u64, "blocks", global.json || to_stdout);
        let got = if to_stdout {
            copy(answers, &mut std::io::stdout().lock(), Path::new("standard output"), &bar).await?
        } else {
            self.write_file(answers, &bar).await?
        };
        bar.finish_and_clear();
        match (to_stdout, global.json) {
            (true, _) => Ok(()),
            (_, true) => output::json(&self.as_json(&got)),
            _ => output::line(format!("{} in {}", self.describe(&got), show_time(watch.elapsed()))),
        }
    }

    async fn write_file(&self, answers: GetStream, bar: &indicatif::ProgressBar) -> Result<Got, Failure> {
        let mut part = self.output.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let mut out = BufWriter::new(File::create(&part).map_err(Failure::file("create", &part))?);
        let mut copied = copy(answers, &mut out, &part, bar).await;
        if copied.is_ok()
            && let Err(error) = out.flush().and_then(|()| std::fs::rename(&part, &self.output))
        {
            copied = Err(Failure::file("write", &self.output)(error));
        }
        if copied.is_err() {
            // Whether it can be removed changes nothing about the failure that is reported.
            let _ = std::fs::remove_file(&part);
        }
        copied
    }

    fn describe(&self, got: &Got) -> String {
        let tiers = got.tiers.iter().map(|(tier, blocks)| format!("{} from {tier}", show_count(*blocks)));
        let tiers = tiers.collect::<Vec<_>>().join(", ");
        let (blocks, size) = (show_count(got.blocks), show_size(got.bytes));
        format!("{}: {blocks} blocks ({tiers}), {size}, all verified,", self.output.display())
    }

    fn as_json(&self, got: &Got) -> Value {
        json!({ "file": self.output, "blocks": got.blocks, "bytes": got.bytes, "tiers": got.tiers })
    }
}

async fn copy(
    mut answers: GetStream,
    out: &mut impl Write,
    path: &Path,
    bar: &indicatif::ProgressBar,
) -> Result<Got, Failure> {
    let mut got = Got::default();
    while let Some(answer) = answers.next().await? {
        match answer {
            GetAnswer::Block(block) => {
                out.write_all(&block.bytes).map_err(Failure::file("write", path))?;
                got.blocks += 1;
                got.bytes += block.bytes.len() as u64;
                *got.tiers.entry(word::tier(block.tier as i32)).or_default() += 1;
                bar.inc(1);
            }
            GetAnswer::Miss(missed) => {
                let what = format!("block {} is a miss: {}", missed.index, explain_miss(&missed.miss));
                return Err(Failure::missing(what, "`kvtier lookup` shows how much of the chain is resident"));
            }
        }
    }
    Ok(got)
}
