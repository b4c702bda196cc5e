use proptest::prelude::*;

use super::*;
use crate::aligned::AlignedBuffer;
use crate::port::DiskOp;
use crate::transfer::{Limits, plan};

fn transfer(priority: Priority, pages: usize, offset: u64) -> Transfer {
    let into = AlignedBuffer::zeroed(pages * 4096).disk_buffer();
    let limits = Limits { disk_bytes: u64::MAX, transfer_bytes_max: !4095, poisoned: None };
    plan(vec![DiskOp::Read { offset, into }], priority, limits).transfers.remove(0)
}

fn backlog(depth: u32, store_bytes_max: u64) -> Backlog {
    Backlog::new(FlightLimits { depth, store_bytes_max })
}

/// Starts one and ends it at once.
fn serve(backlog: &mut Backlog) -> Option<(Priority, u64)> {
    let transfer = backlog.next()?;
    backlog.landed(transfer.priority, transfer.bytes);
    Some((transfer.priority, transfer.offset))
}

#[test]
fn loads_go_before_stores_and_stores_before_idle_work() {
    let mut backlog = backlog(8, u64::MAX);
    for priority in [Priority::Idle, Priority::Store, Priority::Load] {
        backlog.push(transfer(priority, 1, 0));
    }
    let order: Vec<Priority> = std::iter::from_fn(|| serve(&mut backlog)).map(|(priority, _)| priority).collect();
    assert_eq!(order, [Priority::Load, Priority::Store, Priority::Idle]);
    assert!(backlog.is_empty());
}

#[test]
fn within_a_priority_first_come_is_first_served() {
    let mut backlog = backlog(8, u64::MAX);
    for offset in [8192, 0, 4096] {
        backlog.push(transfer(Priority::Load, 1, offset));
    }
    backlog.push_front(transfer(Priority::Load, 1, 1 << 20));
    let order: Vec<u64> = std::iter::from_fn(|| serve(&mut backlog)).map(|(_, offset)| offset).collect();
    assert_eq!(order, [1 << 20, 8192, 0, 4096]);
}

#[test]
fn the_depth_is_never_exceeded() {
    let mut backlog = backlog(3, u64::MAX);
    (0..5).for_each(|_| backlog.push(transfer(Priority::Load, 1, 0)));
    let flying: Vec<Transfer> = std::iter::from_fn(|| backlog.next()).collect();
    assert_eq!((flying.len(), backlog.flying_count()), (3, 3));
    backlog.landed(Priority::Load, flying[0].bytes);
    assert!(backlog.next().is_some());
    assert!(backlog.next().is_none());
}

#[test]
fn an_endless_stream_of_loads_does_not_starve_stores_or_idle_work() {
    let mut backlog = backlog(8, u64::MAX);
    backlog.push(transfer(Priority::Load, 1, 0));
    for _ in 0..100 {
        backlog.push(transfer(Priority::Store, 1, 0));
        backlog.push(transfer(Priority::Idle, 1, 0));
    }
    let mut served = [0_u32; 3];
    for _ in 0..1300 {
        backlog.push(transfer(Priority::Load, 1, 0));
        let (priority, _) = serve(&mut backlog).expect("something waits");
        served[priority as usize] += 1;
    }
    assert!((60..=100).contains(&served[1]), "a sixteenth for stores: {served:?}");
    assert!((15..=30).contains(&served[2]), "a sixty-fourth for idle work: {served:?}");
}

#[test]
fn a_store_waits_for_a_bounded_number_of_load_bytes() {
    let mut backlog = backlog(8, u64::MAX);
    (0..40).for_each(|_| backlog.push(transfer(Priority::Load, 4, 0)));
    backlog.push(transfer(Priority::Store, 8, 0));
    let before: Vec<Priority> = std::iter::from_fn(|| serve(&mut backlog))
        .map(|(priority, _)| priority)
        .take_while(|priority| *priority == Priority::Load)
        .collect();
    // 16 bytes of loads for each of its 8 pages, 4 pages at a time.
    assert_eq!(before.len(), 32);
}

