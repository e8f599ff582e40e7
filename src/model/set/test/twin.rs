//! A naive twin of the machine: message by message, lists only, every question answered by looking at everything.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::random::{command, config};
use crate::base::*;
use crate::model::Meta;
use crate::model::set::*;

#[derive(Clone, Debug)]
struct Message {
    position: Position,
    size: u32,
    expires: Option<u64>,
    level: u8,
    acquired: u32,
    failed: u32,
    /// In a stream: its number, and when it came.
    offset: u64,
    since: u64,
}

#[derive(Debug)]
struct TwinQueue {
    config: QueueConfig,
    /// In the order of delivery inside a level: what came back by position, then what was never out.
    ready: Vec<Message>,
    delayed: Vec<(u64, Message)>,
    dead: Vec<(Message, DeathReason)>,
    attached: Vec<ConsumerId>,
    ring: BTreeMap<Reverse<i32>, VecDeque<ConsumerId>>,
    active: Option<ConsumerId>,
    exclusive: Option<ConsumerId>,
    last_used: u64,
    /// Of a stream: the next message's number.
    next_offset: u64,
}

#[derive(Debug)]
struct TwinConsumer {
    queue: QueueId,
    config: ConsumerConfig,
    attached: bool,
    getter: bool,
    next_no: u64,
    /// In a stream.
    cursor: Option<u64>,
}

#[derive(Clone, Debug)]
struct TwinLease {
    consumer: ConsumerId,
    no: u64,
    queue: QueueId,
    message: Message,
    deadline: u64,
}

/// What a step did, without the orders nobody is promised.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    deliveries: BTreeMap<ConsumerId, Vec<Delivery>>,
    replies: Vec<(Source, Reply)>,
    refused: Vec<Source>,
    cancelled: BTreeSet<ConsumerId>,
    timed_out: Vec<TimedOut>,
    dead: Vec<(QueueId, Position, u8)>,
    gone: BTreeSet<QueueId>,
}

impl Seen {
    fn of(effects: &[Effect]) -> Self {
        let mut seen = Self::default();
        for effect in effects {
            match effect.clone() {
                Effect::Deliver(d) => {
                    for i in 0..d.count {
                        let first_no = d.first_no + u64::from(i);
                        let one = Delivery {
                            first_no,
                            first: d.first.plus(i),
                            count: 1,
                            offset: d.offset.map(|offset| offset + u64::from(i)),
                            ..d
                        };
                        seen.deliveries.entry(d.consumer).or_default().push(one);
                    }
                }
                Effect::Refused(source) => seen.refused.push(source),
                Effect::Reply(source, reply) => seen.replies.push((source, reply)),
                Effect::Cancelled(id) => drop(seen.cancelled.insert(id)),
                Effect::TimedOut(late) => seen.timed_out.push(late),
                Effect::DeadLetter(d) => seen.dead.push((d.queue, d.position, d.reason as u8)),
                Effect::QueueGone(id) => drop(seen.gone.insert(id)),
            }
        }
        seen.tidy()
    }

    fn tidy(mut self) -> Self {
        self.dead.sort_unstable();
        for (_, reply) in &mut self.replies {
            if let Reply::Closed { deleted } = reply {
                deleted.sort_unstable();
            }
        }
        self
    }
}

#[derive(Default)]
struct Twin {
    now: u64,
    queues: BTreeMap<QueueId, TwinQueue>,
    consumers: BTreeMap<ConsumerId, TwinConsumer>,
    leases: Vec<TwinLease>,
    limits: BTreeMap<(SessionId, u16), u32>,
    opened: BTreeSet<(PipeId, SessionId)>,
    moved: BTreeSet<QueueId>,
    /// Of each node, its incarnation and how often that came back.
    returns: BTreeMap<NodeId, (u64, u64)>,
    seen: Seen,
}

impl Twin {
    fn begin(&mut self, now: u64) {
        self.now = self.now.max(now);
        while let Some((at, kind, id)) = self.next_event() {
            if at > self.now {
                break;
            }
            let queue = QueueId(id);
            match kind {
                0 => {
                    let due = |l: &TwinLease| l.consumer.0 == id && l.deadline <= at;
                    let gone = self.time_out(ConsumerId(id));
                    self.end(ConsumerId(id), due, |twin, lease| {
                        twin.give_back(lease, false)
                    });
                    if let Some(gone) = gone {
                        self.delete(gone);
                        self.seen.gone.insert(gone);
                    }
                }
                1 => {
                    let Some(q) = self.queues.get_mut(&queue) else {
                        break;
                    };
                    q.delayed.sort_by_key(|(due, m)| (*due, m.position));
                    let count = q.delayed.iter().filter(|(due, _)| *due <= at).count();
                    for (_, message) in q.delayed.drain(..count).collect::<Vec<_>>() {
                        q.show(message, self.now);
                    }
                    self.serve(queue);
                }
                2 if self.queues[&queue].is_stream() => {
                    let (q, now) = (self.queues.get_mut(&queue).unwrap(), self.now);
                    let age = q.max_age().unwrap();
                    q.ready.retain(|m| m.since + age > now);
                    self.serve(queue);
                }
                2 => {
                    for level in (0..=255).rev() {
                        while let Some(spot) = self.queues[&queue].head_of(level)
                            && self.queues[&queue].ready[spot]
                                .expires
                                .is_some_and(|e| e <= at)
                        {
                            let message = self.take(queue, spot);
                            self.retire(queue, message, DeathReason::Expired);
                        }
                    }
                    self.serve(queue);
                }
                _ => {
                    self.delete(queue);
                    self.seen.gone.insert(queue);
                }
            }
        }
    }

