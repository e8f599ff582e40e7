use bytes::BufMut;

use super::test::{META, args, declare, exchange, long, none, open, queue, run};
use super::*;
use crate::amqp::{AMQPValue, FieldTable};
use crate::base::Millis;
use crate::base::coding::{Reader, Writer};
use crate::model::set::Overflow;

fn int(value: i64) -> AMQPValue {
    AMQPValue::LongLongInt(value)
}

fn policy(name: &str, pattern: &str, priority: i64, definition: FieldTable) -> Policy {
    Policy {
        vhost: "/".into(),
        name: name.into(),
        pattern: Pattern::new(pattern.into()),
        apply_to: ApplyTo::All,
        priority,
        definition,
    }
}

fn set(topology: &mut Topology, command: SettingsCommand) -> Result<(), String> {
    run(topology, TopologyCommand::Settings(command)).map(drop)
}

fn put(topology: &mut Topology, scope: PolicyScope, policy: Policy) -> Result<(), String> {
    set(topology, SettingsCommand::PutPolicy { scope, policy })
}

fn user_policy(topology: &mut Topology, policy: Policy) {
    put(topology, PolicyScope::User, policy).unwrap();
}

fn config(topology: &Topology, name: &str) -> crate::model::set::QueueConfig {
    let record = topology.queue("/", name).unwrap();
    record.config(&QueueDefaults::default())
}

fn again(topology: &Topology) -> Topology {
    let mut copy = Topology::new();
    copy.restore(&topology.snapshot()).unwrap();
    copy
}

fn every_command() -> Vec<SettingsCommand> {
    let name = || "ü".to_owned();
    let definition = args(&[("max-length", int(3)), ("overflow", long("reject-publish"))]);
    vec![
        SettingsCommand::PutUser {
            name: name(),
            password_hash: "x".into(),
            hashing: Hashing::Sha512,
            tags: vec!["management".into(), name()],
        },
        SettingsCommand::SetTopicPermissions {
            user: "guest".into(),
            vhost: "/".into(),
            exchange: "amq.topic".into(),
            write: "^a".into(),
            read: String::new(),
        },
        SettingsCommand::SetUserLimit {
            user: "guest".into(),
            limit: LimitKind::Channels,
            value: Some(-1),
        },
        SettingsCommand::PutVhost {
            name: name(),
            description: Some("for tests".into()),
            tags: Some(vec!["a".into()]),
            default_queue_type: Some("quorum".into()),
            tracing: None,
            protected: Some(true),
        },
        SettingsCommand::SetVhostLimit {
            vhost: "/".into(),
            limit: LimitKind::Queues,
            value: Some(7),
        },
        SettingsCommand::PutPolicy {
            scope: PolicyScope::Operator,
            policy: policy("limits", "^q", -3, definition),
        },
        SettingsCommand::PutParameter {
            component: "shovel".into(),
            vhost: "/".into(),
            name: name(),
            value: AMQPValue::FieldTable(args(&[("src-uri", long("amqp://"))])),
        },
        SettingsCommand::PutGlobal {
            name: "cluster_name".into(),
            value: long("hares"),
        },
        SettingsCommand::ClearTopicPermissions {
            user: "guest".into(),
            vhost: "/".into(),
            exchange: None,
        },
        SettingsCommand::DeletePolicy {
            scope: PolicyScope::Operator,
            vhost: "/".into(),
            name: "limits".into(),
        },
        SettingsCommand::DeleteParameter {
            component: "shovel".into(),
            vhost: "/".into(),
            name: name(),
        },
        SettingsCommand::DeleteGlobal {
            name: "cluster_name".into(),
        },
    ]
}

#[test]
fn every_settings_command_comes_back_from_its_bytes_and_its_work_from_a_snapshot() {
    let mut topology = open();
    for command in every_command() {
        let command = TopologyCommand::Settings(command);
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        assert_eq!(TopologyCommand::decode(&mut reader).unwrap(), command);
        assert!(reader.is_empty());
        for cut in 0..bytes.len() {
            assert!(TopologyCommand::decode(&mut Reader::new(&bytes[..cut])).is_err());
        }
        let before = topology.version();
        run(&mut topology, command).unwrap();
        assert!(topology.version() > before);
        assert_eq!(again(&topology).digest(), topology.digest());
    }
    assert_eq!(
        topology.vhost_settings("ü").unwrap().default_queue_type,
        "quorum"
    );
    assert_eq!(topology.user("guest").unwrap().max_channels, Some(-1));
}

