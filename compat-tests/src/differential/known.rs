//! What may differ, and why.
//!
//! Need: a difference that is meant must not hide one that is not.
//! Shape: [`LEVELLED`] are rewritten to one form before anything is compared; [`AVOIDED`] are what programs do not do;
//! [`EXPLAINED`] are told by a program that was shrunk and by the first lines that differ.
//! Invariants: every row has its reason, and each is a row in docs/compatibility.md when a client can see it.

use super::client::sort_headers;
use super::lockstep::Difference;
use super::method::{Method, Properties};
use super::program::{self, Step};
use super::value::{Arg, Table, Value};

/// Something that is rewritten before it is compared.
pub struct Levelled {
    /// What differs.
    pub what: &'static str,
    /// Why that is right.
    pub reason: &'static str,
    level: fn(&mut Method, &mut Properties),
}

/// Everything that is rewritten.
pub const LEVELLED: &[Levelled] = &[
    Levelled {
        what: "order of headers, and headers with one name",
        reason: "RabbitMQ sorts them and keeps the first of a name since 3.13; here they pass as they came",
        level: |_, properties| sort_headers(properties),
    },
    Levelled {
        what: "time in x-death, and the order of what stands in it",
        reason: "two brokers, two moments; a table has no order",
        level: |_, properties| {
            for death in deaths(properties) {
                death.sort_by(|(left, _), (right, _)| left.cmp(right));
                for (name, value) in death {
                    if name == "time" && matches!(value, Value::Time(_)) {
                        *value = Value::Time(0);
                    }
                }
            }
        },
    },
    Levelled {
        what: "x-acquired-count, x-delivery-count",
        reason: "since 4.3 there are two counts, and a nack is not a failed delivery; an older oracle has one count for both",
        level: |_, properties| {
            if let Some(headers) = properties.headers_mut() {
                headers
                    .retain(|(name, _)| name != "x-acquired-count" && name != "x-delivery-count");
            }
        },
    },
    Levelled {
        what: "unknown and invalid exchange types",
        reason: "which word RabbitMQ says depends on which atoms its virtual machine knows",
        level: |method, _| {
            if method.name() == "channel.close"
                && method.text_of("text").contains("invalid exchange type")
            {
                let text = method
                    .text_of("text")
                    .replace("invalid exchange type", "unknown exchange type");
                method_text(method, text);
            }
        },
    },
    Levelled {
        what: "bytes of a frame quoted in a 501 or 505",
        reason: "Erlang's notation of bytes; nobody parses it",
        level: |method, _| {
            let closes = method.name() == "connection.close";
            if closes && [501, 505].contains(&method.num_of("code")) {
                let text = method.text_of("text").split(", all octets").next();
                let text = text.and_then(|text| text.split(", first 16 octets").next());
                let kind = text.and_then(|text| text.split_inclusive("FRAME - type ").nth(1));
                let text = if kind.is_some() {
                    text.and_then(|text| text.split(',').next())
                } else {
                    text
                };
                let text = text.unwrap_or_default().to_owned();
                method_text(method, text);
            }
        },
    },
];

/// What is not compared at all: what, and why. Where it is left out is in [`super::side`] and [`super::observer`].
pub const IGNORED: &[(&str, &str)] = &[
    (
        "consumers of quorum queues",
        "RabbitMQ counts whoever has got a message and not settled it",
    ),
    (
        "order of basic.cancel from the broker and of answers",
        "the one comes from the queue, the other from the channel",
    ),
];

/// What programs do not do: what, and why.
pub const AVOIDED: &[(&str, &str)] = &[
    ("hash and random exchanges", "placement is the broker's own"),
    (
        "a client's basic.cancel-ok",
        "taken in silence since 4.3, 503 before",
    ),
    (
        "expirations with a sign or leading zeros",
        "RabbitMQ sends on the number it read, Leveret the text",
    ),
    (
        "an empty x-queue-type",
        "not given since 4.1, refused before",
    ),
    (
        "the tag of a direct reply-to consumer taken again",
        "530 here; RabbitMQ goes on and finds something else wrong, or nothing",
    ),
    ("expiry of queues", "asking a queue renews its lease"),
    (
        "priorities on quorum queues",
        "strict since 4.3, two classes before",
    ),
    (
        "a queue type for a queue named by the server",
        "one that is not known is a crash and a 541 there, 406 here",
    ),
    (
        "methods behind an unanswered tx.commit",
        "504 there, a wait here",
    ),
    (
        "x-queue-mode, x-queue-version, x-queue-master-locator",
        "refused by one version, ignored by the next",
    ),
];

/// A difference that is meant, or that nobody promises not to be there.
pub struct Explained {
    /// What differs.
    pub what: &'static str,
    /// Why that is right.
    pub reason: &'static str,
    /// Whether this is it: the shrunk program as text, the oracle's first line that differs and ours.
    is: fn(&str, &str, &str) -> bool,
}

