//! Leveret, a replicated message broker that RabbitMQ clients use unchanged.
//!
//! The floors, from the ground; each imports only floors below it:
//! [`base`], [`amqp`], [`session`], [`model`], [`log`], `raft`, `cluster`, `broker`, `shovel`, `http`, and the edge
//! (`main`, `cli`, `config`).

pub mod amqp;
pub mod base;
pub mod broker;
pub mod cluster;
pub mod config;
pub mod doors;
pub mod http;
pub mod identity;
pub mod log;
pub mod model;
pub mod node;
pub mod operator;
pub mod probe;
pub mod raft;
pub mod rt;
pub mod session;
mod settings;
pub mod shovel;
pub mod systemd;
pub mod telemetry;
#[cfg(test)]
mod tidy;

pub use settings::about;
