//! A small `KvTier` service in memory: the double beside the real daemon, with faults a test can switch on.
//!
//! It runs on a runtime of its own, so that stopping it breaks every connection at once, as `kill -9` would.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "every test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test double")]

mod service;
mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvtier_proto::tuning;
use kvtier_proto::v1::kv_tier_server::KvTierServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::{Server, ServerTlsConfig};

pub use store::{Fault, Store};

/// A running fake. Dropping it stops it.
pub struct Fake {
    pub endpoint: String,
    pub store: Arc<Store>,
    runtime: Option<Runtime>,
}

impl Fake {
    /// Serves on a free port of the loopback interface.
    pub fn tcp() -> Self {
        Self::tcp_with(Arc::new(Store::default()), None)
    }

    pub fn tcp_with(store: Arc<Store>, tls: Option<ServerTlsConfig>) -> Self {
        let runtime = runtime();
        let listener = runtime.block_on_elsewhere(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let mut server = tuned();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let router = server.add_service(service(&store));
        runtime.spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { endpoint, store, runtime: Some(runtime) }
    }

    /// Serves on a unix socket, which is made anew.
    pub fn unix(path: &Path) -> Self {
        Self::unix_with(path, Arc::new(Store::default()))
    }

    pub fn unix_with(path: &Path, store: Arc<Store>) -> Self {
        let runtime = runtime();
        let _ = std::fs::remove_file(path);
        let listener = runtime.block_on_elsewhere(async { UnixListener::bind(path) }).unwrap();
        let router = tuned().add_service(service(&store));
        runtime.spawn(router.serve_with_incoming(UnixListenerStream::new(listener)));
        Self { endpoint: format!("unix://{}", path.display()), store, runtime: Some(runtime) }
    }

    /// Stops it at once and keeps what it stored, as a restarted daemon would.
    pub fn kill(mut self) -> Arc<Store> {
        stop(&mut self.runtime);
        Arc::clone(&self.store)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        stop(&mut self.runtime);
    }
}

/// Waits until every task is gone, and with it every socket. A runtime may not be waited for on another's thread.
fn stop(runtime: &mut Option<Runtime>) {
    let Some(runtime) = runtime.take() else { return };
    let stopping = move || runtime.shutdown_timeout(Duration::from_secs(5));
    std::thread::spawn(stopping).join().unwrap();
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn tuned() -> Server {
    Server::builder()
        .initial_stream_window_size(tuning::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(tuning::CONNECTION_WINDOW_BYTES)
        .max_frame_size(tuning::FRAME_BYTES_MAX)
        .tcp_nodelay(true)
}

fn service(store: &Arc<Store>) -> KvTierServer<service::Service> {
    KvTierServer::new(service::Service(Arc::clone(store)))
        .max_decoding_message_size(tuning::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(tuning::MESSAGE_BYTES_MAX)
}

trait BlockOnElsewhere {
    fn block_on_elsewhere<T: Send>(&self, future: impl Future<Output = T> + Send) -> T;
}

impl BlockOnElsewhere for Runtime {
    /// `block_on` from inside another runtime's test.
    fn block_on_elsewhere<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        std::thread::scope(|scope| scope.spawn(|| self.block_on(future)).join()).unwrap()
    }
}
