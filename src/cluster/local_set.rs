//! The node's own set: the same machine as any broker set, driven without Raft and without disk, for queues that end
//! with their connection or their node.
//!
//! Who kicks it applies what waits, under one lock, so an RPC costs no task switch here. Bodies stay in memory while
//! a message of their entry lives; the memory alarm bounds them.

use std::collections::BTreeMap;
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
    store: Mutex<BTreeMap<u64, Bytes>>,
}

struct Inner {
    replica: SetReplica,
    index: u64,
    last: Millis,
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
        let inner = Inner {
            replica,
            index: 0,
            last: Millis(0),
            unswept_bytes: 0,
            unswept_entries: 0,
            sweep_at_bytes: SWEEP_BYTES,
            sweep_at_entries: SWEEP_ENTRIES,
        };
        Self {
            outbox,
            deadline,
            inner: Mutex::new(inner),
            store: Mutex::default(),
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
        self.store.lock().insert(inner.index, payload.clone());
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
        let mut store = self.store.lock();
        store.retain(|index, _| live.any(*index, *index));
        let kept: usize = store.values().map(Bytes::len).sum();
        inner.sweep_at_bytes = kept.max(SWEEP_BYTES);
        inner.sweep_at_entries = store.len().max(SWEEP_ENTRIES);
        inner.unswept_bytes = 0;
        inner.unswept_entries = 0;
    }

    /// The payload of an entry, while a message of it lives.
    #[must_use]
    pub fn payload(&self, index: u64) -> Option<Bytes> {
        self.store.lock().get(&index).cloned()
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
