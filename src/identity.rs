//! Who this data folder belongs to: `node.meta`, and the lock that keeps a second process out.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `LVRTNODE` |
//! | 8 | 4 | version, 1 |
//! | 12 | 8 | node id |
//! | 20 | 8 | incarnation: counts the node's starts |
//! | 28 | 4 | crc32 of all before |
//!
//! Little-endian. Written aside, synced and renamed at every start, before anything uses the incarnation.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BufMut;

use crate::base::coding::{Reader, Truncated};
use crate::base::{NodeId, PipeId};

const MAGIC: &[u8; 8] = b"LVRTNODE";
const VERSION: u32 = 1;
/// The first node of a cluster.
const FIRST_NODE: NodeId = NodeId(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system says no.
    #[error("{path}: {error}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another process has it.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// It was not written by this program, by a newer one, or it is damaged.
    #[error("{0} is damaged or of an unknown version; it is not touched")]
    Unknown(PathBuf),
}

/// A data folder that is ours while this lives.
#[derive(Debug)]
pub struct Identity {
    /// This node, in this incarnation.
    pub pipe: PipeId,
    _lock: File,
}

impl Identity {
    /// Makes or opens a data folder and begins a new incarnation. A process that was just killed may hold the folder for
    /// a moment: that is waited for, at most `patience`.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn open(dir: &Path, patience: Duration) -> Result<Self, IdentityError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| IdentityError::Io { path, error }
        };
        fs::create_dir_all(dir).map_err(at(dir))?;
        let lock_path = dir.join("lock");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let lock = options.open(&lock_path).map_err(at(&lock_path))?;
        take(&lock, &lock_path, patience)?;
        let path = dir.join("node.meta");
        let last = match fs::read(&path) {
            Ok(bytes) => decode(&bytes).ok_or_else(|| IdentityError::Unknown(path.clone()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => PipeId {
                node: FIRST_NODE,
                incarnation: 0,
            },
            Err(error) => return Err(at(&path)(error)),
        };
        let pipe = PipeId {
            incarnation: last.incarnation + 1,
            ..last
        };
        let aside = dir.join("node.meta.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&aside)?;
            file.write_all(&encode(pipe))?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(at(&path))?;
        Ok(Self { pipe, _lock: lock })
    }
}

fn take(lock: &File, path: &Path, patience: Duration) -> Result<(), IdentityError> {
    let mut waited = Duration::ZERO;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if waited < patience => {
                std::thread::sleep(LOCK_RETRY);
                waited += LOCK_RETRY;
            }
            Err(TryLockError::WouldBlock) => {
                let dir = path.parent().unwrap_or(path);
                return Err(IdentityError::InUse(dir.to_owned()));
            }
            Err(TryLockError::Error(error)) => {
                return Err(IdentityError::Io {
                    path: path.to_owned(),
                    error,
                });
            }
        }
    }
}

fn encode(pipe: PipeId) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    out.put_slice(MAGIC);
    out.put_u32_le(VERSION);
    out.put_u64_le(pipe.node.0);
    out.put_u64_le(pipe.incarnation);
    let crc = crc32fast::hash(&out);
    out.put_u32_le(crc);
    out
}

fn decode(bytes: &[u8]) -> Option<PipeId> {
    let read = || -> Result<Option<PipeId>, Truncated> {
        let mut reader = Reader::new(bytes);
        let known = reader.bytes(8)? == MAGIC && reader.u32()? == VERSION;
        let pipe = PipeId {
            node: NodeId(reader.u64()?),
            incarnation: reader.u64()?,
        };
        let whole = crc32fast::hash(bytes.get(..28).unwrap_or_default()) == reader.u32()?;
        Ok((known && whole && reader.is_empty()).then_some(pipe))
    };
    read().ok().flatten()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_bytes_of_node_meta_stay() {
        let pipe = PipeId {
            node: NodeId(1),
            incarnation: 2,
        };
        let bytes = encode(pipe);
        assert_eq!(
            &bytes[..28],
            b"LVRTNODE\x01\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0"
        );
        assert_eq!(decode(&bytes), Some(pipe));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(decode(&changed), None, "byte {at}");
            assert_eq!(decode(&bytes[..at]), None);
        }
    }

    #[test]
    fn every_start_is_a_new_incarnation_and_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path(), Duration::ZERO).unwrap();
        assert_eq!(first.pipe.incarnation, 1);
        assert!(matches!(
            Identity::open(dir.path(), Duration::ZERO),
            Err(IdentityError::InUse(_))
        ));
        drop(first);
        assert_eq!(
            Identity::open(dir.path(), Duration::ZERO)
                .unwrap()
                .pipe
                .incarnation,
            2
        );
        fs::write(dir.path().join("node.meta"), b"something else").unwrap();
        assert!(matches!(
            Identity::open(dir.path(), Duration::ZERO),
            Err(IdentityError::Unknown(_))
        ));
    }
}
