//! What goes wrong between memory and medium is found, always, and stays where it is.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use kvtier_engine::place::{PAGE_BYTES, slot_bytes};
use kvtier_engine::port::{Load, LoadOutcome, StoreOutcome, Tier, TierError};
use kvtier_nvme::check::reason;
use kvtier_nvme::fake::Fault;
use proptest::prelude::*;
use rig::{Rig, expect, payload};

const LENGTH: u32 = 9000;

fn assert_corrupt(rig: &Rig, at: kvtier_engine::place::Slot, expect: kvtier_engine::port::tier::Expect, why: &str) {
    assert_eq!(rig.load(at, expect), LoadOutcome::Corrupt(why_of(why)));
    assert_eq!(rig.verify(at, expect), LoadOutcome::Corrupt(why_of(why)));
}

/// The reason's own constant.
fn why_of(why: &str) -> &'static str {
    let all = [
        reason::NO_HEADER,
        reason::HEADER_CHECKSUM,
        reason::OTHER_BLOCK,
        reason::OTHER_GENERATION,
        reason::OTHER_LENGTH,
        reason::OTHER_CHECKSUM,
        reason::PAYLOAD,
    ];
    all.into_iter().find(|&reason| reason == why).unwrap()
}

#[test]
fn a_flipped_bit_in_header_or_payload_is_told_apart() {
    let rig = Rig::new();
    let (slot, expect) = rig.put(1, 1, LENGTH);
    rig.disk().edit(|bytes| bytes[slot.offset as usize + 30] ^= 4);
    assert_corrupt(&rig, slot, expect, reason::HEADER_CHECKSUM);
    let (slot, expect) = rig.put(2, 1, LENGTH);
    rig.disk().edit(|bytes| bytes[slot.offset as usize + 4096 + 8999] ^= 128);
    assert_corrupt(&rig, slot, expect, reason::PAYLOAD);
}

#[test]
fn padding_behind_the_payload_is_zero_on_disk_and_nobody_elses_bytes() {
    let rig = Rig::new();
    rig.memory_is_soiled();
    let (slot, expect) = rig.put(1, 1, 100);
    rig.disk().edit(|bytes| {
        let slot = &bytes[slot.offset as usize..][..8192];
        assert!(slot[256..4096].iter().all(|&byte| byte == 0), "behind the header");
        assert!(slot[4096 + 100..].iter().all(|&byte| byte == 0), "behind the payload");
    });
    assert_eq!(rig.load(slot, expect), LoadOutcome::Verified);
}

impl Rig {
    fn memory_is_soiled(&self) {
        use kvtier_engine::port::Memory;
        let slot = self.host(0, LENGTH);
        self.memory.write_header(slot, &[0xa5; 4096]);
        self.memory.write(slot, 0, &vec![0xa5; slot.payload_bytes_max() as usize]);
    }
}

#[test]
fn swapped_slots_are_found_on_both_sides() {
    let rig = Rig::new();
    let ((one, expect_one), (two, expect_two)) = (rig.put(1, 1, LENGTH), rig.put(2, 1, LENGTH));
    rig.disk().edit(|bytes| {
        for at in 0..slot_bytes(LENGTH) as usize {
            bytes.swap(one.offset as usize + at, two.offset as usize + at);
        }
    });
    assert_corrupt(&rig, one, expect_one, reason::OTHER_BLOCK);
    assert_corrupt(&rig, two, expect_two, reason::OTHER_BLOCK);
    assert_eq!(rig.load(one, expect_two), LoadOutcome::Verified, "the bytes themselves are whole");
}

#[test]
fn a_lost_write_leaves_a_stale_generation() {
    let rig = Rig::new();
    let (slot, old) = rig.put(1, 1, LENGTH);
    rig.disk().inject(Fault::WriteLost(slot.offset..slot.offset + 1));
    let (_, new) = rig.put(1, 2, LENGTH);
    assert_corrupt(&rig, slot, new, reason::OTHER_GENERATION);
    assert_eq!(rig.load(slot, old), LoadOutcome::Verified, "what is there is the older store");
}

#[test]
fn a_misdirected_write_damages_two_slots_and_both_are_found() {
    let rig = Rig::new();
    let (victim, victims) = rig.put(2, 1, LENGTH);
    let meant = rig.slot(1, LENGTH);
    rig.disk().inject(Fault::Misdirected { from: meant.offset, to: victim.offset });
    let (slot, expect) = rig.put(1, 1, LENGTH);
    assert_corrupt(&rig, slot, expect, reason::NO_HEADER);
    assert_corrupt(&rig, victim, victims, reason::OTHER_BLOCK);
}

