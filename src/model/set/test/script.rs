//! Behaviours one by one.

use crate::base::*;
use crate::model::Meta;
use crate::model::set::*;

pub(super) const Q: QueueId = QueueId(1);

pub(super) struct Set {
    pub(super) machine: SetMachine,
    pub(super) seq: u64,
    pub(super) index: u64,
    pub(super) now: u64,
}

impl Set {
    pub(super) fn new(config: QueueConfig) -> Self {
        Self::with_pages(config, Box::new(MemoryPages::default()))
    }

    pub(super) fn with_pages(config: QueueConfig, pages: Box<dyn Pages>) -> Self {
        let machine = SetMachine::new(pages);
        let mut set = Self {
            machine,
            seq: 0,
            index: 0,
            now: 1000,
        };
        set.run(Command::OpenPipe);
        set.run(Command::Create {
            queue: Q,
            config: Box::new(config),
        });
        set
    }

    pub(super) fn run(&mut self, command: Command) -> Vec<Effect> {
        self.index += 1;
        let mut effects = Vec::new();
        self.machine.begin(
            Meta {
                index: self.index,
                now: Millis(self.now),
            },
            &mut effects,
        );
        let count = if let Command::Enqueue(run) = &command {
            u64::from(run.count)
        } else {
            1
        };
        let pipe = PipeId {
            node: NodeId(1),
            incarnation: 1,
        };
        let source = Source {
            pipe,
            seq: self.seq + 1,
        };
        assert_eq!(
            self.machine.apply(source, command, &mut effects),
            Applied::Done
        );
        self.seq += count;
        self.machine.check();
        effects
    }

    pub(super) fn publish(&mut self, count: u32) -> Vec<Effect> {
        self.publish_as(count, None)
    }

    pub(super) fn publish_as(&mut self, count: u32, priority: Option<u8>) -> Vec<Effect> {
        let first = Position::new(self.index + 1, 0);
        self.run(Command::Enqueue(Enqueue {
            queue: Q,
            first,
            count,
            size: 10,
            ttl: None,
            priority,
            delay: None,
        }))
    }

    pub(super) fn consume(&mut self, id: u64, prefetch: u32) -> Vec<Effect> {
        self.consume_as(id, prefetch, |_| {})
    }

    pub(super) fn consume_as(
        &mut self,
        id: u64,
        prefetch: u32,
        change: impl Fn(&mut ConsumerConfig),
    ) -> Vec<Effect> {
        let mut config = ConsumerConfig {
            session: SessionId(id),
            channel: 1,
            no_ack: false,
            until_sent: false,
            exclusive: false,
            priority: 0,
            credit: Credit::Prefetch(prefetch),
            visibility: None,
            start: StreamStart::Next,
            overdue: None,
        };
        change(&mut config);
        self.run(Command::Subscribe {
            consumer: ConsumerId(id),
            queue: Q,
            config,
        })
    }

    pub(super) fn settle(
        &mut self,
        id: u64,
        first: u64,
        last: u64,
        outcome: Outcome,
    ) -> Vec<Effect> {
        self.run(Command::Settle {
            consumer: ConsumerId(id),
            first,
            last,
            outcome,
        })
    }

    pub(super) fn tick(&mut self, wait: u64) -> Vec<Effect> {
        self.now += wait;
        self.run(Command::Tick)
    }
}

pub(super) fn plain() -> QueueConfig {
    QueueConfig {
        visibility: Millis(100),
        dead_letters: true,
        ..QueueConfig::default()
    }
}

pub(super) type Handed = (u64, u64, (u64, u32), u32, bool);

