//! What clients that are attached and do nothing cost the daemon.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Failure, Node, keys, put};
use crate::process::{cpu_seconds, resident_bytes};

const WATCH: Duration = Duration::from_secs(10);

/// One sentence.
pub(super) fn measure(folder: &Path, count: usize) -> Result<String, Failure> {
    let settings = ["host.bytes=64MiB", "nvme.enabled=false", "log.level=warn"];
    let node = Node::start(&folder.join("idle"), &settings)?;
    node.daemon.settle(64 << 20)?;
    let daemon = node.daemon.id();
    let first = node.writer()?;
    let chain = keys("idle", 1000);
    put(&first, node.space, &chain, 4096, |block| block.fill(1))?;
    let alone = watch(daemon)?;
    let before = resident_bytes(daemon)?;
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let client = node.writer()?;
        // Each has worked before it went idle.
        drop(client.acquire(&kvtier_client::local::AcquireChain::new(node.space, &chain))?);
        clients.push(client);
    }
    let each = resident_bytes(daemon)?.saturating_sub(before) as f64 / count as f64 / 1024.0;
    let busy = watch(daemon)?;
    Ok(format!(
        "{count} writers attached and idle for {} s, each after one acquire of 1,000 blocks: {:.2} % of a core ({:.2} % with \
         one client), {each:.1} KiB of daemon memory each.",
        WATCH.as_secs(),
        busy * 100.0,
        alone * 100.0,
    ))
}

/// Share of a core a process uses while nobody asks anything.
fn watch(process: u32) -> Result<f64, Failure> {
    let (cpu, started) = (cpu_seconds(process)?, Instant::now());
    std::thread::sleep(WATCH);
    Ok((cpu_seconds(process)? - cpu) / started.elapsed().as_secs_f64())
}
