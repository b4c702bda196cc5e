//! The settings themselves, section by section. Adding a row here is all it takes to add a setting.

mod domain;
mod engine_events;
mod hbm;
mod host;
mod index;
mod limits;
mod listen;
mod local;
mod nvme;
mod observe;
mod wal;

use super::table::{Bound, Known, Preset, Setting, section};
use super::unit::{GIB, KIB, MIB, TIB};
use super::value::{Kind, Value, Whole};

pub use domain::Domain;
pub use engine_events::{EngineEvents, HashForm, PublishEvents};
pub use hbm::{GpuDevice, Hbm, HbmPool};
pub use host::{Host, HugePages, MemoryLock};
pub use index::Index;
pub use limits::{Limits, Shutdown};
pub use listen::{Listen, Tls};
pub use local::Local;
pub(crate) use nvme::HEAD_BYTES as NVME_HEAD_BYTES;
pub use nvme::{Admission, Eviction, Io, Nvme, Policy};
pub use observe::{Log, LogFormat, Trace};
pub use wal::Wal;

section! {
    /// Settings that belong to no section.
    Top at "" {
        /// Where the daemon keeps everything that outlives it: lock, identity, event log, index and, unless they are
        /// put elsewhere, the NVMe tier's files. A missing directory is created only if it is ./kvtier-data, or with the
        /// flag --create.
        data_directory: std::path::PathBuf = Kind::Path, Preset::Text(DATA_DIRECTORY), Bound::NONE,
            wrong "another directory means an empty cache; a directory of another daemon is refused by its lock";
    }
}

/// The data directory nobody had to name, and so the only one that is created without being asked for.
pub const DATA_DIRECTORY: &str = "./kvtier-data";

/// One section: its name in the file, what it is for, and its rows.
pub(crate) struct Section {
    /// Name; empty for the top level.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) doc: &'static str,
    /// Its rows.
    pub(crate) settings: &'static [Setting],
}

impl Section {
    /// The part before the name, if there may be any number of such sections, each with a name of its own.
    pub(crate) fn repeated(&self) -> Option<&'static str> {
        self.name.strip_suffix(NAME)
    }

    /// The path of such a section with this name.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}{name}", self.repeated().unwrap_or_default())
    }
}

/// Stands for a name in the path of a section of which there may be several.
const NAME: &str = "NAME";

macro_rules! sections {
    ($($type:ident at $name:literal,)+) => {
        /// All sections. A computed default may look only at settings above its own.
        pub(crate) const SECTIONS: &[Section] =
            &[$(Section { name: $name, doc: $type::DOC, settings: $type::SETTINGS },)+];
    };
}

sections! {
    Top at "",
    Listen at "listen",
    Tls at "tls",
    Host at "host",
    Hbm at "hbm",
    Nvme at "nvme",
    Policy at "policy",
    Wal at "wal",
    Index at "index",
    Limits at "limits",
    Local at "local",
    Domain at "domain.NAME",
    EngineEvents at "engine_events.NAME",
    PublishEvents at "publish_events",
    Log at "log",
    Trace at "trace",
    Shutdown at "shutdown",
}

/// Every row of the sections there are once, in the order of the table.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    SECTIONS.iter().filter(|section| section.repeated().is_none()).flat_map(|section| section.settings)
}

/// The sections of which there may be several.
pub(crate) fn repeated() -> impl Iterator<Item = &'static Section> {
    SECTIONS.iter().filter(|section| section.repeated().is_some())
}

/// Nanoseconds of so many milliseconds, for bounds.
const fn ms(count: u64) -> u64 {
    count * 1_000_000
}

/// Nanoseconds of so many seconds, for bounds.
const fn seconds(count: u64) -> u64 {
    ms(count * 1_000)
}

/// `<data_directory>/name`.
fn inside(known: &Known<'_>, name: &str) -> std::path::PathBuf {
    let directory: std::path::PathBuf = known.values.find("data_directory").expect("data_directory is the first row");
    directory.join(name)
}

/// A size computed earlier in the table.
fn size(known: &Known<'_>, path: &str) -> u64 {
    known.values.find(path).expect("a default looks only at rows above it")
}

/// The largest multiple of `step` that is not above `bytes`.
const fn round_down(bytes: u64, step: u64) -> u64 {
    bytes / step * step
}
