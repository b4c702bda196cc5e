//! `kvtier delete`: forget blocks.

use serde_json::json;

use crate::amount::show_count;
use crate::chain::{Chain, ChainArguments};
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::output;

/// Arguments of `kvtier delete`.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    chain: ChainArguments,
}

impl Delete {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let Chain { client, space, keys } = self.chain.open(global).await?;
        let deleted = client.delete(space.space, &keys).await?;
        if global.json {
            return output::json(&json!({ "keys": keys.len(), "deleted": deleted }));
        }
        let (deleted, keys) = (show_count(u64::from(deleted)), show_count(keys.len() as u64));
        output::line(format!("deleted {deleted} of {keys} blocks in space {}", space.name))
    }
}
