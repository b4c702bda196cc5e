//! The trace format of `bench/traces/README.md`: a header line, then one request per line, Zstandard or plain.
//!
//! A request's chain is run-length encoded: `[first, count]` stands for `first, first+1, …`. Everything read is
//! bounded: the length of a line, of a chain, and the number of requests.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use kvtier_client::lookup::CHAIN_KEYS_MAX;
use serde::Deserialize;

use crate::failure::Failure;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const LINE_BYTES_MAX: u64 = 16 << 20;
const REQUESTS_MAX: usize = 10_000_000;

/// A trace in memory.
#[derive(Debug)]
pub(super) struct TraceFile {
    pub(super) header: Header,
    pub(super) requests: Vec<Request>,
}

/// The first line.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    /// Tokens per block.
    #[serde(rename = "block")]
    pub(super) tokens_per_block: u32,
    pub(super) name: String,
    #[serde(default)]
    pub(super) source: String,
}

/// One request of one session.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    /// Seconds since the trace began.
    #[serde(rename = "t")]
    pub(super) seconds: f64,
    /// Requests of one session come one after another; -1 is no session.
    #[serde(rename = "s")]
    pub(super) session: i64,
    #[serde(rename = "h")]
    runs: Vec<(u64, u32)>,
}

impl Request {
    /// The chain of block ids.
    pub(super) fn blocks(&self) -> impl Iterator<Item = u64> {
        self.runs.iter().flat_map(|&(first, count)| first..first + u64::from(count))
    }

    fn check(&self) -> Result<(), String> {
        let blocks: u64 = self.runs.iter().map(|&(_, count)| u64::from(count)).sum();
        if blocks == 0 || blocks > CHAIN_KEYS_MAX as u64 {
            return Err(format!("a chain of {blocks} blocks; 1 to {CHAIN_KEYS_MAX} are allowed"));
        }
        if self.runs.iter().any(|&(first, count)| first.checked_add(u64::from(count)).is_none()) {
            return Err("a run of blocks past the largest number".to_owned());
        }
        if !self.seconds.is_finite() || self.seconds < 0.0 {
            return Err(format!("time {} is not a number of seconds", self.seconds));
        }
        Ok(())
    }
}

impl TraceFile {
    /// Reads the header and at most `limit` requests.
    pub(super) fn read(path: &Path, limit: Option<usize>) -> Result<Self, Failure> {
        let mut file = BufReader::new(File::open(path).map_err(Failure::file("open", path))?);
        let magic = file.fill_buf().map_err(Failure::file("read", path))?;
        if !magic.starts_with(&ZSTD_MAGIC) {
            return Self::parse(file, path, limit);
        }
        let decoder = zstd::Decoder::with_buffer(file).map_err(Failure::file("decompress", path))?;
        Self::parse(BufReader::new(decoder), path, limit)
    }

    fn parse(mut from: impl BufRead, path: &Path, limit: Option<usize>) -> Result<Self, Failure> {
        let mut number = 1;
        let mut line = String::new();
        if !read_line(&mut from, &mut line, path, number)? {
            return Err(bad(path, 1, "the file is empty"));
        }
        let header: Header = serde_json::from_str(&line).map_err(|error| bad(path, 1, &error.to_string()))?;
        let mut requests = Vec::new();
        let limit = limit.unwrap_or(REQUESTS_MAX);
        while requests.len() < limit {
            number += 1;
            if !read_line(&mut from, &mut line, path, number)? {
                break;
            }
            let request: Request =
                serde_json::from_str(&line).map_err(|error| bad(path, number, &error.to_string()))?;
            request.check().map_err(|why| bad(path, number, &why))?;
            requests.push(request);
        }
        if requests.is_empty() {
            return Err(bad(path, number, "there are no requests"));
        }
        Ok(Self { header, requests })
    }
}

fn read_line(from: &mut impl BufRead, line: &mut String, path: &Path, number: usize) -> Result<bool, Failure> {
    line.clear();
    let bytes = from.by_ref().take(LINE_BYTES_MAX).read_line(line).map_err(Failure::file("read", path))?;
    if bytes as u64 == LINE_BYTES_MAX {
        return Err(bad(path, number, "the line is longer than 16 MiB"));
    }
    Ok(!line.trim().is_empty())
}

fn bad(path: &Path, line: usize, why: &str) -> Failure {
    let what = format!("{} line {line}: {why}", path.display());
    Failure::usage(what, "traces are described in bench/traces/README.md")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"block": 512, "name": "n", "source": "s", "license": "l"}"#;

    fn read(text: &str) -> Result<TraceFile, Failure> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("writes");
        TraceFile::read(file.path(), None)
    }

    #[test]
    fn runs_are_expanded_in_order() {
        let trace =
            read(&format!("{HEADER}\n{{\"t\":0.5,\"s\":-1,\"in\":9,\"out\":1,\"h\":[[0,2],[7,3]]}}\n")).expect("reads");
        assert_eq!(trace.header.tokens_per_block, 512);
        assert_eq!(trace.requests[0].blocks().collect::<Vec<_>>(), [0, 1, 7, 8, 9]);
    }

    #[test]
    fn a_compressed_trace_reads_like_a_plain_one() {
        let text = format!("{HEADER}\n{{\"t\":0,\"s\":1,\"h\":[[5,1]]}}\n{{\"t\":1,\"s\":1,\"h\":[[6,1]]}}\n");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), zstd::encode_all(text.as_bytes(), 3).expect("compresses")).expect("writes");
        assert_eq!(TraceFile::read(file.path(), None).expect("reads").requests.len(), 2);
        assert_eq!(TraceFile::read(file.path(), Some(1)).expect("reads").requests.len(), 1);
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_line() {
        let bad = [
            ("", "line 1: the file is empty"),
            ("{}", "line 1: missing field `block`"),
            (HEADER, "no requests"),
            (&format!("{HEADER}\nnonsense"), "line 2: expected"),
            (&format!("{HEADER}\n{{\"t\":0,\"s\":1,\"h\":[]}}"), "line 2: a chain of 0 blocks"),
            (&format!("{HEADER}\n{{\"t\":0,\"s\":1,\"h\":[[0,70000]]}}"), "line 2: a chain of 70000 blocks"),
            (&format!("{HEADER}\n{{\"t\":-1,\"s\":1,\"h\":[[0,1]]}}"), "line 2: time -1"),
            (&format!("{HEADER}\n{{\"t\":0,\"s\":1,\"h\":[[18446744073709551615,1]]}}"), "past the largest"),
        ];
        for (text, expected) in bad {
            let error = read(text).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
