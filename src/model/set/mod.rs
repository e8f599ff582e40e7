//! The queue machine of one broker set: every queue of the set, its leases, consumers and clock.

mod command;
mod effect;

pub use command::{
    Command, ConsumerConfig, Credit, DelayedRetry, Enqueue, Outcome, Overflow, QueueConfig, Source,
};
pub use effect::{DeadLetter, DeathReason, Delivery, Effect, Effects, Reply};
