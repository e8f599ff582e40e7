use super::definition::*;
use crate::amqp::{AMQPValue, FieldArray, FieldTable};

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn table(rows: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in rows {
        table.insert((*key).into(), value.clone());
    }
    table
}

/// What is needed, and these.
fn read(rows: &[(&str, AMQPValue)]) -> Result<Definition, String> {
    let needed = [
        ("src-uri", text("amqp://")),
        ("dest-uri", text("amqp://")),
        ("src-queue", text("a")),
        ("dest-queue", text("b")),
    ];
    let rows: Vec<_> = needed.into_iter().chain(rows.to_vec()).collect();
    Definition::read("s", &AMQPValue::FieldTable(table(&rows)))
}

#[test]
fn what_the_page_sends_to_move_messages_is_read() {
    let definition = read(&[
        ("src-delete-after", text("queue-length")),
        ("src-prefetch-count", AMQPValue::LongLongInt(7)),
        ("dest-add-forward-headers", AMQPValue::Boolean(false)),
        ("ack-mode", text("on-confirm")),
    ]);
    let definition = definition.unwrap();
    assert_eq!(definition.delete_after, DeleteAfter::QueueLength);
    assert_eq!(definition.ack_mode, AckMode::OnConfirm);
    assert_eq!(definition.prefetch, 7);
    assert_eq!(definition.own_vhosts().collect::<Vec<_>>(), ["/", "/"]);
    let places = [
        ("src-queue", "a".to_owned()),
        ("dest-queue", "b".to_owned()),
    ];
    assert_eq!(definition.places(), places);
}

#[test]
fn older_names_of_keys_mean_the_same() {
    let definition = read(&[
        ("delete-after", AMQPValue::LongLongInt(3)),
        ("prefetch-count", AMQPValue::LongLongInt(9)),
        ("add-forward-headers", AMQPValue::Boolean(true)),
        ("add-timestamp-header", AMQPValue::Boolean(true)),
    ]);
    let definition = definition.unwrap();
    assert_eq!(definition.delete_after, DeleteAfter::Messages(3));
    assert_eq!(definition.prefetch, 9);
    assert!(definition.forward_headers && definition.timestamp_header);
}

#[test]
fn no_prefetch_is_a_bound_all_the_same() {
    for (count, bound) in [(0, 1000), (-1, 1000), (65_535, 65_535), (70_000, 65_535)] {
        let definition = read(&[("src-prefetch-count", AMQPValue::LongLongInt(count))]);
        assert_eq!(definition.unwrap().prefetch, bound, "{count}");
    }
}

#[test]
fn a_delay_of_nothing_means_that_it_is_not_tried_again() {
    let delay = |seconds| {
        let definition = read(&[("reconnect-delay", AMQPValue::LongLongInt(seconds))]);
        definition
            .unwrap()
            .reconnect_delay
            .map(|delay| delay.as_secs())
    };
    assert_eq!(delay(0), None);
    assert_eq!(delay(2), Some(2));
    assert_eq!(read(&[]).unwrap().reconnect_delay.unwrap().as_secs(), 5);
}

#[test]
fn addresses_are_one_or_many() {
    let mut many = FieldArray::default();
    many.push(text("amqp://h1"));
    many.push(text("amqp://u:p@/v"));
    let definition = read(&[("src-uri", AMQPValue::FieldArray(many))]).unwrap();
    assert_eq!(definition.source_uris.len(), 2);
    // Who logs in is checked when it does.
    assert_eq!(definition.own_vhosts().collect::<Vec<_>>(), ["/"]);
}

