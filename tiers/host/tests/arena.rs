//! The arena against the port's conformance suite and against the kernel.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use kvtier_engine::place::Slot;
use kvtier_engine::port::Memory;
use kvtier_host::{Arena, ArenaError, ArenaSettings, Arenas, HugePages, Locking, Prefault, Wish, conformance};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn small() -> ArenaSettings {
    ArenaSettings { bytes: MIB, extent_bytes: 64 << 10, ..Default::default() }
}

fn file_of(arena: &Arena) -> File {
    File::from(arena.as_fd().try_clone_to_owned().unwrap())
}

#[test]
fn the_arena_conforms_to_the_memory_port() {
    for (name, check) in conformance::CHECKS {
        println!("{name}");
        check(Arc::new(Arena::create(&small()).unwrap()));
    }
}

#[test]
fn one_arena_conforms_with_and_without_huge_pages() {
    for huge_pages in [Wish::Off, Wish::Auto] {
        let settings = ArenaSettings { bytes: 8 * MIB, huge_pages, ..small() };
        let arena: Arc<dyn Memory> = Arc::new(Arena::create(&settings).unwrap());
        conformance::CHECKS.iter().for_each(|(_, check)| check(arena.clone()));
    }
}

#[test]
fn arenas_side_by_side_conform_to_the_memory_port() {
    let sizes = [small(), ArenaSettings { bytes: 2 * MIB, ..small() }, small()];
    let arenas: Arc<dyn Memory> = Arc::new(Arenas::create(&sizes).unwrap());
    conformance::CHECKS.iter().for_each(|(_, check)| check(arenas.clone()));
}

#[test]
fn a_holder_of_one_arena_sees_nothing_of_another() {
    let arenas = Arenas::create(&[small(), small()]).unwrap();
    let slot = Slot { device: 1, offset: 8192, bytes: 8192 };
    arenas.write(slot, 0, &[0x5a; 4096]);
    arenas.renew(1, 8192);
    let [first, second] = [0, 1].map(|number| {
        let mut bytes = vec![0; MIB as usize];
        File::from(arenas.all()[number].share(false).unwrap()).read_exact_at(&mut bytes, 0).unwrap();
        bytes
    });
    assert!(first.iter().all(|byte| *byte == 0));
    assert_eq!(second.iter().filter(|byte| **byte == 0x5a).count(), 4096);
    let generations = |number: usize| {
        let mut bytes = vec![0; arenas.all()[number].generation_bytes() as usize];
        File::from(arenas.all()[number].share_generations().unwrap()).read_exact_at(&mut bytes, 0).unwrap();
        bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>()
    };
    assert_eq!((generations(0), generations(1)), (0, 1));
}

#[test]
fn arenas_that_do_not_fit_together_are_refused_together() {
    let half = kvtier_host::machine::memory_bytes() / 3 * 2 / (64 << 10) * (64 << 10);
    let settings = ArenaSettings { bytes: half, ..small() };
    let refused = Arenas::create(&[settings.clone(), settings]).unwrap_err();
    assert!(matches!(refused, ArenaError::ExceedsMemory { bytes, .. } if bytes == 2 * half), "{refused}");
}

#[test]
fn a_holder_of_the_descriptor_sees_the_same_bytes() {
    let arena = Arena::create(&small()).unwrap();
    let slot = Slot { device: 0, offset: 8192, bytes: 8192 };
    arena.write(slot, 10, b"shared");
    let mut seen = [0; 6];
    file_of(&arena).read_exact_at(&mut seen, 8192 + 4096 + 10).unwrap();
    assert_eq!(&seen, b"shared");
}

#[test]
fn nobody_can_change_the_size_of_the_file() {
    let arena = Arena::create(&small()).unwrap();
    let file = file_of(&arena);
    for bytes in [0, MIB - 4096, MIB + 4096] {
        assert!(file.set_len(bytes).is_err(), "{bytes}");
    }
    assert!(file.write_at(&[1], MIB).is_err(), "a write at the end would grow it");
    assert_eq!(file.metadata().unwrap().len(), MIB);
}

#[test]
fn an_arena_takes_no_memory_until_it_is_touched() {
    let arena = Arena::create(&ArenaSettings { bytes: 64 * MIB, ..small() }).unwrap();
    assert_eq!(file_of(&arena).metadata().unwrap().blocks(), 0);
}

