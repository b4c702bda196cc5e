//! The get stream: blocks in order, each in frames of at most [`tuning::DATA_BYTES_MAX`] that share one view of the
//! host slot.
//!
//! Nothing is queued here: the reader is asked for the next block when HTTP/2 has room for it. A dropped stream drops
//! the reader and the view, and with them the hold on the slots.

use std::sync::Arc;

use async_stream::stream;
use bytes::Bytes;
use futures::stream::Stream;
use kvtier_engine::flow::ask::Got;
use kvtier_engine::flow::get::BlockReader;
use kvtier_proto::{tuning, v1};
use tonic::Status;
use v1::get_request::From;
use v1::get_response::Answer;

use super::answer::BadField;
use super::client::Client;
use super::{Node, answer, ask};

/// Finds what is asked for, then answers block by block.
pub(crate) async fn answers(
    node: Arc<Node>,
    client: Client,
    request: v1::GetRequest,
) -> Result<impl Stream<Item = Result<v1::GetResponse, Status>> + Send + 'static, Status> {
    let (first, count) = (request.first, request.count);
    let reader = match request.from {
        Some(From::Lease(lease)) => {
            let lease = ask::lease(&lease)?;
            let reader = node.engine.get_lease(lease, client.owner(), first, count);
            reader.map_err(|error| answer::status_about_lease(error, lease))?
        }
        Some(From::Keys(list)) => {
            let space = ask::space("keys.space", &list.space)?;
            let keys = ask::keys("keys.keys", &list.keys, node.limits.chain_keys_max)?;
            node.engine.get_keys(&space, &keys, first, count).await.map_err(answer::status)?
        }
        None => return Err(BadField::new("from", "absent", "name a lease or a list of keys").into()),
    };
    Ok(frames(node, reader, first, client))
}

fn frames(
    node: Arc<Node>,
    mut reader: BlockReader,
    first: u32,
    client: Client,
) -> impl Stream<Item = Result<v1::GetResponse, Status>> + Send + 'static {
    stream! {
        // The lease's owner must not end while its blocks are on their way.
        let _client = client;
        let mut index = first;
        while let Some(got) = reader.next().await {
            match got {
                Got::Miss(miss) => yield Ok(v1::GetResponse { index, answer: Some(Answer::Miss(answer::miss(&miss))) }),
                Got::Block { bytes, crc, tier } => {
                    node.engine.meter().get_copied_bytes.add(bytes.len() as u64);
                    for offset in (0..bytes.len()).step_by(tuning::DATA_BYTES_MAX) {
                        let frame = frame(&bytes, crc, answer::tier(tier), offset);
                        yield Ok(v1::GetResponse { index, answer: Some(Answer::Frame(frame)) });
                    }
                }
            }
            index += 1;
        }
    }
}

fn frame(block: &Bytes, crc32: u32, tier: v1::Tier, offset: usize) -> v1::BlockFrame {
    let end = block.len().min(offset + tuning::DATA_BYTES_MAX);
    let position = |at| u32::try_from(at).expect("a block has at most 64 MiB");
    v1::BlockFrame {
        length: position(block.len()),
        crc32,
        offset: position(offset),
        data: block.slice(offset..end),
        tier: tier.into(),
    }
}
