//! The node itself: status, scrub, drain.

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use futures::stream::Stream;
use kvtier_engine::catalog::plan::TierCount;
use kvtier_engine::flow::meter::TierMeter;
use kvtier_engine::flow::status::EngineStatus;
use kvtier_engine::port::{DeviceHealth, DeviceState, JournalState};
use kvtier_proto::v1;
use tonic::Status;

use super::{HbmSight, Node, answer};
use crate::local::LocalCount;

pub(crate) fn status(node: &Node) -> v1::StatusResponse {
    let status = node.engine.status();
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    v1::StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms: ms(status.uptime),
        position: Some(v1::Position { epoch: status.position.epoch, seq: status.position.seq }),
        state: status.state.to_owned(),
        tiers: hbm_tier(node).into_iter().chain([host_tier(node, &status)]).chain(nvme_tier(node, &status)).collect(),
        journal: Some(journal(&status)),
        index: Some(v1::IndexStatus {
            covered_seq: (node.facts.index_covered_seq)(),
            applied_seq: status.index_applied_seq,
            filling: status.filling,
            filled_blocks: status.count.nvme.blocks,
            recovery_ms: status.recovery.map_or(0, ms),
        }),
        leases: status.count.leases,
        leased_blocks: status.count.held_blocks,
        pins: status.count.pins,
        pending_puts: status.count.pending,
        connections: (node.facts.connections)(),
        spaces: status.spaces,
        data_directory: node.facts.data_directory.clone(),
        alarms: status.alarms.iter().map(ToString::to_string).collect(),
        local: node.local.get().map(|desk| local(node, &desk.count())),
    }
}

fn local(node: &Node, count: &LocalCount) -> v1::LocalStatus {
    let meter = node.engine.meter();
    v1::LocalStatus {
        clients: count.clients,
        reservations: count.reservations,
        reserved_bytes: count.reserved_bytes,
        quarantined_slots: count.quarantined_slots,
        quarantined_bytes: count.quarantined_bytes,
        requests: count.requests,
        put_in_place_bytes: meter.put_in_place_bytes.get(),
        acquired_bytes: meter.acquired_bytes.get(),
        put_copied_bytes: meter.put_copied_bytes.get(),
        get_copied_bytes: meter.get_copied_bytes.get(),
        gpu_memories: count.gpu_memories,
        moves: count.moves,
        moves_ended: count.moves_ended,
        moves_failed: count.moves_failed,
    }
}

fn hbm_tier(node: &Node) -> Option<v1::TierStatus> {
    let HbmSight { devices, capacity_bytes, domains: counts, counters: (hits, stores), left_out, absent } =
        node.facts.hbm.as_ref()?();
    let count: TierCount = counts.iter().copied().sum();
    let sum = |of: fn(&DeviceHealth) -> u64| devices.iter().map(of).sum::<u64>();
    let state = match &absent {
        Some(_) => "absent",
        None if devices.iter().any(|device| device.state == DeviceState::Poisoned) => "poisoned",
        None => "up",
    };
    Some(v1::TierStatus {
        tier: v1::Tier::Hbm.into(),
        state: state.to_owned(),
        detail: absent.unwrap_or_else(|| [vec![device_details(&devices)], left_out].concat().join("; ")),
        capacity_bytes,
        used_bytes: count.slot_bytes,
        blocks: count.blocks,
        hits,
        stores,
        evictions: count.evictions,
        corrupt: count.corrupt,
        bytes_read: sum(|device| device.read_bytes),
        bytes_written: sum(|device| device.written_bytes),
        in_flight: sum(|device| device.in_flight_count),
        queued: sum(|device| device.queued_count),
        domains: domains(node, &counts),
    })
}

fn host_tier(node: &Node, status: &EngineStatus) -> v1::TierStatus {
    let (count, meter) = (status.count.host, &node.engine.meter().host);
    let tier = v1::TierStatus {
        tier: v1::Tier::Host.into(),
        state: "up".to_owned(),
        detail: (node.facts.host_detail)(),
        in_flight: status.count.pending,
        domains: domains(node, &status.host_domains),
        ..v1::TierStatus::default()
    };
    with_counts(tier, count, meter)
}

