//! What every index must do: one suite, run on RocksDB and on the fake.
//!
//! A [`Subject`] makes indexes; [`all`] runs every claim on a fresh one. A claim that does not hold panics and names
//! itself. The functions are async and need no runtime.

use std::sync::Arc;

use kvtier_engine::place::Slot;
use kvtier_engine::port::{Index, IndexChange, IndexEntry, IndexError, SpaceRecord};
use kvtier_identity::{BlockId, Key, SpaceDescription, SpaceDigest};

use crate::{BATCH_LEN_MAX, LOOKUP_LEN_MAX};

/// Something that makes indexes.
pub trait Subject {
    /// A new, empty index.
    fn create(&mut self) -> Arc<dyn Index>;
    /// Stops the index that was created last, given here by its only owner, and opens what it left behind.
    fn reopen(&mut self, index: Arc<dyn Index>) -> Arc<dyn Index>;
}

/// Every claim, each on a fresh index.
pub async fn all(subject: &mut impl Subject) {
    an_empty_index_answers_with_nothing(&*subject.create()).await;
    the_changes_of_a_batch_apply_in_order(&*subject.create()).await;
    answers_come_in_the_order_asked(&*subject.create()).await;
    a_scan_meets_every_block_once_in_id_order(&*subject.create()).await;
    spaces_and_quarantined_slots_are_kept_in_order(&*subject.create()).await;
    applied_follows_the_batches_and_flush_tells_what_is_durable(&*subject.create()).await;
    a_batch_that_goes_back_is_refused(&*subject.create()).await;
    batches_behind_a_refused_one_wait_until_it_was_seen(&*subject.create()).await;
    a_batch_over_the_limit_changes_nothing(&*subject.create()).await;
    a_lookup_over_the_limit_is_refused(&*subject.create()).await;
    work_is_done_though_nobody_waits(&*subject.create()).await;
    what_was_flushed_is_there_after_a_reopen(subject).await;
}

/// Nothing is there, and that is an answer.
pub async fn an_empty_index_answers_with_nothing(index: &dyn Index) {
    assert_eq!(index.applied(), 0);
    assert_eq!(index.get_many(vec![BlockId(1)]).await, Ok(vec![None]));
    assert_eq!(index.get_many(vec![]).await, Ok(vec![]));
    assert_eq!(index.scan(None, 10).await, Ok(vec![]));
    assert_eq!(index.spaces().await, Ok(vec![]));
    assert_eq!(index.quarantined().await, Ok(vec![]));
    assert_eq!(index.flush().await, Ok(0));
}

/// The last change of a block wins.
pub async fn the_changes_of_a_batch_apply_in_order(index: &dyn Index) {
    let (first, second) = (sample_entry(1), sample_entry(2));
    let batch = vec![
        IndexChange::Put(BlockId(1), first.clone()),
        IndexChange::Put(BlockId(1), second.clone()),
        IndexChange::Put(BlockId(2), first.clone()),
        IndexChange::Remove(BlockId(2)),
        IndexChange::Remove(BlockId(3)),
        IndexChange::Put(BlockId(3), first.clone()),
        IndexChange::Remove(BlockId(4)),
    ];
    index.apply(batch, 7).await.expect("a good batch applies");
    let blocks = (1..=4).map(BlockId).collect();
    assert_eq!(index.get_many(blocks).await, Ok(vec![Some(second), None, Some(first), None]));
}

/// Also with repeats, absent blocks and many of them.
pub async fn answers_come_in_the_order_asked(index: &dyn Index) {
    let batch = (0..3000).map(|number| put(number * 2)).collect();
    index.apply(batch, 1).await.expect("a good batch applies");
    let asked: Vec<u128> = (0..6000).rev().chain([4, 4, 5, 4, u128::MAX]).collect();
    let answers = index.get_many(asked.iter().copied().map(BlockId).collect()).await.expect("a lookup answers");
    assert_eq!(answers.len(), asked.len());
    for (number, answer) in asked.into_iter().zip(answers) {
        let expected = (number < 6000 && number % 2 == 0).then(|| sample_entry(number));
        assert_eq!(answer, expected, "block {number}");
    }
}

