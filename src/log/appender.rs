//! The end of the newest segment: bytes go in at any length, aligned blocks go out.
//!
//! The last block is rarely full; it stays in the buffer and is written again, with the same bytes in front, by the
//! next write. The buffer is allocated once, because the first touch of fresh memory is dear.

use std::io;
use std::sync::Arc;

use super::disk::DiskFile;

const BLOCK: usize = 4096;
const BUFFER: usize = 1024 * 1024;

/// Writes one segment from some offset on.
pub(super) struct Appender {
    file: Arc<dyn DiskFile>,
    memory: Vec<u8>,
    /// Where the aligned part of `memory` begins.
    align: usize,
    /// File offset of the buffer's first byte; a multiple of the block.
    base: u64,
    fill: usize,
    /// Bytes at the front that are already on disk.
    clean: usize,
    pub(super) writes: u64,
    pub(super) bytes_written: u64,
}

impl Appender {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> Self {
        let memory = vec![0; BUFFER + BLOCK];
        let align = memory.as_ptr().align_offset(BLOCK);
        Self {
            file,
            memory,
            align,
            base: 0,
            fill: 0,
            clean: 0,
            writes: 0,
            bytes_written: 0,
        }
    }

    /// Goes on in `file` at `end`, reading back the block it is in.
    pub(super) fn resume(
        &mut self,
        file: Arc<dyn DiskFile>,
        reader: &dyn DiskFile,
        end: u64,
    ) -> io::Result<()> {
        let rest = (end % BLOCK as u64) as usize;
        self.file = file;
        self.base = end - rest as u64;
        let block = super::disk::read_exact(reader, rest, self.base)?;
        self.memory[self.align..self.align + rest].copy_from_slice(&block);
        self.fill = rest;
        self.clean = rest;
        Ok(())
    }

    /// Whether the file is not yet `size` bytes long.
    pub(super) fn grows(&self, size: u64) -> bool {
        self.file.size().is_ok_and(|now| now < size)
    }

    /// Offset the next byte will have.
    pub(super) fn end(&self) -> u64 {
        self.base + self.fill as u64
    }

    /// Takes bytes; writes when the buffer is full.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let take = bytes.len().min(BUFFER - self.fill);
            let at = self.align + self.fill;
            self.memory[at..at + take].copy_from_slice(&bytes[..take]);
            self.fill += take;
            bytes = &bytes[take..];
            if self.fill == BUFFER {
                self.write()?;
            }
        }
        Ok(())
    }

    /// Writes what is not yet written and makes it durable.
    pub(super) fn commit(&mut self) -> io::Result<()> {
        self.write()?;
        if !self.file.durable_writes() {
            self.file.sync()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        if self.fill == self.clean {
            return Ok(());
        }
        let padded = self.fill.next_multiple_of(BLOCK);
        let buffer = &mut self.memory[self.align..self.align + BUFFER];
        buffer[self.fill..padded].fill(0);
        self.file.write_at(&buffer[..padded], self.base)?;
        let whole = self.fill / BLOCK * BLOCK;
        buffer.copy_within(whole..self.fill, 0);
        self.base += whole as u64;
        self.fill -= whole;
        self.clean = self.fill;
        self.writes += 1;
        self.bytes_written += padded as u64;
        Ok(())
    }
}
