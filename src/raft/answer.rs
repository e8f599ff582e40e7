//! The answering side of what members ask each other.
//!
//! Shape: a frame in, its answer out; appends as a stream, several under way at once, answered in order.
//! Invariants: a frame that cannot be read changes nothing: a request is answered by a failure, an append ends its
//! stream.
//! Not here: the asking side ([`super::network`]), snapshots ([`super::receiving`]).

use bytes::Bytes;
use futures_util::StreamExt;

use super::codec;
use super::wire::{self, Request};
use super::{BoxStream, Group};

impl Group {
    /// Answers a peer's request: see [`super::Transport::request`].
    pub async fn answer(&self, frame: Bytes) -> Bytes {
        match self.answered(frame).await {
            Ok(bytes) => bytes,
            Err(reason) => wire::put_failure(&reason),
        }
    }

    async fn answered(&self, frame: Bytes) -> Result<Bytes, String> {
        let raft = self.raft();
        match wire::request(&frame).map_err(text)? {
            Request::Vote(request) => {
                let answer = raft.vote(request).await.map_err(text)?;
                Ok(wire::put_vote_answer(&answer))
            }
            Request::PreVote(request) => {
                let answer = raft.pre_vote(request).await.map_err(text)?;
                Ok(wire::put_vote_answer(&answer))
            }
            Request::Transfer(request) => {
                let answer = raft.handle_transfer_leader(request).await.map_err(text)?;
                Ok(wire::put_transfer_answer(&answer))
            }
            Request::Records(first, end) => {
                let given = self.give(first, end).await?;
                Ok(wire::put_records_answer(&given))
            }
        }
    }

    /// Answers a peer's stream of entries: see [`super::Transport::appends`].
    #[must_use]
    pub fn answer_appends(&self, frames: BoxStream<Bytes>) -> BoxStream<Bytes> {
        let requests = frames
            .map(|frame| wire::append(&frame))
            .take_while(readable)
            .filter_map(|request| std::future::ready(request.ok()));
        let answers = self.raft().stream_append(requests);
        Box::pin(answers.map(|answer| match answer {
            Ok(answer) => wire::put_append_answer(&answer),
            Err(fatal) => wire::put_failure(&fatal.to_string()),
        }))
    }
}

fn readable<T>(request: &Result<T, codec::CodecError>) -> std::future::Ready<bool> {
    if let Err(error) = request {
        tracing::warn!(%error, "a peer's append cannot be read");
    }
    std::future::ready(request.is_ok())
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
