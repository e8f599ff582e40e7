//! A snapshot as bytes, as a file of the log, and as the handle openraft passes around.
//!
//! Shape of the bytes: version, last log id, members, length of the machine's bytes, these, and a crc32 of all before.
//! Invariants: a snapshot is published under its name only when it is whole and durable; one that does not check out
//! is never restored.
//! Not here: when one is taken; the bodies of messages, which stay in the log's segments.

use std::sync::Arc;
use std::{fmt, io};

use bytes::{BufMut, Bytes};

use super::codec::{self, CodecError};
use super::receiving::Arrived;
use super::shipping::Scarcity;
use super::types::{Snapshot, SnapshotMeta};
use crate::base::coding::{Reader, Truncated};
use crate::log::Log;

/// Why a snapshot's bytes cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SnapshotError {
    /// The checksum does not match.
    #[error("wrong checksum")]
    Checksum,
    /// The content is not what it should be.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl From<Truncated> for SnapshotError {
    fn from(error: Truncated) -> Self {
        Self::Codec(error.into())
    }
}

/// The bytes of a snapshot.
pub(super) fn encode(meta: &SnapshotMeta, state: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(state.len() + 256);
    codec::put_version(&mut out);
    codec::put_log_id(&mut out, meta.last_log_id.as_ref());
    codec::put_stored_members(&mut out, &meta.last_membership);
    out.put_u64_le(state.len() as u64);
    out.put_slice(state);
    let crc = crc32fast::hash(&out);
    out.put_u32_le(crc);
    Bytes::from(out)
}

/// What a snapshot says, and where in `bytes` the machine's own bytes are.
pub(super) fn decode(bytes: &Bytes) -> Result<(SnapshotMeta, Bytes), SnapshotError> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(Truncated)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(SnapshotError::Checksum);
    }
    let mut reader = Reader::new(body);
    codec::version(&mut reader)?;
    let last_log_id = codec::opt_log_id(&mut reader)?;
    let last_membership = codec::stored_members(&mut reader)?;
    let len = usize::try_from(reader.u64()?).map_err(|_| Truncated)?;
    let state = bytes.slice_ref(reader.bytes(len)?);
    let meta = SnapshotMeta {
        last_log_id,
        last_membership,
    };
    Ok((meta, state))
}

/// A snapshot on its way: either the newest file of this replica, or one that came from a peer with all it leans on.
pub struct SnapshotHandle(pub(super) Source);

/// Where a snapshot comes from.
pub(super) enum Source {
    File { log: Log, held: Held },
    Received(Box<Arrived>),
}

impl fmt::Debug for SnapshotHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::File { held, .. } => write!(f, "file {}", held.name),
            Source::Received(arrived) => write!(f, "{} bytes", arrived.bytes.len()),
        }
    }
}

impl SnapshotHandle {
    /// A snapshot that came from a peer.
    pub(super) fn received(arrived: Box<Arrived>) -> Self {
        Self(Source::Received(arrived))
    }
}

/// The newest durable snapshot of this replica.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) meta: SnapshotMeta,
    name: u64,
    /// The pages it names.
    pub(super) pages: Arc<[u64]>,
    /// What it does not need of the log.
    pub(super) live: Arc<Scarcity>,
}

impl Held {
    /// The newest snapshot on disk and the machine's bytes in it.
    pub(super) fn newest(log: &Log) -> Result<Option<(Self, Bytes)>, String> {
        let Some((name, bytes)) = log.newest_snapshot().map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let (meta, state) = decode(&bytes).map_err(|error| format!("number {name}: {error}"))?;
        Ok(Some((Self::new(meta), state)))
    }

    /// A snapshot with no pages that needs all of the log.
    pub(super) fn new(meta: SnapshotMeta) -> Self {
        Self {
            name: meta.last_log_id.map_or(0, |id| id.index + 1),
            meta,
            pages: Arc::default(),
            live: Arc::default(),
        }
    }

    /// The name of its file.
    pub(super) fn name(&self) -> u64 {
        self.name
    }

    /// Makes a snapshot durable and publishes it; older ones go. `bytes` is [`encode`]d.
    pub(super) async fn write(&self, log: &Log, bytes: Bytes) -> io::Result<()> {
        let (name, log) = (self.name, log.clone());
        blocking(move || log.write_snapshot(name, &bytes).map_err(io::Error::other)).await
    }

    /// As openraft knows it; its file is in `log`.
    pub(super) fn snapshot(&self, log: &Log) -> Snapshot {
        Snapshot {
            meta: self.meta.clone(),
            snapshot: SnapshotHandle(Source::File {
                log: log.clone(),
                held: self.clone(),
            }),
        }
    }
}

/// Runs something that waits for the disk where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if cfg!(feature = "sim") {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}
