//! A process's standard error, kept line by line; others wait for a line to come.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The lines so far. Clones share them.
#[derive(Clone, Default)]
pub struct Log(Arc<Lines>);

#[derive(Default)]
struct Lines {
    text: Mutex<(String, bool)>,
    grown: Condvar,
}

impl Log {
    /// Follows `source` on a thread of its own until it ends.
    pub fn follow(source: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let lines = Arc::clone(&log.0);
        let follow = move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                lines.text.lock().expect("no test panics in here").0.push_str(&String::from_utf8_lossy(&line));
                lines.grown.notify_all();
                line.clear();
            }
            lines.text.lock().expect("no test panics in here").1 = true;
            lines.grown.notify_all();
        };
        std::thread::Builder::new().name("log".into()).spawn(follow).expect("a thread can be started");
        log
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        self.0.text.lock().expect("no test panics in here").0.clone()
    }

    /// Waits until the log contains `needle`; false when it ended, or `patience` did, without it.
    #[expect(clippy::disallowed_methods, reason = "a test of a real process waits in real time, and not for ever")]
    pub fn wait_for(&self, needle: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut text = self.0.text.lock().expect("no test panics in here");
        loop {
            if text.0.contains(needle) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if text.1 || left.is_zero() {
                return false;
            }
            text = self.0.grown.wait_timeout(text, left).expect("no test panics in here").0;
        }
    }

    /// Waits until the source has ended.
    #[expect(clippy::disallowed_methods, reason = "a test of a real process waits in real time, and not for ever")]
    pub fn wait_for_end(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut text = self.0.text.lock().expect("no test panics in here");
        while !text.1 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            text = self.0.grown.wait_timeout(text, left).expect("no test panics in here").0;
        }
        true
    }
}
