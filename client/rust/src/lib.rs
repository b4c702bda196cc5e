//! The Rust client of `kvtierd`: open a space, put blocks, find the longest resident prefix of a chain, get its bytes.
//!
//! Every block that comes back was checked against its CRC-32 by this crate; a block that disagrees is the error
//! [`ClientError::Corrupt`], and its bytes are never returned. A miss is an answer, not an error, and so is a refusal
//! ([`PutOutcome::Declined`]). Nothing waits without a bound: see [`ConnectOptions`].
//!
//! What this crate is *not*: it keeps no cache and no retry queue. Drop a [`Client`] at any point and nothing is lost
//! but the leases taken under its name, which end at their deadline. When the daemon restarts, calls in flight fail
//! with [`ClientError::Unavailable`] or [`ClientError::Indeterminate`], and the next call connects again by itself.
//!
//! Memory: the bytes given to [`PutStream::send`] are shared, not copied, until gRPC encodes them; at most
//! [`ConnectOptions::put_bytes_in_flight_max`] are held. A block that arrives in one frame is handed out as received.
//!
//! A client has up to three connections: one for small calls and events, one for puts, one for gets, so that a lookup
//! does not wait behind blocks. All of them carry the client's name, and its leases belong to that name.
//!
//! Workers on the daemon's own machine read and write blocks in its memory instead: see [`local`].
//!
//! Reading order: [`endpoint`] and [`connect`] (where the daemon is), [`client`] (every call), [`put`] and [`get`]
//! (the two streams), [`event`] (following the log), [`why`] (explaining a request), [`error`] (what to do when it fails).
//!
//! ```no_run
//! use bytes::Bytes;
//! use kvtier_client::{Client, GetAnswer, PutBlock, SpaceDescription};
//!
//! # async fn example() -> Result<(), kvtier_client::ClientError> {
//! let client = Client::connect("unix:///run/kvtier/kvtierd.sock").await?;
//! let description = SpaceDescription::single_part("acme", "llama-3.1-8b", 16, 1 << 20);
//! let space = client.open_space("llama", &description).await?.space;
//!
//! let keys: Vec<Bytes> = vec![Bytes::from_static(b"first"), Bytes::from_static(b"second")];
//! let mut puts = client.put_stream(space);
//! puts.send(PutBlock::new(keys[0].clone(), vec![1; 4096])).await?;
//! puts.send(PutBlock::new(keys[1].clone(), vec![2; 4096]).after(keys[0].clone())).await?;
//! for answer in puts.finish().await? {
//!     println!("block {} is {:?}", answer.tag, answer.outcome);
//! }
//!
//! let mut answers = client.get_keys(space, &keys).await?;
//! while let Some(answer) = answers.next().await? {
//!     match answer {
//!         GetAnswer::Block(block) => println!("{}: {} bytes, verified", block.index, block.bytes.len()),
//!         GetAnswer::Miss(miss) => println!("{}: {}", miss.index, miss.miss.detail),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
// Only `local::mapping` may: it is the daemon's memory in this process.
#![deny(unsafe_code)]

mod assemble;
mod call;
mod channel;
mod decode;
mod pause;

pub mod client;
pub mod connect;
pub mod endpoint;
pub mod error;
pub mod event;
pub mod get;
pub mod local;
pub mod lookup;
pub mod node;
pub mod put;
pub mod space;
pub mod why;
pub mod word;

pub use client::Client;
pub use connect::{ConnectOptions, TlsOptions};
pub use endpoint::Endpoint;
pub use error::ClientError;
pub use event::{EventBatch, EventStart, Follower, Subscription};
pub use get::{Block, GetAnswer, GetStream, MissedBlock};
pub use local::{AsyncLocalClient, LocalClient, LocalOptions};
pub use lookup::{Lease, Lookup, Resident};
pub use node::ScrubStream;
pub use put::{PutAnswer, PutBlock, PutOutcome, PutStream};
pub use space::{OpenSpace, OpenedSpace};

pub use kvtier_identity::{KEY_BYTES_MAX, PartSpec, RankGeometry, SpaceDescription, SpaceDigest};
/// The generated messages, for the answers that are handed out as they came (status, events, misses).
pub use kvtier_proto::v1 as wire;
pub use kvtier_proto::v1::{DeclineReason, Durability, MissReason, Tier, Verdict};
