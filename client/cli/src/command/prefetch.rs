//! `kvtier prefetch`: start moving a chain's resident prefix to host memory.

use serde_json::json;

use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::key::{BlockSize, KeyArguments};
use crate::output;
use crate::space::SpaceArguments;

/// Arguments of `kvtier prefetch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Prefetch {
    #[command(flatten)]
    keys: KeyArguments,
    #[command(flatten)]
    size: BlockSize,
    #[command(flatten)]
    space: SpaceArguments,
}

impl Prefetch {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let keys = self.keys.read(&self.size)?;
        let client = global.connect().await?;
        let space = self.space.find(&client).await?;
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
