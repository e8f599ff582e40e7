//! One queue: its ready messages by level, what came back, what waits, and who consumes.
//!
//! Invariants: while a message is ready, no consumer that may have it has capacity (after every command).
//! Not here: leases (lease.rs), which of a set's structures a command touches (machine.rs).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use parking_lot::Mutex;

use super::command::{Credit, Overflow, QueueConfig};
use super::effect::{DeadLetter, DeathReason, Delivery, Effect, Effects};
use super::lease::{Channel, Consumer, Lease, Piece, Timer};
use super::pages::NEVER;
use super::ready::{Ready, Store};
use super::{LiveMap, QueueStats, Totals};
use crate::base::{ConsumerId, Millis, Position, QueueId, SessionId, limits};

/// What all queues of a set share.
pub(super) struct Ground {
    pub now: Millis,
    pub consumers: BTreeMap<ConsumerId, Consumer>,
    pub channels: BTreeMap<(SessionId, u16), Channel>,
    pub live: LiveMap,
    pub totals: Totals,
    pub timers: BTreeSet<(Millis, Timer)>,
    pub store: Mutex<Store>,
}

impl Ground {
    /// Makes sure the timer fires at `at` or before.
    pub fn arm(
        timers: &mut BTreeSet<(Millis, Timer)>,
        armed: &mut Option<Millis>,
        at: Millis,
        timer: Timer,
    ) {
        if at == NEVER || armed.is_some_and(|old| old <= at) {
            return;
        }
        if let Some(old) = armed.replace(at) {
            timers.remove(&(old, timer));
        }
        timers.insert((at, timer));
    }

    fn capacity(&self, consumer: &Consumer) -> u64 {
        let room = consumer.room();
        if !consumer.limited || consumer.no_ack {
            return room;
        }
        self.channels
            .get(&(consumer.session, consumer.channel))
            .map_or(room, |c| {
                room.min(u64::from(c.limit).saturating_sub(c.unsettled))
            })
    }
}

/// One priority level. `returned` is served before `ready`.
#[derive(Default)]
pub(super) struct Level {
    pub returned: BTreeMap<Position, Piece>,
    pub ready: Ready,
}

impl Level {
    fn is_empty(&self) -> bool {
        self.returned.is_empty() && self.ready.is_empty()
    }

    fn head(&mut self, level: u8, store: &mut Store) -> Option<Piece> {
        if let Some((_, piece)) = self.returned.first_key_value() {
            return Some(*piece);
        }
        self.ready.front(store).map(|run| Piece {
            run,
            acquired: 0,
            failed: 0,
            level,
        })
    }

    fn advance(&mut self, count: u32) {
        let Some((_, mut piece)) = self.returned.pop_first() else {
            self.ready.advance(count);
            return;
        };
        if piece.run.count > count {
            piece.split(count);
            self.returned.insert(piece.run.first, piece);
        }
    }

    fn give_back(&mut self, mut piece: Piece) {
        if let Some((&at, before)) = self.returned.range(..piece.run.first).next_back()
            && before.joins(&piece)
        {
            let mut joined = *before;
            joined.run.count += piece.run.count;
            self.returned.remove(&at);
            piece = joined;
        }
        let end = piece.run.first.plus(piece.run.count);
        if let Some(after) = self.returned.get(&end)
            && piece.joins(after)
        {
            piece.run.count += after.run.count;
            self.returned.remove(&end);
        }
        self.returned.insert(piece.run.first, piece);
    }
}

/// See the module.
pub(super) struct Queue {
    pub id: QueueId,
    pub config: QueueConfig,
    pub levels: Vec<Level>,
    pub ready: u64,
    pub ready_bytes: u64,
    pub unsettled: u64,
    pub unsettled_bytes: u64,
    pub delayed: BTreeMap<(Millis, Position), Piece>,
    pub delayed_count: u64,
    pub delayed_bytes: u64,
    pub outbox: BTreeMap<u64, (Position, DeathReason)>,
    pub next_dead: u64,
    /// In order of arrival.
    pub attached: Vec<ConsumerId>,
    pub rotation: BTreeMap<Reverse<i32>, VecDeque<ConsumerId>>,
    pub active: Option<ConsumerId>,
    pub exclusive: Option<ConsumerId>,
    /// Whoever may hold leases of this queue.
    pub holders: BTreeSet<ConsumerId>,
    pub last_used: Millis,
    pub heads_armed: Option<Millis>,
    pub delayed_armed: Option<Millis>,
    pub expires_armed: Option<Millis>,
}