#[test]
fn zeroed_sectors_are_found_in_header_and_payload() {
    let rig = Rig::new();
    let (slot, expect) = rig.put(1, 1, LENGTH);
    rig.disk().inject(Fault::ReadsZero(slot.offset..slot.offset + 512));
    assert_corrupt(&rig, slot, expect, reason::NO_HEADER);
    rig.disk().heal();
    for sector in 0..LENGTH.div_ceil(512) {
        let at = slot.offset + PAGE_BYTES + u64::from(sector) * 512;
        rig.disk().inject(Fault::ReadsZero(at..at + 512));
        assert_corrupt(&rig, slot, expect, reason::PAYLOAD);
        rig.disk().heal();
    }
    assert_eq!(rig.load(slot, expect), LoadOutcome::Verified);
}

#[test]
fn a_transfer_torn_at_any_sector_is_found() {
    let rig = Rig::with(1, kvtier_nvme::NvmeSettings { breaker_errors: 10_000, ..rig::settings(1, 8) });
    let (slot, old) = rig.put(1, 1, LENGTH);
    let range = slot.offset as usize..slot.offset as usize + slot.bytes as usize;
    let before = rig.disk().edit(|bytes| bytes[range.clone()].to_vec());
    let store = rig.plan(9, 2, LENGTH, rig.host(0, LENGTH), slot);
    let new = expect(&store.header);
    assert_eq!(rig.run(rig.tier.store(vec![store])), [StoreOutcome::Written]);
    let after = rig.disk().edit(|bytes| bytes[range.clone()].to_vec());
    for sectors in 1..4096 / 512 + LENGTH.div_ceil(512) as usize {
        let cut = sectors * 512;
        for (head, tail) in [(&after, &before), (&before, &after)] {
            rig.disk().edit(|bytes| {
                bytes[range.clone()][..cut].copy_from_slice(&head[..cut]);
                bytes[range.clone()][cut..].copy_from_slice(&tail[cut..]);
            });
            // A cut in the zero rest of the header page tears nothing of the payload apart from its header.
            let whole = |expect| rig.load(slot, expect) == LoadOutcome::Verified;
            assert!(!(whole(old) && whole(new)), "cut at {cut}");
            assert!(!whole(old) && !whole(new), "header and payload are of different stores, cut at {cut}");
        }
    }
}

#[test]
fn a_read_error_is_no_answer_rather_than_a_corrupt_one() {
    let rig = Rig::new();
    let (slot, expect) = rig.put(1, 1, LENGTH);
    rig.disk().inject(Fault::ReadFails(slot.offset..slot.offset + 1));
    let LoadOutcome::Failed(TierError::Io(cause)) = rig.load(slot, expect) else { panic!("must fail") };
    assert!(cause.contains("nvme-0.blocks") && cause.contains("input/output error"), "{cause}");
    assert!(matches!(rig.verify(slot, expect), LoadOutcome::Failed(TierError::Io(_))));
    rig.disk().heal();
    assert_eq!(rig.load(slot, expect), LoadOutcome::Verified);
}

#[test]
fn a_truncated_file_fails_its_missing_blocks_only() {
    let rig = Rig::new();
    let ((one, expect_one), (far, expect_far)) = (rig.put(1, 1, LENGTH), rig.put(30, 1, LENGTH));
    rig.disk().edit(|bytes| bytes.truncate(far.offset as usize + 4096));
    assert_eq!(rig.load(one, expect_one), LoadOutcome::Verified);
    assert!(matches!(rig.load(far, expect_far), LoadOutcome::Failed(TierError::Io(_))));
    assert!(matches!(rig.verify(far, expect_far), LoadOutcome::Failed(TierError::Io(_))));
}

#[test]
fn one_bad_sector_does_not_take_its_neighbours_along() {
    let rig = Rig::new();
    let stores: Vec<_> =
        (0..8).map(|seed| rig.plan(seed, 1, 4096, rig.host(seed, 4096), rig.slot(seed, 4096))).collect();
    let expects: Vec<_> = stores.iter().map(|store| expect(&store.header)).collect();
    assert_eq!(rig.run(rig.tier.store(stores)), vec![StoreOutcome::Written; 8]);
    let bad = rig.slot(3, 4096).offset + 4096;
    rig.disk().inject(Fault::ReadFails(bad..bad + 512));
    let load = |seed: u64| Load {
        from: rig.slot(seed, 4096),
        into: rig.host(seed + 20, 4096),
        expect: expects[seed as usize],
    };
    let outcomes = rig.run(rig.tier.load((0..8).map(load).collect()));
    for (seed, outcome) in outcomes.iter().enumerate() {
        assert_eq!(*outcome == LoadOutcome::Verified, seed != 3, "block {seed}: {outcome:?}");
    }
}

