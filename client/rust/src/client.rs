//! The handle to one daemon.

use std::sync::Arc;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::call::header_value;
use crate::channel::{self, Wire};
use crate::{ClientError, ConnectOptions, Endpoint};

/// One daemon as seen by one client. Cloning is cheap and gives the same client: same connection, same leases.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    channel: Channel,
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    options: ConnectOptions,
    id: String,
    header: MetadataValue<Ascii>,
}

impl Client {
    /// Connects to `http://host:port`, `https://host:port` or `unix:///path` with the default options.
    pub async fn connect(endpoint: &str) -> Result<Self, ClientError> {
        Self::connect_with(&endpoint.parse()?, ConnectOptions::default()).await
    }

    /// Connects now; fails when nobody answers within [`ConnectOptions::connect_timeout`].
    pub async fn connect_with(endpoint: &Endpoint, options: ConnectOptions) -> Result<Self, ClientError> {
        options.validate()?;
        let channel = channel::open(endpoint, &options).await?;
        Self::assemble(endpoint, options, channel)
    }

    /// Connects at the first call, for a client that may start before its daemon. Needs a tokio runtime around it.
    pub fn connect_lazily(endpoint: &Endpoint, options: ConnectOptions) -> Result<Self, ClientError> {
        options.validate()?;
        let channel = channel::open_lazily(endpoint, &options)?;
        Self::assemble(endpoint, options, channel)
    }

    fn assemble(endpoint: &Endpoint, options: ConnectOptions, channel: Channel) -> Result<Self, ClientError> {
        let id = options.client_id.clone().map_or_else(random_id, Ok)?;
        let header = header_value(&id);
        Ok(Self { shared: Arc::new(Shared { endpoint: endpoint.clone(), options, id, header }), channel })
    }

    /// Where the daemon is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// The name this client's leases belong to.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// The settings it was made with.
    pub fn options(&self) -> &ConnectOptions {
        &self.shared.options
    }

    pub(crate) fn wire(&self) -> Wire {
        channel::wire(self.channel.clone())
    }

    pub(crate) fn header(&self) -> MetadataValue<Ascii> {
        self.shared.header.clone()
    }
}

fn random_id() -> Result<String, ClientError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| ClientError::Internal {
        call: "connect",
        detail: format!("the system gave no random bytes for the client id: {error}"),
    })?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_is_32_digits_and_never_the_same() {
        let (one, two) = (random_id().expect("random"), random_id().expect("random"));
        assert_ne!(one, two);
        let options = ConnectOptions { client_id: Some(one), ..Default::default() };
        options.validate().expect("the form that is asked of others");
    }
}
