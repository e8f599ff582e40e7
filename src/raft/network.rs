//! openraft's calls to other members, as frames over the [`Transport`].
//!
//! Shape: a [`Network`] makes one [`Line`] per member and lane. Appends are a pipelined stream; the rest is request
//! and answer, each with the time openraft allows. A line looks its member's address up each time, as members move.
//! Invariants: an answer that cannot be read counts as no answer. No call waits for ever: whatever holds an answer up, the
//! core hears of a failure and tries again.
//! Not here: sockets, and the answering side ([`super::answer`]).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::shared::Shared;
use super::shipping::{self, Progress};
use super::snapshot::{SnapshotHandle, Source};
use super::types::{Snapshot, Types, Vote};
use super::wire::{self, AnswerError};
use super::{Frame, Lane, Peer, Transport, TransportError};
use crate::base::NodeId;

/// Longest time without a frame moving, or from the last frame to the answer: the far side syncs and restores then.
const SNAPSHOT_STUCK_MAX: Duration = Duration::from_secs(60);

/// Makes lines to members.
pub(super) struct Network {
    pub(super) shared: Arc<Shared>,
    pub(super) transport: Arc<dyn Transport>,
    /// Longest time that sent entries stay unanswered.
    pub(super) append_limit: Duration,
}

impl Network {
    fn line(&self, target: u64, node: &openraft::BasicNode, lane: Lane) -> Line {
        Line {
            shared: Arc::clone(&self.shared),
            transport: Arc::clone(&self.transport),
            node: NodeId(target),
            address: node.addr.clone(),
            lane,
            append_limit: self.append_limit,
        }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Line;

    async fn new_client(&mut self, target: u64, node: &openraft::BasicNode) -> Line {
        self.line(target, node, Lane::Appends)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &openraft::BasicNode) -> Line {
        self.line(target, node, Lane::Urgent)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &openraft::BasicNode) -> Line {
        self.line(target, node, Lane::Snapshot)
    }
}

/// A way to one member.
pub(super) struct Line {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    node: NodeId,
    /// Where it was when the line was made.
    address: String,
    lane: Lane,
    append_limit: Duration,
}

type Rpc<T> = Result<T, RPCError<Types>>;

fn unreachable(reason: impl ToString) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

fn unread(error: &AnswerError) -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string(error))
}

impl Line {
    fn peer(&self) -> Peer {
        let moved = self.shared.addresses.lock().get(&self.node).cloned();
        Peer {
            set: self.shared.set,
            node: self.node,
            address: moved.unwrap_or_else(|| self.address.clone()),
        }
    }

    async fn ask(&self, lane: Lane, frame: Frame, option: &RPCOption) -> Rpc<Bytes> {
        let answer = self.transport.request(&self.peer(), lane, frame);
        match tokio::time::timeout(option.hard_ttl(), answer).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(unreachable(error)),
            Err(_) => Err(unreachable("no answer in time")),
        }
    }
}

impl NetBackoff<Types> for Line {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl NetVote<Types> for Line {
    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        let frame = wire::put_vote_request(&rpc, false);
        let bytes = self.ask(Lane::Urgent, frame, &option).await?;
        wire::vote_answer(&bytes).map_err(|error| unread(&error))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        let frame = wire::put_vote_request(&rpc, true);
        let bytes = self.ask(Lane::Urgent, frame, &option).await?;
        wire::vote_answer(&bytes).map_err(|error| unread(&error))
    }
}

impl NetTransferLeader<Types> for Line {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<Types>> {
        let bytes = self
            .ask(Lane::Urgent, wire::put_transfer(&req), &option)
            .await?;
        wire::transfer_answer(&bytes).map_err(|error| unread(&error))
    }
}

impl NetSnapshot<Types> for Line {
    type SnapshotData = SnapshotHandle;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Source::File { held, .. } = snapshot.snapshot.0 else {
            let error = NetworkError::from_string("a received snapshot is not passed on");
            return Err(StreamingError::Network(error));
        };
        let progress = Arc::new(Progress::default());
        let frames = shipping::frames(&self.shared, held, vote, &progress);
        let sent = self.transport.snapshot(&self.peer(), frames);
        let answer = tokio::select! {
            answer = sent => answer,
            () = stuck(&progress) => Err(TransportError("the transfer is stuck".into())),
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        if let Some(reason) = progress.failure() {
            return Err(StreamingError::Network(NetworkError::from_string(reason)));
        }
        let answer = answer.map_err(|error| StreamingError::from(unreachable(error)))?;
        let vote =
            wire::snapshot_answer(&answer).map_err(|error| StreamingError::from(unread(&error)))?;
        Ok(SnapshotResponse::new(vote))
    }
}

/// Completes when the transport has taken no frame for [`SNAPSHOT_STUCK_MAX`].
async fn stuck(progress: &Progress) {
    let mut before = progress.taken();
    loop {
        tokio::time::sleep(SNAPSHOT_STUCK_MAX).await;
        let now = progress.taken();
        if now == before {
            return;
        }
        before = now;
    }
}

/// What a stream of entries has sent and heard.
#[derive(Default)]
struct Open {
    sent: AtomicU64,
    answered: AtomicU64,
}

impl Open {
    fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Completes when nothing was answered for `limit`, and at most twice that, though something waited all the time.
    async fn overdue(&self, limit: Duration) {
        let mut waits = None;
        loop {
            tokio::time::sleep(limit).await;
            let answered = self.answered.load(Ordering::Relaxed);
            if waits == Some(answered) {
                return;
            }
            let open = self.sent.load(Ordering::Relaxed) > answered;
            waits = open.then_some(answered);
        }
    }
}

type Answers<'s> = BoxStream<'s, Rpc<StreamAppendResult<Types>>>;

impl NetStreamAppend<Types> for Line {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Rpc<Answers<'s>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        let open = Arc::new(Open::default());
        let sent = Arc::clone(&open);
        let frames = Box::pin(input.map(move |request| {
            sent.sent();
            wire::put_append(request)
        }));
        let answers = self.transport.appends(&self.peer(), self.lane, frames);
        let (limit, set, node) = (self.append_limit, self.shared.set, self.node);
        Box::pin(async move {
            let answers = tokio::time::timeout(limit, answers).await;
            let answers = answers.map_err(|_| unreachable("no stream in time"))?;
            let answers = answers.map_err(unreachable)?;
            let heard = Arc::clone(&open);
            let read = answers.map(move |answer| {
                heard.answered();
                match answer {
                    Ok(bytes) => wire::append_answer(&bytes).map_err(|error| unread(&error)),
                    Err(error) => Err(unreachable(error)),
                }
            });
            let overdue = Box::pin(async move { open.overdue(limit).await });
            let both = stream::unfold(Some((read, overdue)), move |both| async move {
                let (mut read, mut overdue) = both?;
                tokio::select! {
                    biased;
                    answer = read.next() => Some((answer?, Some((read, overdue)))),
                    () = &mut overdue => {
                        tracing::warn!(%set, %node, "entries are not answered: they go over a new stream");
                        Some((Err(unreachable("no answer in time")), None))
                    }
                }
            });
            let boxed: Answers<'s> = Box::pin(both);
            Ok(boxed)
        })
    }
}
