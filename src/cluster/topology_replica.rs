//! The topology's machine behind the raft floor. Everyone on the node reads the same copy under a read lock; route
//! caches compare its version without one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::base::coding::{Reader, Truncated, Writer};
use crate::base::{Millis, NodeId, PipeId};
use crate::model::Meta;
use crate::model::batch::{Batch, BatchError, Item};
use crate::model::topology::{Topology, TopologyCommand, TopologyReply};
use crate::raft::{Machine, MachineError};

use super::outbox::Outbox;

/// A copy of the topology to read from.
#[derive(Debug, Default)]
pub struct SharedTopology {
    topology: RwLock<Topology>,
    version: AtomicU64,
    parts_version: AtomicU64,
    policies_version: AtomicU64,
    access_version: AtomicU64,
    changes: watch::Sender<u64>,
}

impl SharedTopology {
    /// Reads under the lock: no await inside.
    pub fn read<T>(&self, read: impl FnOnce(&Topology) -> T) -> T {
        read(&self.topology.read())
    }

    /// Tells of every change; a slow reader hears of the newest only.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Changes whenever a queue comes to live elsewhere.
    #[must_use]
    pub fn parts_version(&self) -> u64 {
        self.parts_version.load(Ordering::Acquire)
    }

    /// Changes whenever policies may mean something else for queues that exist.
    #[must_use]
    pub fn policies_version(&self) -> u64 {
        self.policies_version.load(Ordering::Acquire)
    }

    /// Changes whenever a user or a vhost goes.
    #[must_use]
    pub fn access_version(&self) -> u64 {
        self.access_version.load(Ordering::Acquire)
    }

    /// Publishes what of `topology` is read without its lock.
    fn publish(&self, topology: &Topology) {
        let pairs = [
            (&self.parts_version, topology.parts_version()),
            (&self.policies_version, topology.policies_version()),
            (&self.access_version, topology.access_version()),
        ];
        for (shared, version) in pairs {
            shared.store(version, Ordering::Release);
        }
        self.set_version(topology.version());
    }

    fn set_version(&self, version: u64) {
        if self.version.swap(version, Ordering::AcqRel) != version {
            self.changes.send_replace(version);
        }
    }

    /// Changes whenever anything in the topology does.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}

/// One replica of set 0.
#[derive(Debug)]
pub struct TopologyReplica {
    shared: Arc<SharedTopology>,
    outbox: Arc<Outbox<TopologyReply>>,
    /// Last applied (incarnation, sequence number) of each node's pipe.
    pipes: BTreeMap<NodeId, (u64, u64)>,
    last: Millis,
}

const SNAPSHOT_VERSION: u8 = 1;

impl TopologyReplica {
    /// An empty replica.
    #[must_use]
    pub fn new(shared: Arc<SharedTopology>, outbox: Arc<Outbox<TopologyReply>>) -> Self {
        Self {
            shared,
            outbox,
            pipes: BTreeMap::new(),
            last: Millis(0),
        }
    }

    /// The machine's clock.
    #[must_use]
    pub fn last_stamp(&self) -> Millis {
        self.last
    }

    fn apply_batch(&mut self, index: u64, payload: &Bytes) -> Result<(), BatchError> {
        let mut batch = Batch::new(payload)?;
        self.last = self.last.max(batch.stamp);
        let meta = Meta {
            index,
            now: self.last,
        };
        while let Some((chunk, mut items)) = batch.next_chunk()? {
            let pipe = chunk.pipe;
            let mut seq = chunk.first_seq;
            while let Some(item) = items.next_item()? {
                let Item::Opaque(bytes) = item else {
                    return Err(BatchError::Unknown);
                };
                if self.is_next(pipe, seq) {
                    self.pipes.insert(pipe.node, (pipe.incarnation, seq));
                    let command = TopologyCommand::decode(&mut Reader::new(bytes))
                        .map_err(|_| BatchError::Unknown)?;
                    let reply = {
                        let mut topology = self.shared.topology.write();
                        let reply = topology.apply(meta, command);
                        self.shared.publish(&topology);
                        reply
                    };
                    if pipe == self.outbox.pipe() {
                        self.outbox.reply(seq, reply);
                    }
                }
                seq += 1;
            }
            if pipe == self.outbox.pipe() {
                self.outbox.settled(self.last_seq(pipe), seq - 1);
            }
        }
        Ok(())
    }

    /// Last applied sequence number of the pipe; 0 if none of this incarnation was.
    fn last_seq(&self, pipe: PipeId) -> u64 {
        match self.pipes.get(&pipe.node) {
            Some((incarnation, seq)) if *incarnation == pipe.incarnation => *seq,
            _ => 0,
        }
    }

    /// Neither a repeat, nor of a past incarnation, nor one before which another is missing.
    fn is_next(&self, pipe: PipeId, seq: u64) -> bool {
        let known = self.pipes.get(&pipe.node).map_or(0, |known| known.0);
        pipe.incarnation >= known && seq == self.last_seq(pipe) + 1
    }

    fn restore_from(&mut self, bytes: &[u8]) -> Result<(), Truncated> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != SNAPSHOT_VERSION {
            return Err(Truncated);
        }
        self.last = Millis(reader.u64()?);
        self.pipes.clear();
        for _ in 0..reader.varint()? {
            let node = NodeId(reader.varint()?);
            self.pipes
                .insert(node, (reader.varint()?, reader.varint()?));
        }
        let mut topology = Topology::new();
        topology.restore(reader.rest()).map_err(|_| Truncated)?;
        let version = topology.version();
        *self.shared.topology.write() = topology;
        let skipped = [
            &self.shared.parts_version,
            &self.shared.policies_version,
            &self.shared.access_version,
        ];
        for version in skipped {
            version.fetch_add(1 << 32, Ordering::AcqRel);
        }
        self.shared.set_version(version);
        // Answers of entries that were skipped never come.
        let applied = self.last_seq(self.outbox.pipe());
        if applied > 0 {
            self.outbox.give_up(applied);
        }
        Ok(())
    }
}

impl Machine for TopologyReplica {
    fn apply(&mut self, index: u64, _term: u64, payload: &Bytes) {
        if let Err(error) = self.apply_batch(index, payload) {
            tracing::error!(index, %error, "a committed topology entry cannot be applied");
            std::process::abort();
        }
    }

    fn snapshot(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u8(SNAPSHOT_VERSION);
        out.put_u64_le(self.last.0);
        out.put_varint(self.pipes.len() as u64);
        for (node, (incarnation, seq)) in &self.pipes {
            out.put_varint(node.0);
            out.put_varint(*incarnation);
            out.put_varint(*seq);
        }
        out.put_slice(&self.shared.topology.read().snapshot());
        out
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        self.restore_from(bytes)
            .map_err(|_| MachineError::new("the topology's snapshot is damaged"))
    }
}
