//! `kvtier events`: the node's event log, from a position, from a snapshot, or as it happens.

use std::time::Duration;

use kvtier_client::wire::event::Kind;
use kvtier_client::wire::{Event, Position};
use kvtier_client::{Client, EventBatch, EventStart, Subscription, word};
use serde_json::{Value, json};

use crate::amount::show_size;
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::key::show_key;
use crate::output;
use crate::space::SpaceArguments;

/// Arguments of `kvtier events`.
#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// Go on with what happens from now on, over lost connections and restarts, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Begin after this position
    #[arg(long, value_name = "EPOCH:SEQ", value_parser = parse_position, conflicts_with = "snapshot")]
    from: Option<Position>,
    /// Begin with what is resident now (the default without --follow)
    #[arg(long)]
    snapshot: bool,
    /// Only events of this space, by name or digest
    #[arg(long, short, value_name = "NAME")]
    space: Option<String>,
    /// Stop after this many events
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
}

/// How long nothing may come before a log that is not followed counts as read.
const QUIET: Duration = Duration::from_secs(1);

impl Events {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let client = global.connect().await?;
        let spaces = match &self.space {
            Some(name) => vec![SpaceArguments { space: name.clone() }.find(&client).await?.space],
            None => Vec::new(),
        };
        let start = match self.from {
            Some(position) => EventStart::After(position),
            None if self.snapshot || !self.follow => EventStart::Snapshot,
            None => EventStart::Tail,
        };
        let mut printer = Printer { json: global.json, left: self.limit.unwrap_or(u64::MAX) };
        if !self.follow {
            let end = client.status().await?.position.unwrap_or_default();
            let end = (start != EventStart::Snapshot).then_some(end);
            return print_past(client.subscribe(start, &spaces).await?, end, &mut printer).await;
        }
        let following = follow(&client, start, &spaces, &mut printer);
        tokio::select! {
            followed = following => followed,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    }
}

async fn follow(
    client: &Client,
    start: EventStart,
    spaces: &[kvtier_client::SpaceDigest],
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut follower = client.follow(start, spaces);
    loop {
        if printer.print(&follower.next().await?)? {
            return Ok(());
        }
    }
}

/// Prints up to `end`, or to the end of the snapshot, every batch of which has the same position. A filtered log may
/// never name the position, so silence ends it too.
async fn print_past(mut events: Subscription, end: Option<Position>, printer: &mut Printer) -> Result<(), Failure> {
    while let Ok(batch) = tokio::time::timeout(QUIET, events.next()).await {
        let Some(batch) = batch? else { break };
        let snapshot_ended = batch.events.iter().any(|event| matches!(event.kind, Some(Kind::SnapshotEnd(_))));
        let at = (batch.position.epoch, batch.position.seq);
        let reached = end.is_some_and(|end| at >= (end.epoch, end.seq));
        if printer.print(&batch)? || snapshot_ended || reached {
            break;
        }
    }
    Ok(())
}

struct Printer {
    json: bool,
    left: u64,
}

impl Printer {
    /// Prints a batch; whether the limit is reached.
    fn print(&mut self, batch: &EventBatch) -> Result<bool, Failure> {
        for event in &batch.events {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            match self.json {
                true => output::json_line(&as_json(batch.position, event))?,
                false => output::line(describe(batch.position, event))?,
            }
        }
        Ok(self.left == 0)
    }
}

/// One event as one line. The position is that of its batch: the one to give to `--from` after it.
fn describe(at: Position, event: &Event) -> String {
    let what = match &event.kind {
        Some(Kind::Reset(reset)) => format!("reset         epoch {}: {}", reset.epoch, reset.reason),
        Some(Kind::Stored(stored)) => {
            let (tier, block) = (place(stored.tier, &stored.engine), show_key(&stored.block));
            format!(
                "stored  {tier:<5} {block}  {:>9}  key {}",
                show_size(u64::from(stored.length)),
                show_key(&stored.key)
            )
        }
        Some(Kind::Removed(removed)) => {
            let (tier, block) = (place(removed.tier, &removed.engine), show_key(&removed.block));
            format!("removed {tier:<5} {block}  {}", removed.cause)
        }
        Some(Kind::SpaceOpened(opened)) => format!("space opened  {} {}", show_key(&opened.space), opened.name),
        Some(Kind::SpaceDropped(dropped)) => format!("space dropped {}", show_key(&dropped.space)),
        Some(Kind::EngineReset(reset)) => format!("engine reset  {}: {}", reset.engine, reset.reason),
        Some(Kind::SnapshotEnd(_)) => "snapshot end  what follows happened after it".into(),
        None => "unknown event (this kvtier is older than the daemon)".into(),
    };
    format!("{}:{:<10} {what}", at.epoch, at.seq)
}

