//! What every [`Disk`](crate::Disk) and every [`Folder`](crate::Folder) must do, as suites that any adapter can run.
//!
//! A suite takes a factory of *stands*: an adapter on fresh media, a way to drive its futures, and a way to stop and
//! start it again. It panics with the claim that does not hold.

mod disk;
mod folder;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

pub use disk::{DISK_BYTES, DiskStand, check_disk};
pub use folder::{FolderStand, check_folder};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future whose progress comes from other threads, blocking this one.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::park();
    }
}
