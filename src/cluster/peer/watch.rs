//! The serving side of a watch: reads the ring of a set, adds the bodies, and sends.

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::Status;

use super::events::{Events, Head, WatchRequest};
use super::hub::Hosted;
use crate::base::{NodeId, Position};
use crate::cluster::ring::PipeEvent;
use crate::cluster::set_handle::SetHandle;
use crate::model::batch;
use crate::model::set::Reply;
use crate::raft::{Frame, Leadership};

/// Events one message carries at most, except those of one entry.
const EVENTS_PER_MESSAGE: usize = 256;

struct Watch {
    hosted: Hosted,
    handle: SetHandle,
    request: WatchRequest,
    head: Option<Head>,
    after: u64,
    seen: watch::Receiver<u64>,
    leadership: Option<watch::Receiver<Leadership>>,
}

/// What `hosted` does for the watcher's pipe, from now on or from where the watcher was.
pub fn watch(
    hosted: Hosted,
    own: NodeId,
    own_incarnation: u64,
    request: WatchRequest,
) -> Result<impl Stream<Item = Result<Frame, Status>> + Send, Status> {
    let handle = hosted
        .handle
        .clone()
        .ok_or_else(|| Status::invalid_argument("the topology is not watched"))?;
    let node = request.pipe.node;
    if !hosted.ring.keeps(node) {
        return Err(Status::unavailable(
            "not known yet that the node holds no replica",
        ));
    }
    let seen = hosted.ring.watch(node);
    let group = handle.group().cloned();
    let owner = if group.is_some() { 0 } else { own_incarnation };
    let known = request.owner == 0 || request.owner == owner;
    // Both are read under the machine's lock, so no entry is applied between them.
    let found = handle.with(|replica| {
        let machine = replica.machine();
        (machine.applied_index(), machine.last_seq(request.pipe))
    });
    let (index, applied) = found.ok_or_else(|| Status::unavailable("no replica here"))?;
    let resumed = request
        .after
        .filter(|after| known && hosted.ring.read(request.pipe, *after, 0).is_some());
    let leadership = group.map(|group| group.leadership());
    let leader = match &leadership {
        Some(leadership) => leadership.borrow().leader,
        None => Some(own),
    };
    let after = resumed.unwrap_or(index);
    let head = Head {
        owner,
        resumed: resumed.is_some(),
        index: after,
        applied,
        leader,
    };
    let state = Watch {
        hosted,
        handle,
        request,
        head: Some(head),
        after,
        seen,
        leadership,
    };
    Ok(stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        match state.next().await {
            Ok(frame) => Some((Ok(frame), Some(state))),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

impl Watch {
    async fn next(&mut self) -> Result<Frame, Status> {
        if let Some(head) = self.head.take() {
            return Ok(vec![head.encode()]);
        }
        loop {
            self.seen.borrow_and_update();
            let found = self
                .hosted
                .ring
                .read(self.request.pipe, self.after, EVENTS_PER_MESSAGE);
            let Some((found, end)) = found else {
                return Err(Status::out_of_range("too far behind"));
            };
            if !found.is_empty() {
                self.after = end;
                return Ok(self.events(found).await);
            }
            tokio::select! {
                seen = self.seen.changed() => if seen.is_err() {
                    return Err(Status::unavailable("no longer kept"));
                },
                () = changed(&mut self.leadership) => return Ok(self.events(Vec::new()).await),
            }
        }
    }

    async fn events(&self, found: Vec<PipeEvent>) -> Frame {
        let mut events = Vec::with_capacity(found.len());
        let mut last: Option<(u64, Bytes)> = None;
        for event in found {
            let run = match &event {
                PipeEvent::Deliver(delivery) => Some((delivery.first, delivery.count)),
                PipeEvent::Reply(_, Reply::Got { delivery, .. }) => Some((delivery.first, 1)),
                _ => None,
            };
            let body = match run {
                Some((first, count)) => self.messages(first, count, &mut last).await,
                None => Bytes::new(),
            };
            events.push((event, body));
        }
        let leader = self.leadership.as_ref().map(|one| one.borrow().leader);
        let events = Events {
            index: self.after,
            leader: leader.unwrap_or(Some(self.hosted.own)),
            events,
        };
        events.encode()
    }

    /// The messages of a run, as a part of their entry.
    async fn messages(
        &self,
        first: Position,
        count: u32,
        last: &mut Option<(u64, Bytes)>,
    ) -> Bytes {
        let index = first.index();
        let payload = match last {
            Some((at, payload)) if *at == index => payload.clone(),
            _ => match self.handle.load(first).await {
                Ok(payload) => payload,
                Err(error) => {
                    tracing::error!(position = ?first, %error, "messages cannot be read for a peer");
                    return Bytes::new();
                }
            },
        };
        *last = Some((index, payload.clone()));
        let slots = first.slot()..first.slot() + count;
        batch::survivors(&payload, slots).unwrap_or_default()
    }
}

async fn changed(leadership: &mut Option<watch::Receiver<Leadership>>) {
    let changed = match leadership {
        Some(leadership) => leadership.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}
