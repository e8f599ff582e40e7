//! What can go wrong with a log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the log could not do what was asked. Cheap to clone: one failed sync answers many callers.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The disk is full.
    #[error("{path}: no space left on the disk")]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// An earlier write or sync failed, so nothing is written any more. After a failed fsync the kernel may have
    /// dropped the dirty pages and call the next one a success (Rebello et al., "Can Applications Recover from fsync
    /// Failures?", USENIX ATC 2020), so it is never tried again.
    #[error("the log is poisoned by an earlier failed write")]
    Poisoned,
    /// Bytes that were once durable do not check out.
    #[error("{path}: damaged at byte {offset}, records {first} to {last}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// First record index that may be lost.
        first: u64,
        /// Last record index that may be lost; `u64::MAX` if unknown.
        last: u64,
    },
    /// The record was deleted with its segment, or dropped by a compaction.
    #[error("record {index} is gone")]
    Gone {
        /// Its index.
        index: u64,
    },
    /// No such record was ever appended, or it was truncated.
    #[error("there is no record {index}")]
    Missing {
        /// Its index.
        index: u64,
    },
    /// A record's header or payload is longer than the format can say.
    #[error("record {index} is too large")]
    TooLarge {
        /// Its index.
        index: u64,
    },
    /// A record does not follow the last one.
    #[error("record {index} does not follow; expected {expected}")]
    NotContiguous {
        /// Its index.
        index: u64,
        /// The index that would follow.
        expected: u64,
    },
    /// The segment is still written, or holds records that are not purged, or does not exist.
    #[error("no sealed and purged segment begins at {first}")]
    SegmentInUse {
        /// The index asked for.
        first: u64,
    },
    /// Another log is on its way to take this one's place.
    #[error("an install is in progress")]
    Installing,
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The file has a version or kind this program does not know.
    #[error("{path}: unknown format")]
    Format {
        /// The file.
        path: PathBuf,
    },
}

impl LogError {
    /// Names the file of a failed operation.
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::StorageFull {
            return Self::DiskFull { path };
        }
        Self::Io {
            path,
            source: Arc::new(source),
        }
    }
}
