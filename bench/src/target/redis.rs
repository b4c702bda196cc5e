//! `redis-tcp` and `redis-uds`: a Redis server of the run's own, SET and GET of whole blocks, pipelined.
//!
//! The protocol is spoken here instead of through the redis crate, which copies every payload into its pipeline and out of
//! its parser: payloads go from where they are to the socket, and from the socket into one buffer that is used again. So
//! Redis is charged for nothing but itself.
//!
//! Volatile: no snapshots, no log. Durable: the append-only file, synced before every answer, never rewritten meanwhile.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;

use super::{Consumer, Failure, Put, PutTally, Session, Setup, Target};
use crate::process::{Process, free_port};

/// Bytes of payload in one pipeline: enough to hide the round trip, few enough that the server's buffers stay in its caches.
const PIPELINE_BYTES: usize = 8 << 20;
/// What is read ahead when looking for the end of a line.
const LINE_BYTES: usize = 16 << 10;

/// What the connections run over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// TCP on the loopback interface.
    Tcp,
    /// A unix socket.
    Unix,
}

/// A server, or one that runs already.
pub struct Redis {
    /// Ended with the target.
    _process: Option<Process>,
    door: Door,
    address: String,
    durable: bool,
    command: String,
}

impl Redis {
    /// Starts one in the run's folder, or uses the one at the endpoint: `host:port`, or the path of a socket.
    pub fn open(setup: &Setup, door: Door) -> Result<Self, Failure> {
        if let Some(address) = setup.endpoint.clone() {
            let command = "a running server's own".to_owned();
            return Ok(Self { _process: None, door, address, durable: setup.durable, command });
        }
        std::fs::create_dir_all(&setup.folder)?;
        let (port, socket) = (free_port().map_err(|error| error.to_string())?, setup.folder.join("redis.sock"));
        let mut command = server(setup, port, &socket);
        let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        // Another run has another folder.
        let words = words.join(" ").replace(&setup.folder.display().to_string(), "FOLDER");
        let process = Process::start(&mut command, || UnixStream::connect(&socket).is_ok());
        let process = process.map_err(|error| format!("{error}; install the package redis-server"))?;
        let address = match door {
            Door::Tcp => format!("127.0.0.1:{port}"),
            Door::Unix => socket.display().to_string(),
        };
        Ok(Self { _process: Some(process), door, address, durable: setup.durable, command: words })
    }
}

fn server(setup: &Setup, port: u16, socket: &Path) -> Command {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.arg("--unixsocket").arg(socket).arg("--dir").arg(&setup.folder);
    match setup.durable {
        true => command.args(["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]),
        false => command.args(["--appendonly", "no"]),
    };
    command
}

impl Target for Redis {
    fn name(&self) -> String {
        match self.door {
            Door::Tcp => "redis-tcp".to_owned(),
            Door::Unix => "redis-uds".to_owned(),
        }
    }

    fn guarantees(&self) -> String {
        let durable = if self.durable { "every answer after a sync of its log" } else { "nothing survives a restart" };
        format!("no checksum of values; {durable}; a bound on memory by setting; users by setting, not per key space")
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("redis-server".to_owned(), self.command.clone())]
    }

    fn session(&self, _lane: usize) -> Result<Box<dyn Session>, Failure> {
        let stream: Box<dyn Stream> = match self.door {
            Door::Tcp => {
                let stream = TcpStream::connect(&self.address)?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Door::Unix => Box::new(UnixStream::connect(PathBuf::from(&self.address))?),
        };
        Ok(Box::new(RedisSession { stream: BufReader::with_capacity(LINE_BYTES, stream), payload: Vec::new() }))
    }
}

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

struct RedisSession {
    stream: BufReader<Box<dyn Stream>>,
    payload: Vec<u8>,
}

impl RedisSession {
    /// Sends commands of one key each.
    fn ask(&mut self, name: &str, keys: &[Bytes]) -> Result<(), Failure> {
        let mut words = Vec::new();
        for key in keys {
            write!(words, "*2\r\n${}\r\n{name}\r\n${}\r\n", name.len(), key.len())?;
            words.extend_from_slice(key);
            words.extend_from_slice(b"\r\n");
        }
        Ok(self.stream.get_mut().write_all(&words)?)
    }

    /// The first line of an answer, with its type and without its end.
    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.trim_end() {
            "" => Err("redis closed the connection".into()),
            failed if failed.starts_with('-') => Err(format!("redis answered {failed}").into()),
            good => Ok(good.to_owned()),
        }
    }

    fn number(&mut self, kind: char) -> Result<i64, Failure> {
        let line = self.line()?;
        let number = line.strip_prefix(kind).and_then(|number| number.parse().ok());
        number.ok_or_else(|| format!("redis answered {line:?} where {kind} and a number were expected").into())
    }

    fn set(&mut self, blocks: &[Put]) -> Result<(), Failure> {
        let mut words = Vec::new();
        for Put { key, bytes } in blocks {
            write!(words, "*3\r\n$3\r\nSET\r\n${}\r\n", key.len())?;
            words.extend_from_slice(key);
            write!(words, "\r\n${}\r\n", bytes.len())?;
            self.stream.get_mut().write_all(&words)?;
            self.stream.get_mut().write_all(bytes)?;
            words.clear();
            words.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&words)?;
        for _ in blocks {
            self.line()?;
        }
        Ok(())
    }
}

impl Session for RedisSession {
    fn put(&mut self, _parent: Option<&Bytes>, blocks: &[Put]) -> Result<PutTally, Failure> {
        let each = blocks.first().map_or(1, |block| block.bytes.len().max(1));
        for pipeline in blocks.chunks((PIPELINE_BYTES / each).max(1)) {
            self.set(pipeline)?;
        }
        Ok(PutTally { stored: blocks.len(), ..PutTally::default() })
    }

    fn lookup(&mut self, keys: &[Bytes]) -> Result<usize, Failure> {
        self.ask("EXISTS", keys)?;
        let mut there = Vec::with_capacity(keys.len());
        for _ in keys {
            there.push(self.number(':')? == 1);
        }
        Ok(there.into_iter().take_while(|there| *there).count())
    }

    fn get(&mut self, keys: &[Bytes], consumer: &mut Consumer<'_>) -> Result<(), Failure> {
        // The first answer tells how long blocks are; all requests are short, so the server is asked for all at once.
        self.ask("GET", keys)?;
        for index in 0..keys.len() {
            let Ok(length) = usize::try_from(self.number('$')?) else { continue };
            self.payload.resize(length + 2, 0);
            self.stream.read_exact(&mut self.payload)?;
            consumer.bytes(index, &self.payload[..length]);
        }
        Ok(())
    }

    fn forget(&mut self, keys: &[Bytes]) -> Result<(), Failure> {
        self.ask("UNLINK", keys)?;
        keys.iter().try_for_each(|_| self.number(':').map(drop))
    }
}
