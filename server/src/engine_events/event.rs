//! vLLM's event batches as changes of residency.
//!
//! A batch is `[time, events, rank?]`. An event is a map with `type`, or, from older releases, an array that begins with its
//! type and has the fields in their order:
//!
//! | type | fields that are read | the others |
//! |---|---|---|
//! | `BlockStored` | `block_hashes`, `parent_block_hash`, `medium`, `group_idx` | tokens, sizes, adapters: skipped |
//! | `BlockRemoved` | `block_hashes`, `medium`, `group_idx` | |
//! | `AllBlocksCleared` | | |
//!
//! Hashes are bytes (`VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0`), then they are the engine's keys and the blocks have the ids
//! they have in kvtier; or the low 64 bits as a number, then the key is those 8 bytes, big endian. Medium `GPU` (or none)
//! is tier hbm, `CPU` is tier engine, anything else (a tier behind the engine, such as kvtier itself) is left out. Of a
//! model with several groups of layers the first one stands for the block. A type that is not known is passed over.

use kvtier_engine::flow::external::EngineChange;
use kvtier_engine::place::TierKind;
use kvtier_identity::Key;

use super::msgpack::{Cursor, Malformed, Value};

/// Most changes of one batch. A batch is what one scheduler step has done: some hundred blocks.
const CHANGES_MAX: usize = 1 << 17;

/// One thing a batch says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Blocks came and went.
    Change(EngineChange),
    /// Everything is gone.
    Cleared,
}

/// Reads a batch.
pub(crate) fn read_batch(payload: &[u8]) -> Result<Vec<Told>, Malformed> {
    let mut cursor = Cursor::new(payload);
    let fields = cursor.array()?;
    if fields < 2 {
        return Err(Malformed("a batch without events"));
    }
    cursor.skip()?;
    let count = cursor.array()?;
    let mut told = Vec::new();
    for _ in 0..count {
        read_event(&mut cursor, &mut told)?;
    }
    (2..fields).try_for_each(|_| cursor.skip())?;
    match cursor.is_empty() {
        true => Ok(told),
        false => Err(Malformed("bytes behind the batch")),
    }
}

/// The fields of an event, unread.
#[derive(Debug, Default)]
struct Fields<'a> {
    kind: &'a [u8],
    hashes: Option<Cursor<'a>>,
    parent: Option<Cursor<'a>>,
    medium: Option<Cursor<'a>>,
    group: Option<Cursor<'a>>,
}

const STORED: [&[u8]; 9] = [
    b"block_hashes",
    b"parent_block_hash",
    b"token_ids",
    b"block_size",
    b"lora_id",
    b"medium",
    b"lora_name",
    b"extra_keys",
    b"group_idx",
];
const REMOVED: [&[u8]; 3] = [b"block_hashes", b"medium", b"group_idx"];

fn read_event(cursor: &mut Cursor<'_>, told: &mut Vec<Told>) -> Result<(), Malformed> {
    let mut fields = Fields::default();
    match cursor.value()? {
        Value::Map(count) => {
            for _ in 0..count {
                let Value::Text(name) = cursor.value()? else { return Err(Malformed("a field without a name")) };
                if name == b"type" {
                    fields.kind = text(cursor)?;
                } else {
                    fields.note(name, cursor)?;
                }
            }
        }
        Value::Array(count @ 1..) => {
            fields.kind = text(cursor)?;
            let names: &[&[u8]] = match fields.kind {
                b"BlockStored" => &STORED,
                b"BlockRemoved" => &REMOVED,
                _ => &[],
            };
            for index in 0..count as usize - 1 {
                fields.note(names.get(index).copied().unwrap_or_default(), cursor)?;
            }
        }
        _ => return Err(Malformed("an event that is neither a map nor an array")),
    }
    fields.tell(told)
}

fn text<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Malformed> {
    match cursor.value()? {
        Value::Text(text) => Ok(text),
        _ => Err(Malformed("an event without a type")),
    }
}

impl<'a> Fields<'a> {
    /// Remembers where a field begins, and passes over it.
    fn note(&mut self, name: &[u8], cursor: &mut Cursor<'a>) -> Result<(), Malformed> {
        let place = match name {
            b"block_hashes" => &mut self.hashes,
            b"parent_block_hash" => &mut self.parent,
            b"medium" => &mut self.medium,
            b"group_idx" => &mut self.group,
            _ => return cursor.skip(),
        };
        *place = Some(*cursor);
        cursor.skip()
    }

    fn tell(&self, told: &mut Vec<Told>) -> Result<(), Malformed> {
        let stored = match self.kind {
            b"BlockStored" => true,
            b"BlockRemoved" => false,
            b"AllBlocksCleared" => {
                if told.len() == CHANGES_MAX {
                    return Err(Malformed("more changes than one batch may have"));
                }
                told.push(Told::Cleared);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let (Some(tier), true) = (self.tier()?, self.is_first_group()?) else { return Ok(()) };
        let mut hashes = self.hashes.ok_or(Malformed("an event without block_hashes"))?;
        let mut parent = match self.parent {
            Some(mut parent) if stored => key_of(parent.value()?)?,
            _ => None,
        };
        for _ in 0..hashes.array()? {
            if told.len() == CHANGES_MAX {
                return Err(Malformed("more changes than one batch may have"));
            }
            let key = key_of(hashes.value()?)?.ok_or(Malformed("a block without a hash"))?;
            told.push(Told::Change(match stored {
                true => EngineChange::Stored { tier, key: key.clone(), parent: parent.replace(key) },
                false => EngineChange::Removed { tier, key },
            }));
        }
        Ok(())
    }

    fn tier(&self) -> Result<Option<TierKind>, Malformed> {
        let Some(mut medium) = self.medium else { return Ok(Some(TierKind::Hbm)) };
        Ok(match medium.value()? {
            Value::Nil | Value::Text(b"GPU") => Some(TierKind::Hbm),
            Value::Text(b"CPU") => Some(TierKind::Engine),
            _ => None,
        })
    }

    fn is_first_group(&self) -> Result<bool, Malformed> {
        let Some(mut group) = self.group else { return Ok(true) };
        Ok(matches!(group.value()?, Value::Nil | Value::Unsigned(0)))
    }
}

fn key_of(hash: Value<'_>) -> Result<Option<Key>, Malformed> {
    let key = |bytes: &[u8]| Key::new(bytes).map(Some).map_err(|_| Malformed("a hash that is no key: 1 to 64 bytes"));
    match hash {
        Value::Nil => Ok(None),
        Value::Bytes(bytes) => key(bytes),
        Value::Unsigned(number) => key(&number.to_be_bytes()),
        Value::Signed(number) => key(&number.to_be_bytes()),
        _ => Err(Malformed("a hash that is neither bytes nor a number")),
    }
}

#[cfg(test)]
mod tests;
