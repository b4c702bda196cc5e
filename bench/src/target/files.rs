//! `files` and `files-direct`: a folder with one file per block, which is what vLLM's file system tier keeps.
//!
//! A put writes a file of another name and renames it; a get opens, reads and closes. Blocks of one request go through
//! several threads at once. `files` goes through the page cache, `files-direct` past it (O_DIRECT). A durable put syncs
//! every file before it is renamed, and the folder once a request.
//!
//! Memory: buffers of one block, as many as threads can fill and one more, used again and again, aligned for O_DIRECT.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use rustix::fs::OFlags;

use super::{Consumer, Failure, Put, PutTally, Session, Setup, Target};

/// What O_DIRECT wants lengths and addresses to be multiples of.
pub const ALIGNMENT: usize = 4096;
/// Threads of one session: copies out of the page cache need few, a disk needs some in flight.
const THREADS_BUFFERED: usize = 4;
const THREADS_DIRECT: usize = 8;

/// A folder.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
    direct: bool,
    durable: bool,
}

impl Files {
    /// Below the run's folder.
    pub fn open(setup: &Setup, direct: bool) -> Result<Self, Failure> {
        if setup.endpoint.is_some() {
            return Err("a folder has no endpoint; leave it out".into());
        }
        let folder = setup.folder.join("blocks");
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, direct, durable: setup.durable })
    }

    fn threads(&self) -> usize {
        if self.direct { THREADS_DIRECT } else { THREADS_BUFFERED }
    }

    fn path(&self, key: &[u8]) -> PathBuf {
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(name)
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        if self.direct {
            options.custom_flags(OFlags::DIRECT.bits() as i32);
        }
        options
    }

    fn write(&self, block: &Put, spare: &Spare) -> io::Result<()> {
        let path = self.path(&block.key);
        let unfinished = path.with_extension("tmp");
        let mut file = self.options().write(true).create(true).truncate(true).open(&unfinished)?;
        let aligned = block.bytes.as_ptr().align_offset(ALIGNMENT) == 0;
        if self.direct && !aligned {
            let mut buffer = spare.take(block.bytes.len());
            buffer.bytes_mut().copy_from_slice(&block.bytes);
            file.write_all(buffer.bytes_mut())?;
            spare.give(buffer);
        } else {
            file.write_all(&block.bytes)?;
        }
        if self.durable {
            file.sync_all()?;
        }
        std::fs::rename(unfinished, path)
    }

    /// `None`: there is no such block.
    fn read(&self, path: &Path, spare: &Spare) -> io::Result<Option<Buffer>> {
        let mut file = match self.options().read(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut buffer = spare.take(length);
        file.read_exact(buffer.bytes_mut())?;
        Ok(Some(buffer))
    }
}

impl Target for Files {
    fn name(&self) -> String {
        if self.direct { "files-direct".to_owned() } else { "files".to_owned() }
    }

    fn guarantees(&self) -> String {
        let durable = if self.durable { "each synced before it is seen" } else { "what the kernel has written so far" };
        format!("no checksum; {durable}; no bound, nothing is ever evicted; permissions of the folder")
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("threads of a session".to_owned(), self.threads().to_string())]
    }

    fn session(&self, _lane: usize) -> Result<Box<dyn Session>, Failure> {
        Ok(Box::new(FileSession { files: self.clone(), spare: Spare::default() }))
    }

    fn chill(&self) -> Result<(), Failure> {
        match self.direct {
            true => Ok(()),
            false => {
                Err("files in the page cache cannot be made cold without the machine's other files; use files-direct"
                    .into())
            }
        }
    }
}

struct FileSession {
    files: Files,
    spare: Spare,
}

