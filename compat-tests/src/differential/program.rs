//! Programs: what is sent to both brokers, step by step.
//!
//! Shape: a [`Program`] is a list of [`Step`]s; each happens at a [`Place`] and is compared before the next one is sent. A
//! program says nothing about answers: the oracle gives those.
//! Names: `~` in a text stands for a prefix of the run, so no run meets what another one left. `<g0>`, `<t0>`, `<r0>` are
//! the first queue name, consumer tag and reply address the broker made up; a broker's own are shown the same way.
//! Invariants: any list of steps is a program, so that a step can be left out of one that fails: a step on a channel or
//! connection that is not open opens it first.

use std::fmt;

use super::method::{Method, Properties};

/// A channel of one of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// 0 or 1.
    pub link: usize,
    /// From 1.
    pub channel: u16,
}

/// Which delivery a settling step names.
#[derive(Clone, Copy, Debug)]
pub enum Pick {
    /// One of the unsettled ones, counted from the oldest, modulo how many there are. Unknown when there is none.
    Held(usize),
    /// The one settled last.
    Settled,
    /// A tag that was never given.
    Unknown,
    /// 0: all of them, with `multiple`.
    Zero,
}

/// How a delivery is settled.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// `basic.ack`
    Ack,
    /// `basic.nack`, with its requeue bit
    Nack(bool),
    /// `basic.reject`, with its requeue bit
    Reject(bool),
}

/// What is done at a place.
#[derive(Clone)]
pub enum Act {
    /// Any method, sent as it is; the answer, where there is one, is awaited.
    Call(Method),
    /// `basic.publish` with a content.
    Publish(Method, Properties, Vec<u8>),
    /// `basic.ack`, `nack` or `reject`, and whether it has `multiple`.
    Settle(Verdict, Pick, bool),
    /// The connection is closed with all manners.
    CloseLink,
    /// The connection's socket is closed without a word.
    DropLink,
    /// Time passes: milliseconds.
    Wait(u64),
}

/// One step.
#[derive(Clone)]
pub struct Step {
    /// Where.
    pub place: Place,
    /// What.
    pub act: Act,
}

impl Step {
    /// Whether messages may expire because of this step, after the 10 ms of [`super::alphabet`].
    #[must_use]
    pub fn is_short_lived(&self) -> bool {
        let text = self.to_string();
        text.contains("x-message-ttl=10") || text.contains("expiration=\"10\"")
    }
}

/// A program.
pub type Program = Vec<Step>;

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{} ", self.place.link, self.place.channel)?;
        match &self.act {
            Act::Call(method) => write!(out, "{method}"),
            Act::Publish(method, properties, body) => {
                write!(out, "{method}{properties} {}", body_text(body))
            }
            Act::Settle(verdict, pick, multiple) => {
                let many = if *multiple { " multiple" } else { "" };
                write!(out, "settle {verdict:?} {pick:?}{many}")
            }
            Act::CloseLink => out.write_str("close the connection"),
            Act::DropLink => out.write_str("drop the connection"),
            Act::Wait(ms) => write!(out, "wait {ms} ms"),
        }
    }
}

/// A body, or what identifies it when it is long.
#[must_use]
pub fn body_text(body: &[u8]) -> String {
    if body.len() <= 40 {
        return format!("{:?}", String::from_utf8_lossy(body));
    }
    let sum = body.iter().fold(0_u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(*byte))
    });
    format!("({} bytes, sum {sum:x})", body.len())
}

/// A program as text, one line per step.
#[must_use]
pub fn text(program: &[Step]) -> String {
    program.iter().map(|step| format!("  {step}\n")).collect()
}
