//! Who gets the next message: turns, capacity, the lease that follows, and what a full queue drops.
//!
//! Invariant: after [`Queue::settle_down`] no consumer that may have a ready message has capacity, unless more has
//! expired at the head than one step may drop. Not here: where messages stand in the queue (queue.rs).

use std::cmp::Reverse;

use super::command::{Credit, Overflow};
use super::effect::{DeathReason, Delivery, Effect, Effects};
use super::lease::{Lease, Piece, Timer};
use super::pages::NEVER;
use super::queue::{Ground, Queue};
use crate::base::ConsumerId;

impl Queue {
    pub(super) fn pick(&mut self, ground: &mut Ground) -> Option<(ConsumerId, u64, bool)> {
        if self.config.single_active {
            let id = self.active?;
            if self.heir.is_some_and(|heir| heir != id) {
                // It gets nothing more until it has given back what it holds, and hands over then.
                return None;
            }
            let capacity = ground.capacity(ground.consumers.get(&id)?);
            return (capacity > 0).then_some((id, capacity, true));
        }
        for ring in self.rotation.values_mut() {
            while let Some(&id) = ring.front() {
                let capacity = ground.consumers.get(&id).map_or(0, |c| ground.capacity(c));
                if capacity > 0 {
                    return Some((id, capacity, ring.len() == 1));
                }
                ring.pop_front();
                if let Some(consumer) = ground.consumers.get_mut(&id) {
                    consumer.parked = true;
                }
            }
        }
        None
    }

    pub(super) fn rotate(&mut self, id: ConsumerId, ground: &Ground) {
        let priority = ground.consumers.get(&id).map_or(0, |c| c.priority);
        if let Some(ring) = self.rotation.get_mut(&Reverse(priority)) {
            ring.rotate_left(1);
        }
    }

    /// Gives a run no one else waits before straight to consumers; returns what is left of it.
    pub(super) fn serve(
        &mut self,
        mut piece: Piece,
        ground: &mut Ground,
        effects: &mut Effects,
    ) -> Option<Piece> {
        while let Some((id, capacity, alone)) = self.pick(ground) {
            let max = if alone { capacity } else { 1 };
            let all = max >= u64::from(piece.run.count);
            let part = if all { piece } else { piece.split(max as u32) };
            self.hand(id, part, None, ground, effects);
            if !alone {
                self.rotate(id, ground);
            }
            if all {
                return None;
            }
        }
        Some(piece)
    }

    /// Delivers while something is ready and someone may have it; then keeps the length and arms the head's expiry.
    pub(super) fn settle_down(&mut self, ground: &mut Ground, effects: &mut Effects) {
        self.hand_over(ground);
        if self.is_stream() {
            self.settle_stream(ground, effects);
            return;
        }
        while self.ready > 0 {
            let Some((id, capacity, alone)) = self.pick(ground) else {
                break;
            };
            let Some(level) = self.serving(ground, effects) else {
                break;
            };
            let Some(piece) = self.take(level, if alone { capacity } else { 1 }, ground) else {
                break;
            };
            self.hand(id, piece, None, ground, effects);
            if !alone {
                self.rotate(id, ground);
            }
        }
        if self.config.overflow == Overflow::DropHead {
            self.drop_overflow(ground, effects);
        }
        self.arm_heads(ground);
    }

    pub(super) fn drop_overflow(&mut self, ground: &mut Ground, effects: &mut Effects) {
        let length_max = self.config.max_length.unwrap_or(u64::MAX);
        let bytes_max = self.config.max_length_bytes.unwrap_or(u64::MAX);
        while self.ready > 0 {
            let length = self.ready + self.delayed_count;
            let bytes = self.ready_bytes + self.delayed_bytes;
            if length <= length_max && bytes <= bytes_max {
                return;
            }
            let Some(level) = self.top() else { return };
            let head = self.levels[usize::from(level)].head(level, ground.store.get_mut());
            let size = head.map_or(1, |piece| u64::from(piece.run.size)).max(1);
            let over = length.saturating_sub(length_max);
            let over_bytes = bytes.saturating_sub(bytes_max).div_ceil(size);
            let Some(piece) = self.take(level, over.max(over_bytes).max(1), ground) else {
                return;
            };
            self.retire(piece, DeathReason::MaxLen, ground, effects);
        }
    }

    pub(super) fn arm_heads(&mut self, ground: &mut Ground) {
        for level in 0..self.levels.len() {
            let head = self.levels[level].head(level as u8, ground.store.get_mut());
            if let Some(piece) = head {
                let at = piece.run.expires_at;
                Ground::arm(
                    &mut ground.timers,
                    &mut self.heads_armed,
                    at,
                    Timer::Heads(self.id),
                );
            }
        }
    }

