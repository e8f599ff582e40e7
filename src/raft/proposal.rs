//! The fate of a proposal, told when it is known.
//!
//! Shape: a [`Proposal`] travels with the payload through the core and answers the [`ProposalReceipt`]; it also holds
//! the proposal's place in the count of those in flight, and gives it back on every way out.
//! A core that leads may refuse what it was handed and lead on in the same term: when its lease ran out for a moment, or
//! while it hands the lead over. No change of leadership tells of that, so every proposal that comes to nothing counts in
//! [`Refusals`].
//! Not here: the proposing itself ([`super::Group::propose`]).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use tokio::sync::{oneshot, watch};

use super::ProposeError;
use super::types::Types;
use crate::base::NodeId;

/// Where a proposal's entry came to be: it is committed, and applied here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Raft index of the entry.
    pub index: u64,
    /// Term of the entry.
    pub term: u64,
}

/// Tells the fate of one proposal. Dropping it changes nothing.
#[derive(Debug)]
pub struct ProposalReceipt(oneshot::Receiver<Result<Applied, ProposeError>>);

impl Future for ProposalReceipt {
    type Output = Result<Applied, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|sent| sent.unwrap_or(Err(ProposeError::Unknown)))
    }
}

/// A place among the proposals in flight.
#[derive(Debug)]
pub(super) struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    /// A place, unless `max` are taken.
    pub(super) fn take(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let place = Self(Arc::clone(count));
        (before < max).then_some(place)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many proposals came to nothing, or may have.
#[derive(Clone, Debug)]
pub(super) struct Refusals(watch::Sender<u64>);

impl Default for Refusals {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Refusals {
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// Counts as a refusal unless the proposal's entry was applied.
struct Fate(Option<Refusals>);

impl Drop for Fate {
    fn drop(&mut self) {
        if let Some(Refusals(count)) = self.0.take() {
            count.send_modify(|count| *count += 1);
        }
    }
}

/// What a result of the core says about the proposal.
pub trait Outcome {
    /// See [`ProposalReceipt`].
    fn outcome(self) -> Result<Applied, ProposeError>;
}

impl Outcome for ClientWriteResult<Types> {
    fn outcome(self) -> Result<Applied, ProposeError> {
        match self {
            Ok(done) => Ok(Applied {
                index: done.log_id.index,
                term: done.log_id.leader_id.term,
            }),
            Err(ClientWriteError::ForwardToLeader(forward)) => Err(ProposeError::NotLeader {
                leader: forward.leader_id.map(NodeId),
            }),
            Err(_) => Err(ProposeError::Unknown),
        }
    }
}

/// The end of a proposal that the core holds.
pub struct Proposal<T> {
    convert: fn(T) -> Result<Applied, ProposeError>,
    answer: oneshot::Sender<Result<Applied, ProposeError>>,
    place: InFlight,
    fate: Fate,
}

impl<T: Outcome> Proposal<T> {
    /// A proposal that holds `place`, and its receipt.
    pub(super) fn new(place: InFlight, refusals: &Refusals) -> (Self, ProposalReceipt) {
        let (answer, receipt) = oneshot::channel();
        let proposal = Self {
            convert: T::outcome,
            answer,
            place,
            fate: Fate(Some(refusals.clone())),
        };
        (proposal, ProposalReceipt(receipt))
    }
}

impl<T: Send + 'static> Responder<Types, T> for Proposal<T> {
    fn on_complete(mut self, result: T) {
        let outcome = (self.convert)(result);
        if outcome.is_ok() {
            self.fate.0 = None;
        }
        // Whoever hears the answer may use the place.
        drop(self.place);
        // Nobody need be waiting for the receipt.
        drop(self.answer.send(outcome));
    }
}
