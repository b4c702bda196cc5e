//! The put stream: answers of one client's blocks, by tag, in any order.
//!
//! ```text
//!   messages ─► Intake (one open block) ─┬─► answer at once ──────────────────────────┐
//!                                        └─► durable: waits beside up to 1,023 others ─┴─► responses
//! ```
//!
//! The intake stops reading when too many blocks wait to become durable, when the node has too many bytes of incomplete
//! blocks, or when the client does not read its answers: HTTP/2 flow control then stops the client. A client that goes
//! away drops the stream, and with it the open block and its slot; blocks that are complete become durable all the same.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use kvtier_proto::v1;
use tonic::{Status, Streaming};

use super::Node;
use super::answer;
use super::intake::{Intake, Step};
use super::readiness::Stage;

/// Most blocks of one stream that wait to become durable.
const WAITING_COUNT_MAX: usize = 1024;
/// When a client whose stream was ended may come back.
const RETRY: Duration = Duration::from_secs(1);

/// Answers a stream of puts.
pub(crate) fn answers(
    node: Arc<Node>,
    incoming: Streaming<v1::PutRequest>,
) -> impl Stream<Item = Result<v1::PutResponse, Status>> + Send + 'static {
    stream! {
        let mut closing = pin!(node.readiness.reached(Stage::Closing));
        let mut steps = Box::pin(steps(Arc::clone(&node), incoming));
        let mut waiting = FuturesUnordered::new();
        let (mut open, mut failure) = (true, None);
        loop {
            tokio::select! {
                biased;
                Some(answer) = waiting.next(), if !waiting.is_empty() => yield Ok(answer),
                step = steps.next(), if open && waiting.len() < WAITING_COUNT_MAX => match step {
                    Some(Step::Answer(answer)) => yield Ok(answer),
                    Some(Step::Wait(answer)) => waiting.push(answer),
                    Some(Step::Fail(status)) => (open, failure) = (false, Some(status)),
                    None => open = false,
                },
                () = &mut closing, if open => {
                    let told = "the daemon is stopping: put what was not answered again later".to_owned();
                    (open, failure) = (false, Some(answer::unavailable(told, RETRY)));
                }
                else => break,
            }
        }
        // What was complete is answered before the stream fails.
        if let Some(status) = failure {
            yield Err(status);
        }
    }
}

/// What the client's messages lead to, one after the other.
fn steps(node: Arc<Node>, mut incoming: Streaming<v1::PutRequest>) -> impl Stream<Item = Step> + Send {
    stream! {
        let mut intake = Intake::new(node);
        loop {
            let message = match intake.deadline() {
                None => incoming.message().await,
                Some(deadline) => match tokio::time::timeout_at(deadline, incoming.message()).await {
                    Ok(message) => message,
                    Err(_) => {
                        yield intake.expire();
                        continue;
                    }
                },
            };
            match message {
                Ok(Some(message)) => {
                    for step in intake.take(message).await {
                        yield step;
                    }
                }
                Ok(None) => {
                    if let Some(step) = intake.end() {
                        yield step;
                    }
                    return;
                }
                Err(status) => {
                    yield Step::Fail(answer::stream_status(status));
                    return;
                }
            }
        }
    }
}
