//! What the raft floor asks of the machine it replicates.
//!
//! Shape: payload bytes in, in log order; snapshot bytes out; and, because the log is also the message store, a word
//! on which old entries still hold something the machine needs.
//! Invariants: `apply` sees each committed entry once per process life, in order, and nothing before `restore`
//! returned; every call is made under the machine's mutex and never from two threads at a time.
//! Not here: what the bytes mean.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// A machine refused what it was given.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct MachineError {
    /// What is wrong, in words an operator can act on.
    pub reason: String,
}

impl MachineError {
    /// An error that says `reason`.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

/// One old entry of which a part is still needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveEntry {
    /// Raft index of the entry.
    pub index: u64,
    /// Slots still needed, ascending and disjoint.
    pub slots: Vec<Range<u32>>,
}

/// Files a snapshot leans on, handed over by the machine at the moment of the snapshot.
///
/// Both calls are made outside the machine's mutex.
pub trait SnapshotPages: Send + Sync {
    /// Makes every page the snapshot names durable. The snapshot is published only after this succeeded.
    ///
    /// # Errors
    /// Whatever the disk says; the snapshot is then given up and the node stops.
    fn sync(&mut self) -> io::Result<()>;

    /// The snapshot is durable: what only older snapshots named may go.
    fn published(self: Box<Self>);
}

/// The pages that a machine's snapshots name. The bytes of an id are the same on every replica.
///
/// A peer's snapshot brings its pages: they are staged one by one, then adopted, then the machine is restored.
/// No call is made under the machine's mutex.
pub trait PageStore: Send + Sync {
    /// The bytes of a page.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn read(&self, id: u64) -> io::Result<Bytes>;

    /// Puts a page aside: it must not be seen yet, and be gone if the process ends.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn stage(&self, id: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes all staged pages durable and readable.
    ///
    /// # Errors
    /// Whatever the disk says; the snapshot is then given up and the node stops.
    fn adopt(&self) -> io::Result<()>;

    /// Forgets the staged pages.
    fn unstage(&self);
}

/// Shrinks the payload of one entry to the slots still needed; `None` keeps nothing of it.
pub type CompactPayload = fn(index: u64, payload: &Bytes, live: &[Range<u32>]) -> Option<Bytes>;

/// The replicated machine of a set as the raft floor sees it.
pub trait Machine: Send + 'static {
    /// Applies a committed entry, and runs its effects. `payload` is the very buffer of the log's tail cache: a clone
    /// of a part of it costs nothing but keeps the whole alive.
    fn apply(&mut self, index: u64, term: u64, payload: &Bytes);

    /// A committed entry without payload was passed: a new leader's first, or a change of members.
    fn applied_blank(&mut self, index: u64, term: u64) {
        let _ = (index, term);
    }

    /// The whole state as bytes, as of the last applied entry. The apply path waits for it, so it must be quick.
    fn snapshot(&mut self) -> Vec<u8>;

    /// Called right after [`Self::snapshot`], under the same lock: the files that snapshot leans on, if any.
    fn pages(&mut self) -> Option<Box<dyn SnapshotPages>> {
        None
    }

    /// The pages the state names, in any order. Called right after [`Self::snapshot`] or [`Self::restore`], under the
    /// same lock.
    fn page_ids(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Where these pages are, if the machine has any.
    fn page_store(&self) -> Option<Arc<dyn PageStore>> {
        None
    }

    /// Replaces the state by a snapshot's bytes. All pages it names are there.
    ///
    /// # Errors
    /// [`MachineError`] if the bytes are of another version or damaged; the replica then does not start.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError>;

    /// Bytes of entries `first..=last` that are still needed, counted or estimated; 0 exactly if none is.
    /// Asked once per old segment and snapshot.
    fn live_bytes(&self, first: u64, last: u64) -> u64 {
        let _ = (first, last);
        0
    }

    /// The entries of `first..=last` that are still needed, ascending. Asked only of segments that are nearly dead.
    fn live_entries(&self, first: u64, last: u64) -> Vec<LiveEntry> {
        let _ = (first, last);
        Vec::new()
    }

    /// See [`CompactPayload`]. Runs without the machine, off the apply path.
    fn compact_payload(index: u64, payload: &Bytes, live: &[Range<u32>]) -> Option<Bytes>
    where
        Self: Sized,
    {
        let _ = (index, live);
        Some(payload.clone())
    }

    /// This replica leads from now on (it has applied the first entry of its own term, so it has applied all that was
    /// committed before), or no longer does.
    fn leadership(&mut self, leading: bool, term: u64) {
        let _ = (leading, term);
    }
}
