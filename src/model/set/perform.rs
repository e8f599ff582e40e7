//! What each command does to the queues.
//!
//! Every command ends with `settle_down` of the queues it touched, which keeps the machine's main invariant.

use std::collections::{BTreeMap, BTreeSet};

use super::command::{ConsumerConfig, Enqueue, Outcome, Overflow, QueueConfig};
use super::effect::{DeathReason, Effect, Effects, Reply};
use super::lease::{Channel, Consumer, Lease, Leases, Piece, Timer};
use super::machine::SetMachine;
use super::pages::{NEVER, Run};
use super::queue::{Ground, Queue};
use super::{Command, Credit, Source};
use crate::base::{ConsumerId, Millis, PipeId, Position, QueueId, SessionId};

impl SetMachine {
    pub(super) fn perform(
        &mut self,
        source: Source,
        skip: u32,
        command: Command,
        effects: &mut Effects,
    ) {
        let reply = match command {
            Command::Enqueue(run) => {
                self.enqueue(source, skip, run, effects);
                return;
            }
            Command::Settle {
                consumer,
                first,
                last,
                outcome,
            } => {
                self.settle(consumer, first, last, outcome, effects);
                return;
            }
            Command::Grant { consumer, add } => {
                self.grant(consumer, add, effects);
                return;
            }
            Command::DeadLettered { queue, id } => {
                if let Some(queue) = self.queues.get_mut(&queue)
                    && let Some((position, _)) = queue.outbox.remove(&id)
                {
                    self.ground.live.remove(position, 1);
                }
                return;
            }
            Command::OpenPipe => {
                self.release_older(source.pipe, effects);
                return;
            }
            Command::Tick => return,
            Command::Subscribe {
                consumer,
                queue,
                config,
            } => {
                self.subscribe(source, consumer, queue, config, effects);
                return;
            }
            Command::Create { queue, config } => self.create(queue, *config),
            Command::Configure { queue, config } => self.configure(queue, *config, effects),
            Command::Delete {
                queue,
                if_unused,
                if_empty,
            } => self.delete_if(queue, if_unused, if_empty, effects),
            Command::Purge { queue } => match self.queues.get_mut(&queue) {
                Some(queue) => Reply::Count(queue.purge(&mut self.ground)),
                None => Reply::NoQueue,
            },
            Command::Inspect { queue, touch } => self.inspect(queue, touch),
            Command::Unsubscribe { consumer } => self.unsubscribe(consumer, effects),
            Command::LimitChannel {
                session,
                channel,
                limit,
            } => {
                self.limit_channel(source.pipe, session, channel, limit, effects);
                Reply::Done
            }
            Command::Get {
                queue,
                holder,
                session,
                channel,
                no_ack,
            } => self.get(
                source.pipe,
                queue,
                (holder, session, channel),
                no_ack,
                effects,
            ),
            Command::CloseSession { session, channel } => {
                let deleted = self.close(session, channel, effects);
                Reply::Closed { deleted }
            }
        };
        effects.push(Effect::Reply(source, reply));
    }

    fn enqueue(&mut self, source: Source, skip: u32, run: Enqueue, effects: &mut Effects) {
        let slots = Position::SLOTS_MAX;
        if run.count <= skip
            || u64::from(run.first.slot()) + u64::from(run.count) > u64::from(slots)
        {
            return;
        }
        let Some(queue) = self.queues.get_mut(&run.queue) else {
            return;
        };
        let ground = &mut self.ground;
        let ttl = match (queue.config.message_ttl, run.ttl) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let delay = run.delay.filter(|delay| delay.0 > 0);
        let visible_at = ground.now.plus(delay.unwrap_or_default());
        let priority = run.priority.unwrap_or(queue.config.default_priority);
        let mut piece = Piece {
            run: Run {
                first: run.first.plus(skip),
                count: run.count - skip,
                size: run.size,
                expires_at: ttl.map_or(NEVER, |ttl| visible_at.plus(ttl)),
            },
            acquired: 0,
            failed: 0,
            level: priority.min(queue.config.max_priority.unwrap_or(0)),
        };
        if queue.config.overflow == Overflow::DropHead {
            admit(
                queue,
                piece,
                delay.map(|_| visible_at),
                ttl,
                ground,
                effects,
            );
            queue.settle_down(ground, effects);
            return;
        }
        let mut seq = source.seq + u64::from(skip);
        loop {
            let room = queue.room(piece.run.size);
            let all = room >= u64::from(piece.run.count);
            if room == 0 {
                break;
            }
            let part = if all { piece } else { piece.split(room as u32) };
            seq += u64::from(part.run.count);
            admit(queue, part, delay.map(|_| visible_at), ttl, ground, effects);
            queue.settle_down(ground, effects);
            if all {
                return;
            }
        }
        refuse(queue, Source { seq, ..source }, piece, ground, effects);
    }

