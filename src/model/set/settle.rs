//! Leases end: settled by a client, or by their deadline; capacity comes back and those who waited are served.
//!
//! Freed room on a limited channel is offered to every consumer of that channel in this set: a step costs no more
//! than the consumers of one channel. Not here: what becomes of a returned message (queue.rs).

use super::command::{Outcome, Overdue};
use super::effect::{DeathReason, Effect, Effects, TimedOut};
use super::lease::{Consumer, Lease, Piece, Timer};
use super::machine::SetMachine;
use super::queue::{Ground, Queue};
use crate::base::{ConsumerId, Millis, QueueId, SessionId};

impl SetMachine {
    /// Ends or extends the leases `first ..= last` of a consumer.
    pub(super) fn settle(
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
                    queue.flow.acked += count;
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
        let gone = if taken.is_empty() {
            None
        } else {
            self.time_out(id, effects)
        };
        self.end_leases(id, &taken, effects, |queue, piece, ground, effects| {
            queue.give_back(piece, false, ground, effects);
        });
        if let Some(gone) = gone {
            self.delete(gone, effects);
            effects.push(Effect::QueueGone(gone));
        }
    }

    /// A lease of this consumer ended by its deadline: it goes on, or ends before the message is given to it again. The
    /// queue, if that was the last consumer and it deletes itself.
    fn time_out(&mut self, id: ConsumerId, effects: &mut Effects) -> Option<QueueId> {
        let consumer = self.ground.consumers.get(&id)?;
        let config = &self.queues.get(&consumer.queue)?.config;
        let close = match consumer.overdue.unwrap_or(config.overdue) {
            Overdue::Nothing => return None,
            // There is no consumer to cancel for what basic.get took.
            Overdue::Cancel if consumer.getter => true,
            Overdue::Cancel if !consumer.attached => return None,
            Overdue::Cancel => false,
            Overdue::Close => true,
        };
        effects.push(Effect::TimedOut(TimedOut {
            consumer: id,
            close,
            timeout: consumer.visibility.unwrap_or(config.visibility),
        }));
        self.detach(id)
    }

    /// Gives each ended lease to `each`, then frees the capacity and serves who waits.
    pub(super) fn end_leases(
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

    pub(super) fn settle_down(&mut self, id: QueueId, effects: &mut Effects) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.settle_down(&mut self.ground, effects);
        }
    }

    /// Returns the capacity of `count` settled messages.
    pub(super) fn free(&mut self, id: ConsumerId, count: u64, touched: &mut Vec<QueueId>) {
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

    pub(super) fn unpark_channel(
        &mut self,
        session: SessionId,
        channel: u16,
        touched: &mut Vec<QueueId>,
    ) {
        for id in self.members_of(session, Some(channel)) {
            self.unpark(id, touched);
        }
    }

    pub(super) fn unpark(&mut self, id: ConsumerId, touched: &mut Vec<QueueId>) {
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

    pub(super) fn members_of(&self, session: SessionId, channel: Option<u16>) -> Vec<ConsumerId> {
        let (from, to) = channel.map_or((0, u16::MAX), |channel| (channel, channel));
        let range = (session, from, ConsumerId(0))..=(session, to, ConsumerId(u64::MAX));
        self.members.range(range).map(|(_, _, id)| *id).collect()
    }

    /// Removes a cancelled consumer whose last lease has ended.
    pub(super) fn forget_if_idle(&mut self, id: ConsumerId) {
        let idle = |c: &Consumer| !c.attached && !c.getter && c.leases.is_empty();
        if self.ground.consumers.get(&id).is_some_and(idle) {
            self.forget(id);
        }
    }

    pub(super) fn forget(&mut self, id: ConsumerId) {
        let Some(consumer) = self.ground.consumers.remove(&id) else {
            return;
        };
        if let Some(at) = consumer.armed {
            self.ground.timers.remove(&(at, Timer::Leases(id)));
        }
        for (first, count) in consumer.on_way {
            self.ground.live.remove(first, u64::from(count));
        }
        self.members
            .remove(&(consumer.session, consumer.channel, id));
        if let Some(queue) = self.queues.get_mut(&consumer.queue) {
            queue.holders.remove(&id);
        }
    }
}
