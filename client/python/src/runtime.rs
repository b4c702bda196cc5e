//! The tokio runtime under one gRPC client, and waiting for it without the GIL.

use std::pin::pin;
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime as Tokio};
use tokio::time::timeout;

use crate::error::invalid;
use crate::process::Owned;

/// How long Ctrl-C may have to wait.
pub(crate) const SIGNALS_EVERY: Duration = Duration::from_millis(100);
/// They only move bytes between sockets and memory.
const THREADS: usize = 2;

/// See the module.
#[derive(Debug)]
pub(crate) struct Runtime(Owned<Shutdown>);

/// Dropping it ends the runtime without waiting for it.
#[derive(Debug)]
struct Shutdown(Option<Tokio>);

impl Drop for Shutdown {
    fn drop(&mut self) {
        if let Some(tokio) = self.0.take() {
            tokio.shutdown_background();
        }
    }
}

impl Runtime {
    /// Starts its threads, without the GIL: that takes milliseconds on a busy machine.
    pub(crate) fn new(py: Python<'_>) -> PyResult<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(THREADS).thread_name("kvtier-grpc").enable_all();
        let built = py.detach(|| builder.build());
        let tokio =
            built.map_err(|error| invalid("threads", error.to_string(), "let this process have more threads"))?;
        Ok(Self(Owned::new(Shutdown(Some(tokio)))))
    }

    /// For work that nobody waits for.
    pub(crate) fn handle(&self) -> PyResult<&Handle> {
        Ok(self.0.get()?.0.as_ref().expect("there until it is dropped").handle())
    }

    /// Waits for a future without the GIL. Signals are looked at meanwhile; an exception in their handlers drops the
    /// future.
    pub(crate) fn wait<F>(&self, py: Python<'_>, future: F) -> PyResult<F::Output>
    where
        F: Future + Send,
        F::Output: Send,
    {
        let handle = self.handle()?;
        py.detach(|| {
            handle.block_on(async {
                let mut future = pin!(future);
                loop {
                    match timeout(SIGNALS_EVERY, future.as_mut()).await {
                        Ok(output) => return Ok(output),
                        Err(_) => Python::attach(|py| py.check_signals())?,
                    }
                }
            })
        })
    }
}