/// What version 2 wrote: no settings, policies, parameters; a vhost and a user.
fn old_snapshot() -> Vec<u8> {
    let mut out = vec![2];
    out.put_varint(9);
    out.put_varint(1);
    out.put_varint(0);
    out.put_varint(0);
    out.put_u64_le(0);
    out.put_varint(0);
    out.put_varint(1);
    out.put_blob(b"/");
    out.put_blob(b"quorum");
    out.put_varint(0);
    out.put_varint(1);
    out.put_blob(b"guest");
    out.put_blob(hash_password(Hashing::Sha256, [1, 2, 3, 4], "secret").as_bytes());
    out.put_varint(1);
    out.put_blob(b"administrator");
    out.put_varint(1);
    for text in ["/", "^c", "^w", "^r"] {
        out.put_blob(text.as_bytes());
    }
    out.put_varint(0);
    out
}

#[test]
fn a_snapshot_of_the_version_before_is_still_read() {
    let mut topology = Topology::new();
    topology.restore(&old_snapshot()).unwrap();
    assert_eq!(
        topology.vhost_settings("/").unwrap().default_queue_type,
        "quorum"
    );
    let user = topology.authenticate("guest", "secret").unwrap();
    assert_eq!(user.permissions["/"].pattern(Permission::Write), "^w");
    assert_eq!(again(&topology).digest(), topology.digest());
}

#[test]
fn hashes_of_other_brokers_let_their_users_in() {
    // The password is "test12"; the sha256 one stands in RabbitMQ's documentation.
    let hashes = [
        (
            Hashing::Sha256,
            "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
        ),
        (
            Hashing::Sha512,
            "AQIDBEasi57qQmKrKS3hT/tToZQTSGe0aIxheFJPzONWfcZLALq7JlkjIrc4zKmzoCl2i5ligSzH2lxUTbywDEUALuc=",
        ),
        (Hashing::Md5, "AQIDBDeBuuH8ubD+6IsvjTP2It8="),
    ];
    let mut topology = open();
    for (hashing, hash) in hashes {
        assert!(hashing.is_hash(hash));
        let command = SettingsCommand::PutUser {
            name: "u".into(),
            password_hash: hash.into(),
            hashing,
            tags: Vec::new(),
        };
        set(&mut topology, command).unwrap();
        assert!(
            topology.authenticate("u", "test12").is_some(),
            "{hashing:?}"
        );
        assert!(
            topology.authenticate("u", "test13").is_none(),
            "{hashing:?}"
        );
    }
}

#[test]
fn the_highest_priority_that_matches_applies_to_what_is_there_and_what_comes() {
    let mut topology = open();
    declare(&mut topology, queue("q1", none())).unwrap();
    user_policy(
        &mut topology,
        policy("all", ".*", 0, args(&[("message-ttl", int(100))])),
    );
    user_policy(
        &mut topology,
        policy("some", "^q", 5, args(&[("max-length", int(9))])),
    );
    declare(&mut topology, queue("q2", none())).unwrap();
    declare(&mut topology, queue("other", none())).unwrap();
    for name in ["q1", "q2"] {
        let config = config(&topology, name);
        assert_eq!(
            (config.max_length, config.message_ttl),
            (Some(9), None),
            "{name}"
        );
    }
    assert_eq!(config(&topology, "other").message_ttl, Some(Millis(100)));
    let delete = SettingsCommand::DeletePolicy {
        scope: PolicyScope::User,
        vhost: "/".into(),
        name: "some".into(),
    };
    set(&mut topology, delete).unwrap();
    assert_eq!(config(&topology, "q1").message_ttl, Some(Millis(100)));
    assert_eq!(
        again(&topology)
            .queue("/", "q1")
            .unwrap()
            .effective
            .as_ref()
            .unwrap()
            .policy
            .as_deref(),
        Some("all")
    );
}

