//! Random programs on Leveret and on RabbitMQ, everything compared. See docs/testing.md for the command.
//!
//! Not part of the default run: it needs a RabbitMQ, and says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::TcpStream;

use compat_tests::differential::client::Address;
use compat_tests::differential::lockstep::{Pair, run, shrunk};
use compat_tests::differential::method::Method;
use compat_tests::differential::oracle::Oracle;
use compat_tests::differential::program::{Act, Place, Step};
use compat_tests::differential::value::Value;
use compat_tests::differential::{compare, framing, generate, program};
use compat_tests::{Broker, env_number};

const VHOSTS: u64 = 4;

/// Both brokers with the same virtual hosts, or `None` with the reason printed.
fn brokers() -> Option<(Oracle, Broker, Vec<Pair>)> {
    if env_number("COMPAT_DIFFERENTIAL_PROGRAMS", 0) == 0 {
        println!(
            "skipped: COMPAT_DIFFERENTIAL_PROGRAMS says how many programs to compare with RabbitMQ; it is not set"
        );
        return None;
    }
    let vhosts = usize::try_from(env_number("COMPAT_DIFFERENTIAL_WORKERS", VHOSTS)).unwrap();
    let oracle = match Oracle::find(vhosts) {
        Ok(oracle) => oracle,
        Err(why) => {
            println!("skipped: no RabbitMQ to compare with: {why}");
            return None;
        }
    };
    let broker = Broker::start();
    let mut pairs = Vec::new();
    for theirs in oracle.addresses().iter().take(vhosts) {
        let ours = Address {
            socket: format!("127.0.0.1:{}", broker.amqp_port()),
            user: "guest".into(),
            password: "guest".into(),
            vhost: theirs.vhost.clone(),
        };
        make_vhost(&broker, &ours.vhost);
        pairs.push(Pair {
            oracle: theirs.clone(),
            ours,
        });
    }
    Some((oracle, broker, pairs))
}

fn make_vhost(broker: &Broker, name: &str) {
    let name = name.replace('/', "%2f");
    put(broker, &format!("/api/vhosts/{name}"), "{}");
    let all = r#"{"configure":".*","write":".*","read":".*"}"#;
    put(broker, &format!("/api/permissions/{name}/guest"), all);
}

fn put(broker: &Broker, path: &str, body: &str) {
    let url = broker.management_url();
    let host = url.trim_start_matches("http://");
    let mut socket = TcpStream::connect(host).unwrap();
    let request = format!(
        "PUT {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 2"), "{path}: {answer}");
}

#[test]
fn random_programs_show_the_same_on_rabbitmq() {
    let Some((_oracle, _broker, pairs)) = brokers() else {
        return;
    };
    let first = env_number("COMPAT_DIFFERENTIAL_SEED", 1);
    let count = env_number("COMPAT_DIFFERENTIAL_PROGRAMS", 0);
    println!("seeds {first} to {}", first + count - 1);
    if count == 1 {
        println!("{}", program::text(&generate::program(first)));
    }
    let report = compare(&pairs, first, count);
    println!("{report}");
    assert!(report.kinds.is_empty(), "there are differences; see above");
}

#[test]
fn broken_frames_are_answered_as_by_rabbitmq() {
    let Some((_oracle, _broker, pairs)) = brokers() else {
        return;
    };
    let mut differences = 0;
    for case in framing::CASES {
        let theirs = framing::words(&pairs[0].oracle, case).unwrap();
        let ours = framing::words(&pairs[0].ours, case).unwrap();
        match case.differs {
            Some(why) => println!("{}: {theirs:?} | {ours:?}: {why}", case.name),
            None if theirs == ours => {}
            None => {
                differences += 1;
                println!("{}:\n  oracle {theirs:?}\n  ours   {ours:?}", case.name);
            }
        }
    }
    assert_eq!(
        differences,
        0,
        "of {} cases; see above",
        framing::CASES.len()
    );
}

#[test]
fn a_seed_always_gives_the_same_program() {
    let text = |seed| program::text(&generate::program(seed));
    assert_eq!(text(7), text(7));
    assert_ne!(text(7), text(8));
}

#[test]
fn a_difference_is_found_and_shrunk_to_its_step() {
    let Some((_oracle, _broker, pairs)) = brokers() else {
        return;
    };
    let place = Place {
        link: 0,
        channel: 1,
    };
    let declare = |name: &str| Method::new("queue.declare").text("queue", name);
    // Only Leveret knows this argument, and refuses the value.
    let argument = ("x-visibility-timeout".to_owned(), Value::I32(1));
    let own = declare("~q1").table("arguments", vec![argument]);
    let program: Vec<Step> = [declare("~q0"), own, declare("~q2")]
        .map(|method| Step {
            place,
            act: Act::Call(method),
        })
        .into();
    let found = run(&pairs[0], &program).unwrap().expect("a difference");
    assert_eq!(found.step, 1);
    let (smaller, _) = shrunk(&pairs[0], &program, found).unwrap();
    assert_eq!(smaller.len(), 1);
    assert!(smaller[0].to_string().contains("x-visibility-timeout"));
}
