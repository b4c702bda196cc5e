//! The beginning of a connection: greetings and READY, in bounded time.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{Incoming, invalid, read, write_command};

/// How long a peer may take to say who it is.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const GREETING_BYTES: usize = 64;
/// Largest READY command.
const READY_BYTES_MAX: usize = 4096;

/// What a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends to subscribers.
    Pub,
    /// Subscribes.
    Sub,
    /// Asks.
    Dealer,
    /// Answers.
    Router,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Pub => "PUB",
            Self::Sub => "SUB",
            Self::Dealer => "DEALER",
            Self::Router => "ROUTER",
        }
    }

    fn talks_to(self, peer: &[u8]) -> bool {
        let peers: &[&[u8]] = match self {
            Self::Pub => &[b"SUB", b"XSUB"],
            Self::Sub => &[b"PUB", b"XPUB"],
            Self::Dealer => &[b"ROUTER", b"REP", b"DEALER"],
            Self::Router => &[b"DEALER", b"REQ", b"ROUTER"],
        };
        peers.contains(&peer)
    }
}

/// Greets a peer and hears what it is; refuses one that this role cannot talk to. At most [`HANDSHAKE_MAX`].
pub async fn shake_hands(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), role: Role) -> io::Result<()> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the peer does not say who it is");
    tokio::time::timeout(HANDSHAKE_MAX, greet(stream, role)).await.map_err(late)?
}

async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), role: Role) -> io::Result<()> {
    stream.write_all(&greeting()).await?;
    stream.flush().await?;
    let mut peer = [0; GREETING_BYTES];
    stream.read_exact(&mut peer).await?;
    if peer[0] != 0xff || peer[9] & 1 != 1 {
        return Err(invalid("it does not speak ZeroMQ"));
    }
    if peer[10] < 3 {
        return Err(invalid(format!("it speaks version {} of ZeroMQ's protocol, 3 is needed", peer[10])));
    }
    if peer[12..32] != mechanism() {
        return Err(invalid("it wants to authenticate, which is not supported"));
    }
    write_command(stream, &ready(role)).await?;
    let Incoming::Command(body) = read(stream, READY_BYTES_MAX).await? else {
        return Err(invalid("a message before READY"));
    };
    let peer = socket_type(&body).ok_or_else(|| invalid("a READY that does not say what it is"))?;
    match role.talks_to(peer) {
        true => Ok(()),
        false => Err(invalid(format!(
            "it is a {} socket, which a {} cannot talk to",
            String::from_utf8_lossy(peer),
            role.name()
        ))),
    }
}

fn mechanism() -> [u8; 20] {
    let mut name = [0; 20];
    name[..4].copy_from_slice(b"NULL");
    name
}

/// Signature, version 3.0, mechanism, not a server, filler.
fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    (bytes[0], bytes[8], bytes[9], bytes[10]) = (0xff, 1, 0x7f, 3);
    bytes[12..32].copy_from_slice(&mechanism());
    bytes
}

fn ready(role: Role) -> Vec<u8> {
    let (key, value) = (b"Socket-Type", role.name().as_bytes());
    let mut body = b"\x05READY".to_vec();
    body.push(key.len() as u8);
    body.extend_from_slice(key);
    body.extend((value.len() as u32).to_be_bytes());
    body.extend_from_slice(value);
    body
}

/// The Socket-Type among a READY's properties.
fn socket_type(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body.strip_prefix(b"\x05READY")?;
    loop {
        let (length, after) = rest.split_first()?;
        let (key, after) = after.split_at_checked(usize::from(*length))?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let (value, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        if key.eq_ignore_ascii_case(b"Socket-Type") {
            return Some(value);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn meet(one: Role, other: Role) -> (io::Result<()>, io::Result<()>) {
        let (mut a, mut b) = tokio::io::duplex(1024);
        tokio::join!(shake_hands(&mut a, one), shake_hands(&mut b, other))
    }

    #[tokio::test]
    async fn roles_that_fit_agree_and_others_do_not() {
        for (one, other) in [(Role::Pub, Role::Sub), (Role::Dealer, Role::Router)] {
            assert!(matches!(meet(one, other).await, (Ok(()), Ok(()))));
        }
        let (refused, _) = meet(Role::Sub, Role::Router).await;
        assert!(refused.expect_err("a router publishes nothing").to_string().contains("ROUTER"));
    }

    #[tokio::test]
    async fn a_peer_that_goes_or_says_something_else_is_given_up() {
        let (mut ours, theirs) = tokio::io::duplex(1024);
        drop(theirs);
        assert!(shake_hands(&mut ours, Role::Sub).await.is_err());
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(&[b'G'; 64]).await.expect("room");
        assert!(shake_hands(&mut ours, Role::Sub).await.is_err());
    }

    #[test]
    fn a_ready_is_read_whatever_its_bytes_are() {
        assert_eq!(socket_type(&ready(Role::Dealer)), Some(&b"DEALER"[..]));
        for bytes in [&b""[..], b"\x05READY", b"\x05READY\xff", b"\x05READY\x01a\xff\xff\xff\xff", b"\x05ERROR"] {
            assert_eq!(socket_type(bytes), None);
        }
    }
}
