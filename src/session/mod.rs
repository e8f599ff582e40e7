//! F2, the sans-IO protocol machine of one client connection: bytes and answers in, bytes and requests out.
//!
//! No socket, no clock, no queue. The broker reads requests with `poll_request`, does them, and answers.

mod answer;
mod channel;
mod channels;
mod close;
mod config;
mod confirms;
mod connection;
mod consume;
mod content;
mod core;
mod deliver;
mod handshake;
mod publish;
mod request;
mod sasl;
mod settle;
mod timers;
mod topology;
mod tx;
mod unacked;

pub use config::SessionConfig;
pub use connection::Connection;
pub use request::{
    Answer, BindingRequest, Body, ChannelAnswer, ChannelRequest, ConsumeRequest, Credentials,
    DeclareExchange, DeclareQueue, Lease, PublishRequest, Request, SettleOutcome, Settlement,
};

#[cfg(test)]
mod test;