#[test]
fn prefaulting_touches_every_page_extent_by_extent_and_changes_none() {
    let arena = Arena::create(&ArenaSettings { extent_bytes: 256 << 10, huge_pages: Wish::Off, ..small() }).unwrap();
    let slot = Slot { device: 0, offset: 0, bytes: 8192 };
    arena.write(slot, 0, b"early bird");
    let mut done = Vec::new();
    while arena.prefault_progress().state == Prefault::Working {
        done.push(arena.prefault_step().done_bytes >> 10);
    }
    assert_eq!(done, [256, 512, 768, 1024]);
    assert_eq!(arena.prefault_step().state, Prefault::Done, "another step costs nothing");
    assert_eq!(file_of(&arena).metadata().unwrap().blocks() * 512, MIB);
    assert_eq!(&arena.view(slot, 0, 10, Box::new(()))[..], b"early bird");
}

#[test]
fn prefaulting_in_the_background_ends_by_itself() {
    let arena = Arc::new(Arena::create(&small()).unwrap());
    arena.prefault_in_background(|_| ()).unwrap().join().unwrap();
    assert_eq!(arena.prefault_progress().state, Prefault::Done);
}

#[test]
fn prefaulting_does_not_outlive_the_arena() {
    let arena = Arc::new(Arena::create(&ArenaSettings { bytes: 64 * MIB, ..small() }).unwrap());
    let thread = arena.prefault_in_background(|_| ()).unwrap();
    drop(arena);
    thread.join().unwrap();
}

#[test]
fn two_threads_share_the_prefaulting() {
    let arena = Arc::new(Arena::create(&ArenaSettings { bytes: 8 * MIB, ..small() }).unwrap());
    let threads = [arena.prefault_in_background(|_| ()).unwrap(), arena.prefault_in_background(|_| ()).unwrap()];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(arena.prefault_progress().done_bytes, 8 * MIB);
}

/// Bytes of the arena's mapping that the kernel maps as huge pages.
fn huge_bytes_of(arena: &Arena) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let begin = format!("{:x}-", arena.address());
    let ours = maps.lines().skip_while(|line| !line.starts_with(&begin));
    let line = ours.into_iter().find(|line| line.starts_with("ShmemPmdMapped:")).expect("the kernel counts them");
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn huge_pages_are_had_as_the_progress_says_and_keep_every_byte() {
    let settings = ArenaSettings { bytes: 16 * MIB + (64 << 10), ..small() };
    let arena = Arena::create(&settings).unwrap();
    let slot = Slot { device: 0, offset: 5 * MIB, bytes: 3 << 20 };
    let payload: Vec<u8> = (0..2_000_000_u32).map(|at| (at >> 3) as u8).collect();
    let crc = arena.write(slot, 0, &payload);
    while arena.prefault_step().state == Prefault::Working {}
    let progress = arena.prefault_progress();
    assert_eq!((progress.done_bytes, progress.ready_bytes), (settings.bytes, settings.bytes));
    assert_eq!(progress.huge_bytes, huge_bytes_of(&arena), "{progress:?}, {}", arena.report());
    assert_eq!(progress.huge_bytes < 16 * MIB, progress.why_not_huge.is_some(), "{progress:?}");
    assert_eq!(arena.checksum(slot, 0, payload.len() as u32), crc);
    assert_eq!(arena.address() as u64 % (2 * MIB), 0);
}

#[test]
fn no_huge_pages_are_made_where_they_are_off_or_nothing_is_prefaulted() {
    let off = ArenaSettings { bytes: 4 * MIB, huge_pages: Wish::Off, ..small() };
    let arena = Arena::create(&off).unwrap();
    while arena.prefault_step().state == Prefault::Working {}
    assert_eq!((arena.prefault_progress().huge_bytes, huge_bytes_of(&arena)), (0, 0));
    let lazy = Arena::create(&ArenaSettings { huge_pages: Wish::Auto, prefault: false, ..off }).unwrap();
    let report = lazy.report();
    let said = matches!(&report.huge_pages, HugePages::Small { why } if why.contains("prefault is off"));
    assert!(said || matches!(report.huge_pages, HugePages::Transparent { .. } | HugePages::Reserved), "{report}");
}

#[test]
fn readiness_grows_from_the_start_and_ends_with_the_arena() {
    let settings = ArenaSettings { bytes: 8 * MIB, extent_bytes: MIB, ..small() };
    let arena = Arc::new(Arena::create(&settings).unwrap());
    let (told, heard) = std::sync::mpsc::channel();
    arena.prefault_in_background(move |ready| told.send(ready).unwrap()).unwrap().join().unwrap();
    let heard: Vec<u64> = heard.iter().collect();
    assert!(heard.is_sorted() && heard.last() == Some(&(8 * MIB)), "{heard:?}");
    assert!(heard.len() > 1, "it is told on the way: {heard:?}");
}

