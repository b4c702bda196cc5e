//! The daemon: reads settings, opens what is on disk, listens, and hands calls to the engine.
//!
//! It is *not* where anything is decided about blocks (the engine), and the only crate that names concrete tiers.
//!
//! Reading order: [`command`], [`daemon`], [`config`], [`home`], [`listen`], [`http`], [`observe`], [`process`].
#![forbid(unsafe_code)]

pub mod command;
pub mod config;
pub mod daemon;
pub mod home;
pub mod http;
pub mod listen;
pub mod observe;
pub mod process;
