//! Deadlines: leases, pins and pending puts all end, whoever forgets them (INV-4).

use super::Catalog;
use super::plan::{Expired, LeaseId};
use crate::port::Moment;

/// The most deadlines one call handles, so that the core is never held for long.
const EXPIRE_MAX: usize = 1024;

/// What a deadline ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Lease(LeaseId),
    Pin(u32, Box<str>),
    Pending(u64),
}

impl Catalog {
    /// Ends what is past its deadline, up to 1,024 things a call: call again while [`Catalog::next_deadline`] lies
    /// in the past.
    pub fn expire(&mut self, now: Moment) -> Expired {
        let mut expired = Expired::default();
        for _ in 0..EXPIRE_MAX {
            let Some((_, due)) = self.due.first().filter(|(deadline, _)| *deadline <= now).cloned() else { break };
            match due {
                Due::Lease(id) => {
                    self.end_lease(id);
                    expired.leases += 1;
                }
                Due::Pin(space, name) => {
                    let ended = self.unpin(space, &name);
                    assert!(ended.is_some(), "a pin with a deadline exists");
                    expired.pins += 1;
                }
                Due::Pending(number) => {
                    self.give_up(number);
                    expired.pending += 1;
                }
            }
        }
        expired
    }

    /// When `expire` has something to do next.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.due.first().map(|(deadline, _)| *deadline)
    }
}
