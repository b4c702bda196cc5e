//! The engine's ports for time, randomness and spawning, on tokio and the system.
//!
//! Here, and nowhere else in the daemon, is the real clock read and work started.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvtier_engine::port::{BoxFuture, Clock, Moment, Random, Spawn};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Monotonic time since the clock was made, and the system's wall time.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    begun: Instant,
}

impl Default for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the Clock port's real adapter")]
    fn default() -> Self {
        Self { begun: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment(self.begun.elapsed())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the Clock port's real adapter")]
    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the Clock port's real adapter")]
    fn sleep(&self, pause: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(pause))
    }
}

/// Bytes fetched from the kernel at once.
const POOL_BYTES: usize = 4096;

/// Random numbers from the kernel's cryptographic source, fetched in pools.
#[derive(Debug)]
pub struct SystemRandom {
    pool: Mutex<Pool>,
}

#[derive(Debug)]
struct Pool {
    source: std::fs::File,
    bytes: Vec<u8>,
}

impl SystemRandom {
    /// Opens the source.
    pub fn open() -> std::io::Result<Self> {
        let source = std::fs::File::open("/dev/urandom")?;
        Ok(Self { pool: Mutex::new(Pool { source, bytes: Vec::new() }) })
    }
}

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        let mut pool = self.pool.lock().expect("nobody panics while drawing a number");
        if pool.bytes.is_empty() {
            let mut bytes = vec![0; POOL_BYTES];
            pool.source.read_exact(&mut bytes).expect("the kernel's random source never fails once it is open");
            pool.bytes = bytes;
        }
        let left = pool.bytes.len() - 8;
        let word = pool.bytes.split_off(left);
        u64::from_le_bytes(word.try_into().expect("the pool is a multiple of 8 bytes"))
    }
}

/// Starts tasks on the daemon's runtime, and knows when the last one has ended.
#[derive(Debug, Clone)]
pub struct RuntimeSpawn {
    handle: Handle,
    tasks: TaskTracker,
}

impl RuntimeSpawn {
    /// Spawns on the runtime of the caller.
    pub fn current() -> Arc<Self> {
        Arc::new(Self { handle: Handle::current(), tasks: TaskTracker::new() })
    }

    /// Resolves once every task has ended.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Spawn for RuntimeSpawn {
    fn spawn(&self, name: &'static str, task: BoxFuture<()>) {
        tracing::trace!(task = name, "started");
        drop(self.tasks.spawn_on(task, &self.handle));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_do_not_repeat_over_several_pools() {
        let random = SystemRandom::open().unwrap();
        let mut numbers: Vec<u64> = (0..3 * POOL_BYTES / 8).map(|_| random.next_u64()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 3 * POOL_BYTES / 8);
    }

    #[tokio::test]
    async fn a_task_goes_on_when_nobody_waits_and_its_end_is_seen() {
        let spawn = RuntimeSpawn::current();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        spawn.spawn("test", Box::pin(async move { sender.send(7).expect("the test waits") }));
        spawn.ended().await;
        assert_eq!(receiver.await, Ok(7));
    }
}
