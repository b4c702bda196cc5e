//! The targets that can be named in a job.

use std::path::Path;

use super::files::Files;
use super::grpc::{Grpc, Over};
use super::local::Local;
use super::memory::Memory;
use super::mooncake::Mooncake;
use super::nvme::Nvme;
use super::redis::{Door, Redis};
use super::{Failure, Setup, Target};
use crate::job::keys::nearest;

/// Where `kvtier-bench compare` installs it, below the working directory.
const MOONCAKE: &str = ".kvtier/bench/mooncake";

type Open = fn(&Setup) -> Result<Box<dyn Target>, Failure>;

/// One that can be named.
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// Starts it.
    pub open: Open,
}

/// All of them.
pub const KNOWN: &[Known] = &[
    Known {
        name: "local",
        help: "kvtierd's shared-memory path, host memory over NVMe",
        open: |setup| Ok(Box::new(Local::open(setup)?)),
    },
    Known {
        name: "host",
        help: "the same with everything resident and no NVMe tier",
        open: |setup| Ok(Box::new(Local::resident(setup)?)),
    },
    Known {
        name: "nvme",
        help: "the NVMe tier alone, in this process: every get comes from the disk",
        open: |setup| Ok(Box::new(Nvme::open(setup)?)),
    },
    Known {
        name: "grpc-tcp",
        help: "kvtierd over gRPC, TCP on the loopback interface",
        open: |setup| Ok(Box::new(Grpc::open(setup, Over::Tcp)?)),
    },
    Known {
        name: "grpc-uds",
        help: "kvtierd over gRPC on its unix socket",
        open: |setup| Ok(Box::new(Grpc::open(setup, Over::Unix)?)),
    },
    Known {
        name: "redis",
        help: "Redis over TCP, a connection for each lane",
        open: |setup| Ok(Box::new(Redis::open(setup, Door::Tcp)?)),
    },
    Known {
        name: "redis-uds",
        help: "Redis over a unix socket",
        open: |setup| Ok(Box::new(Redis::open(setup, Door::Unix)?)),
    },
    Known {
        name: "mooncake",
        help: "Mooncake store over TCP; needs the environment `kvtier-bench compare` installs",
        open: |setup| Ok(Box::new(Mooncake::open(setup, Path::new(MOONCAKE), false)?)),
    },
    Known {
        name: "files",
        help: "a directory with one file per block, through the page cache",
        open: |setup| Ok(Box::new(Files::open(setup, false)?)),
    },
    Known {
        name: "files-direct",
        help: "the same with O_DIRECT",
        open: |setup| Ok(Box::new(Files::open(setup, true)?)),
    },
    Known {
        name: "memory",
        help: "a table in this process: the harness's own ceiling",
        open: |setup| Ok(Box::new(Memory::open(setup)?)),
    },
    Known {
        name: "lying-memory",
        help: "the same with a wrong byte in every block: a run with verify must fail",
        open: |_| Ok(Box::new(Memory::lying(100))),
    },
];

/// Finds one; says what there is instead, and what is not there yet.
pub fn find(name: &str) -> Result<&'static Known, String> {
    KNOWN.iter().find(|known| known.name == name).ok_or_else(|| {
        let names = KNOWN.iter().map(|known| known.name);
        let known = names.clone().collect::<Vec<_>>().join(", ");
        match name {
            "archive" => {
                format!("target=archive: the archive tier is not built yet; what can be measured: {known}")
            }
            _ => format!("target={name:?} is not known; {}what can be measured: {known}", nearest(name, names)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let why = |name| find(name).err().expect("not known");
        assert!(why("archive").contains("not built yet") && why("archive").contains("grpc-tcp"));
        assert!(why("grpc_tcp").contains("did you mean \"grpc-tcp\""));
        assert!(find("local").is_ok());
    }
}
