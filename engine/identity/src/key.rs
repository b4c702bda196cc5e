//! The engine's own name for a block: opaque bytes, usually a block hash.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest key in bytes. Every engine we know of uses 8 to 36.
pub const KEY_BYTES_MAX: usize = 64;

/// A block's name as its engine gave it: 1 to [`KEY_BYTES_MAX`] opaque bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Key(Box<[u8]>);

/// Why some bytes are not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key has 1 to {KEY_BYTES_MAX} bytes, this one has {bytes}")]
pub struct KeyError {
    /// How many bytes were given.
    pub bytes: usize,
}

impl Key {
    /// Checks the length and copies the bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.is_empty() || bytes.len() > KEY_BYTES_MAX {
            return Err(KeyError { bytes: bytes.len() });
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes as the engine gave them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for Key {
    type Error = KeyError;
    fn try_from(bytes: Vec<u8>) -> Result<Self, KeyError> {
        Self::new(&bytes)
    }
}

impl From<Key> for Vec<u8> {
    fn from(key: Key) -> Self {
        key.0.into_vec()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key:{self}")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_1_to_64_bytes() {
        assert_eq!(Key::new(b""), Err(KeyError { bytes: 0 }));
        assert_eq!(Key::new(&[1; 65]), Err(KeyError { bytes: 65 }));
        assert_eq!(Key::new(&[1; 64]).expect("64 is allowed").as_bytes().len(), 64);
        assert_eq!(Key::new(&[0xab, 1]).expect("2 is allowed").to_string(), "ab01");
    }
}
