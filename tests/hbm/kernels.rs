//! The kernels compile, what is embedded is what they compile to, and their source does on the CPU what it should.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kvtier_hbm::checksum::{SPANS_MAX, finish, tables};
use kvtier_hbm::conformance::{Dice, gather, random_layout, scatter};
use kvtier_hbm::gpu::{MemoryId, Place};
use kvtier_hbm::layout::{BLOCKS_MAX, Direction, KvLayout, SURFACES_MAX, Shuffle, ShuffleBlock, Tiling};

#[test]
fn the_kernels_compile_to_the_committed_ptx_and_that_to_machine_code() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let made = Command::new("make/kernels.sh").arg("--check").current_dir(root).output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    assert!(made.status.success(), "{said}{complained}");
    // Ampere, Hopper, Blackwell.
    for chip in ["sm_80", "sm_90", "sm_100", "sm_120"] {
        assert!(said.contains(&format!("machine code for {chip}, without spilling")), "{chip}: {said}");
    }
}

#[test]
fn the_committed_ptx_has_every_kernel_and_is_for_old_drivers() {
    let ptx = include_str!("../../tiers/hbm/kernels/kernels.ptx");
    for kernel in ["kvtier_shuffle_16", "kvtier_shuffle_4", "kvtier_shuffle_1", "kvtier_checksum"] {
        assert!(ptx.contains(&format!(".visible .entry {kernel}(")), "{kernel}");
    }
    assert!(ptx.contains(".version 8.1\n") && ptx.contains(".target sm_80\n"));
    assert!(!ptx.contains(".local "), "no kernel keeps registers in memory");
    let wide = |access: &str| ptx.lines().filter(|line| line.contains(access)).count();
    assert!(wide("ld.v4.u32") >= 4 && wide("st.v4.u32") >= 4, "16 bytes at a time");
}

/// The kernels' source as a program for the CPU.
struct OnCpu {
    _folder: tempfile::TempDir,
    program: PathBuf,
}

const SHUFFLE: u32 = 0;
const CHECKSUM: u32 = 1;

impl OnCpu {
    fn compile() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = folder.path().join("kernels");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("hbm/kernels_on_cpu.cc");
        let made = Command::new("g++")
            .args(["-std=c++20", "-O1", "-U_FORTIFY_SOURCE", "-o"])
            .arg(&program)
            .arg(source)
            .output();
        let made = made.expect("g++ is there; make setup installs it");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { _folder: folder, program }
    }

    /// What the kernel leaves of `memory`.
    fn run(&self, kernel: u32, grid: (u32, u32), arguments: &[u8], memory: &[u8]) -> Vec<u8> {
        let mut child =
            Command::new(&self.program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it was compiled");
        let mut input = Vec::new();
        for word in [kernel, grid.0, grid.1, arguments.len() as u32] {
            input.extend(word.to_le_bytes());
        }
        input.extend((memory.len() as u64).to_le_bytes());
        input.extend(arguments);
        input.extend(memory);
        child.stdin.take().expect("its input is a pipe").write_all(&input).expect("it reads its input");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", output.status);
        output.stdout
    }
}

fn longs(values: impl IntoIterator<Item = u64>, count: usize) -> Vec<u8> {
    let padded = values.into_iter().chain(std::iter::repeat(0)).take(count);
    padded.flat_map(u64::to_le_bytes).collect()
}

/// The kernel's argument structure, with offsets instead of addresses.
fn arguments_of(shuffle: &Shuffle, tiling: &Tiling) -> Vec<u8> {
    let t = tiling;
    let divisors = [t.by_tiles_per_run, t.by_count2, t.by_count1, t.by_count0, t.by_surface_count];
    let words = [
        t.unit_bytes,
        t.run_units,
        t.tile_units,
        t.lanes_log2,
        t.tile_count,
        t.tiles_per_run,
        t.count2,
        t.count1,
        t.count0,
        t.surface_count,
    ];
    let words = words.into_iter().chain(divisors.iter().flat_map(|by| [by.multiplier, by.shift]));
    let scatter = u32::from(shuffle.direction == Direction::Scatter);
    let mut bytes: Vec<u8> = words.chain([shuffle.first_surface, scatter]).flat_map(u32::to_le_bytes).collect();
    let shape = &shuffle.shape;
    bytes.extend(longs(shape.strides, 3));
    bytes.extend(longs([shape.run_bytes, shape.surface_bytes, shape.block_stride], 3));
    bytes.extend(longs(shuffle.surfaces.iter().map(|place| place.offset), SURFACES_MAX));
    bytes.extend(longs(shuffle.blocks.iter().map(|block| block.canonical.offset), BLOCKS_MAX));
    bytes.extend(longs(shuffle.blocks.iter().map(|block| block.number), BLOCKS_MAX));
    bytes
}

