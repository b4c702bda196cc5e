//! Frames and multipart messages.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;
/// Most frames of one message: an identity, a delimiter, topic, number and payload, and some to spare.
const FRAMES_MAX: usize = 8;
/// Memory that is taken before any byte of a frame's body has come.
const FIRST_BYTES: usize = 64 << 10;

/// What a peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A message, frame by frame.
    Message(Vec<Bytes>),
    /// A command's body: a name with its length before it, then what the name says.
    Command(Bytes),
}

/// Reads a whole message of at most `bytes_max`, or a command. Not to be dropped half-way: what was read would be lost.
pub async fn read(reader: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> io::Result<Incoming> {
    let (mut frames, mut left) = (Vec::new(), bytes_max);
    loop {
        let (flags, body) = read_frame(reader, left).await?;
        if flags & COMMAND != 0 {
            // Commands come between messages, never inside.
            return match frames.is_empty() && flags & MORE == 0 {
                true => Ok(Incoming::Command(body)),
                false => Err(invalid("a command inside a message")),
            };
        }
        left -= body.len();
        frames.push(body);
        if flags & MORE == 0 {
            return Ok(Incoming::Message(frames));
        }
        if frames.len() == FRAMES_MAX {
            return Err(invalid(format!("a message of more than {FRAMES_MAX} frames")));
        }
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> io::Result<(u8, Bytes)> {
    let flags = reader.read_u8().await?;
    if flags & !(MORE | LONG | COMMAND) != 0 {
        return Err(invalid(format!("a frame with flags {flags:#04x}")));
    }
    let length = match flags & LONG {
        0 => u64::from(reader.read_u8().await?),
        _ => reader.read_u64().await?,
    };
    if length > bytes_max as u64 {
        return Err(invalid(format!("a frame of {length} bytes where {bytes_max} are allowed")));
    }
    let mut body = Vec::with_capacity((length as usize).min(FIRST_BYTES));
    let count = reader.take(length).read_to_end(&mut body).await?;
    match count as u64 == length {
        true => Ok((flags, body.into())),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sends a message.
pub async fn write(writer: &mut (impl AsyncWrite + Unpin), frames: &[&[u8]]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(frames.iter().map(|frame| frame.len() + 9).sum());
    for (index, frame) in frames.iter().enumerate() {
        let more = if index + 1 < frames.len() { MORE } else { 0 };
        encode(&mut bytes, more, frame);
    }
    writer.write_all(&bytes).await?;
    writer.flush().await
}

/// Sends a command.
pub(super) async fn write_command(writer: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(body.len() + 9);
    encode(&mut bytes, COMMAND, body);
    writer.write_all(&bytes).await?;
    writer.flush().await
}

fn encode(bytes: &mut Vec<u8>, flags: u8, body: &[u8]) {
    match u8::try_from(body.len()) {
        Ok(length) => bytes.extend([flags, length]),
        Err(_) => {
            bytes.push(flags | LONG);
            bytes.extend((body.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(body);
}

pub(super) fn invalid(told: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, told.into())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    async fn back_and_forth(frames: &[&[u8]], bytes_max: usize) -> io::Result<Incoming> {
        let mut bytes = Vec::new();
        write(&mut bytes, frames).await.expect("a vector grows");
        read(&mut &bytes[..], bytes_max).await
    }

    #[tokio::test]
    async fn a_message_comes_back_as_it_was_sent() {
        let long = vec![7; 70_000];
        let frames: [&[u8]; 3] = [b"", b"short", &long];
        let expected = Incoming::Message(frames.iter().map(|frame| Bytes::copy_from_slice(frame)).collect());
        assert_eq!(back_and_forth(&frames, 100_000).await.expect("sound"), expected);
    }

    #[tokio::test]
    async fn what_is_too_much_is_refused_before_its_memory_is_taken() {
        assert!(back_and_forth(&[&[0; 300][..]], 299).await.is_err());
        assert!(back_and_forth(&[&b"a"[..]; FRAMES_MAX + 1], 1000).await.is_err());
        let huge = [LONG, 0x7f, 255, 255, 255, 255, 255, 255, 255];
        let refused = read(&mut &huge[..], 1000).await.expect_err("8 EiB");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        let cut = [LONG, 0, 0, 0, 0, 0x7f, 0, 0, 0, 1, 2, 3];
        let refused = read(&mut &cut[..], usize::MAX).await.expect_err("2 GiB were announced, 3 bytes came");
        assert_eq!(refused.kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let mut rest = &bytes[..];
            let reading = async { while read(&mut rest, 1000).await.is_ok() {} };
            // Bytes in memory are there: nothing is waited for.
            reading.now_or_never().expect("it has ended");
        }
    }
}
