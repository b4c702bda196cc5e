//! Log lines on standard error, as text or JSON.

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

use super::trace::{self, TraceError, Tracing};
use crate::config::{Log, LogFormat, Trace};

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is not understood; `check-config` finds this earlier.
    #[error("log.level = \"{level}\" is not understood: {source}")]
    Level {
        /// As set.
        level: String,
        /// What is wrong.
        source: ParseError,
    },
    /// Another subscriber is set already.
    #[error("the log cannot be set up: {0}")]
    Taken(#[from] TryInitError),
    /// Traces are on and cannot be sent.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

/// Sets up logging, and tracing if it is on. Once a process; inside a tokio runtime if tracing is on. The result ends
/// tracing when dropped: keep it until everything else has ended.
pub fn start(log: &Log, trace: &Trace, node: &str) -> Result<Option<Tracing>, LogError> {
    let tracing = trace::start(trace, node)?;
    let spans = tracing.as_ref().map(|tracing| tracing_opentelemetry::layer().with_tracer(tracing.tracer()));
    let lines = lines(log, std::io::stderr)?;
    tracing_subscriber::registry().with(lines).with(spans).try_init()?;
    Ok(tracing)
}

/// The layer that writes lines. Colours only where a person reads them.
fn lines<S, W>(log: &Log, writer: W) -> Result<Box<dyn Layer<S> + Send + Sync>, LogError>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse(&log.level);
    let filter = filter.map_err(|source| LogError::Level { level: log.level.clone(), source })?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    Ok(match log.format {
        LogFormat::Text => layer.with_ansi(is_terminal).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str, tell: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = Log { format, level: level.to_owned() };
        let subscriber = tracing_subscriber::registry().with(lines(&log, move || writer.clone()).unwrap());
        tracing::subscriber::with_default(subscriber, tell);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_lines_are_objects_with_their_fields_at_the_top() {
        let text = logged(LogFormat::Json, "info", || tracing::info!(device = 3, "tier is down"));
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!((line["device"].as_u64(), line["message"].as_str()), (Some(3), Some("tier is down")));
    }

    #[test]
    fn the_level_holds_back_what_is_below_it() {
        let tell = || {
            tracing::info!("quiet");
            tracing::warn!("loud");
        };
        let text = logged(LogFormat::Text, "warn", tell);
        assert!(text.contains("loud") && !text.contains("quiet"), "{text}");
    }
}
