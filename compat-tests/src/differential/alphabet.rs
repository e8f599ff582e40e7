//! What programs are made of: names, keys, arguments, properties.
//!
//! Shape: small pools, so that steps meet: the same few queues, exchanges, keys and values come again and again. Each pool
//! holds the legal, the illegal and the odd.

use super::dice::Dice;
use super::method::Properties;
use super::value::{Arg, Table, Value};

/// Names of exchanges that programs declare.
pub const EXCHANGES: &[&str] = &["~e0", "~e1", "~e2"];
/// Names of queues that programs declare.
pub const QUEUES: &[&str] = &["~q0", "~q1", "~q2"];
/// Types of exchanges.
pub const TYPES: &[&str] = &["direct", "fanout", "topic", "headers"];

const KEYS: &[&str] = &[
    "a", "a.b", "a.b.c", "b", "", "a..b", ".", "a.b.", "~q0", "~q1",
];
const PATTERNS: &[&str] = &[
    "#", "*", "a.*", "*.b", "a.#", "#.b", "#.#", "*.*", "a.#.c", "", "a*", "*.#", "a.b", "a",
    "#.a.#", "*.", "~q0",
];

/// A queue's name.
pub fn queue(dice: &mut Dice) -> String {
    let name = match dice.below(100) {
        0..88 => QUEUES[dice.below(QUEUES.len())],
        88..92 => "",
        92..95 => "<g0>",
        95..97 => "~none",
        97 => "~q0\r\n",
        _ => "amq.none",
    };
    name.into()
}

/// The name of an exchange.
pub fn exchange(dice: &mut Dice) -> String {
    let name = match dice.below(100) {
        0..75 => EXCHANGES[dice.below(EXCHANGES.len())],
        75..92 => dice.pick(&[
            "amq.direct",
            "amq.fanout",
            "amq.topic",
            "amq.headers",
            "amq.match",
        ]),
        92..95 => "",
        95..98 => "~none",
        98 => "amq.none",
        _ => "amq.rabbitmq.trace",
    };
    name.into()
}

/// A routing key.
pub fn key(dice: &mut Dice) -> String {
    dice.pick(KEYS).into()
}

/// The key of a binding.
pub fn pattern(dice: &mut Dice) -> String {
    let pool = if dice.chance(60) { PATTERNS } else { KEYS };
    dice.pick(pool).into()
}

