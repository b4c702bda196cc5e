//! A chain's keys as they come off a wire: one piece of memory instead of a thousand.

use crate::key::{KEY_BYTES_MAX, KeyError};

/// Keys one after the other in one slice. Every key has 1 to [`KEY_BYTES_MAX`] bytes: checked when it is made.
#[derive(Debug, Clone)]
pub struct KeyRun<'a> {
    bytes: &'a [u8],
    cut: Cut,
}

#[derive(Debug, Clone)]
enum Cut {
    /// All of this many bytes.
    Even(usize),
    /// Where each ends.
    Ends(Vec<u32>),
}

/// Why some bytes are no run of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// A key has a wrong length.
    #[error("key {index}: {source}")]
    Key {
        /// Its place in the run.
        index: usize,
        /// What is wrong.
        source: KeyError,
    },
    /// The lengths do not add up to the bytes.
    #[error("{bytes} bytes of keys are not what their lengths add up to")]
    Length {
        /// Bytes that were given.
        bytes: usize,
    },
}

impl<'a> KeyRun<'a> {
    /// Keys of `each` bytes.
    pub fn even(bytes: &'a [u8], each: usize) -> Result<Self, RunError> {
        if each == 0 || each > KEY_BYTES_MAX {
            return Err(RunError::Key { index: 0, source: KeyError { bytes: each } });
        }
        if !bytes.len().is_multiple_of(each) {
            return Err(RunError::Length { bytes: bytes.len() });
        }
        Ok(Self { bytes, cut: Cut::Even(each) })
    }

    /// Keys of these lengths.
    pub fn uneven(bytes: &'a [u8], lengths: &[u32]) -> Result<Self, RunError> {
        let mut ends = Vec::with_capacity(lengths.len());
        let mut end = 0_usize;
        for (index, length) in lengths.iter().enumerate() {
            let length = *length as usize;
            if length == 0 || length > KEY_BYTES_MAX {
                return Err(RunError::Key { index, source: KeyError { bytes: length } });
            }
            end += length;
            let Some(within) = u32::try_from(end).ok().filter(|_| end <= bytes.len()) else { break };
            ends.push(within);
        }
        if end != bytes.len() || ends.len() != lengths.len() {
            return Err(RunError::Length { bytes: bytes.len() });
        }
        Ok(Self { bytes, cut: Cut::Ends(ends) })
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        match &self.cut {
            Cut::Even(each) => self.bytes.len() / each,
            Cut::Ends(ends) => ends.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// One key. Panics if there is none at this place.
    pub fn get(&self, index: usize) -> &'a [u8] {
        match &self.cut {
            Cut::Even(each) => &self.bytes[index * each..(index + 1) * each],
            Cut::Ends(ends) => {
                let first = if index == 0 { 0 } else { ends[index - 1] as usize };
                &self.bytes[first..ends[index] as usize]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_run_is_cut_into_keys_of_one_length() {
        let run = KeyRun::even(b"aabbcc", 2).expect("three keys");
        assert_eq!(run.iter().collect::<Vec<_>>(), [b"aa", b"bb", b"cc"]);
        assert!(KeyRun::even(b"", 2).expect("no key").is_empty());
    }

    #[test]
    fn an_uneven_run_is_cut_where_its_lengths_say() {
        let run = KeyRun::uneven(b"abbccc", &[1, 2, 3]).expect("three keys");
        assert_eq!(run.iter().collect::<Vec<_>>(), [&b"a"[..], b"bb", b"ccc"]);
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let refused = [
            KeyRun::even(b"abc", 2),
            KeyRun::even(b"abc", 0),
            KeyRun::even(&[1; 130], 65),
            KeyRun::uneven(b"abc", &[1, 1]),
            KeyRun::uneven(b"abc", &[3, 1]),
            KeyRun::uneven(b"abc", &[3, 0]),
            KeyRun::uneven(b"abc", &[u32::MAX, u32::MAX]),
        ];
        for (case, run) in refused.into_iter().enumerate() {
            assert!(run.is_err(), "case {case}");
        }
    }
}
