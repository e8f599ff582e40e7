//! Every violation is planted once, and found; beside it the nearest thing that is allowed.

use super::*;

fn m(publisher: u32, number: u64) -> Message {
    Message { publisher, number }
}

/// Grace and lease so short that only what was said before counts.
const STRICT: Rules = Rules {
    lease_ms: u32::MAX,
    grace_ms: 0,
    silence_ends_leases: true,
};

/// A history with one publisher (0) that published `count` messages to queue 0, confirmed, and consumer 0 on node 0.
fn published(count: u64) -> History {
    let history = History::default();
    assert_eq!(history.new_publisher(), 0);
    for number in 1..=count {
        history.attempt(m(0, number), 0);
        history.answered(m(0, number), true);
    }
    assert_eq!(history.start_consumer(0, 0), 0);
    history
}

fn violation(history: &History) -> String {
    let report = check(history, STRICT);
    assert_eq!(
        report.violation_count, 1,
        "{report} {:?}",
        report.violations
    );
    report.violations[0].1.clone()
}

fn explained(history: &History, why: Why) {
    let report = check(history, STRICT);
    assert!(report.is_clean(), "{:?}", report.violations);
    assert_eq!(
        report.duplicates.into_iter().collect::<Vec<_>>(),
        [(why, 1)]
    );
}

#[test]
fn a_quiet_history_is_clean_and_counted() {
    let history = published(3);
    history.attempt(m(0, 4), 0);
    history.attempt(m(0, 5), 0);
    history.answered(m(0, 5), false);
    for number in 1..=4 {
        history.delivered(m(0, number), 0, false);
        history.acked(m(0, number), 0);
    }
    let report = check(&history, STRICT);
    assert!(report.is_clean(), "{:?}", report.violations);
    assert_eq!(
        (report.attempted, report.confirmed, report.refused),
        (5, 3, 1)
    );
    assert_eq!((report.unknown, report.unknown_delivered), (1, 1));
    assert!(report.duplicates.is_empty());
}

#[test]
fn a_confirmed_message_that_never_comes_is_lost_and_an_unconfirmed_one_is_not() {
    let history = published(2);
    history.attempt(m(0, 3), 0);
    history.delivered(m(0, 1), 0, false);
    let report = check(&history, STRICT);
    assert_eq!((report.lost, report.violation_count), (1, 0));
    assert_eq!(report.violations[0].0, m(0, 2));
    assert!(!report.is_clean());
}

#[test]
fn what_nobody_published_is_invented() {
    let history = published(1);
    history.delivered(m(0, 1), 0, false);
    history.delivered(m(0, 2), 0, false);
    assert!(violation(&history).contains("nobody published"));
    let history = published(1);
    history.delivered(m(0, 1), 0, false);
    history.unreadable(0);
    assert!(violation(&history).contains("nobody published"));
}

#[test]
fn a_message_belongs_to_its_queue() {
    let history = published(1);
    let other = history.start_consumer(1, 0);
    history.delivered(m(0, 1), other, false);
    assert!(violation(&history).contains("queue"));
}

#[test]
fn a_duplicate_needs_a_reason() {
    let again = |between: &dyn Fn(&History)| {
        let history = published(1);
        history.delivered(m(0, 1), 0, false);
        between(&history);
        let second = history.start_consumer(0, 1);
        history.delivered(m(0, 1), second, true);
        history
    };
    let nothing = again(&|_| {});
    assert!(violation(&nothing).contains("while the first held it"));
    let acked = again(&|history| history.acked(m(0, 1), 0));
    assert!(violation(&acked).contains("consumer lives"));
    let elsewhere = again(&|history| history.fault_begins(2));
    assert!(violation(&elsewhere).contains("while the first held it"));
    explained(
        &again(&|history| history.stop_consumer(0)),
        Why::ConsumerLost,
    );
    explained(
        &again(&|history| history.requeued(m(0, 1), 0)),
        Why::Requeued,
    );
    explained(&again(&|history| history.fault_begins(0)), Why::NodeFault);
    let lost_ack = again(&|history| {
        history.acked(m(0, 1), 0);
        history.stop_consumer(0);
    });
    explained(&lost_ack, Why::AckLost);
    let repeated = again(&|history| history.attempt(m(0, 1), 0));
    explained(&repeated, Why::PublishRepeated);
}

