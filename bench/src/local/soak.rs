//! Many acquires and releases: nothing may grow.

use std::time::Instant;

use kvtier_client::local::AcquireChain;
use kvtier_client::{Client, LocalClient};

use super::{Failure, Node, keys, put};
use crate::grpc::drive::Target;
use crate::process::resident_bytes;

/// What could grow.
#[derive(Debug, PartialEq, Eq)]
struct Size {
    resident_bytes: u64,
    descriptors: usize,
    leases: u64,
}

/// One sentence; fails if descriptors or leases are left over.
pub(super) fn run(node: &Node, count: u64) -> Result<String, Failure> {
    let client = node.writer()?;
    let chain = keys("soak", 2);
    put(&client, node.space, &chain, 4096, |block| block.fill(9))?;
    let once = || client.acquire(&AcquireChain::new(node.space, &chain)).map(drop);
    for _ in 0..100_000.min(count) {
        once()?;
    }
    settle(&client, node)?;
    let before = size(node)?;
    let started = Instant::now();
    for _ in 0..count {
        once()?;
    }
    let took = started.elapsed();
    settle(&client, node)?;
    let after = size(node)?;
    if (before.descriptors, before.leases) != (after.descriptors, after.leases) {
        return Err(format!("something is left over: {before:?}, then {after:?}").into());
    }
    Ok(format!(
        "{count} acquires and releases of 2 blocks in {:.0} s ({:.1} µs each): resident {:.1} MiB before, {:.1} MiB after; {} \
         descriptors and {} leases, before and after.",
        took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / count as f64,
        before.resident_bytes as f64 / f64::from(1 << 20),
        after.resident_bytes as f64 / f64::from(1 << 20),
        after.descriptors,
        after.leases,
    ))
}

/// Requests of one connection are served in order: once this is answered, every release before it is done.
fn settle(client: &LocalClient, node: &Node) -> Result<(), Failure> {
    let nothing = client.acquire(&AcquireChain::new(node.space, &keys("nobody", 1)))?;
    if nothing.is_empty() { Ok(()) } else { Err("a block nobody has put".into()) }
}

fn size(node: &Node) -> Result<Size, Failure> {
    let Target::Unix(socket) = node.daemon.unix() else { return Err("a daemon has a unix socket".into()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(async {
        let client = Client::connect(&format!("unix://{}", socket.display())).await?;
        client.status().await
    })?;
    // The connection just made is gone before its descriptor is counted, or it is counted both times.
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", node.daemon.id()))?.count();
    Ok(Size { resident_bytes: resident_bytes(node.daemon.id())?, descriptors, leases: status.leases })
}
