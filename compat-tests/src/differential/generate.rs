//! Random programs.
//!
//! Shape: a seed throws a theme (how likely each kind of step is, which arguments queues have), a beginning (a few
//! declarations and bindings) and some twenty steps. Nothing keeps a program legal; the pools of [`super::alphabet`] keep it
//! from being hopeless.
//! Invariants: the same seed gives the same program, whatever runs beside it.

use super::alphabet::{self, EXCHANGES, QUEUES, TYPES};
use super::dice::Dice;
use super::method::Method;
use super::program::{Act, Pick, Place, Program, Step, Verdict};
use super::value::Value;

struct Theme {
    quorum: bool,
    odd_arguments: bool,
    headers: bool,
    confirms: bool,
    transactions: bool,
    exclusive: bool,
    /// Queues that pass their dead letters on to the next one.
    dead_letters: bool,
    /// Parts of a hundred: topology, publishing, consuming, settling, modes, illegal.
    weights: [usize; 6],
}

const LEAST_STEPS: usize = 8;
const MORE_STEPS: usize = 24;
const BIG_BODY_BYTES: usize = 300_000;

/// The program of a seed.
#[must_use]
pub fn program(seed: u64) -> Program {
    let mut dice = Dice::new(seed);
    let theme = theme(&mut dice);
    let mut program = beginning(&mut dice, &theme);
    for _ in 0..LEAST_STEPS + dice.below(MORE_STEPS) {
        let place = place(&mut dice);
        let number = program.len();
        step(&mut dice, &theme, place, number, &mut program);
    }
    avoid(&mut program);
    program
}

/// Takes out what [`super::known::AVOIDED`] names and only the whole program shows.
fn avoid(program: &mut Program) {
    let type_of = |method: &Method| {
        if method.name() != "queue.declare" {
            return None;
        }
        let mut arguments = method.table_of("arguments").iter();
        let found = arguments.find(|(name, _)| name == "x-queue-type");
        found.map(|(_, value)| value.clone())
    };
    let is_quorum = |step: &Step| match &step.act {
        Act::Call(method) => type_of(method) == Some(Value::Text("quorum".into())),
        _ => false,
    };
    let any_quorum = program.iter().any(is_quorum);
    for step in program {
        match &mut step.act {
            Act::Publish(_, properties, _) if any_quorum => properties.unset("priority"),
            Act::Call(method)
                if type_of(method).is_some() && method.text_of("queue").is_empty() =>
            {
                *method = method.clone().text("queue", QUEUES[0]);
            }
            _ => {}
        }
    }
}

fn theme(dice: &mut Dice) -> Theme {
    let weights = dice.pick(&[
        [20, 35, 22, 20, 2, 1],
        [50, 25, 12, 10, 2, 1],
        [10, 40, 20, 27, 3, 0],
        [25, 30, 20, 15, 8, 2],
        [30, 20, 20, 12, 10, 8],
        [8, 30, 36, 24, 2, 0],
    ]);
    Theme {
        quorum: dice.chance(12),
        odd_arguments: dice.chance(25),
        headers: dice.chance(30),
        confirms: dice.chance(40),
        transactions: dice.chance(15),
        exclusive: dice.chance(15),
        dead_letters: dice.chance(30),
        weights,
    }
}

fn place(dice: &mut Dice) -> Place {
    Place {
        link: usize::from(dice.chance(25)),
        channel: if dice.chance(25) { 2 } else { 1 },
    }
}

fn beginning(dice: &mut Dice, theme: &Theme) -> Program {
    let mut program = Program::new();
    let at = Place {
        link: 0,
        channel: 1,
    };
    for name in &EXCHANGES[..dice.below(3)] {
        let declare = exchange_declare(dice)
            .text("exchange", name)
            .bit("passive", false);
        program.push(call(at, declare.bit("no-wait", false)));
    }
    for name in &QUEUES[..1 + dice.below(2)] {
        let declare = queue_declare(dice, theme)
            .text("queue", name)
            .bit("passive", false);
        program.push(call(at, declare));
    }
    for _ in 0..dice.below(3) {
        program.push(call(at, bind(dice)));
    }
    if theme.confirms {
        program.push(call(at, Method::new("confirm.select")));
    }
    if theme.transactions {
        program.push(call(place(dice), Method::new("tx.select")));
    }
    program
}

const fn call(place: Place, method: Method) -> Step {
    Step {
        place,
        act: Act::Call(method),
    }
}

