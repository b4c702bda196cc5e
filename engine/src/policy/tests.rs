use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// The first of two, the other of which stays as it is.
const ORDER: usize = 0;
const KINDS: [PolicyKind; 2] = [PolicyKind::LeafLru, PolicyKind::S3Fifo];

fn take(policy: &mut dyn Policy) -> Option<u32> {
    let victim = policy.victim(ORDER, usize::MAX, &mut |_| Verdict::Take)?;
    policy.remove(ORDER, victim, mark(victim), true);
    Some(victim)
}

fn mark(index: u32) -> u64 {
    u64::from(index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn filled(kind: PolicyKind, count: u32) -> Box<dyn Policy> {
    let mut policy = policy(kind, 2, 1024);
    (0..count).for_each(|index| policy.insert(ORDER, index, mark(index), None));
    policy
}

fn drained(mut policy: Box<dyn Policy>) -> Vec<u32> {
    std::iter::from_fn(|| take(policy.as_mut())).collect()
}

#[test]
fn lru_takes_the_oldest_and_spares_what_was_touched() {
    let mut policy = filled(PolicyKind::LeafLru, 5);
    policy.touch(ORDER, &[1], None);
    assert_eq!(drained(policy), [0, 2, 3, 4, 1]);
}

#[test]
fn lru_keeps_a_chain_together_with_its_tail_the_coldest() {
    let mut policy = policy(PolicyKind::LeafLru, 2, 0);
    policy.insert(ORDER, 0, 0, None);
    policy.insert(ORDER, 1, 0, Some(0));
    policy.insert(ORDER, 9, 0, None);
    policy.insert(ORDER, 2, 0, Some(1));
    policy.insert(ORDER, 8, 0, Some(0));
    // 9 | 0 8 1 2: the newest child stands next to its parent.
    policy.touch(ORDER, &[0, 1, 2], None);
    // 0 1 2 | 9 8: the chain moved in pieces, and stands together again.
    assert_eq!(drained(policy), [8, 9, 2, 1, 0]);
}

#[test]
fn lru_moves_a_run_below_its_parent() {
    let mut policy = filled(PolicyKind::LeafLru, 6);
    policy.touch(ORDER, &[0, 1], Some(4));
    assert_eq!(drained(policy), [2, 3, 1, 0, 4, 5]);
}

#[test]
fn s3_fifo_keeps_what_was_used_and_drops_what_was_not() {
    let mut policy = filled(PolicyKind::S3Fifo, 20);
    for _ in 0..2 {
        policy.touch(ORDER, &[0, 1], None);
    }
    let gone: BTreeSet<u32> = (0..17).filter_map(|_| take(policy.as_mut())).collect();
    assert!(!gone.contains(&0) && !gone.contains(&1), "{gone:?}");
}

#[test]
fn s3_fifo_remembers_ghosts() {
    let mut policy = filled(PolicyKind::S3Fifo, 20);
    assert_eq!(take(policy.as_mut()), Some(0));
    policy.insert(ORDER, 0, mark(0), None);
    // It came back soon after it went, so it outlives the other newcomers.
    assert_eq!(drained(policy).last(), Some(&0));
}

#[test]
fn a_parked_block_is_no_candidate_until_it_is_unparked() {
    for kind in KINDS {
        let mut policy = filled(kind, 3);
        let found =
            policy.victim(ORDER, usize::MAX, &mut |index| if index == 0 { Verdict::Park } else { Verdict::Take });
        assert_eq!(found, Some(1));
        assert!(policy.is_parked(0) && policy.contains(0));
        let seen =
            policy.victim(ORDER, usize::MAX, &mut |index| if index == 0 { panic!("parked") } else { Verdict::Skip });
        assert_eq!(seen, None);
        policy.unpark(ORDER, 0);
        assert_eq!(take(policy.as_mut()), Some(0), "{kind:?}: it is the coldest again");
        policy.unpark(ORDER, 1);
        assert_eq!(policy.members(ORDER).len() as u64, 2);
    }
}

#[test]
fn a_scan_skips_no_more_than_it_may() {
    for kind in KINDS {
        let mut policy = filled(kind, 100);
        let mut seen = 0;
        let found = policy.victim(ORDER, 10, &mut |_| {
            seen += 1;
            Verdict::Skip
        });
        assert_eq!((found, seen), (None, 10), "{kind:?}");
        assert_eq!(drained(policy).len(), 100, "skipped blocks stay");
    }
}

#[test]
fn second_touch_admits_the_second_put() {
    let mut second = admission(AdmissionKind::SecondTouch, 1024);
    assert!(!second.put(mark(1)));
    assert!(!second.put(mark(2)));
    assert!(second.put(mark(1)));
    assert!(second.hit(mark(3)));
    let mut all = admission(AdmissionKind::All, 0);
    assert!(all.put(mark(1)));
}

/// Marks as uniform as those of blocks.
fn marks(count: u64) -> impl Iterator<Item = u64> + Clone {
    let mix =
        |number: u64| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number >> 7).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (1..=count).map(move |number| mix(number) ^ mix(number) >> 31)
}

#[test]
fn blocks_of_a_long_chain_do_not_make_each_other_forgotten() {
    let mut seen = Seen::new(1 << 16);
    assert_eq!(marks(4_000).filter(|mark| seen.note(*mark)).count(), 0, "all are new");
    assert_eq!(marks(4_000).filter(|mark| seen.note(*mark)).count(), 4_000, "all were seen");
}

#[test]
fn what_was_seen_is_forgotten_oldest_first_and_in_a_bounded_table() {
    let mut seen = Seen::new(8);
    let of_one_bucket = |number: u64| number << 33;
    (1..=8).for_each(|number| assert!(!seen.note(of_one_bucket(number))));
    assert!(seen.note(of_one_bucket(1)), "the oldest is still there, and the newest now");
    assert!(!seen.note(of_one_bucket(9)), "a ninth");
    assert!(seen.note(of_one_bucket(1)) && !seen.note(of_one_bucket(2)), "it pushed out the one seen longest ago");
    assert_eq!(seen.bytes(), 32);
}

proptest! {
    /// Whatever happens, a policy knows exactly what was inserted and not removed, each in its own order, and gives all of
    /// it up in the end.
    #[test]
    fn a_policy_loses_and_invents_nothing(
        steps in prop::collection::vec((0u8..7, 0u32..24, 0u32..24), 0..300),
        lru in any::<bool>(),
    ) {
        let mut policy = policy(KINDS[usize::from(lru)], 2, 64);
        let mut known: BTreeSet<u32> = BTreeSet::new();
        for (kind, index, other) in steps {
            // Even blocks are in the first order, odd ones in the second.
            let order = index as usize % 2;
            let above = (index != other && index % 2 == other % 2 && known.contains(&other)).then_some(other);
            match (kind, known.contains(&index)) {
                (0 | 1, false) => {
                    policy.insert(order, index, mark(index), above);
                    known.insert(index);
                }
                (0, true) => policy.touch(order, &[index], above),
                (1, true) => {
                    let run: Vec<u32> = (index..24).step_by(2).take_while(|at| known.contains(at)).collect();
                    policy.touch(order, &run, above.filter(|above| !run.contains(above)));
                }
                (2, true) => policy.unpark(order, index),
                (3, true) => policy.sink(order, index),
                (4, true) => {
                    policy.remove(order, index, mark(index), false);
                    known.remove(&index);
                }
                (5, _) => _ = policy.victim(order, 3, &mut |at| if at % 4 < 2 { Verdict::Park } else { Verdict::Skip }),
                (6, _) => if let Some(victim) = policy.victim(order, usize::MAX, &mut |at| {
                    if at == index { Verdict::Park } else { Verdict::Take }
                }) {
                    prop_assert!(known.remove(&victim) && victim != index);
                    prop_assert_eq!(victim % 2, index % 2, "room in one order was made in the other");
                    policy.remove(order, victim, mark(victim), true);
                },
                _ => {}
            }
            for order in 0..2 {
                let members: BTreeSet<u32> = policy.members(order).into_iter().collect();
                let expected: BTreeSet<u32> = known.iter().copied().filter(|at| *at as usize % 2 == order).collect();
                prop_assert_eq!(members, expected);
            }
            prop_assert!((0..24).all(|at| policy.contains(at) == known.contains(&at)));
        }
        known.iter().for_each(|index| policy.unpark(*index as usize % 2, *index));
        let mut left: BTreeSet<u32> = BTreeSet::new();
        for order in 0..2 {
            while let Some(victim) = policy.victim(order, usize::MAX, &mut |_| Verdict::Take) {
                policy.remove(order, victim, mark(victim), true);
                prop_assert!(left.insert(victim));
            }
        }
        prop_assert_eq!(left, known);
    }
}
