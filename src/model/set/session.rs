//! Consumers come and go: subscribe, unsubscribe, the limits of channels, and the end of channels, sessions, nodes.
//!
//! Invariant: whoever goes leaves no lease behind, except a cancelled consumer, which stays until its last one ends.
//! Not here: deletion of queues (perform.rs).

use std::collections::{BTreeSet, VecDeque};

use super::Source;
use super::command::ConsumerConfig;
use super::effect::{Effect, Effects, Reply};
use super::lease::{Channel, Consumer, Leases};
use super::machine::SetMachine;
use crate::base::{ConsumerId, NodeId, PipeId, QueueId, SessionId};

impl SetMachine {
    pub(super) fn subscribe(
        &mut self,
        source: Source,
        id: ConsumerId,
        queue_id: QueueId,
        config: ConsumerConfig,
        effects: &mut Effects,
    ) {
        let reply = |reply| Effect::Reply(source, reply);
        let Some(queue) = self.queues.get_mut(&queue_id) else {
            effects.push(reply(Reply::NoQueue));
            return;
        };
        if self.ground.consumers.contains_key(&id) {
            effects.push(reply(Reply::Subscribed));
            return;
        }
        let alone = queue.attached.is_empty() && !queue.config.single_active;
        if queue.exclusive.is_some() || (config.exclusive && !alone) {
            effects.push(reply(Reply::ExclusiveUse));
            return;
        }
        let place = (config.session, config.channel);
        // A channel's limit does not reach streams, whose consumers have a credit of their own.
        let limited = !queue.is_stream() && self.ground.channels.contains_key(&place);
        let ground = &mut self.ground;
        let cursor = queue
            .stream
            .as_ref()
            .map(|stream| stream.seek(config.start, ground.now, ground.store.get_mut()));
        let consumer = Consumer {
            queue: queue_id,
            session: config.session,
            channel: config.channel,
            pipe: source.pipe,
            attached: true,
            getter: false,
            no_ack: config.no_ack,
            until_sent: config.until_sent,
            priority: config.priority,
            credit: config.credit,
            visibility: config.visibility,
            overdue: config.overdue,
            parked: false,
            limited,
            next_no: 1,
            unsettled: 0,
            leases: Leases::default(),
            on_way: VecDeque::new(),
            armed: None,
            cursor,
        };
        self.ground.consumers.insert(id, consumer);
        self.ground.totals.consumers += 1;
        queue.attached.push(id);
        queue.holders.insert(id);
        queue
            .rotation
            .entry(std::cmp::Reverse(config.priority))
            .or_default()
            .push_back(id);
        if config.exclusive {
            queue.exclusive = Some(id);
        }
        queue.elect(&self.ground);
        self.members.insert((config.session, config.channel, id));
        self.opened.insert((source.pipe, config.session));
        effects.push(reply(Reply::Subscribed));
        queue.settle_down(&mut self.ground, effects);
    }

    /// Detaches; returns the queue if this was its last consumer and it deletes itself.
    pub(super) fn detach(&mut self, id: ConsumerId) -> Option<QueueId> {
        let consumer = self.ground.consumers.get_mut(&id)?;
        if !consumer.attached {
            return None;
        }
        consumer.attached = false;
        let queue = self.queues.get_mut(&consumer.queue)?;
        queue.detach(id, &mut self.ground);
        (queue.config.auto_delete && queue.attached.is_empty()).then_some(queue.id)
    }

    pub(super) fn unsubscribe(&mut self, id: ConsumerId, effects: &mut Effects) -> Reply {
        let queue = self
            .ground
            .consumers
            .get(&id)
            .map(|consumer| consumer.queue);
        let deleted = self.detach(id);
        if let Some(gone) = deleted {
            self.delete(gone, effects);
            effects.push(Effect::QueueGone(gone));
        } else if let Some(queue) = queue {
            self.settle_down(queue, effects);
        }
        self.forget_if_idle(id);
        Reply::Unsubscribed { deleted }
    }

