//! Saving a worker's blocks: reserved, gathered by the GPU, committed.
//!
//! ```text
//!   worker ─► host memory                       summed by the commit
//!   worker ─► pool ─► host memory    `to_pool`: summed by the GPU in the pool, and by the commit, which compares
//! ```

use std::sync::{Arc, Mutex};

use kvtier_engine::catalog::plan::Decline;
use kvtier_engine::flow::EngineError;
use kvtier_engine::flow::ask::{DurableWait, PutPart, Reserved};
use kvtier_engine::flow::put::PartWriter;
use kvtier_engine::header::SlotHeader;
use kvtier_engine::place::{PAGE_BYTES, Slot, slot_bytes};
use kvtier_identity::Key;
use kvtier_proto::v1;
use tonic::{Code, Status};

use super::{FreshBlock, GpuRefusal, HotRooms, KvBlock, KvMemory, KvMove, KvWay, TURN_KEYS, check_numbers};
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

/// A slot and its share of the quotas.
type Writing = (PartWriter, Share);

/// A block that has moved.
struct Gathered {
    writing: Writing,
    /// As it is in the pool, if it went through it.
    header: Option<SlotHeader>,
}

/// Where the blocks that move go.
#[derive(Default)]
struct Goals {
    /// In host memory, one per block, in their order.
    writers: Vec<Writing>,
    /// In the pool, for the first of them.
    rooms: Option<Box<dyn HotRooms>>,
}

/// The jobs have a hand on it as long as the device may write.
type Shared = Arc<Mutex<Option<Goals>>>;

/// What is saved, block by block.
#[derive(Default)]
struct Plan {
    steps: Vec<Step>,
    /// Of those that move: number in the worker's memory, and host slot.
    blocks: Vec<KvBlock>,
    /// The same: what the pool has to know of them; none: they do not go there.
    fresh: Vec<FreshBlock>,
}

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
        let named = (request.to_pool && u64::from(whole) == length)
            .then(|| self.desk.engine.name_chain(&space, &keys, parent.as_ref()).map_err(answer::status))
            .transpose()?;
        let (mut plan, mut goals) = (Plan::default(), Goals::default());
        for (at, (key, number)) in keys.iter().zip(&request.blocks).enumerate() {
            let key = Key::new(key).expect("a run has only good keys");
            let put = PutPart { space, key: key.clone(), parent, part: request.part, length, durability };
            let (step, writer) = self.prepare(&put).await?;
            plan.steps.push(step);
            if let Some(writer) = writer {
                let slot = slot_of(arena, &writer.0, part.offset, whole);
                plan.blocks.push(KvBlock { number: *number, slot, crc: None });
                plan.fresh.extend(named.as_ref().map(|named| FreshBlock::of(named, at, key.clone(), whole)));
                goals.writers.push(writer);
            }
            parent = Some(key);
        }
        goals.rooms = memory.reserve_hot(plan.fresh.clone());
        let goals: Shared = Arc::new(Mutex::new(Some(goals)));
        let gathered = self.gather(&*memory, &plan.blocks, (part.offset, whole), &goals).await;
        let crcs = match gathered {
            Ok(crcs) => crcs,
            Err(told) => {
                let (outcome, detail) = told?;
                return Ok(v1::SaveResponse { outcome: outcome.into(), detail, ..v1::SaveResponse::default() });
            }
        };
        if self.shelf.is_closed() {
            return Err(Status::new(Code::Cancelled, "the attachment has ended"));
        }
        let goals = goals.lock().expect("nobody panics while taking goals").take().unwrap_or_default();
        let mut passed = plan.fresh.into_iter().zip(crcs).map(|(fresh, crc)| fresh.header(space, crc));
        let gathered = goals.writers.into_iter().map(|writing| Gathered { writing, header: passed.next() });
        Ok(self.commit_saved(plan.steps, gathered.collect(), goals.rooms).await)
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

    /// Moves the blocks into their slots and waits for the end. Checksums of those that go through the pool.
    async fn gather(
        &self,
        memory: &dyn KvMemory,
        blocks: &[KvBlock],
        part: (u32, u32),
        goals: &Shared,
    ) -> Result<Vec<u32>, Result<(v1::MoveOutcome, String), Status>> {
        let rooms = {
            let goals = goals.lock().expect("nobody panics while filing goals");
            let rooms = goals.as_ref().and_then(|goals| goals.rooms.as_ref());
            rooms.map(|rooms| rooms.slots()).unwrap_or_default()
        };
        let (through, straight) = blocks.split_at(rooms.len());
        let slot_of = |block: &KvBlock| block.slot;
        let into_pool = through.iter().zip(rooms).map(|(block, slot)| KvBlock { slot, ..*block });
        let moves = [
            (true, into_pool.collect::<Vec<_>>(), through.iter().map(slot_of).collect()),
            (false, straight.to_vec(), Vec::new()),
        ];
        let mut begun = Vec::with_capacity(2);
        let mut refused = None;
        for (in_pool, blocks, onward) in moves {
            if blocks.is_empty() || refused.is_some() {
                continue;
            }
            let keep = Box::new(Arc::clone(goals));
            let call = KvMove { way: KvWay::Save, in_pool, blocks, part, onward, layers: Vec::new(), keep };
            match memory.begin(call) {
                Ok(progress) => {
                    self.desk.moves.follow(self, &progress);
                    begun.push(progress);
                }
                Err(refusal) => refused = Some(refusal),
            }
        }
        // Both are waited for, whatever becomes of one: nobody reads the worker's blocks after the answer.
        let mut crcs = Ok(Vec::new());
        for progress in begun {
            match progress.wait_end().await {
                Ok(()) => crcs = crcs.map(|crcs| [crcs, progress.checksums()].concat()),
                Err(failure) => {
                    let (outcome, _, detail) = failure.told();
                    crcs = Err(Ok((outcome, detail)));
                }
            }
        }
        match refused {
            Some(refusal) => Err(GpuRefusal::told(refusal)),
            None => crcs,
        }
    }

    async fn commit_saved(
        &self,
        steps: Vec<Step>,
        gathered: Vec<Gathered>,
        rooms: Option<Box<dyn HotRooms>>,
    ) -> v1::SaveResponse {
        let mut answer = Committed::default();
        let mut gathered = gathered.into_iter();
        let (mut waits, mut headers, mut is_prefix) = (Vec::new(), Vec::new(), true);
        let begun = self.desk.clock.now();
        for (index, step) in steps.into_iter().enumerate() {
            let (kind, share, header) = match step {
                Step::Move => {
                    let Gathered { writing: (writer, share), header } =
                        gathered.next().expect("one for every block that moved");
                    // Checksumming one block after the other leaves others their turn.
                    tokio::task::yield_now().await;
                    let kind = match &header {
                        Some(header) => HeldKind::Summed(writer, header.crc),
                        None => HeldKind::Write(writer),
                    };
                    (kind, Some(share), header)
                }
                Step::Existing(Some(wait)) => (HeldKind::Existing(wait), None, None),
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
            waits.extend(answer.take(index, Found::Open(Held { kind, share, begun })).map(|wait| (index, wait)));
            if let Some(header) = header {
                is_prefix &= answer.has_stored_last();
                headers.extend(is_prefix.then_some(header));
            }
        }
        let filled = rooms.map(|rooms| rooms.fill(headers));
        for (index, wait) in waits {
            if let Err(decline) = wait.0.await {
                answer.decline(index, decline);
            }
        }
        if let Some(filled) = filled {
            filled.await;
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
