//! What consumers hold, read from the state, is what was delivered to them and has not ended.

use super::script::{Set, delivered, plain};
use crate::base::*;
use crate::model::set::*;

const PIPE: PipeId = PipeId {
    node: NodeId(1),
    incarnation: 1,
};

fn held(set: &Set, consumer: u64) -> Held {
    set.machine.held(PIPE)[&(SessionId(consumer), ConsumerId(consumer))].clone()
}

fn runs(held: &Held) -> Vec<(u64, Position, u32)> {
    let runs = held.deliveries.iter();
    runs.map(|run| (run.first_no, run.first, run.count))
        .collect()
}

#[test]
fn what_is_held_is_what_was_delivered_less_what_was_settled() {
    let mut set = Set::new(plain());
    set.consume(1, 6);
    set.publish(4);
    set.publish(4);
    let (one, other) = (set.index - 1, set.index);
    set.settle(1, 2, 3, Outcome::Ack);
    let now = held(&set, 1);
    assert!(now.attached);
    assert_eq!(now.next_no, 9);
    let expected = [
        (1, Position::new(one, 0), 1),
        (4, Position::new(one, 3), 1),
        (5, Position::new(other, 0), 4),
    ];
    assert_eq!(runs(&now), expected);
    assert!(now.deliveries.iter().all(|run| !run.redelivered));

    set.settle(1, 4, 4, Outcome::Requeue { failed: true });
    let again = held(&set, 1);
    let last = again.deliveries.last().unwrap();
    assert_eq!((last.first_no, last.redelivered), (9, true));
    assert_eq!((last.acquired, last.failed), (1, 1));

    set.run(Command::Unsubscribe {
        consumer: ConsumerId(1),
    });
    assert!(!held(&set, 1).attached, "only what it holds keeps it");
    set.settle(1, 1, 100, Outcome::Ack);
    assert!(set.machine.held(PIPE).is_empty());
}

#[test]
fn what_is_on_its_way_without_acks_is_held_until_it_was_sent() {
    let mut set = Set::new(plain());
    set.consume_as(1, 0, |c| {
        (c.no_ack, c.until_sent, c.credit) = (true, true, Credit::Window(5));
    });
    let given = set.publish(7);
    assert_eq!(delivered(&given).len(), 1);
    let entry = set.index;
    assert_eq!(runs(&held(&set, 1)), [(1, Position::new(entry, 0), 5)]);
    set.run(Command::Grant {
        consumer: ConsumerId(1),
        add: 2,
    });
    let now = held(&set, 1);
    assert_eq!(now.next_no, 8);
    assert_eq!(runs(&now), [(3, Position::new(entry, 2), 5)]);
}

#[test]
fn others_pipes_are_not_told_of() {
    let mut set = Set::new(plain());
    set.consume(1, 6);
    let later = PipeId {
        incarnation: 2,
        ..PIPE
    };
    assert!(set.machine.held(later).is_empty());
}
