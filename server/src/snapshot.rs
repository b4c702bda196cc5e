//! The node's figures for metrics, gathered from the engine at each scrape.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvtier_engine::catalog::plan::TierCount;
use kvtier_engine::flow::Engine;
use kvtier_engine::flow::alarm::Alarm;
use kvtier_engine::flow::meter::{Meter, TierMeter};
use kvtier_engine::flow::status::EngineStatus;
use kvtier_engine::port::{DeviceHealth, DeviceState, JournalState};

use crate::engine_events::FollowerCount;
use crate::observe::snapshot::{
    DomainSnapshot, FollowedSnapshot, IndexSnapshot, JournalSnapshot, PublishedSnapshot, TierSnapshot,
};
use crate::observe::{NodeSnapshot, SnapshotSource};
use crate::publish::PublishCount;
use crate::service::{HbmLook, HbmSight};

/// Reads the engine. Holds nothing open.
pub struct NodeFigures {
    /// The engine.
    pub engine: Engine,
    /// Names of the host tier's domains, in the order of their arenas.
    pub domain_names: Vec<String>,
    /// What has become of the HBM tier; `None`: it is off.
    pub hbm: Option<HbmLook>,
    /// The log position that the index holds on stable storage.
    pub index_flushed_seq: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Subscribers now.
    pub subscribers: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Bytes of incomplete blocks now.
    pub put_in_flight_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Engines whose events are followed.
    pub(crate) followed: BTreeMap<String, Arc<FollowerCount>>,
    /// Figures of the publisher, if there is one.
    pub(crate) published: Option<Arc<dyn Fn() -> PublishCount + Send + Sync>>,
}

impl SnapshotSource for NodeFigures {
    fn snapshot(&self) -> NodeSnapshot {
        let status = self.engine.status();
        let meter = self.engine.meter();
        NodeSnapshot {
            tiers: [host(&status, &meter.host)].into_iter().chain(nvme(&status, meter)).chain(self.hbm()).collect(),
            domains: domains(&self.domain_names, &status),
            misses: meter.misses().into_iter().collect(),
            journal: journal(&status, meter),
            index: IndexSnapshot {
                applied_seq: status.index_applied_seq,
                covered_seq: (self.index_flushed_seq)(),
                filling: status.filling,
                filled_blocks: status.count.nvme.blocks,
            },
            leases: status.count.leases,
            leased_blocks: status.count.held_blocks,
            pins: status.count.pins,
            pinned_bytes: status.count.pinned_bytes,
            pending_puts: status.count.pending,
            put_in_flight_bytes: (self.put_in_flight_bytes)(),
            spaces: status.spaces,
            subscribers: (self.subscribers)(),
            expired_leases: meter.expired_leases.get(),
            expired_puts: meter.expired_puts.get(),
            scrubbed_blocks: meter.scrubbed.get(),
            alarms: Alarm::ALL.map(|alarm| (alarm.name(), is_raised(&status, alarm))).to_vec(),
            followed: self.followed(),
            published: self.published.as_ref().map(|count| published(count())),
            recovery_seconds: status.recovery.as_ref().map(Duration::as_secs_f64),
        }
        .with_declines(meter.declines())
    }
}

impl NodeFigures {
    fn hbm(&self) -> Option<TierSnapshot> {
        let HbmSight { devices, capacity_bytes, domains, counters: (hits, stores), absent, .. } = self.hbm.as_ref()?();
        let count: TierCount = domains.into_iter().sum();
        let sum = |of: fn(&DeviceHealth) -> u64| devices.iter().map(of).sum::<u64>();
        Some(TierSnapshot {
            tier: "hbm",
            up: absent.is_none() && devices.iter().all(|device| device.state == DeviceState::Up),
            capacity_bytes,
            used_bytes: count.slot_bytes,
            blocks: count.blocks,
            hits,
            evictions: count.evictions,
            admitted: stores,
            crc_failures: count.corrupt,
            queued: sum(|device| device.queued_count),
            in_flight: sum(|device| device.in_flight_count),
            read_bytes: sum(|device| device.read_bytes),
            written_bytes: sum(|device| device.written_bytes),
            ..TierSnapshot::default()
        })
    }

