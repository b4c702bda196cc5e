//! The same for async callers: every call runs on tokio's blocking threads, so that a runtime's workers never wait for a
//! disk.

use std::path::Path;

use bytes::Bytes;

use super::LocalOptions;
use super::acquired::Acquired;
use super::chain::{AcquireChain, Lengths, ReserveChain};
use super::client::LocalClient;
use super::slots::{Commitment, Committed, Slot};
use crate::ClientError;

/// A [`LocalClient`] for async code. A call that is dropped goes on, and what it would have returned is given back.
#[derive(Debug, Clone)]
pub struct AsyncLocalClient {
    client: LocalClient,
}

impl AsyncLocalClient {
    /// See [`LocalClient::connect`].
    pub async fn connect(path: impl AsRef<Path>, options: LocalOptions) -> Result<Self, ClientError> {
        let path = path.as_ref().to_owned();
        let client = blocking(move || LocalClient::connect(path, options)).await?;
        Ok(Self { client })
    }

    /// The client that blocks.
    pub fn blocking(&self) -> &LocalClient {
        &self.client
    }

    /// See [`LocalClient::reserve`].
    pub async fn reserve(&self, wanted: &ReserveChain<'_, Bytes>) -> Result<Vec<Slot>, ClientError> {
        let (client, keys) = (self.client.clone(), wanted.keys.to_vec());
        let parent = wanted.parent.map(<[u8]>::to_vec);
        let lengths: Vec<u32> = match wanted.lengths {
            Lengths::All(length) => vec![length; keys.len()],
            Lengths::Each(lengths) => lengths.to_vec(),
        };
        let (space, part, durability) = (wanted.space, wanted.part, wanted.durability);
        blocking(move || {
            let (parent, lengths) = (parent.as_deref(), Lengths::Each(&lengths));
            client.reserve(&ReserveChain { space, keys: &keys, parent, part, lengths, durability })
        })
        .await
    }

    /// See [`LocalClient::commit`].
    pub async fn commit(
        &self,
        written: impl IntoIterator<Item = impl Into<Commitment>>,
    ) -> Result<Vec<Committed>, ClientError> {
        let client = self.client.clone();
        let written: Vec<Commitment> = written.into_iter().map(Into::into).collect();
        blocking(move || client.commit(written)).await
    }

    /// See [`LocalClient::acquire`].
    pub async fn acquire(&self, wanted: &AcquireChain<'_, Bytes>) -> Result<Acquired, ClientError> {
        let (client, keys) = (self.client.clone(), wanted.keys.to_vec());
        let AcquireChain { space, lease, stage, poll, request, .. } = *wanted;
        let request = request.map(str::to_owned);
        blocking(move || {
            client.acquire(&AcquireChain { space, keys: &keys, lease, stage, poll, request: request.as_deref() })
        })
        .await
    }

    /// See [`LocalClient::poll`].
    pub async fn poll(&self, acquired: Acquired, wait: bool) -> Result<Acquired, ClientError> {
        let client = self.client.clone();
        blocking(move || client.poll(acquired, wait)).await
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    let ended = tokio::task::spawn_blocking(call).await;
    ended.unwrap_or_else(|error| {
        // A panic goes on where it is noticed; a runtime that shuts down cancels.
        match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(ClientError::Internal { call: "local", detail: error.to_string() }),
        }
    })
}