#[test]
fn what_is_wrong_is_said_in_the_words_of_the_original() {
    let number = |value| AMQPValue::LongLongInt(value);
    let row = |key, value| (key, value);
    for (rows, error) in [
        (
            vec![row("src-exchange", text("e"))],
            "Cannot specify 'src-exchange' and 'src-queue'",
        ),
        (
            vec![row("dest-exchange", text("e"))],
            "Cannot specify 'dest-exchange' and 'dest-queue'",
        ),
        (
            vec![
                row("src-delete-after", number(5)),
                row("ack-mode", text("no-ack")),
            ],
            "Cannot specify 'no-ack' and numerical 'delete-after'",
        ),
        (
            vec![row("src-delete-after", number(-1))],
            "src-delete-after should be a number greater than or equal to 0, \"never\" or \"queue-length\", actually was -1",
        ),
        (
            vec![row("ack-mode", text("bad"))],
            "ack-mode should be one of [no-ack, on-publish, on-confirm], actually was \"bad\"",
        ),
        (
            vec![row("src-prefetch-count", text("x"))],
            "src-prefetch-count should be a number, actually was \"x\"",
        ),
        (
            vec![row("dest-add-forward-headers", number(1))],
            "dest-add-forward-headers should be boolean, actually was 1",
        ),
        (
            vec![row("dest-publish-properties", text("x"))],
            "dest-publish-properties not a list \"x\"",
        ),
        (vec![row("x", number(1))], "Unrecognised terms [x] in s"),
        (
            vec![row("src-queue", number(7))],
            "src-queue should be binary, actually was 7\nMust specify 'src-exchange' or 'src-queue'",
        ),
        (
            vec![row("src-uri", number(5))],
            "src-uri should be list, actually was 5",
        ),
        (
            vec![row("src-protocol", text("xyz"))],
            "src-protocol should be one of [amqp091, local, amqp10], actually was \"xyz\"",
        ),
        (
            vec![row("src-protocol", text("amqp10"))],
            "Key \"src-address\" not found in s\nUnrecognised terms [src-queue] in s",
        ),
        (
            vec![row("src-consumer-args", text("k"))],
            "src-consumer-args not a list \"k\"",
        ),
    ] {
        assert_eq!(read(&rows).unwrap_err(), error);
    }
    let nothing = AMQPValue::FieldTable(FieldTable::default());
    assert_eq!(
        Definition::read("s", &nothing).unwrap_err(),
        "Must specify 'src-exchange' or 'src-queue'\nKey \"dest-uri\" not found in s\nKey \"src-uri\" not found in s"
    );
    assert!(
        Definition::read("s", &text("str"))
            .unwrap_err()
            .starts_with("s is no object: \"str\"")
    );
}

#[test]
fn properties_that_are_set_replace_those_of_the_message() {
    let set = table(&[
        ("content_type", text("text/plain")),
        ("delivery_mode", AMQPValue::LongLongInt(2)),
    ]);
    let definition = read(&[("dest-publish-properties", AMQPValue::FieldTable(set))]).unwrap();
    let before = lapin::BasicProperties::default()
        .with_content_type("json".into())
        .with_message_id("7".into());
    let after = definition.overwrite(before);
    assert_eq!(
        after.content_type().as_ref().unwrap().as_str(),
        "text/plain"
    );
    assert_eq!(after.message_id().as_ref().unwrap().as_str(), "7");
    assert_eq!(*after.delivery_mode(), Some(2));
    let unknown = table(&[("foo", AMQPValue::LongLongInt(1))]);
    let refused = read(&[("dest-publish-properties", AMQPValue::FieldTable(unknown))]);
    assert_eq!(
        refused.unwrap_err(),
        "Unrecognised terms [foo] in dest-publish-properties"
    );
    let wrong = table(&[("delivery_mode", text("x"))]);
    let refused = read(&[("dest-publish-properties", AMQPValue::FieldTable(wrong))]);
    assert_eq!(
        refused.unwrap_err(),
        "delivery_mode should be a number, actually was \"x\""
    );
}

#[test]
fn an_end_in_another_protocol_has_its_own_keys() {
    let rows = [
        ("src-uri", text("amqp://h")),
        ("src-protocol", text("amqp10")),
        ("src-address", text("/queues/a")),
        ("src-delete-after", text("never")),
        ("dest-uri", text("amqp://")),
        ("dest-queue", text("b")),
    ];
    let definition = Definition::read("s", &AMQPValue::FieldTable(table(&rows))).unwrap();
    assert_eq!(definition.source, Source::Address("/queues/a".to_owned()));
    assert_eq!(definition.places()[0].0, "src-address");
}
