//! What consumers hear of leases that ended, who is the single active consumer, and what a queue retains.

use super::script::{Set, dead, delivered, plain};
use crate::base::*;
use crate::model::set::*;

const Q: QueueId = QueueId(1);

fn timed_out(effects: &[Effect]) -> Vec<(u64, bool, u64)> {
    let one = |effect: &Effect| match effect {
        Effect::TimedOut(late) => Some((late.consumer.0, late.close, late.timeout.0)),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

#[test]
fn a_consumer_that_is_too_slow_goes_on_or_is_cancelled_or_loses_its_channel() {
    let table = [
        (Overdue::Nothing, None, vec![], Some(1)),
        (Overdue::Cancel, None, vec![(1, false, 100)], Some(2)),
        (Overdue::Close, None, vec![(1, true, 100)], Some(2)),
        (Overdue::Close, Some(Overdue::Nothing), vec![], Some(1)),
        (
            Overdue::Nothing,
            Some(Overdue::Cancel),
            vec![(1, false, 100)],
            Some(2),
        ),
    ];
    for (of_queue, of_consumer, heard, next) in table {
        let mut set = Set::new(QueueConfig {
            overdue: of_queue,
            ..plain()
        });
        set.consume_as(1, 2, |c| c.overdue = of_consumer);
        set.publish(1);
        set.tick(50);
        set.publish(1);
        let late = set.tick(50);
        assert_eq!(timed_out(&late), heard, "{of_queue:?} {of_consumer:?}");
        let more = set.consume(2, 5);
        let again = delivered(&late).into_iter().chain(delivered(&more));
        let to: Vec<_> = again.map(|d| (d.0, d.2.0, d.4)).collect();
        assert_eq!(to.first(), Some(&(next.unwrap(), 4, true)), "{of_queue:?}");
        assert_eq!(to.len(), 1, "what is leased for longer stays leased");
        set.settle(1, 2, 2, Outcome::Ack);
        assert_eq!(set.machine.totals().acked, 1, "and may still be settled");
    }
}

#[test]
fn what_basic_get_took_and_kept_too_long_closes_its_channel() {
    let mut set = Set::new(QueueConfig {
        overdue: Overdue::Cancel,
        ..plain()
    });
    set.publish(1);
    set.run(Command::Get {
        queue: Q,
        holder: ConsumerId(9),
        session: SessionId(1),
        channel: 1,
        no_ack: false,
    });
    assert_eq!(timed_out(&set.tick(100)), [(9, true, 100)]);
    assert_eq!(set.machine.totals().ready, 1);
}

#[test]
fn a_queue_that_lives_for_its_consumers_goes_when_the_last_one_was_too_slow() {
    let mut set = Set::new(QueueConfig {
        overdue: Overdue::Cancel,
        auto_delete: true,
        ..plain()
    });
    set.consume(1, 1);
    set.publish(2);
    let late = set.tick(100);
    assert_eq!(timed_out(&late), [(1, false, 100)]);
    assert_eq!(late.last(), Some(&Effect::QueueGone(Q)));
    assert_eq!(set.machine.live().total(), 0);
}

fn by_priority() -> QueueConfig {
    QueueConfig {
        single_active: true,
        active_by_priority: true,
        ..plain()
    }
}

#[test]
fn a_higher_priority_takes_over_once_the_active_consumer_holds_nothing() {
    let mut set = Set::new(by_priority());
    set.consume(1, 5);
    set.publish(2);
    assert!(delivered(&set.consume_as(2, 5, |c| c.priority = 3)).is_empty());
    assert!(
        delivered(&set.publish(1)).is_empty(),
        "the active one gets nothing more"
    );
    assert!(delivered(&set.settle(1, 1, 1, Outcome::Ack)).is_empty());
    let over = set.settle(1, 2, 2, Outcome::Requeue { failed: false });
    let to: Vec<_> = delivered(&over).iter().map(|d| (d.0, d.4)).collect();
    assert_eq!(to, [(2, true), (2, false)]);
    assert_eq!(
        set.machine.queue_stats(Q).unwrap().active,
        Some(ConsumerId(2))
    );
}

#[test]
fn of_those_left_the_highest_priority_is_next_and_of_equals_the_first_to_come() {
    let mut set = Set::new(by_priority());
    for (id, priority) in [(1, 9), (2, 0), (3, 4), (4, 4)] {
        set.consume_as(id, 1, |c| c.priority = priority);
    }
    let active = |set: &Set| set.machine.queue_stats(Q).unwrap().active.map(|id| id.0);
    for (gone, next) in [(1, Some(3)), (3, Some(4)), (4, Some(2)), (2, None)] {
        assert_eq!(active(&set), Some(gone));
        set.run(Command::Unsubscribe {
            consumer: ConsumerId(gone),
        });
        assert_eq!(active(&set), next);
    }
}

#[test]
fn where_priority_does_not_decide_the_first_to_come_stays() {
    let mut set = Set::new(QueueConfig {
        single_active: true,
        ..plain()
    });
    set.consume(1, 5);
    set.consume_as(2, 5, |c| c.priority = 3);
    let to: Vec<_> = delivered(&set.publish(2)).iter().map(|d| d.0).collect();
    assert_eq!(to, [1]);
}

#[test]
fn dead_letters_that_are_retained_count_until_they_have_gone() {
    let mut set = Set::new(QueueConfig {
        overflow: Overflow::RejectPublish,
        max_length: Some(3),
        at_least_once: true,
        ..plain()
    });
    set.consume(1, 2);
    set.publish(2);
    assert_eq!(dead(&set.settle(1, 1, 2, Outcome::Reject)).len(), 2);
    let refused = |effects: Vec<Effect>| {
        let refusals = effects.iter().filter(|e| matches!(e, Effect::Refused(_)));
        refusals.count()
    };
    set.run(Command::Unsubscribe {
        consumer: ConsumerId(1),
    });
    assert_eq!(refused(set.publish(2)), 1, "two dead, one ready");
    let first = set.machine.dead_letters_after(Q, 0, 1);
    assert_eq!(first.len(), 1);
    let rest = set.machine.dead_letters_after(Q, first[0].id, 9);
    assert_eq!(rest.len(), 1);
    set.run(Command::DeadLettered {
        queue: Q,
        id: first[0].id,
    });
    assert_eq!(refused(set.publish(2)), 1, "one dead, two ready");
    set.run(Command::Purge { queue: Q });
    assert_eq!(set.machine.live().total(), 0, "a purge takes them too");
}

#[test]
fn what_is_on_its_way_to_a_consumer_without_acks_is_kept_until_it_was_sent() {
    let mut set = Set::new(plain());
    set.consume_as(1, 0, |c| {
        (c.no_ack, c.until_sent, c.credit) = (true, true, Credit::Window(5));
    });
    assert_eq!(delivered(&set.publish(3)).len(), 1);
    set.publish(3);
    assert_eq!(
        (set.machine.live().total(), set.machine.totals().ready),
        (6, 1)
    );
    let grant = |add| Command::Grant {
        consumer: ConsumerId(1),
        add,
    };
    assert_eq!(delivered(&set.run(grant(4))).len(), 1);
    assert_eq!(set.machine.live_positions(0, 9), [(Position::new(5, 1), 2)]);
    let bytes = set.machine.snapshot();
    set.machine = SetMachine::restore(&bytes, Box::new(MemoryPages::default())).unwrap();
    set.run(Command::CloseSession {
        session: SessionId(1),
        channel: None,
    });
    assert_eq!(set.machine.live().total(), 0, "nobody takes it any more");
}

#[test]
fn a_node_that_came_back_keeps_what_it_holds_however_late_its_end_comes() {
    let mut set = Set::new(plain());
    set.consume(1, 5);
    set.publish(1);
    let close = |returns| Command::CloseNode {
        node: NodeId(1),
        incarnation: 1,
        returns,
    };
    set.run(Command::Return);
    let late = set.run(close(0));
    assert!(matches!(&late[..], [Effect::Reply(_, Reply::Returned(1))]));
    set.settle(1, 1, 1, Outcome::Ack);
    assert_eq!(set.machine.totals().acked, 1);
    set.publish(1);
    // Silent again since.
    let ended = set.run(close(1));
    assert!(ended.contains(&Effect::Cancelled(ConsumerId(1))));
    assert_eq!(set.machine.totals().unsettled, 0);
}
