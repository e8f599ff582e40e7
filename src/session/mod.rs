//! F2, the sans-IO protocol machine of one client connection: bytes and answers in, bytes and requests out.
//!
//! The shell gives input to [`Connection::handle_input`], polls [`Request`]s until there are none, and offers what is
//! left of the input again whenever [`Connection::wants_input`]. The broker answers each request that has an answer,
//! those of one channel in their order, and delivers, confirms, returns and cancels when it likes; then
//! [`Connection::flush_confirms`], and the output goes to the socket.
//!
//! Invariants: a channel's commands run in order, one awaiting its answer at a time; every frame of a message is
//! written without another between; delivery tags and confirm numbers count from 1 without gaps; after close-ok or
//! our close nothing more is sent on a channel.
//!
//! Limits: backlogs and requests not polled are bounded by `backlog_bytes_max` (then input stops), a body by
//! `max_message_size`, a transaction by bytes, the ring of unsettled deliveries by what the broker delivers. The
//! output is bounded by whoever delivers.
//!
//! Not here: sockets, clocks, queues, permissions, routing. What differs from RabbitMQ on purpose: frame-max may be
//! chosen down to 4096; methods behind an unanswered tx.commit wait instead of failing; unknown methods are answered
//! 503.

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
mod describe;
mod handshake;
mod publish;
mod request;
mod sasl;
mod settle;
mod stamp;
mod timers;
mod topology;
mod tx;
mod unacked;

pub use config::SessionConfig;
pub use connection::Connection;
pub use describe::ChannelState;
pub use publish::copy_keys;
pub use request::{
    Answer, BindingRequest, Body, ChannelAnswer, ChannelRequest, ConsumeRequest, Credentials,
    DeclareExchange, DeclareQueue, Lease, PublishRequest, Request, SettleOutcome, Settlement,
};
pub use stamp::Stamps;

#[cfg(test)]
mod test;
