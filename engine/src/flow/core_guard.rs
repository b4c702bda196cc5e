//! The core while somebody works on it.

use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;

use super::Core;
use crate::port::Memory;

/// Exclusive use of the core. When it ends, the memory is told which host slots were given back, so that nobody can be
/// handed such a slot before those who still read it without a hold can tell (see [`Memory::renew`]).
pub(crate) struct CoreGuard<'a> {
    core: MutexGuard<'a, Core>,
    memory: &'a dyn Memory,
}

impl<'a> CoreGuard<'a> {
    pub(super) fn new(core: MutexGuard<'a, Core>, memory: &'a dyn Memory) -> Self {
        Self { core, memory }
    }
}

impl Deref for CoreGuard<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl DerefMut for CoreGuard<'_> {
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.core
    }
}

impl Drop for CoreGuard<'_> {
    fn drop(&mut self) {
        let memory = self.memory;
        self.core.catalog.take_given_back().for_each(|(arena, offset)| memory.renew(arena, offset));
    }
}
