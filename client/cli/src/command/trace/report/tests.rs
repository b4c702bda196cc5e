use kvtier_client::{Client, ConnectOptions, SpaceDigest};

use super::*;
use crate::command::trace::tally::{GetTime, Puts, Served};
use crate::pattern::Pattern;

/// Two requests: one cold, one that hit in two tiers.
fn report(verification_errors: u64) -> Report {
    let endpoint = "unix:///s".parse().expect("valid");
    let bench = Workbench {
        client: Client::connect_lazily(&endpoint, ConnectOptions::default()).expect("needs no daemon"),
        space: SpaceDigest([0; 32]),
        block_bytes: 1 << 20,
        durable: true,
        pattern: Pattern::default(),
        get_rate: Rate::default(),
        put_rate: Rate::default(),
    };
    let mut tally = Tally::default();
    tally.add(Served {
        blocks: 1000,
        lookup: Duration::from_micros(120),
        put: Some(Duration::from_millis(40)),
        stop: Some(("never_stored".into(), 1000)),
        puts: Puts {
            stored: 998,
            stored_bytes: 998 << 20,
            declined: [("host_full".into(), 2)].into(),
            ..Default::default()
        },
        ..Default::default()
    });
    tally.add(Served {
        blocks: 1000,
        hit_blocks: 1000,
        lookup: Duration::from_micros(130),
        get: Some(GetTime { first_block: Duration::from_micros(900), all: Duration::from_millis(9) }),
        tiers: [("nvme".into(), (250, 250 << 20)), ("host".into(), (750, 750 << 20))].into(),
        verified_blocks: 1000,
        verified_bytes: 1000 << 20,
        verification_errors,
        ..Default::default()
    });
    let setting = Setting {
        trace: "conv".into(),
        source: "s".into(),
        endpoint: "unix:///s".into(),
        daemon_version: "0.1.0".into(),
        tokens_per_block: 512,
        block_bytes: 1 << 20,
        concurrency: 4,
        durable: true,
        ideal_hit_blocks: 1000,
    };
    Report::new(setting, tally, &bench, Duration::from_millis(500))
}

#[tokio::test]
async fn the_report_is_worth_showing() {
    let expected = "\
2 requests of conv in 500 ms (4.0/s), 4 at a time, puts durable
2,000 blocks of 1 MiB (512 tokens each), through kvtierd 0.1.0 at unix:///s

Hits: 1,000 of 2,000 blocks were there, 50.0 % (starting empty, a cache that never forgets gets 50.0 %)
╭───────────┬────────┬─────────┬────────┬──────────────────────────────────────────╮
│ hits from ┆ blocks ┆   bytes ┆  share ┆                                          │
╞═══════════╪════════╪═════════╪════════╪══════════════════════════════════════════╡
│ host      ┆    750 ┆ 750 MiB ┆ 75.0 % ┆ ██████████████████████████████           │
│ nvme      ┆    250 ┆ 250 MiB ┆ 25.0 % ┆ ██████████                               │
╰───────────┴────────┴─────────┴────────┴──────────────────────────────────────────╯
How fast
╭──────────────────────┬───────┬───────┬──────┬─────────┬─────────┬─────────┬─────────╮
│ operation            ┆ calls ┆ bytes ┆ GB/s ┆     p50 ┆     p90 ┆     p99 ┆     max │
╞══════════════════════╪═══════╪═══════╪══════╪═════════╪═════════╪═════════╪═════════╡
│ lookup               ┆     2 ┆     - ┆    - ┆  120 µs ┆  130 µs ┆  130 µs ┆  130 µs │
│ get, first block     ┆     1 ┆     - ┆    - ┆  900 µs ┆  900 µs ┆  900 µs ┆  900 µs │
│ get, whole prefix    ┆     1 ┆   0 B ┆    - ┆  9.0 ms ┆  9.0 ms ┆  9.0 ms ┆  9.0 ms │
│ put, all that missed ┆     1 ┆   0 B ┆    - ┆ 40.0 ms ┆ 40.0 ms ┆ 40.0 ms ┆ 40.0 ms │
╰──────────────────────┴───────┴───────┴──────┴─────────┴─────────┴─────────┴─────────╯
Where chains ended
╭────────────────────────────┬──────────┬────────┬────────────────────╮
│ because the next block was ┆ requests ┆  share ┆ blocks not reached │
╞════════════════════════════╪══════════╪════════╪════════════════════╡
│ never stored               ┆        1 ┆ 50.0 % ┆              1,000 │
│ there too: whole chain hit ┆        1 ┆ 50.0 % ┆                  0 │
╰────────────────────────────┴──────────┴────────┴────────────────────╯
Puts: 998 stored, 0 there already, 2 declined (host full)
Verified: every byte of 1,000 blocks (1000 MiB) is what was put ✔";
    let shown = describe(&report(0));
    assert_eq!(shown, expected, "\n{shown}");
}

#[tokio::test]
async fn one_wrong_block_fails_the_replay() {
    let report = report(1);
    assert!(describe(&report).ends_with("VERIFICATION FAILED: 1 blocks with wrong bytes, 1,000 with right ones"));
    assert_eq!(report.verdict().expect_err("failed").exit_code(), 4);
}

#[tokio::test]
async fn the_json_keeps_its_field_names() {
    let json = serde_json::to_value(report(0)).expect("serialises");
    assert_eq!(json["trace"], "conv");
    assert_eq!(json["hit_percent"], 50.0);
    assert_eq!(json["tiers"][1], serde_json::json!({ "tier": "nvme", "blocks": 250, "bytes": 250 << 20 }));
    assert_eq!(json["operations"][0]["operation"], "lookup");
    assert_eq!(json["stops"][0], serde_json::json!({ "reason": "never_stored", "requests": 1, "blocks": 1000 }));
    assert_eq!(json["puts_declined"][0]["reason"], "host_full");
    assert_eq!(json["verification_errors"], 0);
}