fn step(dice: &mut Dice, theme: &Theme, place: Place, number: usize, out: &mut Program) {
    let mut throw = dice.below(theme.weights.iter().sum());
    let kind = theme
        .weights
        .iter()
        .position(|weight| {
            let here = throw < *weight;
            throw = throw.wrapping_sub(*weight);
            here
        })
        .expect("a throw below the sum");
    match kind {
        0 => out.push(call(place, topology(dice, theme))),
        1 => publish(dice, theme, place, number, out),
        2 => out.push(call(place, consuming(dice))),
        3 => out.push(Step {
            place,
            act: settle(dice),
        }),
        4 => out.push(Step {
            place,
            act: modes(dice, theme),
        }),
        _ => out.push(illegal(dice, place)),
    }
}

fn topology(dice: &mut Dice, theme: &Theme) -> Method {
    match dice.below(100) {
        0..28 => queue_declare(dice, theme),
        28..45 => exchange_declare(dice),
        45..62 => bind(dice),
        62..70 => Method::new("queue.unbind")
            .text("queue", &alphabet::queue(dice))
            .text("exchange", &alphabet::exchange(dice))
            .text("key", &alphabet::pattern(dice)),
        70..77 => exchange_binding(dice, "exchange.bind"),
        77..80 => exchange_binding(dice, "exchange.unbind"),
        80..86 => Method::new("queue.purge")
            .text("queue", &alphabet::queue(dice))
            .bit("no-wait", dice.chance(10)),
        86..94 => Method::new("queue.delete")
            .text("queue", &alphabet::queue(dice))
            .bit("if-unused", !theme.quorum && dice.chance(30))
            .bit("if-empty", !theme.quorum && dice.chance(30))
            .bit("no-wait", dice.chance(10)),
        _ => Method::new("exchange.delete")
            .text("exchange", &alphabet::exchange(dice))
            .bit("if-unused", dice.chance(50))
            .bit("no-wait", dice.chance(10)),
    }
}

fn queue_declare(dice: &mut Dice, theme: &Theme) -> Method {
    let name = if dice.chance(4) {
        String::new()
    } else {
        alphabet::queue(dice)
    };
    let quorum = theme.quorum && dice.chance(80);
    let mut arguments = alphabet::queue_arguments(dice, quorum, theme.odd_arguments);
    if theme.dead_letters && dice.chance(70) {
        alphabet::add_dead_letters(dice, &mut arguments);
    }
    Method::new("queue.declare")
        .text("queue", &name)
        .bit("passive", dice.chance(12))
        .bit("durable", quorum || dice.chance(50))
        .bit(
            "exclusive",
            dice.chance(if quorum {
                2
            } else if theme.exclusive {
                50
            } else {
                5
            }),
        )
        .bit("auto-delete", dice.chance(if quorum { 2 } else { 15 }))
        .bit("no-wait", dice.chance(5))
        .table("arguments", arguments)
}

fn exchange_declare(dice: &mut Dice) -> Method {
    let kind = match dice.below(100) {
        0..96 => dice.pick(TYPES),
        96 | 97 => "x-none",
        98 => "",
        _ => "Direct",
    };
    Method::new("exchange.declare")
        .text("exchange", &alphabet::exchange(dice))
        .text("type", kind)
        .bit("passive", dice.chance(10))
        .bit("durable", dice.chance(40))
        .bit("auto-delete", dice.chance(15))
        .bit("internal", dice.chance(8))
        .bit("no-wait", dice.chance(5))
        .table("arguments", alphabet::exchange_arguments(dice))
}

fn bind(dice: &mut Dice) -> Method {
    let arguments = if dice.chance(45) {
        alphabet::binding_arguments(dice)
    } else {
        Vec::new()
    };
    Method::new("queue.bind")
        .text("queue", &alphabet::queue(dice))
        .text("exchange", &alphabet::exchange(dice))
        .text("key", &alphabet::pattern(dice))
        .bit("no-wait", dice.chance(4))
        .table("arguments", arguments)
}

fn exchange_binding(dice: &mut Dice, name: &str) -> Method {
    let (mut destination, source) = (alphabet::exchange(dice), alphabet::exchange(dice));
    // Exchanges that are always there are shared by all programs; a binding between two of them would stay.
    if destination.starts_with("amq.") && source.starts_with("amq.") {
        destination = "~e0".into();
    }
    let arguments = if dice.chance(30) {
        alphabet::binding_arguments(dice)
    } else {
        Vec::new()
    };
    Method::new(name)
        .text("destination", &destination)
        .text("source", &source)
        .text("key", &alphabet::pattern(dice))
        .table("arguments", arguments)
}

