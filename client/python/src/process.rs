//! What belongs to one process and must not be used, or cleaned up, by its forks.

use pyo3::PyResult;

use crate::error::plain;

/// A value of the process that made it. A forked child can neither use it nor drop it: dropping would speak over the
/// parent's connection, or wait for threads that the child does not have.
#[derive(Debug)]
pub(crate) struct Owned<T> {
    value: Option<T>,
    process: u32,
}

impl<T> Owned<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Some(value), process: std::process::id() }
    }

    /// The value, or `kvtier.Forked`.
    pub(crate) fn get(&self) -> PyResult<&T> {
        check(self.process)?;
        Ok(self.peek())
    }

    /// The value, or `kvtier.Forked`.
    pub(crate) fn get_mut(&mut self) -> PyResult<&mut T> {
        check(self.process)?;
        Ok(self.value.as_mut().expect("taken only by value"))
    }

    /// The value, for whoever has checked before or only compares.
    pub(crate) fn peek(&self) -> &T {
        self.value.as_ref().expect("taken only by value")
    }

    /// Gives the value away.
    pub(crate) fn into_value(mut self) -> PyResult<T> {
        check(self.process)?;
        Ok(self.value.take().expect("taken only by value"))
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            std::mem::forget(self.value.take());
        }
    }
}

/// Raises `kvtier.Forked` in any process but the one that is named.
pub(crate) fn check(process: u32) -> PyResult<()> {
    let here = std::process::id();
    if process == here {
        return Ok(());
    }
    let message = format!("made by process {process}, used by its fork {here}: make clients after forking");
    Err(plain("Forked", &message))
}
