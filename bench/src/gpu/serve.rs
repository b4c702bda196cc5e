//! Keeps blocks for a worker that is not ours: what the stand-in worker of the bundle, in Python, talks to.
//!
//! One JSON object a line. Asked: a layout with `handles` (hexadecimal), or `{"save": [block numbers]}`, or `{"load": [block
//! numbers]}`. Answered: `{"ok": true, "ms": …}` or `{"error": "…"}`. Saved are the blocks of one chain, in host memory; a
//! load verifies each against the checksum of what was saved. A worker may be killed and another take over.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

use kvtier_engine::place::{Slot, slot_bytes};
use kvtier_engine::port::Memory;
use kvtier_hbm::WorkerMemory;
use kvtier_hbm::chain::{BlockPlace, ChainBlock, ChainMove};
use kvtier_hbm::layout::{Direction, KvLayout, Surface};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::Failure;
use super::ground::{Machine, Store};
use super::worker::unhex;

/// Serves until its input ends.
pub fn serve_store() -> Result<(), Failure> {
    let mut kept = Kept {
        store: Store::open(&Machine::find(false)?)?,
        runtime: tokio::runtime::Builder::new_current_thread().build()?,
        worker: None,
        checksums: Vec::new(),
    };
    let mut output = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let begun = Instant::now();
        let answer = match serde_json::from_str(&line?).map_err(Into::into).and_then(|asked| kept.answer(&asked)) {
            Ok(()) => json!({ "ok": true, "ms": begun.elapsed().as_secs_f64() * 1e3 }),
            Err(why) => json!({ "error": why.to_string() }),
        };
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

struct Kept {
    store: Store,
    runtime: Runtime,
    worker: Option<Arc<WorkerMemory>>,
    /// Of the saved blocks, in the order of their slots.
    checksums: Vec<u32>,
}

impl Kept {
    fn answer(&mut self, asked: &Value) -> Result<(), Failure> {
        if let Some(numbers) = asked.get("save") {
            self.checksums.clear();
            let length = self.go(Direction::Gather, numbers)?;
            let count = numbers.as_array().map_or(0, Vec::len) as u64;
            let sum = |number| self.store.memory.checksum(slot(number, length), 0, length);
            self.checksums = (0..count).map(sum).collect();
            Ok(())
        } else if let Some(numbers) = asked.get("load") {
            self.go(Direction::Scatter, numbers).map(drop)
        } else {
            let handles = asked["handles"].as_array().ok_or("a request is an import, save or load")?;
            let handles = handles.iter().map(|text| text.as_str().and_then(unhex).ok_or("a handle is 128 hex digits"));
            let handles = handles.collect::<Result<Vec<_>, _>>()?;
            self.worker = None;
            self.worker = Some(WorkerMemory::import(&self.store.tier, 0, &handles, layout_of(asked)?)?);
            Ok(())
        }
    }

    /// Moves the blocks; returns the bytes of one.
    fn go(&self, direction: Direction, numbers: &Value) -> Result<u32, Failure> {
        let worker = self.worker.as_ref().ok_or("no worker's memory is imported")?;
        let length = u32::try_from(worker.layout().block_bytes())?;
        let numbers = numbers.as_array().ok_or("block numbers are a list")?;
        let block = |(at, number): (usize, &Value)| {
            let number = number.as_u64().ok_or("a block number is a whole number")?;
            let expect_crc = self.checksums.get(at).copied();
            Ok(ChainBlock { number, place: BlockPlace::Host(slot(at as u64, length)), expect_crc })
        };
        let blocks = numbers.iter().enumerate().map(block).collect::<Result<Vec<_>, Failure>>()?;
        let call = ChainMove::new(direction, blocks, Box::new(()));
        self.runtime.block_on(worker.begin(&self.store.tier, call)?.wait_end())?;
        Ok(length)
    }
}

fn slot(number: u64, length: u32) -> Slot {
    let bytes = slot_bytes(length);
    Slot { device: 0, offset: number * u64::from(bytes), bytes }
}

fn layout_of(asked: &Value) -> Result<KvLayout, Failure> {
    let long = |name: &str| asked[name].as_u64().ok_or_else(|| format!("{name} is missing or no whole number"));
    let word = |name: &str| Ok::<_, Failure>(u32::try_from(long(name)?)?);
    let offsets = asked["offsets"].as_array().ok_or("offsets is missing: one per layer")?;
    let surface = |offset: &Value| {
        let offset = offset.as_u64().ok_or("an offset is a whole number")?;
        Ok::<_, Failure>(Surface { memory: 0, offset })
    };
    Ok(KvLayout {
        surfaces: offsets.iter().map(surface).collect::<Result<_, _>>()?,
        surfaces_per_layer: 1,
        planes: word("planes")?,
        tokens: word("tokens")?,
        heads: word("heads")?,
        head_elements: word("head_elements")?,
        element_bytes: word("element_bytes")?,
        block_count: long("block_count")?,
        block_stride: long("block_stride")?,
        plane_stride: long("plane_stride")?,
        token_stride: long("token_stride")?,
        head_stride: long("head_stride")?,
    })
}
