//! Reserving slots for a chain, or one part of each of its blocks.

use kvtier_engine::catalog::plan::Decline;
use kvtier_engine::flow::EngineError;
use kvtier_engine::flow::ask::{PutPart, Reserved};
use kvtier_identity::{Key, KeyRun};
use kvtier_proto::v1;
use tonic::Status;
use v1::ReserveOutcome as Outcome;

use super::session::{HeldKind, Session};
use crate::service::answer::{self, BadField};
use crate::service::ask;

impl Session {
    /// Reserves a slot for every block it can. While the host tier is full of blocks on their way to NVMe it waits for
    /// them, as a put over gRPC does.
    pub(crate) async fn reserve(&self, request: v1::ReserveRequest) -> Result<v1::ReserveResponse, Status> {
        self.require_writer()?;
        let space = self.space(&request.space)?;
        let keys = ask::key_run(&request.keys, request.key_bytes, &request.key_lengths)?;
        let lengths = lengths_of(&request, &keys)?;
        let durability = ask::durability(request.durability)?;
        let mut parent = request.parent.as_deref().map(|bytes| ask::key("parent", bytes)).transpose()?;
        let mut slots = Slots::with_capacity(keys.len());
        for (key, length) in keys.iter().zip(lengths) {
            let key = Key::new(key).expect("a run has only good keys");
            let put = PutPart { space, key: key.clone(), parent, part: request.part, length, durability };
            self.reserve_one(&put, &mut slots).await?;
            parent = Some(key);
        }
        Ok(slots.answer())
    }

    async fn reserve_one(&self, put: &PutPart, slots: &mut Slots) -> Result<(), Status> {
        let share = match self.desk.ledger.take(self.peer.number(), put.length) {
            Ok(share) => share,
            Err(told) => {
                slots.refuse(Outcome::Declined, v1::DeclineReason::Busy, told);
                return Ok(());
            }
        };
        match self.desk.engine.reserve(put).await {
            Ok(Reserved::Write(writer)) => {
                let place = writer.place();
                let number = self.hold(HeldKind::Write(writer), Some(share))?;
                slots.push(Outcome::Write, number, place.offset, place.generation);
            }
            Ok(Reserved::Duplicate(None)) => slots.push(Outcome::Duplicate, 0, 0, 0),
            Ok(Reserved::Duplicate(Some(wait))) => {
                let number = self.hold(HeldKind::Existing(wait), None)?;
                slots.push(Outcome::Duplicate, number, 0, 0);
            }
            Ok(Reserved::Declined(decline)) => {
                let (reason, detail) = answer::decline_words(decline);
                slots.refuse(Outcome::Declined, reason, detail.to_owned());
            }
            Err(error @ (EngineError::Unavailable { .. } | EngineError::Exhausted { .. })) => {
                slots.refuse(Outcome::Declined, answer::decline_words(Decline::Busy).0, error.to_string());
            }
            Err(error @ EngineError::Invalid { .. }) => {
                slots.refuse(Outcome::Rejected, v1::DeclineReason::Unspecified, error.to_string());
            }
            // The space is gone: so it is for every block.
            Err(error) => return Err(answer::status(error)),
        }
        Ok(())
    }
}

/// The length of every block's part.
fn lengths_of(request: &v1::ReserveRequest, keys: &KeyRun<'_>) -> Result<Vec<u64>, BadField> {
    match request.lengths.len() {
        0 => Ok(vec![u64::from(request.length); keys.len()]),
        count if count == keys.len() => Ok(request.lengths.iter().map(|length| u64::from(*length)).collect()),
        count => {
            let remedy = format!("there are {} keys: give each a length, or one length for all", keys.len());
            Err(BadField::new("lengths", format!("{count} lengths"), remedy))
        }
    }
}

/// The answer as it grows.
struct Slots {
    outcomes: Vec<i32>,
    response: v1::ReserveResponse,
}

impl Slots {
    fn with_capacity(count: usize) -> Self {
        let response = v1::ReserveResponse {
            reservations: Vec::with_capacity(count),
            offsets: Vec::with_capacity(count),
            generations: Vec::with_capacity(count),
            ..v1::ReserveResponse::default()
        };
        Self { outcomes: Vec::with_capacity(count), response }
    }

    fn push(&mut self, outcome: Outcome, reservation: u64, offset: u64, generation: u64) {
        self.outcomes.push(outcome.into());
        self.response.reservations.push(reservation);
        self.response.offsets.push(offset);
        self.response.generations.push(generation);
    }

    fn refuse(&mut self, outcome: Outcome, reason: v1::DeclineReason, detail: String) {
        let index = self.outcomes.len() as u32;
        self.push(outcome, 0, 0, 0);
        self.response.refusals.push(v1::BlockRefusal { index, reason: reason.into(), detail });
    }

    fn answer(mut self) -> v1::ReserveResponse {
        if self.outcomes.iter().any(|outcome| *outcome != i32::from(Outcome::Write)) {
            self.response.outcomes = self.outcomes;
        }
        self.response
    }
}
