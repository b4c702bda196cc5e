//! Committing slots that a client has written: the daemon checksums them itself, once.

use kvtier_engine::catalog::plan::Decline;
use kvtier_engine::flow::ask::{DurableWait, Put};
use kvtier_engine::flow::put::PartWriter;
use kvtier_proto::v1;
use tonic::Status;
use v1::CommitOutcome as Outcome;

use super::session::{Found, Held, HeldKind, Session};
use crate::service::answer;

/// Bytes that are checksummed before others have a turn: about 0.1 ms.
const TURN_BYTES: u64 = 4 << 20;

impl Session {
    /// Makes reservations visible. Durable ones are waited for, so the answer may take as long as the disk does.
    pub(crate) async fn commit(&self, request: v1::CommitRequest) -> Result<v1::CommitResponse, Status> {
        self.require_writer()?;
        let taken = self.take(&request.reservations);
        let bytes: u64 = taken.iter().map(bytes_of).sum();
        if bytes > TURN_BYTES {
            // Off the thread that answers everybody.
            tokio::task::yield_now().await;
        }
        let mut answer = Committed::default();
        let mut waits = Vec::new();
        let mut turn = 0;
        for (index, found) in taken.into_iter().enumerate() {
            turn += bytes_of(&found);
            if turn > TURN_BYTES {
                turn = 0;
                tokio::task::yield_now().await;
            }
            waits.extend(answer.take(index, found).map(|wait| (index, wait)));
        }
        for (index, wait) in waits {
            if let Err(decline) = wait.0.await {
                answer.decline(index, decline);
            }
        }
        Ok(answer.finish())
    }
}

fn bytes_of(found: &Found) -> u64 {
    match found {
        Found::Open(held) => held.bytes(),
        Found::Ended | Found::Unknown => 0,
    }
}

/// The answer as it grows.
#[derive(Default)]
pub(super) struct Committed {
    outcomes: Vec<i32>,
    crcs: Vec<u32>,
    refusals: Vec<v1::BlockRefusal>,
}

impl Committed {
    /// Commits one reservation; what is left to wait for.
    pub(super) fn take(&mut self, index: usize, found: Found) -> Option<DurableWait> {
        let held = match found {
            Found::Open(held) => held,
            Found::Ended => {
                self.reject(index, "it was committed or aborted before: commit a reservation once".to_owned());
                return None;
            }
            Found::Unknown => {
                let told =
                    "it is no reservation of this client, or one that ended long ago: use the numbers Reserve gave";
                self.reject(index, told.to_owned());
                return None;
            }
        };
        // The share is given back at the end, when the slot is the block's or free.
        let Held { kind, share: _share, .. } = held;
        match kind {
            HeldKind::Existing(wait) => {
                self.push(Outcome::Duplicate, 0);
                Some(wait)
            }
            HeldKind::Write(writer) => self.finish_written(index, writer, None),
            HeldKind::Summed(writer, crc) => self.finish_written(index, writer, Some(crc)),
        }
    }

    fn finish_written(&mut self, index: usize, writer: PartWriter, crc: Option<u32>) -> Option<DurableWait> {
        match writer.finish_in_place(crc) {
            Ok(Put::Stored { crc, durable }) => {
                self.push(Outcome::Stored, crc);
                durable
            }
            Ok(Put::PartAccepted) => {
                self.push(Outcome::PartAccepted, 0);
                None
            }
            Ok(Put::Declined(decline)) => {
                self.push(Outcome::Declined, 0);
                let given_up = "the put was given up before: limits.part_deadline has passed, or it was deleted";
                self.refuse(index, answer::decline_words(decline).0, given_up.to_owned());
                None
            }
            Err(error) => {
                let way = if crc.is_some() { "on its way from the GPU: " } else { "" };
                self.reject(index, format!("{way}{error}"));
                None
            }
        }
    }

    /// Whether the block that was committed last is visible now.
    pub(super) fn has_stored_last(&self) -> bool {
        self.outcomes.last() == Some(&Outcome::Stored.into())
    }

    /// A block that is visible and will not be durable.
    pub(super) fn decline(&mut self, index: usize, decline: Decline) {
        let (reason, detail) = answer::decline_words(decline);
        self.outcomes[index] = Outcome::Declined.into();
        self.refuse(index, reason, detail.to_owned());
    }

    fn reject(&mut self, index: usize, detail: String) {
        self.push(Outcome::Rejected, 0);
        self.refuse(index, v1::DeclineReason::Unspecified, detail);
    }

    pub(super) fn push(&mut self, outcome: Outcome, crc: u32) {
        self.outcomes.push(outcome.into());
        self.crcs.push(crc);
    }

    pub(super) fn refuse(&mut self, index: usize, reason: v1::DeclineReason, detail: String) {
        self.refusals.push(v1::BlockRefusal { index: index as u32, reason: reason.into(), detail });
    }

    pub(super) fn finish(mut self) -> v1::CommitResponse {
        if self.outcomes.iter().all(|outcome| *outcome == i32::from(Outcome::Stored)) {
            self.outcomes.clear();
        }
        v1::CommitResponse { outcomes: self.outcomes, crc32: self.crcs, refusals: self.refusals }
    }
}
