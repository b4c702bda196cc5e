//! Who this node is: a UUID for everybody, and a secret for nobody.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{HomeError, write};

const NODE: &str = "NODE";
const SECRET: &str = "SECRET";
/// Bytes of the root secret.
const SECRET_BYTES: usize = 32;

/// Names a data directory, and with it one event log. Made once, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId(pub [u8; 16]);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if [4, 6, 8, 10].contains(&index) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// The root of every tenant's secret. Whoever knows it can name any tenant's blocks; losing it makes every durable
/// block a miss. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; SECRET_BYTES]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

pub(super) fn node(directory: &Path, fresh: bool) -> Result<NodeId, HomeError> {
    let file = directory.join(NODE);
    match std::fs::read_to_string(&file) {
        Ok(text) => parse(text.trim()).ok_or_else(|| HomeError::Damaged {
            file,
            why: "is not a UUID; restore it from a backup, or name another data_directory".to_owned(),
        }),
        Err(error) if fresh && error.kind() == std::io::ErrorKind::NotFound => {
            let node = random_node(directory)?;
            write::whole(directory, NODE, format!("{node}\n").as_bytes(), 0o644)?;
            Ok(node)
        }
        Err(error) => Err(HomeError::io("read", &file)(error)),
    }
}

pub(super) fn secret(directory: &Path, fresh: bool) -> Result<Secret, HomeError> {
    let file = directory.join(SECRET);
    match std::fs::read(&file) {
        Ok(bytes) => {
            let secret = bytes.try_into().map(Secret).map_err(|bytes: Vec<u8>| HomeError::Damaged {
                file: file.clone(),
                why: format!("has {} bytes instead of {SECRET_BYTES}; restore it from a backup, without it every stored block is a miss", bytes.len()),
            })?;
            private(&file)?;
            Ok(secret)
        }
        Err(error) if fresh && error.kind() == std::io::ErrorKind::NotFound => {
            let secret = Secret(random(directory)?);
            write::whole(directory, SECRET, &secret.0, 0o600)?;
            Ok(secret)
        }
        Err(error) => Err(HomeError::io("read", &file)(error)),
    }
}

/// A secret others can read is none.
fn private(file: &Path) -> Result<(), HomeError> {
    let mode = std::fs::metadata(file).map_err(HomeError::io("read", file))?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let why = format!("can be read by others (mode {mode:04o}); run `chmod 600 {}`", file.display());
    Err(HomeError::Damaged { file: file.to_path_buf(), why })
}

/// A version 4 UUID.
fn random_node(directory: &Path) -> Result<NodeId, HomeError> {
    let mut bytes: [u8; 16] = random(directory)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(NodeId(bytes))
}

fn random<const N: usize>(directory: &Path) -> Result<[u8; N], HomeError> {
    let mut bytes = [0; N];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(HomeError::io("read /dev/urandom to make", directory))?;
    Ok(bytes)
}

fn parse(text: &str) -> Option<NodeId> {
    let dashes = [8, 13, 18, 23];
    let shaped = text.len() == 36 && text.bytes().enumerate().all(|(at, byte)| (byte == b'-') == dashes.contains(&at));
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    let number = shaped.then(|| u128::from_str_radix(&digits, 16).ok()).flatten()?;
    Some(NodeId(number.to_be_bytes()))
}
