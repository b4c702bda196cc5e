//! Hit rates on a recorded hour of chat: the catalog against an exact leaf-LRU that fits on a page.

mod behaviour;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use behaviour::*;
use kvtier_engine::catalog::plan::Reserve;
use kvtier_engine::catalog::{Catalog, CatalogSettings};
use kvtier_engine::place::PAGE_BYTES;
use kvtier_engine::policy::PolicyKind;
use kvtier_engine::port::DeviceGeometry;

const EXTENT_SLOTS: u64 = 16;

/// The chains of a trace, and how many distinct blocks they name.
fn trace(name: &str) -> (Vec<Vec<u64>>, u64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/traces").join(name);
    let packed = std::fs::read(&path).expect("the trace is part of the repository");
    let text = String::from_utf8(zstd::decode_all(packed.as_slice()).expect("zstd")).expect("UTF-8");
    let chain = |line: &str| {
        let request: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        let runs: Vec<(u64, u64)> = serde_json::from_value(request["h"].clone()).expect("runs of block ids");
        runs.into_iter().flat_map(|(first, count)| first..first + count).collect()
    };
    let chains: Vec<Vec<u64>> = text.lines().skip(1).map(chain).collect();
    let distinct: BTreeSet<u64> = chains.iter().flatten().copied().collect();
    (chains, distinct.len() as u64)
}

/// Share of blocks found in their request's longest resident prefix, in percent.
fn hit_percent(chains: &[Vec<u64>], mut request: impl FnMut(&[u64]) -> usize) -> f64 {
    let hits: usize = chains.iter().map(|chain| request(chain)).sum();
    let asked: usize = chains.iter().map(Vec::len).sum();
    hits as f64 * 100.0 / asked as f64
}

/// Touches every chain tail first, and evicts the least recently touched block.
fn exact_leaf_lru(chains: &[Vec<u64>], capacity: u64) -> f64 {
    let (mut clock, mut used, mut order) = (0u64, BTreeMap::new(), BTreeSet::new());
    hit_percent(chains, |chain| {
        let hits = chain.iter().take_while(|block| used.contains_key(*block)).count();
        clock += chain.len() as u64;
        for (block, age) in chain.iter().zip(0..) {
            let time = clock - age;
            if let Some(before) = used.insert(*block, time) {
                order.remove(&(before, *block));
            }
            order.insert((time, *block));
            if used.len() as u64 > capacity {
                let (_, coldest) = order.pop_first().expect("the cache is full");
                used.remove(&coldest);
            }
        }
        hits
    })
}

fn catalog_hits(chains: &[Vec<u64>], capacity: u64, policy: PolicyKind) -> f64 {
    let extent_bytes = EXTENT_SLOTS * 2 * PAGE_BYTES;
    let host =
        vec![DeviceGeometry { bytes: capacity / EXTENT_SLOTS * extent_bytes, extent_bytes, first_extent_offset: 0 }];
    let mut catalog = Catalog::new(CatalogSettings { host, policy, history_count_max: 1 << 16, ..settings(1, 0) });
    let percent = hit_percent(chains, |chain| {
        let hits = lookup(&mut catalog, chain).len();
        for place in hits..chain.len() {
            let parent = place.checked_sub(1).map(|before| chain[before]);
            match catalog.reserve(at(0), plan(chain[place], parent, &[4096])) {
                Reserve::Write(claim) => _ = catalog.finish_part(at(0), &claim, Some(1), |_, _, _| 0),
                // A lookup ends at the first gap; what is behind it may be resident.
                Reserve::Duplicate => {}
                other => panic!("block {} of {chain:?}: {other:?}", chain[place]),
            }
        }
        hits
    });
    catalog.check().expect("consistent");
    percent
}

#[test]
fn the_catalog_hits_like_an_exact_leaf_lru() {
    let (chains, distinct) = trace("mooncake_conv_dev.rjsonl.zst");
    assert_eq!((chains.len(), distinct), (5_606, 95_189), "as bench/traces/README.md says");
    for (percent, recorded) in [(1, 4.28), (3, 6.20), (10, 19.62)] {
        let capacity = distinct * percent / 100 / EXTENT_SLOTS * EXTENT_SLOTS;
        let exact = exact_leaf_lru(&chains, capacity);
        let lru = catalog_hits(&chains, capacity, PolicyKind::LeafLru);
        let fifo = catalog_hits(&chains, capacity, PolicyKind::S3Fifo);
        println!("cache of {percent} %: exact leaf-LRU {exact:.2} %, catalog {lru:.2} %, S3-FIFO {fifo:.2} %");
        assert!((lru - exact).abs() < 0.3, "cache of {percent} %: catalog {lru:.2} %, exact {exact:.2} %");
        assert!((exact - recorded).abs() < 0.01, "the trace or the reference has changed");
        assert!((fifo - lru).abs() < 3.0, "S3-FIFO is another policy, not a broken one: {fifo:.2} %");
    }
}
