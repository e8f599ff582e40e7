//! Streams as they are declared: what they refuse, what they keep by arguments and policies, how a consumer begins.

use super::test::{args, declare, long, open, queue, run};
use super::*;
use crate::amqp::{AMQPValue, FieldArray, FieldTable};
use crate::base::Millis;
use crate::model::set::{StreamRules, StreamStart};

fn stream(more: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = args(more);
    table.insert("x-queue-type".into(), long("stream"));
    table
}

const fn int(value: i32) -> AMQPValue {
    AMQPValue::LongInt(value)
}

#[test]
fn a_stream_refuses_what_is_not_for_it_in_rabbitmqs_words() {
    let of_type =
        |key: &str| format!("invalid arg '{key}' for Q of queue type rabbit_stream_queue");
    let mut table = vec![
        (("x-max-age", long("1w")), "invalid arg 'x-max-age' for Q: invalid_max_age".to_owned()),
        (("x-max-age", long("0s")), "invalid arg 'x-max-age' for Q: invalid_max_age".to_owned()),
        (("x-max-age", long("")), "invalid arg 'x-max-age' for Q: invalid_max_age".to_owned()),
        (("x-max-age", int(5)), "invalid arg 'x-max-age' for Q: {unacceptable_type,signedint}".to_owned()),
        (("x-max-length-bytes", int(-1)), "invalid arg 'x-max-length-bytes' for Q: {value_negative,-1}".to_owned()),
        (("x-initial-cluster-size", int(0)), "invalid arg 'x-initial-cluster-size' for Q: {value_zero,0}".to_owned()),
        (("x-queue-leader-locator", long("here")), "invalid arg 'x-queue-leader-locator' for Q: invalid_queue_locator_arg".to_owned()),
        (("x-stream-max-segment-size-bytes", AMQPValue::LongLongInt(3_000_000_001)), "Exceeded max value for x-stream-max-segment-size-bytes".to_owned()),
        (("x-stream-max-segment-size-bytes", long("1")), "invalid arg 'x-stream-max-segment-size-bytes' for Q: \"expected integer, got longstr\"".to_owned()),
        (("x-stream-filter-size-bytes", int(15)), "Invalid value for x-stream-filter-size-bytes".to_owned()),
        (("x-stream-filter-size-bytes", int(256)), "Invalid value for x-stream-filter-size-bytes".to_owned()),
    ];
    for key in [
        "x-message-ttl",
        "x-expires",
        "x-max-length",
        "x-max-priority",
        "x-delivery-limit",
        "x-quorum-initial-group-size",
        "x-parts",
        "x-visibility-timeout",
    ] {
        table.push(((key, int(1)), of_type(key)));
    }
    for key in ["x-overflow", "x-dead-letter-routing-key"] {
        table.push(((key, long("k")), of_type(key)));
    }
    let single = "x-single-active-consumer";
    table.push(((single, AMQPValue::Boolean(true)), of_type(single)));
    let mut topology = open();
    for (argument, text) in table {
        let text = format!("406 {}", text.replace('Q', "queue 'q' in vhost '/'"));
        let found = declare(
            &mut topology,
            queue("q", stream(std::slice::from_ref(&argument))),
        );
        assert_eq!(found, Err(text));
    }
}

#[test]
fn a_stream_is_durable_shared_and_named_by_who_declares_it() {
    type Change = fn(&mut DeclareQueue);
    let cases: [(Change, &str); 4] = [
        (
            |queue| queue.auto_delete = true,
            "invalid property 'auto-delete' for queue 'q' in vhost '/'",
        ),
        (
            |queue| queue.exclusive = true,
            "invalid property 'exclusive-owner' for queue 'q' in vhost '/'",
        ),
        (
            |queue| queue.durable = false,
            "invalid property 'non-durable' for queue 'q' in vhost '/'",
        ),
        (
            |queue| queue.server_named = true,
            "Cannot declare a server-named queue for type rabbit_stream_queue",
        ),
    ];
    let mut topology = open();
    for (change, text) in cases {
        let mut wrong = queue("q", stream(&[]));
        change(&mut wrong);
        assert_eq!(declare(&mut topology, wrong), Err(format!("406 {text}")));
    }
    let all = [
        ("x-max-age", long("7D")),
        ("x-max-length-bytes", int(1000)),
        ("x-stream-max-segment-size-bytes", int(0)),
        ("x-stream-filter-size-bytes", int(16)),
        ("x-initial-cluster-size", int(1)),
        ("x-queue-leader-locator", long("balanced")),
    ];
    declare(&mut topology, queue("q", stream(&all))).unwrap();
    declare(&mut topology, queue("q", stream(&all))).unwrap();
    let other = declare(&mut topology, queue("q", stream(&all[..1])));
    let text = "406 inequivalent arg 'x-max-length-bytes' for queue 'q' in vhost '/': received none but \
                current is the value '1000' of type 'signedint'";
    assert_eq!(other, Err(text.into()));
}

