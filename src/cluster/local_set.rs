//! The node's own set: the same machine as any broker set, driven without Raft and without disk, for queues that end
//! with their connection or their node.
//!
//! Who kicks it applies what waits, under one lock, so an RPC costs no task switch here. Bodies stay in memory while
//! a message of their entry lives, and for one sweep more: whoever was just given a message it need not acknowledge still
//! has to read it. Deliveries carry their entry for as long as they wait. The memory alarm bounds them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::base::{Clock, Millis, SystemClock};
use crate::model::batch::{PooledBuffer, restamp};
use crate::model::set::{Command, Reply};
use crate::rt::Supervisor;

use super::outbox::Outbox;
use super::replica::{Deadline, SetReplica};

/// Sweep the dead entries after at least this many bytes or entries have come, and as many as the last sweep kept.
const SWEEP_BYTES: usize = 1024 * 1024;
const SWEEP_ENTRIES: usize = 1024;

/// See the module's head.
pub struct LocalSet {
    outbox: Arc<Outbox<Reply>>,
    deadline: Arc<Deadline>,
    inner: Mutex<Inner>,
    store: Arc<Entries>,
}

/// The set's entries by index.
#[derive(Debug, Default)]
pub struct Entries(Mutex<BTreeMap<u64, Bytes>>);

impl Entries {
    /// An entry's payload, while it is kept.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<Bytes> {
        self.0.lock().get(&index).cloned()
    }
}

struct Inner {
    replica: SetReplica,
    index: u64,
    last: Millis,
    /// Dead at the last sweep.
    doomed: BTreeSet<u64>,
    unswept_bytes: usize,
    unswept_entries: usize,
    sweep_at_bytes: usize,
    sweep_at_entries: usize,
}

impl LocalSet {
    /// An empty set behind `replica`'s outbox.
    #[must_use]
    pub fn new(outbox: Arc<Outbox<Reply>>, mut replica: SetReplica) -> Self {
        replica.lead(true);
        let deadline = replica.deadline();
        let store: Arc<Entries> = Arc::default();
        let replica = replica.with_entries(Arc::clone(&store));
        let inner = Inner {
            replica,
            index: 0,
            last: Millis(0),
            doomed: BTreeSet::new(),
            unswept_bytes: 0,
            unswept_entries: 0,
            sweep_at_bytes: SWEEP_BYTES,
            sweep_at_entries: SWEEP_ENTRIES,
        };
        Self {
            outbox,
            deadline,
            inner: Mutex::new(inner),
            store,
        }
    }

    /// Applies what waits in the outbox.
    pub fn kick(&self) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.last = inner.last.max(SystemClock.now());
        while let Some(payload) = self.outbox.seal(inner.last) {
            self.apply(inner, payload);
        }
    }

    /// Applies a batch that another node sealed.
    pub fn take_batch(&self, mut batch: PooledBuffer) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.last = inner.last.max(SystemClock.now());
        if !restamp(batch.filled(), inner.last) {
            tracing::warn!("a peer sent what is no batch");
            return;
        }
        let payload = batch.freeze();
        if inner.replica.check_entry(&payload) {
            self.apply(inner, payload);
        }
    }

    fn apply(&self, inner: &mut Inner, payload: Bytes) {
        inner.index += 1;
        self.store.0.lock().insert(inner.index, payload.clone());
        inner.replica.apply_entry(inner.index, &payload);
        inner.unswept_bytes += payload.len();
        inner.unswept_entries += 1;
        if inner.unswept_bytes >= inner.sweep_at_bytes
            || inner.unswept_entries >= inner.sweep_at_entries
        {
            self.sweep(inner);
        }
    }

    /// Drops the entries without a live message. Amortised: what stays has been paid for by as much that came.
    fn sweep(&self, inner: &mut Inner) {
        let live = inner.replica.machine().live();
        let doomed = std::mem::take(&mut inner.doomed);
        let (mut entries, mut bytes) = (0, 0);
        self.store.0.lock().retain(|index, payload| {
            if live.any(*index, *index) {
                entries += 1;
                bytes += payload.len();
                return true;
            }
            let first = !doomed.contains(index);
            if first {
                inner.doomed.insert(*index);
            }
            first
        });
        inner.sweep_at_bytes = bytes.max(SWEEP_BYTES);
        inner.sweep_at_entries = entries.max(SWEEP_ENTRIES);
        inner.unswept_bytes = 0;
        inner.unswept_entries = 0;
    }

    /// The payload of an entry, while a message of it lives.
    #[must_use]
    pub fn payload(&self, index: u64) -> Option<Bytes> {
        self.store.get(index)
    }

    /// Reads the machine.
    pub fn with<T>(&self, read: impl FnOnce(&SetReplica) -> T) -> T {
        read(&self.inner.lock().replica)
    }

    /// Fires the machine's deadlines until the node stops.
    pub async fn run(self: Arc<Self>, supervisor: Supervisor) {
        loop {
            let wait = self.deadline.get().map(|at| at.since(SystemClock.now()).0);
            if wait == Some(0) {
                self.outbox.push(&Command::Tick);
                self.kick();
                tokio::task::yield_now().await;
                continue;
            }
            let sleep = async {
                match wait {
                    Some(ms) => tokio::time::sleep(Duration::from_millis(ms.min(60_000))).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.deadline.earlier() => {}
                () = supervisor.stopping() => return,
            }
        }
    }
}
