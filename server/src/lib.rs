//! The daemon: reads settings, opens what is on disk, listens, and hands calls to the engine.
//!
//! It is *not* where anything is decided about blocks (the engine), and the only crate that names concrete tiers.
//!
//! Reading order: [`command`], [`config`], [`home`], [`ground`], [`daemon`], [`assemble`], [`runtime`], [`listen`], [`service`], [`http`],
//! [`requests`], [`observe`], [`snapshot`], [`fsck`], [`process`], then
//! `zmtp`, `engine_events` and `publish`: events of other processes, and ours in their format.
#![forbid(unsafe_code)]

pub mod assemble;
pub mod command;
pub mod config;
pub mod daemon;
mod engine_events;
pub mod fsck;
pub mod ground;
pub mod home;
pub mod http;
pub mod listen;
pub mod local;
pub mod observe;
pub mod process;
mod publish;
pub mod requests;
pub mod runtime;
pub mod service;
pub mod snapshot;
mod zmtp;
