//! `kvtier status`: what the node is doing.

use std::time::Duration;

use kvtier_client::wire::{DomainStatus, LocalStatus, StatusResponse, TierStatus};
use kvtier_client::word;
use serde_json::{Value, json};

use crate::amount::{show_count, show_counted, show_percent, show_size, show_time};
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::output;
use crate::table::{Column, bar, draw};

/// Arguments of `kvtier status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {}

impl Status {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let client = global.connect().await?;
        let status = client.status().await?;
        if global.json {
            return output::json(&as_json(&status));
        }
        output::line(describe(&client.endpoint().to_string(), &status))
    }
}

/// `version`, state, uptime and position: the first line of `status` and of `top`.
pub(crate) fn headline(endpoint: &str, status: &StatusResponse) -> String {
    let position = status.position.unwrap_or_default();
    format!(
        "kvtierd {} at {endpoint} · {} · up {} · epoch {}, event {}",
        status.version,
        status.state,
        show_time(Duration::from_millis(status.uptime_ms)),
        position.epoch,
        show_count(position.seq)
    )
}

fn describe(endpoint: &str, status: &StatusResponse) -> String {
    let mut lines = vec![headline(endpoint, status), format!("data in {}", status.data_directory), tiers(status)];
    let details = status.tiers.iter().filter(|tier| !tier.detail.is_empty());
    lines.extend(details.map(|tier| format!("{:<8} {}", word::tier(tier.tier), tier.detail)));
    lines.extend(domains(&status.tiers));
    if let Some(journal) = &status.journal {
        lines.push(format!(
            "journal  {}: {}, events {} to {}, {} not synced yet{}",
            journal.state,
            show_size(journal.bytes),
            show_count(journal.first_seq),
            show_count(journal.appended_seq),
            show_count(journal.appended_seq.saturating_sub(journal.durable_seq)),
            bracketed(&journal.detail)
        ));
    }
    if let Some(index) = &status.index {
        let filling = match index.filling {
            true => format!("filling, {} blocks so far", show_count(index.filled_blocks)),
            // The wire has whole milliseconds.
            false if index.recovery_ms == 0 => "complete, recovered in less than 1 ms".to_owned(),
            false => format!("complete, recovered in {}", show_time(Duration::from_millis(index.recovery_ms))),
        };
        let behind = show_counted(index.applied_seq.saturating_sub(index.covered_seq), "event");
        lines.push(format!("index    {filling}; {behind} to replay after a crash"));
    }
    lines.push(format!(
        "clients  {}, {} on {}, {}, {} pending, {}",
        show_counted(status.connections, "connection"),
        show_counted(status.leases, "lease"),
        show_counted(status.leased_blocks, "block"),
        show_counted(status.pins, "pin"),
        show_counted(status.pending_puts, "put"),
        show_counted(status.spaces, "space")
    ));
    lines.extend(status.local.as_ref().map(local));
    match status.alarms.is_empty() {
        true => lines.push("alarms   none".into()),
        false => lines.extend(status.alarms.iter().map(|alarm| format!("ALARM    {alarm}"))),
    }
    lines.join("\n")
}

/// Workers that share the daemon's memory.
fn local(local: &LocalStatus) -> String {
    let held = match (local.quarantined_slots, local.quarantined_bytes) {
        (0, _) => String::new(),
        (slots, bytes) => {
            format!(", {} ({}) given up but maybe still written", show_counted(slots, "slot"), show_size(bytes))
        }
    };
    format!(
        "local    {} attached, {} reserved ({}){held}; in place {} put, {} read; copied {} in, {} out over gRPC",
        show_counted(local.clients, "worker"),
        show_counted(local.reservations, "slot"),
        show_size(local.reserved_bytes),
        show_size(local.put_in_place_bytes),
        show_size(local.acquired_bytes),
        show_size(local.put_copied_bytes),
        show_size(local.get_copied_bytes),
    )
}

