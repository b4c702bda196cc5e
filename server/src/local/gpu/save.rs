//! Saving a worker's blocks: reserved, gathered by the GPU, committed.

use std::sync::{Arc, Mutex};

use kvtier_engine::catalog::plan::Decline;
use kvtier_engine::flow::EngineError;
use kvtier_engine::flow::ask::{DurableWait, PutPart, Reserved};
use kvtier_engine::flow::put::PartWriter;
use kvtier_engine::place::{PAGE_BYTES, Slot, slot_bytes};
use kvtier_identity::Key;
use kvtier_proto::v1;
use tonic::{Code, Status};

use super::{GpuRefusal, KvBlock, KvMemory, KvMove, KvWay, TURN_KEYS, check_numbers};
use crate::local::commit::Committed;
use crate::local::ledger::Share;
use crate::local::session::{Found, Held, HeldKind, Session};
use crate::requests;
use crate::service::answer;
use crate::service::ask;

/// What is to be done about one block.
enum Step {
    /// Its bytes are gathered.
    Move,
    /// It is there; to be waited for when it is to be durable.
    Existing(Option<DurableWait>),
    Refused(v1::CommitOutcome, v1::DeclineReason, String),
}

/// Writers of the blocks that move, in their order. The job has a hand on them as long as the device may write.
type Writers = Arc<Mutex<Option<Vec<Writing>>>>;

/// A slot and its share of the quotas.
type Writing = (PartWriter, Share);

impl Session {
    /// Reserves, gathers and commits. Goes on when the client goes away, and commits nothing then.
    pub(crate) async fn save(&self, request: v1::SaveRequest) -> Result<v1::SaveResponse, Status> {
        let Some(name) = requests::name_of(&request.request)? else { return self.save_chain(&request).await };
        let space = self.space(&request.space)?;
        let asked = ask::key_run(&request.keys, request.key_bytes, &request.key_lengths)?.len();
        let answer = self.save_chain(&request).await;
        self.desk.request_log.note(&self.tenant, name, requests::saved(space, asked, &answer));
        answer
    }

    async fn save_chain(&self, request: &v1::SaveRequest) -> Result<v1::SaveResponse, Status> {
        self.require_writer()?;
        let memory = self.shelf.memory(request.memory)?;
        let space = self.space(&request.space)?;
        let keys = ask::key_run(&request.keys, request.key_bytes, &request.key_lengths)?;
        check_numbers(&request.blocks, keys.len(), &*memory)?;
        let part = self.desk.engine.part_range(&space, request.part).map_err(answer::status)?;
        let durability = ask::durability(request.durability)?;
        let mut parent = request.parent.as_deref().map(|bytes| ask::key("parent", bytes)).transpose()?;
        let length = u64::from(memory.block_bytes());
        let whole = part.block_bytes.unwrap_or(memory.block_bytes());
        let arena = self.desk.domain_of(&self.tenant);
        if keys.len() > TURN_KEYS {
            tokio::task::yield_now().await;
        }
        let (mut steps, mut writers, mut blocks) = (Vec::with_capacity(keys.len()), Vec::new(), Vec::new());
        for (key, number) in keys.iter().zip(&request.blocks) {
            let key = Key::new(key).expect("a run has only good keys");
            let put = PutPart { space, key: key.clone(), parent, part: request.part, length, durability };
            let (step, writer) = self.prepare(&put).await?;
            steps.push(step);
            if let Some(writer) = writer {
                let slot = slot_of(arena, &writer.0, part.offset, whole);
                blocks.push(KvBlock { number: *number, slot, crc: None });
                writers.push(writer);
            }
            parent = Some(key);
        }
        let writers: Writers = Arc::new(Mutex::new(Some(writers)));
        if let Err(told) = self.gather(&*memory, blocks, (part.offset, whole), &writers).await {
            let (outcome, detail) = told?;
            return Ok(v1::SaveResponse { outcome: outcome.into(), detail, ..v1::SaveResponse::default() });
        }
        if self.shelf.is_closed() {
            return Err(Status::new(Code::Cancelled, "the attachment has ended"));
        }
        let written = writers.lock().expect("nobody panics while taking writers").take().unwrap_or_default();
        Ok(self.commit_saved(steps, written).await)
    }

