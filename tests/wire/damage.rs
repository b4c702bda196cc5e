//! Damage on disk that keeps the daemon from starting: it says what and where, `fsck` explains, and repair brings back
//! everything that can be trusted.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kvtier_proto::v1::{self, Durability};
use kvtier_tests::{Block, Setup, World, block};

/// A folder with 30 durable blocks, left by `kill -9`.
async fn crashed() -> (Setup, Vec<Block>) {
    let mut world = World::new().await;
    let chain = Block::chain("durable", 30, 20_000);
    // Twice: damage in the last group of the log cannot be told from a torn tail, and a fast device puts everything that
    // is acknowledged together into one group.
    for part in chain.chunks(15) {
        world.store(part, Durability::Durable).await;
    }
    (world.daemon.kill(), chain)
}

/// The same, ended in order: everything is in the index.
async fn stopped() -> (Setup, Vec<Block>) {
    let mut world = World::new().await;
    let chain = Block::chain("durable", 30, 20_000);
    world.store(&chain, Durability::Durable).await;
    (world.daemon.stop().0, chain)
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(ending));
    files.sort();
    files
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("the file is there");
    file.write_all_at(bytes, at).expect("it can be written");
}

fn fsck(setup: &Setup, more: &[&str]) -> (Option<i32>, String) {
    let output = setup.run(&[&["fsck"], more].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

/// Asserts that the daemon refuses to start with these words, that `fsck` finds the same, and that repair ends it.
#[track_caller]
fn refused_explained_repaired(setup: &Setup, part: &str) {
    let refused = setup.try_start().err().expect("it is refused");
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(refused.log.contains(part) && refused.log.contains("fsck"), "{part} in {refused:?}");
    let (code, text) = fsck(setup, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("DAMAGED") && text.contains(part), "{part} in {text}");
    let (code, text) = fsck(setup, &["--json"]);
    assert_eq!(code, Some(1), "{text}");
    let report: serde_json::Value = serde_json::from_str(&text).expect("--json prints JSON");
    assert_eq!(report["problems"][0]["stops_the_start"], true, "{report}");
    let (code, text) = fsck(setup, &["--repair"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("done") && text.ends_with("repaired\n"), "{text}");
    let (code, text) = fsck(setup, &[]);
    assert_eq!(code, Some(0), "nothing is left to repair: {text}");
}

#[tokio::test]
async fn a_sound_data_directory_is_sound_after_a_stop_and_after_a_crash() {
    for (setup, _) in [stopped().await, crashed().await] {
        let (code, text) = fsck(&setup, &[]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.ends_with("sound\n"), "{text}");
        assert!(text.contains("30 blocks verified"), "{text}");
    }
}

#[tokio::test]
async fn fsck_after_a_crash_looks_at_no_block_that_was_deleted_before_it() {
    let mut world = World::new().await;
    let chain = Block::chain("durable", 30, 20_000);
    world.store(&chain, Durability::Durable).await;
    let setup = world.daemon.stop().0;
    let mut world = World::of(setup.start()).await;
    let keys = chain[20..].iter().map(|block| block.key.to_vec()).collect();
    let delete = v1::DeleteRequest { space: world.space.clone(), keys };
    assert_eq!(world.wire.client.delete(delete).await.expect("they can go").into_inner().deleted, 10);
    let more = Block::chain("more", 5, 20_000);
    world.store(&more, Durability::Durable).await;
    let setup = world.daemon.kill();
    let (code, text) = fsck(&setup, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("25 blocks verified"), "20 of the index, 5 behind it: {text}");
}

#[tokio::test]
async fn a_corrupt_index_is_made_again_from_the_log_with_every_block() {
    let (setup, chain) = stopped().await;
    for path in files(&setup.data().join("index"), ".sst") {
        overwrite(&path, 0, &[0xa5; 4096]);
    }
    let manifest =
        files(&setup.data().join("index"), "").into_iter().find(|path| path.to_string_lossy().contains("MANIFEST"));
    overwrite(&manifest.expect("RocksDB has a manifest"), 0, &[0xa5; 64]);
    refused_explained_repaired(&setup, "index");
    let mut world = World::of(setup.start()).await;
    let space = world.space.clone();
    assert_eq!(world.wire.resident(&space, &block::keys(&chain)).await, 30);
    world.wire.expect_blocks(&space, &chain).await;
}

#[tokio::test]
async fn an_index_directory_that_lost_its_files_is_not_taken_for_an_empty_one() {
    let (setup, chain) = stopped().await;
    for path in files(&setup.data().join("index"), ".sst") {
        std::fs::remove_file(path).expect("it can be removed");
    }
    refused_explained_repaired(&setup, "index");
    let mut world = World::of(setup.start()).await;
    let space = world.space.clone();
    world.wire.expect_blocks(&space, &chain).await;
}

#[tokio::test]
async fn a_log_damaged_before_its_tail_is_cut_there_and_what_is_left_is_right() {
    let (setup, chain) = crashed().await;
    let segment = files(&setup.data().join("wal"), ".wal").into_iter().next().expect("a log has a segment");
    overwrite(&segment, 300, &[0xff; 16]);
    refused_explained_repaired(&setup, &segment.file_name().expect("a name").to_string_lossy());
    let mut world = World::of(setup.start()).await;
    let space = world.space.clone();
    let resident = world.wire.resident(&space, &block::keys(&chain)).await;
    world.wire.expect_blocks(&space, &chain[..resident]).await;
    world.wire.store(&space, &Block::chain("after", 5, 20_000), Durability::Durable).await;
}

#[tokio::test]
async fn a_torn_tail_is_no_damage() {
    let (setup, chain) = crashed().await;
    let last = files(&setup.data().join("wal"), ".wal").pop().expect("a log has a segment");
    let file = std::fs::OpenOptions::new().append(true).open(&last).expect("the file is there");
    std::io::Write::write_all(&mut &file, &[0x5a; 100]).expect("it can be written");
    let (code, text) = fsck(&setup, &[]);
    assert_eq!(code, Some(0), "{text}");
    let mut world = World::of(setup.start()).await;
    let space = world.space.clone();
    world.wire.expect_blocks(&space, &chain).await;
}

#[tokio::test]
async fn rot_in_a_data_file_is_found_by_fsck_and_stops_nothing() {
    for (setup, chain) in [stopped().await, crashed().await] {
        rot_is_found(setup, &chain).await;
    }
}

async fn rot_is_found(setup: Setup, chain: &[Block]) {
    let path = setup.data().join("nvme-0.kv");
    let bytes = std::fs::read(&path).expect("the data file can be read");
    let needle = &chain[7].payload[..64];
    let at = bytes.windows(64).position(|window| window == needle).expect("the payload is on disk");
    overwrite(&path, at as u64 + 9000, &[!bytes[at + 9000]]);
    let (code, text) = fsck(&setup, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("29 blocks verified, 1 did not") && text.contains("checksum"), "{text}");
    assert_eq!(fsck(&setup, &["--quick"]).0, Some(0), "--quick does not read blocks");
    let mut world = World::of(setup.start()).await;
    let space = world.space.clone();
    world.wire.expect_blocks(&space, &chain[..7]).await;
    world.wire.expect_blocks(&space, &chain[8..]).await;
}

#[test]
fn fsck_beside_a_running_daemon_looks_at_nothing() {
    let daemon = Setup::default().start();
    let (code, text) = fsck(daemon.setup(), &[]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("in use by kvtierd with process id"), "{text}");
}

#[tokio::test]
async fn a_data_file_of_another_node_is_refused() {
    let (setup, _) = stopped().await;
    let (other, _) = stopped().await;
    std::fs::copy(other.data().join("nvme-0.kv"), setup.data().join("nvme-0.kv")).expect("a copy");
    let refused = setup.try_start().err().expect("it is refused");
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(refused.log.contains("belongs to node"), "{refused:?}");
}

#[tokio::test]
async fn a_data_file_that_was_truncated_while_stopped_is_refused_and_not_grown_again() {
    let (setup, _) = stopped().await;
    let path = setup.data().join("nvme-0.kv");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("the data file is there");
    file.set_len(50 << 20).expect("it can be cut");
    let refused = setup.try_start().err().expect("it is refused");
    assert!(refused.code() == Some(1) && refused.log.contains("52428800 bytes"), "{refused:?}");
    assert_eq!(std::fs::metadata(&path).expect("it is there").len(), 50 << 20);
}

#[tokio::test]
async fn a_data_file_that_was_removed_while_stopped_comes_back_empty_and_its_blocks_are_misses() {
    let (setup, chain) = stopped().await;
    std::fs::remove_file(setup.data().join("nvme-0.kv")).expect("it can be removed");
    // Thirty misses in a row would open the breaker; that is another test's business.
    let mut world = World::of(setup.and("nvme.breaker_failures", "1000").start()).await;
    let space = world.space.clone();
    let got = world.wire.get_keys(&space, &block::keys(&chain)).await.expect("a get is answered");
    assert!(got.iter().all(|got| matches!(got, kvtier_tests::wire::Got::Miss(_))), "{got:?}");
    world.wire.store(&space, &chain, Durability::Durable).await;
    world.wire.expect_blocks(&space, &chain).await;
}
