//! Leveret, a replicated message broker that RabbitMQ clients use unchanged.
//!
//! The floors, from the ground; each imports only floors below it:
//! [`base`], [`amqp`], [`session`], [`model`], [`log`], `raft`, `cluster`, `broker`, `http`, and the edge
//! (`main`, `cli`, `config`).

pub mod amqp;
pub mod base;
pub mod log;
pub mod model;
pub mod raft;
pub mod session;