    fn followed(&self) -> Vec<FollowedSnapshot> {
        let blocks = self.engine.engine_blocks();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let followed = self.followed.iter().map(|(name, count)| FollowedSnapshot {
            engine: name.clone(),
            connected: load(&count.connected),
            blocks: blocks.get(name).copied().unwrap_or(0),
            batches: load(&count.batches),
            gaps: load(&count.gaps),
            replayed: load(&count.replayed),
            resets: load(&count.resets),
            malformed: load(&count.malformed),
        });
        followed.collect()
    }
}

trait WithDeclines {
    fn with_declines(self, declines: std::collections::BTreeMap<&'static str, u64>) -> Self;
}

impl WithDeclines for NodeSnapshot {
    /// A refusal names its tier by its reason; what names none concerns the host tier, where every put begins.
    fn with_declines(mut self, declines: std::collections::BTreeMap<&'static str, u64>) -> Self {
        for (reason, count) in declines {
            let of_nvme = reason.starts_with("nvme") || reason == "not_admitted" || reason == "recovering";
            let wanted = if of_nvme { "nvme" } else { "host" };
            let at = self.tiers.iter().position(|tier| tier.tier == wanted).unwrap_or(0);
            self.tiers[at].declined.push((reason, count));
        }
        self
    }
}

fn counted(tier: &'static str, count: &TierCount, meter: &TierMeter) -> TierSnapshot {
    TierSnapshot {
        tier,
        up: true,
        capacity_bytes: count.capacity_bytes,
        used_bytes: count.slot_bytes,
        blocks: count.blocks,
        hits: meter.hits.get(),
        evictions: count.evictions,
        admitted: meter.stores.get(),
        crc_failures: meter.corrupt.get(),
        quarantined_bytes: count.quarantined_bytes,
        ..TierSnapshot::default()
    }
}

fn host(status: &EngineStatus, meter: &TierMeter) -> TierSnapshot {
    TierSnapshot { in_flight: status.count.pending, ..counted("host", &status.count.host, meter) }
}

fn domains(names: &[String], status: &EngineStatus) -> Vec<DomainSnapshot> {
    let domain = |(name, count): (&String, &TierCount)| DomainSnapshot {
        name: name.clone(),
        capacity_bytes: count.capacity_bytes,
        used_bytes: count.slot_bytes,
        blocks: count.blocks,
        evictions: count.evictions,
    };
    names.iter().zip(&status.host_domains).map(domain).collect()
}

fn nvme(status: &EngineStatus, meter: &Meter) -> Option<TierSnapshot> {
    if status.devices.is_empty() {
        return None;
    }
    let sum = |of: fn(&DeviceHealth) -> u64| status.devices.iter().map(of).sum::<u64>();
    Some(TierSnapshot {
        up: status.devices.iter().all(|device| device.state == DeviceState::Up),
        queued: sum(|device| device.queued_count) + status.unwritten,
        in_flight: sum(|device| device.in_flight_count),
        read_bytes: sum(|device| device.read_bytes),
        written_bytes: sum(|device| device.written_bytes),
        latencies: vec![
            ("load", meter.load_latency.count()),
            ("store", meter.store_latency.count()),
            ("sync", meter.sync_latency.count()),
            ("commit", meter.commit_latency.count()),
        ],
        ..counted("nvme", &status.count.nvme, &meter.nvme)
    })
}

fn is_raised(status: &EngineStatus, alarm: Alarm) -> bool {
    status.alarms.iter().any(|raised| raised.alarm == alarm)
}

fn journal(status: &EngineStatus, meter: &Meter) -> JournalSnapshot {
    JournalSnapshot {
        up: status.journal.state == JournalState::Open,
        epoch: status.journal.epoch,
        appended_seq: status.journal.appended_seq,
        durable_seq: status.journal.durable_seq,
        bytes: status.journal.bytes,
        refused_records: meter.unjournaled_records.get(),
    }
}

fn published(count: PublishCount) -> PublishedSnapshot {
    let PublishCount { batches, missed, subscribers } = count;
    PublishedSnapshot { batches, missed, subscribers }
}
