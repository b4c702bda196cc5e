//! The subscription stream. A subscriber holds a position in the log, not a queue; see the engine's `flow::events`.

use std::pin::pin;
use std::sync::Arc;

use async_stream::stream;
use futures::stream::Stream;
use kvtier_engine::flow::ask::{Event, SubscribeFrom};
use kvtier_engine::flow::events::EventBatch;
use kvtier_engine::port::Position;
use kvtier_proto::v1;
use tonic::Status;
use v1::event::Kind;
use v1::subscribe_request::From;

use super::answer::BadField;
use super::readiness::Stage;
use super::{Node, answer, ask};

/// Most spaces one subscriber may name.
const SPACES_COUNT_MAX: usize = 4096;
/// When a subscriber who was turned away may come back.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Follows the log for one subscriber.
pub(crate) fn answers(
    node: &Arc<Node>,
    request: v1::SubscribeRequest,
) -> Result<impl Stream<Item = Result<v1::SubscribeResponse, Status>> + Send + 'static, Status> {
    let from = position_of(request.from)?;
    if request.spaces.len() > SPACES_COUNT_MAX {
        let remedy = format!("name at most {SPACES_COUNT_MAX} spaces, or none for all");
        return Err(BadField::new("spaces", format!("{} spaces", request.spaces.len()), remedy).into());
    }
    let named = |(index, space): (usize, &Vec<u8>)| ask::space(&format!("spaces[{index}]"), space);
    let spaces = request.spaces.iter().enumerate().map(named).collect::<Result<Vec<_>, _>>()?;
    let seat = Arc::clone(&node.subscribers).try_acquire_owned().map_err(|_| {
        let detail = format!("{} subscribers are connected (limits.subscribers_max)", node.limits.subscribers_max);
        answer::exhausted(format!("no more subscribers: {detail}"), "subscribers", detail, RETRY)
    })?;
    let mut subscription = node.engine.subscribe(from, &spaces).map_err(answer::status)?;
    let node = Arc::clone(node);
    Ok(stream! {
        let _seat = seat;
        let mut closing = pin!(node.readiness.reached(Stage::Closing));
        loop {
            let batch = tokio::select! {
                batch = subscription.next() => batch.map_err(answer::status),
                () = &mut closing => Err(answer::unavailable("the daemon is stopping: subscribe again".to_owned(), RETRY)),
            };
            let ended = batch.is_err();
            yield batch.map(wire_batch);
            if ended {
                return;
            }
        }
    })
}

fn position_of(from: Option<From>) -> Result<SubscribeFrom, BadField> {
    let unset = |field| BadField::new(field, "false", "set it to true, or choose another start");
    match from {
        Some(From::After(after)) => Ok(SubscribeFrom::After(Position { epoch: after.epoch, seq: after.seq })),
        Some(From::Snapshot(true)) => Ok(SubscribeFrom::Snapshot),
        Some(From::Tail(true)) => Ok(SubscribeFrom::Tail),
        Some(From::Snapshot(false)) => Err(unset("snapshot")),
        Some(From::Tail(false)) => Err(unset("tail")),
        None => Err(BadField::new("from", "absent", "choose after, snapshot or tail")),
    }
}

fn wire_batch(batch: EventBatch) -> v1::SubscribeResponse {
    let position = v1::Position { epoch: batch.position.epoch, seq: batch.position.seq };
    let events = batch.events.into_iter().map(|event| v1::Event { kind: Some(kind_of(event)) }).collect();
    v1::SubscribeResponse { position: Some(position), events }
}

fn kind_of(event: Event) -> Kind {
    match event {
        Event::Reset { epoch, reason } => Kind::Reset(v1::Reset { epoch, reason }),
        Event::SnapshotEnd => Kind::SnapshotEnd(v1::SnapshotEnd {}),
        Event::Stored { space, block, key, parent, length, tier } => Kind::Stored(v1::BlockStored {
            space: space.0.to_vec(),
            block: block.to_bytes().to_vec(),
            key: key.as_bytes().to_vec(),
            parent_block: parent.map(|parent| parent.to_bytes().to_vec()),
            length,
            tier: answer::tier(tier).into(),
            engine: String::new(),
        }),
        Event::EngineStored { engine, space, block, key, parent, tier } => Kind::Stored(v1::BlockStored {
            space: space.0.to_vec(),
            block: block.to_bytes().to_vec(),
            key: key.as_bytes().to_vec(),
            parent_block: parent.map(|parent| parent.to_bytes().to_vec()),
            length: 0,
            tier: answer::tier(tier).into(),
            engine,
        }),
        Event::EngineRemoved { engine, space, block, tier } => Kind::Removed(v1::BlockRemoved {
            space: space.0.to_vec(),
            block: block.to_bytes().to_vec(),
            tier: answer::tier(tier).into(),
            cause: "engine".to_owned(),
            engine,
        }),
        Event::EngineReset { engine, reason } => Kind::EngineReset(v1::EngineReset { engine, reason }),
        Event::Removed { space, block, tier, cause } => Kind::Removed(v1::BlockRemoved {
            space: space.0.to_vec(),
            block: block.to_bytes().to_vec(),
            tier: answer::tier(tier).into(),
            cause: cause.name().to_owned(),
            engine: String::new(),
        }),
        Event::SpaceOpened { space, name } => Kind::SpaceOpened(v1::SpaceOpened { space: space.0.to_vec(), name }),
        Event::SpaceDropped { space } => Kind::SpaceDropped(v1::SpaceDropped { space: space.0.to_vec() }),
    }
}
