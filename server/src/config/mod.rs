//! Settings: one table drives reading, checking, `kvtierd settings` and the document.
//!
//! A value is written in the file (`host.bytes = "4GiB"` under `[host]`), in the environment (`KVTIER_HOST__BYTES`) or
//! as a flag (`--set host.bytes=4GiB`); the last of these wins over the ones before, and over the default. Every value
//! is first a [`value::Literal`] with its origin, then a [`value::Value`], then a field of a section's plain struct.
//! Components never see this module: `assemble` turns sections into their own settings.
//!
//! [`Config::load`] reports *all* problems at once and changes nothing on the machine.
//!
//! Reading order: [`sections`], [`table`], [`value`], [`unit`], [`source`], `resolve`, `check`, [`print`].

mod check;
pub mod machine;
pub mod print;
pub mod problem;
mod resolve;
pub mod sections;
pub mod source;
pub mod table;
#[cfg(test)]
mod tests;
pub mod unit;
pub mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use check::is_loopback;
use machine::Machine;
use problem::{Origin, Problem, Problems};
use resolve::Resolved;
pub use sections::{
    Admission, Domain, EngineEvents, Eviction, GpuDevice, HashForm, Hbm, HbmPool, Host, HugePages, Index, Io, Limits,
    Listen, Local, Log, LogFormat, MemoryLock, Nvme, Policy, PublishEvents, Shutdown, Tls, Trace, Wal,
};
pub use source::{FlagValue, Sources};

/// Name of the host tier's first domain: tenants that no `[domain.NAME]` names.
pub const NODE_DOMAIN: &str = "node";

/// Every setting, understood and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where the daemon keeps what outlives it.
    pub data_directory: PathBuf,
    /// Whether a missing data directory is created: it has its default, or `--create` was given.
    pub creates_data_directory: bool,
    /// `[listen]`.
    pub listen: Listen,
    /// `[tls]`.
    pub tls: Tls,
    /// `[host]`.
    pub host: Host,
    /// `[hbm]`.
    pub hbm: Hbm,
    /// `[nvme]`.
    pub nvme: Nvme,
    /// `[policy]`.
    pub policy: Policy,
    /// `[wal]`.
    pub wal: Wal,
    /// `[index]`.
    pub index: Index,
    /// `[limits]`.
    pub limits: Limits,
    /// `[local]`.
    pub local: Local,
    /// `[domain.NAME]`, by name.
    pub domains: BTreeMap<String, Domain>,
    /// `[engine_events.NAME]`, by name.
    pub engine_events: BTreeMap<String, EngineEvents>,
    /// `[publish_events]`.
    pub publish_events: PublishEvents,
    /// `[log]`.
    pub log: Log,
    /// `[trace]`.
    pub trace: Trace,
    /// `[shutdown]`.
    pub shutdown: Shutdown,
}

/// Settings as read, with everything that is wrong with them.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The settings. Where one was refused, its default stands in.
    pub config: Config,
    resolved: Resolved,
    /// All problems; the settings may be used only if there are none.
    pub problems: Vec<Problem>,
}

impl Reading {
    /// Who set the setting at `path`.
    pub fn origin(&self, path: &str) -> Origin {
        self.resolved.origin(path)
    }

    /// The setting's value as TOML.
    pub fn show(&self, path: &str) -> Option<String> {
        self.resolved.values.show(path)
    }
}

impl Config {
    /// Reads and checks all settings. `create`: a missing data directory will be created even if it was named.
    pub fn read(sources: &Sources, create: bool, machine: &dyn Machine) -> Reading {
        let mut problems = Vec::new();
        let given = source::read(sources, &mut problems);
        let resolved = resolve::resolve(given, machine, &mut problems);
        let config = Self::from_values(&resolved, create);
        problems.extend(check::check(&config, &resolved, machine));
        Reading { config, resolved, problems }
    }

    /// The settings, or everything that is wrong with them.
    pub fn load(sources: &Sources, create: bool, machine: &dyn Machine) -> Result<Self, Problems> {
        let reading = Self::read(sources, create, machine);
        if reading.problems.is_empty() { Ok(reading.config) } else { Err(Problems(reading.problems)) }
    }

    fn from_values(resolved: &Resolved, create: bool) -> Self {
        let values = &resolved.values;
        let data_directory = sections::Top::read(values).data_directory;
        Self {
            creates_data_directory: create || data_directory == Path::new(sections::DATA_DIRECTORY),
            data_directory,
            listen: Listen::read(values),
            tls: Tls::read(values),
            host: Host::read(values),
            hbm: Hbm::read(values),
            nvme: Nvme::read(values),
            policy: Policy::read(values),
            wal: Wal::read(values),
            index: Index::read(values),
            limits: Limits::read(values),
            local: Local::read(values),
            domains: resolved.sections("domain.", Domain::read_at),
            engine_events: resolved.sections("engine_events.", EngineEvents::read_at),
            publish_events: PublishEvents::read(values),
            log: Log::read(values),
            trace: Trace::read(values),
            shutdown: Shutdown::read(values),
        }
    }
}
