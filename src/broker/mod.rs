//! F7, sockets meet sessions: one task per connection, routing, publishing, delivering, and the node's own workers.
//!
//! - `Node`: what every connection shares.
//! - `listener`: accepts; `proxy`, `tls`, `wire`: what is between a socket and AMQP.
//! - `clients`: the open connections, for limits and listings.
//! - `connection`: the loop around one session; `publish`, `deliver`, `requests`, `close` are its verbs.
//! - `firehose`: copies of what is published and delivered, for who traces.
//! - `direct`: what is done for a user without a connection.
//! - `dead_letter`: the leader's side of dead-lettering.
//! - `inner`: the broker as a client of its own.
//! - `alarm`: memory and disk.
//! - `stats`, `meters`, `tally`: what is counted, of the node, of what is in it, and by each connection until it reports.
//!
//! Not here: openraft, the log, JSON.

pub mod alarm;
mod clients;
mod close;
mod confirms;
mod connection;
mod consume;
mod dead_letter;
mod death;
mod deliver;
mod direct;
mod failures;
mod firehose;
mod get;
mod history;
mod inner;
pub mod listener;
mod login;
mod meters;
mod node;
mod parts;
mod proxy;
mod publish;
mod queues;
mod relay;
mod replies;
mod requests;
mod retained;
mod routes;
mod stats;
mod stream;
mod tally;
pub mod tls;
mod wire;

pub use clients::{ChannelView, Client, ConsumerView, Described, watch_access};
pub use dead_letter::run as run_set_effects;
pub use direct::{Direct, Got, Refused, Settled};
pub use failures::Failures;
pub use inner::connect as connect_inner;
pub use meters::{COUNTS, ChannelMeter, Count, Counts, Meters, VhostMeter};
pub use node::{Access, Node, NodeOptions, ObjectLimits};
pub use relay::run as run_relay;
pub use stats::{QueueType, Stats, Typed};
pub use wire::TlsView;
