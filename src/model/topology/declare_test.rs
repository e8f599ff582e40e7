//! What the differential test has found in declarations and bindings.

use super::Topology;
use super::command::{Removed, TopologyCommand};
use super::test::{args, binding, declare, long, none, open, queue, run, to_queue};
use crate::amqp::AMQPValue;
use crate::base::SessionId;

#[test]
fn what_differs_first_depends_on_the_type() {
    let mut topology = open();
    let ttl = ("x-message-ttl", AMQPValue::LongInt(1));
    let exchange = ("x-dead-letter-exchange", long(""));
    let quorum = ("x-queue-type", long("quorum"));
    let both = [ttl.clone(), exchange.clone()];
    declare(&mut topology, queue("classic", args(&both))).unwrap();
    declare(
        &mut topology,
        queue("quorum", args(&[ttl, exchange, quorum])),
    )
    .unwrap();
    let nested = AMQPValue::FieldTable(args(&[("in", long("a"))]));
    let nested = queue("classic", args(&[("x-message-ttl", nested)]));
    let text = declare(&mut topology, nested).unwrap_err();
    let shown = r#"received '[{<<"in">>,longstr,<<"a">>}]' but current is '1'"#;
    assert!(text.contains(shown), "{text}");
    let refused =
        |topology: &mut Topology, name| declare(topology, queue(name, none())).unwrap_err();
    assert!(refused(&mut topology, "classic").contains("'x-message-ttl'"));
    assert!(refused(&mut topology, "quorum").contains("'x-dead-letter-exchange'"));
}

#[test]
fn only_a_binding_that_is_there_is_another_connections_business() {
    let mut topology = open();
    let mut own = queue("own", none());
    own.exclusive = true;
    declare(&mut topology, own).unwrap();
    let mut bind = binding("amq.direct", to_queue("own"), "k", none());
    run(&mut topology, TopologyCommand::Bind(bind.clone())).unwrap();
    bind.session = SessionId(8);
    let refused = run(&mut topology, TopologyCommand::Unbind(bind.clone())).unwrap_err();
    assert!(refused.starts_with("405"), "{refused}");
    bind.routing_key = "other".into();
    let done = run(&mut topology, TopologyCommand::Unbind(bind)).unwrap();
    assert_eq!(done, Removed::default());
}

#[test]
fn an_x_match_that_is_none_is_refused_in_rabbitmqs_words() {
    let mut topology = open();
    declare(&mut topology, queue("q", none())).unwrap();
    let expected = "expected all, any, all-with-x, or any-with-x";
    for (given, words) in [
        (
            long("some"),
            format!("field value <<\"some\">>; {expected}"),
        ),
        (long(""), format!("field value <<>>; {expected}")),
        (
            AMQPValue::ShortUInt(1),
            "field type unsignedshort (value 1); expected longstr".to_owned(),
        ),
    ] {
        let bind = binding(
            "amq.headers",
            to_queue("q"),
            "",
            args(&[("x-match", given)]),
        );
        let refused = run(&mut topology, TopologyCommand::Bind(bind)).unwrap_err();
        assert_eq!(refused, format!("406 Invalid x-match {words}"));
    }
}
