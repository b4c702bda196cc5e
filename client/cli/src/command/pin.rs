//! `kvtier pin` and `kvtier unpin`: named pins with a time to live.

use std::time::Duration;

use serde_json::json;

use crate::amount::{parse_time, show_count, show_size, show_time};
use crate::chain::{Chain, ChainArguments};
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::output;
use crate::space::SpaceArguments;

/// Arguments of `kvtier pin`.
#[derive(Debug, clap::Args)]
pub(crate) struct Pin {
    /// Name of the pin; pinning again under a name replaces it
    #[arg(long, short)]
    name: String,
    /// How long it holds
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_time)]
    ttl: Duration,
    #[command(flatten)]
    chain: ChainArguments,
}

/// Arguments of `kvtier unpin`.
#[derive(Debug, clap::Args)]
pub(crate) struct Unpin {
    /// Name of the pin
    name: String,
    #[command(flatten)]
    space: SpaceArguments,
}

impl Pin {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let Chain { client, space, keys } = self.chain.open(global).await?;
        let pin = client.pin(space.space, &self.name, &keys, self.ttl).await?;
        if global.json {
            output::json(&json!({
                "name": self.name,
                "keys": keys.len(),
                "blocks": pin.blocks,
                "bytes": pin.bytes,
                "deadline_unix_ms": pin.deadline_unix_ms,
            }))?;
        } else {
            let (blocks, of) = (show_count(u64::from(pin.blocks)), show_count(keys.len() as u64));
            let (size, time) = (show_size(pin.bytes), show_time(self.ttl));
            output::line(format!("pinned {blocks} of {of} blocks ({size}) as {:?} for {time}", self.name))?;
        }
        if pin.blocks == 0 {
            let what = "nothing of the chain is resident, so nothing is pinned";
            return Err(Failure::missing(what, "put the blocks first; `kvtier lookup` says why they miss"));
        }
        Ok(())
    }
}

impl Unpin {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let client = global.connect().await?;
        let space = self.space.find(&client).await?;
        if !client.unpin(space.space, &self.name).await? {
            let what = format!("there is no pin {:?} in space {}", self.name, space.name);
            return Err(Failure::missing(what, "it may have reached its time to live"));
        }
        if global.json {
            return output::json(&json!({ "name": self.name, "unpinned": true }));
        }
        output::line(format!("unpinned {:?}", self.name))
    }
}
