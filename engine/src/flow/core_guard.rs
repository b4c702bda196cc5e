//! The core while somebody works on it.

use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;

use super::Core;
use super::annex::AnnexSlot;
use crate::port::Memory;

/// Exclusive use of the core. When it ends, the memory is told which host slots were given back, so that nobody can be
/// handed such a slot before those who still read it without a hold can tell (see [`Memory::renew`]). After it has ended,
/// the annex is told which blocks are gone.
pub(crate) struct CoreGuard<'a> {
    /// Until it ends.
    core: Option<MutexGuard<'a, Core>>,
    memory: &'a dyn Memory,
    annex: &'a AnnexSlot,
}

impl<'a> CoreGuard<'a> {
    pub(super) fn new(core: MutexGuard<'a, Core>, memory: &'a dyn Memory, annex: &'a AnnexSlot) -> Self {
        Self { core: Some(core), memory, annex }
    }
}

impl Deref for CoreGuard<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        self.core.as_ref().expect("it has not ended")
    }
}

impl DerefMut for CoreGuard<'_> {
    fn deref_mut(&mut self) -> &mut Core {
        self.core.as_mut().expect("it has not ended")
    }
}

impl Drop for CoreGuard<'_> {
    fn drop(&mut self) {
        let Some(mut core) = self.core.take() else { return };
        let memory = self.memory;
        core.catalog.take_given_back().for_each(|(arena, offset)| memory.renew(arena, offset));
        let gone = std::mem::take(&mut core.gone);
        drop(core);
        if let Some(annex) = self.annex.get().filter(|_| !gone.is_empty()) {
            annex.forget(&gone);
        }
    }
}
