//! What the tests of the index share: a subject of the conformance suite, a model, and a process that can be killed.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use futures::executor::block_on;
use kvtier_engine::place::Slot;
use kvtier_engine::port::{Index, IndexChange, IndexEntry};
use kvtier_identity::BlockId;
use kvtier_index::conformance::{Subject, sample_entry, sample_space};
use kvtier_index::{IndexSettings, RocksIndex};
use tempfile::TempDir;

pub fn settings() -> IndexSettings {
    IndexSettings { cache_bytes: 1 << 20, ..IndexSettings::default() }
}

/// RocksDB flushes by itself every few hundred blocks.
pub fn small_buffers() -> IndexSettings {
    IndexSettings { write_buffer_bytes: 64 << 10, ..settings() }
}

/// Makes RocksDB indexes, each in a directory of its own.
#[derive(Default)]
pub struct Rocks {
    directories: Vec<TempDir>,
}

impl Subject for Rocks {
    fn create(&mut self) -> Arc<dyn Index> {
        self.directories.push(tempfile::tempdir().unwrap());
        RocksIndex::open(self.directories.last().unwrap().path(), settings()).unwrap()
    }

    fn reopen(&mut self, index: Arc<dyn Index>) -> Arc<dyn Index> {
        assert_eq!(Arc::strong_count(&index), 1);
        drop(index);
        RocksIndex::open(self.directories.last().unwrap().path(), settings()).unwrap()
    }
}

/// The naive index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub blocks: BTreeMap<u128, IndexEntry>,
    pub spaces: BTreeSet<u32>,
    pub slots: BTreeSet<Slot>,
    pub covered: u64,
}

impl Model {
    pub fn apply(&mut self, changes: &[IndexChange], covers: u64) {
        for change in changes {
            match change {
                IndexChange::Put(block, entry) => drop(self.blocks.insert(block.0, entry.clone())),
                IndexChange::Remove(block) => drop(self.blocks.remove(&block.0)),
                IndexChange::PutSpace(space) => drop(self.spaces.insert(space.number)),
                IndexChange::RemoveSpace(number) => drop(self.spaces.remove(number)),
                IndexChange::Quarantine(slot) => drop(self.slots.insert(*slot)),
            }
        }
        self.covered = covers;
    }

    /// The state after the batches 1 to `covered` of [`batch`].
    pub fn after(covered: u64) -> Self {
        let mut model = Self::default();
        (1..=covered).for_each(|number| model.apply(&batch(number), number));
        model
    }

    /// Everything the index says, read through the port.
    pub fn of(index: &dyn Index) -> Result<Self, kvtier_engine::port::IndexError> {
        let mut model = Self { covered: index.applied(), ..Self::default() };
        let mut after = None;
        loop {
            let chunk = block_on(index.scan(after, 100))?;
            after = chunk.last().map(|(block, _)| *block);
            let more = chunk.len() == 100;
            model.blocks.extend(chunk.into_iter().map(|(block, entry)| (block.0, entry)));
            if !more {
                break;
            }
        }
        for space in block_on(index.spaces())? {
            assert_eq!(space, sample_space(space.number));
            model.spaces.insert(space.number);
        }
        model.slots.extend(block_on(index.quarantined())?);
        let asked: Vec<BlockId> = model.blocks.keys().copied().map(BlockId).collect();
        for (block, entry) in asked.iter().zip(block_on(index.get_many(asked.clone()))?) {
            assert_eq!(entry.as_ref(), model.blocks.get(&block.0), "lookup and scan disagree about {block}");
        }
        Ok(model)
    }
}

/// Batch number `number` of an endless, fixed history: puts, overwrites, removals, spaces and slots.
pub fn batch(number: u64) -> Vec<IndexChange> {
    let mut changes = Vec::new();
    for step in 0..20 {
        let mixed = (number * 20 + step).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let block = BlockId(u128::from(mixed % 500) << 100 | u128::from(mixed % 500));
        changes.push(match mixed >> 60 {
            0..=3 => IndexChange::Remove(block),
            4 => IndexChange::PutSpace(Box::new(sample_space((mixed % 50) as u32))),
            5 => IndexChange::RemoveSpace((mixed % 50) as u32),
            6 => IndexChange::Quarantine(Slot { device: 0, offset: (mixed % 900) << 20, bytes: 8192 }),
            _ => IndexChange::Put(block, sample_entry(u128::from(mixed))),
        });
    }
    changes
}

/// A child process with an index, told what to do line by line. It is this test program, running [`puppet_main`].
pub struct Puppet {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Puppet {
    /// Starts the test `test_name`, which calls [`puppet_main`], under `wrapper` (e.g. `["unshare", "--mount"]`).
    pub fn start(wrapper: &[&str], test_name: &str, directory: &Path) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = match wrapper.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        let mut child = command
            .args(["--exact", test_name, "--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut puppet = Self { child, stdin, stdout };
        puppet.send(directory.to_str().unwrap());
        puppet
    }

    /// The number of its process, unless a wrapper runs in between.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn send(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
        self.stdin.flush().unwrap();
    }

    /// The next answer; `None` when the child is gone.
    pub fn answer(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.stdout.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(at) = line.find("puppet: ") {
                return Some(line[at + "puppet: ".len()..].trim_end().to_owned());
            }
        }
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.answer().unwrap_or_else(|| panic!("the child died at {line:?}"))
    }

    /// SIGKILL: no destructor runs, nothing is flushed. Returns the answers that were still on their way.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.answer()).collect()
    }
}

/// The child's side: opens an index, then obeys `apply N`, `flush`, `applied`, `check` (against the model), `reopen`, `ballast`
/// (a file that takes all room of a small disk) and `unload` (without it).
pub fn puppet_main(settings: IndexSettings) {
    let mut lines = std::io::stdin().lines().map(Result::unwrap);
    // Started by hand or by `--include-ignored`: there is nobody to take orders from.
    let Some(directory) = lines.next() else { return };
    let open = || match RocksIndex::open(Path::new(&directory), settings.clone()) {
        Ok(index) => {
            println!("puppet: open {}", index.applied());
            Some(index)
        }
        Err(error) => {
            println!("puppet: open {error:?}");
            None
        }
    };
    let mut slot = open();
    let ballast = Path::new(&directory).join("ballast");
    for line in lines {
        if line == "reopen" {
            drop(slot.take());
            slot = open();
            continue;
        }
        let index = slot.as_ref();
        let index = || index.expect("an index is open").clone();
        let answer = match line.split_once(' ') {
            Some(("apply", number)) => {
                let number = number.parse().unwrap();
                format!("apply {:?}", block_on(index().apply(batch(number), number)))
            }
            None if line == "flush" => format!("flush {:?}", block_on(index().flush())),
            None if line == "applied" => format!("applied {}", index().applied()),
            None if line == "check" => {
                let found = Model::of(&*index()).unwrap();
                format!("check {} {}", found.covered, found == Model::after(found.covered))
            }
            None if line == "ballast" => format!("ballast {:?}", fill_disk(&ballast)),
            None if line == "unload" => {
                format!("unload {:?}", std::fs::remove_file(&ballast).map_err(|error| error.kind()))
            }
            _ => panic!("unknown order {line:?}"),
        };
        println!("puppet: {answer}");
    }
}

fn fill_disk(ballast: &Path) -> std::io::ErrorKind {
    let mut file = std::fs::File::create(ballast).unwrap();
    loop {
        if let Err(error) = file.write_all(&[1; 4096]) {
            return error.kind();
        }
    }
}
