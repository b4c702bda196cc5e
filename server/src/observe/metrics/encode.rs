//! A [`NodeSnapshot`] as metric families, encoded at each scrape.

use std::fmt::Error;
use std::sync::{Arc, OnceLock};

use kvtier_engine::flow::meter::LATENCY_BOUNDS_US;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::observe::snapshot::{DomainSnapshot, FollowedSnapshot, NodeSnapshot, SnapshotSource, TierSnapshot};

/// Asks the source at each scrape; says nothing while there is none.
pub(super) struct NodeCollector(pub(super) Arc<OnceLock<Arc<dyn SnapshotSource>>>);

impl std::fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeCollector")
    }
}

impl Collector for NodeCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(source) = self.0.get() else {
            return Ok(());
        };
        let node = source.snapshot();
        let mut out = Families(encoder);
        tiers(&mut out, &node)?;
        domains(&mut out, &node)?;
        clients(&mut out, &node)?;
        relays(&mut out, &node)?;
        journal(&mut out, &node)?;
        index(&mut out, &node)
    }
}

fn tiers(out: &mut Families<'_>, node: &NodeSnapshot) -> Result<(), Error> {
    type Figure = (&'static str, &'static str, MetricType, fn(&TierSnapshot) -> u64);
    let figures: [Figure; 14] = [
        ("tier_up", "1 while the tier takes loads and stores", MetricType::Gauge, |tier| u64::from(tier.up)),
        ("tier_capacity_bytes", "Bytes the tier may hold", MetricType::Gauge, |tier| tier.capacity_bytes),
        ("tier_used_bytes", "Bytes of slots in use", MetricType::Gauge, |tier| tier.used_bytes),
        ("tier_blocks", "Blocks the tier holds", MetricType::Gauge, |tier| tier.blocks),
        ("tier_hits", "Blocks found in the tier", MetricType::Counter, |tier| tier.hits),
        ("tier_evictions", "Blocks that left for others", MetricType::Counter, |tier| tier.evictions),
        ("tier_admitted", "Blocks taken in", MetricType::Counter, |tier| tier.admitted),
        ("tier_queued_operations", "Operations waiting for a device", MetricType::Gauge, |tier| tier.queued),
        ("tier_in_flight_operations", "Operations at a device", MetricType::Gauge, |tier| tier.in_flight),
        ("tier_read_bytes", "Bytes read from devices", MetricType::Counter, |tier| tier.read_bytes),
        ("tier_written_bytes", "Bytes written to devices", MetricType::Counter, |tier| tier.written_bytes),
        ("tier_crc_failures", "Reads that did not verify", MetricType::Counter, |tier| tier.crc_failures),
        ("tier_quarantined_bytes", "Bytes out of use for that", MetricType::Gauge, |tier| tier.quarantined_bytes),
        ("tier_free_bytes", "Bytes of slots not in use", MetricType::Gauge, |tier| {
            tier.capacity_bytes.saturating_sub(tier.used_bytes)
        }),
    ];
    for (name, help, kind, figure) in figures {
        let samples = node.tiers.iter().map(|tier| (vec![("tier", tier.tier)], figure(tier)));
        out.family(name, help, kind, samples)?;
    }
    let declined = node.tiers.iter().flat_map(|tier| {
        tier.declined.iter().map(|(reason, count)| (vec![("tier", tier.tier), ("reason", *reason)], *count))
    });
    out.family("tier_declined", "Blocks not taken in, by reason", MetricType::Counter, declined)?;
    latencies(out, node)?;
    let misses = node.misses.iter().map(|(reason, count)| (vec![("reason", *reason)], *count));
    out.family("misses", "Blocks asked for and not found, by reason", MetricType::Counter, misses)
}

fn domains(out: &mut Families<'_>, node: &NodeSnapshot) -> Result<(), Error> {
    type Figure = (&'static str, &'static str, MetricType, fn(&DomainSnapshot) -> u64);
    let figures: [Figure; 4] = [
        ("domain_capacity_bytes", "Bytes of the domain's arena", MetricType::Gauge, |domain| domain.capacity_bytes),
        ("domain_used_bytes", "Bytes of slots in use there", MetricType::Gauge, |domain| domain.used_bytes),
        ("domain_blocks", "Blocks the domain has in host memory", MetricType::Gauge, |domain| domain.blocks),
        ("domain_evictions", "Blocks that left for others of the domain", MetricType::Counter, |domain| {
            domain.evictions
        }),
    ];
    for (name, help, kind, figure) in figures {
        let samples = node.domains.iter().map(|domain| (vec![("domain", domain.name.as_str())], figure(domain)));
        out.family(name, help, kind, samples)?;
    }
    Ok(())
}