/// (consumer, first number, entry/slot, count, redelivered) of the deliveries.
pub(super) fn delivered(effects: &[Effect]) -> Vec<Handed> {
    let one = |effect: &Effect| match effect {
        Effect::Deliver(d) => Some((
            d.consumer.0,
            d.first_no,
            (d.first.index(), d.first.slot()),
            d.count,
            d.redelivered,
        )),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

pub(super) fn dead(effects: &[Effect]) -> Vec<((u64, u32), DeathReason)> {
    let one = |effect: &Effect| match effect {
        Effect::DeadLetter(d) => Some(((d.position.index(), d.position.slot()), d.reason)),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

#[test]
fn a_run_meets_a_consumer_as_one_delivery_and_the_rest_waits() {
    let mut set = Set::new(plain());
    set.consume(1, 3);
    assert_eq!(delivered(&set.publish(10)), [(1, 1, (4, 0), 3, false)]);
    assert_eq!(set.machine.totals().ready, 7);
    assert_eq!(
        delivered(&set.settle(1, 1, 2, Outcome::Ack)),
        [(1, 4, (4, 3), 2, false)]
    );
    assert_eq!(set.machine.live().total(), 8);
}

#[test]
fn a_requeued_message_keeps_its_place() {
    let mut set = Set::new(plain());
    set.publish(4);
    set.consume(1, 2);
    let again = set.settle(1, 2, 2, Outcome::Requeue { failed: false });
    assert_eq!(delivered(&again), [(1, 3, (3, 1), 1, true)]);
}

#[test]
fn equal_consumers_take_turns_and_a_higher_priority_takes_all_it_can() {
    let mut set = Set::new(plain());
    set.consume(1, 9);
    set.consume(2, 9);
    let turns: Vec<u64> = delivered(&set.publish(4)).iter().map(|d| d.0).collect();
    assert_eq!(turns, [1, 2, 1, 2]);
    set.consume_as(3, 2, |c| c.priority = 5);
    let turns: Vec<_> = delivered(&set.publish(3))
        .iter()
        .map(|d| (d.0, d.3))
        .collect();
    assert_eq!(turns, [(3, 2), (1, 1)]);
}

#[test]
fn the_next_in_line_takes_over_from_a_single_active_consumer() {
    let mut set = Set::new(QueueConfig {
        single_active: true,
        ..plain()
    });
    set.consume(1, 1);
    set.consume(2, 5);
    assert_eq!(delivered(&set.publish(3)).len(), 1);
    let over = set.run(Command::Unsubscribe {
        consumer: ConsumerId(1),
    });
    assert_eq!(delivered(&over), [(2, 1, (5, 1), 2, false)]);
    assert_eq!(
        set.machine.totals().unsettled,
        3,
        "the first keeps its lease"
    );
    set.run(Command::CloseSession {
        session: SessionId(1),
        channel: None,
    });
    assert_eq!(set.machine.totals().redelivered, 1);
}

#[test]
fn a_lease_ends_at_its_deadline_and_a_late_ack_is_harmless() {
    let mut set = Set::new(plain());
    set.consume(1, 1);
    set.publish(1);
    assert!(delivered(&set.tick(99)).is_empty());
    assert_eq!(delivered(&set.tick(1)), [(1, 2, (4, 0), 1, true)]);
    set.settle(1, 1, 1, Outcome::Ack);
    let totals = set.machine.totals();
    assert_eq!(
        (totals.late_settles, totals.unsettled, totals.leases_expired),
        (1, 1, 1)
    );
    set.settle(
        1,
        2,
        2,
        Outcome::Extend {
            visibility: Millis(500),
        },
    );
    assert!(delivered(&set.tick(300)).is_empty());
    set.settle(1, 2, 2, Outcome::Ack);
    assert_eq!(set.machine.live().total(), 0);
}

#[test]
fn a_full_queue_drops_its_head_or_refuses() {
    let mut set = Set::new(QueueConfig {
        max_length: Some(2),
        ..plain()
    });
    let gone = set.publish(5);
    let expected: Vec<_> = (0..3)
        .map(|slot| ((3, slot), DeathReason::MaxLen))
        .collect();
    assert_eq!(dead(&gone), expected);
    let overflow = Overflow::RejectPublish;
    let mut set = Set::new(QueueConfig {
        max_length: Some(2),
        overflow,
        ..plain()
    });
    let refused: Vec<u64> = set
        .publish(5)
        .iter()
        .filter_map(|e| {
            if let Effect::Refused(s) = e {
                Some(s.seq)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(refused, [5, 6, 7]);
}

#[test]
fn higher_levels_go_first() {
    let mut set = Set::new(QueueConfig {
        max_priority: Some(5),
        ..plain()
    });
    set.publish_as(1, None);
    set.publish_as(1, Some(9));
    set.publish_as(1, Some(2));
    let order: Vec<u64> = delivered(&set.consume(1, 5))
        .iter()
        .map(|d| d.2.0)
        .collect();
    assert_eq!(order, [4, 5, 3]);
}

#[test]
fn time_to_live_ends_at_the_head_and_is_not_renewed_by_a_return() {
    let mut set = Set::new(QueueConfig {
        message_ttl: Some(Millis(50)),
        ..plain()
    });
    set.publish(2);
    set.consume(1, 1);
    assert_eq!(dead(&set.tick(50)), [((3, 1), DeathReason::Expired)]);
    let back = set.settle(1, 1, 1, Outcome::Requeue { failed: true });
    assert_eq!(dead(&back), [((3, 0), DeathReason::Expired)]);
    assert!(delivered(&back).is_empty());
}

#[test]
fn a_life_of_0_ms_ends_at_the_head_only() {
    let mut set = Set::new(plain());
    let at_once = |set: &mut Set| {
        let first = Position::new(set.index + 1, 0);
        set.run(Command::Enqueue(Enqueue {
            queue: Q,
            first,
            count: 1,
            size: 10,
            ttl: Some(Millis(0)),
            priority: None,
            delay: None,
        }))
    };
    assert_eq!(dead(&at_once(&mut set)).len(), 1);
    set.publish(1);
    assert!(dead(&at_once(&mut set)).is_empty());
    assert_eq!(dead(&set.consume(1, 1)).len(), 0);
    assert_eq!(dead(&set.tick(1)).len(), 1);
}

#[test]
fn the_failure_past_the_delivery_limit_kills() {
    let mut set = Set::new(QueueConfig {
        delivery_limit: Some(1),
        ..plain()
    });
    set.consume(1, 1);
    set.publish(1);
    assert!(dead(&set.settle(1, 1, 1, Outcome::Requeue { failed: true })).is_empty());
    assert!(dead(&set.settle(1, 2, 2, Outcome::Requeue { failed: false })).is_empty());
    let end = set.settle(1, 3, 3, Outcome::Requeue { failed: true });
    assert_eq!(dead(&end), [((4, 0), DeathReason::DeliveryLimit)]);
    assert_eq!(set.machine.pending_dead_letters().len(), 1);
    set.run(Command::DeadLettered { queue: Q, id: 1 });
    assert_eq!(set.machine.live().total(), 0);
}

#[test]
fn an_exclusive_consumer_is_alone_and_an_auto_delete_queue_goes_with_the_last() {
    let mut set = Set::new(QueueConfig {
        auto_delete: true,
        ..plain()
    });
    set.consume_as(1, 1, |c| c.exclusive = true);
    assert!(matches!(
        set.consume(2, 1)[..],
        [Effect::Reply(_, Reply::ExclusiveUse)]
    ));
    set.publish(3);
    let closed = set.run(Command::CloseSession {
        session: SessionId(1),
        channel: None,
    });
    assert_eq!(closed[0], Effect::QueueGone(Q));
    assert!(
        matches!(&closed[1], Effect::Reply(_, Reply::Closed { deleted }) if deleted[..] == [Q])
    );
    assert!(!set.machine.has_queue(Q) && set.machine.live().total() == 0);
}

#[test]
fn a_pipe_repeats_harmlessly_and_a_gap_is_refused() {
    let mut set = Set::new(plain());
    let at = |incarnation, seq| Source {
        pipe: PipeId {
            node: NodeId(1),
            incarnation,
        },
        seq,
    };
    let mut effects = Vec::new();
    let machine = &mut set.machine;
    assert_eq!(
        machine.apply(at(1, 2), Command::Purge { queue: Q }, &mut effects),
        Applied::Repeat
    );
    assert_eq!(
        machine.apply(at(1, 4), Command::Tick, &mut effects),
        Applied::Gap
    );
    assert_eq!(
        machine.apply(at(2, 2), Command::Tick, &mut effects),
        Applied::Gap
    );
    assert!(effects.is_empty());
    set.consume(1, 5);
    set.publish(3);
    assert_eq!(
        set.machine.apply(at(2, 1), Command::OpenPipe, &mut effects),
        Applied::Done
    );
    assert_eq!(
        set.machine.totals().ready,
        3,
        "the old incarnation's leases are back"
    );
    assert_eq!(
        set.machine.apply(at(1, 99), Command::Tick, &mut effects),
        Applied::Gap
    );
}

#[test]
fn a_deep_queue_waits_in_pages_and_comes_back_in_order() {
    let mut set = Set::new(plain());
    for _ in 0..20_000 {
        set.index += 1;
        let first = Position::new(set.index, 0);
        let run = Enqueue {
            queue: Q,
            first,
            count: 1,
            size: 10,
            ttl: None,
            priority: None,
            delay: None,
        };
        set.seq += 1;
        let source = Source {
            pipe: PipeId {
                node: NodeId(1),
                incarnation: 1,
            },
            seq: set.seq,
        };
        set.machine
            .apply(source, Command::Enqueue(run), &mut Vec::new());
    }
    assert!(set.machine.queues[&Q].levels[0].ready.middle.len() >= 2);
    assert_eq!(set.machine.live_positions(5000, 5004).len(), 5);
    let all = set.consume(1, 30_000);
    let indexes: Vec<u64> = delivered(&all).iter().map(|d| d.2.0).collect();
    assert_eq!(indexes, (3..20_003).collect::<Vec<_>>());
}

#[test]
fn a_lease_that_runs_out_counts_as_acquired_and_not_as_failed() {
    let table = [("the deadline", false, 0), ("a lost channel", true, 1)];
    for (what, lost, failed) in table {
        let mut set = Set::new(plain());
        set.consume(1, 1);
        set.publish(1);
        if lost {
            let session = SessionId(1);
            set.run(Command::CloseSession {
                session,
                channel: None,
            });
        } else {
            set.tick(100);
            set.run(Command::Unsubscribe {
                consumer: ConsumerId(1),
            });
            set.settle(1, 2, 2, Outcome::Requeue { failed: false });
        }
        let again = set.consume(2, 1);
        let counts = again.iter().find_map(|effect| match effect {
            Effect::Deliver(d) => Some((d.acquired, d.failed)),
            _ => None,
        });
        assert_eq!(counts, Some((if lost { 1 } else { 2 }, failed)), "{what}");
    }
}

#[test]
fn a_damaged_snapshot_is_an_error_and_an_unknown_version_is_named() {
    let mut set = Set::new(plain());
    set.publish(3);
    set.consume(1, 2);
    let good = set.machine.snapshot();
    let restore = |bytes: &[u8]| SetMachine::restore(bytes, Box::new(MemoryPages::default()));
    assert!(restore(&good).is_ok());
    assert_eq!((&good[..4], good[4]), (&b"LVQM"[..], 5));
    for at in 0..good.len() {
        assert!(restore(&good[..at]).is_err(), "cut at {at}");
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        assert!(restore(&bytes).is_err(), "flipped at {at}");
    }
    let mut newer = good[..good.len() - 4].to_vec();
    newer[4] = 99;
    newer.extend_from_slice(&crc32fast::hash(&newer).to_le_bytes());
    assert!(matches!(
        restore(&newer),
        Err(SnapshotError::Version { version: 99 })
    ));
}

#[test]
fn an_unused_queue_goes_after_its_time_and_a_declare_renews_it() {
    let config = QueueConfig {
        expires: Some(Millis(50)),
        ..plain()
    };
    let mut set = Set::new(config);
    set.tick(40);
    set.run(Command::Inspect {
        queue: Q,
        touch: true,
    });
    assert!(set.tick(40).is_empty());
    assert_eq!(set.tick(10), [Effect::QueueGone(Q)]);
    assert!(!set.machine.has_queue(Q));
}

#[test]
fn purge_takes_the_ready_ones_and_delete_tests_emptiness_first() {
    let mut set = Set::new(plain());
    set.consume(1, 1);
    set.publish(3);
    let delete = Command::Delete {
        queue: Q,
        if_unused: true,
        if_empty: true,
    };
    let reply = |effects: Vec<Effect>| match effects.last() {
        Some(Effect::Reply(_, reply)) => reply.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(reply(set.run(delete.clone())), Reply::NotEmpty);
    assert_eq!(reply(set.run(Command::Purge { queue: Q })), Reply::Count(2));
    assert_eq!(set.machine.live().total(), 1);
    assert_eq!(reply(set.run(delete)), Reply::InUse);
}