/// Differences that are counted and do not fail the comparison.
pub const EXPLAINED: &[Explained] = &[
    Explained {
        what: "order of what came back to a quorum queue",
        reason: "in order of return there; here each message is at its old place, so that a consumer that comes after a \
                 failure finds the publisher's order",
        is: |program, theirs, own| {
            has_quorum(program) && is_redelivered(theirs) && is_redelivered(own)
        },
    },
    Explained {
        what: "messages left, in get-ok of a quorum queue",
        reason: "there an expired message behind the head may still count",
        is: |program, theirs, own| {
            let alike = without(theirs, " messages=") == without(own, " messages=");
            has_quorum(program) && theirs.starts_with("basic.get-ok") && alike
        },
    },
    Explained {
        what: "which of several wrong arguments is named",
        reason: "in the order of names here; there it depends on the version",
        is: |_, theirs, own| match (wrong_argument(theirs), wrong_argument(own)) {
            (Some(left), Some(right)) => left != right,
            _ => false,
        },
    },
    Explained {
        what: "what comes back to a classic queue at its length limit",
        reason: "dropped there even while somebody waits for it; here it is delivered first",
        is: |program, theirs, own| {
            let nothing = theirs.is_empty() || theirs.starts_with("basic.get-empty");
            !has_quorum(program)
                && program.contains("x-max-length")
                && nothing
                && is_redelivered(own)
        },
    },
    Explained {
        what: "BCC twice in one message",
        reason: "the second one stays visible there",
        is: |program, _, _| program.lines().any(|line| line.matches("BCC=").count() > 1),
    },
    Explained {
        what: "a message that no queue limit and no time to live leaves room for",
        reason: "it dies of both at once; which one is named is the order of two checks",
        is: |program, theirs, own| {
            program.contains("x-message-ttl=0:")
                && program.contains("x-max-length")
                && theirs.replace("\"maxlen\"", "\"expired\"")
                    == own.replace("\"maxlen\"", "\"expired\"")
        },
    },
    Explained {
        what: "a message of a higher priority that expires in a classic queue",
        reason: "there it waits, and counts, until something else happens to the queue: the timer is set by the message that \
                 came to an empty one",
        is: |program, theirs, own| {
            !has_quorum(program)
                && program.contains("x-max-priority")
                && program.contains("expiration=")
                && matches!((ready(theirs), ready(own)), (Some(left), Some(right)) if left > right)
        },
    },
    Explained {
        what: "a dead letter that comes to a quorum queue",
        reason: "its counts go on there, so that it is redelivered when it is new; here they begin anew",
        is: |program, theirs, own| {
            has_quorum(program)
                && own.contains("x-death=")
                && is_redelivered(theirs)
                && theirs.replacen(" redelivered", "", 1) == own
        },
    },
    Explained {
        what: "order of deliveries of two queues on one channel",
        reason: "two queues are two processes there, and may be two broker sets here",
        is: |program, theirs, own| {
            program.matches("basic.consume").count() > 1
                && theirs.starts_with("basic.deliver")
                && without(theirs, " tag=") == without(own, " tag=")
        },
    },
];

/// The row that explains a difference, if there is one.
#[must_use]
pub fn explained(program: &[Step], found: &Difference) -> Option<&'static Explained> {
    let text = program::text(program);
    let (theirs, own) = &found.lines;
    EXPLAINED.iter().find(|row| (row.is)(&text, theirs, own))
}

fn has_quorum(program: &str) -> bool {
    program.contains("x-queue-type=\"quorum\"")
}

fn is_redelivered(line: &str) -> bool {
    let delivery = line.starts_with("basic.deliver") || line.starts_with("basic.get-ok");
    delivery && line.contains(" redelivered")
}

/// How many messages a queue shows: `2 messages, 0 consumers`.
fn ready(line: &str) -> Option<u64> {
    line.split_once(" messages,")?.0.parse().ok()
}

/// A line without the word that begins like this.
fn without(line: &str, start: &str) -> String {
    let Some((before, rest)) = line.split_once(start) else {
        return line.to_owned();
    };
    let after = rest.split_once(' ').map_or("", |(_, after)| after);
    format!("{before} {after}")
}

/// The argument a refusal names.
fn wrong_argument(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("PRECONDITION_FAILED - invalid arg '")?;
    Some(rest.split_once('\'')?.0)
}

/// Rewrites what may differ.
pub fn level(method: &mut Method, properties: &mut Properties) {
    for row in LEVELLED {
        (row.level)(method, properties);
    }
    // A table that has become empty is no table.
    sort_headers(properties);
}

fn method_text(method: &mut Method, text: String) {
    *method = method.clone().with("text", Arg::Text(text));
}

fn deaths(properties: &mut Properties) -> impl Iterator<Item = &mut Table> {
    let headers = properties.headers_mut().into_iter().flatten();
    headers
        .filter(|(name, _)| name == "x-death")
        .filter_map(|(_, value)| match value {
            Value::Array(deaths) => Some(deaths),
            _ => None,
        })
        .flatten()
        .filter_map(|death| match death {
            Value::Table(table) => Some(table),
            _ => None,
        })
}
