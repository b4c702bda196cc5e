//! What a power cut may leave, checked against a model of what was promised.

use std::collections::{BTreeMap, BTreeSet};

use kvtier_device::sim::{Dice, Faults, SimDisk, SimWorld, Tearing};
use kvtier_device::{AlignedBuffer, BoxFuture, Disk, DiskError, DiskOp, Folder, Priority};
use proptest::prelude::*;

const PAGE: u64 = 4096;
const SECTOR: usize = 512;
const PAGE_COUNT: u64 = 24;

type Answers = BoxFuture<Vec<Result<(), DiskError>>>;

/// A disk on which every write has a number of its own in each of its sectors.
struct Promises {
    world: SimWorld,
    disk: SimDisk,
    /// Per page: the newest write that a sync covers, and all writes since.
    durable: BTreeMap<u64, u32>,
    since: BTreeMap<u64, Vec<u32>>,
    number: u32,
}

impl Promises {
    fn new(seed: u64, faults: Faults) -> Self {
        let world = SimWorld::new(seed, faults);
        world.add_disk("disk", PAGE_COUNT * PAGE, SECTOR);
        let disk = world.disk("disk");
        Self { world, disk, durable: BTreeMap::new(), since: BTreeMap::new(), number: 0 }
    }

    /// Starts a write of `count` pages from `page`.
    fn start_write(&mut self, page: u64, count: u64) -> Answers {
        self.number += 1;
        let bytes: Vec<u8> = self.number.to_le_bytes().repeat((count * PAGE) as usize / 4);
        for page in page..page + count {
            self.since.entry(page).or_default().push(self.number);
        }
        let from = AlignedBuffer::holding(&bytes).disk_buffer();
        self.disk.submit(vec![DiskOp::Write { offset: page * PAGE, from }], Priority::Store)
    }

    fn write(&mut self, page: u64, count: u64) {
        let call = self.start_write(page, count);
        assert_eq!(self.world.block_on(call), [Ok(())]);
    }

    fn sync(&mut self) {
        assert_eq!(self.world.block_on(self.disk.sync()), Ok(()));
        for (page, numbers) in std::mem::take(&mut self.since) {
            let newest = numbers.last().expect("an entry has a number");
            self.durable.insert(page, *newest);
        }
    }

    /// Every sector holds the durable number of its page or one written since, and nothing else.
    fn check(&self, after: &SimWorld) -> BTreeSet<&'static str> {
        let mut seen = BTreeSet::new();
        for page in 0..PAGE_COUNT {
            let durable = self.durable.get(&page).copied().unwrap_or(0);
            let since = self.since.get(&page).cloned().unwrap_or_default();
            let content = after.peek("disk", page * PAGE, PAGE as usize);
            let mut numbers = BTreeSet::new();
            for sector in content.chunks(SECTOR) {
                let number = u32::from_le_bytes(sector[..4].try_into().expect("four bytes"));
                assert!(sector.chunks(4).all(|word| word == number.to_le_bytes()), "page {page}: a torn sector");
                let is_allowed = number == durable || since.contains(&number);
                assert!(is_allowed, "page {page}: {number}, but durable is {durable} and since then {since:?}");
                numbers.insert(number);
            }
            let kind = match numbers.len() {
                1 if numbers.contains(&durable) => "old",
                1 => "new",
                _ => "torn",
            };
            if !since.is_empty() {
                seen.insert(kind);
            }
        }
        seen
    }
}

fn crashing() -> Faults {
    Faults { stall_one_in: 4, stall_steps_max: 12, ..Faults::default() }
}

