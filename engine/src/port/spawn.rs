//! Starting work that outlives its caller.

use super::BoxFuture;

/// Runs a task to its end, whoever goes away meanwhile. Production: a tokio runtime. Simulator: the seeded executor.
pub trait Spawn: Send + Sync + 'static {
    /// Starts `task`; `name` is for logs and the simulator's history.
    fn spawn(&self, name: &'static str, task: BoxFuture<()>);
}
