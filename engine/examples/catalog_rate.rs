//! How fast the catalog is, and how much RAM its metadata takes.
//!
//! ```text
//! cargo run --release -p kvtier-engine --example catalog_rate [lookup|put|fill|all]
//! ```
//!
//! One thread, nothing but the catalog, time on the core. Each figure is the median of five repeats; block ids are random.

use std::time::Duration;

use kvtier_engine::catalog::plan::{BlockIndex, Fill, PartOutcome, PutPlan, Reserve};
use kvtier_engine::catalog::{Catalog, CatalogSettings};
use kvtier_engine::place::{PAGE_BYTES, Slot};
use kvtier_engine::policy::{AdmissionKind, PolicyKind};
use kvtier_engine::port::{DeviceGeometry, IndexEntry, LoadOutcome, Moment};
use kvtier_identity::{BlockId, Key};

const CHAIN: u32 = 1000;
const EXTENT_BYTES: u64 = 64 << 20;
const SLOT_BYTES: u64 = 2 * PAGE_BYTES;

fn main() {
    let what = std::env::args().nth(1).unwrap_or_else(|| "all".into());
    let chosen = |name: &str| what == name || what == "all";
    if chosen("lookup") {
        lookups(1_000_000);
    }
    if chosen("put") {
        puts(1_000_000);
    }
    if chosen("fill") {
        for count in [100_000, 1_000_000, 10_000_000] {
            fill(count);
        }
    }
}

