//! How members of a set reach each other: frames of bytes, moved by whoever owns the connections.
//!
//! Shape: a transport moves [`Frame`]s and knows nothing of Raft; the raft floor encodes and decodes them
//! ([`super::wire`]) and answers on the far side through [`super::Group::answer`], [`super::Group::answer_appends`] and
//! [`super::Group::answer_snapshot`].
//! Invariants: frames of one stream arrive in order, and so do their answers; a lost connection ends the stream with
//! an error, or just ends it, and never skips a frame.
//! Not here: sockets.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

use crate::base::{NodeId, SetId};

/// One message between members: parts that are written one after the other. Entry payloads are parts of their own,
/// so they are never copied to be sent.
pub type Frame = Vec<Bytes>;

/// A boxed future, as `Transport` must be usable behind a pointer.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A boxed stream.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// The member could not be reached, or the connection ended.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(pub String);

/// What a request is about: a transport may give each lane a connection of its own, so that a snapshot never holds up
/// a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Small and urgent: votes, pre-votes, heartbeats, the hand-over of leadership.
    Urgent,
    /// Entries.
    Appends,
    /// Large and patient: what goes with a snapshot.
    Snapshot,
}

/// Where a frame goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The set whose replica is meant.
    pub set: SetId,
    /// The node that holds it.
    pub node: NodeId,
    /// The node's address as the members agreed on it.
    pub address: String,
}

/// Moves frames to other members of a set.
pub trait Transport: Send + Sync + 'static {
    /// Sends one frame and waits for the answer of the peer's [`super::Group::answer`].
    fn request(
        &self,
        to: &Peer,
        lane: Lane,
        frame: Frame,
    ) -> BoxFuture<Result<Bytes, TransportError>>;

    /// Sends a stream of frames, and returns the answers of the peer's [`super::Group::answer_appends`] in order.
    fn appends(
        &self,
        to: &Peer,
        lane: Lane,
        frames: BoxStream<Frame>,
    ) -> BoxFuture<Result<BoxStream<Result<Bytes, TransportError>>, TransportError>>;

    /// Sends a snapshot as a stream of frames, and returns the one answer of the peer's
    /// [`super::Group::answer_snapshot`]. A frame is hardly more than 1 MiB; the next one is taken when there is room
    /// for it. The answer may come before the last frame; the rest need not be sent then.
    fn snapshot(
        &self,
        to: &Peer,
        frames: BoxStream<Frame>,
    ) -> BoxFuture<Result<Bytes, TransportError>>;
}

/// The transport of a node that is alone: no peer is reachable.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Transport for Alone {
    fn request(
        &self,
        to: &Peer,
        _lane: Lane,
        _frame: Frame,
    ) -> BoxFuture<Result<Bytes, TransportError>> {
        let error = TransportError(format!("no way to node {}", to.node));
        Box::pin(async move { Err(error) })
    }

    fn appends(
        &self,
        to: &Peer,
        _lane: Lane,
        _frames: BoxStream<Frame>,
    ) -> BoxFuture<Result<BoxStream<Result<Bytes, TransportError>>, TransportError>> {
        let error = TransportError(format!("no way to node {}", to.node));
        Box::pin(async move { Err(error) })
    }

    fn snapshot(
        &self,
        to: &Peer,
        _frames: BoxStream<Frame>,
    ) -> BoxFuture<Result<Bytes, TransportError>> {
        let error = TransportError(format!("no way to node {}", to.node));
        Box::pin(async move { Err(error) })
    }
}
