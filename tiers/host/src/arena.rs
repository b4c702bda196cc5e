//! The arena: a sealed memfd, mapped once, cut into slots by the catalog.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use crc32fast::Hasher;
use kvtier_engine::place::{PAGE_BYTES, Slot};
use kvtier_engine::port::{DeviceGeometry, Memory, Region};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::Advice;

use crate::generation::Generations;
use crate::machine;
use crate::mapping::Mapping;
use crate::prefault::Prefaulting;
use crate::report::{ArenaReport, HugePages, Locking};
use crate::settings::{ArenaSettings, HUGE_PAGE_BYTES, Problem, Wish};
use crate::view::View;

/// Bytes that are copied and then checksummed while they are still in the first-level cache, so that DRAM is read
/// once. See `examples/copy_rate.rs`.
const COPY_CHUNK_BYTES: usize = 256 << 10;
const PAGE: usize = PAGE_BYTES as usize;

/// Why there is no arena.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// Settings that cannot work anywhere.
    #[error("the arena's settings are invalid: {}", list(.0))]
    Invalid(Vec<Problem>),
    /// More than the machine has.
    #[error(
        "an arena of {bytes} bytes does not fit the {memory_bytes} bytes of memory this process may use; lower bytes"
    )]
    ExceedsMemory {
        /// Asked for.
        bytes: u64,
        /// There is.
        memory_bytes: u64,
    },
    /// Something that was required cannot be had here.
    #[error("{what} is required but cannot be had: {why}; {remedy}")]
    Required {
        /// What.
        what: &'static str,
        /// Why not.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// The kernel refused plain memory.
    #[error("{action} an arena of {bytes} bytes failed")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// Asked for.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

/// Memory of one domain of the host tier. Slots are checked against its bounds on every access; who may touch a slot is the catalog's
/// decision.
pub struct Arena {
    mapping: Arc<Mapping>,
    geometry: DeviceGeometry,
    report: ArenaReport,
    prefaulting: Prefaulting,
    generations: Generations,
}

impl Arena {
    /// Maps an arena. Takes well under a millisecond whatever its size: pages come when touched or prefaulted.
    pub fn create(settings: &ArenaSettings) -> Result<Self, ArenaError> {
        settings.validate().map_err(ArenaError::Invalid)?;
        let memory_bytes = machine::memory_bytes();
        if settings.bytes > memory_bytes {
            return Err(ArenaError::ExceedsMemory { bytes: settings.bytes, memory_bytes });
        }
        let (mapping, huge_pages) = map(settings)?;
        let locking = lock(&mapping, settings, &huge_pages)?;
        // Other tenants' bytes have no place in a core dump; a kernel that cannot do it only makes larger dumps.
        let _ = mapping.advise(Advice::LinuxDontDump);
        let (bytes, extent_bytes) = (settings.bytes, settings.extent_bytes);
        let refused = |source| ArenaError::Refused { action: "counting generations of", bytes, source };
        let generations = Generations::of_arena(bytes).map_err(refused)?;
        let prefaulting = Prefaulting::of_extents(extent_bytes, huge_pages.are_collapsed());
        Ok(Self {
            mapping: Arc::new(mapping),
            geometry: DeviceGeometry { bytes, extent_bytes, first_extent_offset: 0 },
            report: ArenaReport { bytes, extent_bytes, huge_pages, locking },
            prefaulting,
            generations,
        })
    }

    /// What was got and why not more.
    pub fn report(&self) -> &ArenaReport {
        &self.report
    }

    /// What was got, with the huge pages made so far, for people.
    pub fn describe(&self) -> String {
        let (report, progress) = (&self.report, self.prefault_progress());
        if !report.huge_pages.are_collapsed() {
            return report.to_string();
        }
        let why = progress.why_not_huge.map(|why| format!(" ({why})")).unwrap_or_default();
        let (huge, touched) = (progress.huge_bytes, progress.done_bytes);
        format!("{report}; {} of {} MiB touched are in 2 MiB pages{why}", huge >> 20, touched >> 20)
    }

    /// Address of the first byte, to register the whole arena with a device once.
    pub fn address(&self) -> usize {
        self.mapping.address()
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.geometry.bytes
    }

    /// Keeps the pages mapped for as long as it lives, for whoever registers them with a device (INV-8).
    pub fn keep(&self) -> Arc<dyn Any + Send + Sync> {
        self.mapping.clone()
    }

    /// The memory for another process: a descriptor of its own, with which it can only be read, or also written.
    pub fn share(&self, writable: bool) -> io::Result<OwnedFd> {
        reopen(self.as_fd(), writable)
    }

    /// The generation table for another process, read-only: one little-endian `u64` per page of the arena.
    pub fn share_generations(&self) -> io::Result<OwnedFd> {
        reopen(self.generations.as_fd(), false)
    }

    /// Size of the generation table.
    pub fn generation_bytes(&self) -> u64 {
        self.generations.bytes()
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    pub(crate) fn prefaulting(&self) -> &Prefaulting {
        &self.prefaulting
    }

    /// First byte of the slot in the mapping.
    fn start(&self, slot: Slot) -> usize {
        let end = slot.offset.checked_add(u64::from(slot.bytes));
        let inside = slot.device == 0 && end.is_some_and(|end| end <= self.geometry.bytes);
        assert!(inside, "{slot:?} lies outside the arena of {} bytes", self.geometry.bytes);
        assert!(slot.offset.is_multiple_of(PAGE_BYTES), "{slot:?} is not aligned to pages");
        assert!(u64::from(slot.bytes) > PAGE_BYTES, "{slot:?} has no payload");
        slot.offset as usize
    }

    /// First byte of a range of the slot's payload in the mapping.
    fn payload(&self, slot: Slot, offset: u32, bytes: usize) -> usize {
        let start = self.start(slot);
        let end = u64::from(offset) + bytes as u64;
        let room = u64::from(slot.payload_bytes_max());
        assert!(end <= room, "payload bytes {offset}..{end} lie outside {slot:?}, whose payload is {room} bytes");
        start + PAGE + offset as usize
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena").field("report", &self.report).finish_non_exhaustive()
    }
}

/// The memfd, to be passed to local workers, who may map it. Sealed: they cannot change its size.
impl AsFd for Arena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mapping.as_fd()
    }
}