#[test]
fn a_crash_leaves_old_new_and_torn_pages() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let mut promises = Promises::new(seed, crashing());
        (0..PAGE_COUNT).for_each(|page| promises.write(page, 1));
        promises.sync();
        (0..PAGE_COUNT / 2).for_each(|page| promises.write(page * 2, 2));
        seen.extend(promises.check(&promises.world.crash(seed)));
    }
    assert_eq!(seen, BTreeSet::from(["new", "old", "torn"]), "a simulator that never tears proves nothing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Writes completed one after the other, syncs between, a power cut at the end with writes under way.
    #[test]
    fn every_sector_is_durable_or_newer(seed: u64, tearing in 0..3) {
        let tearing = [Tearing::Whole, Tearing::Prefix, Tearing::Scattered][tearing as usize];
        let mut dice = Dice::new(seed);
        let mut promises = Promises::new(seed, Faults { tearing, ..crashing() });
        for _ in 0..dice.below(60) {
            if dice.one_in(6) {
                promises.sync();
            } else {
                let page = dice.below(PAGE_COUNT - 3);
                promises.write(page, 1 + dice.below(3));
            }
        }
        let under_way: Vec<Answers> = (0..4).map(|_| promises.start_write(dice.below(PAGE_COUNT - 2), 2)).collect();
        promises.world.step();
        let after = promises.world.crash(seed ^ 1);
        promises.check(&after);
        drop(under_way);
    }

    /// The same promise holds at every sync point, whatever else is going on there.
    #[test]
    fn every_image_at_a_sync_point_keeps_what_was_promised_before_it(seed: u64) {
        let mut dice = Dice::new(seed);
        let mut promises = Promises::new(seed, crashing());
        promises.world.record_images(1000);
        for _ in 0..6 {
            let page = dice.below(PAGE_COUNT - 3);
            promises.write(page, 1 + dice.below(3));
            let before = (promises.durable.clone(), promises.since.clone());
            promises.sync();
            let after = std::mem::replace(&mut promises.durable, before.0);
            promises.since = before.1;
            let images = promises.world.take_images();
            prop_assert_eq!(images.len(), 2);
            promises.check(&images[0].restart(seed));
            promises.durable = after;
            promises.since.clear();
            promises.check(&images[1].restart(seed));
        }
    }

    /// A log that is appended to and synced keeps every synced byte, and after them only what was appended.
    #[test]
    fn a_synced_log_is_a_prefix_of_what_was_appended(seed: u64) {
        let mut dice = Dice::new(seed);
        let world = SimWorld::new(seed, crashing());
        let folder = world.folder("log");
        let file = world.block_on(folder.create("log")).expect("a new name");
        world.block_on(folder.sync()).expect("an honest disk");
        let (mut appended, mut synced) = (Vec::new(), 0);
        for _ in 0..dice.below(30) {
            let bytes = vec![1 + dice.below(255) as u8; 1 + dice.below(900) as usize];
            world.block_on(file.write_at(appended.len() as u64, bytes.clone())).expect("an honest disk");
            appended.extend(bytes);
            if dice.one_in(3) {
                world.block_on(file.sync()).expect("an honest disk");
                synced = appended.len();
            }
        }
        let left = world.crash(seed ^ 1).peek_file("log", "log").expect("the name is durable");
        prop_assert!(left.len() >= synced && left.len() <= appended.len());
        prop_assert!(left[..synced] == appended[..synced], "synced bytes are exact");
        let is_written_or_zero = |(index, byte): (usize, &u8)| *byte == appended[index] || *byte == 0;
        prop_assert!(left.iter().enumerate().all(is_written_or_zero));
    }

    /// A second crash right after the first changes nothing: what came up is durable.
    #[test]
    fn what_survived_a_crash_survives_the_next(seed: u64) {
        let mut promises = Promises::new(seed, crashing());
        (0..10).for_each(|page| promises.write(page, 2));
        let folder = promises.world.folder("log");
        let file = promises.world.block_on(folder.create("a")).expect("a new name");
        promises.world.block_on(file.write_at(0, vec![7; 3000])).expect("an honest disk");
        let first = promises.world.crash(seed);
        let disk = first.peek("disk", 0, (PAGE_COUNT * PAGE) as usize);
        let log = first.peek_file("log", "a");
        let second = first.crash(seed.wrapping_add(9));
        prop_assert!(second.peek("disk", 0, (PAGE_COUNT * PAGE) as usize) == disk);
        prop_assert_eq!(second.peek_file("log", "a"), log);
    }

    /// INV-9, across a crash.
    #[test]
    fn equal_seeds_crash_alike(seed: u64) {
        let left = || {
            let mut promises = Promises::new(seed, crashing());
            (0..8).for_each(|page| promises.write(page, 3));
            let after = promises.world.crash(seed);
            (promises.world.fingerprint(), after.peek("disk", 0, (PAGE_COUNT * PAGE) as usize))
        };
        prop_assert!(left() == left());
    }
}

/// The checks of this file must be able to fail.
#[test]
fn a_lying_device_is_found_out() {
    let is_caught = |seed: u64| {
        let outcome = std::panic::catch_unwind(|| {
            let mut promises = Promises::new(seed, Faults { lost_sync_one_in: 2, ..Faults::default() });
            for page in 0..10 {
                promises.write(page, 1);
                promises.sync();
            }
            promises.check(&promises.world.crash(seed));
        });
        outcome.is_err()
    };
    assert!((0..20).any(is_caught));
}
