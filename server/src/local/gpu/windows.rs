//! The moves of one load, in the order of its chain.

use std::sync::Arc;

use futures::FutureExt;

use super::{KvProgress, MoveFailure};

/// Windows of one load under way at a time. Enough for a GPU to go on while more are staged; each keeps its host slots.
const WINDOWS_MAX: usize = 16;

/// What a load has begun. What has arrived is forgotten; what failed is kept.
#[derive(Default)]
pub(super) struct Windows {
    begun: Vec<Window>,
}

struct Window {
    /// Place of its first block in the chain.
    first: usize,
    progress: Arc<dyn KvProgress>,
}

impl Windows {
    pub(super) fn push(&mut self, first: usize, progress: Arc<dyn KvProgress>) {
        self.begun.push(Window { first, progress });
    }

    /// Waits until fewer than [`WINDOWS_MAX`] are under way.
    pub(super) async fn wait_for_room(&mut self) {
        if self.begun.len() >= WINDOWS_MAX {
            let arrived = |one: &Arc<dyn KvProgress>| one.is_over() && one.wait_end().now_or_never() == Some(Ok(()));
            self.begun.retain(|window| !arrived(&window.progress));
        }
        while self.begun.iter().filter(|window| !window.progress.is_over()).count() >= WINDOWS_MAX {
            self.wait_for_one().await;
        }
    }

    /// Waits for the end of the oldest one under way; false: there is none.
    pub(super) async fn wait_for_one(&self) -> bool {
        let Some(oldest) = self.begun.iter().find(|window| !window.progress.is_over()) else { return false };
        oldest.progress.wait_end().await.ok();
        true
    }

    /// Waits for a range of layers of every window, or for the end of all, whatever the first one says.
    pub(super) async fn wait(&self, range: Option<usize>) -> Result<(), MoveFailure> {
        let mut ended = Ok(());
        for Window { first, progress } in &self.begun {
            let in_chain = |failure| match failure {
                MoveFailure::Corrupt(at) => MoveFailure::Corrupt(first + at),
                other => other,
            };
            match range {
                Some(range) => progress.wait(range).await.map_err(in_chain)?,
                None => ended = ended.and(progress.wait_end().await.map_err(in_chain)),
            }
        }
        ended
    }

    pub(super) fn is_over(&self) -> bool {
        self.begun.iter().all(|window| window.progress.is_over())
    }
}
