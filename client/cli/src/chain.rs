//! The chain a command is about: its keys, the space they are in, and the daemon that has it.

use bytes::Bytes;
use kvtier_client::{Client, OpenSpace};

use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::key::{BlockSize, KeyArguments};
use crate::space::SpaceArguments;

/// Names a chain on the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct ChainArguments {
    #[command(flatten)]
    keys: KeyArguments,
    #[command(flatten)]
    size: BlockSize,
    #[command(flatten)]
    space: SpaceArguments,
}

/// A chain at a daemon.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) client: Client,
    pub(crate) space: OpenSpace,
    pub(crate) keys: Vec<Bytes>,
}

impl ChainArguments {
    /// Reads the keys, connects and finds the space, in this order: a wrong key needs no daemon to be told.
    pub(crate) async fn open(&self, global: &GlobalArguments) -> Result<Chain, Failure> {
        let keys = self.keys.read(&self.size)?;
        let client = global.connect().await?;
        let space = self.space.find(&client).await?;
        Ok(Chain { client, space, keys })
    }
}