#[test]
fn a_failed_write_is_reported_and_nothing_was_promised() {
    let rig = Rig::new();
    let slot = rig.slot(1, LENGTH);
    rig.disk().inject(Fault::WriteFails(slot.offset..slot.offset + 1));
    let store = rig.plan(1, 1, LENGTH, rig.host(0, LENGTH), slot);
    let outcomes = rig.run(rig.tier.store(vec![store]));
    assert!(matches!(&outcomes[..], [StoreOutcome::Failed(TierError::Io(_))]), "{outcomes:?}");
    assert_eq!(rig.sync(), Ok(()), "a failed write is not a failed sync");
}

#[test]
fn a_scribbled_block_drops_out_of_its_batch() {
    use kvtier_engine::port::Memory;
    let rig = Rig::new();
    let stores: Vec<_> =
        (0..5).map(|seed| rig.plan(seed, 1, 4096, rig.host(seed, 4096), rig.slot(seed, 4096))).collect();
    rig.memory.write(rig.host(2, 4096), 4095, &[!payload(2, 4096)[4095]]);
    let outcomes = rig.run(rig.tier.store(stores));
    let scribbled = StoreOutcome::Corrupt(reason::HOST_PAYLOAD);
    let written = StoreOutcome::Written;
    assert_eq!(outcomes, [written.clone(), written.clone(), scribbled, written.clone(), written]);
    let writes: Vec<_> = rig.disk().take_submitted().iter().map(|write| write.offset).collect();
    assert_eq!(writes, [0, 1, 3, 4].map(|seed| rig.slot(seed, 4096).offset));
}

/// One way to damage a disk.
#[derive(Debug, Clone)]
enum Harm {
    Flip { block: u64, byte: u32, bit: u8 },
    Copy { from: u64, to: u64 },
    Zero { block: u64, sector: u32 },
    Older { block: u64 },
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        (0u64..6, 0u32..4096 + LENGTH, 0u8..8).prop_map(|(block, byte, bit)| Harm::Flip { block, byte, bit }),
        (0u64..6, 0u64..6).prop_map(|(from, to)| Harm::Copy { from, to }),
        (0u64..6, 0u32..25).prop_map(|(block, sector)| Harm::Zero { block, sector }),
        (0u64..6).prop_map(|block| Harm::Older { block }),
    ]
}

proptest! {
    /// INV-1: after any damage a load is `Verified` only with the right bytes, and damage that changed a block's
    /// header or payload is always found.
    #[test]
    fn damage_is_a_miss_and_never_other_bytes(harms in proptest::collection::vec(harm(), 1..6)) {
        let rig = Rig::with(1, kvtier_nvme::NvmeSettings { breaker_errors: 10_000, ..rig::settings(1, 4) });
        (0..6).for_each(|seed| _ = rig.put(seed, 1, LENGTH));
        let older = rig.disk().edit(|bytes| bytes.clone());
        let blocks: Vec<_> = (0..6).map(|seed| rig.put(seed, 2, LENGTH)).collect();
        let newer = rig.disk().edit(|bytes| bytes.clone());
        let slot_at = |block: u64| blocks[block as usize].0.offset as usize;
        let size = slot_bytes(LENGTH) as usize;
        rig.disk().edit(|bytes| for harm in &harms {
            match *harm {
                Harm::Flip { block, byte, bit } => bytes[slot_at(block) + byte as usize] ^= 1 << bit,
                Harm::Copy { from, to } => bytes.copy_within(slot_at(from)..slot_at(from) + size, slot_at(to)),
                Harm::Zero { block, sector } => bytes[slot_at(block) + sector as usize * 512..][..512].fill(0),
                Harm::Older { block } => {
                    let range = slot_at(block)..slot_at(block) + size;
                    bytes[range.clone()].copy_from_slice(&older[range]);
                }
            }
        });
        for (seed, &(slot, expect)) in blocks.iter().enumerate() {
            let now = rig.disk().edit(|bytes| bytes[slot.offset as usize..][..size].to_vec());
            let then = &newer[slot.offset as usize..][..size];
            let (page, end) = (4096, 4096 + LENGTH as usize);
            let whole = now[..256] == then[..256] && now[page..end] == then[page..end];
            let loaded = rig.load(slot, expect) == LoadOutcome::Verified;
            prop_assert_eq!(loaded, whole, "block {}", seed);
            prop_assert_eq!(rig.verify(slot, expect) == LoadOutcome::Verified, whole, "block {} in place", seed);
        }
    }
}