impl Session for FileSession {
    fn put(&mut self, _parent: Option<&Bytes>, blocks: &[Put]) -> Result<PutTally, Failure> {
        let (next, files, spare) = (AtomicUsize::new(0), &self.files, &self.spare);
        let write_some = || {
            while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                files.write(block, spare)?;
            }
            Ok::<_, io::Error>(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..files.threads().min(blocks.len())).map(|_| scope.spawn(write_some)).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| io::Error::other("a thread panicked"))?)
        })?;
        if files.durable {
            File::open(&files.folder)?.sync_all()?;
        }
        Ok(PutTally { stored: blocks.len(), ..PutTally::default() })
    }

    fn lookup(&mut self, keys: &[Bytes]) -> Result<usize, Failure> {
        Ok(keys.iter().take_while(|key| self.files.path(key).exists()).count())
    }

    fn get(&mut self, keys: &[Bytes], consumer: &mut Consumer<'_>) -> Result<(), Failure> {
        let (next, files, spare) = (AtomicUsize::new(0), &self.files, &self.spare);
        std::thread::scope(|scope| {
            let (give, take) = sync_channel(1);
            for _ in 0..files.threads().min(keys.len()) {
                let (give, next) = (give.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(key) = keys.get(index) else { return };
                        // Nobody listens any more: the request has failed.
                        if give.send((index, files.read(&files.path(key), spare))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(give);
            for (index, read) in take {
                if let Some(mut buffer) = read? {
                    consumer.bytes(index, buffer.bytes_mut());
                    spare.give(buffer);
                }
            }
            Ok(())
        })
    }

    fn forget(&mut self, keys: &[Bytes]) -> Result<(), Failure> {
        Ok(keys.iter().try_for_each(|key| std::fs::remove_file(self.files.path(key)))?)
    }
}

/// Bytes that begin at a multiple of [`ALIGNMENT`].
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    from: usize,
    length: usize,
}

impl Buffer {
    /// Zeroed.
    pub fn new(length: usize) -> Self {
        let memory = vec![0; length + ALIGNMENT];
        let from = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, from, length }
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.length]
    }

    /// The same memory, shared and never written again.
    pub fn freeze(self) -> Bytes {
        Bytes::from(self.memory).slice(self.from..self.from + self.length)
    }
}

/// Buffers nobody uses right now.
#[derive(Debug, Default)]
struct Spare(Mutex<Vec<Buffer>>);

impl Spare {
    fn take(&self, length: usize) -> Buffer {
        let found = self.0.lock().expect("nobody panics with the buffers").pop();
        found.filter(|buffer| buffer.length == length).unwrap_or_else(|| Buffer::new(length))
    }

    fn give(&self, buffer: Buffer) {
        self.0.lock().expect("nobody panics with the buffers").push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;
    use crate::target::consumer::{Expected, Reading};

    fn setup(folder: &Path) -> Setup {
        Setup {
            folder: folder.into(),
            block_bytes_max: 8192,
            data_bytes: 1 << 20,
            memory_bytes: 1 << 20,
            lanes: 1,
            durable: true,
            endpoint: None,
        }
    }

    #[test]
    fn files_give_back_what_was_put_and_stop_where_a_block_is_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let pattern = Pattern::default();
        let key = |number: u8| Bytes::from(vec![number; 32]);
        let put = |number: u8| Put { key: key(number), bytes: pattern.make(u64::from(number), 8192).into() };
        for direct in [false, true] {
            let files = Files::open(&setup(folder.path()), direct).expect("a folder");
            let mut session = files.session(0).expect("a session");
            session.put(None, &[put(0), put(1), put(2)]).expect("written");
            session.forget(&[key(1)]).expect("removed");
            assert_eq!(session.lookup(&[key(0), key(1), key(2)]).expect("looked up"), 1);
            let expected: Vec<_> = (0..3).map(|number| Expected { number, bytes: 8192 }).collect();
            let mut consumer = Consumer::new(&pattern, Reading::Verify, &expected);
            session.get(&[key(0), key(1), key(2)], &mut consumer).expect("read");
            assert_eq!(consumer.finish(), Ok(1));
        }
    }
}
