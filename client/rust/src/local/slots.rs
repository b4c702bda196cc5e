//! Writing: reserved slots, and what became of them.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::attach::Attachment;
use super::client::Shared;
use super::mapping::Region;
use crate::{ClientError, DeclineReason, wire};

/// A part of a block to be written in place. Dropping it gives it up.
///
/// Its bytes are whatever stood there before: write all of them. After `limits.part_deadline` the daemon gives it up by
/// itself; writing is still harmless then, and committing it is refused.
#[derive(Debug)]
pub struct Reservation {
    region: Region,
    ticket: Ticket,
    generation: u64,
}

/// What the daemon wrote down under a number.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) number: u64,
    pub(super) attachment: Arc<Attachment>,
    shared: Arc<Shared>,
    open: bool,
}

/// What a reservation led to.
#[derive(Debug)]
pub enum Slot {
    /// Write it, then commit it.
    Write(Reservation),
    /// The block is there. With a copy that is not durable yet although that was asked for: commit it to wait.
    Duplicate(Option<Existing>),
    /// Refused, and why. [`DeclineReason::UnderWay`]: somebody else is writing this part.
    Declined {
        /// The reason.
        reason: DeclineReason,
        /// The same in words, with what to do.
        detail: String,
    },
    /// Bad input: what, and the remedy.
    Rejected(String),
}

/// A copy that is there already, to be waited for.
#[derive(Debug)]
pub struct Existing(Ticket);

/// What can be committed.
#[derive(Debug)]
pub enum Commitment {
    /// A part that was written.
    Written(Reservation),
    /// A copy that was there.
    Existing(Existing),
}

/// What a commit led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The block is visible, and durable if that was asked for.
    Stored {
        /// CRC-32 of the whole block.
        crc: u32,
    },
    /// Other parts of the block are still to come.
    PartAccepted,
    /// The copy that was there is durable.
    Duplicate,
    /// Refused, and why. A durable put that was declined now is there, but volatile.
    Declined {
        /// The reason.
        reason: DeclineReason,
        /// The same in words.
        detail: String,
    },
    /// The daemon knows no such reservation of this client: it was committed before, or lost with its connection.
    Rejected(String),
}

impl Reservation {
    /// The slot's generation when it was reserved.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The daemon's number for it.
    pub fn number(&self) -> u64 {
        self.ticket.number
    }
}

impl Deref for Reservation {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.region.bytes()
    }
}

impl DerefMut for Reservation {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.region.bytes_mut()
    }
}

impl From<Reservation> for Commitment {
    fn from(reservation: Reservation) -> Self {
        Self::Written(reservation)
    }
}

impl From<Existing> for Commitment {
    fn from(existing: Existing) -> Self {
        Self::Existing(existing)
    }
}

impl Commitment {
    pub(super) fn ticket(&self) -> &Ticket {
        match self {
            Self::Written(reservation) => &reservation.ticket,
            Self::Existing(existing) => &existing.0,
        }
    }

    /// The daemon knows: nothing is to be given up any more.
    pub(super) fn spent(mut self) {
        match &mut self {
            Self::Written(reservation) => reservation.ticket.open = false,
            Self::Existing(existing) => existing.0.open = false,
        }
    }
}

impl Ticket {
    fn new(number: u64, attachment: &Arc<Attachment>, shared: &Arc<Shared>) -> Self {
        attachment.open.fetch_add(1, Ordering::SeqCst);
        Self { number, attachment: Arc::clone(attachment), shared: Arc::clone(shared), open: true }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.open {
            self.shared.abort(self.attachment.name, self.number);
        }
        let last = self.attachment.open.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.attachment.is_lost() {
            self.shared.fence(self.attachment.name);
        }
    }
}

