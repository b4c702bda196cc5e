//! Reads a file through a buffer that slides forward. What a length field may make us allocate is bounded here.

use std::io;

use kvtier_device::LogFile;

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// A view of a file up to `end`.
pub(crate) struct Window<'f> {
    file: &'f dyn LogFile,
    base: u64,
    bytes: Vec<u8>,
    end: u64,
}

impl<'f> Window<'f> {
    /// Nothing behind `end` is ever shown.
    pub(crate) fn new(file: &'f dyn LogFile, end: u64) -> Self {
        Self { file, base: 0, bytes: Vec::new(), end }
    }

    /// Where the view ends.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The `bytes` bytes from `offset`; fewer only at the end of the view or of the file.
    pub(crate) async fn at(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        if offset >= self.end {
            return Ok(&[]);
        }
        let bytes = bytes.min(usize::try_from(self.end - offset).unwrap_or(usize::MAX));
        if !self.holds(offset, bytes) {
            self.slide(offset, bytes).await?;
        }
        let from = usize::try_from(offset - self.base).expect("the window was moved there");
        let held = self.bytes.get(from..).unwrap_or(&[]);
        Ok(&held[..bytes.min(held.len())])
    }

    /// What is buffered from `offset` on, at least `bytes` unless the view ends before.
    pub(crate) async fn run(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        self.at(offset, bytes).await?;
        let from = usize::try_from(offset.saturating_sub(self.base)).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..).unwrap_or(&[]))
    }

    fn holds(&self, offset: u64, bytes: usize) -> bool {
        offset >= self.base && offset + bytes as u64 <= self.base + self.bytes.len() as u64
    }

    async fn slide(&mut self, offset: u64, bytes: usize) -> io::Result<()> {
        let left = usize::try_from(self.end - offset).unwrap_or(usize::MAX);
        let wanted = bytes.max(CHUNK_BYTES).min(left);
        self.bytes = self.file.read_at(offset, wanted).await?;
        self.bytes.truncate(wanted);
        self.base = offset;
        Ok(())
    }
}
