//! Wakes the one task that waits for it.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures::task::AtomicWaker;

/// Raised by anyone, awaited by one. A raise before the wait is not lost; several raises are one.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: AtomicBool,
    waker: AtomicWaker,
}

impl Signal {
    /// Wakes the waiter, now or when it comes.
    pub(crate) fn raise(&self) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Resolves once raised, and lowers it.
    pub(crate) async fn wait(&self) {
        poll_fn(|context| {
            // Registered before the test, so that a raise between the two is seen by one of them.
            self.waker.register(context.waker());
            if self.raised.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