/// The tag of a consumer.
pub fn tag(dice: &mut Dice) -> String {
    (dice.pick(&["~c0", "~c1", "~c2", "~c0", ""])).into()
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

/// A value of any kind, out of a few of each.
pub fn value(dice: &mut Dice) -> Value {
    match dice.below(24) {
        0 => Value::Bool(dice.chance(50)),
        1 => Value::I8(1),
        2 => Value::U8(1),
        3 => Value::I16(-1),
        4 => Value::U16(1),
        5..7 => Value::I32(1),
        7 => Value::U32(1),
        8 => Value::I64(dice.pick(&[1, -1, i64::MAX])),
        9 => Value::F32(1.0),
        10 => Value::F64(1.0),
        11 => Value::Decimal(0, 1),
        12..17 => text(dice.pick(&["1", "a", "", "ü"])),
        17 => Value::Bytes(b"a".to_vec()),
        18 => Value::Table(vec![("in".into(), text("a"))]),
        19 => Value::Array(vec![text("a"), Value::I32(1)]),
        _ => Value::Void,
    }
}

const HEADERS: &[&str] = &["h0", "h1", "x-h", "h2"];

fn headers(dice: &mut Dice) -> Table {
    let mut table = Table::new();
    for _ in 0..dice.below(4) {
        table.push(((dice.pick(HEADERS)).into(), value(dice)));
    }
    if dice.chance(12) {
        let keys = (0..dice.below(3)).map(|_| text(&key(dice))).collect();
        let name = dice.pick(&["CC", "BCC"]);
        table.push((name.into(), Value::Array(keys)));
    }
    if dice.chance(3) {
        let name = dice.pick(&["CC", "BCC"]);
        table.push((name.into(), value(dice)));
    }
    if dice.chance(2) {
        table.push(("x-death".into(), value(dice)));
    }
    table
}

/// What a binding to a headers exchange asks for.
pub fn binding_arguments(dice: &mut Dice) -> Table {
    let mut table = Table::new();
    if dice.chance(70) {
        let how = dice.pick(&[
            "all",
            "any",
            "all-with-x",
            "any-with-x",
            "all",
            "any",
            "some",
        ]);
        table.push(("x-match".into(), text(how)));
    } else if dice.chance(5) {
        table.push(("x-match".into(), value(dice)));
    }
    for name in HEADERS {
        if dice.chance(35) {
            table.push(((*name).into(), value(dice)));
        }
    }
    table
}

/// The properties of a message.
pub fn properties(dice: &mut Dice, headers_likely: bool) -> Properties {
    let mut properties = Properties::default();
    if dice.chance(if headers_likely { 90 } else { 30 }) {
        properties.set("headers", Arg::Table(headers(dice)));
    }
    if dice.chance(40) {
        let mode = dice.pick(&[1, 2, 2, 2, 0, 3]);
        properties.set("delivery-mode", Arg::Num(mode));
    }
    if dice.chance(25) {
        let priority = dice.pick(&[0, 1, 2, 5, 9, 255]);
        properties.set("priority", Arg::Num(priority));
    }
    for (name, texts) in [
        ("content-type", &["text/plain", ""][..]),
        ("content-encoding", &["utf-8"]),
        ("correlation-id", &["7"]),
        (
            "reply-to",
            &["~q0", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to"],
        ),
        ("message-id", &["m"]),
        ("type", &["t"]),
        ("app-id", &["app"]),
        ("cluster-id", &["c"]),
    ] {
        if dice.chance(4) {
            properties.set(name, Arg::Text((dice.pick(texts)).into()));
        }
    }
    if dice.chance(4) {
        properties.set("timestamp", Arg::Num(1_700_000_000));
    }
    if dice.chance(3) {
        properties.set(
            "user-id",
            Arg::Text((dice.pick(&["guest", "guest", "other", ""])).into()),
        );
    }
    if dice.chance(10) {
        let expirations = [
            "0",
            "3600000",
            "3600000",
            "10",
            "",
            "-1",
            "x",
            "10ms",
            "1.5",
            "315360000001",
            " 1",
        ];
        properties.set("expiration", Arg::Text((dice.pick(&expirations)).into()));
    }
    properties
}

/// Arguments of a queue, by what the program is about.
pub fn queue_arguments(dice: &mut Dice, quorum: bool, odd: bool) -> Table {
    let mut table = Table::new();
    if quorum {
        table.push(("x-queue-type".into(), text("quorum")));
    } else if dice.chance(8) {
        table.push(("x-queue-type".into(), text("classic")));
    }
    let count = dice.pick(&[0, 0, 1, 1, 2, 2, 3]);
    for _ in 0..count {
        let (name, value) = argument(dice, quorum, odd);
        if table.iter().all(|(other, _)| *other != name) {
            let needs_exchange = name == "x-dead-letter-routing-key" && !dice.chance(10);
            table.push((name, value));
            if needs_exchange
                && table
                    .iter()
                    .all(|(other, _)| other != "x-dead-letter-exchange")
            {
                table.push((
                    "x-dead-letter-exchange".into(),
                    text(dice.pick(&["", "~e0"])),
                ));
            }
        }
    }
    table
}

/// Makes a queue's dead letters go on to another queue.
pub fn add_dead_letters(dice: &mut Dice, table: &mut Table) {
    table.retain(|(name, _)| !name.starts_with("x-dead-letter"));
    let exchange = dice.pick(&["", "", "amq.fanout", "~e0"]);
    table.push(("x-dead-letter-exchange".into(), text(exchange)));
    if dice.chance(80) {
        let key = dice.pick(&["~q0", "~q1", "~q2"]);
        table.push(("x-dead-letter-routing-key".into(), text(key)));
    }
}

fn argument(dice: &mut Dice, quorum: bool, odd: bool) -> (String, Value) {
    if odd && dice.chance(50) {
        return odd_argument(dice);
    }
    let small = |dice: &mut Dice, from: &[i32]| {
        let number = dice.pick(from);
        match dice.below(8) {
            0 => Value::I64(number.into()),
            1 => Value::I16(i16::try_from(number).unwrap_or(7)),
            _ => Value::I32(number),
        }
    };
    let (name, value) = match dice.below(if quorum { 9 } else { 10 }) {
        0 => ("x-message-ttl", small(dice, &[3_600_000, 0, 10])),
        1 => ("x-expires", Value::I32(3_600_000)),
        2 | 3 => ("x-max-length", small(dice, &[0, 1, 2, 3])),
        4 => ("x-max-length-bytes", small(dice, &[0, 4, 9])),
        5 => {
            let kinds = [
                "drop-head",
                "reject-publish",
                "reject-publish",
                "reject-publish-dlx",
            ];
            let kinds = if quorum { &kinds[..1] } else { &kinds[..] };
            ("x-overflow", text(dice.pick(kinds)))
        }
        6 => (
            "x-dead-letter-exchange",
            text(dice.pick(&["", "~e0", "~e1", "amq.fanout", "~none"])),
        ),
        7 => (
            "x-dead-letter-routing-key",
            text(dice.pick(&["~q0", "~q1", "~q2", "a.b"])),
        ),
        8 => ("x-single-active-consumer", Value::Bool(dice.chance(80))),
        _ => ("x-max-priority", small(dice, &[1, 5, 10, 0, 255])),
    };
    (name.into(), value)
}

/// Arguments that are refused, or that look as if they should be.
fn odd_argument(dice: &mut Dice) -> (String, Value) {
    const NAMES: &[&str] = &[
        "x-message-ttl",
        "x-expires",
        "x-max-length",
        "x-max-length-bytes",
        "x-overflow",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-dead-letter-strategy",
        "x-max-priority",
        "x-single-active-consumer",
        "x-queue-type",
        "x-queue-leader-locator",
        "x-quorum-initial-group-size",
        "x-delivery-limit",
        "x-max-in-memory-length",
        "x-initial-cluster-size",
        "x-max-age",
        "x-stream-max-segment-size-bytes",
        "x-unknown",
        "alternate-exchange",
    ];
    let name = dice.pick(NAMES);
    let value = match dice.below(12) {
        0 => Value::I32(-1),
        1 => Value::I32(0),
        2 => Value::I64(315_360_000_001),
        3 => Value::I32(256),
        4 => text("drop-head"),
        5 => text("quorum"),
        6 => text("balanced"),
        7 => text("at-least-once"),
        8 => Value::LARGEST,
        _ => value(dice),
    };
    if name == "x-queue-type" && value == text("") {
        return (name.into(), text("none"));
    }
    (name.into(), value)
}

impl Value {
    /// The largest number a signed long holds.
    const LARGEST: Self = Self::I64(i64::MAX);
}

/// Arguments of a consumer.
pub fn consumer_arguments(dice: &mut Dice) -> Table {
    if !dice.chance(20) {
        return Table::new();
    }
    let value = match dice.below(8) {
        0 => value(dice),
        1 => Value::I32(-1),
        2 => Value::I64(10),
        _ => Value::I32(dice.pick(&[0, 1, 5])),
    };
    let name = dice.pick(&[
        "x-priority",
        "x-priority",
        "x-priority",
        "x-unknown",
        "x-cancel-on-ha-failover",
    ]);
    vec![(name.into(), value)]
}

/// Arguments of an exchange.
pub fn exchange_arguments(dice: &mut Dice) -> Table {
    match dice.below(100) {
        0..20 => vec![(
            "alternate-exchange".into(),
            text(dice.pick(&["~e0", "~e1", "~e2", "~none", "amq.fanout"])),
        )],
        20..23 => vec![("alternate-exchange".into(), value(dice))],
        23..26 => vec![("x-unknown".into(), value(dice))],
        _ => Table::new(),
    }
}