    pub(super) fn hand(
        &mut self,
        id: ConsumerId,
        piece: Piece,
        offset: Option<u64>,
        ground: &mut Ground,
        effects: &mut Effects,
    ) {
        let mut delivery = self.lease(id, piece, ground);
        delivery.offset = offset;
        let manual = ground.consumers.get(&id).is_some_and(|c| !c.no_ack);
        let count = u64::from(piece.run.count);
        if manual {
            ground.totals.delivered_manual += count;
            self.flow.delivered += count;
        } else {
            ground.totals.delivered_auto += count;
            self.flow.delivered_auto += count;
        }
        if let Some(Effect::Deliver(last)) = effects.last_mut()
            && last.consumer == id
            && last.first_no + u64::from(last.count) == delivery.first_no
            && last.first.0 + u64::from(last.count) == delivery.first.0
            && last.size == delivery.size
            && last.offset.map(|offset| offset + u64::from(last.count)) == delivery.offset
            && (last.redelivered, last.acquired, last.failed)
                == (delivery.redelivered, delivery.acquired, delivery.failed)
        {
            last.count += delivery.count;
            return;
        }
        effects.push(Effect::Deliver(delivery));
    }

    /// Moves a run that has left the index to a consumer: leased, or gone if it does not acknowledge. A stream's run
    /// stays in its index, and its lease, which has no deadline, is a hold of its own.
    pub(super) fn lease(&mut self, id: ConsumerId, piece: Piece, ground: &mut Ground) -> Delivery {
        let count = u64::from(piece.run.count);
        let mut delivery = Delivery {
            consumer: id,
            first_no: 0,
            first: piece.run.first,
            count: piece.run.count,
            size: piece.run.size,
            redelivered: piece.acquired > 0,
            acquired: piece.acquired,
            failed: piece.failed,
            offset: None,
        };
        if piece.acquired > 0 {
            ground.totals.redelivered += count;
            self.flow.redelivered += count;
        }
        let Some(consumer) = ground.consumers.get_mut(&id) else {
            return delivery;
        };
        delivery.first_no = consumer.next_no;
        consumer.next_no += count;
        if let Credit::Window(window) = &mut consumer.credit {
            *window = window.saturating_sub(piece.run.count);
        }
        let deadline = match (self.config.stream.is_some(), consumer.no_ack) {
            (true, true) => return delivery,
            (true, false) => {
                ground.live.add(piece.run.first, count);
                NEVER
            }
            (false, true) => {
                if consumer.until_sent && matches!(consumer.credit, Credit::Window(_)) {
                    consumer.send(piece.run.first, piece.run.count);
                } else {
                    ground.live.remove(piece.run.first, count);
                }
                return delivery;
            }
            (false, false) => {
                let visibility = consumer.visibility.unwrap_or(self.config.visibility);
                ground.now.plus(visibility)
            }
        };
        let lease = Lease {
            queue: self.id,
            piece,
            deadline,
        };
        consumer.leases.push(delivery.first_no, lease);
        consumer.unsettled += count;
        Ground::arm(
            &mut ground.timers,
            &mut consumer.armed,
            deadline,
            Timer::Leases(id),
        );
        if consumer.limited
            && let Some(channel) = ground
                .channels
                .get_mut(&(consumer.session, consumer.channel))
        {
            channel.unsettled += count;
        }
        self.unsettled += count;
        self.unsettled_bytes += piece.run.bytes();
        ground.totals.unsettled += count;
        ground.totals.unsettled_bytes += piece.run.bytes();
        if !self.holders.contains(&id) {
            self.holders.insert(id);
        }
        delivery
    }

    /// Takes one message for basic.get.
    pub(super) fn get(
        &mut self,
        id: ConsumerId,
        no_ack: bool,
        ground: &mut Ground,
        effects: &mut Effects,
    ) -> Option<Delivery> {
        let piece = match self.serving(ground, effects) {
            Some(level) => self.take(level, 1, ground)?,
            None => return None,
        };
        if let Some(holder) = ground.consumers.get_mut(&id) {
            holder.no_ack = no_ack;
        }
        let delivery = self.lease(id, piece, ground);
        if no_ack {
            ground.totals.got_auto += 1;
            self.flow.got_auto += 1;
        } else {
            ground.totals.got_manual += 1;
            self.flow.got += 1;
        }
        Some(delivery)
    }

    /// Forgets a lease that has ended.
    pub(super) fn unlease(&mut self, piece: &Piece, ground: &mut Ground) {
        let count = u64::from(piece.run.count);
        assert!(
            self.unsettled >= count,
            "{} unsettled, {count} end",
            self.unsettled
        );
        self.unsettled -= count;
        self.unsettled_bytes -= piece.run.bytes();
        ground.totals.unsettled -= count;
        ground.totals.unsettled_bytes -= piece.run.bytes();
    }
}
