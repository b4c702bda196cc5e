//! What memory itself allows: a put is one memcpy, a get is one pass of the consumer over memory of the same process.
//!
//! No table, no protocol, no other process: nobody who keeps a copy can be faster.

use bytes::Bytes;

use crate::target::{Consumer, Failure, Put, PutTally, Session, Target};

/// Memory.
pub(super) struct Memcpy {
    /// Bytes a session can hold.
    pub(super) bytes: usize,
}

impl Target for Memcpy {
    fn name(&self) -> String {
        super::field::MEMORY_LIMIT.to_owned()
    }

    fn guarantees(&self) -> String {
        "nothing: bytes are copied to memory of the same process and read there; no store is faster".to_owned()
    }

    fn session(&self, _lane: usize) -> Result<Box<dyn Session>, Failure> {
        // Touched, so that no page is given while the clock runs.
        Ok(Box::new(Room { memory: vec![1; self.bytes], filled: 0, read: 0 }))
    }
}

struct Room {
    memory: Vec<u8>,
    filled: usize,
    read: usize,
}

impl Session for Room {
    fn prepare(&mut self, _blocks: &[Put]) -> Result<(), Failure> {
        (self.filled, self.read) = (0, 0);
        Ok(())
    }

    fn put(&mut self, _parent: Option<&Bytes>, blocks: &[Put]) -> Result<PutTally, Failure> {
        for block in blocks {
            let to = self.filled + block.bytes.len();
            self.memory[self.filled..to].copy_from_slice(&block.bytes);
            self.filled = to;
        }
        Ok(PutTally { stored: blocks.len(), ..PutTally::default() })
    }

    fn lookup(&mut self, keys: &[Bytes]) -> Result<usize, Failure> {
        Ok(keys.len())
    }

    /// Blocks come back in the order they were put in, over and over.
    fn get(&mut self, keys: &[Bytes], consumer: &mut Consumer<'_>) -> Result<(), Failure> {
        for index in 0..keys.len() {
            let to = self.read + consumer.length(index) as usize;
            consumer.bytes(index, &self.memory[self.read..to]);
            self.read = if to == self.filled { 0 } else { to };
        }
        Ok(())
    }
}
