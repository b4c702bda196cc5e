//! OpenTelemetry traces over OTLP/gRPC. Off unless `trace.otlp_endpoint` is set.
//!
//! Spans are batched on a thread of the SDK with a bounded queue; when the collector cannot be reached they are dropped,
//! never waited for.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};

use crate::config::Trace;

const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error(
    "trace.otlp_endpoint = \"{endpoint}\" cannot be used: {source}; write a URL such as \"http://127.0.0.1:4317\" or \"off\""
)]
pub struct TraceError {
    endpoint: String,
    source: ExporterBuildError,
}

/// Traces being sent. Dropping it sends what is queued, for at most a few seconds.
#[derive(Debug)]
pub struct Tracing(SdkTracerProvider);

impl Tracing {
    pub(crate) fn tracer(&self) -> SdkTracer {
        self.0.tracer("kvtierd")
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        // A collector that is away has been logged by the SDK; the daemon ends all the same.
        let _ = self.0.shutdown_with_timeout(EXPORT_TIMEOUT);
    }
}

/// Starts tracing if it is on. Needs a tokio runtime then.
pub fn start(trace: &Trace, node: &str) -> Result<Option<Tracing>, TraceError> {
    let Some(endpoint) = &trace.otlp_endpoint else {
        return Ok(None);
    };
    let exporter =
        SpanExporter::builder().with_tonic().with_endpoint(endpoint.clone()).with_timeout(EXPORT_TIMEOUT).build();
    let exporter = exporter.map_err(|source| TraceError { endpoint: endpoint.clone(), source })?;
    let resource = Resource::builder()
        .with_service_name("kvtierd")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
        .build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(trace.sample)));
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(resource)
        .build();
    Ok(Some(Tracing(provider)))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn setting(endpoint: Option<String>) -> Trace {
        Trace { otlp_endpoint: endpoint, sample: 1.0 }
    }

    #[test]
    fn off_means_off_also_without_a_runtime() {
        assert!(start(&setting(None), "node").unwrap().is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_span_is_sent_to_the_collector_over_grpc() {
        let collector = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", collector.local_addr().unwrap());
        let tracing = start(&setting(Some(endpoint)), "node").unwrap().unwrap();
        let layer = tracing_opentelemetry::layer().with_tracer(tracing.tracer());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            drop(tracing::info_span!("put").entered());
        });
        let ending = tokio::task::spawn_blocking(move || drop(tracing));
        let (mut stream, _) = tokio::time::timeout(EXPORT_TIMEOUT, collector.accept()).await.unwrap().unwrap();
        let mut preface = [0; 14];
        stream.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0");
        drop(stream);
        ending.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_endpoint_that_is_no_url_is_told() {
        let told = start(&setting(Some("not a url".to_owned())), "node").unwrap_err().to_string();
        assert!(told.contains("trace.otlp_endpoint = \"not a url\""), "{told}");
    }
}
