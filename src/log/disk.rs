//! Every file operation of this floor, behind two traits, so that tests can tear, lose, corrupt and fill.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// For reading and writing through the page cache, created if it is not there.
    Write,
    /// For aligned writes past the page cache that are durable when they return; where the file system refuses,
    /// the same as `Write`. Created if it is not there.
    Direct,
}

/// One open file. Offsets and lengths are bytes.
pub trait DiskFile: Send + Sync {
    /// Fills as much of `buffer` from `offset` as there is, and says how much.
    ///
    /// # Errors
    /// What the disk says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the disk says; how much was written is then unknown.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes every completed write durable.
    ///
    /// # Errors
    /// What the disk says. Never to be tried again.
    fn sync(&self) -> io::Result<()>;
    /// Whether a write is durable when it returns, so that no sync is needed.
    fn durable_writes(&self) -> bool;
    /// Size in bytes.
    ///
    /// # Errors
    /// What the disk says.
    fn size(&self) -> io::Result<u64>;
}

/// A file system.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Makes a directory and its parents, if missing; durable when it returns.
    ///
    /// # Errors
    /// What the disk says.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens a file.
    ///
    /// # Errors
    /// What the disk says.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames over whatever has the new name. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// What the disk says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// What the disk says.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names of the files in a directory, sorted.
    ///
    /// # Errors
    /// What the disk says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes creations, renames and removals in a directory durable.
    ///
    /// # Errors
    /// What the disk says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes free for us.
    ///
    /// # Errors
    /// What the disk says.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// Reads exactly `len` bytes.
pub(super) fn read_exact(file: &dyn DiskFile, len: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let read = read_full(file, &mut bytes, offset)?;
    if read < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Reads until `buffer` is full or the file ends.
pub(super) fn read_full(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}

/// Where a file is made before it gets its name: the whole name and a suffix, because files of several kinds share
/// a directory and a number.
pub(super) fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".aside");
    name.into()
}

/// Passes a sync's result on; a failed one sets the flag, since it must never be tried again.
pub(super) fn or_poison<T>(result: io::Result<T>, poisoned: &AtomicBool) -> io::Result<T> {
    if result.is_err() {
        poisoned.store(true, Relaxed);
    }
    result
}

/// Writes a whole file aside and renames it into place. With a flag, bytes and name are made durable; a sync that
/// fails sets it.
pub(super) fn write_aside(
    disk: &dyn Disk,
    path: &Path,
    bytes: &[u8],
    sync: Option<&AtomicBool>,
) -> io::Result<()> {
    let aside = aside(path);
    match disk.remove(&aside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let file = disk.open(&aside, OpenMode::Write)?;
    file.write_at(bytes, 0)?;
    if let Some(poisoned) = sync {
        or_poison(file.sync(), poisoned)?;
    }
    disk.rename(&aside, path)?;
    if let Some(poisoned) = sync
        && let Some(dir) = path.parent()
    {
        or_poison(disk.sync_dir(dir), poisoned)?;
    }
    Ok(())
}