    /// Room for one block; or what becomes of it without a move.
    async fn prepare(&self, put: &PutPart) -> Result<(Step, Option<Writing>), Status> {
        use v1::CommitOutcome as Outcome;
        let share = match self.desk.ledger.take(self.peer.number(), put.length) {
            Ok(share) => share,
            Err(told) => return Ok((Step::Refused(Outcome::Declined, v1::DeclineReason::Busy, told), None)),
        };
        Ok(match self.desk.engine.reserve(put).await {
            Ok(Reserved::Write(writer)) => (Step::Move, Some((writer, share))),
            Ok(Reserved::Duplicate(wait)) => (Step::Existing(wait), None),
            Ok(Reserved::Declined(decline)) => {
                let (reason, detail) = answer::decline_words(decline);
                (Step::Refused(Outcome::Declined, reason, detail.to_owned()), None)
            }
            Err(error @ (EngineError::Unavailable { .. } | EngineError::Exhausted { .. })) => {
                let reason = answer::decline_words(Decline::Busy).0;
                (Step::Refused(Outcome::Declined, reason, error.to_string()), None)
            }
            Err(error @ EngineError::Invalid { .. }) => {
                (Step::Refused(Outcome::Rejected, v1::DeclineReason::Unspecified, error.to_string()), None)
            }
            // The space is gone: so it is for every block.
            Err(error) => return Err(answer::status(error)),
        })
    }

    /// Moves the blocks into their slots and waits for the end.
    async fn gather(
        &self,
        memory: &dyn KvMemory,
        blocks: Vec<KvBlock>,
        part: (u32, u32),
        writers: &Writers,
    ) -> Result<(), Result<(v1::MoveOutcome, String), Status>> {
        if blocks.is_empty() {
            return Ok(());
        }
        let keep = Box::new(Arc::clone(writers));
        let call = KvMove { way: KvWay::Save, in_pool: false, blocks, part, layers: Vec::new(), keep };
        let progress = memory.begin(call).map_err(GpuRefusal::told)?;
        self.desk.moves.follow(self, &progress);
        progress.wait_end().await.map_err(|failure| {
            let (outcome, _, detail) = failure.told();
            Ok((outcome, detail))
        })
    }

    async fn commit_saved(&self, steps: Vec<Step>, written: Vec<Writing>) -> v1::SaveResponse {
        let mut answer = Committed::default();
        let mut written = written.into_iter();
        let mut waits = Vec::new();
        let begun = self.desk.clock.now();
        for (index, step) in steps.into_iter().enumerate() {
            let held = match step {
                Step::Move => {
                    let (writer, share) = written.next().expect("a writer for every block that moved");
                    // Checksumming one block after the other leaves others their turn.
                    tokio::task::yield_now().await;
                    Held { kind: HeldKind::Write(writer), share: Some(share), begun }
                }
                Step::Existing(Some(wait)) => Held { kind: HeldKind::Existing(wait), share: None, begun },
                Step::Existing(None) => {
                    answer.push(v1::CommitOutcome::Duplicate, 0);
                    continue;
                }
                Step::Refused(outcome, reason, detail) => {
                    answer.push(outcome, 0);
                    answer.refuse(index, reason, detail);
                    continue;
                }
            };
            waits.extend(answer.take(index, Found::Open(held)).map(|wait| (index, wait)));
        }
        for (index, wait) in waits {
            if let Err(decline) = wait.0.await {
                answer.decline(index, decline);
            }
        }
        let v1::CommitResponse { outcomes, crc32, refusals } = answer.finish();
        v1::SaveResponse { outcomes, crc32, refusals, ..v1::SaveResponse::default() }
    }
}

/// The slot that a part was reserved in, from the place of the part.
fn slot_of(arena: u16, writer: &PartWriter, part_offset: u32, block_bytes: u32) -> Slot {
    let place = writer.place();
    let offset = place.offset - u64::from(part_offset) - PAGE_BYTES;
    Slot { device: arena, offset, bytes: slot_bytes(block_bytes) }
}
