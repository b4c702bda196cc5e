//! The newest durable records in memory, so that whoever follows the log's tail needs no disk.

use std::collections::VecDeque;
use std::sync::Arc;

use kvtier_engine::port::{Position, Record};

/// A run of records of one group, in memory.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) epoch: u64,
    pub(crate) first_seq: u64,
    pub(crate) records: Vec<Record>,
    /// Memory it takes.
    pub(crate) bytes: usize,
}

impl Run {
    pub(crate) fn last_seq(&self) -> u64 {
        self.first_seq + self.records.len() as u64 - 1
    }
}

/// A window over the newest runs, bounded in bytes.
#[derive(Debug)]
pub(crate) struct Recent {
    runs: VecDeque<Arc<Run>>,
    bytes: usize,
    bytes_max: usize,
    /// Every durable record after this one is in `runs`.
    floor: u64,
}

impl Recent {
    /// An empty window behind `floor`, the last durable record.
    pub(crate) fn new(floor: u64, bytes_max: usize) -> Self {
        Self { runs: VecDeque::new(), bytes: 0, bytes_max, floor }
    }

    /// Adds a run that has become durable.
    pub(crate) fn push(&mut self, run: Run) {
        assert!(run.first_seq > self.floor, "runs come in order");
        self.bytes += run.bytes;
        self.runs.push_back(Arc::new(run));
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.runs.pop_front() else { break };
            self.bytes -= oldest.bytes;
            self.floor = oldest.last_seq();
        }
    }

    /// Runs that hold up to `count_max` records after `after`; `None` when older ones are needed, from disk.
    pub(crate) fn after(&self, after: u64, count_max: usize) -> Option<Vec<Arc<Run>>> {
        if after < self.floor {
            return None;
        }
        let first = self.runs.partition_point(|run| run.last_seq() <= after);
        let mut count = 0;
        let mut runs = Vec::new();
        for run in self.runs.range(first..) {
            if count >= count_max {
                break;
            }
            let skipped = (after + 1).saturating_sub(run.first_seq);
            count += run.records.len() - usize::try_from(skipped).expect("a run is a Vec");
            runs.push(Arc::clone(run));
        }
        Some(runs)
    }
}

/// Clones records after `after` out of runs.
pub(crate) fn collect(runs: &[Arc<Run>], after: u64, count_max: usize) -> Vec<(Position, Record)> {
    runs.iter()
        .flat_map(|run| {
            let skipped = usize::try_from((after + 1).saturating_sub(run.first_seq)).unwrap_or(usize::MAX);
            let position = |index: usize| Position { epoch: run.epoch, seq: run.first_seq + index as u64 };
            let numbered = run.records.iter().enumerate().skip(skipped);
            numbered.map(move |(index, record)| (position(index), record.clone()))
        })
        .take(count_max)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first_seq: u64, count: usize) -> Run {
        let record = Record::Reset { epoch: 1, reason: String::new() };
        Run { epoch: 1, first_seq, records: vec![record; count], bytes: 100 }
    }

    fn seqs(recent: &Recent, after: u64, count_max: usize) -> Option<Vec<u64>> {
        let runs = recent.after(after, count_max)?;
        Some(collect(&runs, after, count_max).into_iter().map(|(position, _)| position.seq).collect())
    }

    #[test]
    fn the_window_gives_what_lies_after_a_position_and_knows_what_it_lacks() {
        let mut recent = Recent::new(4, 250);
        assert_eq!(seqs(&recent, 4, 9), Some(vec![]));
        recent.push(run(5, 3));
        recent.push(run(10, 2));
        assert_eq!(seqs(&recent, 4, 9), Some(vec![5, 6, 7, 10, 11]));
        assert_eq!(seqs(&recent, 5, 3), Some(vec![6, 7, 10]));
        assert_eq!(seqs(&recent, 8, 9), Some(vec![10, 11]), "a position in the gap");
        assert_eq!(seqs(&recent, 11, 9), Some(vec![]));
        assert_eq!(seqs(&recent, 3, 9), None, "older than the window");
        recent.push(run(12, 1));
        assert_eq!(seqs(&recent, 6, 9), None, "the oldest run had to go");
        assert_eq!(seqs(&recent, 7, 9), Some(vec![10, 11, 12]));
    }

    #[test]
    fn a_window_of_no_bytes_keeps_nothing() {
        let mut recent = Recent::new(0, 0);
        recent.push(run(1, 3));
        assert_eq!(seqs(&recent, 0, 9), None);
        assert_eq!(seqs(&recent, 3, 9), Some(vec![]));
    }
}
