//! Snapshots: `<name>.snap`, written aside, synced, renamed; older ones go only when the new one is durable.
//!
//! | at | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic "LVRTSNP" and version 1 |
//! | 8 | 4 | crc32 of the content |
//! | 12 | | content |

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;

use super::LogError;
use super::disk::{Disk, OpenMode, read_exact, write_aside};

pub(super) const MAGIC: &[u8; 8] = b"LVRTSNP\x01";
const HEAD: usize = 12;

pub(super) fn path(dir: &Path, name: u64) -> PathBuf {
    dir.join(format!("{name:020}.snap"))
}

/// Frames `bytes` with `magic` and a crc.
pub(super) fn seal(magic: &[u8; 8], bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + bytes.len());
    out.extend_from_slice(magic);
    out.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    out.extend_from_slice(bytes);
    out
}

/// Reads a sealed file whole and checks it.
pub(super) fn unseal(disk: &dyn Disk, path: &Path, magic: &[u8; 8]) -> Result<Bytes, LogError> {
    let failed = |error| LogError::io(path, error);
    let file = disk.open(path, OpenMode::Read).map_err(failed)?;
    let size = usize::try_from(file.size().map_err(failed)?).unwrap_or(usize::MAX);
    let bytes = Bytes::from(read_exact(&*file, size, 0).map_err(failed)?);
    let sound = bytes.len() >= HEAD
        && bytes.starts_with(magic)
        && bytes[8..HEAD] == crc32fast::hash(&bytes[HEAD..]).to_le_bytes();
    if !sound {
        return Err(LogError::Damaged {
            path: path.to_owned(),
            offset: 0,
            first: 0,
            last: u64::MAX,
        });
    }
    Ok(bytes.slice(HEAD..))
}

/// Makes a snapshot durable, then removes all but it and the one before. A sync that fails sets the flag, after which
/// nothing more is written.
///
/// # Errors
/// [`LogError::Io`], [`LogError::DiskFull`], [`LogError::Poisoned`].
pub(super) fn write(
    disk: &dyn Disk,
    dir: &Path,
    name: u64,
    bytes: &[u8],
    poisoned: &AtomicBool,
) -> Result<(), LogError> {
    if poisoned.load(Relaxed) {
        return Err(LogError::Poisoned);
    }
    let path = path(dir, name);
    write_aside(disk, &path, &seal(MAGIC, bytes), Some(poisoned))
        .map_err(|error| LogError::io(&path, error))?;
    let older: Vec<u64> = names(disk, dir)?
        .into_iter()
        .filter(|one| *one < name)
        .collect();
    for old in older.iter().rev().skip(1) {
        let old = self::path(dir, *old);
        disk.remove(&old)
            .map_err(|error| LogError::io(&old, error))?;
    }
    Ok(())
}

fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, LogError> {
    let names = disk.list(dir).map_err(|error| LogError::io(dir, error))?;
    let stems = names.iter().filter_map(|name| name.strip_suffix(".snap"));
    Ok(stems.filter_map(|stem| stem.parse().ok()).collect())
}

/// The newest snapshot that checks out.
///
/// # Errors
/// [`LogError::Damaged`] if there are some and none does.
pub fn newest(disk: &dyn Disk, dir: &Path) -> Result<Option<(u64, Bytes)>, LogError> {
    let mut first_error = None;
    for name in names(disk, dir)?.into_iter().rev() {
        match read(disk, dir, name) {
            Ok(bytes) => return Ok(Some((name, bytes))),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(None), Err)
}

/// One snapshot.
///
/// # Errors
/// [`LogError::Damaged`], [`LogError::Io`].
pub fn read(disk: &dyn Disk, dir: &Path, name: u64) -> Result<Bytes, LogError> {
    unseal(disk, &path(dir, name), MAGIC)
}
