//! What a queue does that is a stream: it appends, feeds each consumer from its own place, and forgets by age and size.
//!
//! Invariants: no consumer with capacity is behind the end (after every command). A consumer's place never goes back, and
//! is part of the state: whoever leads next goes on there. Each lease counts as live by itself, beside the stream's own
//! hold on the message, so retention never takes what a client has been promised and not been sent.
//! Limits: one step of retention drops at most `limits::DEADLINES_PER_APPLY_MAX` runs; the next entry goes on.
//! Not here: the index (stream.rs).

use std::cmp::Reverse;

use super::command::StreamRules;
use super::effect::Effects;
use super::lease::{Piece, Timer};
use super::pages::{NEVER, Run};
use super::queue::{Ground, Queue};
use super::stream::Stream;
use crate::base::{ConsumerId, Millis, limits};

/// How much later than its age a message may go, so that a busy stream is not looked at for every run.
pub(super) fn slack(age: Millis) -> Millis {
    Millis((age.0 / 64).clamp(50, 10_000))
}

impl Queue {
    /// Also true while its index is out on loan here.
    pub(super) fn is_stream(&self) -> bool {
        self.config.stream.is_some()
    }

    fn rules(&self) -> StreamRules {
        self.config.stream.unwrap_or_default()
    }

    /// Puts a run at the end; whoever waits for more is hungry again.
    pub(super) fn append(&mut self, run: Run, ground: &mut Ground) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let run = Run {
            expires_at: ground.now,
            ..run
        };
        stream.push(run, ground.store.get_mut());
        if !stream.waiting.is_empty() {
            let waiting = std::mem::take(&mut stream.waiting);
            let ring = self.rotation.entry(Reverse(0)).or_default();
            ring.extend(waiting);
        }
    }

    /// Feeds who is hungry, keeps the size, and sees to it that age is looked at.
    pub(super) fn settle_stream(&mut self, ground: &mut Ground, effects: &mut Effects) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        for id in std::mem::take(&mut self.rotation).into_values().flatten() {
            self.feed(id, &mut stream, ground, effects);
        }
        let mut budget = limits::DEADLINES_PER_APPLY_MAX;
        self.keep_size(&mut stream, &mut budget, ground);
        self.arm_age(&stream, budget == 0, ground);
        self.stream = Some(stream);
    }

    /// Gives a consumer what it has room for, from its place on.
    fn feed(
        &mut self,
        id: ConsumerId,
        stream: &mut Stream,
        ground: &mut Ground,
        effects: &mut Effects,
    ) {
        while let Some(consumer) = ground.consumers.get(&id)
            && let Some(cursor) = consumer.cursor
        {
            let at = cursor.max(stream.first());
            if at >= stream.next {
                stream.waiting.insert(id);
                return;
            }
            let room = ground.capacity(consumer);
            let found = match room {
                0 => None,
                _ => stream.find(at, ground.store.get_mut()),
            };
            let Some(consumer) = ground.consumers.get_mut(&id) else {
                return;
            };
            let Some(span) = found else {
                // Out of the ring until it has room. A page that cannot be read stops the machine.
                consumer.parked = true;
                return;
            };
            let skipped = (at - span.offset) as u32;
            let count = u64::from(span.run.count - skipped).min(room) as u32;
            let piece = Piece {
                run: Run {
                    first: span.run.first.plus(skipped),
                    count,
                    size: span.run.size,
                    expires_at: NEVER,
                },
                acquired: 0,
                failed: 0,
                level: 0,
            };
            consumer.cursor = Some(at + u64::from(count));
            self.hand(id, piece, Some(at), ground, effects);
        }
    }

    /// Drops the oldest messages beyond `x-max-length-bytes`; the newest always stays.
    fn keep_size(&mut self, stream: &mut Stream, budget: &mut usize, ground: &mut Ground) {
        let Some(max) = self.rules().max_bytes else {
            return;
        };
        while *budget > 0 && self.ready > 1 && self.ready_bytes > max {
            let Some(span) = stream.front(ground.store.get_mut()) else {
                return;
            };
            *budget -= 1;
            let size = u64::from(span.run.size.max(1));
            let over = (self.ready_bytes - max).div_ceil(size);
            self.forget_oldest(stream, over.min(self.ready - 1), ground);
        }
    }

    /// Drops what is older than `x-max-age`, once the oldest is so by more than the slack.
    pub(super) fn drop_aged(&mut self, at: Millis, budget: &mut usize, ground: &mut Ground) {
        let Some(age) = self.rules().max_age else {
            return;
        };
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        let aged = |stream: &Stream, extra: Millis, by: Millis| {
            let since = stream.since();
            since.is_some_and(|since| since.plus(age).plus(extra) <= by)
        };
        if aged(&stream, slack(age), at) {
            let now = ground.now;
            while *budget > 0
                && aged(&stream, Millis(0), now)
                && stream.front(ground.store.get_mut()).is_some()
            {
                *budget -= 1;
                self.forget_oldest(&mut stream, u64::MAX, ground);
            }
        }
        self.stream = Some(stream);
    }

    /// Takes up to `max` messages of the oldest run away.
    fn forget_oldest(&mut self, stream: &mut Stream, max: u64, ground: &mut Ground) {
        let Some(span) = stream.head.front() else {
            return;
        };
        let count = u64::from(span.run.count).min(max) as u32;
        let run = Run { count, ..span.run };
        stream.advance(count);
        ground.live.remove(run.first, u64::from(count));
        let piece = Piece {
            run,
            acquired: 0,
            failed: 0,
            level: 0,
        };
        self.shrink(&piece, ground);
    }

    fn arm_age(&mut self, stream: &Stream, unfinished: bool, ground: &mut Ground) {
        let aged = self.rules().max_age.zip(stream.since());
        let aged = aged.map_or(NEVER, |(age, since)| since.plus(age).plus(slack(age)));
        // Not now: that would be fired in the same entry.
        let at = if unfinished {
            ground.now.plus(Millis(1))
        } else {
            aged
        };
        let armed = &mut self.heads_armed;
        Ground::arm(&mut ground.timers, armed, at, Timer::Heads(self.id));
    }
}
