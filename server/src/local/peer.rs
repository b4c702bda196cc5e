//! Who is at the other end of the socket, as the kernel says.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, PidfdFlags, getuid, pidfd_open};

use super::DomainAccess;

/// A process of this machine. A process that forked or passed its socket on stays the one that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalPeer {
    pub(crate) process: Option<Pid>,
    pub(crate) user: u32,
    pub(crate) group: u32,
}

impl LocalPeer {
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let peer = rustix::net::sockopt::socket_peercred(stream)?;
        let process = Some(peer.pid);
        Ok(Self { process, user: peer.uid.as_raw(), group: peer.gid.as_raw() })
    }

    /// Whether the process may see a domain's blocks.
    pub(crate) fn may_attach(&self, domain: &DomainAccess) -> bool {
        self.user == getuid().as_raw() || domain.users.contains(&self.user) || domain.groups.contains(&self.group)
    }

    /// A descriptor that says when the process has ended. Fails for one that has ended already, and for one of another
    /// PID namespace.
    pub(crate) fn watch(&self) -> io::Result<OwnedFd> {
        let process = self.process.ok_or_else(|| io::Error::other("it belongs to another PID namespace"))?;
        Ok(pidfd_open(process, PidfdFlags::NONBLOCK)?)
    }

    /// A number that stands for the process in quotas.
    pub(crate) fn number(&self) -> i32 {
        self.process.map_or(0, |process| process.as_raw_nonzero().get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_admits_our_own_user_and_those_it_names() {
        let own = getuid().as_raw();
        let peer = |user, group| LocalPeer { process: None, user, group };
        let domain = DomainAccess { users: vec![own + 1], groups: vec![77], ..DomainAccess::default() };
        assert!(peer(own, 5).may_attach(&domain) && peer(own + 1, 5).may_attach(&domain));
        assert!(peer(own + 2, 77).may_attach(&domain));
        assert!(!peer(own + 2, 5).may_attach(&domain));
        assert!(!peer(own + 1, 77).may_attach(&DomainAccess::default()), "another domain's lists");
    }
}
