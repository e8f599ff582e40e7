//! One queue: its ready messages by level, what came back, what waits, and who consumes.
//!
//! Invariants: while a message is ready, no consumer that may have it has capacity (after every command).
//! Not here: leases (lease.rs), which of a set's structures a command touches (machine.rs).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use parking_lot::Mutex;

use super::command::QueueConfig;
use super::effect::{DeadLetter, DeathReason, Effect, Effects};
use super::lease::{Channel, Consumer, Piece, Timer};
use super::pages::NEVER;
use super::ready::{Ready, Store};
use super::stream::Stream;
use super::{Flow, LiveMap, QueueStats, Totals};
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

    pub(super) fn capacity(&self, consumer: &Consumer) -> u64 {
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
    pub(super) fn is_empty(&self) -> bool {
        self.returned.is_empty() && self.ready.is_empty()
    }

    pub(super) fn head(&mut self, level: u8, store: &mut Store) -> Option<Piece> {
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

    pub(super) fn advance(&mut self, count: u32) {
        let Some((_, mut piece)) = self.returned.pop_first() else {
            self.ready.advance(count);
            return;
        };
        if piece.run.count > count {
            piece.split(count);
            self.returned.insert(piece.run.first, piece);
        }
    }

    pub(super) fn give_back(&mut self, mut piece: Piece) {
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
    /// What it holds instead of levels, if it is a stream.
    pub stream: Option<Box<Stream>>,
    pub ready: u64,
    pub ready_bytes: u64,
    pub unsettled: u64,
    pub unsettled_bytes: u64,
    pub delayed: BTreeMap<(Millis, Position), Piece>,
    pub delayed_count: u64,
    pub delayed_bytes: u64,
    /// Dead letters that have not gone yet, each with its body bytes.
    pub outbox: BTreeMap<u64, (Position, DeathReason, u32)>,
    pub outbox_bytes: u64,
    pub next_dead: u64,
    /// In order of arrival.
    pub attached: Vec<ConsumerId>,
    pub rotation: BTreeMap<Reverse<i32>, VecDeque<ConsumerId>>,
    pub active: Option<ConsumerId>,
    /// Who is to be the single active consumer, where priority decides.
    pub heir: Option<ConsumerId>,
    pub exclusive: Option<ConsumerId>,
    /// Whoever may hold leases of this queue.
    pub holders: BTreeSet<ConsumerId>,
    pub last_used: Millis,
    pub flow: Flow,
    pub heads_armed: Option<Millis>,
    pub delayed_armed: Option<Millis>,
    pub expires_armed: Option<Millis>,
}

impl Queue {
    pub fn new(id: QueueId, config: QueueConfig, now: Millis) -> Self {
        Self {
            id,
            levels: Vec::new(),
            stream: config.stream.map(|_| Box::default()),
            config,
            ready: 0,
            ready_bytes: 0,
            unsettled: 0,
            unsettled_bytes: 0,
            delayed: BTreeMap::new(),
            delayed_count: 0,
            delayed_bytes: 0,
            outbox: BTreeMap::new(),
            outbox_bytes: 0,
            next_dead: 1,
            attached: Vec::new(),
            rotation: BTreeMap::new(),
            active: None,
            heir: None,
            exclusive: None,
            holders: BTreeSet::new(),
            last_used: now,
            flow: Flow::default(),
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

    pub(super) fn level(&mut self, level: u8) -> &mut Level {
        let at = usize::from(level);
        if self.levels.len() <= at {
            self.levels.resize_with(at + 1, Level::default);
        }
        &mut self.levels[at]
    }

    pub(super) fn top(&self) -> Option<u8> {
        self.levels
            .iter()
            .rposition(|level| !level.is_empty())
            .map(|at| at as u8)
    }

    pub(super) fn grow(&mut self, piece: &Piece, ground: &mut Ground) {
        let count = u64::from(piece.run.count);
        self.ready += count;
        self.ready_bytes += piece.run.bytes();
        ground.totals.ready += count;
        ground.totals.ready_bytes += piece.run.bytes();
    }

    pub(super) fn shrink(&mut self, piece: &Piece, ground: &mut Ground) {
        let count = u64::from(piece.run.count);
        assert!(self.ready >= count, "{} ready, {count} taken", self.ready);
        self.ready -= count;
        self.ready_bytes -= piece.run.bytes();
        ground.totals.ready -= count;
        ground.totals.ready_bytes -= piece.run.bytes();
    }

    /// Puts a fresh run at the end of its level, or of the stream.
    pub fn push(&mut self, piece: Piece, ground: &mut Ground) {
        self.grow(&piece, ground);
        if self.is_stream() {
            self.append(piece.run, ground);
            return;
        }
        let store = ground.store.get_mut();
        self.level(piece.level).ready.push(piece.run, store);
    }

    /// Puts a run that had been handed out back at its place.
    pub fn put_back(&mut self, piece: Piece, ground: &mut Ground) {
        self.grow(&piece, ground);
        self.level(piece.level).give_back(piece);
    }

    /// Takes up to `max` messages from the head of `level`.
    pub(super) fn take(&mut self, level: u8, max: u64, ground: &mut Ground) -> Option<Piece> {
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
    pub(super) fn serving(&mut self, ground: &mut Ground, effects: &mut Effects) -> Option<u8> {
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

    /// The end of a run in this queue: to the outbox, or nowhere. A stream's lease ends and the message stays.
    pub fn retire(
        &mut self,
        piece: Piece,
        reason: DeathReason,
        ground: &mut Ground,
        effects: &mut Effects,
    ) {
        let count = u64::from(piece.run.count);
        if self.is_stream() {
            ground.live.remove(piece.run.first, count);
            return;
        }
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
            self.outbox.insert(id, (position, reason, piece.run.size));
            self.outbox_bytes += u64::from(piece.run.size);
            effects.push(Effect::DeadLetter(DeadLetter {
                queue: self.id,
                id,
                position,
                reason,
            }));
        }
    }

    /// The dead letter has gone.
    pub fn forget_dead(&mut self, id: u64, ground: &mut Ground) {
        if let Some((position, _, size)) = self.outbox.remove(&id) {
            self.outbox_bytes -= u64::from(size);
            ground.live.remove(position, 1);
        }
    }

    /// Dead letters that have not gone yet are dropped.
    pub fn forget_all_dead(&mut self, ground: &mut Ground) {
        for (position, ..) in std::mem::take(&mut self.outbox).into_values() {
            ground.live.remove(position, 1);
        }
        self.outbox_bytes = 0;
    }

    /// Ends a stay with a consumer that did not settle it: visible again, delayed, or dead.
    pub fn give_back(
        &mut self,
        mut piece: Piece,
        failed: bool,
        ground: &mut Ground,
        effects: &mut Effects,
    ) {
        if self.is_stream() {
            // The message is where it was; only the lease's own hold on it ends.
            ground
                .live
                .remove(piece.run.first, u64::from(piece.run.count));
            return;
        }
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

    /// Messages of `size` bytes a refusing queue still takes.
    pub fn room(&self, size: u32) -> u64 {
        let mut length = self.ready + self.delayed_count;
        let mut bytes = self.ready_bytes + self.delayed_bytes;
        if self.config.at_least_once {
            length += self.outbox.len() as u64;
            bytes += self.outbox_bytes;
        }
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

    /// Removes all ready messages. Reads every cold page.
    pub fn purge(&mut self, ground: &mut Ground) -> u64 {
        let count = self.ready;
        if let Some(stream) = &mut self.stream {
            let live = &mut ground.live;
            stream.drain(ground.store.get_mut(), |run| {
                live.remove(run.first, u64::from(run.count))
            });
        }
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
        if let Some(stream) = &mut self.stream {
            stream.waiting.remove(&id);
        }
        if self.active == Some(id) {
            self.active = None;
        }
        self.elect(ground);
        if self.exclusive == Some(id) {
            self.exclusive = None;
        }
        ground.totals.consumers -= 1;
        self.touch(ground);
    }

    /// Dead letters after the one with this id, in order.
    pub fn letters_after(&self, id: u64, max: usize) -> Vec<DeadLetter> {
        let from = id.saturating_add(1);
        let later = self.outbox.range(from..).take(max);
        let letter =
            |(&id, &(position, reason, _)): (&u64, &(Position, DeathReason, u32))| DeadLetter {
                queue: self.id,
                id,
                position,
                reason,
            };
        later.map(letter).collect()
    }
}
