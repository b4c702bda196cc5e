use kvtier_client::wire::{IndexStatus, JournalStatus, LocalStatus, Position, Tier};

use super::*;

/// A busy node, for every view of it.
pub(crate) fn busy() -> StatusResponse {
    let host = TierStatus {
        tier: Tier::Host as i32,
        state: "up".into(),
        detail: "memfd, huge pages".into(),
        capacity_bytes: 8 << 30,
        used_bytes: 6 << 30,
        blocks: 6144,
        hits: 1_234_567,
        stores: 50_000,
        evictions: 43_856,
        bytes_read: 10 << 30,
        bytes_written: 5 << 30,
        in_flight: 3,
        ..Default::default()
    };
    let nvme = TierStatus {
        tier: Tier::Nvme as i32,
        state: "breaker_open".into(),
        detail: "io_uring with registered buffers".into(),
        capacity_bytes: 100 << 30,
        used_bytes: 40 << 30,
        blocks: 40_960,
        hits: 76_543,
        corrupt: 9,
        queued: 12,
        ..Default::default()
    };
    StatusResponse {
        version: "0.1.0".into(),
        uptime_ms: 3_700_000,
        position: Some(Position { epoch: 3, seq: 98_765 }),
        state: "degraded".into(),
        alarms: vec!["nvme: 9 corrupt blocks in the last minute; run kvtier scrub".into()],
        tiers: vec![host, nvme],
        journal: Some(JournalStatus {
            first_seq: 1,
            appended_seq: 98_765,
            durable_seq: 98_760,
            bytes: 12 << 20,
            state: "open".into(),
            detail: String::new(),
        }),
        index: Some(IndexStatus { covered_seq: 98_000, applied_seq: 98_765, recovery_ms: 340, ..Default::default() }),
        leases: 4,
        leased_blocks: 120,
        pins: 1,
        pending_puts: 2,
        connections: 7,
        spaces: 2,
        data_directory: "./kvtier-data".into(),
        local: None,
    }
}

#[test]
fn a_status_is_a_table_and_a_few_sentences() {
    let expected = "\
kvtierd 0.1.0 at unix:///s · degraded · up 1 h 1 m · epoch 3, event 98,765
data in ./kvtier-data
╭──────┬──────────────┬────────────┬────────┬────────┬─────────┬────────┬───────────┬─────────┬─────────┬───────────╮
│ tier ┆ state        ┆ fill       ┆   full ┆   used ┆      of ┆ blocks ┆      hits ┆ evicted ┆ corrupt ┆ in flight │
╞══════╪══════════════╪════════════╪════════╪════════╪═════════╪════════╪═══════════╪═════════╪═════════╪═══════════╡
│ host ┆ up           ┆ ███████▌   ┆ 75.0 % ┆  6 GiB ┆   8 GiB ┆  6,144 ┆ 1,234,567 ┆  43,856 ┆       0 ┆         3 │
│ nvme ┆ breaker_open ┆ ████       ┆ 40.0 % ┆ 40 GiB ┆ 100 GiB ┆ 40,960 ┆    76,543 ┆       0 ┆       9 ┆        12 │
╰──────┴──────────────┴────────────┴────────┴────────┴─────────┴────────┴───────────┴─────────┴─────────┴───────────╯
host     memfd, huge pages
nvme     io_uring with registered buffers
journal  open: 12 MiB, events 1 to 98,765, 5 not synced yet
index    complete, recovered in 340 ms; 765 events to replay after a crash
clients  7 connections, 4 leases on 120 blocks, 1 pin, 2 puts pending, 2 spaces
ALARM    nvme: 9 corrupt blocks in the last minute; run kvtier scrub";
    assert_eq!(describe("unix:///s", &busy()), expected);
}

#[test]
fn a_status_of_nothing_is_shown_too() {
    let shown = describe("unix:///s", &StatusResponse::default());
    assert!(shown.ends_with("alarms   none"), "{shown}");
}

#[test]
fn workers_that_share_the_memory_are_shown() {
    let mut status = busy();
    assert!(!describe("here", &status).contains("\nlocal"), "the local path is off");
    let local = LocalStatus {
        clients: 3,
        reservations: 1,
        reserved_bytes: 1 << 20,
        acquired_bytes: 5 << 30,
        ..Default::default()
    };
    status.local = Some(local);
    let text = describe("here", &status);
    assert!(
        text.contains("local    3 workers attached, 1 slot reserved (1 MiB); in place 0 B put, 5 GiB read;"),
        "{text}"
    );
    assert_eq!(as_json(&status)["local"]["acquired_bytes"], 5_u64 << 30);
    status.local = Some(LocalStatus { quarantined_slots: 2, quarantined_bytes: 8192, ..local });
    let text = describe("here", &status);
    assert!(text.contains("2 slots (8 KiB) given up"), "{text}");
}

#[test]
fn the_json_has_every_field_of_the_wire() {
    let json = as_json(&busy());
    assert_eq!(json["tiers"][1]["state"], "breaker_open");
    assert_eq!(json["position"]["epoch"], 3);
    assert_eq!(json["journal"]["durable_seq"], 98_760);
    assert_eq!(json["index"]["recovery_ms"], 340);
    assert_eq!(json["data_directory"], "./kvtier-data");
}

#[test]
fn security_domains_are_shown_where_there_are_several() {
    let mut status = busy();
    let domain = |name: &str, used_bytes| DomainStatus {
        name: name.into(),
        capacity_bytes: 4 << 30,
        used_bytes,
        blocks: 12,
        evictions: 345,
    };
    status.tiers[0].domains = vec![domain("node", 0)];
    assert!(!describe("here", &status).contains("domain"), "one is the whole tier");
    status.tiers[0].domains.push(domain("acme", 1 << 30));
    let text = describe("here", &status);
    let line = text.lines().find(|line| line.contains("acme")).expect("a line of its own");
    assert!(line.contains("host") && line.contains("25") && line.contains("345"), "{text}");
    assert_eq!(as_json(&status)["tiers"][0]["domains"][1]["used_bytes"], 1 << 30);
}
