//! `[log]` and `[trace]`: what the daemon tells.

use super::*;
use crate::config::value::choice;

choice! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line, for programs.
        Json = "json",
    }
}

section! {
    /// The log, on standard error.
    Log at "log" {
        /// How lines look.
        format: LogFormat = LogFormat::KIND, Preset::Text("text"), Bound::NONE,
            wrong "a log collector that expects JSON cannot read text";
        /// What is logged: error, warn, info, debug or trace, also per module (`info,kvtierd=debug`).
        level: String = Kind::Text, Preset::Text("info"), Bound::NONE,
            wrong "debug and trace cost throughput; error hides what alarms refer to";
    }
}

section! {
    /// OpenTelemetry traces.
    Trace at "trace" {
        /// Where spans go: the URL of an OTLP collector that speaks gRPC, such as "http://127.0.0.1:4317".
        otlp_endpoint: Option<String> = Kind::TextOrOff, Preset::Text("off"), Bound::NONE,
            wrong "when the collector cannot be reached, spans are dropped and the log says so";
        /// Which share of calls is traced.
        sample: f64 = Kind::Percent, Preset::Text("1%"), Bound::NONE,
            wrong "a high share costs CPU and network on a busy node";
    }
}
