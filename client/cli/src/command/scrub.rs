//! `kvtier scrub`: read and verify every persistent block now.

use serde_json::json;

use crate::amount::show_count;
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::{output, progress};

/// Arguments of `kvtier scrub`.
#[derive(Debug, clap::Args)]
pub(crate) struct Scrub {}

impl Scrub {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let client = global.connect().await?;
        let mut reports = client.scrub().await?;
        let bar = progress::over(0, "blocks", global.json);
        let mut last = kvtier_client::wire::ScrubResponse::default();
        while let Some(report) = reports.next().await? {
            bar.set_length(report.total_blocks);
            bar.set_position(report.verified_blocks + report.corrupt_blocks);
            bar.set_message(format!("{} corrupt", report.corrupt_blocks));
            last = report;
        }
        bar.finish_and_clear();
        let (verified, corrupt) = (last.verified_blocks, last.corrupt_blocks);
        if global.json {
            output::json(&json!({ "verified_blocks": verified, "corrupt_blocks": corrupt }))?;
        } else {
            output::line(format!("verified {} blocks, {} corrupt", show_count(verified), show_count(corrupt)))?;
        }
        if corrupt > 0 {
            let what =
                format!("{corrupt} persistent blocks were corrupt; they are quarantined and count as misses now");
            return Err(Failure::Unverified { what });
        }
        Ok(())
    }
}
