//! `kvtier prefetch`: start moving a chain's resident prefix to host memory.

use serde_json::json;

use crate::chain::{Chain, ChainArguments};
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::output;

/// Arguments of `kvtier prefetch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Prefetch {
    #[command(flatten)]
    chain: ChainArguments,
}

impl Prefetch {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let Chain { client, space, keys } = self.chain.open(global).await?;
        let answer = client.prefetch(space.space, &keys).await?;
        if global.json {
            let (resident, started, refused) = (answer.resident, answer.started, answer.refused);
            return output::json(&json!({ "resident": resident, "started": started, "refused": refused }));
        }
        output::line(format!(
            "{} blocks in host memory already, {} on their way, {} refused",
            answer.resident, answer.started, answer.refused
        ))
    }
}