/// A tier of the node's own, or the memory of one engine.
fn place(tier: i32, engine: &str) -> String {
    match engine {
        "" => word::tier(tier),
        engine => format!("{} of {engine}", word::tier(tier)),
    }
}

fn as_json(at: Position, event: &Event) -> Value {
    let mut value = match &event.kind {
        Some(Kind::Reset(reset)) => json!({ "event": "reset", "new_epoch": reset.epoch, "reason": reset.reason }),
        Some(Kind::Stored(stored)) => json!({
            "event": "stored",
            "space": show_key(&stored.space),
            "block": show_key(&stored.block),
            "key": show_key(&stored.key),
            "parent_block": stored.parent_block.as_deref().map(show_key),
            "bytes": stored.length,
            "tier": word::tier(stored.tier),
            "engine": (!stored.engine.is_empty()).then_some(&stored.engine),
        }),
        Some(Kind::Removed(removed)) => json!({
            "event": "removed",
            "space": show_key(&removed.space),
            "block": show_key(&removed.block),
            "tier": word::tier(removed.tier),
            "cause": removed.cause,
            "engine": (!removed.engine.is_empty()).then_some(&removed.engine),
        }),
        Some(Kind::SpaceOpened(opened)) => {
            json!({ "event": "space_opened", "space": show_key(&opened.space), "name": opened.name })
        }
        Some(Kind::SpaceDropped(dropped)) => json!({ "event": "space_dropped", "space": show_key(&dropped.space) }),
        Some(Kind::EngineReset(reset)) => {
            json!({ "event": "engine_reset", "engine": reset.engine, "reason": reset.reason })
        }
        Some(Kind::SnapshotEnd(_)) => json!({ "event": "snapshot_end" }),
        None => json!({ "event": "unknown" }),
    };
    value["epoch"] = at.epoch.into();
    value["seq"] = at.seq.into();
    value
}

fn parse_position(text: &str) -> Result<Position, String> {
    let parsed = text
        .split_once(':')
        .and_then(|(epoch, seq)| Some(Position { epoch: epoch.trim().parse().ok()?, seq: seq.trim().parse().ok()? }));
    parsed.ok_or_else(|| "write a position as EPOCH:SEQ, for example 3:1200".to_owned())
}

#[cfg(test)]
mod tests {
    use kvtier_client::wire::{BlockRemoved, BlockStored, Reset, Tier};

    use super::*;

    #[test]
    fn positions_are_read_and_refused() {
        assert_eq!(parse_position("3:1200"), Ok(Position { epoch: 3, seq: 1200 }));
        for text in ["", "3", "3:", ":1", "a:b", "3:-1", "3:1:2"] {
            assert!(parse_position(text).is_err(), "{text}");
        }
    }

    #[test]
    fn events_line_up_and_name_their_position() {
        let at = Position { epoch: 3, seq: 42 };
        let stored = BlockStored {
            block: vec![0xab; 16],
            key: vec![1, 2],
            length: 1 << 20,
            tier: Tier::Host as i32,
            ..Default::default()
        };
        let removed = BlockRemoved {
            block: vec![0xab; 16],
            tier: Tier::Nvme as i32,
            cause: "evicted".into(),
            ..Default::default()
        };
        let events =
            [Kind::Reset(Reset { epoch: 3, reason: "restart".into() }), Kind::Stored(stored), Kind::Removed(removed)];
        let lines = events.map(|kind| describe(at, &Event { kind: Some(kind) }));
        let block = "ab".repeat(16);
        assert_eq!(lines[0], "3:42         reset         epoch 3: restart");
        assert_eq!(lines[1], format!("3:42         stored  host  {block}      1 MiB  key 0102"));
        assert_eq!(lines[2], format!("3:42         removed nvme  {block}  evicted"));
    }
}