    /// A consumer was too slow: it may be detached for that.
    fn time_out(&mut self, id: ConsumerId) -> Option<QueueId> {
        let consumer = self.consumers.get(&id)?;
        let config = &self.queues.get(&consumer.queue)?.config;
        let close = match consumer.config.overdue.unwrap_or(config.overdue) {
            Overdue::Close => true,
            Overdue::Cancel if consumer.getter => true,
            Overdue::Cancel if consumer.attached => false,
            Overdue::Cancel | Overdue::Nothing => return None,
        };
        let timeout = consumer.config.visibility.unwrap_or(config.visibility);
        self.seen.timed_out.push(TimedOut {
            consumer: id,
            close,
            timeout,
        });
        self.detach(id)
    }

    /// The earliest thing that happens by itself.
    fn next_event(&self) -> Option<(u64, u8, u64)> {
        let mut events: Vec<_> = self
            .leases
            .iter()
            .map(|l| (l.deadline, 0, l.consumer.0))
            .collect();
        for (id, q) in &self.queues {
            events.extend(q.delayed.iter().map(|(due, _)| (*due, 1, id.0)));
            if let (Some(age), Some(oldest)) = (q.max_age(), q.ready.first()) {
                let slack = (age / 64).clamp(50, 10_000);
                events.push((oldest.since + age + slack, 2, id.0));
            }
            for level in 0..=255 {
                if let Some(spot) = q.head_of(level) {
                    events.extend(q.ready[spot].expires.map(|at| (at, 2, id.0)));
                }
            }
            if let Some(expires) = q.config.expires
                && q.attached.is_empty()
            {
                events.push((q.last_used + expires.0, 3, id.0));
            }
        }
        events.into_iter().min()
    }

    fn take(&mut self, queue: QueueId, spot: usize) -> Message {
        self.queues.get_mut(&queue).unwrap().ready.remove(spot)
    }

    fn retire(&mut self, queue: QueueId, message: Message, reason: DeathReason) {
        let q = self.queues.get_mut(&queue).unwrap();
        if q.config.dead_letters && !q.is_stream() {
            self.seen.dead.push((queue, message.position, reason as u8));
            q.dead.push((message, reason));
        }
    }

    fn give_back(&mut self, lease: TwinLease, failed: bool) {
        let mut message = lease.message;
        let now = self.now;
        let Some(q) = self.queues.get_mut(&lease.queue) else {
            return;
        };
        if q.is_stream() {
            return;
        }
        message.acquired += 1;
        message.failed += u32::from(failed);
        let every = q.config.count_every_return;
        let count = if every {
            message.acquired
        } else {
            message.failed
        };
        if (every || failed) && q.config.delivery_limit.is_some_and(|limit| count > limit) {
            return self.retire(lease.queue, message, DeathReason::DeliveryLimit);
        }
        if let Some(retry) = q.config.delayed_retry
            && (if failed { retry.failed } else { retry.returned })
        {
            let wait = (retry.min.0 * u64::from(message.failed.max(1))).min(retry.max.0);
            if wait > 0 {
                return q.delayed.push((now + wait, message));
            }
        }
        q.show(message, now);
    }

    fn held(&self, id: ConsumerId) -> usize {
        self.leases.iter().filter(|l| l.consumer == id).count()
    }

    fn capacity(&self, id: ConsumerId) -> usize {
        let consumer = &self.consumers[&id];
        let config = &consumer.config;
        let own = match config.credit {
            Credit::Window(left) => left as usize,
            Credit::Prefetch(limit) if config.no_ack => limit as usize,
            Credit::Prefetch(limit) => (limit as usize).saturating_sub(self.held(id)),
        };
        let place = (config.session, config.channel);
        match self.limits.get(&place) {
            Some(limit) if !config.no_ack && consumer.cursor.is_none() => {
                let all: usize = self
                    .members(place.0, Some(place.1))
                    .into_iter()
                    .filter(|id| self.consumers[id].cursor.is_none())
                    .map(|id| self.held(id))
                    .sum();
                own.min((*limit as usize).saturating_sub(all))
            }
            _ => own,
        }
    }

