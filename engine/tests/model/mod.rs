//! The model the catalog is compared with.
pub(crate) mod steps;
pub(crate) mod world;