    pub(super) fn limit_channel(
        &mut self,
        pipe: PipeId,
        session: SessionId,
        channel: u16,
        limit: u32,
        effects: &mut Effects,
    ) {
        let members = self.members_of(session, Some(channel));
        let mut unsettled = 0;
        for id in &members {
            if let Some(consumer) = self.ground.consumers.get_mut(id) {
                consumer.limited = limit > 0 && consumer.cursor.is_none();
                if consumer.cursor.is_none() {
                    unsettled += consumer.unsettled;
                }
            }
        }
        if limit > 0 {
            self.ground
                .channels
                .insert((session, channel), Channel { limit, unsettled });
            self.opened.insert((pipe, session));
        } else {
            self.ground.channels.remove(&(session, channel));
        }
        let mut touched = Vec::new();
        self.unpark_channel(session, channel, &mut touched);
        for queue in touched {
            self.settle_down(queue, effects);
        }
    }

    /// Ends a session or channel: its leases return, queues that lived for its consumers go.
    pub(super) fn close(
        &mut self,
        session: SessionId,
        channel: Option<u16>,
        effects: &mut Effects,
    ) -> Vec<QueueId> {
        let members = self.members_of(session, channel);
        let deleted: Vec<QueueId> = members.iter().filter_map(|id| self.detach(*id)).collect();
        let mut touched = BTreeSet::new();
        for queue in &deleted {
            self.delete(*queue, effects);
            effects.push(Effect::QueueGone(*queue));
        }
        for id in &members {
            self.release(*id, &mut touched, effects);
        }
        let to = channel.map_or((0, u16::MAX), |channel| (channel, channel));
        let limits: Vec<_> = self
            .ground
            .channels
            .range((session, to.0)..=(session, to.1))
            .map(|(k, _)| *k)
            .collect();
        for key in limits {
            self.ground.channels.remove(&key);
        }
        if channel.is_none() {
            self.opened.retain(|(_, other)| *other != session);
        }
        for queue in touched {
            self.settle_down(queue, effects);
        }
        deleted
    }

    pub(super) fn release(
        &mut self,
        id: ConsumerId,
        touched: &mut BTreeSet<QueueId>,
        effects: &mut Effects,
    ) {
        let Some(consumer) = self.ground.consumers.get_mut(&id) else {
            return;
        };
        touched.insert(consumer.queue);
        let mut taken = Vec::new();
        consumer.leases.take(0, u64::MAX, &mut taken);
        for (_, lease) in taken {
            if let Some(queue) = self.queues.get_mut(&lease.queue) {
                touched.insert(lease.queue);
                queue.unlease(&lease.piece, &mut self.ground);
                queue.give_back(lease.piece, true, &mut self.ground, effects);
                queue.holders.remove(&id);
            }
        }
        self.forget(id);
    }

    /// A node has started again: what its older incarnations held is released.
    pub(super) fn release_older(&mut self, pipe: PipeId, effects: &mut Effects) {
        for session in self.sessions_before(pipe) {
            self.close(session, None, effects);
        }
    }

    /// A node is thought lost: what it held is released. Should it live, its consumers hear that they ended.
    pub(super) fn close_node(&mut self, node: NodeId, incarnation: u64, effects: &mut Effects) {
        let end = PipeId {
            node,
            incarnation: incarnation.saturating_add(1),
        };
        for session in self.sessions_before(end) {
            let members = self.members_of(session, None);
            effects.extend(members.into_iter().map(Effect::Cancelled));
            self.close(session, None, effects);
        }
    }

    fn sessions_before(&self, end: PipeId) -> BTreeSet<SessionId> {
        let from = PipeId {
            node: end.node,
            incarnation: 0,
        };
        self.opened
            .range((from, SessionId(0))..(end, SessionId(0)))
            .map(|(_, session)| *session)
            .collect()
    }
}
