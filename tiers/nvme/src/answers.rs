//! The outcomes of a batch, gathered from several devices into the batch's order.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::channel::oneshot;

/// Outcomes by their place in the batch.
pub(crate) type Placed<O> = Vec<(usize, O)>;

/// Outcomes known at once, and those still to come.
pub(crate) struct Answers<O> {
    known: Vec<Option<O>>,
    coming: Vec<oneshot::Receiver<Placed<O>>>,
}

impl<O: Clone> Answers<O> {
    pub(crate) fn of(count: usize) -> Self {
        Self { known: vec![None; count], coming: Vec::new() }
    }

    /// The outcome at this place is known.
    pub(crate) fn set(&mut self, place: usize, outcome: O) {
        self.known[place] = Some(outcome);
    }

    /// More outcomes will be sent through the returned end.
    pub(crate) fn expect(&mut self) -> oneshot::Sender<Placed<O>> {
        let (sender, receiver) = oneshot::channel();
        self.coming.push(receiver);
        sender
    }

    /// Waits for all of them. `lost` stands for those whose task was thrown away by a runtime that shuts down.
    pub(crate) async fn collect(mut self, lost: O) -> Vec<O> {
        for receiver in std::mem::take(&mut self.coming) {
            for (place, outcome) in receiver.await.unwrap_or_default() {
                self.set(place, outcome);
            }
        }
        self.known.into_iter().map(|outcome| outcome.unwrap_or_else(|| lost.clone())).collect()
    }
}

/// Lets other tasks run between two pieces of computing.
pub(crate) fn give_way() -> impl Future<Output = ()> {
    GiveWay { given: false }
}

struct GiveWay {
    given: bool,
}

impl Future for GiveWay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.given {
            return Poll::Ready(());
        }
        self.given = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