/// Two blocks of a worker and their canonical bytes, in one memory: the worker's memories, then the blocks.
fn world(layout: &KvLayout, sizes: &[u64], dice: &mut Dice, direction: Direction) -> (Shuffle, Vec<u8>, u64) {
    let mut starts = Vec::new();
    let mut end = 0u64;
    for size in sizes {
        starts.push(end);
        end += size.next_multiple_of(256);
    }
    let length = layout.block_bytes();
    let at = |offset| Place { memory: MemoryId(1), offset };
    let block = |(number, place): (u64, u64)| ShuffleBlock {
        number,
        canonical: at(end + place * length.next_multiple_of(256)),
    };
    let shuffle = Shuffle {
        direction,
        shape: layout.shape(),
        surfaces: layout.surfaces.iter().map(|surface| at(starts[surface.memory as usize] + surface.offset)).collect(),
        first_surface: 0,
        blocks: [(layout.block_count - 1, 0), (0, 1)].into_iter().map(block).collect(),
    };
    let memory = dice.bytes((end + 2 * length.next_multiple_of(256)) as usize);
    (shuffle, memory, end)
}

#[test]
fn the_kernels_source_moves_twenty_random_layouts_byte_for_byte() {
    let (kernels, mut dice, mut layouts) = (OnCpu::compile(), Dice::new(6), Dice::new(5));
    let mut units = std::collections::BTreeSet::new();
    for number in 0..20 {
        let (layout, sizes) = random_layout(&mut layouts);
        for direction in [Direction::Gather, Direction::Scatter] {
            let (shuffle, memory, worker_end) = world(&layout, &sizes, &mut dice, direction);
            let tiling = Tiling::new(&shuffle, 256);
            units.insert(tiling.unit_bytes);
            let seen = kernels.run(SHUFFLE, (2, 1), &arguments_of(&shuffle, &tiling), &memory);
            // The reference knows memories apart.
            let mut at = 0usize;
            let mut worker: Vec<Vec<u8>> = Vec::new();
            for size in &sizes {
                worker.push(memory[at..at + *size as usize].to_vec());
                at += size.next_multiple_of(256) as usize;
            }
            let mut right = memory.clone();
            for block in &shuffle.blocks {
                let range = block.canonical.offset as usize..(block.canonical.offset + layout.block_bytes()) as usize;
                match direction {
                    Direction::Gather => right[range].copy_from_slice(&gather(&layout, &worker, block.number)),
                    Direction::Scatter => scatter(&layout, &mut worker, block.number, &memory[range]),
                }
            }
            let mut at = 0usize;
            for bytes in &worker {
                right[at..at + bytes.len()].copy_from_slice(bytes);
                at += bytes.len().next_multiple_of(256);
            }
            assert_eq!(at as u64, worker_end);
            assert!(seen == right, "layout {number}, {direction:?}, units of {}: {layout:?}", tiling.unit_bytes);
        }
    }
    assert_eq!(units.into_iter().collect::<Vec<_>>(), [1, 4, 16], "every kernel has run");
}

#[test]
fn the_checksum_kernels_source_is_crc32() {
    let kernels = OnCpu::compile();
    let words: Vec<u8> = tables().into_iter().flat_map(u32::to_le_bytes).collect();
    let results_at = words.len().next_multiple_of(256);
    let bytes_at = results_at + 512;
    let bytes = Dice::new(9).bytes(200_000);
    let spans = [
        (0, 1u32),
        (16, 15),
        (32, 511),
        (0, 512),
        (0, 513),
        (4096, 16_384),
        (4096, 16_385),
        (160, 150_001),
        (0, 200_000),
    ];
    let mut memory = vec![0; bytes_at + bytes.len()];
    memory[..words.len()].copy_from_slice(&words);
    memory[bytes_at..].copy_from_slice(&bytes);
    let mut arguments = longs([0, results_at as u64], 2);
    arguments.extend(longs(spans.iter().map(|(at, _)| bytes_at as u64 + at), SPANS_MAX));
    let lengths = spans.iter().map(|(_, length)| *length).chain(std::iter::repeat(0)).take(SPANS_MAX);
    arguments.extend(lengths.flat_map(u32::to_le_bytes));
    for blocks in [1, 3] {
        let seen = kernels.run(CHECKSUM, (blocks, spans.len() as u32), &arguments, &memory);
        for (number, (at, length)) in spans.iter().enumerate() {
            let raw = seen[results_at + number * 4..].first_chunk().unwrap();
            let right = crc32fast::hash(&bytes[*at as usize..][..*length as usize]);
            assert_eq!(finish(u32::from_le_bytes(*raw), *length), right, "{length} bytes, {blocks} thread blocks");
        }
    }
}
