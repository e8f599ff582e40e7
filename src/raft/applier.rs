//! openraft's state machine: feeds committed entries to the machine, takes and installs snapshots.
//!
//! Shape: entries come as a stream; each payload goes by reference to the machine, whose mutex is held for one entry
//! at a time, so that readers of the machine get in between. A snapshot is cut here, between two entries, and written
//! by a task of its own.
//! Invariants: the machine's state, `applied` and `members` always belong together when a snapshot is cut.
//! Not here: when snapshots are taken, what becomes of the log behind them ([`super::upkeep`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{Stream, StreamExt};
use openraft::RaftSnapshotBuilder;
use openraft::storage::{EntryResponder, RaftStateMachine};

use super::codec;
use super::machine::SnapshotPages;
use super::receiving::Arrived;
use super::shared::Shared;
use super::snapshot::{Held, SnapshotHandle, Source, blocking, decode, encode};
use super::types::{Blob, LogId, Payload, Snapshot, SnapshotMeta, StoredMembers, Types};
use super::upkeep::Liveness;
use crate::log::Log;

/// Feeds the machine.
pub struct Applier {
    shared: Arc<Shared>,
    applied: Option<LogId>,
    members: StoredMembers,
}

impl Applier {
    /// An applier whose machine stands where the newest snapshot, if any, left it.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let meta = shared
            .snapshot
            .lock()
            .as_ref()
            .map(|held| held.meta.clone());
        let meta = meta.unwrap_or_default();
        Self {
            shared,
            applied: meta.last_log_id,
            members: meta.last_membership,
        }
    }

    fn apply_one(&mut self, id: LogId, payload: &Payload) {
        let (index, term) = (id.index, id.leader_id.term);
        let mut machine = self.shared.machine.lock();
        match payload {
            Payload::Normal(Blob(bytes)) => {
                machine.apply(index, term, bytes);
                drop(machine);
                self.count(bytes.len() as u64);
            }
            Payload::Blank => machine.applied_blank(index, term),
            Payload::Members(members) => {
                machine.applied_blank(index, term);
                self.members = StoredMembers::new(Some(id), members.clone());
            }
        }
    }

    /// Makes what came with a snapshot this replica's own: pages, then log and snapshot at once.
    async fn put_in_place(&self, held: &Held, arrived: Arrived) -> io::Result<()> {
        let last = held.meta.last_log_id;
        let last = last.ok_or_else(|| io::Error::other("a snapshot of nothing"))?;
        let (shared, name) = (Arc::clone(&self.shared), held.name());
        blocking(move || {
            if let Some(pages) = arrived.pages() {
                pages.adopt()?;
            }
            let log = &shared.log;
            let bytes = arrived.bytes.clone();
            if holds(log, last) {
                // All that came before it is there as well, and what is behind it may be needed.
                return log.write_snapshot(name, &bytes).map_err(io::Error::other);
            }
            let mark = codec::id_meta(&last);
            let installed = log.install(arrived.records, last.index, mark, name, &bytes);
            installed.map_err(io::Error::other)
        })
        .await
    }

    fn count(&self, bytes: u64) {
        let due = self.shared.snapshot_every_bytes;
        let before = self.shared.replay_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before < due && before.saturating_add(bytes) >= due {
            self.shared.snapshot_due.notify_one();
        }
    }
}

