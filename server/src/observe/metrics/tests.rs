use std::collections::BTreeSet;

use kvtier_engine::flow::meter::{LATENCY_BOUNDS_US, LatencyCount};

use super::*;
use crate::observe::NodeSnapshot;
use crate::observe::snapshot::{DomainSnapshot, FollowedSnapshot, JournalSnapshot, TierSnapshot};

struct Fixed(NodeSnapshot);

impl SnapshotSource for Fixed {
    fn snapshot(&self) -> NodeSnapshot {
        self.0.clone()
    }
}

/// Metrics of a node with a host and an NVMe tier, every series present.
fn watched() -> Metrics {
    let host = TierSnapshot {
        tier: "host",
        up: true,
        capacity_bytes: 100,
        used_bytes: 60,
        hits: 5,
        ..TierSnapshot::default()
    };
    let mut buckets = vec![0; LATENCY_BOUNDS_US.len() + 1];
    buckets[2] = 4;
    buckets[LATENCY_BOUNDS_US.len()] = 1;
    let nvme = TierSnapshot {
        tier: "nvme",
        declined: vec![("full", 3)],
        latencies: vec![("load", LatencyCount { buckets, sum_us: 6_000_160 })],
        ..TierSnapshot::default()
    };
    let metrics = Metrics::new();
    metrics.watch(Arc::new(Fixed(NodeSnapshot {
        tiers: vec![host, nvme],
        domains: vec![DomainSnapshot { name: "acme".into(), used_bytes: 40, ..DomainSnapshot::default() }],
        followed: vec![FollowedSnapshot { engine: "a/1".into(), blocks: 9, ..FollowedSnapshot::default() }],
        misses: vec![("evicted", 7), ("never_stored", 0)],
        journal: JournalSnapshot { appended_seq: 12, durable_seq: 9, ..JournalSnapshot::default() },
        alarms: vec![("journal", true), ("index", false)],
        recovery_seconds: Some(0.25),
        ..NodeSnapshot::default()
    })));
    metrics.call("Lookup", "ok");
    metrics
}

/// Names as Prometheus stores them: counters end in `_total`, information in `_info`.
fn names(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| match line.split_once(' ').expect("a TYPE line has a name and a type") {
            (name, "counter") => format!("{name}_total"),
            (name, "info") => format!("{name}_info"),
            (name, _) => name.to_owned(),
        })
        .collect()
}

#[test]
fn the_document_names_every_metric_and_no_other() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating/metrics.md");
    let document = std::fs::read_to_string(path).unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<String> = rows.map(|cell| cell.split('{').next().unwrap().to_owned()).collect();
    assert_eq!(documented, names(&watched().encode()));
}

#[test]
fn the_figures_of_the_node_are_read_at_each_scrape() {
    let text = watched().encode();
    for line in [
        "kvtier_tier_used_bytes{tier=\"host\"} 60",
        "kvtier_tier_free_bytes{tier=\"host\"} 40",
        "kvtier_domain_used_bytes{domain=\"acme\"} 40",
        "kvtier_tier_up{tier=\"nvme\"} 0",
        "kvtier_tier_hits_total{tier=\"host\"} 5",
        "kvtier_tier_declined_total{tier=\"nvme\",reason=\"full\"} 3",
        "kvtier_misses_total{reason=\"evicted\"} 7",
        "kvtier_engine_blocks{engine=\"a/1\"} 9",
        "kvtier_wal_lag_records 3",
        "kvtier_recovery_seconds 0.25",
        "kvtier_alarm{alarm=\"journal\"} 1",
        "kvtier_alarm{alarm=\"index\"} 0",
        "kvtier_tier_operation_seconds_sum{tier=\"nvme\",operation=\"load\"} 6.00016",
        "kvtier_tier_operation_seconds_count{tier=\"nvme\",operation=\"load\"} 5",
        "kvtier_tier_operation_seconds_bucket{le=\"0.000025\",tier=\"nvme\",operation=\"load\"} 0",
        "kvtier_tier_operation_seconds_bucket{le=\"0.00005\",tier=\"nvme\",operation=\"load\"} 4",
        "kvtier_tier_operation_seconds_bucket{le=\"+Inf\",tier=\"nvme\",operation=\"load\"} 5",
        "kvtier_rpcs_total{method=\"Lookup\",code=\"ok\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"), "OpenMetrics ends with EOF");
}

#[test]
fn before_there_is_a_node_its_figures_are_absent_instead_of_zero() {
    let text = Metrics::new().encode();
    assert!(!text.contains("kvtier_tier_") && text.contains("kvtier_build_info"), "{text}");
}

#[test]
fn latencies_land_in_their_operation_and_bucket() {
    let metrics = Metrics::new();
    for (operation, name) in Operation::ALL {
        metrics.observe(*operation, Duration::from_micros(15));
        let text = metrics.encode();
        assert!(text.contains(&format!("kvtier_operation_seconds_count{{operation=\"{name}\"}} 1")), "{name}");
        assert!(text.contains(&format!("le=\"0.00002\",operation=\"{name}\"}} 1")), "{name} in {text}");
        assert!(text.contains(&format!("le=\"0.00001\",operation=\"{name}\"}} 0")), "{name} in {text}");
    }
}
