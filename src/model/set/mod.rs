//! The queue machine of one broker set: every queue of the set, its leases, consumers and clock.

mod active;
mod command;
mod deliver;
mod effect;
mod enqueue;
mod held;
#[cfg(test)]
mod invariants;
mod lease;
mod live;
mod machine;
mod pages;
mod perform;
mod queue;
mod ready;
mod session;
mod settle;
mod snapshot;
mod stream;
mod stream_rules;
#[cfg(test)]
mod test;
mod totals;

pub use command::{
    Command, ConsumerConfig, Credit, DelayedRetry, Enqueue, Outcome, Overdue, Overflow,
    QueueConfig, Source, StreamRules, StreamStart,
};
pub use effect::{DeadLetter, DeathReason, Delivery, Effect, Effects, Reply, TimedOut};
pub use held::Held;
pub use live::LiveMap;
pub use machine::{Applied, SetMachine, SnapshotError};
pub use pages::{MemoryPages, PageError, Pages};
pub use totals::{Flow, QueueStats, Totals};
