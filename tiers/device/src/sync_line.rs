//! Who waits for which sync.
//!
//! A call is answered by a sync that began after the call did, for only that one covers every write completed before
//! it. Calls that wait for the next sync share it. At most one sync runs.
//!
//! ```text
//!   join ──> waiting ──begin──> running ──end──> answered
//!               ▲ calls that come while one runs wait for the next
//! ```

use futures::channel::oneshot;

use crate::port::DiskError;

/// Where a sync's answer goes.
pub(crate) type SyncAnswer = oneshot::Sender<Result<(), DiskError>>;

/// Calls that may wait at once; more are answered [`DiskError::Busy`] (INV-5).
const WAITING_COUNT_MAX: usize = 4096;

/// The calls that wait, and those the running sync will answer.
#[derive(Default)]
pub(crate) struct SyncLine {
    waiting: Vec<SyncAnswer>,
    running: Option<Vec<SyncAnswer>>,
}

impl SyncLine {
    /// A call comes in.
    pub(crate) fn join(&mut self, answer: SyncAnswer) {
        if self.waiting.len() >= WAITING_COUNT_MAX {
            answer_all(vec![answer], &Err(DiskError::Busy));
        } else {
            self.waiting.push(answer);
        }
    }

    /// Starts a sync for all who wait, unless one runs or nobody waits. The caller must issue it after this returns true.
    pub(crate) fn begin(&mut self) -> bool {
        let starts = self.running.is_none() && !self.waiting.is_empty();
        if starts {
            self.running = Some(std::mem::take(&mut self.waiting));
        }
        starts
    }

    /// The running sync ended: those it was for, to be given its result.
    pub(crate) fn end(&mut self) -> Vec<SyncAnswer> {
        self.running.take().expect("a sync ends only after it began")
    }

    /// Takes all who wait: no sync will begin any more (INV-7).
    pub(crate) fn give_up(&mut self) -> Vec<SyncAnswer> {
        std::mem::take(&mut self.waiting)
    }

    /// Nobody waits and nothing runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_none()
    }
}

/// Gives everybody the same answer.
pub(crate) fn answer_all(answers: Vec<SyncAnswer>, result: &Result<(), DiskError>) {
    for answer in answers {
        // Nobody listens if the future was dropped.
        let _unheard = answer.send(result.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Heard = oneshot::Receiver<Result<(), DiskError>>;

    fn join(line: &mut SyncLine) -> Heard {
        let (answer, heard) = oneshot::channel();
        line.join(answer);
        heard
    }

    fn result(heard: &mut Heard) -> Option<Result<(), DiskError>> {
        heard.try_recv().expect("not dropped")
    }

    #[test]
    fn calls_that_wait_share_one_sync() {
        let mut line = SyncLine::default();
        let mut calls = [join(&mut line), join(&mut line), join(&mut line)];
        assert!(line.begin());
        answer_all(line.end(), &Ok(()));
        assert!(calls.iter_mut().all(|call| result(call) == Some(Ok(()))));
        assert!(!line.begin());
        assert!(line.is_idle());
    }

    #[test]
    fn a_call_during_a_sync_waits_for_the_next_one() {
        let mut line = SyncLine::default();
        let mut early = join(&mut line);
        assert!(line.begin());
        let mut late = join(&mut line);
        assert!(!line.begin(), "one at a time");
        answer_all(line.end(), &Ok(()));
        assert_eq!(result(&mut early), Some(Ok(())));
        assert_eq!(result(&mut late), None);
        assert!(!line.is_idle());
        assert!(line.begin());
        answer_all(line.end(), &Ok(()));
        assert_eq!(result(&mut late), Some(Ok(())));
    }

    #[test]
    fn giving_up_leaves_the_running_sync_alone() {
        let mut line = SyncLine::default();
        let mut early = join(&mut line);
        assert!(line.begin());
        let _late = join(&mut line);
        assert_eq!(line.give_up().len(), 1);
        answer_all(line.end(), &Ok(()));
        assert_eq!(result(&mut early), Some(Ok(())));
        assert!(line.is_idle());
    }

    #[test]
    fn the_line_has_a_bound() {
        let mut line = SyncLine::default();
        let _calls: Vec<Heard> = (0..WAITING_COUNT_MAX).map(|_| join(&mut line)).collect();
        let mut over = join(&mut line);
        assert_eq!(result(&mut over), Some(Err(DiskError::Busy)));
    }
}