/// Reads the answer to a Reserve of blocks with these lengths.
pub(super) fn read_reserved(
    response: wire::ReserveResponse,
    lengths: impl ExactSizeIterator<Item = u32>,
    attachment: &Arc<Attachment>,
    shared: &Arc<Shared>,
) -> Result<Vec<Slot>, ClientError> {
    let count = lengths.len();
    let outcomes = response.outcomes.len();
    let lists = [response.reservations.len(), response.offsets.len(), response.generations.len()];
    if lists != [count; 3] || (outcomes != 0 && outcomes != count) {
        return Err(ClientError::protocol("reserve", format!("lists of {lists:?} and {outcomes} for {count} blocks")));
    }
    let mut refusals = Refusals::new(response.refusals);
    let mut slots = Vec::with_capacity(count);
    for (index, length) in lengths.enumerate() {
        use wire::ReserveOutcome as Outcome;
        let number = response.reservations[index];
        // From here on the reservation is given up if anything fails.
        let ticket = (number != 0).then(|| Ticket::new(number, attachment, shared));
        let outcome = response.outcomes.get(index).map_or(Ok(Outcome::Write), |outcome| Outcome::try_from(*outcome));
        slots.push(match (outcome, ticket) {
            (Ok(Outcome::Write), Some(ticket)) => {
                let region = Region::exclusive(&attachment.arena, response.offsets[index], length);
                let region = region.ok_or_else(|| ClientError::protocol("reserve", "a slot outside the arena"))?;
                Slot::Write(Reservation { region, ticket, generation: response.generations[index] })
            }
            (Ok(Outcome::Duplicate), ticket) => Slot::Duplicate(ticket.map(Existing)),
            (Ok(Outcome::Declined), _) => {
                let (reason, detail) = refusals.take(index);
                Slot::Declined { reason, detail }
            }
            (Ok(Outcome::Rejected), _) => Slot::Rejected(refusals.take(index).1),
            (Ok(Outcome::Write), None) | (Err(_), _) => {
                return Err(ClientError::protocol("reserve", format!("block {index} has no known outcome")));
            }
        });
    }
    Ok(slots)
}

/// Reads the answer to a Commit of `count` reservations.
pub(super) fn read_committed(response: wire::CommitResponse, count: usize) -> Result<Vec<Committed>, ClientError> {
    let outcomes = response.outcomes.len();
    if response.crc32.len() != count || (outcomes != 0 && outcomes != count) {
        return Err(ClientError::protocol("commit", format!("{outcomes} outcomes for {count} reservations")));
    }
    let mut refusals = Refusals::new(response.refusals);
    let read = |index: usize| {
        use wire::CommitOutcome as Outcome;
        let outcome = response.outcomes.get(index).map_or(Ok(Outcome::Stored), |outcome| Outcome::try_from(*outcome));
        Ok(match outcome {
            Ok(Outcome::Stored) => Committed::Stored { crc: response.crc32[index] },
            Ok(Outcome::PartAccepted) => Committed::PartAccepted,
            Ok(Outcome::Duplicate) => Committed::Duplicate,
            Ok(Outcome::Declined) => {
                let (reason, detail) = refusals.take(index);
                Committed::Declined { reason, detail }
            }
            Ok(Outcome::Rejected) => Committed::Rejected(refusals.take(index).1),
            Err(_) => return Err(ClientError::protocol("commit", format!("block {index} has no known outcome"))),
        })
    };
    (0..count).map(read).collect()
}

/// Refusals in the order of their blocks.
struct Refusals(std::iter::Peekable<std::vec::IntoIter<wire::BlockRefusal>>);

impl Refusals {
    fn new(mut refusals: Vec<wire::BlockRefusal>) -> Self {
        refusals.sort_by_key(|refusal| refusal.index);
        Self(refusals.into_iter().peekable())
    }

    fn take(&mut self, index: usize) -> (DeclineReason, String) {
        while self.0.peek().is_some_and(|refusal| (refusal.index as usize) < index) {
            self.0.next();
        }
        let found = self.0.next_if(|refusal| refusal.index as usize == index);
        found.map_or_else(Default::default, |refusal| (refusal.reason(), refusal.detail))
    }
}
