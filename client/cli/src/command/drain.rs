//! `kvtier drain`: stop stores, write back what is queued, sync.

use std::time::Duration;

use serde_json::json;

use crate::amount::{parse_time, show_count};
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::output;

/// Arguments of `kvtier drain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Drain {
    /// Longest time it may take [default: the daemon's setting]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    within: Option<Duration>,
}

impl Drain {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let client = global.connect().await?;
        let answer = client.drain(self.within).await?;
        let (written, abandoned) = (answer.written_back_blocks, answer.abandoned_blocks);
        if global.json {
            return output::json(&json!({ "written_back_blocks": written, "abandoned_blocks": abandoned }));
        }
        let (written, abandoned) = (show_count(written), show_count(abandoned));
        output::line(format!("drained: {written} blocks written back, {abandoned} abandoned"))
    }
}
