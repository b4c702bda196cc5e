//! HTTP for people and probes: `/metrics`, `/healthz`, `/readyz`.
//!
//! Small on purpose: every answer is made at once from what is in memory, one request a connection, everything within
//! [`CONNECTION_TIMEOUT`]. Bounded like the gRPC listeners: at most `listen.waiting_max` connections, the oldest goes first.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Notify, watch};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::listen::{Accept, Limits, Listener, Socket, Sockets, accept, with_tls};
use crate::observe::Metrics;
use crate::observe::metrics::CONTENT_TYPE;

/// From accept to the end of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

const INDEX: &str = "kvtierd\n\n\
    /metrics   figures for Prometheus (OpenMetrics)\n\
    /healthz   200 while the process lives\n\
    /readyz    200 while it serves; 503 and the reason while it recovers or drains\n";

/// Whether the node serves, told by whoever starts and drains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It serves.
    Ready,
    /// It does not, for this reason.
    NotReady(String),
}

/// What the pages are made of.
#[derive(Debug, Clone)]
pub struct Pages {
    /// The registry.
    pub metrics: Arc<Metrics>,
    /// Whether the node serves, now.
    pub readiness: watch::Receiver<Readiness>,
}

/// Serves the HTTP listener of `sockets` until `stop`; ends at once if there is none.
pub fn serve(
    sockets: &mut Sockets,
    limits: Limits,
    tls: Option<Arc<ServerConfig>>,
    pages: Pages,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let listener = sockets.take_http();
    async move {
        if let Some(listener) = listener {
            serve_listener(listener, limits, tls, pages, stop).await;
        }
    }
}

async fn serve_listener(
    listener: Listener,
    limits: Limits,
    tls: Option<Arc<ServerConfig>>,
    pages: Pages,
    stop: CancellationToken,
) {
    let metrics = pages.metrics.clone();
    let settings = Accept { waiting_max: limits.waiting_max, freed: Arc::new(Notify::new()), metrics };
    let router = router(pages);
    let admit = move |socket| {
        let (router, tls) = (router.clone(), tls.clone());
        async move {
            // Whatever ends a connection early is the client's affair.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, answer(socket, tls, router, limits)).await;
        }
    };
    accept(listener, settings, stop, admit).await;
}

async fn answer(socket: Socket, tls: Option<Arc<ServerConfig>>, router: Router, limits: Limits) {
    let greeted = tokio::time::timeout(limits.handshake_timeout, with_tls(socket, tls)).await;
    let Ok(Ok((stream, _))) = greeted else {
        return;
    };
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = served.await {
        tracing::debug!(%error, "HTTP connection ended early");
    }
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .fallback(|| async { (StatusCode::NOT_FOUND, INDEX) })
        .with_state(pages)
}

async fn metrics(State(pages): State<Pages>) -> Result<Response, Infallible> {
    pages.metrics.set_ready(*pages.readiness.borrow() == Readiness::Ready);
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], pages.metrics.encode()).into_response())
}

async fn readiness(State(pages): State<Pages>) -> Response {
    match &*pages.readiness.borrow() {
        Readiness::Ready => "ready\n".into_response(),
        Readiness::NotReady(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests;