    fn members(&self, session: SessionId, channel: Option<u16>) -> Vec<ConsumerId> {
        let mut found: Vec<_> = self
            .consumers
            .iter()
            .filter(|(_, c)| {
                c.config.session == session && channel.is_none_or(|n| n == c.config.channel)
            })
            .map(|(id, c)| (c.config.channel, *id))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// Whose turn it is: the first of the highest priority that can take one; who cannot leaves the ring.
    fn pick(&mut self, queue: QueueId) -> Option<ConsumerId> {
        if self.queues[&queue].config.single_active {
            let first = self.first_in_line(queue);
            let active = self.queues[&queue].active;
            return active.filter(|id| Some(*id) == first && self.capacity(*id) > 0);
        }
        let priorities: Vec<_> = self.queues[&queue].ring.keys().copied().collect();
        for priority in priorities {
            while let Some(&id) = self.queues[&queue].ring[&priority].front() {
                if self.capacity(id) > 0 {
                    return Some(id);
                }
                self.queues
                    .get_mut(&queue)
                    .unwrap()
                    .ring
                    .get_mut(&priority)
                    .unwrap()
                    .pop_front();
            }
        }
        None
    }

    /// Who should be the single active consumer: the active one, unless one of a higher priority is there and counts.
    fn first_in_line(&self, queue: QueueId) -> Option<ConsumerId> {
        let q = &self.queues[&queue];
        if !q.config.active_by_priority {
            return q.active.or(q.attached.first().copied());
        }
        let priority = |id: &ConsumerId| self.consumers[id].config.priority;
        let most = q.attached.iter().map(priority).max()?;
        let is_first = |id: &&ConsumerId| priority(id) == most;
        let active = q.active.iter().find(is_first);
        active.or(q.attached.iter().find(is_first)).copied()
    }

    /// Names a new active consumer if there is none, or if the one that is has nothing in hand and is not the first.
    fn elect(&mut self, queue: QueueId) {
        let first = self.first_in_line(queue);
        let q = &self.queues[&queue];
        let single = q.config.single_active;
        let idle = q.active.is_none_or(|id| single && self.held(id) == 0);
        let next = match q.active {
            None if single => first,
            None => q.attached.first().copied(),
            Some(_) if idle => first,
            active => active,
        };
        self.queues.get_mut(&queue).unwrap().active = next;
    }

    /// A consumer that may have room again goes to the back of the ring it had left.
    fn rejoin(&mut self, id: ConsumerId, touched: &mut Vec<QueueId>) {
        let Some(consumer) = self.consumers.get(&id).filter(|c| c.attached) else {
            return;
        };
        touched.push(consumer.queue);
        if let Some(q) = self.queues.get_mut(&consumer.queue) {
            let ring = q.ring.entry(Reverse(consumer.config.priority)).or_default();
            if !ring.contains(&id) {
                ring.push_back(id);
            }
        }
    }

    fn rejoin_channel(&mut self, session: SessionId, channel: u16, touched: &mut Vec<QueueId>) {
        for id in self.members(session, Some(channel)) {
            self.rejoin(id, touched);
        }
    }

    /// The head of the highest level that has not expired; what has is dropped on the way.
    fn alive(&mut self, queue: QueueId) -> Option<usize> {
        if self.queues[&queue].is_stream() {
            return None;
        }
        loop {
            let spot = self.queues[&queue].top()?;
            if self.queues[&queue].ready[spot]
                .expires
                .is_none_or(|at| at > self.now)
            {
                return Some(spot);
            }
            let message = self.take(queue, spot);
            self.retire(queue, message, DeathReason::Expired);
        }
    }

    fn serve(&mut self, queue: QueueId) {
        if !self.queues.contains_key(&queue) {
            return;
        }
        self.elect(queue);
        if self.queues[&queue].is_stream() {
            return self.serve_stream(queue);
        }
        while !self.queues[&queue].ready.is_empty()
            && let Some(id) = self.pick(queue)
            && let Some(spot) = self.alive(queue)
        {
            let message = self.take(queue, spot);
            self.hand(queue, id, message);
        }
        while let Some(spot) = self.queues[&queue].top()
            && self.queues[&queue].config.overflow == Overflow::DropHead
            && self.queues[&queue].over(0, 0)
        {
            let message = self.take(queue, spot);
            self.retire(queue, message, DeathReason::MaxLen);
        }
    }

    /// Everybody reads on from their place as far as they have room; then the oldest go that are too much.
    fn serve_stream(&mut self, queue: QueueId) {
        for id in self.queues[&queue].attached.clone() {
            while self.capacity(id) > 0 {
                let cursor = self.consumers[&id].cursor.unwrap();
                let ready = &self.queues[&queue].ready;
                let Some(message) = ready.iter().find(|m| m.offset >= cursor).cloned() else {
                    break;
                };
                let offset = message.offset;
                self.consumers.get_mut(&id).unwrap().cursor = Some(offset + 1);
                let mut delivery = self.lease(queue, id, message);
                delivery.offset = Some(offset);
                self.seen.deliveries.entry(id).or_default().push(delivery);
            }
        }
        let q = self.queues.get_mut(&queue).unwrap();
        let max = q.config.stream.and_then(|rules| rules.max_bytes);
        let size = |list: &[Message]| list.iter().map(|m| u64::from(m.size)).sum::<u64>();
        while q.ready.len() > 1 && max.is_some_and(|max| size(&q.ready) > max) {
            q.ready.remove(0);
        }
    }

    fn hand(&mut self, queue: QueueId, id: ConsumerId, message: Message) {
        let delivery = self.lease(queue, id, message);
        self.seen.deliveries.entry(id).or_default().push(delivery);
        let priority = Reverse(self.consumers[&id].config.priority);
        let q = self.queues.get_mut(&queue).unwrap();
        if !q.config.single_active
            && let Some(ring) = q.ring.get_mut(&priority)
        {
            ring.rotate_left(1);
        }
    }

    fn lease(&mut self, queue: QueueId, id: ConsumerId, message: Message) -> Delivery {
        let consumer = self.consumers.get_mut(&id).unwrap();
        let no = consumer.next_no;
        consumer.next_no += 1;
        if let Credit::Window(left) = &mut consumer.config.credit {
            *left -= 1;
        }
        let delivery = Delivery {
            consumer: id,
            first_no: no,
            first: message.position,
            count: 1,
            size: message.size,
            redelivered: message.acquired > 0,
            acquired: message.acquired,
            failed: message.failed,
            offset: None,
        };
        if !consumer.config.no_ack {
            let span = consumer
                .config
                .visibility
                .unwrap_or(self.queues[&queue].config.visibility);
            let deadline = match self.queues[&queue].is_stream() {
                true => u64::MAX,
                false => self.now + span.0,
            };
            self.leases.push(TwinLease {
                consumer: id,
                no,
                queue,
                message,
                deadline,
            });
        }
        delivery
    }

    /// Ends the leases `which` of a consumer, each by `how`, and lets those go on whom that gives room.
    fn end(
        &mut self,
        id: ConsumerId,
        which: impl Fn(&TwinLease) -> bool,
        how: impl Fn(&mut Self, TwinLease),
    ) {
        let (ended, stay): (Vec<_>, Vec<_>) = std::mem::take(&mut self.leases)
            .into_iter()
            .partition(which);
        self.leases = stay;
        let mut touched: Vec<_> = ended.iter().map(|l| l.queue).collect();
        let some = !ended.is_empty();
        ended.into_iter().for_each(|lease| how(self, lease));
        self.freed(id, some, &mut touched);
        touched.sort_unstable();
        self.serve_all(touched);
        self.forget_idle();
    }

    fn freed(&mut self, id: ConsumerId, some: bool, touched: &mut Vec<QueueId>) {
        self.rejoin(id, touched);
        let place = self
            .consumers
            .get(&id)
            .filter(|c| c.cursor.is_none())
            .map(|c| (c.config.session, c.config.channel));
        if let Some(place) = place
            && some
            && self.limits.contains_key(&place)
        {
            self.rejoin_channel(place.0, place.1, touched);
        }
    }

    fn serve_all(&mut self, touched: Vec<QueueId>) {
        let mut done = BTreeSet::new();
        for queue in touched {
            if done.insert(queue) {
                self.serve(queue);
            }
        }
    }

    fn forget_idle(&mut self) {
        let leases = &self.leases;
        self.consumers
            .retain(|id, c| c.attached || c.getter || leases.iter().any(|l| l.consumer == *id));
    }

    fn enqueue(&mut self, source: Source, run: Enqueue) {
        for slot in 0..run.count {
            let Some(q) = self.queues.get_mut(&run.queue) else {
                if self.moved.contains(&run.queue) {
                    let seq = source.seq + u64::from(slot);
                    self.seen.refused.push(Source { seq, ..source });
                }
                continue;
            };
            let ttl = q.config.message_ttl.into_iter().chain(run.ttl).min();
            let ttl = ttl.filter(|_| !q.is_stream());
            let delay = run.delay.map_or(0, |d| d.0);
            let level = run.priority.unwrap_or(q.config.default_priority);
            let message = Message {
                position: run.first.plus(slot),
                size: run.size,
                expires: ttl.map(|ttl| self.now + delay + ttl.0),
                level: level.min(q.config.max_priority.unwrap_or(0)),
                acquired: 0,
                failed: 0,
                offset: 0,
                since: 0,
            };
            let refuses = q.config.overflow != Overflow::DropHead && !q.is_stream();
            if refuses && q.refuses(run.size) {
                let dlx = q.config.overflow == Overflow::RejectPublishDlx;
                self.seen.refused.push(Source {
                    seq: source.seq + u64::from(slot),
                    ..source
                });
                if dlx {
                    self.retire(run.queue, message, DeathReason::MaxLen);
                }
                continue;
            }
            let alone = q.ready.is_empty();
            if delay > 0 {
                q.delayed.push((self.now + delay, message));
            } else if alone
                && !q.is_stream()
                && let Some(id) = self.pick(run.queue)
            {
                self.hand(run.queue, id, message);
            } else if alone && ttl == Some(Millis(0)) {
                self.retire(run.queue, message, DeathReason::Expired);
            } else {
                let now = self.now;
                self.queues.get_mut(&run.queue).unwrap().show(message, now);
            }
            self.serve(run.queue);
        }
    }

    fn delete(&mut self, queue: QueueId) -> u64 {
        let Some(q) = self.queues.remove(&queue) else {
            return 0;
        };
        self.seen.cancelled.extend(&q.attached);
        let mut touched = Vec::new();
        let ids: Vec<_> = self.consumers.keys().copied().collect();
        for id in ids {
            let before = self.leases.len();
            self.leases.retain(|l| l.queue != queue || l.consumer != id);
            let some = self.leases.len() < before;
            let consumer = self.consumers.get_mut(&id).unwrap();
            if consumer.queue == queue && !consumer.getter {
                consumer.attached = false;
            }
            if some {
                self.freed(id, some, &mut touched);
            }
        }
        self.forget_idle();
        touched.retain(|other| *other != queue);
        self.serve_all(touched);
        q.ready.len() as u64
    }

    /// Takes a consumer off its queue; the queue, if it lived for its consumers and this was the last.
    fn detach(&mut self, id: ConsumerId) -> Option<QueueId> {
        let consumer = self.consumers.get_mut(&id).filter(|c| c.attached)?;
        consumer.attached = false;
        let queue = consumer.queue;
        let q = self.queues.get_mut(&queue)?;
        q.attached.retain(|other| *other != id);
        q.ring
            .values_mut()
            .for_each(|ring| ring.retain(|other| *other != id));
        if q.active == Some(id) {
            q.active = None;
        }
        q.exclusive = q.exclusive.filter(|other| *other != id);
        q.last_used = self.now;
        let last = q.config.auto_delete && q.attached.is_empty();
        if self.queues[&queue].active.is_none() {
            self.elect(queue);
        }
        last.then_some(queue)
    }

    fn close_all(&mut self, which: impl Fn(&PipeId) -> bool, tell: bool) {
        let opened = self.opened.iter().filter(|(pipe, _)| which(pipe));
        let sessions: BTreeSet<SessionId> = opened.map(|(_, session)| *session).collect();
        for session in sessions {
            if tell {
                let ended = self.members(session, None);
                self.seen.cancelled.extend(ended);
            }
            self.close(session, None);
        }
    }

    fn close(&mut self, session: SessionId, channel: Option<u16>) -> Vec<QueueId> {
        let members = self.members(session, channel);
        let deleted: Vec<_> = members.iter().filter_map(|id| self.detach(*id)).collect();
        // Before anything is deleted: that forgets consumers that hold nothing any more.
        let mut touched: BTreeSet<QueueId> = members
            .iter()
            .filter_map(|id| Some(self.consumers.get(id)?.queue))
            .collect();
        for queue in &deleted {
            self.delete(*queue);
            self.seen.gone.insert(*queue);
        }
        let (ended, stay): (Vec<_>, Vec<_>) = std::mem::take(&mut self.leases)
            .into_iter()
            .partition(|l| members.contains(&l.consumer));
        self.leases = stay;
        for lease in ended {
            touched.insert(lease.queue);
            self.give_back(lease, true);
        }
        self.consumers.retain(|id, _| !members.contains(id));
        self.limits
            .retain(|(s, c), _| *s != session || channel.is_some_and(|n| n != *c));
        if channel.is_none() {
            self.opened.retain(|(_, other)| *other != session);
        }
        self.serve_all(touched.into_iter().collect());
        deleted
    }

    fn subscribe(
        &mut self,
        source: Source,
        id: ConsumerId,
        queue: QueueId,
        config: ConsumerConfig,
    ) -> Reply {
        let Some(q) = self.queues.get_mut(&queue) else {
            return Reply::NoQueue;
        };
        if self.consumers.contains_key(&id) {
            return Reply::Subscribed;
        }
        let alone = q.attached.is_empty() && !q.config.single_active;
        if q.exclusive.is_some() || config.exclusive && !alone {
            return Reply::ExclusiveUse;
        }
        q.attached.push(id);
        q.ring
            .entry(Reverse(config.priority))
            .or_default()
            .push_back(id);
        q.exclusive = config.exclusive.then_some(id);
        self.opened.insert((source.pipe, config.session));
        let cursor = q.is_stream().then(|| q.seek(config.start, self.now));
        let consumer = TwinConsumer {
            queue,
            config,
            attached: true,
            getter: false,
            next_no: 1,
            cursor,
        };
        self.consumers.insert(id, consumer);
        self.elect(queue);
        self.serve(queue);
        Reply::Subscribed
    }

    fn get(
        &mut self,
        source: Source,
        queue: QueueId,
        holder: ConsumerId,
        session: SessionId,
        channel: u16,
        no_ack: bool,
    ) -> Reply {
        let now = self.now;
        let Some(q) = self.queues.get_mut(&queue) else {
            return Reply::NoQueue;
        };
        q.last_used = now;
        self.opened.insert((source.pipe, session));
        let config = ConsumerConfig {
            session,
            channel,
            no_ack,
            until_sent: false,
            exclusive: false,
            priority: 0,
            credit: Credit::Prefetch(0),
            visibility: None,
            start: StreamStart::Next,
            overdue: None,
        };
        let fresh = TwinConsumer {
            queue,
            config,
            attached: false,
            getter: true,
            next_no: 1,
            cursor: None,
        };
        self.consumers.entry(holder).or_insert(fresh).config.no_ack = no_ack;
        let Some(spot) = self.alive(queue) else {
            return Reply::GotNothing;
        };
        let message = self.take(queue, spot);
        let delivery = self.lease(queue, holder, message);
        self.alive(queue);
        self.serve(queue);
        Reply::Got {
            delivery,
            ready: self.queues[&queue].ready.len() as u64,
        }
    }

    fn apply(&mut self, source: Source, command: Command) {
        let PipeId { node, incarnation } = source.pipe;
        let of = self.returns.entry(node).or_default();
        if of.0 != incarnation {
            *of = (incarnation, 0);
        }
        let reply = match command {
            Command::Enqueue(run) => return self.enqueue(source, run),
            Command::Settle {
                consumer,
                first,
                last,
                outcome,
            } => {
                let mine = |l: &TwinLease| l.consumer == consumer && (first..=last).contains(&l.no);
                if let Outcome::Extend { visibility } = outcome {
                    let deadline = self.now + visibility.0;
                    return self
                        .leases
                        .iter_mut()
                        .filter(|l| mine(l))
                        .for_each(|l| l.deadline = deadline);
                }
                return self.end(consumer, mine, |twin, lease| match outcome {
                    Outcome::Requeue { failed } => twin.give_back(lease, failed),
                    Outcome::Reject => {
                        twin.retire(lease.queue, lease.message, DeathReason::Rejected)
                    }
                    Outcome::Ack | Outcome::Extend { .. } => {}
                });
            }
            Command::Grant { consumer, add } => {
                if let Some(c) = self.consumers.get_mut(&consumer)
                    && let Credit::Window(left) = &mut c.config.credit
                {
                    *left += add;
                }
                let mut touched = Vec::new();
                self.rejoin(consumer, &mut touched);
                return self.serve_all(touched);
            }
            Command::DeadLettered { .. } | Command::Tick => return,
            Command::OpenPipe => {
                let pipe = source.pipe;
                let older = |p: &PipeId| p.node == pipe.node && p.incarnation < pipe.incarnation;
                return self.close_all(older, false);
            }
            Command::CloseNode {
                node,
                incarnation,
                returns,
            } => match self.returns.get(&node) {
                Some(&(of, times)) if of == incarnation && times > returns => {
                    Reply::Returned(times)
                }
                _ => {
                    let gone = |p: &PipeId| p.node == node && p.incarnation <= incarnation;
                    self.close_all(gone, true);
                    Reply::Done
                }
            },
            Command::Return => {
                self.returns.entry(node).or_default().1 += 1;
                Reply::Done
            }
            Command::Create { queue, config } => {
                let now = self.now;
                self.moved.remove(&queue);
                self.queues
                    .entry(queue)
                    .or_insert_with(|| TwinQueue::new(*config, now));
                Reply::Done
            }
            Command::Configure { queue, config } => match self.queues.get_mut(&queue) {
                None => Reply::NoQueue,
                Some(q) => {
                    let kept = q.is_stream().then(|| config.stream.unwrap_or_default());
                    q.config = *config;
                    q.config.stream = kept;
                    q.last_used = self.now;
                    self.serve(queue);
                    Reply::Done
                }
            },
            Command::Delete {
                queue,
                if_unused,
                if_empty,
            } => match self.queues.get(&queue) {
                Some(q) if if_empty && !q.ready.is_empty() => Reply::NotEmpty,
                Some(q) if if_unused && !q.attached.is_empty() => Reply::InUse,
                _ => Reply::Count(self.delete(queue)),
            },
            Command::Retire { queue } => {
                let leased = self.leases.iter().any(|lease| lease.queue == queue);
                match self.queues.get(&queue) {
                    None => Reply::NoQueue,
                    Some(q) if leased || q.holds_any() => Reply::NotEmpty,
                    Some(_) => {
                        self.moved.insert(queue);
                        Reply::Count(self.delete(queue))
                    }
                }
            }
            Command::Purge { queue } => match self.queues.get_mut(&queue) {
                None => Reply::NoQueue,
                Some(q) if q.is_stream() => Reply::Count(0),
                Some(q) => {
                    if q.config.at_least_once {
                        q.dead.clear();
                    }
                    Reply::Count(q.ready.drain(..).count() as u64)
                }
            },
            Command::Inspect { queue, touch } => {
                let unsettled = self.leases.iter().filter(|l| l.queue == queue).count() as u64;
                match self.queues.get_mut(&queue) {
                    None => Reply::NoQueue,
                    Some(q) => {
                        q.last_used = if touch { self.now } else { q.last_used };
                        let consumers = q.attached.len() as u32;
                        Reply::Counts {
                            ready: q.ready.len() as u64,
                            unsettled,
                            consumers,
                        }
                    }
                }
            }
            Command::Subscribe {
                consumer,
                queue,
                config,
            } => self.subscribe(source, consumer, queue, config),
            Command::Unsubscribe { consumer } => {
                let queue = self.consumers.get(&consumer).map(|c| c.queue);
                let deleted = self.detach(consumer);
                if let Some(gone) = deleted {
                    self.delete(gone);
                    self.seen.gone.insert(gone);
                }
                queue.into_iter().for_each(|queue| self.serve(queue));
                self.forget_idle();
                Reply::Unsubscribed { deleted }
            }
            Command::LimitChannel {
                session,
                channel,
                limit,
            } => {
                self.limits.remove(&(session, channel));
                if limit > 0 {
                    self.limits.insert((session, channel), limit);
                    self.opened.insert((source.pipe, session));
                }
                let mut touched = Vec::new();
                self.rejoin_channel(session, channel, &mut touched);
                self.serve_all(touched);
                Reply::Done
            }
            Command::Get {
                queue,
                holder,
                session,
                channel,
                no_ack,
            } => self.get(source, queue, holder, session, channel, no_ack),
            Command::CloseSession { session, channel } => Reply::Closed {
                deleted: self.close(session, channel),
            },
        };
        self.seen.replies.push((source, reply));
    }

    fn stats(&self) -> Vec<(QueueId, QueueStats)> {
        let bytes =
            |list: &mut dyn Iterator<Item = &Message>| list.map(|m| u64::from(m.size)).sum();
        let one = |(id, q): (&QueueId, &TwinQueue)| {
            let out: Vec<_> = self
                .leases
                .iter()
                .filter(|l| l.queue == *id)
                .map(|l| &l.message)
                .collect();
            let stats = QueueStats {
                ready: q.ready.len() as u64,
                ready_bytes: bytes(&mut q.ready.iter()),
                unsettled: out.len() as u64,
                unsettled_bytes: bytes(&mut out.into_iter()),
                delayed: q.delayed.len() as u64,
                dead_letters: q.dead.len() as u64,
                consumers: q.attached.len() as u32,
                active: q.active,
            };
            (*id, stats)
        };
        self.queues.iter().map(one).collect()
    }
}

impl TwinQueue {
    fn holds_any(&self) -> bool {
        !(self.ready.is_empty() && self.delayed.is_empty() && self.dead.is_empty())
    }

