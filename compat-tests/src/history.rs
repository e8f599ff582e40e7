//! What clients did and were told, and whether a queue may behave so.
//!
//! Need: under faults no single answer is wrong by itself; only the whole story shows a lost, an invented or a doubled
//! message, so the story is kept and judged at its end.
//! Shape: [`History`] takes events from any task, in the order in which the clients came to know them; [`check`](mod@check)
//! walks them once, with a small state per message, and gives a [`Report`].
//!
//! A *publisher* is one channel in one life: a new connection is a new publisher, since order holds per channel only. A
//! *consumer* likewise. Messages are numbered by their publisher, from 1.
//!
//! Limits: 16 bytes per event, kept to the end; 16 million publishers, 65 thousand consumers, queues and nodes each.
//! Not here: who publishes, who injects faults.

mod body;
mod check;
mod record;
mod report;
#[cfg(test)]
mod test;

pub use body::{body, parse};
pub use check::{Rules, check};
pub use record::{Event, EventKind, History};
pub use report::{Report, Why};

/// A message: its publisher, and its number with that publisher, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message {
    /// Who published it.
    pub publisher: u32,
    /// Its number.
    pub number: u64,
}
