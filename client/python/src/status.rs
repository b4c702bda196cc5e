//! The node's status as a dictionary: `kvtier.Status` in the stubs.

use kvtier_client::{wire, word};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

pub(crate) fn to_python<'py>(py: Python<'py>, status: &wire::StatusResponse) -> PyResult<Bound<'py, PyDict>> {
    let given = PyDict::new(py);
    given.set_item("version", &status.version)?;
    given.set_item("state", &status.state)?;
    given.set_item("uptime", status.uptime_ms as f64 / 1000.0)?;
    given.set_item("position", status.position.map(|position| (position.epoch, position.seq)))?;
    given.set_item("alarms", &status.alarms)?;
    let tiers = status.tiers.iter().map(|tier| tier_to_python(py, tier)).collect::<PyResult<Vec<_>>>()?;
    given.set_item("tiers", PyList::new(py, tiers)?)?;
    given.set_item("leases", status.leases)?;
    given.set_item("leased_blocks", status.leased_blocks)?;
    given.set_item("pins", status.pins)?;
    given.set_item("pending_puts", status.pending_puts)?;
    given.set_item("connections", status.connections)?;
    given.set_item("spaces", status.spaces)?;
    given.set_item("data_directory", &status.data_directory)?;
    given.set_item("local", status.local.as_ref().map(|local| local_to_python(py, local)).transpose()?)?;
    Ok(given)
}

fn tier_to_python<'py>(py: Python<'py>, tier: &wire::TierStatus) -> PyResult<Bound<'py, PyDict>> {
    let given = PyDict::new(py);
    given.set_item("tier", word::tier(tier.tier))?;
    given.set_item("state", &tier.state)?;
    given.set_item("detail", &tier.detail)?;
    let numbers = [
        ("capacity_bytes", tier.capacity_bytes),
        ("used_bytes", tier.used_bytes),
        ("blocks", tier.blocks),
        ("hits", tier.hits),
        ("stores", tier.stores),
        ("evictions", tier.evictions),
        ("corrupt", tier.corrupt),
        ("bytes_read", tier.bytes_read),
        ("bytes_written", tier.bytes_written),
        ("in_flight", tier.in_flight),
        ("queued", tier.queued),
    ];
    numbers.into_iter().try_for_each(|(name, number)| given.set_item(name, number))?;
    Ok(given)
}

fn local_to_python<'py>(py: Python<'py>, local: &wire::LocalStatus) -> PyResult<Bound<'py, PyDict>> {
    let given = PyDict::new(py);
    let numbers = [
        ("clients", local.clients),
        ("reservations", local.reservations),
        ("reserved_bytes", local.reserved_bytes),
        ("quarantined_slots", local.quarantined_slots),
        ("quarantined_bytes", local.quarantined_bytes),
        ("requests", local.requests),
        ("put_in_place_bytes", local.put_in_place_bytes),
        ("acquired_bytes", local.acquired_bytes),
        ("put_copied_bytes", local.put_copied_bytes),
        ("gpu_memories", local.gpu_memories),
        ("moves", local.moves),
        ("moves_ended", local.moves_ended),
        ("moves_failed", local.moves_failed),
    ];
    numbers.into_iter().try_for_each(|(name, number)| given.set_item(name, number))?;
    Ok(given)
}
