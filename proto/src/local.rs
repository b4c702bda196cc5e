//! Frames of the local path's raw socket: a header of 8 bytes, then one message of `local.proto`.
//!
//! ```text
//!   0        4        5        6        8
//!   ├─ length ┼ method ┼ kind ──┼─ tag ──┼─ message, `length` bytes …
//!   u32 LE             u8       u16 LE
//! ```
//!
//! The tag is the client's and comes back with the answer; 0: no answer is wanted. Answers come in any order.

/// Bytes of a header.
pub const HEADER_BYTES: usize = 8;
/// Largest message: a chain of 65,536 keys of 64 bytes and what stands around it.
pub const MESSAGE_BYTES_MAX: usize = 5 << 20;
/// Largest message of a connection that has not attached yet.
pub const ATTACH_BYTES_MAX: usize = 4096;
/// gRPC header that names the attachment, in hexadecimal digits.
pub const ATTACHMENT_HEADER: &str = "x-kvtier-attachment";

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    Attach = 1,
    Reserve = 2,
    Commit = 3,
    Abort = 4,
    Acquire = 5,
    Poll = 6,
    ReleaseLeases = 7,
    Fence = 8,
    /// Nothing of this attachment will be written any more, and it is over: what a client says before it closes.
    Detach = 9,
    Report = 10,
    Why = 11,
    /// Something was put into a ring whose reader sleeps. From either end; no message, no answer.
    Bell = 12,
    ImportGpuMemory = 13,
    ReleaseGpuMemory = 14,
    Load = 15,
    WaitLoad = 16,
    Save = 17,
}

impl Method {
    /// The method with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        use Method::*;
        [
            Attach,
            Reserve,
            Commit,
            Abort,
            Acquire,
            Poll,
            ReleaseLeases,
            Fence,
            Detach,
            Report,
            Why,
            Bell,
            ImportGpuMemory,
            ReleaseGpuMemory,
            Load,
            WaitLoad,
            Save,
        ]
        .into_iter()
        .find(|method| *method as u8 == number)
    }

    /// The name in metrics and errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::Reserve => "reserve",
            Self::Commit => "commit",
            Self::Abort => "abort",
            Self::Acquire => "acquire",
            Self::Poll => "poll",
            Self::ReleaseLeases => "release_leases",
            Self::Fence => "fence",
            Self::Detach => "detach",
            Self::Report => "report",
            Self::Why => "why",
            Self::Bell => "bell",
            Self::ImportGpuMemory => "import_gpu_memory",
            Self::ReleaseGpuMemory => "release_gpu_memory",
            Self::Load => "load",
            Self::WaitLoad => "wait_load",
            Self::Save => "save",
        }
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Request = 0,
    Answer = 1,
    /// The message is a `LocalFailure`.
    Failure = 2,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub length: u32,
    pub method: Method,
    pub kind: Kind,
    pub tag: u16,
}

impl Header {
    /// Reads a header; `None`: these bytes are none.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let [a, b, c, d, method, kind, e, f] = *bytes;
        let kind = match kind {
            0 => Kind::Request,
            1 => Kind::Answer,
            2 => Kind::Failure,
            _ => return None,
        };
        let length = u32::from_le_bytes([a, b, c, d]);
        let method = Method::from_number(method)?;
        (length as usize <= MESSAGE_BYTES_MAX).then_some(Self { length, method, kind, tag: u16::from_le_bytes([e, f]) })
    }

    /// The inverse of [`Header::decode`].
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.length.to_le_bytes();
        let [e, f] = self.tag.to_le_bytes();
        [a, b, c, d, self.method as u8, self.kind as u8, e, f]
    }
}

/// The frame that wakes the reader of a ring.
pub fn bell(kind: Kind) -> [u8; HEADER_BYTES] {
    Header { length: 0, method: Method::Bell, kind, tag: 0 }.encode()
}

/// A whole frame.
pub fn frame(method: Method, kind: Kind, tag: u16, message: &impl prost::Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
    let length = u32::try_from(length).expect("no message comes near 4 GiB");
    bytes.extend_from_slice(&Header { length, method, kind, tag }.encode());
    message.encode(&mut bytes).expect("a vector grows");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was_sent() {
        let header = Header { length: 70_000, method: Method::Acquire, kind: Kind::Answer, tag: 0xabcd };
        assert_eq!(header.encode(), [0x70, 0x11, 0x01, 0x00, 5, 1, 0xcd, 0xab]);
        assert_eq!(Header::decode(&header.encode()), Some(header));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let too_long = (MESSAGE_BYTES_MAX as u32 + 1).to_le_bytes();
        for bytes in [*b"GET / HT", [0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 3, 0, 0], [0, 0, 0, 0, 18, 0, 0, 0]] {
            assert_eq!(Header::decode(&bytes), None, "{bytes:?}");
        }
        let [a, b, c, d] = too_long;
        assert_eq!(Header::decode(&[a, b, c, d, 1, 0, 0, 0]), None, "longer than any message");
    }
}
