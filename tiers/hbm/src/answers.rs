//! Outcomes of a batch whose operations finish in any order.

use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::oneshot;
use kvtier_engine::port::BoxFuture;

struct State<T> {
    outcomes: Vec<Option<T>>,
    missing: usize,
    sender: Option<oneshot::Sender<Vec<T>>>,
}

/// Collects one outcome per operation and answers when all are there.
pub(crate) struct Answers<T> {
    state: Mutex<State<T>>,
}

impl<T: Send + 'static> Answers<T> {
    /// For so many operations, and the future of their outcomes. `lost` stands for an outcome that will never come.
    pub(crate) fn expect(count: usize, lost: impl Fn() -> T + Send + 'static) -> (Arc<Self>, BoxFuture<Vec<T>>) {
        let (sender, receiver) = oneshot::channel();
        let outcomes = (0..count).map(|_| None).collect();
        let answers = Arc::new(Self { state: Mutex::new(State { outcomes, missing: count, sender: Some(sender) }) });
        answers.answer_if_complete();
        let future = async move { receiver.await.unwrap_or_else(|_| (0..count).map(|_| lost()).collect()) };
        (answers, Box::pin(future))
    }

    /// The outcome of the operation at this place of the batch; the first one counts.
    pub(crate) fn set(&self, place: usize, outcome: T) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.outcomes[place].is_none() {
            state.outcomes[place] = Some(outcome);
            state.missing -= 1;
        }
        drop(state);
        self.answer_if_complete();
    }

    fn answer_if_complete(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.missing == 0
            && let Some(sender) = state.sender.take()
        {
            // A caller who has gone away does not care.
            sender.send(state.outcomes.drain(..).flatten().collect()).ok();
        }
    }
}