#[test]
fn a_lease_that_ran_out_explains_the_next_and_one_that_runs_does_not() {
    let history = published(1);
    history.delivered(m(0, 1), 0, false);
    let second = history.start_consumer(0, 0);
    history.delivered(m(0, 1), second, true);
    let over = Rules {
        lease_ms: 0,
        grace_ms: 0,
        silence_ends_leases: true,
    };
    let report = check(&history, over);
    assert_eq!(report.duplicates.get(&Why::LeaseEnded), Some(&1));
    assert!(report.is_clean());
    let running = Rules {
        lease_ms: 60_000,
        grace_ms: 0,
        silence_ends_leases: true,
    };
    assert!(!check(&history, running).is_clean());
}

#[test]
fn nothing_comes_back_after_an_ack_that_is_certain() {
    let history = published(1);
    history.delivered(m(0, 1), 0, false);
    history.acked(m(0, 1), 0);
    history.ack_certain(m(0, 1), 0);
    history.stop_consumer(0);
    history.fault_begins(0);
    let second = history.start_consumer(0, 1);
    history.delivered(m(0, 1), second, true);
    assert!(violation(&history).contains("certain"));
}

#[test]
fn a_node_that_stood_still_does_not_tell_of_a_lease_that_is_over() {
    let history = published(1);
    let frozen = history.start_consumer(0, 1);
    history.fault_begins(1);
    history.delivered(m(0, 1), 0, true);
    history.acked(m(0, 1), 0);
    history.ack_certain(m(0, 1), 0);
    history.delivered(m(0, 1), frozen, true);
    assert!(violation(&history).contains("certain"));
}

#[test]
fn an_ack_at_a_node_that_stood_still_is_certain_only_if_leases_outlast_the_fault() {
    let history = published(1);
    history.delivered(m(0, 1), 0, false);
    history.fault_begins(0);
    history.acked(m(0, 1), 0);
    history.ack_certain(m(0, 1), 0);
    let second = history.start_consumer(0, 1);
    history.delivered(m(0, 1), second, true);
    let report = check(&history, STRICT);
    assert!(report.is_clean(), "{:?}", report.violations);
    let kept = Rules {
        silence_ends_leases: false,
        ..STRICT
    };
    assert!(!check(&history, kept).is_clean());
}

#[test]
fn what_comes_back_says_so() {
    let history = published(1);
    history.delivered(m(0, 1), 0, false);
    history.stop_consumer(0);
    let second = history.start_consumer(0, 1);
    history.delivered(m(0, 1), second, false);
    assert!(violation(&history).contains("flag"));
}

#[test]
fn a_consumer_found_gone_a_little_later_was_gone() {
    let history = published(1);
    history.delivered(m(0, 1), 0, false);
    let second = history.start_consumer(0, 1);
    history.delivered(m(0, 1), second, true);
    history.stop_consumer(0);
    let report = check(&history, Rules::default());
    assert!(report.is_clean(), "{:?}", report.violations);
    assert_eq!(report.duplicates.get(&Why::ConsumerLost), Some(&1));
}

#[test]
fn order_holds_with_one_consumer() {
    let history = published(2);
    history.delivered(m(0, 2), 0, false);
    history.delivered(m(0, 1), 0, false);
    assert!(violation(&history).contains("after 2"));
}