#[test]
fn an_arena_larger_than_the_machine_is_refused() {
    let settings = ArenaSettings { bytes: 64 << 40, ..Default::default() };
    let error = Arena::create(&settings).unwrap_err();
    assert!(matches!(error, ArenaError::ExceedsMemory { bytes, .. } if bytes == 64 << 40), "{error}");
    assert!(error.to_string().contains("lower bytes"), "{error}");
}

#[test]
fn invalid_settings_are_refused_with_all_problems() {
    let error = Arena::create(&ArenaSettings { bytes: 0, extent_bytes: 1, ..Default::default() }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("extent_bytes: 1 is not between") && text.contains("bytes: 0 leaves no room"), "{text}");
}

#[test]
fn the_report_says_what_was_not_had_and_why() {
    let arena = Arena::create(&ArenaSettings { huge_pages: Wish::Off, mlock: Wish::Off, ..small() }).unwrap();
    let report = arena.report();
    assert!(matches!(&report.huge_pages, HugePages::Small { why } if why == "huge_pages is off"), "{report}");
    assert!(matches!(&report.locking, Locking::Swappable { why } if why == "mlock is off"), "{report}");
    assert!(report.to_string().contains("4 KiB pages (huge_pages is off)"), "{report}");
}

#[test]
fn what_is_required_is_had_or_the_error_says_what_to_do() {
    let huge = Arena::create(&ArenaSettings { bytes: 2 * MIB, huge_pages: Wish::Require, ..small() });
    match huge {
        Ok(arena) => assert_eq!(arena.report().huge_pages, HugePages::Reserved),
        Err(error) => assert!(error.to_string().contains("set vm.nr_hugepages to at least 1"), "{error}"),
    }
    let locked = Arena::create(&ArenaSettings { bytes: 512 * MIB, mlock: Wish::Require, ..small() });
    match locked {
        Ok(arena) => assert_ne!(arena.report().locking, Locking::Swappable { why: String::new() }),
        Err(error) => assert!(error.to_string().contains("raise LimitMEMLOCK to 536870912"), "{error}"),
    }
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Write { slot: u64, offset: u32, bytes: Vec<u8> },
    Header { slot: u64, bytes: Vec<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0u64..16, 0u32..8000, proptest::collection::vec(any::<u8>(), 0..190))
        .prop_map(|(slot, offset, bytes)| Step::Write { slot, offset, bytes });
    let header = (0u64..16, proptest::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(slot, bytes)| Step::Header { slot, bytes });
    prop_oneof![write, header]
}

proptest! {
    #[test]
    fn an_arena_is_a_vector_of_bytes(steps in proptest::collection::vec(step(), 1..40)) {
        let arena = Arena::create(&small()).unwrap();
        let mut model = vec![0u8; 16 * 12288];
        let place = |slot: u64| Slot { device: 0, offset: slot * 12288, bytes: 12288 };
        for step in steps {
            match step {
                Step::Write { slot, offset, bytes } => {
                    let crc = arena.write(place(slot), offset, &bytes);
                    prop_assert_eq!(crc, crc32fast::hash(&bytes));
                    let at = slot as usize * 12288 + 4096 + offset as usize;
                    model[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                Step::Header { slot, bytes } => {
                    arena.write_header(place(slot), &bytes);
                    let page = &mut model[slot as usize * 12288..][..4096];
                    page.fill(0);
                    page[..bytes.len()].copy_from_slice(&bytes);
                }
            }
        }
        let mut seen = vec![0; model.len()];
        file_of(&arena).read_exact_at(&mut seen, 0).unwrap();
        prop_assert!(seen == model);
    }

    #[test]
    fn checksums_of_pieces_combine_to_the_checksum_of_the_whole(
        bytes in proptest::collection::vec(any::<u8>(), 0..8192),
        cut in 0.0f64..1.0,
    ) {
        let arena = Arena::create(&small()).unwrap();
        let slot = Slot { device: 0, offset: 0, bytes: 12288 };
        let cut = (bytes.len() as f64 * cut) as usize;
        let first = arena.write(slot, 0, &bytes[..cut]);
        let second = arena.write(slot, cut as u32, &bytes[cut..]);
        let whole = arena.combine(first, second, (bytes.len() - cut) as u64);
        prop_assert_eq!(whole, crc32fast::hash(&bytes));
        prop_assert_eq!(whole, arena.checksum(slot, 0, bytes.len() as u32));
    }
}
