//! Every byte of resident blocks, read once, in place; against the same loop over memory of our own.

use std::time::Instant;

use kvtier_client::LocalClient;
use kvtier_client::local::AcquireChain;

use super::{BLOCK_BYTES, Failure, Node, keys, put};
use crate::contest::{Contest, Standing};

const CHAIN_BLOCKS: usize = 64;
const CHAINS: usize = 8;

pub(super) fn contest(node: &Node, rounds: usize) -> Result<Standing, Failure> {
    let client = node.writer()?;
    let chains: Vec<_> = (0..CHAINS).map(|chain| keys(&format!("read{chain}"), CHAIN_BLOCKS)).collect();
    for chain in &chains {
        put(&client, node.space, chain, BLOCK_BYTES, |block| block.fill(3))?;
    }
    let own = vec![3_u8; CHAINS * CHAIN_BLOCKS * BLOCK_BYTES as usize];
    let expected: u64 = sum(&own);
    let rate = |started: Instant| own.len() as f64 / started.elapsed().as_secs_f64() / 1e9;
    let in_place = || {
        let started = Instant::now();
        let mut total = 0_u64;
        for chain in &chains {
            let acquired = client.acquire(&AcquireChain::new(node.space, chain))?;
            for index in 0..acquired.len() {
                total = total.wrapping_add(sum(acquired.bytes(index).ok_or("it is in host memory")?));
            }
            if !acquired.all_intact() {
                return Err("a lease ended too early".into());
            }
        }
        let rate = rate(started);
        if total == expected { Ok(rate) } else { Err("wrong bytes".into()) }
    };
    let ahead = || {
        let started = Instant::now();
        let total = one_ahead(&client, node, &chains)?;
        let rate = rate(started);
        if total == expected { Ok(rate) } else { Err("wrong bytes".into()) }
    };
    let plain = || {
        let started = Instant::now();
        let total: u64 = own.chunks(BLOCK_BYTES as usize).map(sum).fold(0, u64::wrapping_add);
        let rate = rate(started);
        if total == expected { Ok(rate) } else { Err("wrong sum".into()) }
    };
    let held = chains.iter().map(|chain| {
        let lease = std::time::Duration::from_secs(250);
        client.acquire(&AcquireChain { lease, ..AcquireChain::new(node.space, chain) })
    });
    let held = held.collect::<Result<Vec<_>, _>>()?;
    let same_memory = || {
        let started = Instant::now();
        let mut total = 0_u64;
        for acquired in &held {
            for index in 0..acquired.len() {
                total = total.wrapping_add(sum(acquired.bytes(index).ok_or("it is in host memory")?));
            }
        }
        let rate = rate(started);
        if total == expected { Ok(rate) } else { Err("wrong sum".into()) }
    };
    Contest::new("read 1 MiB blocks", "GB/s")
        .entry("kvtier, one chain ahead", ahead)
        .entry("the same pages, no calls", same_memory)
        .entry("own memory", plain)
        .entry("kvtier, chains in turn", in_place)
        .run(rounds)
}

/// Reads a chain while the daemon leases the next. The one before is released when the daemon is awake anyway.
fn one_ahead(client: &LocalClient, node: &Node, chains: &[Vec<bytes::Bytes>]) -> Result<u64, Failure> {
    let begin = |chain: &Vec<bytes::Bytes>| client.begin_acquire(&AcquireChain::new(node.space, chain));
    let (mut before, mut total) = (None, 0_u64);
    let mut next = chains.first().map(begin).transpose()?;
    for later in 1..=chains.len() {
        let Some(acquiring) = next.take() else { break };
        let acquired = acquiring.wait()?;
        drop(before.take());
        next = chains.get(later).map(begin).transpose()?;
        for index in 0..acquired.len() {
            total = total.wrapping_add(sum(acquired.bytes(index).ok_or("it is in host memory")?));
        }
        if !acquired.all_intact() {
            return Err("a lease ended too early".into());
        }
        before = Some(acquired);
    }
    Ok(total)
}

/// Adds up 64-bit words: as fast as memory can be read. The same code for everybody.
#[inline(never)]
fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}