#[test]
fn numbers_are_the_least_of_argument_policy_and_operator_policy() {
    let mut topology = open();
    let declared = args(&[("x-max-length", int(50)), ("x-overflow", long("drop-head"))]);
    declare(&mut topology, queue("q", declared)).unwrap();
    let said = args(&[
        ("max-length", int(70)),
        ("message-ttl", int(900)),
        ("overflow", long("reject-publish")),
        ("dead-letter-exchange", long("dlx")),
    ]);
    user_policy(&mut topology, policy("p", "q", 0, said));
    let limits = args(&[
        ("max-length", int(60)),
        ("message-ttl", int(1000)),
        ("expires", int(5)),
    ]);
    put(
        &mut topology,
        PolicyScope::Operator,
        policy("o", "q", 0, limits),
    )
    .unwrap();
    let config = config(&topology, "q");
    assert_eq!(config.max_length, Some(50));
    assert_eq!(config.message_ttl, Some(Millis(900)));
    assert_eq!(config.expires, Some(Millis(5)));
    assert_eq!(
        config.overflow,
        Overflow::DropHead,
        "a classic queue's own argument wins"
    );
    assert!(config.dead_letters);
    let record = topology.queue("/", "q").unwrap();
    assert_eq!(record.dead_letter.as_ref().unwrap().exchange, "dlx");
    let effective = record.effective.as_ref().unwrap();
    assert_eq!(
        effective.definition.inner().get("max-length"),
        Some(&int(60))
    );
}

#[test]
fn quorum_queues_take_overflow_from_the_policy_and_the_stricter_delivery_limit() {
    let mut topology = open();
    let declared = args(&[
        ("x-queue-type", long("quorum")),
        ("x-overflow", long("drop-head")),
        ("x-delivery-limit", int(-1)),
    ]);
    declare(&mut topology, queue("q", declared)).unwrap();
    let said = args(&[
        ("overflow", long("reject-publish")),
        ("delivery-limit", int(4)),
    ]);
    user_policy(&mut topology, policy("p", "q", 0, said));
    let config = config(&topology, "q");
    assert_eq!(config.overflow, Overflow::RejectPublish);
    assert_eq!(config.delivery_limit, Some(4));
}

#[test]
fn a_policy_with_a_key_of_another_type_does_not_match_a_queue_at_all() {
    let mut topology = open();
    declare(&mut topology, queue("q", none())).unwrap();
    let said = args(&[("max-length", int(1)), ("delivery-limit", int(1))]);
    user_policy(&mut topology, policy("p", "q", 0, said));
    assert_eq!(topology.queue("/", "q").unwrap().effective, None);
}

#[test]
fn an_alternate_exchange_comes_from_a_policy_unless_it_was_declared() {
    let mut topology = open();
    let declared = args(&[("alternate-exchange", long("mine"))]);
    for exchange in [
        exchange("x1", "direct", none()),
        exchange("x2", "direct", declared),
    ] {
        run(&mut topology, TopologyCommand::DeclareExchange(exchange)).unwrap();
    }
    let said = args(&[("alternate-exchange", long("amq.fanout"))]);
    let ae = Policy {
        apply_to: ApplyTo::Exchanges,
        ..policy("ae", "^x", 0, said)
    };
    user_policy(&mut topology, ae);
    let of = |name| topology.exchange("/", name).unwrap().alternate.clone();
    assert_eq!(of("x1").as_deref(), Some("amq.fanout"));
    assert_eq!(of("x2").as_deref(), Some("mine"));
}

