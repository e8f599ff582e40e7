//! Messages come in: taken to the end of their level, handed on at once, delayed, or refused.
//!
//! Invariant: a refused message leaves no trace but its refusal (and its dead letter).
//! Not here: what a full queue drops (deliver.rs).

use super::Source;
use super::command::{Enqueue, Overflow};
use super::effect::{DeathReason, Effect, Effects};
use super::lease::Piece;
use super::machine::SetMachine;
use super::pages::{NEVER, Run};
use super::queue::{Ground, Queue};
use crate::base::{Millis, Position};

impl SetMachine {
    pub(super) fn enqueue(
        &mut self,
        source: Source,
        skip: u32,
        run: Enqueue,
        effects: &mut Effects,
    ) {
        let slots = Position::SLOTS_MAX;
        if run.count <= skip
            || u64::from(run.first.slot()) + u64::from(run.count) > u64::from(slots)
        {
            return;
        }
        let Some(queue) = self.queues.get_mut(&run.queue) else {
            if self.moved.contains(&run.queue) {
                // Whoever sent it did not know yet where the queue lives: it must not count as delivered.
                let seqs = (skip..run.count).map(|slot| source.seq + u64::from(slot));
                effects.extend(seqs.map(|seq| Effect::Refused(Source { seq, ..source })));
            }
            return;
        };
        let ground = &mut self.ground;
        let ttl = match (queue.config.message_ttl, run.ttl) {
            _ if queue.is_stream() => None,
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
        if queue.is_stream() || queue.config.overflow == Overflow::DropHead {
            let due = delay.map(|_| visible_at);
            admit_all(queue, piece, due, ttl, ground, effects);
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
}

/// Takes a run into a queue that makes room by dropping its head.
///
/// Without time to live a message expires at once only at the head, and whether it comes there is decided by what a limit
/// drops in front of it: such messages go one by one.
fn admit_all(
    queue: &mut Queue,
    mut piece: Piece,
    due: Option<Millis>,
    ttl: Option<Millis>,
    ground: &mut Ground,
    effects: &mut Effects,
) {
    let limited = queue.config.max_length.is_some() || queue.config.max_length_bytes.is_some();
    let parts = match limited && ttl == Some(Millis(0)) {
        true => piece.run.count,
        false => 1,
    };
    for left in (1..=parts).rev() {
        let part = if left > 1 { piece.split(1) } else { piece };
        admit(queue, part, due, ttl, ground, effects);
        queue.settle_down(ground, effects);
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
    queue.flow.published += count;
    if let Some(due) = due {
        queue.delay(piece, due, ground);
        return;
    }
    let rest = if queue.ready == 0 && !queue.is_stream() {
        queue.serve(piece, ground, effects)
    } else {
        Some(piece)
    };
    let Some(rest) = rest else { return };
    // Behind another message it waits until it is at the head, as all that has expired does.
    if ttl == Some(Millis(0)) && queue.ready == 0 {
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