    fn new(config: QueueConfig, now: u64) -> Self {
        Self {
            config,
            ready: Vec::new(),
            delayed: Vec::new(),
            dead: Vec::new(),
            attached: Vec::new(),
            ring: BTreeMap::new(),
            active: None,
            exclusive: None,
            last_used: now,
            next_offset: 0,
        }
    }

    fn is_stream(&self) -> bool {
        self.config.stream.is_some()
    }

    fn max_age(&self) -> Option<u64> {
        Some(self.config.stream?.max_age?.0)
    }

    /// Where in a stream a consumer begins.
    fn seek(&self, start: StreamStart, now: u64) -> u64 {
        let after = |time: u64| {
            let found = self.ready.iter().find(|m| m.since >= time);
            found.map_or(self.next_offset, |m| m.offset)
        };
        match start {
            StreamStart::First => self.ready.first().map_or(self.next_offset, |m| m.offset),
            StreamStart::Last => {
                // The start of the last run: neighbours of one entry and one size.
                let mut first = self.next_offset;
                let mut next: Option<&Message> = None;
                for m in self.ready.iter().rev() {
                    let joins = next.is_none_or(|next| {
                        next.size == m.size
                            && next.since == m.since
                            && next.position.0 == m.position.0 + 1
                    });
                    if !joins {
                        break;
                    }
                    (first, next) = (m.offset, Some(m));
                }
                first
            }
            StreamStart::Next => self.next_offset,
            StreamStart::Offset(offset) => offset,
            StreamStart::Time(time) => after(time.0),
            StreamStart::Ago(span) => after(now.saturating_sub(span.0)),
        }
    }