    /// Ends or extends the leases `first ..= last` of a consumer.
    fn settle(
        &mut self,
        id: ConsumerId,
        first: u64,
        last: u64,
        outcome: Outcome,
        effects: &mut Effects,
    ) {
        let asked = last.checked_sub(first).map_or(0, |n| n.saturating_add(1));
        let late = &mut self.ground.totals.late_settles;
        let Some(consumer) = self.ground.consumers.get_mut(&id) else {
            *late = late.saturating_add(asked);
            return;
        };
        let mut taken = Vec::new();
        if asked > 0 {
            consumer.leases.take(first, last, &mut taken);
        }
        let count: u64 = taken
            .iter()
            .map(|(_, l)| u64::from(l.piece.run.count))
            .sum();
        *late = late.saturating_add(asked - count);
        if let Outcome::Extend { visibility } = outcome {
            let deadline = self.ground.now.plus(visibility);
            for (no, lease) in taken {
                consumer
                    .leases
                    .push_extended(no, Lease { deadline, ..lease });
                Ground::arm(
                    &mut self.ground.timers,
                    &mut consumer.armed,
                    deadline,
                    Timer::Leases(id),
                );
            }
            return;
        }
        self.end_leases(
            id,
            &taken,
            effects,
            |queue, piece, ground, effects| match outcome {
                Outcome::Requeue { failed } => queue.give_back(piece, failed, ground, effects),
                Outcome::Reject => queue.retire(piece, DeathReason::Rejected, ground, effects),
                Outcome::Ack | Outcome::Extend { .. } => {
                    let count = u64::from(piece.run.count);
                    ground.totals.acked += count;
                    ground.live.remove(piece.run.first, count);
                }
            },
        );
    }

    pub(super) fn expire_leases(
        &mut self,
        id: ConsumerId,
        at: Millis,
        budget: &mut usize,
        effects: &mut Effects,
    ) {
        let Some(consumer) = self.ground.consumers.get_mut(&id) else {
            return;
        };
        consumer.armed = None;
        let mut taken = Vec::new();
        while *budget > 0
            && let Some(lease) = consumer.leases.take_due(at)
        {
            *budget -= 1;
            self.ground.totals.leases_expired += u64::from(lease.1.piece.run.count);
            taken.push(lease);
        }
        if let Some(next) = consumer.leases.earliest() {
            Ground::arm(
                &mut self.ground.timers,
                &mut consumer.armed,
                next,
                Timer::Leases(id),
            );
        }
        self.end_leases(id, &taken, effects, |queue, piece, ground, effects| {
            queue.give_back(piece, false, ground, effects);
        });
    }

    /// Gives each ended lease to `each`, then frees the capacity and serves who waits.
    fn end_leases(
        &mut self,
        id: ConsumerId,
        taken: &[(u64, Lease)],
        effects: &mut Effects,
        mut each: impl FnMut(&mut Queue, Piece, &mut Ground, &mut Effects),
    ) {
        let mut touched: Vec<QueueId> = Vec::new();
        let mut count = 0;
        for (_, lease) in taken {
            count += u64::from(lease.piece.run.count);
            if let Some(queue) = self.queues.get_mut(&lease.queue) {
                queue.unlease(&lease.piece, &mut self.ground);
                each(queue, lease.piece, &mut self.ground, effects);
            }
            if touched.last() != Some(&lease.queue) {
                touched.push(lease.queue);
            }
        }
        self.free(id, count, &mut touched);
        if touched.len() > 1 {
            touched.sort_unstable();
            touched.dedup();
        }
        for id in touched {
            self.settle_down(id, effects);
        }
        self.forget_if_idle(id);
    }