fn bracketed(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

fn tiers(status: &StatusResponse) -> String {
    let columns = [
        Column::Text("tier"),
        Column::Text("state"),
        Column::Text("fill"),
        Column::Number("full"),
        Column::Number("used"),
        Column::Number("of"),
        Column::Number("blocks"),
        Column::Number("hits"),
        Column::Number("evicted"),
        Column::Number("corrupt"),
        Column::Number("in flight"),
    ];
    draw(&columns, status.tiers.iter().map(tier_row))
}

fn tier_row(tier: &TierStatus) -> Vec<String> {
    let fill = bar(tier.used_bytes, tier.capacity_bytes, 10);
    vec![
        word::tier(tier.tier),
        tier.state.clone(),
        format!("{fill:<10}"),
        show_percent(tier.used_bytes, tier.capacity_bytes),
        show_size(tier.used_bytes),
        show_size(tier.capacity_bytes),
        show_count(tier.blocks),
        show_count(tier.hits),
        show_count(tier.evictions),
        show_count(tier.corrupt),
        show_count(tier.in_flight + tier.queued),
    ]
}

/// What each security domain has of the tiers, where there are several.
fn domains(tiers: &[TierStatus]) -> Option<String> {
    let columns = [
        Column::Text("tier"),
        Column::Text("domain"),
        Column::Number("full"),
        Column::Number("used"),
        Column::Number("of"),
        Column::Number("blocks"),
        Column::Number("evicted"),
    ];
    let row = |tier: &TierStatus, domain: &DomainStatus| {
        vec![
            word::tier(tier.tier).to_owned(),
            domain.name.clone(),
            show_percent(domain.used_bytes, domain.capacity_bytes),
            show_size(domain.used_bytes),
            show_size(domain.capacity_bytes),
            show_count(domain.blocks),
            show_count(domain.evictions),
        ]
    };
    let shared = tiers.iter().filter(|tier| tier.domains.len() > 1);
    let rows: Vec<_> = shared.flat_map(|tier| tier.domains.iter().map(move |domain| row(tier, domain))).collect();
    (!rows.is_empty()).then(|| draw(&columns, rows))
}

fn as_json(status: &StatusResponse) -> Value {
    let position = status.position.unwrap_or_default();
    json!({
        "version": status.version,
        "state": status.state,
        "uptime_ms": status.uptime_ms,
        "position": { "epoch": position.epoch, "seq": position.seq },
        "alarms": status.alarms,
        "tiers": status.tiers.iter().map(tier_json).collect::<Vec<_>>(),
        "journal": status.journal.as_ref().map(|journal| json!({
            "state": journal.state, "detail": journal.detail, "bytes": journal.bytes, "first_seq": journal.first_seq,
            "appended_seq": journal.appended_seq, "durable_seq": journal.durable_seq,
        })),
        "index": status.index.as_ref().map(|index| json!({
            "covered_seq": index.covered_seq, "applied_seq": index.applied_seq, "filling": index.filling,
            "filled_blocks": index.filled_blocks, "recovery_ms": index.recovery_ms,
        })),
        "leases": status.leases,
        "leased_blocks": status.leased_blocks,
        "pins": status.pins,
        "pending_puts": status.pending_puts,
        "connections": status.connections,
        "spaces": status.spaces,
        "data_directory": status.data_directory,
        "local": status.local.as_ref().map(|local| json!({
            "clients": local.clients, "requests": local.requests,
            "reservations": local.reservations, "reserved_bytes": local.reserved_bytes,
            "quarantined_slots": local.quarantined_slots, "quarantined_bytes": local.quarantined_bytes,
            "put_in_place_bytes": local.put_in_place_bytes, "acquired_bytes": local.acquired_bytes,
            "put_copied_bytes": local.put_copied_bytes, "get_copied_bytes": local.get_copied_bytes,
        })),
    })
}

fn tier_json(tier: &TierStatus) -> Value {
    json!({
        "tier": word::tier(tier.tier),
        "state": tier.state,
        "detail": tier.detail,
        "capacity_bytes": tier.capacity_bytes,
        "used_bytes": tier.used_bytes,
        "blocks": tier.blocks,
        "hits": tier.hits,
        "stores": tier.stores,
        "evictions": tier.evictions,
        "corrupt": tier.corrupt,
        "bytes_read": tier.bytes_read,
        "bytes_written": tier.bytes_written,
        "in_flight": tier.in_flight,
        "queued": tier.queued,
        "domains": tier.domains.iter().map(domain_json).collect::<Vec<_>>(),
    })
}

fn domain_json(domain: &DomainStatus) -> Value {
    json!({
        "name": domain.name,
        "capacity_bytes": domain.capacity_bytes,
        "used_bytes": domain.used_bytes,
        "blocks": domain.blocks,
        "evictions": domain.evictions,
    })
}

#[cfg(test)]
pub(crate) mod tests;
