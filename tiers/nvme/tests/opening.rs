//! Data files are formatted once, found again, and refused with a remedy when they are not this node's.

mod rig;

use std::sync::Arc;

use kvtier_device::DiskError;
use kvtier_engine::port::{LoadOutcome, Tier};
use kvtier_nvme::fake::{Fault, HandClock, HeapDisk, HeapMemory, Tasks};
use kvtier_nvme::layout::SUPERBLOCK_OFFSETS;
use kvtier_nvme::{NodeId, NvmeSettings, NvmeTier, OpenError, Refusal, Superblock};
use rig::{EXTENT, MIB, NODE, Rig, settings};

/// Opens disks as another start of the daemon would.
fn reopen(disks: &[Arc<HeapDisk>], settings: &NvmeSettings, node: NodeId) -> Result<NvmeTier, OpenError> {
    let clock = HandClock::default();
    let tasks = Tasks::new(2, clock.clone());
    let memory = Arc::new(HeapMemory::of_bytes(MIB));
    rig::open(&tasks, &clock, disks, &memory, &Arc::default(), settings, node)
}

fn refusal(result: Result<NvmeTier, OpenError>) -> Refusal {
    match result.map(|_| ()) {
        Err(OpenError::Refused { refusal, path }) => {
            assert!(path.starts_with("nvme-"), "{path}");
            refusal
        }
        other => panic!("must be refused: {other:?}"),
    }
}

#[test]
fn a_blank_file_is_formatted_once_and_found_again() {
    let rig = Rig::with(1, settings(2, 8));
    let superblock = |disk: &HeapDisk, at: u64| disk.edit(|bytes| Superblock::decode(&bytes[at as usize..][..4096]));
    for (number, disk) in rig.disks.iter().enumerate() {
        let first = superblock(disk, SUPERBLOCK_OFFSETS[0]).unwrap();
        assert_eq!(superblock(disk, SUPERBLOCK_OFFSETS[1]), Ok(first));
        assert_eq!((usize::from(first.device), first.device_count, first.node), (number, 2, NODE));
    }
    let tier = reopen(&rig.disks, &settings(2, 8), NODE).unwrap();
    assert_eq!(tier.geometry(), rig.tier.geometry());
    assert_eq!(tier.geometry()[1].bytes, 7 * MIB);
    for disk in &rig.disks {
        assert!(disk.take_submitted().iter().all(|transfer| !transfer.write), "nothing is written to a sound file");
    }
}

#[test]
fn blocks_are_still_there_after_a_restart() {
    let mut rig = Rig::new();
    let (slot, expect) = rig.put(1, 1, 5000);
    let memory = rig.memory.clone();
    rig.tier = rig::open(&rig.tasks, &rig.clock, &rig.disks, &memory, &rig.presence, &settings(1, 8), NODE).unwrap();
    assert_eq!(rig.load(slot, expect), LoadOutcome::Verified);
}

#[test]
fn the_file_of_another_node_is_refused() {
    let rig = Rig::new();
    let other = NodeId([8; 16]);
    let refused = refusal(reopen(&rig.disks, &settings(1, 8), other));
    assert_eq!(refused, Refusal::OtherNode { found: NODE, wanted: other });
    assert!(refused.to_string().contains("07070707") && refused.remedy().contains("data directory"));
}

#[test]
fn files_in_another_order_or_number_are_refused() {
    let mut rig = Rig::with(1, settings(2, 8));
    rig.disks.reverse();
    let swapped = refusal(reopen(&rig.disks, &settings(2, 8), NODE));
    assert_eq!(swapped, Refusal::OtherShape { setting: "the place in paths", found: 1, wanted: 0 });
    let fewer = refusal(reopen(&rig.disks[1..], &settings(1, 8), NODE));
    assert_eq!(fewer, Refusal::OtherShape { setting: "the number of paths", found: 2, wanted: 1 });
    assert!(fewer.remedy().contains("restore the setting"));
}

#[test]
fn growing_shrinking_and_recutting_are_refused_with_both_sizes() {
    let rig = Rig::new();
    for (changed, found, wanted, setting) in [
        (settings(1, 16), 8 * MIB, 16 * MIB, "bytes"),
        (settings(1, 4), 8 * MIB, 4 * MIB, "bytes"),
        (NvmeSettings { extent_bytes: MIB, ..settings(1, 8) }, EXTENT, MIB, "extent_bytes"),
    ] {
        let refused = refusal(reopen(&rig.disks, &changed, NODE));
        assert_eq!(refused, Refusal::OtherShape { setting, found, wanted });
    }
}

