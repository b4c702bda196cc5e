//! Placeholder; see `catalog/plan.rs`.
pub mod plan;
