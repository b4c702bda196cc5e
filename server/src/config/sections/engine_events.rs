//! `[engine_events.NAME]` and `[publish_events]`: events of vLLM engines, and ours in their format.

use super::*;
use crate::config::value::choice;

choice! {
    /// How block hashes are written.
    HashForm {
        /// As vLLM does unless told otherwise: the low 64 bits, as a number.
        Int = "int",
        /// The whole key.
        Bytes = "bytes",
    }
}

section! {
    /// A vLLM engine whose KV events (`--kv-events-config`, ZMQ) are followed, so that blocks in its own memory appear in this
    /// node's events: tier `hbm` for the GPU, `engine` for its CPU cache. Write one table per engine; NAME is 1 to 32 of
    /// `a-z 0-9 - _` and names the engine in events. A missed event is repaired by replay, else the engine's blocks are
    /// forgotten (docs/integrations/vllm.md).
    EngineEvents at "engine_events.NAME" {
        /// Where the engine publishes: `ipc:///path`, or `tcp://host:port` (the port of rank 0; rank r has port + r).
        endpoint: Option<String> = Kind::TextOrOff, Preset::Text("off"), Bound::NONE,
            wrong "nothing is followed, and the log says that nobody answers";
        /// Where the engine replays what was missed (`replay_endpoint`).
        replay_endpoint: Option<String> = Kind::TextOrOff, Preset::Text("off"), Bound::NONE,
            wrong "off: every missed event, and every restart of the daemon, forgets what the engine holds until it stores it anew";
        /// Listen on `endpoint` instead of connecting to it: for engines whose endpoint names a host without `*`, which connect.
        bind: bool = Kind::Flag, Preset::Text("false"), Bound::NONE,
            wrong "both ends connect, or both listen: nothing is followed";
        /// Data-parallel ranks of the engine. With several, each is an engine of its own: NAME/0, NAME/1, ...
        ranks: u64 = Kind::Count, Preset::Text("1"), Bound::between(1, 64),
            wrong "too low: the other ranks' blocks are not told of";
        /// Topic that is subscribed to; off: every topic.
        topic: Option<String> = Kind::TextOrOff, Preset::Text("off"), Bound::NONE,
            wrong "nothing comes";
        /// Name of the space the engine's blocks belong to (`kvtier spaces list`). Followed once it is open.
        space: Option<String> = Kind::TextOrOff, Preset::Text("off"), Bound::NONE,
            wrong "the engine's blocks are told of under the ids of another space";
        /// Blocks of the engine that are told of at a time. About 0.2 KiB of memory each.
        blocks_max: u64 = Kind::Count, Preset::Text("262144"), Bound::between(1, 16_777_216),
            wrong "too low: blocks beyond it are not told of";
    }
}

section! {
    /// This node's events in vLLM's format (ZMQ PUB, and ROUTER for replays), for routers that follow vLLM engines. Host memory
    /// is medium `CPU`, NVMe is `STORAGE`.
    PublishEvents at "publish_events" {
        /// Where subscribers connect: `ipc:///path` or `tcp://host:port`. Anyone who can connect learns the keys of all tenants:
        /// other than loopback addresses need `listen.insecure = true`.
        endpoint: Option<String> = Kind::TextOrOff, Preset::Text("off"), Bound::NONE,
            wrong "an endpoint that is in use stops the start";
        /// Where they ask for what they missed.
        replay_endpoint: Option<String> = Kind::TextOrOff, Preset::Text("off"), Bound::NONE,
            wrong "off: a subscriber that misses a batch cannot catch up";
        /// Topic of every batch; off: empty. vLLM's convention is `kv@<node>@<model>`.
        topic: Option<String> = Kind::TextOrOff, Preset::Text("off"), Bound::NONE,
            wrong "subscribers to another topic hear nothing";
        /// How block hashes are written. Routers that compare with an engine's need the form that engine uses.
        hashes: HashForm = HashForm::KIND, Preset::Text("int"), Bound::NONE,
            wrong "hashes never equal those of the engines";
        /// Batches kept for replays, and at most 64 MiB of them.
        keep_batches: u64 = Kind::Count, Preset::Text("10000"), Bound::between(1, 1_000_000),
            wrong "too low: who was away for long cannot catch up";
        /// Resident blocks whose keys are remembered. About 0.2 KiB of memory each.
        blocks_max: u64 = Kind::Count, Preset::Text("1000000"), Bound::between(1, 100_000_000),
            wrong "too low: blocks beyond it are not told of";
    }
}