impl RaftStateMachine<Types> for Applier {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = SnapshotWriter;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembers), io::Error> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.apply_one(entry.log_id, &entry.payload);
            let new_term =
                Some(entry.log_id.leader_id.term) != self.applied.map(|id| id.leader_id.term);
            self.applied = Some(entry.log_id);
            if new_term {
                // The first entry of a leader's own term makes it leading, and its followers ready.
                self.shared.applied(entry.log_id);
            }
            self.shared.note_applied(entry.log_id.index);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        if let Some(id) = self.applied {
            self.shared.applied(id);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<SnapshotWriter> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotWriter {
        let horizon = self.applied.map_or(0, |id| id.index);
        let segments = self.shared.log.segments();
        let mut machine = self.shared.machine.lock();
        let state = machine.snapshot();
        let pages = machine.pages();
        let page_ids = machine.page_ids();
        let live = Liveness::of(&*machine, &segments, horizon);
        drop(machine);
        let replayed = self.shared.replay_bytes.load(Ordering::Relaxed);
        SnapshotWriter {
            shared: Arc::clone(&self.shared),
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.members.clone(),
            },
            state,
            pages,
            page_ids,
            live,
            replayed,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotHandle,
    ) -> Result<(), io::Error> {
        let (bytes, arrived) = match snapshot.0 {
            Source::Received(arrived) => (arrived.bytes.clone(), Some(arrived)),
            Source::File { log, held } => {
                let read = move || log.read_snapshot(held.name()).map_err(io::Error::other);
                (blocking(read).await?, None)
            }
        };
        let (found, state) = decode(&bytes).map_err(io::Error::other)?;
        if found != *meta {
            return Err(io::Error::other("the snapshot is not the one announced"));
        }
        let mut held = Held::new(found);
        match arrived {
            Some(arrived) => self.put_in_place(&held, *arrived).await?,
            None => held.write(&self.shared.log, bytes).await?,
        }
        {
            let mut machine = self.shared.machine.lock();
            machine.restore(&state).map_err(io::Error::other)?;
            held.pages = machine.page_ids().into();
        }
        *self.shared.snapshot.lock() = Some(held);
        *self.shared.live.lock() = None;
        self.applied = meta.last_log_id;
        self.members = meta.last_membership.clone();
        let index = self.applied.map_or(0, |id| id.index);
        tracing::info!(set = %self.shared.set, index, "a snapshot of the leader was installed");
        if let Some(id) = self.applied {
            self.shared.note_applied(id.index);
            self.shared.applied(id);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let held = self.shared.snapshot.lock();
        Ok(held.as_ref().map(|held| held.snapshot(&self.shared.log)))
    }
}

/// Whether the log has exactly this entry.
fn holds(log: &Log, last: LogId) -> bool {
    let purged = log.purged().is_some_and(|(purged, _)| purged >= last.index);
    let found = log.get(last.index).ok().filter(|_| !purged);
    let term = found.and_then(|record| codec::record_term(&record.meta).ok());
    term.is_some_and(|(_, term)| term == last.leader_id.term)
}

/// A snapshot that is cut and not written yet.
pub struct SnapshotWriter {
    shared: Arc<Shared>,
    meta: SnapshotMeta,
    state: Vec<u8>,
    pages: Option<Box<dyn SnapshotPages>>,
    page_ids: Vec<u64>,
    live: Liveness,
    replayed: u64,
}

impl RaftSnapshotBuilder<Types> for SnapshotWriter {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let pages = self.pages.take();
        let pages = blocking(move || match pages {
            Some(mut pages) => pages.sync().map(|()| Some(pages)),
            None => Ok(None),
        })
        .await?;
        // What is applied was committed by a majority, which need not have included this disk: a snapshot that outlives
        // the entries before it would stand for bodies that are gone.
        let log = self.shared.log.clone();
        blocking(move || log.sync_barrier().map_err(io::Error::other)).await?;
        let bytes = encode(&self.meta, &self.state);
        self.state = Vec::new();
        let mut held = Held::new(self.meta.clone());
        held.pages = std::mem::take(&mut self.page_ids).into();
        held.live = Arc::new(self.live.scarcity());
        held.write(&self.shared.log, bytes).await?;
        let snapshot = held.snapshot(&self.shared.log);
        *self.shared.snapshot.lock() = Some(held);
        *self.shared.live.lock() = Some(std::mem::take(&mut self.live));
        self.shared
            .replay_bytes
            .fetch_sub(self.replayed, Ordering::Relaxed);
        if let Some(pages) = pages {
            let shared = Arc::clone(&self.shared);
            // While a snapshot is sent its pages stay; the next one that is published frees these too.
            blocking(move || Ok(shared.unpinned(|| pages.published()))).await?;
        }
        Ok(snapshot)
    }
}
