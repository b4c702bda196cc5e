//! The model the catalog is compared with.
pub mod steps;
pub mod world;