#[test]
fn a_truncated_file_is_refused() {
    let rig = Rig::new();
    rig.disk().edit(|bytes| bytes.truncate(7 << 20));
    let refused = refusal(reopen(&rig.disks, &settings(1, 8), NODE));
    assert_eq!(refused, Refusal::Truncated { found: 7 * MIB, wanted: 8 * MIB });
    rig.disk().edit(|bytes| bytes.truncate(4096));
    assert!(matches!(refusal(reopen(&rig.disks, &settings(1, 8), NODE)), Refusal::Truncated { found: 4096, .. }));
}

#[test]
fn a_blank_device_may_be_larger_than_the_cap_but_not_smaller() {
    let larger = [Arc::new(HeapDisk::of_bytes(9 * MIB))];
    assert_eq!(reopen(&larger, &settings(1, 8), NODE).unwrap().geometry()[0].bytes, 7 * MIB);
    let smaller = [Arc::new(HeapDisk::of_bytes(7 * MIB))];
    let refused = refusal(reopen(&smaller, &settings(1, 8), NODE));
    assert_eq!(refused, Refusal::OtherShape { setting: "bytes", found: 7 * MIB, wanted: 8 * MIB });
}

#[test]
fn a_foreign_file_is_left_exactly_as_it_was() {
    let disk = Arc::new(HeapDisk::of_bytes(8 * MIB));
    // Where ext4 and btrfs keep theirs.
    for at in [1080usize, 65_600] {
        disk.edit(|bytes| {
            bytes.fill(0);
            bytes[at] = 0x53;
        });
        let before = disk.edit(|bytes| bytes.clone());
        let refused = refusal(reopen(std::slice::from_ref(&disk), &settings(1, 8), NODE));
        assert!(matches!(refused, Refusal::Foreign(_)), "{refused}");
        assert!(disk.edit(|bytes| *bytes == before), "nothing was written");
    }
}

#[test]
fn a_damaged_copy_is_repaired_whichever_it_is() {
    for copy in SUPERBLOCK_OFFSETS {
        let rig = Rig::new();
        let before = rig.disk().edit(|bytes| bytes.clone());
        rig.disk().edit(|bytes| bytes[copy as usize + 50] ^= 1);
        reopen(&rig.disks, &settings(1, 8), NODE).unwrap();
        assert!(rig.disk().edit(|bytes| *bytes == before), "copy at {copy}");
    }
}

#[test]
fn two_damaged_copies_are_refused() {
    let rig = Rig::new();
    rig.disk().edit(|bytes| SUPERBLOCK_OFFSETS.iter().for_each(|&at| bytes[at as usize + 50] ^= 1));
    assert!(matches!(refusal(reopen(&rig.disks, &settings(1, 8), NODE)), Refusal::Damaged(_)));
}

#[test]
fn a_format_interrupted_at_any_step_is_finished_by_the_next_start() {
    let disk = Arc::new(HeapDisk::of_bytes(8 * MIB));
    let full = Superblock {
        node: NODE,
        device: 0,
        device_count: 1,
        bytes: 8 * MIB,
        extent_bytes: EXTENT,
        first_extent_offset: MIB,
    }
    .encode();
    // Torn at any sector: the copy first, then the first page.
    for written in (0..=4096).step_by(512) {
        for (first, copy) in [(0, written), (written, 4096)] {
            disk.edit(|bytes| {
                bytes.fill(0);
                bytes[..first].copy_from_slice(&full[..first]);
                bytes[SUPERBLOCK_OFFSETS[1] as usize..][..copy].copy_from_slice(&full[..copy]);
            });
            reopen(std::slice::from_ref(&disk), &settings(1, 8), NODE).unwrap();
            assert!(disk.edit(|bytes| bytes[..4096] == full[..]), "{first} and {copy} bytes were written");
        }
    }
}

#[test]
fn a_device_that_does_not_answer_is_named() {
    for fault in [Fault::ReadFails(0..1), Fault::WriteFails(0..1), Fault::SyncFails] {
        let disk = Arc::new(HeapDisk::of_bytes(8 * MIB));
        disk.inject(fault);
        let error = reopen(&[disk], &settings(1, 8), NODE).map(|_| ()).unwrap_err();
        let OpenError::Device { path, source: DiskError::Io(_), .. } = error else { panic!("{error}") };
        assert_eq!(path, "nvme-0.blocks");
    }
}

#[test]
fn wrong_settings_and_wrong_components_are_refused_before_anything_is_touched() {
    let disk = Arc::new(HeapDisk::of_bytes(8 * MIB));
    let wrong = NvmeSettings { queue_depth: 0, breaker_errors: 0, ..settings(1, 8) };
    let Err(OpenError::Settings(problems)) = reopen(std::slice::from_ref(&disk), &wrong, NODE) else {
        panic!("must fail")
    };
    assert_eq!(problems.len(), 2);
    assert!(matches!(reopen(&[], &settings(1, 8), NODE), Err(OpenError::Components(_))));
    assert_eq!(disk.take_submitted(), []);
}