#[test]
fn what_a_policy_may_not_say_is_refused_in_rabbitmqs_words() {
    let cases = [
        (PolicyScope::User, none(), "no policy provided"),
        (
            PolicyScope::User,
            args(&[("message-ttl", long("x"))]),
            "<<\"x\">> is not a valid message TTL",
        ),
        (
            PolicyScope::User,
            args(&[("expires", int(0))]),
            "0 is not a valid queue expiry",
        ),
        (
            PolicyScope::User,
            args(&[("foo", int(1))]),
            "[{<<\"foo\">>,1}] are not recognised policy settings",
        ),
        (
            PolicyScope::Operator,
            args(&[("dead-letter-exchange", long("x"))]),
            "[{<<\"dead-letter-exchange\">>,<<\"x\">>}] are not recognised policy settings",
        ),
        (
            PolicyScope::User,
            args(&[("overflow", long("spill"))]),
            "<<\"spill\">> is not a valid overflow value",
        ),
        (
            PolicyScope::User,
            args(&[("max-age", long("3W"))]),
            "<<\"3W\">> is not a valid max age",
        ),
    ];
    let mut topology = open();
    for (scope, definition, words) in cases {
        let refused = put(&mut topology, scope, policy("p", ".*", 0, definition)).unwrap_err();
        assert_eq!(refused, format!("406 {words}"));
    }
    let broken = policy("p", "(", 0, args(&[("max-length", int(1))]));
    let refused = put(&mut topology, PolicyScope::User, broken).unwrap_err();
    assert!(refused.contains("regular expression"), "{refused}");
    assert_eq!(topology.policies(PolicyScope::User).count(), 0);
}

#[test]
fn patterns_may_look_ahead_and_a_costly_one_matches_nothing() {
    assert!(Pattern::new("^(?!amq\\.).*".into()).search("orders"));
    assert!(!Pattern::new("^(?!amq\\.).*".into()).search("amq.gen-1"));
    let costly = Pattern::new("^(?=(a|a)*b)(a|a)*c".into());
    assert!(!costly.search(&"a".repeat(64)));
}

#[test]
fn a_vhost_takes_as_many_queues_as_it_may_have() {
    let mut topology = open();
    let limit = |value| SettingsCommand::SetVhostLimit {
        vhost: "/".into(),
        limit: LimitKind::Queues,
        value,
    };
    set(&mut topology, limit(Some(1))).unwrap();
    declare(&mut topology, queue("a", none())).unwrap();
    declare(&mut topology, queue("a", none())).unwrap();
    let refused = declare(&mut topology, queue("b", none())).unwrap_err();
    assert_eq!(
        refused,
        "406 cannot declare queue 'b': queue limit in vhost '/' (1) is reached"
    );
    set(&mut topology, limit(None)).unwrap();
    declare(&mut topology, queue("b", none())).unwrap();
}

#[test]
fn topic_permissions_hold_for_topic_exchanges_that_have_some() {
    let mut topology = open();
    let rights = SettingsCommand::SetTopicPermissions {
        user: "guest".into(),
        vhost: "/".into(),
        exchange: "amq.topic".into(),
        write: "^{username}\\.".into(),
        read: "^pub".into(),
    };
    set(&mut topology, rights).unwrap();
    let check = |exchange, right, key: &str| {
        let keys = [key.as_bytes()];
        let checked = topology.check_topic("guest", "/", exchange, right, keys);
        checked.map_err(|error| error.text.to_string())
    };
    assert_eq!(check("amq.topic", Permission::Write, "guest.a"), Ok(()));
    assert_eq!(
        check("amq.topic", Permission::Write, "x.a").unwrap_err(),
        "write access to topic 'x.a' in exchange 'amq.topic' in vhost '/' refused for user 'guest'"
    );
    assert!(check("amq.topic", Permission::Read, "x").is_err());
    assert_eq!(check("amq.direct", Permission::Write, "x"), Ok(()));
}

#[test]
fn a_user_that_was_deleted_and_made_again_is_another_one() {
    let mut topology = open();
    let born = topology.user("guest").unwrap().born;
    let access = topology.access_version();
    run(
        &mut topology,
        TopologyCommand::DeleteUser {
            name: "guest".into(),
        },
    )
    .unwrap();
    let put = SettingsCommand::PutUser {
        name: "guest".into(),
        password_hash: String::new(),
        hashing: Hashing::Sha256,
        tags: Vec::new(),
    };
    topology.apply(META, TopologyCommand::Settings(put));
    assert_ne!(topology.user("guest").unwrap().born, born);
    assert_ne!(topology.access_version(), access);
}