#[test]
fn a_stream_keeps_what_its_policy_says_and_else_what_its_arguments_say() {
    let mut topology = open();
    let declared = [("x-max-age", long("1h")), ("x-max-length-bytes", int(1000))];
    declare(&mut topology, queue("q", stream(&declared))).unwrap();
    declare(&mut topology, queue("plain", FieldTable::default())).unwrap();
    let rules = |topology: &Topology, name: &str| {
        let record = topology.queue("/", name).unwrap();
        record.config(&QueueDefaults::default()).stream
    };
    let both = |age, bytes| {
        Some(StreamRules {
            max_age: Some(Millis(age)),
            max_bytes: Some(bytes),
        })
    };
    assert_eq!(rules(&topology, "q"), both(3_600_000, 1000));
    assert_eq!(rules(&topology, "plain"), None);
    let policy = Policy {
        vhost: "/".into(),
        name: "p".into(),
        pattern: Pattern::new("q".into()),
        apply_to: ApplyTo::All,
        priority: 0,
        definition: args(&[("max-age", long("2m")), ("max-length-bytes", int(5000))]),
    };
    let scope = PolicyScope::User;
    let put = SettingsCommand::PutPolicy { scope, policy };
    run(&mut topology, TopologyCommand::Settings(put)).unwrap();
    assert_eq!(rules(&topology, "q"), both(120_000, 5000));
}

#[test]
fn where_a_consumer_begins_and_what_it_wants_is_read_from_its_arguments() {
    let mut topology = open();
    declare(&mut topology, queue("q", stream(&[]))).unwrap();
    let record = topology.queue("/", "q").unwrap();
    let parse = |key: &str, value: AMQPValue| {
        let parsed = ConsumerArguments::parse(record, &args(&[(key, value)]));
        parsed.map_err(|error| error.text.to_string())
    };
    for (value, start) in [
        (long("first"), StreamStart::First),
        (long("last"), StreamStart::Last),
        (long("next"), StreamStart::Next),
        (int(0), StreamStart::Offset(0)),
        (
            AMQPValue::LongLongInt(1 << 40),
            StreamStart::Offset(1 << 40),
        ),
        (AMQPValue::Timestamp(7), StreamStart::Time(Millis(7000))),
        (long("90s"), StreamStart::Ago(Millis(90_000))),
        (long("1h"), StreamStart::Ago(Millis(3_600_000))),
        (long("7D"), StreamStart::Ago(Millis(604_800_000))),
    ] {
        let shown = format!("{value:?}");
        assert_eq!(
            parse("x-stream-offset", value).unwrap().start,
            start,
            "{shown}"
        );
    }
    let refused =
        "invalid arg 'x-stream-offset' for queue 'q' in vhost '/': {invalid_stream_offset_arg,";
    for (value, shown) in [
        (long(""), "{longstr,<<>>}}"),
        (long("foo"), "{longstr,<<\"foo\">>}}"),
        (long("3"), "{longstr,<<\"3\">>}}"),
        (long("0s"), "{longstr,<<\"0s\">>}}"),
        (int(-1), "{signedint,-1}}"),
        (AMQPValue::Boolean(true), "{bool,true}}"),
    ] {
        assert_eq!(
            parse("x-stream-offset", value),
            Err(format!("{refused}{shown}"))
        );
    }
    for key in ["x-priority", "x-consumer-timeout"] {
        let text = format!(
            "invalid arg '{key}' for queue 'q' in vhost '/' of queue type rabbit_stream_queue"
        );
        assert_eq!(parse(key, int(1)), Err(text));
    }
    let list = AMQPValue::FieldArray(FieldArray::from(vec![long("a"), int(1), long("b")]));
    let filter = parse("x-stream-filter", list).unwrap().filter.unwrap();
    assert!(filter.wants(Some(b"a")) && filter.wants(Some(b"b")));
    assert!(!filter.wants(Some(b"c")) && !filter.wants(None));
    let arguments = args(&[
        ("x-stream-filter", long("a")),
        ("x-stream-match-unfiltered", AMQPValue::Boolean(true)),
    ]);
    let parsed = ConsumerArguments::parse(record, &arguments).unwrap();
    assert!(parsed.filter.unwrap().wants(None));
}