/// From the lowest id to the highest, in chunks of any size.
pub async fn a_scan_meets_every_block_once_in_id_order(index: &dyn Index) {
    let mut ids: Vec<u128> =
        (0..200).map(|number: u128| number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060)).collect();
    ids.extend([u128::MAX, u128::MAX - 1, 1 << 64, (1 << 64) - 1, 255, 256]);
    let batch = ids.iter().map(|id| put(*id)).collect();
    index.apply(batch, 1).await.expect("a good batch applies");
    ids.sort_unstable();
    ids.dedup();
    for count_max in [1, 7, 64, ids.len() - 1, ids.len(), ids.len() + 1, usize::MAX] {
        let mut met = Vec::new();
        let mut after = None;
        loop {
            let chunk = index.scan(after, count_max).await.expect("a scan answers");
            assert!(chunk.len() <= count_max);
            met.extend(chunk.iter().map(|(block, _)| block.0));
            assert!(chunk.iter().all(|(block, entry)| *entry == sample_entry(block.0)));
            match chunk.last() {
                Some((block, _)) if chunk.len() == count_max => after = Some(*block),
                _ => break,
            }
        }
        assert_eq!(met, ids, "in chunks of {count_max}");
    }
    assert_eq!(index.scan(None, 0).await, Ok(vec![]));
    assert_eq!(index.scan(Some(BlockId(u128::MAX)), 10).await, Ok(vec![]));
}

/// By number and by place, each once.
pub async fn spaces_and_quarantined_slots_are_kept_in_order(index: &dyn Index) {
    let slot = |device, offset| Slot { device, offset, bytes: 8192 };
    let mut batch: Vec<_> =
        [300, 2, 1, 70_000].map(|number| IndexChange::PutSpace(Box::new(sample_space(number)))).into();
    batch.push(IndexChange::RemoveSpace(2));
    batch.push(IndexChange::RemoveSpace(9));
    batch.extend([slot(1, 0), slot(0, 1 << 40), slot(0, 4096), slot(1, 0)].map(IndexChange::Quarantine));
    index.apply(batch, 1).await.expect("a good batch applies");
    let renamed = SpaceRecord { name: "renamed".into(), ..sample_space(300) };
    index.apply(vec![IndexChange::PutSpace(Box::new(renamed.clone()))], 2).await.expect("a good batch applies");
    assert_eq!(index.spaces().await, Ok(vec![sample_space(1), renamed, sample_space(70_000)]));
    assert_eq!(index.quarantined().await, Ok(vec![slot(0, 4096), slot(0, 1 << 40), slot(1, 0)]));
}

/// Positions move with batches, empty ones too, and only forward.
pub async fn applied_follows_the_batches_and_flush_tells_what_is_durable(index: &dyn Index) {
    index.apply(vec![put(1)], 5).await.expect("a good batch applies");
    assert_eq!(index.applied(), 5);
    index.apply(vec![], 9).await.expect("an empty batch applies");
    assert_eq!(index.applied(), 9);
    index.apply(vec![put(2)], 9).await.expect("a batch may cover what is covered");
    assert_eq!(index.flush().await, Ok(9));
    index.apply(vec![put(3)], u64::MAX).await.expect("positions have no other end");
    assert_eq!(index.flush().await, Ok(u64::MAX));
    assert_eq!(index.flush().await, Ok(u64::MAX));
}

/// It cannot be what the caller meant, and the index keeps what it has.
pub async fn a_batch_that_goes_back_is_refused(index: &dyn Index) {
    index.apply(vec![put(1)], 5).await.expect("a good batch applies");
    assert!(matches!(index.apply(vec![put(2)], 4).await, Err(IndexError::Unavailable(_))));
    assert_eq!(index.applied(), 5);
    assert_eq!(index.get_many(vec![BlockId(2)]).await, Ok(vec![None]));
    index.apply(vec![put(2)], 6).await.expect("the next good batch applies");
}

/// Otherwise the index would claim to cover what it never got.
pub async fn batches_behind_a_refused_one_wait_until_it_was_seen(index: &dyn Index) {
    index.apply(vec![put(1)], 5).await.expect("a good batch applies");
    let refused = index.apply(vec![put(2)], 4);
    let behind = index.apply(vec![put(3)], 7);
    assert!(matches!(behind.await, Err(IndexError::Unavailable(_))), "nobody has seen the refusal yet");
    assert!(refused.await.is_err());
    assert_eq!(index.applied(), 5);
    index.apply(vec![put(2)], 6).await.expect("the refusal was seen");
    index.apply(vec![put(3)], 7).await.expect("the refusal was seen");
    // A caller that drops the answer does not want to know.
    drop(index.apply(vec![put(4)], 1));
    index.flush().await.expect("a flush is no batch");
    index.apply(vec![put(4)], 8).await.expect("nobody waits for the refusal any more");
    let found = index.get_many((1..=4).map(BlockId).collect()).await.expect("a lookup answers");
    assert_eq!(found, (1..=4).map(|number| Some(sample_entry(number))).collect::<Vec<_>>());
}

