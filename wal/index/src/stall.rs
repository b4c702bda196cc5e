//! Writes that RocksDB has no buffer for, because it flushes more slowly than we write, or not at all.
//!
//! Left to itself it keeps such a write waiting, without a bound when a flush has found no room: until somebody makes some. So it
//! is asked to refuse instead, and we wait here: while there is room on the disk, and not for ever.

use std::thread;
use std::time::Duration;

use kvtier_engine::port::IndexError;

/// RocksDB tells nobody when it takes writes again.
const POLL: Duration = Duration::from_millis(2);
/// Longer than flushing all buffers takes on a disk that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// The patience with one batch.
pub(crate) struct Stall {
    polls_left: u128,
}

impl Stall {
    pub(crate) fn new() -> Self {
        Self { polls_left: PATIENCE.as_millis() / POLL.as_millis() }
    }

    /// Waits until writes are not stopped any more; they may be slowed down still. `has_room` says whether a flush can succeed.
    /// Once patience has ended, `given_up`.
    pub(crate) fn wait(
        &mut self,
        is_stopped: impl Fn() -> bool,
        has_room: impl Fn() -> Result<(), IndexError>,
        given_up: impl FnOnce(Duration) -> IndexError,
    ) -> Result<(), IndexError> {
        loop {
            has_room()?;
            let Some(left) = self.polls_left.checked_sub(1) else { return Err(given_up(PATIENCE)) };
            self.polls_left = left;
            thread::park_timeout(POLL);
            if !is_stopped() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn given_up(_: Duration) -> IndexError {
        IndexError::Unavailable("given up".into())
    }

    #[test]
    fn a_stall_is_waited_out_while_there_is_room() {
        let asked = Cell::new(0);
        let is_stopped = || asked.replace(asked.get() + 1) < 3;
        let mut stall = Stall::new();
        assert_eq!(stall.wait(is_stopped, || Ok(()), given_up), Ok(()));
        assert_eq!(asked.get(), 4);
    }

    #[test]
    fn without_room_nothing_is_waited_for() {
        let full = || Err(IndexError::Full("no room".into()));
        let mut stall = Stall::new();
        assert_eq!(stall.wait(|| panic!("not asked"), full, given_up), full());
    }

    #[test]
    fn patience_is_that_of_the_batch_and_ends() {
        let mut stall = Stall { polls_left: 3 };
        assert_eq!(stall.wait(|| false, || Ok(()), given_up), Ok(()), "slowed down");
        assert_eq!(stall.wait(|| true, || Ok(()), given_up), Err(given_up(PATIENCE)));
        assert_eq!(stall.wait(|| false, || Ok(()), given_up), Err(given_up(PATIENCE)));
    }
}