    fn head_of(&self, level: u8) -> Option<usize> {
        self.ready.iter().position(|m| m.level == level)
    }

    fn top(&self) -> Option<usize> {
        self.head_of(self.ready.iter().map(|m| m.level).max()?)
    }

    /// Puts a message that came back before all that stand behind its place; a new one goes to the end.
    /// In a stream everything goes to the end, and gets a number.
    fn show(&mut self, mut message: Message, now: u64) {
        if self.is_stream() {
            (message.offset, message.since) = (self.next_offset, now);
            self.next_offset += 1;
            return self.ready.push(message);
        }
        let behind = |m: &Message| {
            m.level == message.level && (m.acquired == 0 || m.position > message.position)
        };
        let end = self.ready.len();
        let at = if message.acquired == 0 {
            end
        } else {
            self.ready.iter().position(behind).unwrap_or(end)
        };
        self.ready.insert(at, message);
    }

    /// Whether one more message is too many, dead letters that are retained counted in.
    fn refuses(&self, size: u32) -> bool {
        let dead = self.dead.iter().filter(|_| self.config.at_least_once);
        let bytes: u64 = dead.clone().map(|(m, _)| u64::from(m.size)).sum();
        self.over(1 + dead.count() as u64, bytes + u64::from(size))
    }

    /// Whether `count` more messages of `bytes` in all are too many.
    fn over(&self, count: u64, bytes: u64) -> bool {
        let all = || self.ready.iter().chain(self.delayed.iter().map(|(_, m)| m));
        let length = all().count() as u64 + count;
        let size = all().map(|m| u64::from(m.size)).sum::<u64>() + bytes;
        self.config.max_length.is_some_and(|max| length > max)
            || self.config.max_length_bytes.is_some_and(|max| size > max)
    }
}

/// The machine and its twin, fed by the pipes of two nodes.
struct Pair {
    machine: SetMachine,
    twin: Twin,
    pipes: [(u64, u64); 2],
    index: u64,
    now: u64,
    effects: Vec<Effect>,
}

impl Pair {
    fn source(&self, node: usize) -> Source {
        let (incarnation, last) = self.pipes[node];
        let pipe = PipeId {
            node: NodeId(node as u64 + 1),
            incarnation,
        };
        Source {
            pipe,
            seq: last + 1,
        }
    }

