use bytes::{BufMut, Bytes};
use proptest::prelude::*;

use super::*;
use crate::amqp::{AMQPValue, LongString, RawProperties};
use crate::base::Millis;
use crate::base::coding::Reader;
use crate::model::Meta;
use crate::model::route::RouteInput;

pub(super) const META: Meta = Meta {
    index: 1,
    now: Millis(0),
};

pub(super) fn args(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

pub(super) fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

pub(super) fn open() -> Topology {
    let mut topology = Topology::new();
    let seed = Seed {
        user: "guest".into(),
        password_hash: hash_password(Hashing::Sha256, [1, 2, 3, 4], "secret"),
        tags: vec!["administrator".into()],
        vhost: "/".into(),
        permissions: [".*".into(), ".*".into(), ".*".into()],
        default_queue_type: String::new(),
    };
    let command = TopologyCommand::OpenNode {
        node: NodeId(1),
        incarnation: 1,
        first: Some(seed),
    };
    topology.apply(META, command);
    topology
}

pub(super) fn queue(name: &str, arguments: FieldTable) -> DeclareQueue {
    DeclareQueue {
        vhost: "/".into(),
        name: name.into(),
        relaxed: false,
        server_named: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments,
        session: SessionId(7),
        node: NodeId(1),
        incarnation: 1,
        sets: vec![SetId(1)],
        user: "guest".into(),
    }
}

pub(super) fn exchange(name: &str, kind: &str, arguments: FieldTable) -> DeclareExchange {
    DeclareExchange {
        vhost: "/".into(),
        name: name.into(),
        kind: kind.into(),
        durable: true,
        auto_delete: false,
        internal: false,
        arguments,
        user: "guest".into(),
        node: NodeId(1),
        incarnation: 1,
    }
}

pub(super) fn binding(
    source: &str,
    destination: Destination,
    key: &str,
    arguments: FieldTable,
) -> Bind {
    Bind {
        vhost: "/".into(),
        source: source.into(),
        destination,
        routing_key: key.into(),
        arguments,
        session: SessionId(7),
    }
}

pub(super) fn to_queue(name: &str) -> Destination {
    Destination::Queue(name.into())
}

fn to_exchange(name: &str) -> Destination {
    Destination::Exchange(name.into())
}

pub(super) fn declare(topology: &mut Topology, declare: DeclareQueue) -> Result<QueueId, String> {
    match topology.apply(META, TopologyCommand::DeclareQueue(declare)) {
        TopologyReply::Queue { record, .. } => Ok(record.id),
        TopologyReply::Failed(error) => Err(format!("{} {}", error.code.code(), error.text)),
        other => panic!("{other:?}"),
    }
}

pub(super) fn run(topology: &mut Topology, command: TopologyCommand) -> Result<Removed, String> {
    match topology.apply(META, command) {
        TopologyReply::Removed(removed) => Ok(removed),
        TopologyReply::Failed(error) => Err(format!("{} {}", error.code.code(), error.text)),
        _ => Ok(Removed::default()),
    }
}

fn make(topology: &mut Topology, exchanges: &[DeclareExchange], bindings: Vec<Bind>) {
    for exchange in exchanges {
        run(topology, TopologyCommand::DeclareExchange(exchange.clone())).unwrap();
    }
    for bind in bindings {
        run(topology, TopologyCommand::Bind(bind)).unwrap();
    }
}

pub(super) fn routed(
    topology: &Topology,
    exchange: &str,
    key: &str,
    properties: &RawProperties,
) -> Vec<u64> {
    let input = RouteInput {
        vhost: "/",
        exchange: exchange.as_bytes(),
        keys: &[key.as_bytes()],
        properties,
        dice: 0,
    };
    let mut out = Vec::new();
    topology.route(&input, &mut out).unwrap();
    out.iter().map(|target| target.queue.0).collect()
}

pub(super) fn none() -> FieldTable {
    FieldTable::default()
}

#[test]
fn a_redeclaration_that_differs_is_refused_in_rabbitmqs_words() {
    let mut topology = open();
    let ttl = |ms| args(&[("x-message-ttl", AMQPValue::LongInt(ms))]);
    declare(&mut topology, queue("q", ttl(1000))).unwrap();
    let other_width = args(&[("x-message-ttl", AMQPValue::LongLongInt(1000))]);
    declare(&mut topology, queue("q", other_width)).unwrap();
    let mut transient = queue("q", ttl(1000));
    transient.durable = false;
    // The type is compared after the arguments that both types have.
    let quorum = args(&[
        ("x-message-ttl", AMQPValue::LongInt(1000)),
        ("x-queue-type", long("quorum")),
    ]);
    let table = [
        (
            queue("q", none()),
            "'x-message-ttl' for Q: received none but current is the value '1000' of type 'signedint'",
        ),
        (
            queue("q", ttl(2)),
            "'x-message-ttl' for Q: received '2' but current is '1000'",
        ),
        (
            queue("q", args(&[("x-message-ttl", AMQPValue::Void)])),
            "'x-message-ttl' for Q: received none but current is '1000'",
        ),
        (
            queue("q", args(&[("x-message-ttl", AMQPValue::Double(1e22))])),
            "'x-message-ttl' for Q: received '1.0e22' but current is '1000'",
        ),
        (
            queue("q", args(&[("x-message-ttl", AMQPValue::Double(2.0))])),
            "'x-message-ttl' for Q: received '2.0' but current is '1000'",
        ),
        (
            transient,
            "'durable' for Q: received 'false' but current is 'true'",
        ),
        (
            queue("q", quorum),
            "'x-queue-type' for Q: received 'quorum' but current is 'classic'",
        ),
    ];
    for (again, text) in table {
        let text = format!(
            "406 inequivalent arg {}",
            text.replace('Q', "queue 'q' in vhost '/'")
        );
        assert_eq!(declare(&mut topology, again), Err(text));
    }
    let mut exclusive = queue("q", ttl(1000));
    exclusive.exclusive = true;
    assert!(
        declare(&mut topology, exclusive)
            .unwrap_err()
            .starts_with("405 cannot obtain")
    );
}

#[test]
fn a_new_queues_arguments_are_checked_with_reasons() {
    let quorum = ("x-queue-type", long("quorum"));
    let table = [
        (
            args(&[("x-message-ttl", AMQPValue::LongInt(-1))]),
            "'x-message-ttl' for Q: {value_negative,-1}",
        ),
        (
            args(&[("x-message-ttl", long("1"))]),
            "'x-message-ttl' for Q: \"expected integer, got longstr\"",
        ),
        (
            args(&[("x-expires", AMQPValue::LongInt(0))]),
            "'x-expires' for Q: {value_zero,0}",
        ),
        (
            args(&[("x-max-priority", AMQPValue::LongInt(256))]),
            "'x-max-priority' for Q: {max_value_exceeded,256}",
        ),
        (
            args(&[("x-overflow", long("no"))]),
            "'x-overflow' for Q: invalid_overflow",
        ),
        (
            args(&[("x-dead-letter-routing-key", long("k"))]),
            "'x-dead-letter-routing-key' for Q: routing_key_but_no_dlx_defined",
        ),
        (
            args(&[("x-visibility-timeout", AMQPValue::LongInt(999))]),
            "'x-visibility-timeout' for Q: {value_too_small,999}",
        ),
        (
            args(&[("x-single-active-consumer", long("t"))]),
            "'x-single-active-consumer' for Q: {unacceptable_type,longstr}",
        ),
        (
            args(&[quorum, ("x-max-priority", AMQPValue::LongInt(1))]),
            "'x-max-priority' for Q of queue type rabbit_quorum_queue",
        ),
        (
            args(&[("x-queue-type", long("foo"))]),
            "'x-queue-type' for Q: \"unsupported queue type 'foo'\"",
        ),
        (
            args(&[("x-queue-type", AMQPValue::LongInt(0))]),
            "'x-queue-type' for Q: {unacceptable_type,signedint}",
        ),
        (
            args(&[
                ("x-max-age", long("1h")),
                ("x-delivery-limit", long("1")),
                ("x-single-active-consumer", long("t")),
            ]),
            "'x-single-active-consumer' for Q: {unacceptable_type,longstr}",
        ),
        (
            args(&[
                ("x-quorum-initial-group-size", AMQPValue::LongInt(3)),
                ("x-max-age", long("1h")),
            ]),
            "'x-max-age' for Q of queue type rabbit_classic_queue",
        ),
    ];
    let mut topology = open();
    for (arguments, text) in table {
        let text = format!(
            "406 invalid arg {}",
            text.replace('Q', "queue 'q' in vhost '/'")
        );
        assert_eq!(declare(&mut topology, queue("q", arguments)), Err(text));
    }
    let mut exclusive = queue("q", args(&[("x-queue-type", long("quorum"))]));
    exclusive.exclusive = true;
    let text = "406 invalid property 'exclusive-owner' for queue 'q' in vhost '/'";
    assert_eq!(declare(&mut topology, exclusive), Err(text.into()));
    assert!(
        declare(&mut topology, queue("amq.q", none()))
            .unwrap_err()
            .starts_with("403")
    );
}

#[test]
fn permissions_and_passwords_decide_as_the_matrix_says() {
    let mut topology = open();
    for (pattern, name, allowed) in [
        ("", "q", false),
        ("", "", true),
        ("^a", "ab", true),
        ("b", "abc", true),
        ("(", "(", false),
    ] {
        run(
            &mut topology,
            TopologyCommand::SetPermissions {
                user: "guest".into(),
                vhost: "/".into(),
                configure: String::new(),
                write: String::new(),
                read: pattern.into(),
            },
        )
        .unwrap();
        let check =
            topology.check_permission("guest", "/", Resource::Queue(name), Permission::Read);
        assert_eq!(check.is_ok(), allowed, "{pattern:?} on {name:?}");
    }
    let refusal = topology.check_permission("u", "/", Resource::Exchange(""), Permission::Write);
    let text = "write access to exchange 'amq.default' in vhost '/' refused for user 'u'";
    assert_eq!(refusal.unwrap_err().text, text);
    assert!(topology.authenticate("guest", "secret").is_some());
    assert!(topology.authenticate("guest", "wrong").is_none());
    assert!(topology.authenticate("nobody", "secret").is_none());
    run(
        &mut topology,
        TopologyCommand::PutUser {
            name: "t".into(),
            password_hash: "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR".into(),
            tags: vec![],
        },
    )
    .unwrap();
    assert!(topology.authenticate("t", "test12").is_some());
}

#[test]
fn what_nobody_may_do_is_refused_as_such_even_without_rights() {
    let topology = open();
    let default = "operation not permitted on the default exchange";
    let declare = |kind, name| topology.check_declare_exchange("nobody", "/", kind, name);
    let delete = |name| topology.check_delete_exchange("nobody", "/", name);
    let unpermitted = "configure access to exchange 'x' in vhost '/' refused for user 'nobody'";
    let system = "deletion of system exchange 'amq.topic' in vhost '/' not allowed";
    for (checked, text) in [
        (declare("odd", ""), "unknown exchange type 'odd'"),
        (declare("direct", ""), default),
        (declare("direct", "x"), unpermitted),
        (delete(""), default),
        (delete("amq.topic"), system),
        (delete("x"), unpermitted),
    ] {
        assert_eq!(checked.unwrap_err().text, text);
    }
    let bind = |user, source: &str| {
        let bind = Bind {
            vhost: "/".into(),
            source: source.into(),
            destination: Destination::Queue("q".into()),
            routing_key: String::new(),
            arguments: none(),
            session: SessionId(7),
        };
        topology.check_bind(user, &bind)
    };
    let write = "write access to queue 'q' in vhost '/' refused for user 'nobody'";
    assert_eq!(bind("nobody", "").unwrap_err().text, write);
    assert_eq!(bind("guest", "").unwrap_err().text, default);
    assert_eq!(bind("guest", "x"), Ok(()));
}

#[test]
fn cycles_end_and_alternate_exchanges_chain() {
    let mut topology = open();
    let q = declare(&mut topology, queue("q", none())).unwrap().0;
    let alternate = |name| args(&[("alternate-exchange", long(name))]);
    make(
        &mut topology,
        &[
            exchange("a", "fanout", none()),
            exchange("b", "fanout", none()),
            exchange("x", "direct", alternate("y")),
            exchange("y", "direct", alternate("a")),
        ],
        vec![
            binding("a", to_exchange("b"), "", none()),
            binding("b", to_exchange("a"), "", none()),
            binding("b", to_queue("q"), "", none()),
            binding("b", to_queue("q"), "other", none()),
        ],
    );
    let raw = RawProperties::default();
    assert_eq!(routed(&topology, "a", "k", &raw), [q]);
    assert_eq!(routed(&topology, "x", "k", &raw), [q]);
    assert_eq!(routed(&topology, "", "q", &raw), [q]);
    assert!(routed(&topology, "", "none", &raw).is_empty());
}

#[test]
fn headers_match_by_class_and_mode() {
    let mut raw = vec![];
    raw.put_u16(1 << 13);
    raw.put_slice(b"\0\0\0\x13\x01nl\0\0\0\0\0\0\0\x05\x03x-aS\0\0\0\0");
    // Twice one name: the last one counts.
    raw.put_slice(b"\x01dI\0\0\0\x01\x01dI\0\0\0\x02");
    let len = raw.len() - 6;
    raw[5] = u8::try_from(len).unwrap();
    let raw = RawProperties(Bytes::from(raw));
    let n = ("n", AMQPValue::LongInt(5));
    let m = ("m", AMQPValue::LongInt(5));
    let xa = ("x-a", long("no"));
    let mode = |name: &str| ("x-match", long(name));
    let table = [
        (args(&[]), true),
        (args(std::slice::from_ref(&n)), true),
        (args(&[n.clone(), m.clone()]), false),
        (args(&[mode("any"), n.clone(), m.clone()]), true),
        (args(&[mode("any")]), false),
        (args(&[n.clone(), xa.clone()]), true),
        (args(&[mode("all-with-x"), n.clone(), xa.clone()]), false),
        (args(&[mode("any-with-x"), n, xa]), true),
        (args(&[("n", AMQPValue::Double(5.0))]), false),
        (args(&[("n", AMQPValue::Void)]), true),
        (args(&[("m", AMQPValue::Void)]), false),
        (args(&[("d", AMQPValue::LongInt(1))]), false),
        (args(&[("d", AMQPValue::LongInt(2))]), true),
    ];
    for (arguments, expected) in table {
        let mut topology = open();
        declare(&mut topology, queue("q", none())).unwrap();
        let bind = binding("amq.headers", to_queue("q"), "", arguments.clone());
        make(&mut topology, &[], vec![bind]);
        let hit = !routed(&topology, "amq.headers", "", &raw).is_empty();
        assert_eq!(hit, expected, "{arguments:?}");
    }
    let bad = binding("amq.headers", to_queue("q"), "", args(&[mode("some")]));
    let mut topology = open();
    declare(&mut topology, queue("q", none())).unwrap();
    assert!(
        run(&mut topology, TopologyCommand::Bind(bad))
            .unwrap_err()
            .starts_with("406 Invalid")
    );
}

#[test]
fn auto_delete_exchanges_go_with_their_last_binding_all_the_way_up() {
    let mut topology = open();
    let id = declare(&mut topology, queue("q", none())).unwrap();
    let mut up = exchange("up", "fanout", none());
    up.auto_delete = true;
    let mut down = up.clone();
    down.name = "down".into();
    make(
        &mut topology,
        &[up, down],
        vec![
            binding("up", to_exchange("down"), "", none()),
            binding("down", to_queue("q"), "", none()),
        ],
    );
    let removed = run(&mut topology, TopologyCommand::DeleteQueue { id }).unwrap();
    let names: Vec<_> = removed
        .exchanges
        .iter()
        .map(|name| name.name.as_str())
        .collect();
    assert_eq!(names, ["down", "up"]);
    assert_eq!(removed.queues.len(), 1);
    assert_eq!(topology.bindings().count(), 0);
}

#[test]
fn a_restarted_node_loses_what_was_its_own() {
    let mut topology = open();
    declare(&mut topology, queue("kept", none())).unwrap();
    let mut own = queue("own", none());
    own.exclusive = true;
    own.sets = vec![SetId::local(NodeId(1))];
    declare(&mut topology, own).unwrap();
    let again = TopologyCommand::OpenNode {
        node: NodeId(1),
        incarnation: 2,
        first: None,
    };
    let removed = run(&mut topology, again.clone()).unwrap();
    assert_eq!(removed.queues.len(), 1);
    assert!(topology.queue("/", "own").is_none() && topology.queue("/", "kept").is_some());
    assert_eq!(run(&mut topology, again).unwrap(), Removed::default());
}

fn commands() -> impl Strategy<Value = TopologyCommand> {
    let name = prop::sample::select(&["a", "b", "c", "amq.topic"][..]);
    let kind = prop::sample::select(&["direct", "fanout", "topic", "headers"][..]);
    (
        0..9u8,
        name.clone(),
        name,
        kind,
        any::<(bool, bool)>(),
        0..6u64,
    )
        .prop_map(
            |(which, one, two, kind, (flag, other), number)| match which {
                0 | 1 => TopologyCommand::DeclareExchange(DeclareExchange {
                    auto_delete: flag,
                    durable: other,
                    ..exchange(one, kind, none())
                }),
                2 => TopologyCommand::DeclareQueue(DeclareQueue {
                    exclusive: flag,
                    ..queue(one, args(&[("x-max-length", AMQPValue::LongUInt(5))]))
                }),
                3 => TopologyCommand::Bind(binding(one, to_queue(two), kind, none())),
                4 => TopologyCommand::Bind(binding(one, to_exchange(two), kind, none())),
                5 => TopologyCommand::Unbind(binding(one, to_queue(two), kind, none())),
                6 => TopologyCommand::DeleteQueue {
                    id: QueueId(number),
                },
                7 => TopologyCommand::DeleteExchange {
                    vhost: "/".into(),
                    name: one.into(),
                    if_unused: flag,
                },
                _ => TopologyCommand::OpenNode {
                    node: NodeId(1),
                    incarnation: number,
                    first: None,
                },
            },
        )
}

proptest! {
    #[test]
    fn a_restored_snapshot_is_the_same_topology(
        commands in prop::collection::vec(commands(), 0..60),
    ) {
        let mut topology = open();
        for command in commands {
            let mut bytes = Vec::new();
            command.encode(&mut bytes);
            let mut reader = Reader::new(&bytes);
            let decoded = TopologyCommand::decode(&mut reader).unwrap();
            prop_assert!(reader.is_empty());
            prop_assert_eq!(&decoded, &command);
            topology.apply(META, decoded);
        }
        let mut copy = Topology::new();
        copy.restore(&topology.snapshot()).unwrap();
        prop_assert_eq!(copy.digest(), topology.digest());
        let raw = RawProperties::default();
        for name in ["a", "b", "c", "amq.topic"] {
            if topology.exchange("/", name).is_some() {
                prop_assert_eq!(
                    routed(&copy, name, "direct", &raw),
                    routed(&topology, name, "direct", &raw)
                );
            }
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(
        tag in 0u8..16,
        bytes in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut input = vec![1, tag];
        input.extend(&bytes);
        if let Ok(command) = TopologyCommand::decode(&mut Reader::new(&input)) {
            open().apply(META, command);
        }
        if Topology::new().restore(&bytes).is_ok() {
            prop_assert_eq!(bytes[0], 1);
        }
    }
}
