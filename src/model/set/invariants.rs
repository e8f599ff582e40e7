//! What must hold after every command, checked the slow way. For tests: O(everything).

use std::collections::{BTreeSet, VecDeque};

use super::lease::Piece;
use super::machine::SetMachine;
use super::pages::NEVER;
use super::stream::{Span, Stream};
use super::{Credit, Overflow};
use crate::base::{Position, QueueId};

impl SetMachine {
    /// Panics with the values of whatever does not hold.
    pub(super) fn check(&self) {
        assert_eq!(self.fault(), None);
        let mut live = 0;
        let mut sums = [0u64; 4];
        for (id, queue) in &self.queues {
            let mut seen = BTreeSet::new();
            let mut add = |first: Position, count: u32| {
                for slot in 0..count {
                    assert!(
                        seen.insert(first.plus(slot)),
                        "{first:?}+{slot} is in {id} twice"
                    );
                }
            };
            let (mut ready, mut ready_bytes) = (0, 0);
            if let Some(stream) = &queue.stream {
                (ready, ready_bytes) = check_stream(stream, &mut add);
                live += stream.middle.iter().map(|page| page.messages).sum::<u64>();
            }
            for level in &queue.levels {
                let mut runs: Vec<_> = level.returned.values().map(|p| p.run).collect();
                runs.extend(level.ready.head.iter().chain(&level.ready.tail));
                for run in runs {
                    ready += u64::from(run.count);
                    ready_bytes += run.bytes();
                    add(run.first, run.count);
                }
                for page in &level.ready.middle {
                    ready += page.messages;
                    ready_bytes += page.bytes;
                    live += page.messages;
                }
            }
            assert_eq!(
                (queue.ready, queue.ready_bytes),
                (ready, ready_bytes),
                "queue {id}"
            );
            let delayed = queue.delayed.values();
            delayed.clone().for_each(|p| add(p.run.first, p.run.count));
            assert_eq!(
                queue.delayed_count,
                delayed.map(|p| u64::from(p.run.count)).sum::<u64>()
            );
            queue
                .outbox
                .values()
                .for_each(|(position, ..)| add(*position, 1));
            assert_eq!(
                queue.outbox_bytes,
                queue.outbox.values().map(|o| u64::from(o.2)).sum::<u64>()
            );
            let leased: Vec<Piece> = self.leased(*id);
            if queue.is_stream() {
                live += leased.iter().map(|p| u64::from(p.run.count)).sum::<u64>();
            } else {
                leased.iter().for_each(|p| add(p.run.first, p.run.count));
            }
            let unsettled = leased.iter().map(|p| u64::from(p.run.count)).sum::<u64>();
            assert_eq!(queue.unsettled, unsettled, "queue {id}");
            assert_eq!(
                queue.unsettled_bytes,
                leased.iter().map(|p| p.run.bytes()).sum::<u64>()
            );
            live += seen.len() as u64;
            for (sum, part) in
                sums.iter_mut()
                    .zip([ready, unsettled, queue.attached.len() as u64, 1])
            {
                *sum += part;
            }
            if !queue.is_stream()
                && queue.config.overflow == Overflow::DropHead
                && let Some(max) = queue.config.max_length
            {
                assert!(ready <= max, "{ready} ready, at most {max}");
            }
        }
        let totals = self.totals();
        assert_eq!(
            sums,
            [
                totals.ready,
                totals.unsettled,
                totals.consumers,
                totals.queues
            ]
        );
        let on_way = self.ground.consumers.values().flat_map(|c| &c.on_way);
        live += on_way.map(|(_, count)| u64::from(*count)).sum::<u64>();
        assert_eq!(self.live().total(), live);
        self.check_consumers();
    }

    fn leased(&self, queue: QueueId) -> Vec<Piece> {
        let consumers = self.ground.consumers.values();
        let leases = consumers.flat_map(|c| c.leases.all().map(|(_, lease)| lease));
        leases
            .filter(|lease| lease.queue == queue)
            .map(|lease| lease.piece)
            .collect()
    }

    fn check_consumers(&self) {
        for (id, consumer) in &self.ground.consumers {
            let held = consumer
                .leases
                .all()
                .map(|(_, l)| u64::from(l.piece.run.count))
                .sum::<u64>();
            assert_eq!(consumer.unsettled, held, "consumer {id}");
            if let (Credit::Prefetch(limit), false) = (consumer.credit, consumer.getter) {
                assert!(
                    consumer.no_ack || held <= u64::from(limit),
                    "consumer {id} holds {held}"
                );
            }
            if let Some(at) = consumer.leases.earliest().filter(|at| *at != NEVER) {
                assert!(
                    consumer.armed.is_some_and(|armed| armed <= at),
                    "consumer {id} is not armed"
                );
            }
            let member = (consumer.session, consumer.channel, *id);
            assert!(
                self.members.contains(&member),
                "consumer {id} has no session"
            );
            let queue = self.queues.get(&consumer.queue);
            let Some(queue) = queue.filter(|_| consumer.attached) else {
                continue;
            };
            if let Some(stream) = &queue.stream {
                let at = consumer.cursor.map(|at| at.max(stream.first()));
                let behind = at.is_some_and(|at| at < stream.next);
                assert!(
                    !behind || consumer.room() == 0,
                    "consumer {id} could have more of the stream"
                );
                continue;
            }
            let limited = consumer.limited && !consumer.no_ack;
            let heir = queue.heir.is_none_or(|heir| heir == *id);
            let turn = !queue.config.single_active || (queue.active == Some(*id) && heir);
            let waiting = queue.ready > 0 && turn && !limited;
            assert!(
                !waiting || consumer.room() == 0,
                "consumer {id} could have a ready message"
            );
        }
    }
}

/// Offsets touch from the first to the next; the messages and bytes there are. Gives what is decoded to `add`.
fn check_stream(stream: &Stream, add: &mut dyn FnMut(Position, u32)) -> (u64, u64) {
    let (mut next, mut bytes) = (stream.first(), 0);
    let mut spans = |list: &VecDeque<Span>, next: &mut u64| {
        for span in list {
            assert_eq!(span.offset, *next);
            *next = span.end();
            bytes += span.run.bytes();
            add(span.run.first, span.run.count);
        }
    };
    spans(&stream.head, &mut next);
    let mut paged = 0;
    for page in &stream.middle {
        assert_eq!(page.offset, next);
        next += page.messages;
        paged += page.bytes;
    }
    spans(&stream.tail, &mut next);
    assert_eq!(next, stream.next);
    (stream.next - stream.first(), bytes + paged)
}
