//! What makes two KV blocks interchangeable, and how a block is named.
//!
//! This crate is shared with every client: an engine connector, a router and the daemon must all derive the same
//! [`SpaceDigest`] from the same description, or blocks would be shared between models that only look alike.
//! It does no I/O, keeps no state, and is *not* where tenants are authenticated.
//!
//! Reading order: [`key`] (the engine's own name of a block), [`space`] (everything that must be equal),
//! [`block`] (the 128-bit name used on every tier).
//!
//! ```
//! use kvtier_identity::{Key, SpaceDescription, TenantSecret};
//!
//! let description = SpaceDescription::single_part("acme", "llama-3.1-8b", 16, 1 << 20);
//! let digest = description.digest().expect("the description is valid");
//! let key = Key::new(b"block-hash").expect("1 to 64 bytes");
//! let id = TenantSecret::from_bytes([7; 32]).block_id(&digest, &key);
//! assert_eq!(id, TenantSecret::from_bytes([7; 32]).block_id(&digest, &key));
//! assert_ne!(id, TenantSecret::from_bytes([8; 32]).block_id(&digest, &key));
//! ```
#![forbid(unsafe_code)]

pub mod block;
pub mod canonical;
pub mod key;
pub mod run;
pub mod space;

pub use block::{BlockId, TenantSecret};
pub use key::{KEY_BYTES_MAX, Key, KeyError};
pub use run::{KeyRun, RunError};
pub use space::{KeyRecipe, PartSpec, RankGeometry, SpaceDescription, SpaceDigest, SpaceError};
