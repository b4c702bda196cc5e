//! The wire: `kvtier.v1` as generated from `proto/kvtier/v1/kvtier.proto`, and the numbers both ends must agree on.
//!
//! No logic lives here. The daemon and every client depend on it; the engine does not.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "generated code; the .proto file is the documentation")]

/// Generated messages, client and server of `kvtier.v1`.
#[allow(clippy::all, clippy::pedantic, unreachable_pub, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("kvtier.v1");
}

/// Encoded file descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kvtier_descriptor.bin"));

pub mod local;

/// Transport numbers, tuned together on both ends (docs/decisions/0004-grpc-tuning.md).
pub mod tuning {
    /// HTTP/2 flow-control window of one stream, in bytes.
    pub const STREAM_WINDOW_BYTES: u32 = 16 << 20;
    /// HTTP/2 flow-control window of one connection, in bytes.
    pub const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
    /// Largest HTTP/2 frame, in bytes.
    pub const FRAME_BYTES_MAX: u32 = (1 << 24) - 1;
    /// Largest gRPC message, in bytes: one frame of block data and its envelope.
    pub const MESSAGE_BYTES_MAX: usize = 5 << 20;
    /// Largest `data` field a sender puts in one message, in bytes.
    pub const DATA_BYTES_MAX: usize = 4 << 20;
    /// Depth of the client's request buffer.
    pub const CLIENT_BUFFER_COUNT: usize = 1024;
}
