//! Disks that change or fill up under a running daemon.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kvtier_proto::v1::{self, DeclineReason, Durability};
use kvtier_tests::wire::{Got, breathe, within};
use kvtier_tests::{Block, Setup, World, block};
use tempfile::TempDir;
use v1::put_response::Outcome;

use crate::works;

fn nvme(status: &v1::StatusResponse) -> &v1::TierStatus {
    status.tiers.iter().find(|tier| tier.tier() == v1::Tier::Nvme).expect("there is an nvme tier")
}

/// Puts a durable block and returns why it was declined.
async fn declined(world: &mut World, key: &str) -> v1::Declined {
    let space = world.space.clone();
    let outcomes = world.wire.put(&space, &[Block::root(key.as_bytes(), 5000)], Durability::Durable).await;
    match outcomes.into_iter().next() {
        Some(Outcome::Declined(declined)) => declined,
        other => panic!("not declined: {other:?}"),
    }
}

/// A daemon whose data file has just been changed behind its back, and the blocks that were durable before.
async fn changed(change: impl FnOnce(&Path)) -> (World, Vec<Block>) {
    let mut world = World::with(&[("host.bytes", "16MiB")]).await;
    let chain = Block::chain("before", 20, 100_000);
    world.store(&chain, Durability::Durable).await;
    change(&world.daemon.data().join("nvme-0.kv"));
    (world, chain)
}

/// What must be true whatever happened to the file: no promise is made on it, an alarm names it, and the rest goes on.
async fn goes_on_without(world: &mut World, chain: &[Block], word: &str) {
    let told = declined(world, "after").await;
    assert_eq!(told.reason(), DeclineReason::NvmeUnavailable, "{told:?}");
    let status = world.wire.status_until("the alarm", |status| !status.alarms.is_empty()).await;
    assert_eq!(nvme(&status).state, "poisoned", "{status:?}");
    assert_eq!(status.state, "degraded");
    assert!(status.alarms.iter().any(|alarm| alarm.contains(word)), "{word} in {:?}", status.alarms);
    works(world, "volatile").await;
    // Push everything out of host memory, so that gets must ask the device.
    let space = world.space.clone();
    for index in 0..40 {
        let block = [Block::root(format!("flood {index}").as_bytes(), 1_000_000)];
        world.wire.put(&space, &block, Durability::Volatile).await;
    }
    let got = world.wire.get_keys(&space, &block::keys(chain)).await.expect("a get is answered");
    for (got, block) in got.iter().zip(chain) {
        match got {
            Got::Block(bytes, _) => assert!(*bytes == block.payload, "wrong bytes for {:?}", block.key),
            Got::Miss(miss) => assert_ne!(miss.reason(), v1::MissReason::NeverStored, "{miss:?}"),
        }
    }
}

#[tokio::test]
async fn a_deleted_data_file_takes_no_more_promises() {
    let (mut world, chain) = changed(|path| std::fs::remove_file(path).expect("it can be removed")).await;
    goes_on_without(&mut world, &chain, "deleted").await;
}

#[tokio::test]
async fn a_replaced_data_file_takes_no_more_promises() {
    let replace = |path: &Path| {
        let other = path.with_extension("other");
        std::fs::copy(path, &other).expect("a copy");
        std::fs::rename(&other, path).expect("a rename");
    };
    let (mut world, chain) = changed(replace).await;
    goes_on_without(&mut world, &chain, "replaced").await;
}

#[tokio::test]
async fn a_truncated_data_file_takes_no_more_promises_and_never_gives_wrong_bytes() {
    let cut = |path: &Path| {
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("it is there");
        file.set_len((1 << 20) + 300_000).expect("it can be cut");
    };
    let (mut world, chain) = changed(cut).await;
    goes_on_without(&mut world, &chain, "truncated").await;
}

/// A file system of its own in a test's folder, gone when dropped; the folder cannot go before.
struct Mounted {
    at: PathBuf,
    _folder: Arc<TempDir>,
}

impl Mounted {
    /// Nothing without the right to mount.
    fn new(setup: &Setup, name: &str, bytes: &str) -> Option<Self> {
        let at = setup.folder().join(name);
        std::fs::create_dir_all(&at).expect("a folder can be made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "kvtier-test"]).arg(&at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: this user may not mount a file system");
        }
        mounted.then(|| Self { at, _folder: setup.keep() })
    }

    fn remount_read_only(&self) {
        let mut mount = Command::new("mount");
        let done = mount.args(["-o", "remount,ro"]).arg(&self.at).status();
        assert!(done.is_ok_and(|status| status.success()), "it can be mounted again");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a daemon that is being killed may still hold it.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Takes all room that is left. Room comes back when the file is removed.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = std::fs::File::create(&path).expect("a file can be made");
    let piece = vec![1; 64 << 10];
    while std::io::Write::write_all(&mut file, &piece).is_ok() {}
    while std::io::Write::write_all(&mut file, &piece[..512]).is_ok() {}
    path
}

#[tokio::test]
async fn a_full_metadata_disk_declines_durable_puts_only_and_resumes_by_itself() {
    let setup = Setup::default();
    let Some(disk) = Mounted::new(&setup, "meta", "160m") else { return };
    let inside = |name: &str| disk.at.join(name).display().to_string();
    let setup = setup.and("wal.directory", &inside("wal")).and("index.directory", &inside("index"));
    let mut world = World::of(setup.start()).await;
    let chain = Block::chain("before", 20, 10_000);
    world.store(&chain, Durability::Durable).await;
    let filler = fill(&disk.at);
    let space = world.space.clone();
    let told = within("the decline", async {
        for number in 0.. {
            let block = [Block::root(format!("full {number}").as_bytes(), 5000)];
            match world.wire.put(&space, &block, Durability::Durable).await.remove(0) {
                Outcome::Declined(declined) => return declined,
                _ => breathe().await,
            }
        }
        unreachable!("the loop has no end");
    })
    .await;
    assert_eq!(told.reason(), DeclineReason::JournalUnavailable, "{told:?}");
    assert!(told.detail.contains("alarms"), "{told:?}");
    let status = world.wire.status_until("the alarm", |status| !status.alarms.is_empty()).await;
    assert_eq!(status.journal.as_ref().map(|journal| journal.state.as_str()), Some("suspended"), "{status:?}");
    works(&mut world, "volatile while full").await;
    world.wire.expect_blocks(&space, &chain).await;
    std::fs::remove_file(filler).expect("the filler is ours");
    world.wire.status_until("the end of the alarm", |status| status.alarms.is_empty()).await;
    let later = Block::chain("after", 20, 10_000);
    world.store(&later, Durability::Durable).await;
    let mut world = world.crash_and_restart().await;
    world.wire.expect_blocks(&space, &chain).await;
    world.wire.expect_blocks(&space, &later).await;
}

#[test]
fn a_read_only_data_directory_is_refused() {
    let setup = Setup::default();
    let Some(disk) = Mounted::new(&setup, "ro", "16m") else { return };
    disk.remount_read_only();
    let setup = setup.and("data_directory", &disk.at.display().to_string());
    let refused = setup.try_start().err().expect("it is refused");
    assert_eq!(refused.code(), Some(2), "{refused:?}");
    assert!(refused.log.contains("data_directory") && refused.log.contains("cannot be written to"), "{refused:?}");
}
