//! The daemon `kvtierd`: the service over the engine, and the only crate that names concrete tiers.
#![forbid(unsafe_code)]

pub mod service;
