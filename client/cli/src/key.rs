//! Keys on the command line: typed in hexadecimal, read from a file of one per line, or made from a file's content.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvtier_client::KEY_BYTES_MAX;

use crate::amount::parse_block_size;
use crate::chunk::Chunks;
use crate::failure::Failure;

/// The block size files are cut into unless another is given.
pub(crate) const BLOCK_BYTES_DEFAULT: &str = "1MiB";

/// A chain of keys, from one of three sources.
#[derive(Debug, clap::Args)]
#[group(id = "chain", required = true, multiple = false)]
pub(crate) struct KeyArguments {
    /// Keys in chain order, in hexadecimal
    #[arg(value_name = "KEY")]
    pub(crate) typed: Vec<String>,
    /// File with one hexadecimal key per line, as written by `kvtier put --keys-out`; - is standard input
    #[arg(long, short, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// File whose blocks' keys are meant, cut as `kvtier put` cuts it (see --block-bytes)
    #[arg(long, value_name = "FILE")]
    pub(crate) of_file: Option<PathBuf>,
}

/// The block size for `--of-file`.
#[derive(Debug, clap::Args)]
pub(crate) struct BlockSize {
    /// Size of the blocks a file is cut into
    #[arg(long, value_name = "SIZE", default_value = BLOCK_BYTES_DEFAULT, value_parser = parse_block_size)]
    pub(crate) block_bytes: u32,
}

impl KeyArguments {
    /// The keys, in chain order.
    pub(crate) fn read(&self, size: &BlockSize) -> Result<Vec<Bytes>, Failure> {
        if let Some(path) = &self.keys {
            return read_keys(path);
        }
        if let Some(path) = &self.of_file {
            return keys_of_file(path, size.block_bytes);
        }
        self.typed.iter().map(|text| parse_key(text)).collect()
    }
}

/// Reads a key from hexadecimal digits.
pub(crate) fn parse_key(text: &str) -> Result<Bytes, Failure> {
    let bad = |why: &str| Failure::usage(format!("key {text:?} {why}"), "write 2 to 128 hexadecimal digits");
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err(bad("is not an even number of hexadecimal digits"));
    }
    if text.is_empty() || text.len() > 2 * KEY_BYTES_MAX {
        return Err(bad("does not have 1 to 64 bytes"));
    }
    let pairs = text.as_bytes().chunks_exact(2);
    let bytes = pairs.map(|pair| Some(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?)).collect::<Option<Vec<u8>>>();
    bytes.map(Bytes::from).ok_or_else(|| bad("is not hexadecimal"))
}

/// Prints a key as [`parse_key`] reads it.
pub(crate) fn show_key(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Reads one key per line; empty lines and lines beginning with `#` are skipped.
pub(crate) fn read_keys(path: &Path) -> Result<Vec<Bytes>, Failure> {
    let reader: Box<dyn BufRead> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(path).map_err(Failure::file("open", path))?)),
    };
    let mut keys = Vec::new();
    for line in reader.lines() {
        let line = line.map_err(Failure::file("read", path))?;
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            keys.push(parse_key(line)?);
        }
    }
    if keys.is_empty() {
        let what = format!("{} has no keys", path.display());
        return Err(Failure::usage(what, "write one hexadecimal key per line"));
    }
    Ok(keys)
}

fn keys_of_file(path: &Path, block_bytes: u32) -> Result<Vec<Bytes>, Failure> {
    let file = File::open(path).map_err(Failure::file("open", path))?;
    let keys = Chunks::new(BufReader::new(file), block_bytes).map(|chunk| chunk.map(|chunk| chunk.key));
    let keys: Vec<Bytes> = keys.collect::<Result<_, _>>().map_err(Failure::file("read", path))?;
    if keys.is_empty() {
        return Err(Failure::usage(format!("{} is empty", path.display()), "an empty file has no blocks"));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_as_it_prints() {
        for text in ["00", "ab01ff", &"7f".repeat(64)] {
            assert_eq!(show_key(&parse_key(text).expect(text)), text);
        }
        assert_eq!(parse_key("AB").expect("capitals"), parse_key("ab").expect("small"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "a", "zz", "0x12", "é", &"00".repeat(65)] {
            assert!(matches!(parse_key(text), Err(Failure::Usage { .. })), "{text}");
        }
    }

    #[test]
    fn a_key_file_may_have_comments() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "# chain of a.bin\n00ff\n\n 01 \n").expect("writes");
        let keys = read_keys(file.path()).expect("reads");
        assert_eq!(keys, [Bytes::from_static(&[0, 255]), Bytes::from_static(&[1])]);
        std::fs::write(file.path(), "# nothing\n").expect("writes");
        assert!(matches!(read_keys(file.path()), Err(Failure::Usage { .. })));
    }
}