fn domains(node: &Node, counts: &[TierCount]) -> Vec<v1::DomainStatus> {
    let domain = |(name, count): (&String, &TierCount)| v1::DomainStatus {
        name: name.clone(),
        capacity_bytes: count.capacity_bytes,
        used_bytes: count.slot_bytes,
        blocks: count.blocks,
        evictions: count.evictions,
    };
    node.facts.domain_names.iter().zip(counts).map(domain).collect()
}

fn nvme_tier(node: &Node, status: &EngineStatus) -> Option<v1::TierStatus> {
    if status.devices.is_empty() {
        return None;
    }
    let (count, meter) = (status.count.nvme, &node.engine.meter().nvme);
    let sum = |of: fn(&DeviceHealth) -> u64| status.devices.iter().map(of).sum::<u64>();
    let tier = v1::TierStatus {
        tier: v1::Tier::Nvme.into(),
        state: nvme_state(status).to_owned(),
        detail: device_details(&status.devices),
        bytes_read: sum(|device| device.read_bytes),
        bytes_written: sum(|device| device.written_bytes),
        in_flight: sum(|device| device.in_flight_count),
        queued: sum(|device| device.queued_count) + status.unwritten,
        ..v1::TierStatus::default()
    };
    Some(with_counts(tier, count, meter))
}

fn with_counts(tier: v1::TierStatus, count: TierCount, meter: &TierMeter) -> v1::TierStatus {
    v1::TierStatus {
        capacity_bytes: count.capacity_bytes,
        used_bytes: count.slot_bytes,
        blocks: count.blocks,
        hits: meter.hits.get(),
        stores: meter.stores.get(),
        evictions: count.evictions,
        corrupt: count.corrupt,
        ..tier
    }
}

/// The tier's worst news first.
fn nvme_state(status: &EngineStatus) -> &'static str {
    let any = |state| status.devices.iter().any(|device| device.state == state);
    match () {
        () if any(DeviceState::Poisoned) => "poisoned",
        () if any(DeviceState::Tripped) => "breaker_open",
        () if status.filling => "recovering",
        () => "up",
    }
}

fn device_details(devices: &[DeviceHealth]) -> String {
    let told = devices.iter().enumerate().map(|(number, device)| format!("device {number}: {}", device.detail));
    told.collect::<Vec<_>>().join("; ")
}

fn journal(status: &EngineStatus) -> v1::JournalStatus {
    let (state, detail) = match &status.journal.state {
        JournalState::Open => ("open", String::new()),
        JournalState::Suspended(cause) => ("suspended", cause.clone()),
        JournalState::Poisoned(cause) => ("poisoned", cause.clone()),
    };
    v1::JournalStatus {
        first_seq: status.journal.first_seq,
        appended_seq: status.journal.appended_seq,
        durable_seq: status.journal.durable_seq,
        bytes: status.journal.bytes,
        state: state.to_owned(),
        detail,
    }
}

/// Walks over the persistent blocks, and says after each batch how far it is.
pub(crate) fn scrub(
    node: &Arc<Node>,
) -> Result<impl Stream<Item = Result<v1::ScrubResponse, Status>> + Send + 'static, Status> {
    let mut walk = node.engine.scrub().map_err(answer::status)?;
    Ok(stream! {
        while let Some(progress) = walk.next().await {
            yield Ok(v1::ScrubResponse {
                verified_blocks: progress.verified,
                corrupt_blocks: progress.corrupt,
                total_blocks: progress.total,
                done: progress.done,
            });
        }
    })
}

/// Takes no more puts from now on; answers when what was queued is written or time is up.
pub(crate) async fn drain(node: &Node, request: v1::DrainRequest) -> v1::DrainResponse {
    let timeout = match request.timeout_ms {
        0 => node.limits.drain_timeout,
        ms => Duration::from_millis(ms.into()),
    };
    node.readiness.drain();
    let drained = node.engine.drain(timeout).await;
    v1::DrainResponse { written_back_blocks: drained.written_back, abandoned_blocks: drained.abandoned }
}
