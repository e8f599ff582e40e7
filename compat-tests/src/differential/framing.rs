//! Fixed programs: bytes that are no AMQP, and contents out of order.
//!
//! Need: random programs are well-formed; what a broker says to broken frames is looked up here, row by row.
//! Shape: [`CASES`] has a name, bytes by a function, and whether a channel is opened first. The broker's words are what is
//! compared: methods, or the end of the socket.

use std::time::Duration;

use super::client::{Address, Client, Incoming, frame};
use super::known;
use super::method::{Method, Properties};

/// A fixed program.
pub struct Case {
    /// What is wrong.
    pub name: &'static str,
    bytes: fn() -> Vec<u8>,
    /// Why only this broker's own answer is right, when the oracle's is not to be followed.
    pub differs: Option<&'static str>,
}

const fn case(name: &'static str, bytes: fn() -> Vec<u8>) -> Case {
    Case {
        name,
        bytes,
        differs: None,
    }
}

const fn differs(name: &'static str, bytes: fn() -> Vec<u8>, why: &'static str) -> Case {
    Case {
        name,
        bytes,
        differs: Some(why),
    }
}

const FRAME_MAX: usize = 131_072;

fn framed(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame(kind, channel, payload, &mut out);
    out
}

fn method(channel: u16, method: &Method) -> Vec<u8> {
    framed(1, channel, &method.payload())
}

fn publish() -> Vec<u8> {
    method(1, &Method::new("basic.publish").text("key", "~none"))
}

fn header(size: u64) -> Vec<u8> {
    framed(2, 1, &Properties::default().payload(size))
}

fn joined(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

fn header_with(class: u16, weight: u16) -> Vec<u8> {
    let mut payload = Properties::default().payload(0);
    payload[..2].copy_from_slice(&class.to_be_bytes());
    payload[2..4].copy_from_slice(&weight.to_be_bytes());
    framed(2, 1, &payload)
}

fn declare_with_name(name: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 50, 0, 10, 0, 0];
    payload.push(u8::try_from(name.len()).expect("a short name"));
    payload.extend(name);
    payload.extend([0, 0, 0, 0, 0]);
    framed(1, 1, &payload)
}

/// Why the answer to the sync behind a case may come before its error.
const CHANNEL_IS_LATE: &str =
    "RabbitMQ's channel finds the fault while its reader goes on with what is behind";

