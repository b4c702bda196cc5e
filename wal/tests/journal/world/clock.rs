//! A clock that moves when it is told to.

use std::sync::Mutex;
use std::time::Duration;

use futures::channel::oneshot;
use kvtier_engine::port::{BoxFuture, Clock, Moment};

#[derive(Debug, Default)]
pub struct ManualClock {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    now: Duration,
    sleeping: Vec<(Duration, oneshot::Sender<()>)>,
}

impl ManualClock {
    pub fn advance(&self, pause: Duration) {
        let due: Vec<_> = {
            let mut inner = self.inner.lock().unwrap();
            inner.now += pause;
            let now = inner.now;
            let (due, later) = std::mem::take(&mut inner.sleeping).into_iter().partition(|(at, _)| *at <= now);
            inner.sleeping = later;
            due
        };
        for (_, sleeper) in due {
            let _ = sleeper.send(());
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        Moment(self.inner.lock().unwrap().now)
    }

    fn unix_ms(&self) -> u64 {
        1_000_000 + self.inner.lock().unwrap().now.as_millis() as u64
    }

    fn sleep(&self, pause: Duration) -> BoxFuture<()> {
        let mut inner = self.inner.lock().unwrap();
        let (sender, receiver) = oneshot::channel();
        let at = inner.now + pause;
        inner.sleeping.retain(|(_, sleeper)| !sleeper.is_canceled());
        inner.sleeping.push((at, sender));
        Box::pin(async move {
            let _ = receiver.await;
        })
    }
}