fn clients(out: &mut Families<'_>, node: &NodeSnapshot) -> Result<(), Error> {
    out.gauge("leases", "Leases held", node.leases)?;
    out.gauge("leased_blocks", "Blocks under a lease or pin", node.leased_blocks)?;
    out.gauge("pins", "Pins held", node.pins)?;
    out.gauge("pinned_bytes", "Bytes under pins", node.pinned_bytes)?;
    out.gauge("pending_puts", "Blocks that are not complete yet", node.pending_puts)?;
    out.gauge("put_in_flight_bytes", "Host bytes held by such blocks", node.put_in_flight_bytes)?;
    out.gauge("spaces", "Open spaces", node.spaces)?;
    out.gauge("subscribers", "Subscribers to the event log", node.subscribers)?;
    out.counter("expired_leases", "Leases ended by their deadline", node.expired_leases)?;
    out.counter("expired_puts", "Incomplete blocks given up at their deadline", node.expired_puts)?;
    out.counter("scrubbed_blocks", "Blocks verified by the scrubber", node.scrubbed_blocks)?;
    let alarms = node.alarms.iter().map(|(alarm, raised)| (vec![("alarm", *alarm)], u64::from(*raised)));
    out.family("alarm", "1 while the alarm is raised", MetricType::Gauge, alarms)
}

/// Events of engines that are followed, and ours in their format.
fn relays(out: &mut Families<'_>, node: &NodeSnapshot) -> Result<(), Error> {
    type Figure = (&'static str, &'static str, MetricType, fn(&FollowedSnapshot) -> u64);
    let figures: [Figure; 7] = [
        ("engine_connected", "1 while the engine's events are followed", MetricType::Gauge, |engine| engine.connected),
        ("engine_blocks", "Blocks the engine is known to hold itself", MetricType::Gauge, |engine| engine.blocks),
        ("engine_event_batches", "Batches of events taken in", MetricType::Counter, |engine| engine.batches),
        ("engine_event_gaps", "Times events were missing", MetricType::Counter, |engine| engine.gaps),
        ("engine_event_replayed_batches", "Batches that came by replay", MetricType::Counter, |engine| engine.replayed),
        ("engine_event_resets", "Times all known of the engine was forgotten", MetricType::Counter, |engine| {
            engine.resets
        }),
        ("engine_event_malformed_batches", "Batches that could not be read", MetricType::Counter, |engine| {
            engine.malformed
        }),
    ];
    for (name, help, kind, figure) in figures {
        let samples = node.followed.iter().map(|engine| (vec![("engine", engine.engine.as_str())], figure(engine)));
        out.family(name, help, kind, samples)?;
    }
    let published = node.published.unwrap_or_default();
    out.counter("published_batches", "Batches of events published in vLLM's format", published.batches)?;
    out.counter("published_missed_batches", "Batches that slow subscribers missed", published.missed)?;
    out.gauge("published_subscribers", "Subscribers to events in vLLM's format", published.subscribers)
}

fn latencies(out: &mut Families<'_>, node: &NodeSnapshot) -> Result<(), Error> {
    let help = "Time an operation of the tier took, in seconds";
    let mut metric = out.0.encode_descriptor("tier_operation_seconds", help, None, MetricType::Histogram)?;
    for tier in &node.tiers {
        for (operation, latency) in &tier.latencies {
            let labels = [("tier", tier.tier), ("operation", *operation)];
            let bounds = LATENCY_BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(latency.buckets.iter().copied()).collect();
            let (sum, count) = (latency.sum_us as f64 / 1e6, latency.buckets.iter().sum());
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
    }
    Ok(())
}

fn journal(out: &mut Families<'_>, node: &NodeSnapshot) -> Result<(), Error> {
    let journal = &node.journal;
    out.gauge("wal_up", "1 while the event log takes records", u64::from(journal.up))?;
    out.gauge("wal_epoch", "Incarnation of the event log", journal.epoch)?;
    out.gauge("wal_appended_seq", "Last sequence number given out", journal.appended_seq)?;
    out.gauge("wal_durable_seq", "Last sequence number on stable storage", journal.durable_seq)?;
    let lag = journal.appended_seq.saturating_sub(journal.durable_seq);
    out.gauge("wal_lag_records", "Records given out and not yet on stable storage", lag)?;
    out.gauge("wal_bytes", "Bytes of the event log on disk", journal.bytes)?;
    out.counter("wal_refused_records", "Records the event log could not take", journal.refused_records)
}

fn index(out: &mut Families<'_>, node: &NodeSnapshot) -> Result<(), Error> {
    let index = &node.index;
    out.gauge("index_applied_seq", "Event-log position the index has applied", index.applied_seq)?;
    out.gauge("index_covered_seq", "Event-log position the index holds on stable storage", index.covered_seq)?;
    let lag = node.journal.durable_seq.saturating_sub(index.covered_seq);
    out.gauge("index_lag_records", "Records a restart would replay", lag)?;
    out.gauge("index_filling", "1 while the RAM index fills after a start", u64::from(index.filling))?;
    out.gauge("index_filled_blocks", "Blocks the RAM index has taken over", index.filled_blocks)?;
    let name = "recovery_seconds";
    let mut metric =
        out.0.encode_descriptor(name, "Seconds until the RAM index was complete", None, MetricType::Gauge)?;
    node.recovery_seconds.map_or(Ok(()), |seconds| metric.encode_gauge(&seconds))
}

struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)
    }

    fn family<'s>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl Iterator<Item = (Vec<(&'static str, &'s str)>, u64)>,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            sample(metric.encode_family(&labels)?, kind, value)?;
        }
        Ok(())
    }
}

fn sample(mut metric: MetricEncoder<'_>, kind: MetricType, value: u64) -> Result<(), Error> {
    match kind {
        MetricType::Counter => metric.encode_counter::<NoLabelSet, u64, u64>(&value, None),
        _ => metric.encode_gauge(&value),
    }
}
