//! F2, the sans-IO protocol machine of one client connection: bytes and answers in, bytes and requests out.
//!
//! No socket, no clock, no queue. The broker reads requests with `poll_request`, does them, and answers.

mod config;
mod connection;
mod request;

pub use config::SessionConfig;
pub use connection::Connection;
pub use request::{
    Answer, BindingRequest, Body, ChannelAnswer, ChannelRequest, ConsumeRequest, Credentials,
    DeclareExchange, DeclareQueue, Lease, PublishRequest, Request, SettleOutcome, Settlement,
};