impl Queue {
    pub fn new(id: QueueId, config: QueueConfig, now: Millis) -> Self {
        Self {
            id,
            config,
            levels: Vec::new(),
            ready: 0,
            ready_bytes: 0,
            unsettled: 0,
            unsettled_bytes: 0,
            delayed: BTreeMap::new(),
            delayed_count: 0,
            delayed_bytes: 0,
            outbox: BTreeMap::new(),
            next_dead: 1,
            attached: Vec::new(),
            rotation: BTreeMap::new(),
            active: None,
            exclusive: None,
            holders: BTreeSet::new(),
            last_used: now,
            heads_armed: None,
            delayed_armed: None,
            expires_armed: None,
        }
    }

    pub fn stats(&self) -> QueueStats {
        QueueStats {
            ready: self.ready,
            ready_bytes: self.ready_bytes,
            unsettled: self.unsettled,
            unsettled_bytes: self.unsettled_bytes,
            delayed: self.delayed_count,
            dead_letters: self.outbox.len() as u64,
            consumers: u32::try_from(self.attached.len()).unwrap_or(u32::MAX),
            active: self.active,
        }
    }

    fn level(&mut self, level: u8) -> &mut Level {
        let at = usize::from(level);
        if self.levels.len() <= at {
            self.levels.resize_with(at + 1, Level::default);
        }
        &mut self.levels[at]
    }

    fn top(&self) -> Option<u8> {
        self.levels
            .iter()
            .rposition(|level| !level.is_empty())
            .map(|at| at as u8)
    }

    fn grow(&mut self, piece: &Piece, ground: &mut Ground) {
        let count = u64::from(piece.run.count);
        self.ready += count;
        self.ready_bytes += piece.run.bytes();
        ground.totals.ready += count;
        ground.totals.ready_bytes += piece.run.bytes();
    }

    fn shrink(&mut self, piece: &Piece, ground: &mut Ground) {
        let count = u64::from(piece.run.count);
        assert!(self.ready >= count, "{} ready, {count} taken", self.ready);
        self.ready -= count;
        self.ready_bytes -= piece.run.bytes();
        ground.totals.ready -= count;
        ground.totals.ready_bytes -= piece.run.bytes();
    }

    /// Puts a fresh run at the end of its level.
    pub fn push(&mut self, piece: Piece, ground: &mut Ground) {
        self.grow(&piece, ground);
        let store = ground.store.get_mut();
        self.level(piece.level).ready.push(piece.run, store);
    }

    /// Puts a run that had been handed out back at its place.
    pub fn put_back(&mut self, piece: Piece, ground: &mut Ground) {
        self.grow(&piece, ground);
        self.level(piece.level).give_back(piece);
    }

    /// Takes up to `max` messages from the head of `level`.
    fn take(&mut self, level: u8, max: u64, ground: &mut Ground) -> Option<Piece> {
        let slot = self.levels.get_mut(usize::from(level))?;
        let mut piece = slot.head(level, ground.store.get_mut())?;
        let count = u64::from(piece.run.count).min(max) as u32;
        slot.advance(count);
        piece.run.count = count;
        self.shrink(&piece, ground);
        Some(piece)
    }

    /// Drops heads of all levels that expired at or before `at`, at most `budget` runs.
    pub fn drop_expired(
        &mut self,
        at: Millis,
        budget: &mut usize,
        ground: &mut Ground,
        effects: &mut Effects,
    ) {
        for level in (0..self.levels.len()).rev() {
            while *budget > 0 {
                let head = self.levels[level].head(level as u8, ground.store.get_mut());
                if head.is_none_or(|piece| piece.run.expires_at > at) {
                    break;
                }
                *budget -= 1;
                if let Some(piece) = self.take(level as u8, u64::MAX, ground) {
                    self.retire(piece, DeathReason::Expired, ground, effects);
                }
            }
        }
    }

    /// The level to serve next; none if all are empty, or if more has expired than one step may drop.
    fn serving(&mut self, ground: &mut Ground, effects: &mut Effects) -> Option<u8> {
        let mut budget = limits::DEADLINES_PER_APPLY_MAX;
        loop {
            let level = self.top()?;
            let head = self.levels[usize::from(level)].head(level, ground.store.get_mut())?;
            if head.run.expires_at > ground.now {
                return Some(level);
            }
            if budget == 0 {
                return None;
            }
            budget -= 1;
            let piece = self.take(level, u64::MAX, ground)?;
            self.retire(piece, DeathReason::Expired, ground, effects);
        }
    }