#[test]
fn order_holds_from_a_consumer_to_the_next_but_not_between_two_at_once() {
    let history = published(2);
    history.delivered(m(0, 2), 0, false);
    let later = history.start_consumer(0, 0);
    history.delivered(m(0, 1), later, false);
    assert!(violation(&history).contains("after 2"));

    let history = published(2);
    let beside = history.start_consumer(0, 0);
    history.delivered(m(0, 2), 0, false);
    history.delivered(m(0, 1), beside, false);
    assert!(check(&history, STRICT).is_clean());
}

#[test]
fn a_returned_message_may_come_after_later_ones() {
    let history = published(2);
    history.delivered(m(0, 2), 0, false);
    history.delivered(m(0, 1), 0, true);
    let report = check(&history, STRICT);
    assert!(report.is_clean(), "{:?}", report.violations);
    assert_eq!(report.flagged_at_first, 1);
}

#[test]
fn a_first_delivery_may_be_read_late_by_a_consumer_that_ends_and_by_no_other() {
    let late = |ends: bool| {
        let history = published(1);
        let second = history.start_consumer(0, 1);
        history.delivered(m(0, 1), second, true);
        history.delivered(m(0, 1), 0, false);
        if ends {
            history.stop_consumer(0);
        }
        check(&history, Rules::default())
    };
    let report = late(true);
    assert!(report.is_clean(), "{:?}", report.violations);
    assert_eq!(report.read_late, 1);
    assert!(!late(false).is_clean());
}

#[test]
fn an_answer_needs_a_publish() {
    let history = published(1);
    history.delivered(m(0, 1), 0, false);
    history.answered(m(0, 7), true);
    assert!(violation(&history).contains("answer"));
}

#[test]
fn a_body_says_which_message_it_is_and_no_byte_of_it_can_change() {
    for size in [0, 14, 100] {
        let bytes = body(m(7, 1 << 33), 3, size);
        assert_eq!(bytes.len(), size.max(14));
        assert_eq!(parse(&bytes), Some((m(7, 1 << 33), 3)));
    }
    let bytes = body(m(7, 9), 3, 64);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_ne!(parse(&changed), Some((m(7, 9), 3)), "byte {at}");
    }
    assert_eq!(parse(&bytes[..13]), None);
}

#[test]
fn an_event_is_small() {
    assert_eq!(std::mem::size_of::<Event>(), 16);
}

#[test]
fn a_million_messages_are_judged() {
    let history = published(1_000_000);
    for number in 1..=1_000_000 {
        history.delivered(m(0, number), 0, false);
    }
    let report = check(&history, STRICT);
    assert!(report.is_clean());
    assert_eq!(report.deliveries, 1_000_000);
}

#[test]
fn a_fault_that_is_known_only_later_explains_what_came_back_during_it() {
    let history = published(1);
    history.start_consumer(0, 1);
    history.delivered(m(0, 1), 0, false);
    history.acked(m(0, 1), 0);
    history.ack_certain(m(0, 1), 0);
    history.delivered(m(0, 1), 1, true);
    assert!(violation(&history).contains("came back after its ack was certain"));
    let now = history.now_ms();
    history.fault_was(1, 0, now);
    assert_eq!(check(&history, STRICT).violation_count, 1, "another node's");
    history.fault_was(0, 0, now);
    explained(&history, Why::NodeFault);
}

#[test]
fn a_line_of_a_log_has_its_place_in_the_history() {
    let history = History::default();
    std::thread::sleep(std::time::Duration::from_millis(2));
    let wall = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let millis = u64::try_from(wall.as_millis()).unwrap() % 86_400_000;
    let line = |millis: u64| {
        let (seconds, rest) = (millis / 1000, millis % 1000);
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        let seconds = seconds % 60;
        format!("2026-11-26 {hours:02}:{minutes:02}:{seconds:02}.{rest:03}000+00:00 [info] text")
    };
    let at = history.at_of_line(&line(millis)).unwrap();
    assert!(at <= history.now_ms());
    assert_eq!(
        history.at_of_line(&line((millis + 3_600_000) % 86_400_000)),
        None,
        "later"
    );
    assert_eq!(history.at_of_line("no line"), None);
}
