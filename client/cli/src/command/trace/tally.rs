//! What a replay counts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::latency::Latency;

/// One request that was served from beginning to end. A request that had to be repeated counts once, as it ended.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) blocks: u64,
    pub(super) lookup: Duration,
    pub(super) get: Option<GetTime>,
    pub(super) put: Option<Duration>,
    /// Blocks of the longest delivered and verified prefix.
    pub(super) hit_blocks: u64,
    /// Per tier: blocks and bytes that came from it.
    pub(super) tiers: BTreeMap<String, (u64, u64)>,
    /// Why the chain was not resident to its end, and how many blocks were behind that.
    pub(super) stop: Option<(String, u64)>,
    /// Blocks that were found by the lookup and then could not be had, by reason.
    pub(super) lost: BTreeMap<String, u64>,
    pub(super) verified_blocks: u64,
    pub(super) verified_bytes: u64,
    pub(super) verification_errors: u64,
    pub(super) puts: Puts,
}

/// How long a get took to its first and its last block.
#[derive(Debug, Clone, Copy)]
pub(super) struct GetTime {
    pub(super) first_block: Duration,
    pub(super) all: Duration,
}

/// Outcomes of puts.
#[derive(Debug, Default, Clone)]
pub(super) struct Puts {
    pub(super) stored: u64,
    pub(super) stored_bytes: u64,
    pub(super) duplicate: u64,
    pub(super) declined: BTreeMap<String, u64>,
    pub(super) rejected: u64,
    /// The first rejection, in the daemon's words: a replay that sends bad blocks is a defect.
    pub(super) rejection: Option<String>,
}

/// Many requests added up.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) blocks: u64,
    pub(super) hit_blocks: u64,
    pub(super) whole_chains: u64,
    pub(super) retries: u64,
    pub(super) lookup: Latency,
    pub(super) get_first: Latency,
    pub(super) get: Latency,
    pub(super) put: Latency,
    pub(super) tiers: BTreeMap<String, (u64, u64)>,
    /// Per reason: requests that stopped there, and blocks behind it.
    pub(super) stops: BTreeMap<String, (u64, u64)>,
    pub(super) lost: BTreeMap<String, u64>,
    pub(super) verified_blocks: u64,
    pub(super) verified_bytes: u64,
    pub(super) verification_errors: u64,
    pub(super) puts: Puts,
}

impl Tally {
    pub(super) fn add(&mut self, served: Served) {
        self.requests += 1;
        self.blocks += served.blocks;
        self.hit_blocks += served.hit_blocks;
        self.lookup.record(served.lookup);
        if let Some(get) = served.get {
            self.get_first.record(get.first_block);
            self.get.record(get.all);
        }
        if let Some(put) = served.put {
            self.put.record(put);
        }
        match served.stop {
            None => self.whole_chains += 1,
            Some((reason, behind)) => add_pair(&mut self.stops, reason, (1, behind)),
        }
        for (tier, counts) in served.tiers {
            add_pair(&mut self.tiers, tier, counts);
        }
        add_counts(&mut self.lost, served.lost);
        self.verified_blocks += served.verified_blocks;
        self.verified_bytes += served.verified_bytes;
        self.verification_errors += served.verification_errors;
        self.puts.add(served.puts);
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.blocks += other.blocks;
        self.hit_blocks += other.hit_blocks;
        self.whole_chains += other.whole_chains;
        self.retries += other.retries;
        self.lookup.merge(&other.lookup);
        self.get_first.merge(&other.get_first);
        self.get.merge(&other.get);
        self.put.merge(&other.put);
        for (tier, counts) in other.tiers {
            add_pair(&mut self.tiers, tier, counts);
        }
        for (reason, counts) in other.stops {
            add_pair(&mut self.stops, reason, counts);
        }
        add_counts(&mut self.lost, other.lost);
        self.verified_blocks += other.verified_blocks;
        self.verified_bytes += other.verified_bytes;
        self.verification_errors += other.verification_errors;
        self.puts.add(other.puts);
    }
}

impl Puts {
    fn add(&mut self, other: Self) {
        self.stored += other.stored;
        self.stored_bytes += other.stored_bytes;
        self.duplicate += other.duplicate;
        add_counts(&mut self.declined, other.declined);
        self.rejected += other.rejected;
        self.rejection = self.rejection.take().or(other.rejection);
    }
}

fn add_pair(to: &mut BTreeMap<String, (u64, u64)>, name: String, (one, two): (u64, u64)) {
    let entry = to.entry(name).or_default();
    *entry = (entry.0 + one, entry.1 + two);
}

fn add_counts(to: &mut BTreeMap<String, u64>, from: BTreeMap<String, u64>) {
    for (name, count) in from {
        *to.entry(name).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(stop: Option<(String, u64)>) -> Served {
        let get = GetTime { first_block: Duration::from_millis(1), all: Duration::from_millis(2) };
        Served {
            blocks: 10,
            hit_blocks: 4,
            get: Some(get),
            tiers: [("host".to_owned(), (4, 400))].into(),
            stop,
            verified_blocks: 4,
            verified_bytes: 400,
            puts: Puts { stored: 6, declined: [("busy".to_owned(), 1)].into(), ..Default::default() },
            ..Default::default()
        }
    }

    #[test]
    fn workers_add_up_to_what_one_would_have_counted() {
        let stops = [None, Some(("evicted".to_owned(), 6)), Some(("evicted".to_owned(), 5))];
        let mut alone = Tally::default();
        let mut merged = Tally::default();
        for stop in stops {
            alone.add(served(stop.clone()));
            let mut worker = Tally::default();
            worker.add(served(stop));
            merged.merge(worker);
        }
        assert_eq!((merged.requests, merged.blocks, merged.hit_blocks, merged.whole_chains), (3, 30, 12, 1));
        assert_eq!(merged.stops["evicted"], (2, 11));
        assert_eq!(merged.tiers["host"], (12, 1200));
        assert_eq!(merged.puts.declined["busy"], 3);
        assert_eq!(merged.get.count(), 3);
        let figures =
            |tally: &Tally| (tally.stops.clone(), tally.tiers.clone(), tally.verified_bytes, tally.puts.stored);
        assert_eq!(figures(&merged), figures(&alone));
    }
}