    /// The end of a run in this queue: to the outbox, or nowhere.
    pub fn retire(
        &mut self,
        piece: Piece,
        reason: DeathReason,
        ground: &mut Ground,
        effects: &mut Effects,
    ) {
        let count = u64::from(piece.run.count);
        *match reason {
            DeathReason::Rejected => &mut ground.totals.died_rejected,
            DeathReason::Expired => &mut ground.totals.died_expired,
            DeathReason::MaxLen => &mut ground.totals.died_max_len,
            DeathReason::DeliveryLimit => &mut ground.totals.died_delivery_limit,
        } += count;
        if !self.config.dead_letters {
            ground.live.remove(piece.run.first, count);
            return;
        }
        for slot in 0..piece.run.count {
            let position = piece.run.first.plus(slot);
            let id = self.next_dead;
            self.next_dead += 1;
            self.outbox.insert(id, (position, reason));
            effects.push(Effect::DeadLetter(DeadLetter {
                queue: self.id,
                id,
                position,
                reason,
            }));
        }
    }

    /// Ends a stay with a consumer that did not settle it: visible again, delayed, or dead.
    pub fn give_back(
        &mut self,
        mut piece: Piece,
        failed: bool,
        ground: &mut Ground,
        effects: &mut Effects,
    ) {
        piece.acquired = piece.acquired.saturating_add(1);
        piece.failed = piece.failed.saturating_add(u32::from(failed));
        let counted = if self.config.count_every_return {
            piece.acquired
        } else {
            piece.failed
        };
        let limit = self.config.delivery_limit;
        if (failed || self.config.count_every_return) && limit.is_some_and(|limit| counted > limit)
        {
            self.retire(piece, DeathReason::DeliveryLimit, ground, effects);
            return;
        }
        let retry = self
            .config
            .delayed_retry
            .filter(|r| if failed { r.failed } else { r.returned });
        if let Some(retry) = retry {
            let span = retry
                .min
                .0
                .saturating_mul(u64::from(piece.failed.max(1)))
                .min(retry.max.0);
            if span > 0 {
                self.delay(piece, ground.now.plus(Millis(span)), ground);
                return;
            }
        }
        self.put_back(piece, ground);
    }

    pub fn delay(&mut self, piece: Piece, due: Millis, ground: &mut Ground) {
        self.delayed_count += u64::from(piece.run.count);
        self.delayed_bytes += piece.run.bytes();
        self.delayed.insert((due, piece.run.first), piece);
        Ground::arm(
            &mut ground.timers,
            &mut self.delayed_armed,
            due,
            Timer::Delayed(self.id),
        );
    }

    /// Makes visible what was due at or before `at`, at most `budget` runs.
    pub fn wake(&mut self, at: Millis, budget: &mut usize, ground: &mut Ground) {
        while let Some((&(due, first), &piece)) = self.delayed.first_key_value() {
            if due > at || *budget == 0 {
                Ground::arm(
                    &mut ground.timers,
                    &mut self.delayed_armed,
                    due,
                    Timer::Delayed(self.id),
                );
                return;
            }
            *budget -= 1;
            self.delayed.remove(&(due, first));
            self.delayed_count -= u64::from(piece.run.count);
            self.delayed_bytes -= piece.run.bytes();
            if piece.acquired == 0 {
                self.push(piece, ground);
            } else {
                self.put_back(piece, ground);
            }
        }
    }

