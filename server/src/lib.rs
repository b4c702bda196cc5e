//! The daemon: reads settings, opens what is on disk, listens, and hands calls to the engine.
//!
//! It is *not* where anything is decided about blocks (the engine), and the only crate that names concrete tiers.
//!
//! Reading order: [`config`], [`home`], [`listen`], [`http`], [`observe`], [`command`].
#![forbid(unsafe_code)]

pub mod command;
pub mod config;
pub mod home;
pub mod service;
