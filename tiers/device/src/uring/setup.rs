//! Whether io_uring may be used here, and how.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// Whether io_uring can drive a disk here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UringProbe {
    /// It can.
    Usable,
    /// It cannot, and why.
    Refused(String),
}

/// Asks the kernel. Makes and drops a small ring.
pub fn probe() -> UringProbe {
    let ring = match IoUring::new(2) {
        Ok(ring) => ring,
        Err(error) => return UringProbe::Refused(explain(&error)),
    };
    let mut known = Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut known) {
        return UringProbe::Refused(format!("io_uring cannot be probed, the kernel is older than 5.6: {error}"));
    }
    let needed = [
        ("read", opcode::Read::CODE),
        ("write", opcode::Write::CODE),
        ("read_fixed", opcode::ReadFixed::CODE),
        ("write_fixed", opcode::WriteFixed::CODE),
        ("fsync", opcode::Fsync::CODE),
        ("nop", opcode::Nop::CODE),
    ];
    match needed.iter().find(|(_, code)| !known.is_supported(*code)) {
        Some((name, _)) => UringProbe::Refused(format!("the kernel's io_uring has no {name} operation")),
        None => UringProbe::Usable,
    }
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring, or the container's profile hides it".to_owned(),
        Some(libc::EPERM) => match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
            Ok(level) if level.trim() != "0" => {
                format!("io_uring is forbidden here: kernel.io_uring_disabled is {}", level.trim())
            }
            _ => "io_uring is forbidden here, probably by the container's seccomp profile".to_owned(),
        },
        Some(libc::ENOMEM) => format!("no memory for a ring, raise the memlock limit: {error}"),
        _ => format!("io_uring cannot be set up: {error}"),
    }
}

/// A ring, and how the kernel runs it.
pub(crate) struct Setup {
    pub(crate) ring: IoUring,
    /// For [`crate::port::Disk::mode`].
    pub(crate) flavour: &'static str,
}

/// Makes a ring in the thread that will use it, with the leanest flags the kernel takes.
pub(crate) fn build(entries: u32) -> io::Result<Setup> {
    let deferred = IoUring::builder().setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun().build(entries);
    if let Ok(ring) = deferred {
        return Ok(Setup { ring, flavour: "io_uring (single issuer, deferred task runs)" });
    }
    if let Ok(ring) = IoUring::builder().setup_coop_taskrun().build(entries) {
        return Ok(Setup { ring, flavour: "io_uring (cooperative task runs)" });
    }
    let ring = IoUring::new(entries).map_err(|error| io::Error::new(error.kind(), explain(&error)))?;
    Ok(Setup { ring, flavour: "io_uring" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_who_refused() {
        let text = |code: i32| explain(&io::Error::from_raw_os_error(code));
        assert!(text(libc::ENOSYS).contains("no io_uring"));
        assert!(text(libc::EPERM).contains("forbidden"));
        assert!(text(libc::ENOMEM).contains("memlock"));
        assert!(text(libc::EINVAL).contains("cannot be set up"));
    }

    #[test]
    fn a_usable_ring_can_be_built() {
        if probe() == UringProbe::Usable {
            assert!(build(8).expect("the probe said so").flavour.starts_with("io_uring"));
        }
    }
}