/// Every fixed program. A channel 1 is open before each.
pub const CASES: &[Case] = &[
    case("a frame one byte over the limit with its tolerance", || {
        framed(3, 1, &vec![0; FRAME_MAX + 1])
    }),
    case(
        "a body frame of frame_max bytes, eight more than agreed",
        || {
            joined(&[
                publish(),
                header(FRAME_MAX as u64),
                framed(3, 1, &vec![0; FRAME_MAX]),
            ])
        },
    ),
    case("a frame with another end", || {
        let mut bytes = method(1, &Method::new("channel.flow").bit("active", true));
        if let Some(end) = bytes.last_mut() {
            *end = 0;
        }
        bytes
    }),
    case("a frame of type 4", || framed(4, 1, b"what")),
    case("a frame of type 0", || {
        framed(0, 1, b"what is this and why is it here")
    }),
    case("a method frame of three bytes", || {
        framed(1, 1, &[0, 60, 0])
    }),
    case("an empty method frame", || framed(1, 1, b"")),
    case("a content header of eleven bytes", || {
        joined(&[publish(), framed(2, 1, &[0; 11])])
    }),
    case("a heartbeat with a payload", || framed(8, 0, b"x")),
    case("a heartbeat on a channel", || framed(8, 1, b"")),
    case("a heartbeat, and then nothing wrong", || framed(8, 0, b"")),
    case("a content header on channel 0", || {
        framed(2, 0, &Properties::default().payload(0))
    }),
    case("a body on channel 0", || framed(3, 0, b"body")),
    case("a content header where a method is due", || header(0)),
    case("a body where a method is due", || framed(3, 1, b"body")),
    case("a method where a content header is due", || {
        joined(&[publish(), method(1, &Method::new("basic.qos"))])
    }),
    case("a body where a content header is due", || {
        joined(&[publish(), framed(3, 1, b"body")])
    }),
    case("a content header with a weight", || {
        joined(&[publish(), header_with(60, 1)])
    }),
    case("a content header of another class", || {
        joined(&[publish(), header_with(50, 0)])
    }),
    case("a method where a body is due", || {
        joined(&[publish(), header(4), method(1, &Method::new("basic.qos"))])
    }),
    case("a content header where a body is due", || {
        joined(&[publish(), header(4), header(4)])
    }),
    differs(
        "a body longer than it said",
        || joined(&[publish(), header(4), framed(3, 1, b"longer")]),
        "501 since 4.3",
    ),
    case("a body in three frames, one of them empty", || {
        joined(&[
            publish(),
            header(4),
            framed(3, 1, b"bo"),
            framed(3, 1, b""),
            framed(3, 1, b"dy"),
        ])
    }),
    differs(
        "a body size above 512 MiB",
        || joined(&[publish(), header(536_870_913)]),
        "501 at the header since 4.3; later and other words before",
    ),
    differs(
        "a body size of 2^63",
        || joined(&[publish(), header(1 << 63)]),
        "501 at the header since 4.3; later and other words before",
    ),
    case("a message above the configured size", || {
        let size = 16_777_217_usize;
        let mut bytes = joined(&[publish(), header(size as u64)]);
        for part in vec![b'.'; size].chunks(FRAME_MAX - 8) {
            bytes.extend(framed(3, 1, part));
        }
        bytes
    }),
    case("arguments that end too early", || {
        framed(1, 1, &[0, 50, 0, 10, 0, 0])
    }),
    case("bytes behind the arguments", || {
        let mut payload = Method::new("basic.qos").payload();
        payload.push(0);
        framed(1, 1, &payload)
    }),
    case("a queue's name that is not UTF-8", || {
        declare_with_name(&[0xFF, 0xFE])
    }),
    case("a routing key that is not UTF-8", || {
        let mut payload = vec![0, 60, 0, 40, 0, 0, 0, 2, 0xFF, 0xFE, 0];
        let header = Properties::default().payload(0);
        let mut bytes = framed(1, 1, &payload);
        payload.clear();
        bytes.extend(framed(2, 1, &header));
        bytes
    }),
    differs(
        "an unknown class",
        || framed(1, 1, &[0, 99, 0, 10]),
        "RabbitMQ's reader crashes and the socket drops; 503 here",
    ),
    differs(
        "an unknown method",
        || framed(1, 1, &[0, 60, 0, 99]),
        "RabbitMQ's reader crashes and the socket drops; 503 here",
    ),
    differs(
        "an unknown tag in a table",
        || {
            let mut payload = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
            payload.extend([0, 0, 0, 3, 1, b'k', b'?']);
            framed(1, 1, &payload)
        },
        "RabbitMQ's channel crashes and the socket drops; 501 or 502 here",
    ),
    case("the credit extension", || {
        framed(1, 1, &[0, 60, 0, 200, 1, b'c', 0, 0, 0, 1, 0])
    }),
    differs(
        "a method on a channel that is not open",
        || method(7, &Method::new("basic.qos")),
        CHANNEL_IS_LATE,
    ),
    differs(
        "a close on a channel that is not open",
        || method(7, &Method::new("channel.close").num("code", 200)),
        CHANNEL_IS_LATE,
    ),
    case("a content on a channel that is not open", || {
        framed(3, 7, b"body")
    }),
    case("a close-ok that nobody waits for", || {
        method(1, &Method::new("channel.close-ok"))
    }),
    case("frames behind the connection's close", || {
        joined(&[
            method(0, &Method::new("connection.close").num("code", 200)),
            method(1, &Method::new("basic.qos")),
            framed(1, 1, &[1]),
        ])
    }),
    case("a second protocol header", || {
        b"AMQP\x00\x00\x09\x01".to_vec()
    }),
];

/// What a broker says to a case, as text.
///
/// # Errors
/// When the broker lets nobody in.
pub fn words(address: &Address, case: &Case) -> Result<Vec<String>, String> {
    let mut patience = Duration::from_secs(5);
    let mut client = Client::open(address)?;
    client.send(1, &Method::new("channel.open"))?;
    let mut words = Vec::new();
    drop(client.receive(patience));
    let flow = Method::new("channel.flow").bit("active", true);
    // A broker that has ended the connection already takes no more; what it said is read below.
    drop(client.raw(&(case.bytes)()));
    drop(client.send(1, &flow));
    loop {
        match client.receive(patience) {
            Some(Incoming::Method(channel, mut method, _)) => {
                known::level(&mut method, &mut Properties::default());
                words.push(format!("{channel} {method}"));
                match method.name() {
                    // What another channel says may come a little later.
                    "channel.flow-ok" => patience = Duration::from_millis(400),
                    "connection.close-ok" => break,
                    "channel.close" => drop(client.send(channel, &Method::new("channel.close-ok"))),
                    "connection.close" => break,
                    _ => {}
                }
                if method.name() == "channel.close" {
                    break;
                }
            }
            Some(Incoming::End(_)) => {
                words.push("the socket ends".into());
                break;
            }
            None => {
                words.push("silence".into());
                break;
            }
        }
    }
    Ok(words)
}
