//! The real broker binary, started and stopped by tests.
//!
//! Need: every promise to a client is checked from outside, by a stock client, over a socket.
//! Shape: [`Broker`] is one process with its own ports and data folder; [`eventually`] waits for a fact;
//! [`Stage`] is one node or a follower of three, and [`suite`] plays a stock client's suite on it.
//! [`SmallDisk`] is a disk that can be full; [`Certificates`] are made for a test.
//! Invariants: a broker never outlives its `Broker`; no test waits for a length of time, only for a fact.
//! Limits: with `COMPAT_AMQP_URL` set the broker is somebody else's: it is neither restarted nor stopped.
//! Not here: any AMQP; the clients under test bring their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod broker;
mod build;
mod certs;
pub mod cluster;
pub mod differential;
mod disk;
pub mod history;
mod stage;
pub mod suite;
mod wait;

pub use broker::{Broker, Refused, Settings, free_port};
pub use build::{binary, cargo, suite_dir, target_dir, workspace_dir};
pub use certs::Certificates;
pub use disk::SmallDisk;
pub use stage::Stage;
pub use tempfile::TempDir;
pub use wait::{eventually, eventually_async};

/// The URL of a broker that is not ours, when the environment names one in `COMPAT_AMQP_URL`.
#[must_use]
pub fn foreign_url() -> Option<String> {
    std::env::var("COMPAT_AMQP_URL")
        .ok()
        .filter(|url| !url.is_empty())
}

/// A number of the environment, or `default` when it is not set. Panics when it is set and not a number.
#[must_use]
pub fn env_number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    }
}

/// True, with the reason printed, when the broker under test is not ours and `what` only makes sense for ours.
#[must_use]
pub fn skipped_on_foreign(what: &str) -> bool {
    let foreign = foreign_url().is_some();
    if foreign {
        println!("skipped: {what} needs a broker of our own, and COMPAT_AMQP_URL names another");
    }
    foreign
}
