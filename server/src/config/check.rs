//! What no single value shows: settings that contradict each other, and settings the machine cannot keep.

mod domains;
mod engine_events;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::machine::{DirectoryState, FileState, Machine};
use super::problem::{Origin, Problem};
use super::resolve::Resolved;
use super::sections::NVME_HEAD_BYTES;
use super::{Config, unit};

/// Longest path of a unix socket, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Gathers problems; each is told at the origin of the setting that can put it right.
pub(crate) struct Check<'a> {
    config: &'a Config,
    resolved: &'a Resolved,
    machine: &'a dyn Machine,
    problems: Vec<Problem>,
}

/// Everything that is wrong with a set of values, on this machine. Changes nothing.
pub(crate) fn check(config: &Config, resolved: &Resolved, machine: &dyn Machine) -> Vec<Problem> {
    let mut check = Check { config, resolved, machine, problems: Vec::new() };
    check.listeners();
    check.local();
    check.domains();
    check.engine_events();
    check.exposure();
    check.tls();
    check.sizes();
    check.hbm_pool();
    check.nvme_size();
    check.data_directory();
    check.nvme_files();
    check.memory();
    check.disk();
    check.log_level();
    check.problems
}

impl Check<'_> {
    fn tell(&mut self, path: &str, message: String) {
        let problem = match self.resolved.origin(path) {
            Origin::Preset => Problem::general(message),
            origin => Problem::at(&origin, message),
        };
        self.problems.push(problem);
    }

    fn listeners(&mut self) {
        let listen = &self.config.listen;
        if listen.tcp.is_none() && listen.unix.is_none() {
            self.tell(
                "listen.tcp",
                "listen.tcp and listen.unix are both off: no client could connect; set one".to_owned(),
            );
        }
        if listen.tcp.is_some_and(|tcp| tcp.port() != 0 && Some(tcp) == listen.http) {
            self.tell(
                "listen.http",
                "listen.http and listen.tcp name the same address; give them different ports".to_owned(),
            );
        }
        self.socket_path("listen.unix", listen.unix.as_deref());
    }

    fn local(&mut self) {
        let local = &self.config.local;
        self.socket_path("local.socket", local.socket.as_deref());
        if local.socket.is_some() && local.socket == self.config.listen.unix {
            let message = "local.socket and listen.unix name the same path; give them different ones".to_owned();
            self.tell("local.socket", message);
        }
        for (path, ids) in [("local.users", &local.users), ("local.groups", &local.groups)] {
            for id in ids.iter().filter(|id| id.parse::<u32>().is_err()) {
                self.tell(path, format!("{path} names {id:?}, which is no number; write what `id` prints"));
            }
        }
    }

    fn socket_path(&mut self, setting: &str, path: Option<&Path>) {
        let Some(path) = path else { return };
        let bytes = path.as_os_str().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            let at = path.display();
            let message = format!(
                "{setting} = \"{at}\" has {bytes} bytes, a socket's path at most {SOCKET_PATH_BYTES_MAX}; set {setting} to a shorter path"
            );
            self.tell(setting, message);
        }
    }

    /// Nobody outside this machine gets in without TLS, unless somebody wrote that they want it.
    fn exposure(&mut self) {
        let encrypted = self.config.tls.certificate.is_some();
        if encrypted || self.config.listen.insecure {
            return;
        }
        for (path, at) in [("listen.tcp", self.config.listen.tcp), ("listen.http", self.config.listen.http)] {
            if let Some(at) = at.filter(|at| !is_loopback(at)) {
                let message = format!(
                    "{path} = \"{at}\" can be reached from other machines without TLS; set tls.certificate and tls.key, \
                     or listen on 127.0.0.1, or accept it with listen.insecure = true"
                );
                self.tell(path, message);
            }
        }
    }

    fn tls(&mut self) {
        let tls = self.config.tls.clone();
        for (one, other, set, missing) in [
            ("tls.certificate", "tls.key", tls.certificate.is_some(), tls.key.is_none()),
            ("tls.key", "tls.certificate", tls.key.is_some(), tls.certificate.is_none()),
            ("tls.client_ca", "tls.certificate", tls.client_ca.is_some(), tls.certificate.is_none()),
        ] {
            if set && missing {
                self.tell(one, format!("{one} is set but {other} is not; set both"));
            }
        }
        for (path, file) in
            [("tls.certificate", tls.certificate), ("tls.key", tls.key), ("tls.client_ca", tls.client_ca)]
        {
            let why = file.as_deref().and_then(|file| self.machine.unreadable(file));
            if let (Some(file), Some(why)) = (file, why) {
                self.tell(path, format!("{path} = \"{}\" cannot be read: {why}", file.display()));
            }
        }
    }

    fn sizes(&mut self) {
        let config = self.config;
        let not_above = [
            ("host.extent_bytes", config.host.extent_bytes, "host.bytes", config.host.bytes),
            (
                "wal.group_commit_max_bytes",
                config.wal.group_commit_max_bytes,
                "wal.buffer_bytes_max",
                config.wal.buffer_bytes_max,
            ),
            (
                "wal.group_commit_max_bytes",
                config.wal.group_commit_max_bytes,
                "wal.segment_bytes",
                config.wal.segment_bytes,
            ),
            (
                "limits.pin_quota_bytes",
                config.limits.pin_quota_bytes,
                "host.bytes",
                config.host.bytes.max(self.nvme_bytes()),
            ),
            ("limits.put_bytes_in_flight_max", config.limits.put_bytes_in_flight_max, "host.bytes", config.host.bytes),
        ];
        for (low, low_bytes, high, high_bytes) in not_above {
            if low_bytes > high_bytes {
                let (low_bytes, high_bytes) = (unit::show_size(low_bytes), unit::show_size(high_bytes));
                self.tell(
                    low,
                    format!(
                        "{low} = \"{low_bytes}\" is more than {high} = \"{high_bytes}\"; lower one or raise the other"
                    ),
                );
            }
        }
        let needed = config.wal.retain_bytes.saturating_add(4 * config.wal.segment_bytes);
        if config.wal.bytes_max < needed {
            let message = format!(
                "wal.bytes_max = \"{}\" is below wal.retain_bytes and four segments, {}; raise it, or lower wal.retain_bytes or wal.segment_bytes",
                unit::show_size(config.wal.bytes_max),
                unit::show_size(needed)
            );
            self.tell("wal.bytes_max", message);
        }
    }

    fn hbm_pool(&mut self) {
        if let (Err(why), Some(text)) = (self.config.hbm.pool(), &self.config.hbm.bytes) {
            let message = format!("hbm.bytes = \"{text}\" {why}; write a size, a percentage from 1% to 95%, or off");
            self.tell("hbm.bytes", message);
        }
    }

    fn nvme_size(&mut self) {
        let config = self.config;
        let least = config.nvme.extent_bytes + NVME_HEAD_BYTES;
        if config.nvme.enabled && config.nvme.bytes < least {
            let message = format!(
                "nvme.bytes = \"{}\" does not hold 1 MiB and one extent, \"{}\"; raise it or lower nvme.extent_bytes",
                unit::show_size(config.nvme.bytes),
                unit::show_size(least)
            );
            self.tell("nvme.bytes", message);
        }
    }

    fn data_directory(&mut self) {
        let directory = self.config.data_directory.clone();
        let at = directory.display();
        let created = self.config.creates_data_directory;
        let message = match self.machine.directory(&directory) {
            DirectoryState::Writable => return,
            DirectoryState::Missing { creatable: true } if created => return,
            DirectoryState::Missing { creatable: true } => format!(
                "data_directory = \"{at}\" does not exist; create it with `mkdir -p {at}`, or start kvtierd once with --create"
            ),
            DirectoryState::Missing { creatable: false } => {
                format!("data_directory = \"{at}\" does not exist and cannot be created there; name another directory")
            }
            DirectoryState::ReadOnly(why) => {
                format!(
                    "data_directory = \"{at}\" cannot be written to ({why}); give the daemon's user the right to, or name another"
                )
            }
            DirectoryState::NotADirectory => format!("data_directory = \"{at}\" is not a directory; name another"),
        };
        self.tell("data_directory", message);
    }

    fn nvme_files(&mut self) {
        if !self.config.nvme.enabled {
            return;
        }
        let files = self.config.nvme.files.clone();
        for (index, file) in files.iter().enumerate() {
            let at = file.display();
            if files[..index].contains(file) {
                self.tell("nvme.files", format!("nvme.files names \"{at}\" twice; name each file once"));
            }
            match self.machine.file(file) {
                FileState::Unusable => {
                    self.tell(
                        "nvme.files",
                        format!("nvme.files: \"{at}\" is neither a file nor a block device; name a file in it"),
                    );
                }
                FileState::Device { bytes } if bytes < self.config.nvme.bytes => {
                    let (has, wants) = (unit::show_size_about(bytes), unit::show_size_about(self.config.nvme.bytes));
                    self.tell(
                        "nvme.bytes",
                        format!("nvme.bytes asks for {wants}, the device \"{at}\" has {has}; lower it"),
                    );
                }
                FileState::Missing => self.nvme_parent(file),
                FileState::File { .. } | FileState::Device { .. } => {}
            }
        }
    }

    fn nvme_parent(&mut self, file: &Path) {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if parent == self.config.data_directory {
            return; // told by data_directory already
        }
        let why = match self.machine.directory(parent) {
            DirectoryState::Writable => return,
            DirectoryState::Missing { .. } => "does not exist; create it".to_owned(),
            DirectoryState::ReadOnly(why) => format!("cannot be written to ({why})"),
            DirectoryState::NotADirectory => "is not a directory".to_owned(),
        };
        self.tell("nvme.files", format!("nvme.files: the directory of \"{}\" {why}", file.display()));
    }

    fn memory(&mut self) {
        let config = self.config;
        let memory = self.machine.memory_bytes();
        let wanted =
            [config.host.bytes, config.index.cache_bytes, config.index.write_buffer_bytes, config.wal.buffer_bytes_max];
        let wanted = wanted.iter().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        if wanted > memory {
            let message = format!(
                "host.bytes, index.cache_bytes, index.write_buffer_bytes and wal.buffer_bytes_max come to {}, the machine has {} of memory; \
                 lower host.bytes (\"{}\")",
                unit::show_size_about(wanted),
                unit::show_size_about(memory),
                unit::show_size(config.host.bytes)
            );
            self.tell("host.bytes", message);
        }
    }

    /// The caps of everything on one file system must fit what is free there, what exists already counted as ours.
    fn disk(&mut self) {
        let mut wanted: BTreeMap<u64, Wanted> = BTreeMap::new();
        let config = self.config;
        if config.nvme.enabled {
            for file in &config.nvme.files {
                let owned = match self.machine.file(file) {
                    FileState::Missing => 0,
                    FileState::File { allocated_bytes, .. } => allocated_bytes,
                    FileState::Device { .. } | FileState::Unusable => continue,
                };
                self.want(&mut wanted, file, config.nvme.bytes.saturating_sub(owned), "nvme.bytes");
            }
        }
        let log = &config.wal.directory;
        let log_bytes = config.wal.bytes_max.saturating_sub(self.machine.directory_bytes(log));
        self.want(&mut wanted, log, log_bytes, "wal.bytes_max");
        for place in wanted.into_values().filter(|place| place.bytes > place.free_bytes) {
            let message = format!(
                "{} ask for {} more on the file system of \"{}\", which has {} free; lower {} or name files elsewhere",
                place.settings.join(" and "),
                unit::show_size_about(place.bytes),
                place.path.display(),
                unit::show_size_about(place.free_bytes),
                place.settings[0],
            );
            self.tell(place.settings[0], message);
        }
    }

    fn want(&self, wanted: &mut BTreeMap<u64, Wanted>, path: &Path, bytes: u64, setting: &'static str) {
        let Some(disk) = self.machine.disk(path) else {
            return;
        };
        let place = wanted.entry(disk.file_system).or_insert_with(|| Wanted {
            path: path.to_path_buf(),
            bytes: 0,
            free_bytes: disk.free_bytes,
            settings: Vec::new(),
        });
        place.bytes = place.bytes.saturating_add(bytes);
        if !place.settings.contains(&setting) {
            place.settings.push(setting);
        }
    }

    fn log_level(&mut self) {
        let level = &self.config.log.level;
        let stray = level.split(',').find(|part| !part.contains(['=', '[']) && !LEVELS.contains(part));
        let why = match (stray, tracing_subscriber::EnvFilter::builder().parse(level)) {
            (Some(stray), _) => format!("\"{stray}\" is no level"),
            (None, Err(error)) => error.to_string(),
            (None, Ok(_)) => return,
        };
        let message =
            format!("log.level = {level:?} is not understood: {why}; write one of {LEVELS:?} or info,kvtierd=debug");
        self.tell("log.level", message);
    }

    fn nvme_bytes(&self) -> u64 {
        if self.config.nvme.enabled {
            self.config.nvme.bytes.saturating_mul(self.config.nvme.files.len() as u64)
        } else {
            0
        }
    }
}

/// What the caps on one file system come to.
struct Wanted {
    path: PathBuf,
    bytes: u64,
    free_bytes: u64,
    settings: Vec<&'static str>,
}

/// Whether only this machine reaches an address.
pub fn is_loopback(at: &SocketAddr) -> bool {
    at.ip().to_canonical().is_loopback()
}