    fn begin(&mut self, wait: u64) {
        self.index += 1;
        self.now += wait;
        let meta = Meta {
            index: self.index,
            now: Millis(self.now),
        };
        self.machine.begin(meta, &mut self.effects);
        self.twin.begin(self.now);
    }

    fn give(&mut self, node: usize, command: Command) {
        let source = self.source(node);
        let count = match &command {
            Command::Enqueue(run) => u64::from(run.count),
            _ => 1,
        };
        if let Command::DeadLettered { queue, id } = &command {
            let pending = self.machine.pending_dead_letters();
            if let Some(letter) = pending.iter().find(|d| (d.queue, d.id) == (*queue, *id))
                && let Some(q) = self.twin.queues.get_mut(queue)
            {
                let same = |d: &(Message, DeathReason)| {
                    (d.0.position, d.1) == (letter.position, letter.reason)
                };
                let at = q.dead.iter().position(same).unwrap();
                q.dead.remove(at);
            }
        }
        assert_eq!(
            self.machine
                .apply(source, command.clone(), &mut self.effects),
            Applied::Done
        );
        self.twin.apply(source, command);
        self.pipes[node].1 += count;
        self.machine.check();
    }

    /// What must change nothing: a number applied before, one that leaves a gap, a pipe that is no more.
    fn give_in_vain(&mut self, node: usize, command: &Command) {
        let next = self.source(node);
        let before = self.machine.digest();
        let mut effects = Vec::new();
        let mut try_at = |source| self.machine.apply(source, command.clone(), &mut effects);
        assert_eq!(
            try_at(Source {
                seq: next.seq + 1,
                ..next
            }),
            Applied::Gap
        );
        if !matches!(command, Command::Enqueue(run) if u64::from(run.count) >= next.seq) {
            assert_eq!(try_at(Source { seq: 1, ..next }), Applied::Repeat);
        }
        let older = PipeId {
            incarnation: next.pipe.incarnation - 1,
            ..next.pipe
        };
        assert_eq!(
            try_at(Source {
                pipe: older,
                seq: 1
            }),
            Applied::Gap
        );
        assert_eq!((effects, self.machine.digest()), (Vec::new(), before));
    }