impl Memory for Arena {
    fn geometry(&self) -> Vec<DeviceGeometry> {
        vec![self.geometry]
    }

    fn region(&self, slot: Slot) -> Region {
        let start = self.start(slot);
        Region {
            address: self.mapping.address() + start,
            arena_offset: slot.offset,
            bytes: slot.bytes,
            keep: self.mapping.clone(),
        }
    }

    fn write(&self, slot: Slot, offset: u32, bytes: &[u8]) -> u32 {
        let mut at = self.payload(slot, offset, bytes.len());
        let mut hasher = Hasher::new();
        for chunk in bytes.chunks(COPY_CHUNK_BYTES) {
            self.mapping.copy_in(at, chunk);
            hasher.update(self.mapping.slice(at, chunk.len()));
            at += chunk.len();
        }
        hasher.finalize()
    }

    fn write_header(&self, slot: Slot, header: &[u8]) {
        let start = self.start(slot);
        assert!(header.len() <= PAGE, "a header of {} bytes is larger than a page", header.len());
        self.mapping.copy_in(start, header);
        self.mapping.zero(start + header.len(), PAGE - header.len());
    }

    fn read_header(&self, slot: Slot, header: &mut [u8]) {
        let start = self.start(slot);
        assert!(header.len() <= PAGE, "a header of {} bytes is larger than a page", header.len());
        self.mapping.copy_out(start, header);
    }

    fn checksum(&self, slot: Slot, offset: u32, length: u32) -> u32 {
        let at = self.payload(slot, offset, length as usize);
        crc32fast::hash(self.mapping.slice(at, length as usize))
    }

    fn combine(&self, first: u32, second: u32, second_length: u64) -> u32 {
        let mut hasher = Hasher::new_with_initial(first);
        hasher.combine(&Hasher::new_with_initial_len(second, second_length));
        hasher.finalize()
    }

    fn renew(&self, arena: u16, slot_offset: u64) {
        assert!(arena == 0, "this memory is one arena, there is no number {arena}");
        self.generations.renew(slot_offset);
    }

    fn generation(&self, slot: Slot) -> u64 {
        self.generations.of_slot(slot.offset).load(Ordering::SeqCst)
    }

    fn view(&self, slot: Slot, offset: u32, length: u32, pin: Box<dyn Any + Send + Sync>) -> Bytes {
        let at = self.payload(slot, offset, length as usize);
        View::lend(self.mapping.clone(), at, length as usize, pin)
    }
}

