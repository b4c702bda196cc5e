//! `[limits]` and `[shutdown]`: what clients may hold, and how long the end may take.

use std::time::Duration;

use super::*;

section! {
    /// What clients may hold at a time. Over a limit the answer is a refusal with its reason, never a wait.
    Limits at "limits" {
        /// Leases on the node.
        leases_max: u64 = Kind::Count, Preset::Text("65536"), Bound::between(1, 100_000_000),
            wrong "too low: lookups get their prefix without a lease and must be ready for misses";
        /// The longest lease a lookup may ask for.
        lease_max: Duration = Kind::Time, Preset::Text("5min"), Bound::between(ms(100), seconds(86_400)),
            wrong "too long: a stuck client keeps blocks from leaving; too short: slow loads lose their blocks";
        /// Bytes that pins may hold, per space.
        pin_quota_bytes: u64 = Kind::Size,
            Preset::Computed { compute: |known| Value::Size(size(known, "host.bytes") / 4), words: "a quarter of host.bytes" },
            Bound::between(0, 64 * TIB),
            wrong "close to the size of a tier: pins leave no room for anything else";
        /// The longest life of a pin.
        pin_ttl_max: Duration = Kind::Time, Preset::Text("24h"), Bound::between(seconds(1), seconds(366 * 86_400)),
            wrong "too long: forgotten pins hold their bytes";
        /// Blocks that have begun to arrive and are not complete.
        pending_puts_max: u64 = Kind::Count, Preset::Text("4096"), Bound::between(1, 10_000_000),
            wrong "too low declines parallel puts";
        /// Bytes of the host arena such blocks may hold.
        put_bytes_in_flight_max: u64 = Kind::Size,
            Preset::Computed { compute: |known| Value::Size(size(known, "host.bytes") / 2), words: "half of host.bytes" },
            Bound::between(MIB, 64 * TIB),
            wrong "too low declines large puts; close to host.bytes lets unfinished puts push everything else out";
        /// How long a block may wait for its missing parts before it is given up.
        part_deadline: Duration = Kind::Time, Preset::Text("60s"), Bound::between(ms(10), seconds(86_400)),
            wrong "too short gives up blocks of slow ranks; too long holds the bytes of ranks that died";
        /// Subscribers to the event log.
        subscribers_max: u64 = Kind::Count, Preset::Text("256"), Bound::between(0, 100_000),
            wrong "too low turns routers away";
        /// Events that may wait for one subscriber. A slower one gets a reset instead of more memory.
        subscriber_events_max: u64 = Kind::Count, Preset::Text("65536"), Bound::between(64, 10_000_000),
            wrong "too low resets subscribers in every burst";
        /// Blocks that have gone and whose reason is remembered, so that a miss can say why. About 64 bytes each.
        history_count: u64 = Kind::Count, Preset::Text("262144"), Bound::between(0, 100_000_000),
            wrong "too low: misses say \"never stored\" of blocks that were evicted a while ago";
        /// Memory for what became of requests whose name a client gives, so that `kvtier why` can tell. About 0.5 KiB a
        /// lookup; 0 remembers nothing.
        request_log_bytes: u64 = Kind::Size, Preset::Text("4MiB"), Bound::between(0, GIB),
            wrong "too low: a request is forgotten before anybody asks why it missed";
    }
}

section! {
    /// The end of the daemon's life.
    Shutdown at "shutdown" {
        /// How long a drain (SIGTERM) may take to write back what is queued and to let calls finish.
        drain_timeout: Duration = Kind::Time, Preset::Text("30s"), Bound::between(0, seconds(3600)),
            wrong "longer than the service manager's patience: the daemon is killed; nothing durable is lost by that";
    }
}
