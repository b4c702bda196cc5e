//! Redis through its Rust client, pipelined: SET and GET of the same blocks.

use std::error::Error;
use std::time::Instant;

use redis::Connection;

type Failure = Box<dyn Error>;

/// Commands per pipeline: deep enough to hide the round trip, small enough that replies fit the socket's buffers.
const PIPELINE_COUNT: usize = 8;

/// One connection to Redis.
pub struct Redis {
    connection: Connection,
}

impl Redis {
    /// Connects to `redis://127.0.0.1:port` or `redis+unix:///path`.
    pub fn connect(url: &str) -> Result<Self, Failure> {
        Ok(Self { connection: redis::Client::open(url)?.get_connection()? })
    }

    /// SETs `count` blocks; returns GB/s.
    pub fn put(&mut self, block: &[u8], first: u64, count: usize) -> Result<f64, Failure> {
        let started = Instant::now();
        for chunk in chunks(first, count) {
            let mut pipeline = redis::pipe();
            for key in chunk {
                pipeline.cmd("SET").arg(key).arg(block).ignore();
            }
            pipeline.query::<()>(&mut self.connection)?;
        }
        Ok((block.len() * count) as f64 / started.elapsed().as_secs_f64() / 1e9)
    }

    /// GETs `count` blocks and sums every byte, as the other contestants do; returns GB/s.
    pub fn get(&mut self, block: &[u8], first: u64, count: usize) -> Result<f64, Failure> {
        let expected = crc32fast::hash(block);
        let started = Instant::now();
        for chunk in chunks(first, count) {
            let mut pipeline = redis::pipe();
            for key in chunk {
                pipeline.cmd("GET").arg(key);
            }
            let values: Vec<redis::Value> = pipeline.query(&mut self.connection)?;
            for value in values {
                match value {
                    redis::Value::BulkString(bytes) if crc32fast::hash(&bytes) == expected => {}
                    _ => return Err("redis answered other bytes".into()),
                }
            }
        }
        Ok((block.len() * count) as f64 / started.elapsed().as_secs_f64() / 1e9)
    }
}

fn chunks(first: u64, count: usize) -> impl Iterator<Item = std::ops::Range<u64>> {
    let end = first + count as u64;
    (first..end).step_by(PIPELINE_COUNT).map(move |start| start..end.min(start + PIPELINE_COUNT as u64))
}
