//! Queues that live in several sets: what concerns a whole queue goes to each of its parts, and a consumer is attached to
//! all of them, also to those that come while it runs.
//!
//! A queue that moves has two parts for a while, one that drains and one that takes what is new; its consumers see one
//! queue throughout.

use crate::amqp::ProtocolError;
use crate::base::{ConsumerId, QueueId, SetId};
use crate::cluster::Cluster;
use crate::model::set::{Command, Reply};
use crate::model::topology::QueueRecord;

use super::connection::Connection;
use super::consume::{Consumer, Kind};
use super::queues::Asker;

/// A consumer's prefetch in each of `parts`: they share it, each has at least one.
pub(super) fn share(prefetch: u16, parts: usize) -> u32 {
    let parts = u32::try_from(parts.max(1)).unwrap_or(u32::MAX);
    u32::from(prefetch).div_ceil(parts).max(1)
}

/// Deletes what several parts of a queue hold; nobody waits for it.
pub(super) fn drop_parts(cluster: &Cluster, queue: QueueId) {
    let sets: Vec<SetId> = cluster.topology.read(|topology| {
        let record = topology.queue_by_id(queue);
        record.map_or_else(Vec::new, |record| record.sets().collect())
    });
    if sets.len() < 2 {
        return;
    }
    for set in sets {
        if let Some(handle) = cluster.set(set) {
            handle.push(&Command::Delete {
                queue,
                if_unused: false,
                if_empty: false,
            });
            handle.kick();
        }
    }
}

impl Asker {
    /// Asks every part; the answers in the order of the parts.
    pub(super) async fn ask_parts(
        &self,
        record: &QueueRecord,
        command: &Command,
    ) -> Result<Vec<Reply>, ProtocolError> {
        let mut asked = Vec::new();
        for set in record.sets() {
            asked.push(self.set(set)?.asking(command));
        }
        let mut replies = Vec::with_capacity(asked.len());
        for answer in asked {
            replies.push(answer.answer().await?);
        }
        Ok(replies)
    }

    /// Deletes a queue; of several parts none if one is in use or not empty, as far as that is known.
    pub(super) async fn delete_parts(
        &self,
        record: &QueueRecord,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<Reply, ProtocolError> {
        let several = record.parts.len() > 1;
        if several && (if_unused || if_empty) {
            let inspect = Command::Inspect {
                queue: record.id,
                touch: false,
            };
            for reply in self.ask_parts(record, &inspect).await? {
                match reply {
                    Reply::Counts { ready, .. } if if_empty && ready > 0 => {
                        return Ok(Reply::NotEmpty);
                    }
                    Reply::Counts { consumers, .. } if if_unused && consumers > 0 => {
                        return Ok(Reply::InUse);
                    }
                    _ => {}
                }
            }
        }
        let delete = Command::Delete {
            queue: record.id,
            if_unused: if_unused && !several,
            if_empty: if_empty && !several,
        };
        let mut all = 0;
        for reply in self.ask_parts(record, &delete).await? {
            match reply {
                Reply::Count(messages) => all += messages,
                other => return Ok(other),
            }
        }
        Ok(Reply::Count(all))
    }

    /// See [`drop_parts`].
    pub(super) fn drop_parts(&self, queue: QueueId) {
        drop_parts(&self.node.cluster, queue);
    }
}

impl Connection {
    /// Queues came to live elsewhere: every consumer follows its own.
    pub(super) fn follow_queues(&mut self) {
        let open = self
            .consumers
            .iter()
            .filter(|(_, entry)| entry.kind == Kind::Open);
        let open: Vec<ConsumerId> = open.map(|(consumer, _)| *consumer).collect();
        for consumer in open {
            self.follow_queue(consumer);
        }
    }

    /// Attaches a consumer to the parts of its queue it is not attached to.
    pub(super) fn follow_queue(&mut self, consumer: ConsumerId) {
        let Some(entry) = self.consumers.get(&consumer) else {
            return;
        };
        let Some(config) = entry.config else { return };
        let record = self
            .node
            .cluster
            .topology
            .read(|topology| topology.queue_by_id(entry.queue).cloned());
        let Some(record) = record else { return };
        let attached = |set: &SetId| entry.parts.iter().any(|(known, _)| known == set);
        let missing: Vec<SetId> = record.sets().filter(|set| !attached(set)).collect();
        let (channel, no_ack, window) = (entry.channel, entry.no_ack, entry.window);
        for set in missing {
            let part = self.add_consumer(channel, &record, set, Kind::Part);
            if let Some(entry) = self.consumers.get_mut(&part) {
                entry.main = consumer;
                entry.no_ack = no_ack;
                entry.window = window;
            }
            if let Some(entry) = self.consumers.get_mut(&consumer) {
                entry.parts.push((set, part));
            }
            let subscribe = Command::Subscribe {
                consumer: part,
                queue: record.id,
                config,
            };
            let since = self.push(set, &subscribe);
            if let Some(entry) = self.consumers.get_mut(&part) {
                entry.since = since;
            }
        }
    }

    /// Where a consumer is attached, itself included.
    pub(super) fn attached(&self, consumer: ConsumerId) -> Vec<ConsumerId> {
        let mut all = vec![consumer];
        if let Some(entry) = self.consumers.get(&consumer) {
            let parts = entry.parts.iter().map(|(_, part)| *part);
            all.extend(parts.filter(|part| *part != consumer));
        }
        all
    }

    /// Detached by the client's wish: it stays until what it holds is settled.
    pub(super) fn detached(&mut self, consumer: ConsumerId) {
        let Some(entry) = self.consumers.get_mut(&consumer) else {
            return;
        };
        if entry.unsettled == 0 {
            return self.forget_consumer(consumer);
        }
        let counted = entry.kind != Kind::Part;
        entry.kind = Kind::Cancelled;
        if counted {
            self.node.stats.consumers.dec();
        }
    }

    /// One part of a consumer's queue is gone; whether others are left.
    pub(super) fn leaves_parts(&mut self, main: ConsumerId, part: ConsumerId) -> bool {
        let Some(entry) = self.consumers.get_mut(&main) else {
            return false;
        };
        let Consumer { parts, .. } = entry;
        parts.retain(|(_, known)| *known != part);
        !parts.is_empty()
    }
}
