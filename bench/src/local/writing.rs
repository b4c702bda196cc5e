//! Blocks written in place and checksummed by the daemon; against memcpy and CRC in one process.

use std::cell::Cell;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use kvtier_client::LocalClient;
use kvtier_client::local::{Commitment, Committed, Committing, ReserveChain, Slot};

use super::{BLOCK_BYTES, Failure, Node, commit, keys, put};
use crate::contest::{Contest, Standing};

const BATCH_BLOCKS: usize = 4;
const BATCHES: usize = 128;
/// Batches of one thread that wait for the other.
const AHEAD: usize = 2;
/// Runs before the first measured one: every page of the arena is mapped then.
const WARM_RUNS: usize = 3;

pub(super) fn contest(node: &Node, rounds: usize) -> Result<Standing, Failure> {
    let client = node.writer()?;
    let source = vec![5_u8; BLOCK_BYTES as usize * BATCH_BLOCKS];
    let mut own = vec![0_u8; BATCHES * source.len()];
    let run = Cell::new(0);
    let fresh = || {
        run.set(run.get() + 1);
        (0..BATCHES).map(|batch| keys(&format!("w{}/{batch}", run.get()), BATCH_BLOCKS)).collect::<Vec<_>>()
    };
    let rate = |started: Instant| (BATCHES * source.len()) as f64 / started.elapsed().as_secs_f64() / 1e9;
    let in_turn = || {
        let batches = fresh();
        let started = Instant::now();
        for batch in &batches {
            put(&client, node.space, batch, BLOCK_BYTES, |block| block.copy_from_slice(&source[..block.len()]))?;
        }
        Ok(rate(started))
    };
    for _ in 0..WARM_RUNS {
        in_turn()?;
    }
    let overlapped = || {
        let batches = fresh();
        let started = Instant::now();
        overlap(&client, node, &batches, &source)?;
        Ok(rate(started))
    };
    let ahead = || {
        let batches = fresh();
        let started = Instant::now();
        one_ahead(&client, node, &batches, &source)?;
        Ok(rate(started))
    };
    let plain = || {
        let started = Instant::now();
        let mut crc = 0_u32;
        for (at, block) in own.chunks_mut(BLOCK_BYTES as usize).enumerate() {
            let from = at % BATCH_BLOCKS * block.len();
            block.copy_from_slice(&source[from..from + block.len()]);
            crc ^= crc32fast::hash(block);
        }
        std::hint::black_box(crc);
        Ok(rate(started))
    };
    Contest::new("write 1 MiB blocks", "GB/s")
        .entry("kvtier, in place", in_turn)
        .entry("memcpy + crc, one process", plain)
        .entry("kvtier, one commit ahead", ahead)
        .entry("kvtier, two threads", overlapped)
        .run(rounds)
}

/// Writes a batch while the daemon sums the one before it, on one thread.
fn one_ahead(client: &LocalClient, node: &Node, batches: &[Vec<bytes::Bytes>], source: &[u8]) -> Result<(), Failure> {
    let mut before: Option<Committing> = None;
    for batch in batches {
        let written = write(client, node, batch, source)?;
        let now = client.begin_commit(written)?;
        check(before.replace(now))?;
    }
    check(before)
}

fn check(committing: Option<Committing>) -> Result<(), Failure> {
    let Some(committing) = committing else { return Ok(()) };
    match committing.wait()?.into_iter().find(|committed| !matches!(committed, Committed::Stored { .. })) {
        None => Ok(()),
        Some(other) => Err(format!("a block was not stored: {other:?}").into()),
    }
}

fn write(client: &LocalClient, node: &Node, batch: &[bytes::Bytes], source: &[u8]) -> Result<Vec<Commitment>, Failure> {
    let mut written = Vec::with_capacity(batch.len());
    for slot in client.reserve(&ReserveChain::new(node.space, batch, BLOCK_BYTES))? {
        let Slot::Write(mut reservation) = slot else { return Err("no slot was given".into()) };
        let length = reservation.len();
        reservation.copy_from_slice(&source[..length]);
        written.push(reservation.into());
    }
    Ok(written)
}

/// Writes on this thread and commits on another.
fn overlap(client: &LocalClient, node: &Node, batches: &[Vec<bytes::Bytes>], source: &[u8]) -> Result<(), Failure> {
    std::thread::scope(|scope| {
        let (give, take) = sync_channel::<Vec<Commitment>>(AHEAD);
        let committing = scope.spawn(move || {
            take.iter().try_for_each(|written| commit(client, written).map_err(|error| error.to_string()))
        });
        for batch in batches {
            let written = write(client, node, batch, source)?;
            give.send(written)?;
        }
        drop(give);
        committing.join().map_err(|_| "the committing thread panicked")??;
        Ok(())
    })
}