#[test]
fn credit_is_not_hoarded_while_nothing_waits() {
    let mut backlog = backlog(8, u64::MAX);
    for _ in 0..1000 {
        backlog.push(transfer(Priority::Load, 16, 0));
        serve(&mut backlog);
    }
    backlog.push(transfer(Priority::Store, 1, 0));
    backlog.push(transfer(Priority::Load, 1, 0));
    assert_eq!(serve(&mut backlog).map(|(priority, _)| priority), Some(Priority::Load));
}

#[test]
fn stores_leave_room_for_a_load() {
    let mut backlog = backlog(16, u64::MAX);
    (0..100).for_each(|_| backlog.push(transfer(Priority::Store, 1, 0)));
    let flying = std::iter::from_fn(|| backlog.next()).count();
    assert_eq!(flying, 14, "an eighth of the depth is kept");
    backlog.push(transfer(Priority::Load, 1, 0));
    assert_eq!(backlog.next().map(|transfer| transfer.priority), Some(Priority::Load));
}

#[test]
fn beside_a_load_only_one_store_flies() {
    let mut backlog = backlog(16, u64::MAX);
    (0..4).for_each(|_| backlog.push(transfer(Priority::Store, 1, 0)));
    backlog.push(transfer(Priority::Load, 1, 0));
    let flying: Vec<Priority> = std::iter::from_fn(|| backlog.next()).map(|transfer| transfer.priority).collect();
    assert_eq!(flying, [Priority::Load, Priority::Store]);
    backlog.landed(Priority::Load, 4096);
    assert_eq!(std::iter::from_fn(|| backlog.next()).count(), 3, "the load is done: the others may fly");
}

#[test]
fn stores_at_the_device_are_capped_in_bytes_but_never_to_nothing() {
    let mut backlog = backlog(64, 3 * 4096);
    (0..5).for_each(|_| backlog.push(transfer(Priority::Store, 1, 0)));
    assert_eq!(std::iter::from_fn(|| backlog.next()).count(), 3);
    (0..3).for_each(|_| backlog.landed(Priority::Store, 4096));
    assert_eq!(std::iter::from_fn(|| serve(&mut backlog)).count(), 2);
    backlog.push(transfer(Priority::Store, 100, 0));
    assert!(backlog.next().is_some(), "a single store may be longer than the cap");
}

#[test]
fn a_depth_of_one_serves_everything() {
    let mut backlog = backlog(1, 4096);
    for priority in [Priority::Idle, Priority::Store, Priority::Load] {
        (0..10).for_each(|_| backlog.push(transfer(priority, 2, 0)));
    }
    assert_eq!(std::iter::from_fn(|| serve(&mut backlog)).count(), 30);
}

proptest! {
    /// Whatever comes and ends when: nothing is lost, no limit is broken, and it always comes to an end.
    #[test]
    fn everything_pushed_is_served_once(
        pushes in prop::collection::vec((0_usize..3, 1_usize..40), 1..120),
        depth in 1_u32..20,
        landings in prop::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        let classes = [Priority::Load, Priority::Store, Priority::Idle];
        let mut backlog = backlog(depth, 64 * 4096);
        let mut flying: Vec<Transfer> = Vec::new();
        let mut served = Vec::new();
        let mut landings = landings.into_iter();
        for (number, (class, pages)) in pushes.iter().enumerate() {
            backlog.push(transfer(classes[*class], *pages, number as u64 * 4096));
            if number % 3 == 0 {
                flying.extend(backlog.next());
                prop_assert!(flying.len() <= depth as usize);
            }
        }
        loop {
            while let Some(transfer) = backlog.next() {
                flying.push(transfer);
            }
            prop_assert_eq!(flying.len() as u32, backlog.flying_count());
            prop_assert!(flying.len() <= depth as usize);
            if flying.is_empty() {
                break;
            }
            let chosen = landings.next().map_or(0, |index| index.index(flying.len()));
            let transfer = flying.swap_remove(chosen);
            backlog.landed(transfer.priority, transfer.bytes);
            served.push(transfer.offset / 4096);
        }
        served.sort_unstable();
        prop_assert_eq!(served, (0..pushes.len() as u64).collect::<Vec<_>>());
        prop_assert!(backlog.is_empty());
    }
}