fn publish(dice: &mut Dice, theme: &Theme, place: Place, number: usize, out: &mut Program) {
    let (exchange, key) = if dice.chance(3) {
        (String::new(), "<r0>".to_owned())
    } else if dice.chance(55) {
        (String::new(), alphabet::queue(dice))
    } else {
        (alphabet::exchange(dice), alphabet::key(dice))
    };
    let properties = alphabet::properties(dice, theme.headers);
    let method = Method::new("basic.publish")
        .text("exchange", &exchange)
        .text("key", &key)
        .bit("mandatory", dice.chance(25));
    let mut body = format!("m{number}").into_bytes();
    match dice.below(100) {
        0 => body.resize(BIG_BODY_BYTES, b'.'),
        1..4 => body.clear(),
        4..8 => body.extend(b"-longer"),
        _ => {}
    }
    out.push(Step {
        place,
        act: Act::Publish(method, properties, body),
    });
    if dice.chance(5) {
        out.push(Step {
            place,
            act: Act::Wait(40),
        });
    }
}

fn consuming(dice: &mut Dice) -> Method {
    match dice.below(100) {
        0..45 => Method::new("basic.get")
            .text("queue", &alphabet::queue(dice))
            .bit("no-ack", dice.chance(35)),
        45..82 => Method::new("basic.consume")
            .text("queue", &alphabet::queue(dice))
            .text("consumer", &alphabet::tag(dice))
            .bit("no-local", dice.chance(5))
            .bit("no-ack", dice.chance(30))
            .bit("exclusive", dice.chance(12))
            .table("arguments", alphabet::consumer_arguments(dice)),
        82..85 => Method::new("basic.consume")
            .text("queue", "amq.rabbitmq.reply-to")
            .bit("no-ack", dice.chance(85)),
        85..94 => {
            let tag = if dice.chance(10) {
                "<t0>".into()
            } else {
                alphabet::tag(dice)
            };
            Method::new("basic.cancel")
                .text("consumer", &tag)
                .bit("no-wait", dice.chance(10))
        }
        _ => Method::new("basic.qos")
            .num("count", dice.pick(&[0, 1, 1, 2, 3]))
            .bit("global", dice.chance(25)),
    }
}

fn settle(dice: &mut Dice) -> Act {
    if dice.chance(8) {
        let name = if dice.chance(70) {
            "basic.recover"
        } else {
            "basic.recover-async"
        };
        return Act::Call(Method::new(name).bit("requeue", dice.chance(97)));
    }
    let verdict = match dice.below(10) {
        0..4 => Verdict::Ack,
        4..7 => Verdict::Nack(dice.chance(50)),
        _ => Verdict::Reject(dice.chance(50)),
    };
    let pick = match dice.below(100) {
        0..90 => Pick::Held(dice.below(6)),
        90..93 => Pick::Settled,
        93..95 => Pick::Unknown,
        _ => Pick::Zero,
    };
    Act::Settle(verdict, pick, dice.chance(30))
}

fn modes(dice: &mut Dice, theme: &Theme) -> Act {
    if theme.transactions && dice.chance(70) {
        let name = dice.pick(&["tx.commit", "tx.commit", "tx.rollback", "tx.select"]);
        return Act::Call(Method::new(name));
    }
    match dice.below(12) {
        0..3 => Act::Call(Method::new("confirm.select").bit("no-wait", dice.chance(20))),
        3 => Act::Call(Method::new("tx.select")),
        4 => Act::Call(Method::new("tx.commit")),
        5..8 => Act::Call(Method::new("channel.close").num("code", 200)),
        8 => Act::CloseLink,
        9 => Act::DropLink,
        10 => Act::Call(Method::new("channel.flow").bit("active", true)),
        _ => Act::Call(Method::new("access.request").text("realm", "/data")),
    }
}

/// What a client should not do.
fn illegal(dice: &mut Dice, place: Place) -> Step {
    let method = match dice.below(14) {
        0 => Method::new("channel.open"),
        1 => Method::new("channel.flow"),
        2 => Method::new("basic.qos").num("size", 1),
        3 => {
            let method = Method::new("basic.publish").bit("immediate", true);
            let act = Act::Publish(method, alphabet::properties(dice, false), b"now".to_vec());
            return Step { place, act };
        }
        4 => Method::new("connection.open").text("vhost", "/"),
        5 => Method::new("channel.open-ok"),
        6 => Method::new("basic.consume-ok").text("consumer", "~c0"),
        7 => Method::new("queue.declare-ok").text("queue", "~q0"),
        8 => Method::new("connection.tune-ok"),
        9 => Method::new("basic.get-empty"),
        10 => Method::new("connection.update-secret").text("secret", "s"),
        11 => Method::new("channel.flow-ok").bit("active", true),
        12 => Method::new("connection.close-ok"),
        _ => Method::new("basic.ack").num("tag", 1),
    };
    let on_zero = method.name().starts_with("connection.") == dice.chance(80);
    let place = if on_zero {
        Place {
            channel: 0,
            ..place
        }
    } else {
        place
    };
    call(place, method)
}
