//! What happened in a simulated world, so that two runs of one seed can be compared (INV-9).

use std::collections::VecDeque;

/// Lines kept for people.
const RECENT_COUNT_MAX: usize = 256;

/// A fingerprint of everything that happened: equal if and, but for chance, only if the histories are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// Events so far.
    pub event_count: u64,
    /// Hash over all of them, in order.
    pub hash: u64,
}

/// The log of a world: a running hash and the newest lines.
#[derive(Debug)]
pub(crate) struct History {
    fingerprint: Fingerprint,
    recent: VecDeque<String>,
}

impl History {
    /// An empty log.
    pub(crate) fn new() -> Self {
        Self {
            fingerprint: Fingerprint { event_count: 0, hash: 0xcbf2_9ce4_8422_2325 },
            recent: VecDeque::with_capacity(RECENT_COUNT_MAX),
        }
    }

    /// Adds an event. The line must hold nothing that differs between runs, such as an address.
    pub(crate) fn add(&mut self, line: String) {
        // FNV-1a, with a separator, so that the border between two lines counts.
        let bytes = line.bytes().chain([0xff]);
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        self.fingerprint.hash = bytes.fold(self.fingerprint.hash, step);
        self.fingerprint.event_count += 1;
        if self.recent.len() == RECENT_COUNT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(line);
    }

    /// The fingerprint so far.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The newest lines, oldest first.
    pub(crate) fn recent(&self) -> Vec<String> {
        self.recent.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Fingerprint {
        let mut history = History::new();
        lines.iter().for_each(|line| history.add((*line).to_owned()));
        history.fingerprint()
    }

    #[test]
    fn order_and_borders_of_events_count() {
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        assert_ne!(of(&["a", "b"]), of(&["b", "a"]));
        assert_ne!(of(&["ab", "c"]).hash, of(&["a", "bc"]).hash);
    }

    #[test]
    fn only_the_newest_lines_are_kept() {
        let mut history = History::new();
        (0..1000).for_each(|number| history.add(number.to_string()));
        let recent = history.recent();
        assert_eq!((recent.len(), recent.last().map(String::as_str)), (256, Some("999")));
    }
}
