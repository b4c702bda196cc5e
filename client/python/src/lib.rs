//! The native half of the Python package `kvtier`: thin classes over `kvtier-client`, and views on its memory.
//!
//! It adds no protocol: every call is one of `kvtier_client::Client` or `kvtier_client::LocalClient`, with arguments
//! converted before and answers after it. What it does add is what Python needs:
//!
//! *The GIL.* Whatever may wait runs without it ([`runtime`], [`lane`]), and so does every copy of more than a few bytes
//! ([`memory`]). No thread of ours ever takes it while something holds a lock that a Python thread could want.
//!
//! *Calls nobody waits for.* `*_start` puts a call on one of the client's own threads ([`lane`]: bounded queues
//! for what is answered at once, for room, for loads and for what else waits for disks) and returns a [`pending`] answer. When nobody
//! wants the answer any more it is dropped there: leases end, reservations are given up.
//!
//! *Memory.* A view (buffer or DLPack) of a block owns a reference to what was acquired, so the mapping outlives every
//! view, whatever is released, closed or restarted meanwhile; `still_valid()` tells whether the bytes were the block's.
//! A slot cannot be committed or given up while a writable view of it is alive: a commit is the word that nobody
//! writes any more.
//!
//! *Forks.* A child has no connection and no arena. Each object knows the process that made it ([`process`]): in a child
//! its methods raise, and dropping it there sends nothing over the parent's connection.
//!
//! Reading order: [`remote`] (gRPC), [`local`], [`reservation`], [`acquired`], [`load`], [`gpu`], [`pool`], [`memory`], then what they stand on.
// Only `memory` may: it gives Python addresses.
#![deny(unsafe_code)]

mod acquired;
mod argument;
mod error;
mod event;
mod gpu;
mod identity;
mod lane;
mod load;
mod local;
mod memory;
mod outcome;
mod pending;
mod pool;
mod process;
mod remote;
mod reservation;
mod runs;
mod runtime;
mod status;

use pyo3::prelude::*;

/// What `kvtier/__init__.py` takes its classes from.
#[pymodule]
#[pyo3(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<remote::Client>()?;
    module.add_class::<local::LocalClient>()?;
    module.add_class::<acquired::Acquired>()?;
    module.add_class::<load::Loaded>()?;
    module.add_class::<gpu::GpuMemory>()?;
    module.add_class::<gpu::Loading>()?;
    module.add_class::<reservation::Reservation>()?;
    module.add_class::<memory::Block>()?;
    module.add_class::<memory::Slot>()?;
    module.add_class::<pending::Pending>()?;
    module.add_class::<pool::Pool>()?;
    module.add_class::<pool::Filled>()?;
    module.add_class::<outcome::Outcome>()?;
    module.add_class::<outcome::Miss>()?;
    module.add_class::<outcome::Resident>()?;
    module.add_class::<outcome::Lease>()?;
    module.add_class::<outcome::Lookup>()?;
    module.add_class::<outcome::OpenSpace>()?;
    module.add_class::<event::Events>()?;
    module.add_class::<event::EventBatch>()?;
    module.add_class::<event::Event>()?;
    module.add_function(wrap_pyfunction!(identity::space_digest, module)?)?;
    Ok(())
}
