//! A batch in vLLM's format: MessagePack of `[time, events, rank]`, each event a map with its `type`.

use kvtier_identity::Key;
use rmp::encode::*;

/// Written into a vector, which grows: nothing here can fail.
const GROWS: &str = "a vector grows";

/// An event as vLLM has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// Blocks that follow each other are there.
    Stored { keys: Vec<Key>, parent: Option<Key>, block_tokens: u32, medium: &'static str },
    /// They are not any more.
    Removed { keys: Vec<Key>, medium: &'static str },
    /// Nothing is.
    Cleared,
}

/// Encodes a batch; with `numbers`, hashes are the low 64 bits of the keys.
pub(super) fn encode(events: &[Told], unix_ms: u64, numbers: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + events.len() * 192);
    write_array_len(&mut out, 3).expect(GROWS);
    write_f64(&mut out, unix_ms as f64 / 1000.0).expect(GROWS);
    write_array_len(&mut out, events.len() as u32).expect(GROWS);
    for event in events {
        encode_event(&mut out, event, numbers);
    }
    write_uint(&mut out, 0).expect(GROWS);
    out
}

fn encode_event(out: &mut Vec<u8>, event: &Told, numbers: bool) {
    match event {
        Told::Stored { keys, parent, block_tokens, medium } => {
            write_map_len(out, 9).expect(GROWS);
            text(out, "type", "BlockStored");
            hashes(out, keys, numbers);
            write_str(out, "parent_block_hash").expect(GROWS);
            match parent {
                Some(parent) => hash(out, parent, numbers),
                None => write_nil(out).expect(GROWS),
            }
            // kvtier never sees tokens.
            write_str(out, "token_ids").expect(GROWS);
            write_array_len(out, 0).expect(GROWS);
            write_str(out, "block_size").expect(GROWS);
            write_uint(out, u64::from(*block_tokens)).expect(GROWS);
            for name in ["lora_id", "lora_name"] {
                write_str(out, name).expect(GROWS);
                write_nil(out).expect(GROWS);
            }
            text(out, "medium", medium);
            text(out, "ownership", "kvtier");
        }
        Told::Removed { keys, medium } => {
            write_map_len(out, 4).expect(GROWS);
            text(out, "type", "BlockRemoved");
            hashes(out, keys, numbers);
            text(out, "medium", medium);
            text(out, "ownership", "kvtier");
        }
        Told::Cleared => {
            write_map_len(out, 1).expect(GROWS);
            text(out, "type", "AllBlocksCleared");
        }
    }
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    write_str(out, name).expect(GROWS);
    write_str(out, value).expect(GROWS);
}

fn hashes(out: &mut Vec<u8>, keys: &[Key], numbers: bool) {
    write_str(out, "block_hashes").expect(GROWS);
    write_array_len(out, keys.len() as u32).expect(GROWS);
    keys.iter().for_each(|key| hash(out, key, numbers));
}

/// vLLM's number of a hash is its last 8 bytes, big endian.
fn hash(out: &mut Vec<u8>, key: &Key, numbers: bool) {
    let bytes = key.as_bytes();
    if !numbers {
        return write_bin(out, bytes).expect(GROWS);
    }
    let last = &bytes[bytes.len().saturating_sub(8)..];
    let number = last.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    write_uint(out, number).map(drop).expect(GROWS);
}