    fn pick(&mut self, ground: &mut Ground) -> Option<(ConsumerId, u64, bool)> {
        if self.config.single_active {
            let id = self.active?;
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

    fn rotate(&mut self, id: ConsumerId, ground: &Ground) {
        let priority = ground.consumers.get(&id).map_or(0, |c| c.priority);
        if let Some(ring) = self.rotation.get_mut(&Reverse(priority)) {
            ring.rotate_left(1);
        }
    }

    /// Gives a run no one else waits before straight to consumers; returns what is left of it.
    pub fn serve(
        &mut self,
        mut piece: Piece,
        ground: &mut Ground,
        effects: &mut Effects,
    ) -> Option<Piece> {
        while let Some((id, capacity, alone)) = self.pick(ground) {
            let max = if alone { capacity } else { 1 };
            let all = max >= u64::from(piece.run.count);
            let part = if all { piece } else { piece.split(max as u32) };
            self.hand(id, part, ground, effects);
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
    pub fn settle_down(&mut self, ground: &mut Ground, effects: &mut Effects) {
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
            self.hand(id, piece, ground, effects);
            if !alone {
                self.rotate(id, ground);
            }
        }
        if self.config.overflow == Overflow::DropHead {
            self.drop_overflow(ground, effects);
        }
        self.arm_heads(ground);
    }

    fn drop_overflow(&mut self, ground: &mut Ground, effects: &mut Effects) {
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

    /// Messages of `size` bytes a refusing queue still takes.
    pub fn room(&self, size: u32) -> u64 {
        let length = self.ready + self.delayed_count;
        let bytes = self.ready_bytes + self.delayed_bytes;
        let count = self
            .config
            .max_length
            .map_or(u64::MAX, |max| max.saturating_sub(length));
        let by_bytes = self.config.max_length_bytes.map_or(u64::MAX, |max| {
            if size == 0 && bytes <= max {
                u64::MAX
            } else {
                max.saturating_sub(bytes) / u64::from(size.max(1))
            }
        });
        count.min(by_bytes)
    }

    pub fn arm_heads(&mut self, ground: &mut Ground) {
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

    /// Starts the countdown of `x-expires` if nobody consumes.
    pub fn touch(&mut self, ground: &mut Ground) {
        self.last_used = ground.now;
        if let Some(expires) = self.config.expires
            && self.attached.is_empty()
        {
            let at = ground.now.plus(expires);
            Ground::arm(
                &mut ground.timers,
                &mut self.expires_armed,
                at,
                Timer::Expires(self.id),
            );
        }
    }

    fn hand(&mut self, id: ConsumerId, piece: Piece, ground: &mut Ground, effects: &mut Effects) {
        let delivery = self.lease(id, piece, ground);
        let manual = ground.consumers.get(&id).is_some_and(|c| !c.no_ack);
        let count = u64::from(piece.run.count);
        if manual {
            ground.totals.delivered_manual += count;
        } else {
            ground.totals.delivered_auto += count;
        }
        if let Some(Effect::Deliver(last)) = effects.last_mut()
            && last.consumer == id
            && last.first_no + u64::from(last.count) == delivery.first_no
            && last.first.0 + u64::from(last.count) == delivery.first.0
            && last.size == delivery.size
            && (last.redelivered, last.acquired, last.failed)
                == (delivery.redelivered, delivery.acquired, delivery.failed)
        {
            last.count += delivery.count;
            return;
        }
        effects.push(Effect::Deliver(delivery));
    }

    /// Moves a run that has left the index to a consumer: leased, or gone if it does not acknowledge.
    fn lease(&mut self, id: ConsumerId, piece: Piece, ground: &mut Ground) -> Delivery {
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
        };
        if piece.acquired > 0 {
            ground.totals.redelivered += count;
        }
        let Some(consumer) = ground.consumers.get_mut(&id) else {
            return delivery;
        };
        delivery.first_no = consumer.next_no;
        consumer.next_no += count;
        if let Credit::Window(window) = &mut consumer.credit {
            *window = window.saturating_sub(piece.run.count);
        }
        if consumer.no_ack {
            ground.live.remove(piece.run.first, count);
            return delivery;
        }
        let visibility = consumer.visibility.unwrap_or(self.config.visibility);
        let deadline = ground.now.plus(visibility);
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
    pub fn get(
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
        } else {
            ground.totals.got_manual += 1;
        }
        Some(delivery)
    }

    /// Forgets a lease that has ended.
    pub fn unlease(&mut self, piece: &Piece, ground: &mut Ground) {
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

    /// Removes all ready messages. Reads every cold page.
    pub fn purge(&mut self, ground: &mut Ground) -> u64 {
        let count = self.ready;
        for level in &mut self.levels {
            for piece in std::mem::take(&mut level.returned).into_values() {
                ground
                    .live
                    .remove(piece.run.first, u64::from(piece.run.count));
            }
            let live = &mut ground.live;
            level.ready.drain(ground.store.get_mut(), |run| {
                live.remove(run.first, u64::from(run.count))
            });
        }
        ground.totals.ready -= self.ready;
        ground.totals.ready_bytes -= self.ready_bytes;
        self.ready = 0;
        self.ready_bytes = 0;
        count
    }

    /// Takes a consumer out. Its leases stay.
    pub fn detach(&mut self, id: ConsumerId, ground: &mut Ground) {
        self.attached.retain(|other| *other != id);
        self.rotation.retain(|_, ring| {
            ring.retain(|other| *other != id);
            !ring.is_empty()
        });
        if self.active == Some(id) {
            self.active = self.attached.first().copied();
        }
        if self.exclusive == Some(id) {
            self.exclusive = None;
        }
        ground.totals.consumers -= 1;
        self.touch(ground);
    }
}