/// A batch is atomic, so the limit applies to all of it.
pub async fn a_batch_over_the_limit_changes_nothing(index: &dyn Index) {
    let batch: Vec<_> = (0..=BATCH_LEN_MAX as u128).map(|number| IndexChange::Remove(BlockId(number))).collect();
    assert!(matches!(index.apply(batch.clone(), 1).await, Err(IndexError::Unavailable(_))));
    assert_eq!(index.applied(), 0);
    index.apply(batch[1..].to_vec(), 1).await.expect("a batch of the largest size applies");
}

/// A chain is never longer.
pub async fn a_lookup_over_the_limit_is_refused(index: &dyn Index) {
    let blocks = vec![BlockId(1); LOOKUP_LEN_MAX + 1];
    assert!(matches!(index.get_many(blocks.clone()).await, Err(IndexError::Unavailable(_))));
    assert_eq!(index.get_many(blocks[1..].to_vec()).await, Ok(vec![None; LOOKUP_LEN_MAX]));
}

/// An operation starts when it is called and finishes even if its future is dropped.
pub async fn work_is_done_though_nobody_waits(index: &dyn Index) {
    drop(index.apply(vec![put(1)], 1));
    drop(index.get_many(vec![BlockId(1)]));
    drop(index.flush());
    drop(index.apply(vec![put(2)], 2));
    assert_eq!(index.flush().await, Ok(2));
    let found = index.get_many(vec![BlockId(1), BlockId(2)]).await;
    assert_eq!(found, Ok(vec![Some(sample_entry(1)), Some(sample_entry(2))]));
}

/// Everything, and the position.
pub async fn what_was_flushed_is_there_after_a_reopen(subject: &mut impl Subject) {
    let slot = Slot { device: 3, offset: 8192, bytes: 12_288 };
    let index = subject.create();
    let mut batch: Vec<_> = (0..100).map(put).collect();
    batch.extend([IndexChange::PutSpace(Box::new(sample_space(1))), IndexChange::Quarantine(slot)]);
    index.apply(batch, 50).await.expect("a good batch applies");
    index.apply(vec![IndexChange::Remove(BlockId(7))], 51).await.expect("a good batch applies");
    assert_eq!(index.flush().await, Ok(51));
    let index = subject.reopen(index);
    assert_eq!(index.applied(), 51);
    let expected: Vec<_> =
        (0..100).filter(|id| *id != 7).map(|number| (BlockId(number), sample_entry(number))).collect();
    assert_eq!(index.scan(None, 1000).await, Ok(expected));
    assert_eq!(index.spaces().await, Ok(vec![sample_space(1)]));
    assert_eq!(index.quarantined().await, Ok(vec![slot]));
    index.apply(vec![put(7)], 52).await.expect("the reopened index applies");
    let index = {
        index.flush().await.expect("the reopened index flushes");
        subject.reopen(index)
    };
    assert_eq!(index.get_many(vec![BlockId(7)]).await, Ok(vec![Some(sample_entry(7))]));
}

fn put(number: u128) -> IndexChange {
    IndexChange::Put(BlockId(number), sample_entry(number))
}

/// An entry that is unlike those of other numbers in every field.
pub fn sample_entry(number: u128) -> IndexEntry {
    let low = (number ^ (number >> 64)) as u64;
    let key = number.to_be_bytes().repeat(2);
    IndexEntry {
        space: (low % 1000) as u32,
        key: Key::new(&key[..1 + (low % 32) as usize]).expect("1 to 32 bytes are a key"),
        parent: (!low.is_multiple_of(5)).then_some(BlockId(number.wrapping_sub(1))),
        length: 1 + (low % (1 << 20)) as u32,
        crc: (low as u32).wrapping_mul(0x9e37_79b9),
        generation: low,
        slot: Slot { device: (low % 4) as u16, offset: (low % (1 << 40)) * 4096, bytes: 8192 + (1 << 20) },
    }
}

/// A space with this number.
pub fn sample_space(number: u32) -> SpaceRecord {
    SpaceRecord {
        number,
        name: format!("space {number}"),
        digest: SpaceDigest([number.to_le_bytes()[0]; 32]),
        description: SpaceDescription::single_part("tenant", "model", 16, 4096 + number),
    }
}
