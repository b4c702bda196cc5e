//! The Prometheus registry. Names, labels and meaning: `docs/operating/metrics.md`, which a test compares with this.

mod encode;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::SnapshotSource;
use encode::NodeCollector;

/// What [`Metrics::encode`] returns, as a content type.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Latency buckets: 10 µs, doubling, to about 84 s.
const BUCKET_FIRST_SECONDS: f64 = 10e-6;
const BUCKET_COUNT: u16 = 24;

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl $name {
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$variant, $word)),+];
        }
    };
}

words! {
    /// What is timed.
    Operation {
        /// A block from its first byte to its acknowledgement.
        Put = "put",
        /// One lookup of a chain.
        Lookup = "lookup",
        /// One get call until its last block.
        Get = "get",
    }
}

words! {
    /// What became of an accepted gRPC connection.
    Entry {
        /// It got a seat.
        Served = "served",
        /// It said nothing within `listen.handshake_timeout`.
        Silent = "silent",
        /// It was the longest silent one when others came.
        SentAway = "sent_away",
        /// All of `listen.connections_max` were taken.
        TurnedAway = "turned_away",
        /// It did not speak HTTP/2.
        Garbage = "garbage",
        /// Its TLS handshake failed.
        TlsFailed = "tls_failed",
        /// It went away before it had spoken.
        Gone = "gone",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EntryLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: &'static str,
}

/// All metrics of the daemon. Observing costs one uncontended lock or one atomic.
pub struct Metrics {
    registry: Registry,
    operations: Vec<Histogram>,
    entries: Vec<Counter>,
    calls: Family<CallLabels, Counter>,
    connections: Gauge,
    ready: Gauge,
    source: Arc<OnceLock<Arc<dyn SnapshotSource>>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty registry; the node's figures appear once [`Metrics::watch`] was called.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("kvtier");
        let source = Arc::new(OnceLock::new());
        registry.register_collector(Box::new(NodeCollector(source.clone())));

        let seconds = Family::<OperationLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(BUCKET_FIRST_SECONDS, 2.0, BUCKET_COUNT))
        });
        registry.register("operation_seconds", "Time an operation took, in seconds", seconds.clone());
        let operations =
            Operation::ALL.iter().map(|(_, operation)| seconds.get_or_create_owned(&OperationLabel { operation }));
        let operations = operations.collect();

        let outcomes = Family::<EntryLabel, Counter>::default();
        registry.register(
            "connections_accepted",
            "Accepted gRPC connections, by what became of them",
            outcomes.clone(),
        );
        let entries =
            Entry::ALL.iter().map(|(_, outcome)| outcomes.get_or_create_owned(&EntryLabel { outcome })).collect();

        let calls = Family::<CallLabels, Counter>::default();
        registry.register("rpcs", "Finished gRPC calls, by method and status code", calls.clone());
        let connections = Gauge::default();
        registry.register("connections", "gRPC connections being served", connections.clone());
        let ready = Gauge::default();
        registry.register("ready", "1 while /readyz answers 200", ready.clone());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))].to_vec());
        registry.register("build", "The running build", build);
        Self { registry, operations, entries, calls, connections, ready, source }
    }

    /// Where the node's figures come from. Only the first call counts.
    pub fn watch(&self, source: Arc<dyn SnapshotSource>) {
        if self.source.set(source).is_err() {
            tracing::warn!("metrics already have a source; the second one is ignored");
        }
    }

    /// An operation has ended after `took`.
    pub fn observe(&self, operation: Operation, took: Duration) {
        self.operations[operation as usize].observe(took.as_secs_f64());
    }

    /// A connection was accepted, and this became of it.
    pub fn entry(&self, entry: Entry) {
        self.entries[entry as usize].inc();
    }

    /// A gRPC call has ended. `method` is the bare method name, `code` a status code's name such as `ok`.
    pub fn call(&self, method: &'static str, code: &'static str) {
        self.calls.get_or_create(&CallLabels { method, code }).inc();
    }

    /// A connection has got a seat.
    pub(crate) fn connection_opened(&self) {
        self.connections.inc();
    }

    /// A connection has given its seat back.
    pub(crate) fn connection_closed(&self) {
        self.connections.dec();
    }

    /// Whether the node is ready.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// Everything, as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }
}