/// SplitMix64: as uniform as the keyed hash that makes real ids.
fn mix(mut number: u64) -> u64 {
    number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

fn id(number: u32) -> BlockId {
    let number = u64::from(number);
    BlockId(u128::from(mix(number)) << 64 | u128::from(mix(number | 1 << 40)))
}

fn parent(number: u32) -> Option<BlockId> {
    (!number.is_multiple_of(CHAIN)).then(|| id(number - 1))
}

fn key(number: u32) -> Key {
    Key::new(&[mix(u64::from(number)).to_le_bytes(); 4].concat()).expect("32 bytes")
}

fn device(slots: u64) -> DeviceGeometry {
    let bytes = (slots * SLOT_BYTES).next_multiple_of(EXTENT_BYTES);
    DeviceGeometry { bytes, extent_bytes: EXTENT_BYTES, first_extent_offset: 0 }
}

fn catalog(host_slots: u64, nvme_slots: u64, policy: PolicyKind) -> Catalog {
    Catalog::new(CatalogSettings {
        host: vec![device(host_slots)],
        nvme: vec![device(nvme_slots)],
        policy,
        admission: AdmissionKind::All,
        generation_first: 1 << 40,
        history_count_max: 1 << 16,
        lease_count_max: 1 << 14,
        pending_count_max: 1 << 14,
        pin_count_max: 1 << 10,
    })
}

fn put(catalog: &mut Catalog, number: u32) -> Option<BlockIndex> {
    let now = Moment(Duration::ZERO);
    let plan = PutPlan {
        block: id(number),
        space: 1,
        domain: 0,
        key: key(number),
        parent: parent(number),
        part_bytes: vec![PAGE_BYTES as u32],
        part: 0,
        deadline: Moment(Duration::from_secs(60)),
    };
    let Reserve::Write(claim) = catalog.reserve(now, plan) else { return None };
    match catalog.finish_part(now, &claim, Some(number), |_, _, _| 0) {
        PartOutcome::Visible { index, .. } => Some(index),
        other => panic!("{other:?}"),
    }
}

fn entry(number: u32) -> IndexEntry {
    let per_extent = (EXTENT_BYTES / SLOT_BYTES) as u32;
    let offset = u64::from(number / per_extent) * EXTENT_BYTES + u64::from(number % per_extent) * SLOT_BYTES;
    IndexEntry {
        space: 1,
        key: key(number),
        parent: parent(number),
        length: PAGE_BYTES as u32,
        crc: number,
        generation: (1 << 40) + u64::from(number),
        slot: Slot { device: 0, offset, bytes: SLOT_BYTES as u32 },
    }
}

/// Time this thread spent on a core: other processes on a shared machine do not count.
fn on_core() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux keeps scheduler statistics");
    let nanoseconds = stat.split(' ').next().and_then(|number| number.parse().ok()).expect("the first is a number");
    Duration::from_nanos(nanoseconds)
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begin = on_core();
    let out = work();
    (on_core() - begin, out)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Chains of 1,000 blocks, chosen at random; every block in both tiers' orders (host copy filled beside the NVMe copy).
fn lookups(resident: u32) {
    for policy in [PolicyKind::LeafLru, PolicyKind::S3Fifo] {
        for (tiers, name) in [(1, "nvme"), (2, "host and nvme")] {
            let mut catalog = catalog(u64::from(resident), u64::from(resident), policy);
            fill_all(&mut catalog, resident);
            if tiers == 2 {
                load_all(&mut catalog, resident);
            }
            let chains: Vec<Vec<BlockId>> =
                (0..resident / CHAIN).map(|chain| (0..CHAIN).map(|at| id(chain * CHAIN + at)).collect()).collect();
            let mut out = Vec::with_capacity(CHAIN as usize);
            let mut seed = 1;
            let rates = (0..5).map(|_| {
                let (time, found) = timed(|| {
                    (0..1_000)
                        .map(|_| {
                            seed = mix(seed);
                            out.clear();
                            catalog.lookup(&chains[(seed % chains.len() as u64) as usize], &mut out)
                        })
                        .sum::<usize>()
                });
                assert_eq!(found, 1_000 * CHAIN as usize);
                found as f64 / time.as_secs_f64() / 1e6
            });
            println!("lookup, {resident} resident in {name}, {policy:?}: {:.2} M blocks/s", median(rates.collect()));
        }
    }
}

fn load_all(catalog: &mut Catalog, count: u32) {
    use kvtier_engine::catalog::plan::LoadPlan;
    let now = Moment(Duration::ZERO);
    for number in 0..count {
        let LoadPlan::Load { index, .. } = catalog.begin_load_block(now, id(number)) else { panic!("block {number}") };
        catalog.finish_load(now, index, &LoadOutcome::Verified, Some(key(number)));
        catalog.unhold(index);
    }
}

/// Puts into a full host tier: each evicts one block.
fn puts(resident: u32) {
    for policy in [PolicyKind::LeafLru, PolicyKind::S3Fifo] {
        let mut catalog = catalog(u64::from(resident), 0, policy);
        let mut next = 0;
        while catalog.count().host.evictions == 0 {
            put(&mut catalog, next).expect("there is room");
            next += 1;
        }
        let rates = (0..5).map(|_| {
            let (time, ()) = timed(|| {
                (next..next + 200_000).for_each(|number| _ = put(&mut catalog, number).expect("room can be made"));
            });
            next += 200_000;
            0.2 / time.as_secs_f64()
        });
        let rate = median(rates.collect());
        println!("put and evict, {resident} resident, {policy:?}: {rate:.2} M puts/s (keys and records allocated)");
    }
}

fn fill_all(catalog: &mut Catalog, count: u32) {
    catalog.begin_fill(&[]);
    // In the order of ids, as the index is scanned.
    let mut order: Vec<u32> = (0..count).collect();
    order.sort_unstable_by_key(|number| id(*number).0);
    for number in order {
        assert!(matches!(catalog.fill(id(number), &entry(number), 0), Fill::Added(_)));
    }
    catalog.finish_fill();
}

fn rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
}

/// Recovery of an index, and the RAM it takes.
fn fill(count: u32) {
    let mut order: Vec<u32> = (0..count).collect();
    order.sort_unstable_by_key(|number| id(*number).0);
    let before = rss_bytes();
    let mut catalog = catalog(1 << 13, u64::from(count), PolicyKind::LeafLru);
    catalog.begin_fill(&[]);
    let mut longest = Duration::ZERO;
    let (time, ()) = timed(|| {
        for chunk in order.chunks(1024) {
            let (time, ()) = timed(|| {
                for number in chunk {
                    assert!(matches!(catalog.fill(id(*number), &entry(*number), 0), Fill::Added(_)));
                }
            });
            longest = longest.max(time);
        }
    });
    let mut longest_step = Duration::ZERO;
    let (finish, ()) = timed(|| {
        loop {
            let (time, done) = timed(|| catalog.finish_fill_step(4096));
            longest_step = longest_step.max(time);
            if done {
                break;
            }
        }
    });
    let (rss, counted) = (rss_bytes().saturating_sub(before), catalog.count().metadata_bytes);
    let per = |bytes: u64| bytes as f64 / f64::from(count);
    println!(
        "fill {count}: {time:.2?}, longest 1,024 {longest:.2?}, finish {finish:.2?}, longest step {longest_step:.2?}; per block counted {:.1} B, RSS {:.1} B",
        per(counted),
        per(rss)
    );
}
