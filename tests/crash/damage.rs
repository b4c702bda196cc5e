//! Damage done to a stopped node's files: all of it is detected, none of it becomes wrong bytes.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use kvtier_proto::v1::{Durability, MissReason};
use kvtier_tests::wire::Got;
use kvtier_tests::{Block, Setup, World, block};

const BLOCKS: usize = 24;
const BYTES: usize = 20_000;
/// A slot's header page begins with this.
const MAGIC: &[u8] = b"KVSL";
const PAGE: usize = 4096;

struct Stopped {
    setup: Setup,
    chain: Vec<Block>,
    file: std::path::PathBuf,
    /// Offset of each block's header page in the data file, in chain order.
    headers: Vec<u64>,
}

/// A node with a durable chain, stopped.
async fn stopped_node() -> Stopped {
    let mut world = World::new().await;
    let chain = Block::chain("damage", BLOCKS, BYTES);
    world.store(&chain, Durability::Durable).await;
    let (setup, _) = world.daemon.stop();
    let file = setup.data().join("nvme-0.kv");
    let bytes = std::fs::read(&file).expect("the data file can be read");
    let place = |block: &Block| {
        let pages = bytes.chunks(PAGE).enumerate().filter(|(_, page)| page.starts_with(MAGIC));
        let mut mine = pages.filter(|(_, page)| page[96..].starts_with(&block.key));
        let (number, _) = mine.next().expect("every durable block has a header on the device");
        (number * PAGE) as u64
    };
    let headers = chain.iter().map(place).collect();
    Stopped { setup, chain, file, headers }
}

impl Stopped {
    fn write(&self, bytes: &[u8], offset: u64) {
        let file = OpenOptions::new().write(true).open(&self.file).expect("the data file can be opened");
        file.write_all_at(bytes, offset).expect("the data file can be written");
    }

    fn read(&self, offset: u64, count: usize) -> Vec<u8> {
        let file = OpenOptions::new().read(true).open(&self.file).expect("the data file can be opened");
        let mut bytes = vec![0; count];
        file.read_exact_at(&mut bytes, offset).expect("the data file is long enough");
        bytes
    }

    /// Starts the node: the damaged blocks must be corrupt, all others right.
    async fn expect_corrupt(self, damaged: &[usize]) {
        let mut world = World::of(self.setup.start()).await;
        let space = world.space.clone();
        let got = world.wire.get_keys(&space, &block::keys(&self.chain)).await.expect("a get is answered");
        for (at, (got, block)) in got.into_iter().zip(&self.chain).enumerate() {
            match got {
                Got::Block(bytes, _) => {
                    assert!(!damaged.contains(&at), "damage of block {at} went unnoticed");
                    assert!(bytes == block.payload, "wrong bytes for block {at}");
                }
                Got::Miss(miss) => {
                    assert!(damaged.contains(&at), "block {at} was not damaged: {miss:?}");
                    assert_eq!(miss.reason(), MissReason::Corrupt, "block {at}");
                }
            }
        }
    }
}

#[tokio::test]
async fn one_flipped_bit_anywhere_in_a_slot_is_a_miss() {
    let node = stopped_node().await;
    // A bit of each kind of byte: header, first, middle and last payload byte.
    let spots = [40, PAGE, PAGE + BYTES / 2, PAGE + BYTES - 1];
    for (at, spot) in spots.into_iter().enumerate() {
        let offset = node.headers[at] + spot as u64;
        let byte = node.read(offset, 1)[0];
        node.write(&[byte ^ 1 << (at + 2)], offset);
    }
    node.expect_corrupt(&[0, 1, 2, 3]).await;
}

#[tokio::test]
async fn two_blocks_that_changed_places_are_misses() {
    let node = stopped_node().await;
    let bytes = PAGE + BYTES.next_multiple_of(PAGE);
    let (first, second) = (node.read(node.headers[5], bytes), node.read(node.headers[9], bytes));
    node.write(&second, node.headers[5]);
    node.write(&first, node.headers[9]);
    node.expect_corrupt(&[5, 9]).await;
}

#[tokio::test]
async fn a_stale_sector_inside_a_block_is_a_miss() {
    let node = stopped_node().await;
    // The sector of another block's payload: right once, elsewhere.
    let stale = node.read(node.headers[3] + 2 * PAGE as u64, 512);
    node.write(&stale, node.headers[7] + 2 * PAGE as u64);
    node.write(&[0; 512], node.headers[11] + PAGE as u64);
    node.expect_corrupt(&[7, 11]).await;
}

#[tokio::test]
async fn a_log_with_a_torn_tail_opens_at_every_length() {
    let Stopped { mut setup, chain, .. } = stopped_node().await;
    let folder = setup.data().join("wal");
    for cut in [1, 7, 64, 333] {
        // What a crash in the middle of a write leaves: part of a frame behind the last whole one.
        let segments =
            std::fs::read_dir(&folder).expect("the log is a folder").map(|entry| entry.expect("an entry").path());
        let segments = segments.filter(|path| path.extension().is_some_and(|name| name == "wal"));
        let newest = segments.max().expect("there is a segment");
        let whole = std::fs::read(&newest).expect("the segment can be read");
        let mut torn = whole.clone();
        torn.extend_from_slice(&whole[whole.len() / 2..][..cut.min(whole.len() / 2)]);
        std::fs::write(&newest, &torn).expect("the segment can be written");
        let mut world = World::of(setup.start()).await;
        let space = world.space.clone();
        world.wire.expect_blocks(&space, &chain).await;
        setup = world.daemon.kill();
    }
}