    fn compare(&mut self) {
        let seen = Seen::of(&self.effects);
        self.effects.clear();
        assert_eq!(seen, std::mem::take(&mut self.twin.seen).tidy());
        assert_eq!(self.machine.queues().collect::<Vec<_>>(), self.twin.stats());
    }
}

fn extra() -> impl Strategy<Value = Command> {
    prop_oneof![
        12 => command(),
        1 => ((1..4u64).prop_map(QueueId), config())
            .prop_map(|(queue, config)| Command::Configure { queue, config: Box::new(config) }),
        1 => ((1..4u64).prop_map(QueueId), any::<bool>())
            .prop_map(|(queue, touch)| Command::Inspect { queue, touch }),
        1 => (1..4u64).prop_map(|queue| Command::Retire { queue: QueueId(queue) }),
        1 => ((0..4u64).prop_map(NodeId), 0..4u64, 0..3u64)
            .prop_map(|(node, incarnation, returns)| Command::CloseNode { node, incarnation, returns }),
        1 => Just(Command::Return),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn the_machine_acts_like_its_naive_twin(
        first in prop::collection::vec(config(), 3),
        steps in prop::collection::vec((extra(), 0..14u64, 0..16u8, 0..2usize, 1..4u64), 1..60),
    ) {
        let pages = || Box::new(MemoryPages::default());
        let machine = SetMachine::new(pages());
        let mut pair = Pair {
            machine, twin: Twin::default(), pipes: [(1, 0), (1, 0)], index: 0, now: 1000, effects: Vec::new(),
        };
        pair.begin(0);
        pair.give(0, Command::OpenPipe);
        pair.give(1, Command::OpenPipe);
        for (at, config) in first.into_iter().enumerate() {
            pair.give(0, Command::Create { queue: QueueId(at as u64 + 1), config: Box::new(config) });
        }
        for (mut command, wait, dice, node, other) in steps {
            pair.begin(if dice == 1 { wait * 10 } else { wait });
            if let Command::Enqueue(run) = &mut command {
                run.first = Position::new(pair.index, 0);
            }
            if dice == 2 {
                pair.give_in_vain(node, &command);
            }
            if dice == 3 {
                pair.pipes[node] = (pair.pipes[node].0 + 1, 0);
                pair.give(node, Command::OpenPipe);
            }
            if dice > 11 && let Command::Enqueue(run) = &mut command {
                run.count = 1;
            }
            let source = pair.source(node);
            pair.give(node, command.clone());
            if let Command::Enqueue(run) = command && dice > 11 && run.queue != QueueId(other) {
                let also = Enqueue { queue: QueueId(other), ..run };
                pair.machine.enqueue_also(source, also, &mut pair.effects);
                pair.twin.enqueue(source, also);
            }
            pair.compare();
            if dice == 0 {
                let bytes = pair.machine.snapshot();
                pair.machine = SetMachine::restore(&bytes, pages()).unwrap();
            }
        }
    }
}
