//! Numbers that were given out and never became durable, so that nobody is told they did.

/// Most ranges kept; beyond, the two oldest become one and the numbers between them count as lost too.
const RANGES_MAX: usize = 256;

/// Ranges of lost numbers, both ends included, in order.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    ranges: Vec<(u64, u64)>,
}

impl Lost {
    /// Adds a range behind all others. Empty ones are ignored.
    pub(crate) fn add(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        assert!(self.ranges.last().is_none_or(|range| range.1 < first), "numbers are lost in order");
        self.ranges.push((first, last));
        if self.ranges.len() > RANGES_MAX {
            let (oldest, _) = self.ranges.remove(0);
            self.ranges[0].0 = oldest;
        }
    }

    /// Takes out what is known from `first` on, because a longer range is about to be added.
    pub(crate) fn cut(&mut self, first: u64) {
        self.ranges.retain(|range| range.0 < first);
    }

    /// Whether `seq` was lost.
    pub(crate) fn holds(&self, seq: u64) -> bool {
        let behind = self.ranges.partition_point(|range| range.1 < seq);
        self.ranges.get(behind).is_some_and(|range| range.0 <= seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_number_stays_lost_however_many_there_are() {
        let mut lost = Lost::default();
        for round in 1..=1000 {
            lost.add(round * 10, round * 10 + 3);
        }
        lost.add(20_000, 19_999);
        assert!(lost.ranges.len() <= RANGES_MAX);
        for round in 1..=1000 {
            assert!(lost.holds(round * 10) && lost.holds(round * 10 + 3));
        }
        assert!(!lost.holds(9) && !lost.holds(10_004) && !lost.holds(9994) && !lost.holds(20_000));
    }
}
