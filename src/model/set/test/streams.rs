//! Streams: where consumers begin, what acknowledgements do, what retention takes, what a seek costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::script::{Q, Set, plain};
use crate::base::*;
use crate::model::Meta;
use crate::model::set::pages::RUNS_MAX;
use crate::model::set::*;

fn stream() -> QueueConfig {
    QueueConfig {
        stream: Some(StreamRules::default()),
        ..plain()
    }
}

/// (consumer, offset, count) of the deliveries.
fn read(effects: &[Effect]) -> Vec<(u64, u64, u32)> {
    let one = |effect: &Effect| match effect {
        Effect::Deliver(d) => {
            assert!(!d.redelivered && d.acquired == 0 && d.failed == 0);
            Some((d.consumer.0, d.offset.unwrap(), d.count))
        }
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

impl Set {
    fn read_from(&mut self, id: u64, prefetch: u32, start: StreamStart) -> Vec<(u64, u64, u32)> {
        read(&self.consume_as(id, prefetch, |config| config.start = start))
    }

    fn kept(&self) -> (u64, u64) {
        let stats = self.machine.queue_stats(Q).unwrap();
        (stats.ready, stats.ready_bytes)
    }

    /// As after a restart.
    fn restart(&mut self) {
        let bytes = self.machine.snapshot();
        let digest = self.machine.digest();
        self.machine = SetMachine::restore(&bytes, Box::new(MemoryPages::default())).unwrap();
        assert_eq!(self.machine.digest(), digest);
    }
}

#[test]
fn a_consumer_begins_where_it_asks_to() {
    // Three runs of three messages, at 1000, 1010 and 1020.
    for (start, offset) in [
        (StreamStart::First, Some(0)),
        (StreamStart::Last, Some(6)),
        (StreamStart::Next, None),
        (StreamStart::Offset(0), Some(0)),
        (StreamStart::Offset(4), Some(4)),
        (StreamStart::Offset(8), Some(8)),
        (StreamStart::Offset(9), None),
        (StreamStart::Time(Millis(0)), Some(0)),
        (StreamStart::Time(Millis(1000)), Some(0)),
        (StreamStart::Time(Millis(1001)), Some(3)),
        (StreamStart::Time(Millis(1010)), Some(3)),
        (StreamStart::Time(Millis(1020)), Some(6)),
        (StreamStart::Time(Millis(1021)), None),
        (StreamStart::Ago(Millis(10)), Some(3)),
        (StreamStart::Ago(Millis(9)), Some(6)),
        (StreamStart::Ago(Millis(1 << 60)), Some(0)),
    ] {
        let mut set = Set::new(stream());
        for wait in [0, 10, 10] {
            set.tick(wait);
            set.publish(3);
        }
        let begun = set.read_from(1, 1, start);
        assert_eq!(begun.first().map(|first| first.1), offset, "{start:?}");
        if offset.is_none() {
            assert_eq!(read(&set.publish(2)), [(1, 9, 1)], "{start:?}");
        }
    }
}

#[test]
fn an_offset_that_is_not_there_yet_is_waited_for() {
    let mut set = Set::new(stream());
    set.publish(2);
    assert_eq!(set.read_from(1, 10, StreamStart::Offset(4)), []);
    assert_eq!(read(&set.publish(2)), []);
    assert_eq!(read(&set.publish(2)), [(1, 4, 2)]);
}

#[test]
fn every_consumer_gets_everything_and_nothing_is_taken() {
    let mut set = Set::new(stream());
    set.publish(3);
    for id in 1..=3 {
        assert_eq!(set.read_from(id, 10, StreamStart::First), [(id, 0, 3)]);
    }
    let mut all = read(&set.publish(2));
    all.sort_unstable();
    assert_eq!(all, [(1, 3, 2), (2, 3, 2), (3, 3, 2)]);
    for id in 1..=3 {
        set.settle(id, 1, 5, Outcome::Ack);
    }
    assert_eq!(set.kept(), (5, 50));
    assert_eq!(
        set.read_from(4, 10, StreamStart::First),
        [(4, 0, 3), (4, 3, 2)]
    );
}

#[test]
fn whatever_a_settle_says_it_gives_credit_and_nothing_else() {
    for outcome in [
        Outcome::Ack,
        Outcome::Reject,
        Outcome::Requeue { failed: false },
        Outcome::Requeue { failed: true },
    ] {
        let mut set = Set::new(stream());
        set.publish(10);
        assert_eq!(set.read_from(1, 4, StreamStart::First), [(1, 0, 4)]);
        let next = set.settle(1, 2, 3, outcome);
        assert_eq!(read(&next), [(1, 4, 2)], "{outcome:?}");
        assert_eq!(next.len(), 1, "no dead letter: {next:?}");
        assert_eq!(set.kept().0, 10);
        assert_eq!(set.machine.live().total(), 10 + 4, "the leases count");
        set.run(Command::CloseSession {
            session: SessionId(1),
            channel: None,
        });
        assert_eq!(set.machine.live().total(), 10);
    }
}

#[test]
fn a_consumer_goes_on_where_it_was_after_a_restart_and_its_leases_have_no_deadline() {
    let mut set = Set::new(stream());
    set.publish(10);
    set.read_from(1, 3, StreamStart::Offset(2));
    set.restart();
    assert!(read(&set.tick(1 << 40)).is_empty(), "nothing comes back");
    assert_eq!(read(&set.settle(1, 1, 3, Outcome::Ack)), [(1, 5, 3)]);
    set.restart();
    assert_eq!(read(&set.settle(1, 4, 6, Outcome::Ack)), [(1, 8, 2)]);
    set.restart();
    assert_eq!(read(&set.publish(1)), [(1, 10, 1)]);
}

#[test]
fn what_is_not_for_streams_does_nothing() {
    let mut set = Set::new(QueueConfig {
        message_ttl: Some(Millis(5)),
        max_length: Some(1),
        overflow: Overflow::RejectPublish,
        single_active: true,
        max_priority: Some(9),
        ..stream()
    });
    set.publish_as(3, Some(7));
    set.tick(100);
    set.run(Command::Purge { queue: Q });
    let get = set.run(Command::Get {
        queue: Q,
        holder: ConsumerId(9),
        session: SessionId(9),
        channel: 1,
        no_ack: false,
    });
    assert!(matches!(&get[..], [Effect::Reply(_, Reply::GotNothing)]));
    set.run(Command::LimitChannel {
        session: SessionId(1),
        channel: 1,
        limit: 1,
    });
    assert_eq!(set.read_from(1, 9, StreamStart::First), [(1, 0, 3)]);
    assert_eq!(set.read_from(2, 9, StreamStart::First), [(2, 0, 3)]);
}

#[test]
fn size_is_kept_to_the_message_and_the_newest_always_stays() {
    for (max, kept) in [(0, 1), (9, 1), (10, 1), (25, 2), (70, 7), (1000, 8)] {
        let mut set = Set::new(QueueConfig {
            stream: Some(StreamRules {
                max_age: None,
                max_bytes: Some(max),
            }),
            ..plain()
        });
        set.publish(5);
        set.publish(3);
        assert_eq!(set.kept().0, kept, "{max}");
        assert_eq!(set.machine.live().total(), kept);
        let first = set.read_from(1, 1, StreamStart::First);
        assert_eq!(first, [(1, 8 - kept, 1)], "{max}");
        // A place that is gone is the oldest that is left.
        let late = set.read_from(2, 1, StreamStart::Offset(0));
        assert_eq!(late, [(2, 8 - kept, 1)], "{max}");
    }
}

#[test]
fn age_takes_what_is_older_soon_after_and_a_policy_acts_at_once() {
    let aged = |age| QueueConfig {
        stream: Some(StreamRules {
            max_age: Some(Millis(age)),
            max_bytes: None,
        }),
        ..plain()
    };
    let mut set = Set::new(aged(1000));
    set.publish(2);
    set.tick(500);
    set.publish(2);
    assert_eq!(set.machine.next_deadline(), Some(Millis(2050)));
    set.tick(549);
    assert_eq!(set.kept().0, 4);
    set.tick(1);
    assert_eq!(set.kept().0, 2);
    set.restart();
    set.tick(500);
    assert_eq!(set.kept().0, 0);
    assert_eq!(set.machine.live().total(), 0);
    assert_eq!(set.machine.next_deadline(), None);
    set.publish(3);
    assert_eq!(set.read_from(1, 1, StreamStart::First), [(1, 4, 1)]);
    set.tick(200);
    set.run(Command::Configure {
        queue: Q,
        config: Box::new(aged(100)),
    });
    set.tick(0);
    assert_eq!(set.kept().0, 0);
    assert_eq!(set.machine.live().total(), 1, "the lease holds its message");
    // The consumer's next is what is there next.
    assert_eq!(read(&set.settle(1, 1, 1, Outcome::Ack)), []);
    assert_eq!(read(&set.publish(1)), [(1, 7, 1)]);
}

#[test]
fn what_is_deleted_leaves_nothing_live_and_its_consumers_hear_of_it() {
    let mut set = Set::new(stream());
    set.publish(5);
    set.read_from(1, 2, StreamStart::First);
    let gone = set.run(Command::Delete {
        queue: Q,
        if_unused: false,
        if_empty: false,
    });
    assert!(gone.contains(&Effect::Cancelled(ConsumerId(1))));
    assert!(matches!(
        gone.last(),
        Some(Effect::Reply(_, Reply::Count(5)))
    ));
    assert_eq!(set.machine.live().total(), 0);
}

/// Pages that count how often they are read.
#[derive(Default)]
struct Counting {
    pages: MemoryPages,
    reads: Arc<AtomicU64>,
}

impl Pages for Counting {
    fn write(&mut self, id: u64, bytes: &[u8]) {
        self.pages.write(id, bytes);
    }
    fn read(&mut self, id: u64) -> Result<Vec<u8>, PageError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.pages.read(id)
    }
    fn discard(&mut self, id: u64) {
        self.pages.discard(id);
    }
    fn prefetch(&mut self, _id: u64) {}
}

#[test]
fn a_deep_stream_is_pages_outside_and_a_seek_reads_one_of_them() {
    const PAGES: u64 = 6;
    const RUNS: u64 = (PAGES + 1) * RUNS_MAX as u64;
    let reads = Arc::new(AtomicU64::new(0));
    let pages = Counting {
        pages: MemoryPages::default(),
        reads: Arc::clone(&reads),
    };
    let mut set = Set::with_pages(stream(), Box::new(pages));
    let pipe = PipeId {
        node: NodeId(1),
        incarnation: 1,
    };
    let mut effects = Vec::new();
    // One message per entry and per ms, the worst case of an index. The first is entry 3 at 2000.
    for at in 0..RUNS {
        let (index, now) = (at + 3, Millis(2000 + at));
        set.machine.begin(Meta { index, now }, &mut effects);
        let enqueue = Command::Enqueue(Enqueue {
            queue: Q,
            first: Position::new(index, 0),
            count: 1,
            size: 10,
            ttl: None,
            priority: None,
            delay: None,
        });
        let source = Source { pipe, seq: index };
        let applied = set.machine.apply(source, enqueue, &mut effects);
        assert_eq!(applied, Applied::Done);
    }
    assert_eq!(set.machine.page_ids().count() as u64, PAGES);
    assert!(set.machine.snapshot().len() < 200_000);
    (set.index, set.now, set.seq) = (RUNS + 3, 2000 + RUNS, RUNS + 2);
    let middle = RUNS / 2;
    for (id, start) in [
        (1, StreamStart::Offset(middle)),
        (2, StreamStart::Time(Millis(2000 + middle))),
        (3, StreamStart::Ago(Millis(RUNS - middle))),
    ] {
        let before = reads.load(Ordering::Relaxed);
        assert_eq!(set.read_from(id, 1, start), [(id, middle, 1)]);
        assert!(reads.load(Ordering::Relaxed) <= before + 1, "{start:?}");
    }
    // A reader goes through every page once, however little it takes at a time.
    let before = reads.load(Ordering::Relaxed);
    let mut next = 0;
    let mut told = set.read_from(4, 100, StreamStart::First);
    while let Some((_, offset, count)) = told.pop() {
        let no = next + 1;
        next = offset + u64::from(count);
        told = read(&set.settle(4, no, next, Outcome::Ack));
    }
    assert_eq!(next, RUNS);
    assert!(reads.load(Ordering::Relaxed) <= before + PAGES);
    // Retention takes pages as it comes to them, a bounded number of runs at a time.
    set.run(Command::Configure {
        queue: Q,
        config: Box::new(QueueConfig {
            stream: Some(StreamRules {
                max_age: None,
                max_bytes: Some(1000),
            }),
            ..plain()
        }),
    });
    let mut rounds = 0;
    while set.kept().0 > 100 {
        set.tick(1);
        rounds += 1;
        assert!(rounds < 1000);
    }
    assert!(rounds > 10, "not all in one step");
    assert_eq!(set.machine.page_ids().count(), 0);
    assert_eq!(set.machine.live().total(), 100 + 3);
    assert_eq!(set.machine.live_positions(0, RUNS / 4), []);
    assert_eq!(set.machine.live_positions(0, u64::MAX).len(), 100 + 1);
}