/// A second description of a memfd, with its own access mode; a duplicate would share the first one's.
fn reopen(file: BorrowedFd<'_>, writable: bool) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())?)
}

fn map(settings: &ArenaSettings) -> Result<(Mapping, HugePages), ArenaError> {
    let bytes = settings.bytes;
    if settings.huge_pages == Wish::Off {
        return Ok((map_small(bytes)?, HugePages::Small { why: "huge_pages is off".into() }));
    }
    let why_not_reserved = match map_reserved(bytes) {
        Ok(mapping) => return Ok((mapping, HugePages::Reserved)),
        Err(why) => why,
    };
    if settings.huge_pages == Wish::Require {
        let remedy = format!("set vm.nr_hugepages to at least {}", bytes.div_ceil(HUGE_PAGE_BYTES));
        return Err(ArenaError::Required { what: "backing with huge pages", why: why_not_reserved, remedy });
    }
    let mapping = map_small(bytes)?;
    let huge_pages = ask_transparent(&mapping, settings, why_not_reserved);
    Ok((mapping, huge_pages))
}

fn ask_transparent(mapping: &Mapping, settings: &ArenaSettings, why_not_reserved: String) -> HugePages {
    let policy = machine::shared_huge_page_policy();
    let why = match (mapping.advise(Advice::LinuxHugepage), policy.as_deref()) {
        (Ok(()), Some("advise" | "always" | "within_size" | "force")) => {
            return HugePages::Transparent { why_not_reserved };
        }
        (Err(error), _) => format!("reserved: {why_not_reserved}; transparent: {error}"),
        (Ok(()), policy) => {
            let policy = policy.unwrap_or("unknown");
            format!("reserved: {why_not_reserved}; transparent: shmem_enabled is {policy}")
        }
    };
    match settings.prefault {
        _ if policy.as_deref() == Some("deny") => HugePages::Small { why },
        false => HugePages::Small { why: format!("{why}; collapsed: prefault is off") },
        true => HugePages::Collapsed { why },
    }
}

fn map_reserved(bytes: u64) -> Result<Mapping, String> {
    if !bytes.is_multiple_of(HUGE_PAGE_BYTES) {
        return Err(format!("{bytes} is not a multiple of {HUGE_PAGE_BYTES}"));
    }
    let file = sealed_file(bytes, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB).map_err(|error| error.to_string())?;
    // Mapping reserves all pages, so a later touch cannot fail for lack of them.
    Mapping::of_huge_file(file, bytes as usize).map_err(|error| format!("too few free ones ({error})"))
}

fn map_small(bytes: u64) -> Result<Mapping, ArenaError> {
    let refused = |action| move |source| ArenaError::Refused { action, bytes, source };
    let file = sealed_file(bytes, MemfdFlags::empty()).map_err(refused("creating"))?;
    Mapping::of_file(file, bytes as usize).map_err(refused("mapping"))
}

fn sealed_file(bytes: u64, pages: MemfdFlags) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | pages;
    let file = match rustix::fs::memfd_create("kvtier-host", flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before 6.3 do not know the flag.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("kvtier-host", flags)?,
        other => other?,
    };
    rustix::fs::ftruncate(&file, bytes)?;
    // Whoever is given a read-only descriptor and is another user cannot make a writable one of it.
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

fn lock(mapping: &Mapping, settings: &ArenaSettings, huge_pages: &HugePages) -> Result<Locking, ArenaError> {
    if *huge_pages == HugePages::Reserved {
        return Ok(Locking::NotNeeded);
    }
    if settings.mlock == Wish::Off {
        return Ok(Locking::Swappable { why: "mlock is off".into() });
    }
    let Err(error) = mapping.lock_on_fault() else { return Ok(Locking::Locked) };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let limit = limit.map_or("unlimited".into(), |bytes| format!("{bytes} bytes"));
    let why = format!("mlock: {error}, the memlock limit is {limit}");
    if settings.mlock == Wish::Require {
        let remedy = format!("raise LimitMEMLOCK to {} or grant CAP_IPC_LOCK", settings.bytes);
        return Err(ArenaError::Required { what: "locking the arena", why, remedy });
    }
    Ok(Locking::Swappable { why })
}
