//! What every implementation of the engine's `Tier` port must do. Adapters and fakes run all of [`CHECKS`], each over a
//! [`World`] of its own, on an executor of their choice:
//!
//! ```
//! use std::sync::Arc;
//!
//! use kvtier_nvme::conformance::{CHECKS, World};
//! use kvtier_nvme::fake::{HandClock, HeapMemory, MemoryTier, Tasks};
//! use kvtier_nvme::layout::geometry;
//!
//! for (name, check) in CHECKS {
//!     println!("{name}");
//!     let memory = Arc::new(HeapMemory::of_bytes(4 << 20));
//!     let tier = Arc::new(MemoryTier::new(memory.clone(), vec![geometry(4 << 20, 256 << 10)]));
//!     let damaged = tier.clone();
//!     let damage = Box::new(move |slot, at| damaged.damage(slot, at));
//!     Tasks::new(1, HandClock::default()).run(check(World { tier, memory, damage }));
//! }
//! ```
//!
//! A check panics with what was wrong. It needs a host memory of at least 2 MiB and, on every device, at least four
//! extents of at least 256 KiB, blank or used.

mod integrity;
mod movement;
mod world;

pub use world::World;

use kvtier_engine::port::BoxFuture;

/// A named check.
pub type Check = (&'static str, fn(World) -> BoxFuture<()>);

macro_rules! checks {
    ($($module:ident :: $name:ident),* $(,)?) => {
        /// All checks.
        pub const CHECKS: &[Check] = &[$((stringify!($name), |world| Box::pin($module::$name(world)))),*];
    };
}

checks! {
    movement::a_stored_block_is_loaded_as_it_was,
    movement::a_batch_is_answered_in_its_order,
    movement::an_empty_batch_is_answered,
    movement::a_store_leaves_its_neighbours_alone,
    movement::a_load_leaves_its_neighbours_in_memory_alone,
    movement::a_dropped_store_still_finishes,
    movement::a_dropped_load_harms_nobody,
    movement::every_device_is_reached,
    movement::a_sync_answers_and_can_be_shared,
    movement::health_has_an_entry_per_device,
    integrity::another_block_than_expected_is_corrupt,
    integrity::an_overwritten_block_is_corrupt_for_its_old_owner,
    integrity::a_slot_that_was_never_written_is_corrupt,
    integrity::a_flipped_bit_is_corrupt_wherever_it_is,
    integrity::a_slot_outside_the_devices_is_no_hit,
    integrity::a_payload_changed_after_its_commit_is_not_stored,
}
