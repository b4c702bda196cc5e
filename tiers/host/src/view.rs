//! Payload bytes lent out without a copy.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;

use crate::mapping::Mapping;

/// Owner of a lent range: keeps the pages mapped and the slot from being reused. The pin goes first.
pub(crate) struct View {
    _pin: Box<dyn Any + Send + Sync>,
    mapping: Arc<Mapping>,
    at: usize,
    bytes: usize,
}

impl View {
    /// Lends `bytes` bytes from `at`. The range was checked against the slot and the arena.
    pub(crate) fn lend(mapping: Arc<Mapping>, at: usize, bytes: usize, pin: Box<dyn Any + Send + Sync>) -> Bytes {
        Bytes::from_owner(Self { _pin: pin, mapping, at, bytes })
    }
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        self.mapping.slice(self.at, self.bytes)
    }
}
