//! Host memory as a GPU is given it.

use std::any::Any;
use std::sync::Arc;

use kvtier_engine::place::{PAGE_BYTES, Slot};
use kvtier_engine::port::Memory;

/// Host memory to be registered with a device.
#[derive(Clone)]
pub struct HostMemory {
    /// Address of the first byte in this process, a multiple of a page: what a real device is told.
    pub address: usize,
    /// Size in bytes.
    pub bytes: u64,
    /// The same bytes for a device that is no device.
    pub access: Arc<dyn HostAccess>,
    /// Keeps the pages mapped (INV-8).
    pub keep: Arc<dyn Any + Send + Sync>,
}

/// Reads and writes host memory in safe code. By the arena's aliasing rule a range has one writer or any number of readers.
pub trait HostAccess: Send + Sync + 'static {
    /// Fills `into` from `offset`.
    fn read(&self, offset: u64, into: &mut [u8]);
    /// Writes `from` to `offset`.
    fn write(&self, offset: u64, from: &[u8]);
}

/// An arena of the host tier, through the engine's [`Memory`] port: page by page, because that port knows slots only.
pub struct HostArena {
    memory: Arc<dyn Memory>,
    arena: u16,
}

const PAGE: usize = PAGE_BYTES as usize;

impl HostArena {
    /// The arena of that number.
    pub fn new(memory: Arc<dyn Memory>, arena: u16) -> Self {
        Self { memory, arena }
    }

    /// The slot whose payload is the page that begins at `offset`, or whose header page it is, for the first page.
    fn slot(&self, offset: u64) -> Slot {
        Slot { device: self.arena, offset: offset.saturating_sub(PAGE_BYTES), bytes: 2 * PAGE_BYTES as u32 }
    }

    fn read_page(&self, page: u64, from: usize, into: &mut [u8]) {
        if page == 0 {
            let mut whole = [0; PAGE];
            self.memory.read_header(self.slot(0), &mut whole);
            into.copy_from_slice(&whole[from..from + into.len()]);
        } else {
            let length = u32::try_from(into.len()).expect("at most a page");
            into.copy_from_slice(&self.memory.view(self.slot(page), from as u32, length, Box::new(())));
        }
    }

    fn write_page(&self, page: u64, at: usize, from: &[u8]) {
        if page == 0 {
            let mut whole = [0; PAGE];
            self.memory.read_header(self.slot(0), &mut whole);
            whole[at..at + from.len()].copy_from_slice(from);
            self.memory.write_header(self.slot(0), &whole);
        } else {
            self.memory.write(self.slot(page), at as u32, from);
        }
    }
}

/// Page offset, offset in the page, and bytes of the part of a range in one page.
fn pages(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let (page, inside) = (at / PAGE_BYTES * PAGE_BYTES, (at % PAGE_BYTES) as usize);
        let length = (bytes - done).min(PAGE - inside);
        let range = done..done + length;
        done += length;
        (length > 0).then_some((page, inside, range))
    })
}

impl HostAccess for HostArena {
    fn read(&self, offset: u64, into: &mut [u8]) {
        for (page, from, range) in pages(offset, into.len()) {
            self.read_page(page, from, &mut into[range]);
        }
    }

    fn write(&self, offset: u64, from: &[u8]) {
        for (page, at, range) in pages(offset, from.len()) {
            self.write_page(page, at, &from[range]);
        }
    }
}
