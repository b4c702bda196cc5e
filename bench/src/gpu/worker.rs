//! A worker process: owns GPU memory, says its handle, writes and sums it when told to. Never cleans up.

use std::io::{BufRead, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use kvtier_hbm::checksum::{SPAN_ALIGNMENT, SPANS_MAX, Span};
use kvtier_hbm::conformance::{Dice, Shuttle};
use kvtier_hbm::cuda::{CudaGpu, probe};
use kvtier_hbm::gpu::{Gpu, IPC_HANDLE_BYTES, IpcHandle, Lane, MemoryId, Place};
use kvtier_hbm::simulated::{Machine, Simulated};

use super::Failure;

/// Enough that the GPU is never idle between two.
const KERNELS_AHEAD: usize = 16;

/// What the process is to own.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerOptions {
    /// Bytes of its memory.
    #[arg(long)]
    bytes: u64,
    /// What is in it follows from it.
    #[arg(long)]
    seed: u64,
}

/// Serves until its input ends: one line of output with the handle, then one for each line of input. `sum`: the CRC32;
/// `compute`: keeps the GPU busy from then on.
pub fn serve(options: &WorkerOptions) -> Result<(), Failure> {
    probe()?;
    let owned = Arc::new(Owned::new(Arc::new(CudaGpu::open(0)?), options.bytes, options.seed)?);
    let mut output = std::io::stdout();
    writeln!(output, "{}", hex(&owned.handle))?;
    output.flush()?;
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "compute" => {
                owned.compute()?;
                let busy = Arc::clone(&owned);
                // Until somebody kills the process, or the GPU is lost.
                std::thread::spawn(move || while busy.compute().is_ok() {});
                writeln!(output, "computing")?;
            }
            _ => writeln!(output, "{:08x}", owned.checksum()?)?,
        }
        output.flush()?;
    }
    Ok(())
}

/// GPU memory with bytes that follow from a seed.
struct Owned {
    gpu: Arc<dyn Gpu>,
    memory: MemoryId,
    /// Pinned: where its kernels answer.
    answers: MemoryId,
    bytes: u64,
    handle: IpcHandle,
}

impl Owned {
    fn new(gpu: Arc<dyn Gpu>, bytes: u64, seed: u64) -> Result<Self, Failure> {
        let memory = gpu.allocate(bytes)?;
        Shuttle::new(&gpu)?.upload(Place { memory, offset: 0 }, &content(seed, bytes))?;
        let (handle, answers) = (gpu.export(memory)?, gpu.pin(4 * SPANS_MAX as u64)?);
        Ok(Self { gpu, memory, answers, bytes, handle })
    }

    fn checksum(&self) -> Result<u32, Failure> {
        // Whoever wrote has said so; its writes are ordered before this by the messages between the processes.
        self.gpu.wait(self.gpu.mark(Lane::LoadIn)?)?;
        let read = Shuttle::new(&self.gpu)?.download(Place { memory: self.memory, offset: 0 }, self.bytes as usize)?;
        Ok(crc32fast::hash(&read))
    }
}

impl Owned {
    /// Kernels back to back, over all of its memory; waits for the first of them.
    fn compute(&self) -> Result<(), Failure> {
        let answers = Place { memory: self.answers, offset: 0 };
        let each = self.bytes / SPANS_MAX as u64 / SPAN_ALIGNMENT * SPAN_ALIGNMENT;
        let span = |number| Span { at: Place { memory: self.memory, offset: number * each }, bytes: each as u32 };
        let spans: Vec<Span> = (0..SPANS_MAX as u64).map(span).collect();
        let mut marks = Vec::with_capacity(KERNELS_AHEAD);
        for _ in 0..KERNELS_AHEAD {
            self.gpu.checksum(Lane::SaveOut, &spans, answers)?;
            marks.push(self.gpu.mark(Lane::SaveOut)?);
        }
        Ok(marks.into_iter().try_for_each(|mark| self.gpu.wait(mark))?)
    }
}

/// What a worker with that seed begins with.
pub(super) fn content(seed: u64, bytes: u64) -> Vec<u8> {
    Dice::new(seed).bytes(bytes as usize)
}

/// A worker, seen from outside.
pub(super) enum Worker {
    /// A process.
    Process(Child),
    /// Another simulated device of the same machine: there is no memory between simulated processes.
    Inside(Box<dyn FnMut() -> Result<u32, Failure>>),
}

impl Worker {
    /// Starts one and hears its handle.
    pub(super) fn start(simulated: Option<&Arc<Machine>>, bytes: u64, seed: u64) -> Result<(Self, IpcHandle), Failure> {
        if let Some(machine) = simulated {
            let owned = Owned::new(Arc::new(Simulated::new(machine, seed, bytes)), bytes, seed)?;
            let handle = owned.handle;
            return Ok((Self::Inside(Box::new(move || owned.checksum())), handle));
        }
        let mut child = Command::new(std::env::current_exe()?)
            .args(["gpu-worker", "--bytes", &bytes.to_string(), "--seed", &seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let line = read_line(&mut child)?;
        let handle = unhex(&line).ok_or_else(|| format!("the worker said {line:?} instead of its handle"))?;
        Ok((Self::Process(child), handle))
    }

    /// CRC32 of what its memory holds now, as it sees it itself.
    pub(super) fn checksum(&mut self) -> Result<u32, Failure> {
        match self {
            Self::Inside(checksum) => checksum(),
            Self::Process(child) => {
                let input = child.stdin.as_mut().ok_or("the worker has no input")?;
                writeln!(input, "sum")?;
                input.flush()?;
                Ok(u32::from_str_radix(&read_line(child)?, 16)?)
            }
        }
    }

    /// Has its kernels keep the GPU busy from now on.
    pub(super) fn compute(&mut self) -> Result<(), Failure> {
        let Self::Process(child) = self else { return Err("only a process of its own can compute".into()) };
        let input = child.stdin.as_mut().ok_or("the worker has no input")?;
        writeln!(input, "compute")?;
        input.flush()?;
        match read_line(child)?.as_str() {
            "computing" => Ok(()),
            other => Err(format!("the worker said {other:?} instead of computing").into()),
        }
    }

    /// Kills it, as kill -9 does, and waits until it is gone.
    pub(super) fn kill(self) -> Result<(), Failure> {
        if let Self::Process(mut child) = self {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

fn read_line(child: &mut Child) -> Result<String, Failure> {
    let output = child.stdout.as_mut().ok_or("the worker has no output")?;
    let mut line = Vec::new();
    let mut byte = [0];
    // Byte by byte: nothing of the next line may be taken.
    while std::io::Read::read(output, &mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(String::from_utf8(line)?)
}

fn hex(handle: &IpcHandle) -> String {
    handle.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<IpcHandle> {
    let mut handle = [0; IPC_HANDLE_BYTES];
    if text.len() != 2 * IPC_HANDLE_BYTES || !text.is_ascii() {
        return None;
    }
    for (at, byte) in handle.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(IpcHandle(handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_reads_as_it_is_written() {
        let handle = IpcHandle(std::array::from_fn(|at| at as u8 * 3));
        assert_eq!(unhex(&hex(&handle)), Some(handle));
        assert_eq!(unhex("00"), None);
        assert_eq!(unhex(&"zz".repeat(IPC_HANDLE_BYTES)), None);
    }
}