    fn settle_down(&mut self, id: QueueId, effects: &mut Effects) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.settle_down(&mut self.ground, effects);
        }
    }

    /// Returns the capacity of `count` settled messages.
    fn free(&mut self, id: ConsumerId, count: u64, touched: &mut Vec<QueueId>) {
        let Some(consumer) = self.ground.consumers.get_mut(&id) else {
            return;
        };
        consumer.unsettled -= count;
        let (limited, session, channel) = (consumer.limited, consumer.session, consumer.channel);
        self.unpark(id, touched);
        if limited && count > 0 {
            if let Some(channel) = self.ground.channels.get_mut(&(session, channel)) {
                channel.unsettled = channel.unsettled.saturating_sub(count);
            }
            self.unpark_channel(session, channel, touched);
        }
    }

    fn unpark_channel(&mut self, session: SessionId, channel: u16, touched: &mut Vec<QueueId>) {
        for id in self.members_of(session, Some(channel)) {
            self.unpark(id, touched);
        }
    }

    fn unpark(&mut self, id: ConsumerId, touched: &mut Vec<QueueId>) {
        let Some(consumer) = self.ground.consumers.get_mut(&id) else {
            return;
        };
        if !consumer.attached {
            return;
        }
        if !touched.contains(&consumer.queue) {
            touched.push(consumer.queue);
        }
        if consumer.parked
            && let Some(queue) = self.queues.get_mut(&consumer.queue)
        {
            consumer.parked = false;
            queue
                .rotation
                .entry(std::cmp::Reverse(consumer.priority))
                .or_default()
                .push_back(id);
        }
    }

    fn members_of(&self, session: SessionId, channel: Option<u16>) -> Vec<ConsumerId> {
        let (from, to) = channel.map_or((0, u16::MAX), |channel| (channel, channel));
        let range = (session, from, ConsumerId(0))..=(session, to, ConsumerId(u64::MAX));
        self.members.range(range).map(|(_, _, id)| *id).collect()
    }

    /// Removes a cancelled consumer whose last lease has ended.
    fn forget_if_idle(&mut self, id: ConsumerId) {
        let idle = |c: &Consumer| !c.attached && !c.getter && c.leases.is_empty();
        if self.ground.consumers.get(&id).is_some_and(idle) {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: ConsumerId) {
        let Some(consumer) = self.ground.consumers.remove(&id) else {
            return;
        };
        if let Some(at) = consumer.armed {
            self.ground.timers.remove(&(at, Timer::Leases(id)));
        }
        self.members
            .remove(&(consumer.session, consumer.channel, id));
        if let Some(queue) = self.queues.get_mut(&consumer.queue) {
            queue.holders.remove(&id);
        }
    }

    fn grant(&mut self, id: ConsumerId, add: u32, effects: &mut Effects) {
        let Some(consumer) = self.ground.consumers.get_mut(&id) else {
            return;
        };
        if let Credit::Window(window) = &mut consumer.credit {
            *window = window.saturating_add(add);
        }
        let mut touched = Vec::new();
        self.unpark(id, &mut touched);
        for queue in touched {
            self.settle_down(queue, effects);
        }
    }

    fn create(&mut self, id: QueueId, config: QueueConfig) -> Reply {
        if !self.queues.contains_key(&id) {
            let mut queue = Queue::new(id, config, self.ground.now);
            queue.touch(&mut self.ground);
            self.queues.insert(id, queue);
            self.ground.totals.queues += 1;
        }
        Reply::Done
    }

    fn configure(&mut self, id: QueueId, config: QueueConfig, effects: &mut Effects) -> Reply {
        let Some(queue) = self.queues.get_mut(&id) else {
            return Reply::NoQueue;
        };
        queue.config = config;
        if queue.config.single_active && queue.active.is_none() {
            queue.active = queue.attached.first().copied();
        }
        queue.touch(&mut self.ground);
        queue.settle_down(&mut self.ground, effects);
        Reply::Done
    }

    fn inspect(&mut self, id: QueueId, touch: bool) -> Reply {
        let Some(queue) = self.queues.get_mut(&id) else {
            return Reply::NoQueue;
        };
        if touch {
            queue.touch(&mut self.ground);
        }
        let stats = queue.stats();
        Reply::Counts {
            ready: stats.ready,
            unsettled: stats.unsettled,
            consumers: stats.consumers,
        }
    }

    fn delete_if(
        &mut self,
        id: QueueId,
        if_unused: bool,
        if_empty: bool,
        effects: &mut Effects,
    ) -> Reply {
        let Some(queue) = self.queues.get(&id) else {
            return Reply::Count(0);
        };
        if if_empty && queue.ready > 0 {
            return Reply::NotEmpty;
        }
        if if_unused && !queue.attached.is_empty() {
            return Reply::InUse;
        }
        Reply::Count(self.delete(id, effects))
    }

    /// Takes a queue away with all it holds; returns how many were ready. Its consumers hear of it.
    pub(super) fn delete(&mut self, id: QueueId, effects: &mut Effects) -> u64 {
        let Some(mut queue) = self.queues.remove(&id) else {
            return 0;
        };
        let ground = &mut self.ground;
        let count = queue.purge(ground);
        for piece in queue.delayed.values() {
            ground
                .live
                .remove(piece.run.first, u64::from(piece.run.count));
        }
        for (position, _) in queue.outbox.values() {
            ground.live.remove(*position, 1);
        }
        let timers = [
            (queue.heads_armed, Timer::Heads(id)),
            (queue.delayed_armed, Timer::Delayed(id)),
            (queue.expires_armed, Timer::Expires(id)),
        ];
        for (armed, timer) in timers {
            if let Some(at) = armed {
                ground.timers.remove(&(at, timer));
            }
        }
        ground.totals.queues -= 1;
        ground.totals.consumers -= queue.attached.len() as u64;
        for consumer in &queue.attached {
            effects.push(Effect::Cancelled(*consumer));
        }
        let mut touched = Vec::new();
        for holder in std::mem::take(&mut queue.holders) {
            self.drop_holder(holder, &mut queue, &mut touched);
        }
        for queue in touched {
            self.settle_down(queue, effects);
        }
        count
    }

    fn drop_holder(&mut self, id: ConsumerId, queue: &mut Queue, touched: &mut Vec<QueueId>) {
        let Some(consumer) = self.ground.consumers.get_mut(&id) else {
            return;
        };
        let mut taken = Vec::new();
        consumer.leases.take_queue(queue.id, &mut taken);
        if !consumer.getter {
            consumer.attached = false;
        }
        let mut count = 0;
        for (_, lease) in taken {
            queue.unlease(&lease.piece, &mut self.ground);
            self.ground
                .live
                .remove(lease.piece.run.first, u64::from(lease.piece.run.count));
            count += u64::from(lease.piece.run.count);
        }
        self.free(id, count, touched);
        self.forget_if_idle(id);
    }

    fn subscribe(
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
        let limited = self
            .ground
            .channels
            .contains_key(&(config.session, config.channel));
        let consumer = Consumer {
            queue: queue_id,
            session: config.session,
            channel: config.channel,
            pipe: source.pipe,
            attached: true,
            getter: false,
            no_ack: config.no_ack,
            priority: config.priority,
            credit: config.credit,
            visibility: config.visibility,
            parked: false,
            limited,
            next_no: 1,
            unsettled: 0,
            leases: Leases::default(),
            armed: None,
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
        if queue.active.is_none() {
            queue.active = Some(id);
        }
        self.members.insert((config.session, config.channel, id));
        self.opened.insert((source.pipe, config.session));
        effects.push(reply(Reply::Subscribed));
        queue.settle_down(&mut self.ground, effects);
    }

    /// Detaches; returns the queue if this was its last consumer and it deletes itself.
    fn detach(&mut self, id: ConsumerId) -> Option<QueueId> {
        let consumer = self.ground.consumers.get_mut(&id)?;
        if !consumer.attached {
            return None;
        }
        consumer.attached = false;
        let queue = self.queues.get_mut(&consumer.queue)?;
        queue.detach(id, &mut self.ground);
        (queue.config.auto_delete && queue.attached.is_empty()).then_some(queue.id)
    }

    fn unsubscribe(&mut self, id: ConsumerId, effects: &mut Effects) -> Reply {
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

    fn limit_channel(
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
                consumer.limited = limit > 0;
                unsettled += consumer.unsettled;
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

    fn get(
        &mut self,
        pipe: PipeId,
        queue_id: QueueId,
        (holder, session, channel): (ConsumerId, SessionId, u16),
        no_ack: bool,
        effects: &mut Effects,
    ) -> Reply {
        let Some(queue) = self.queues.get_mut(&queue_id) else {
            return Reply::NoQueue;
        };
        let limited = self.ground.channels.contains_key(&(session, channel));
        let known = self
            .ground
            .consumers
            .entry(holder)
            .or_insert_with(|| Consumer {
                queue: queue_id,
                session,
                channel,
                pipe,
                attached: false,
                getter: true,
                no_ack,
                priority: 0,
                credit: Credit::Prefetch(0),
                visibility: None,
                parked: false,
                limited,
                next_no: 1,
                unsettled: 0,
                leases: Leases::default(),
                armed: None,
            });
        // An id that is a consumer's is not a holder's; the node never mints it twice.
        if !known.getter {
            return Reply::GotNothing;
        }
        self.members.insert((session, channel, holder));
        self.opened.insert((pipe, session));
        queue.touch(&mut self.ground);
        let got = queue.get(holder, no_ack, &mut self.ground, effects);
        queue.settle_down(&mut self.ground, effects);
        if let Some(delivery) = got {
            return Reply::Got {
                delivery,
                ready: queue.ready,
            };
        }
        self.ground.totals.got_nothing += 1;
        Reply::GotNothing
    }

    /// Ends a session or channel: its leases return, queues that lived for its consumers go.
    fn close(
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

    fn release(&mut self, id: ConsumerId, touched: &mut BTreeSet<QueueId>, effects: &mut Effects) {
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
    fn release_older(&mut self, pipe: PipeId, effects: &mut Effects) {
        let from = (
            PipeId {
                node: pipe.node,
                incarnation: 0,
            },
            SessionId(0),
        );
        let older: BTreeMap<SessionId, ()> = self
            .opened
            .range(from..(pipe, SessionId(0)))
            .map(|(_, session)| (*session, ()))
            .collect();
        for session in older.into_keys() {
            self.close(session, None, effects);
        }
    }
}

/// Takes a run in: late, straight to consumers, or to the end of its level.
fn admit(
    queue: &mut Queue,
    piece: Piece,
    due: Option<Millis>,
    ttl: Option<Millis>,
    ground: &mut Ground,
    effects: &mut Effects,
) {
    let count = u64::from(piece.run.count);
    ground.live.add(piece.run.first, count);
    ground.totals.enqueued += count;
    if let Some(due) = due {
        queue.delay(piece, due, ground);
        return;
    }
    let rest = if queue.ready == 0 {
        queue.serve(piece, ground, effects)
    } else {
        Some(piece)
    };
    let Some(rest) = rest else { return };
    if ttl == Some(Millis(0)) {
        queue.retire(rest, DeathReason::Expired, ground, effects);
    } else {
        queue.push(rest, ground);
    }
}

/// Turns a run away from a full queue; `source` is that of its first message.
fn refuse(
    queue: &mut Queue,
    source: Source,
    piece: Piece,
    ground: &mut Ground,
    effects: &mut Effects,
) {
    let count = piece.run.count;
    ground.totals.refused += u64::from(count);
    for slot in 0..count {
        let seq = source.seq + u64::from(slot);
        effects.push(Effect::Refused(Source { seq, ..source }));
    }
    if queue.config.overflow == Overflow::RejectPublishDlx && queue.config.dead_letters {
        ground.live.add(piece.run.first, u64::from(count));
        queue.retire(piece, DeathReason::MaxLen, ground, effects);
    }
}
