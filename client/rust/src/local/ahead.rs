//! Requests that the daemon works on while the caller goes on.
//!
//! Dropping one waits for its answer, at most as long as the call would have: what it reserved or leased is given back.

use std::sync::Arc;

use super::acquired::Acquired;
use super::client::{ACQUIRE, Asked, COMMIT, Shared, decoded};
use super::slots::{self, Commitment, Committed};
use crate::ClientError;

/// A commit the daemon works on. Dropping it waits for its end too, and forgets how it ended.
#[derive(Debug)]
pub struct Committing {
    shared: Arc<Shared>,
    /// Nobody writes them any more; given up if the connection breaks.
    written: Vec<Commitment>,
    /// None: nothing was to be asked, or the answer was taken.
    asked: Option<Asked>,
}

impl Committing {
    pub(super) fn new(shared: &Arc<Shared>, written: Vec<Commitment>, asked: Option<Asked>) -> Self {
        Self { shared: Arc::clone(shared), written, asked }
    }

    /// How it ended, one answer per reservation.
    pub fn wait(mut self) -> Result<Vec<Committed>, ClientError> {
        self.end()
    }

    fn end(&mut self) -> Result<Vec<Committed>, ClientError> {
        let Some(asked) = self.asked.take() else { return Ok(Vec::new()) };
        let message = self.shared.finish(&asked)?;
        let count = self.written.len();
        self.written.drain(..).for_each(Commitment::spent);
        slots::read_committed(decoded(COMMIT, &message)?, count)
    }
}

impl Drop for Committing {
    fn drop(&mut self) {
        self.end().ok();
    }
}

/// A chain the daemon looks up and brings to host memory. Dropping it waits for the answer and ends the lease.
#[derive(Debug)]
pub struct Acquiring {
    shared: Arc<Shared>,
    /// Blocks that were asked for.
    count: usize,
    /// None: the answer was taken.
    asked: Option<Asked>,
}

impl Acquiring {
    pub(super) fn new(shared: &Arc<Shared>, count: usize, asked: Asked) -> Self {
        Self { shared: Arc::clone(shared), count, asked: Some(asked) }
    }

    /// The chain's longest resident prefix.
    pub fn wait(mut self) -> Result<Acquired, ClientError> {
        let asked = self.asked.take().expect("the answer is taken here or when this is dropped");
        self.end(&asked)
    }

    fn end(&self, asked: &Asked) -> Result<Acquired, ClientError> {
        let message = self.shared.finish(asked)?;
        Acquired::read(decoded(ACQUIRE, &message)?, self.count, asked.attachment(), &self.shared)
    }
}

impl Drop for Acquiring {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.end(&asked).ok();
        }
    }
}
