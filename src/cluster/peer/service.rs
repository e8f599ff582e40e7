//! The listener for peers, and what each method does.
//!
//! Invariants: nothing is read of a request before its secret is proved; a node of another cluster is refused with a
//! text that says so; a pipe's batches are proposed in their order, and the first that cannot be ends the pipe.
//! Not here: what the replicas do with what arrives.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::ending::Ending;
use super::events::WatchRequest;
use super::frame::{self, Messages};
use super::hub::{Hosted, Hub};
use super::links::{CONNECTION_WINDOW, HTTP_FRAME_BYTES, Own, STREAM_WINDOW};
use super::watch::watch;
use super::{AUTH, CLUSTER, NODE, PeerSecurity, SET};
use crate::base::SetId;
use crate::cluster::clock::Stamp;
use crate::cluster::local_set::LocalSet;
use crate::cluster::set_handle::SetHandle;
use crate::model::batch::{BufferPool, restamp};
use crate::raft::{BoxStream, Frame, Group, ProposalReceipt, ProposeError};
use crate::rt::Supervisor;

const PING_EVERY: Duration = Duration::from_secs(5);
const PONG_LIMIT: Duration = Duration::from_secs(5);
/// Calls that peers have given up before this node saw them, as they do while it stands still: many, and no attack.
const GIVEN_UP_MAX: usize = 10_000;
/// Time between two lines about peers that are refused for the same reason.
const SELDOM: Duration = Duration::from_secs(10);

type Answers = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

/// What every request needs.
#[derive(Clone)]
struct Peers {
    hub: Arc<Hub>,
    own: Arc<Own>,
    security: PeerSecurity,
    pool: BufferPool,
    strangers: Arc<Seldom>,
    foreigners: Arc<Seldom>,
}

/// A line about somebody who knocks many times a second.
#[derive(Default)]
struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    fn speaks(&self) -> bool {
        let mut last = self.0.lock();
        let due = last.is_none_or(|last| last.elapsed() >= SELDOM);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

/// Serves peers on `listener` until the node stops.
///
/// # Errors
/// TLS cannot be set up, or the listener failed.
pub async fn serve(
    listener: TcpListener,
    hub: Arc<Hub>,
    own: Arc<Own>,
    security: PeerSecurity,
    pool: BufferPool,
    supervisor: Supervisor,
) -> io::Result<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    serve_incoming(incoming, hub, own, security, pool, supervisor).await
}

/// As [`serve`], for connections that are already accepted.
///
/// # Errors
/// TLS cannot be set up, or no more connections come.
pub async fn serve_incoming<IO>(
    incoming: impl Stream<Item = io::Result<IO>>,
    hub: Arc<Hub>,
    own: Arc<Own>,
    security: PeerSecurity,
    pool: BufferPool,
    supervisor: Supervisor,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(HTTP_FRAME_BYTES)
        .http2_max_pending_accept_reset_streams(Some(GIVEN_UP_MAX))
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_LIMIT));
    if let Some(tls) = &security.tls {
        let config = ServerTlsConfig::new()
            .identity(Identity::from_pem(&tls.certificate, &tls.key))
            .client_ca_root(Certificate::from_pem(&tls.ca));
        server = server.tls_config(config).map_err(io::Error::other)?;
    }
    let peers = Peers {
        hub,
        own,
        security,
        pool,
        strangers: Arc::default(),
        foreigners: Arc::default(),
    };
    // Streams of peers last as long as they do, so nobody waits for their end; their connections are cut.
    let ends = supervisor.clone();
    let incoming = incoming.map(move |io| io.map(|io| Ending::new(io, &ends)));
    let served = server.add_service(peers).serve_with_incoming(incoming);
    tokio::select! {
        served = served => served.map_err(io::Error::other),
        () = supervisor.stopping() => Ok(()),
    }
}

impl NamedService for Peers {
    const NAME: &'static str = "leveret.Peer";
}

impl tower_service::Service<http::Request<Body>> for Peers {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peers = self.clone();
        Box::pin(async move {
            Ok(match peers.dispatch(request).await {
                Ok(answers) => answered(answers),
                Err(status) => status.into_http(),
            })
        })
    }
}

/// Says at the end how it went, as gRPC wants it.
fn answered(answers: Answers) -> http::Response<Body> {
    let mut response = http::Response::new(frame::body(answers));
    let kind = http::HeaderValue::from_static("application/grpc");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn one(frame: Bytes) -> Answers {
    Box::pin(futures_util::stream::once(async { Ok(vec![frame]) }))
}

impl Peers {
    fn admit(&self, headers: &HeaderMap) -> Result<(), Status> {
        if !self.security.proves(headers.get(AUTH)) {
            if self.strangers.speaks() {
                tracing::warn!("a peer without the shared secret was refused");
            }
            return Err(Status::unauthenticated(
                "the shared secret is not this cluster's",
            ));
        }
        let own = self.own.cluster.load(Ordering::Acquire);
        let theirs = number(headers, &CLUSTER).unwrap_or(0);
        if own != 0 && theirs != 0 && own != theirs {
            let node = number(headers, &NODE).unwrap_or(0);
            if self.foreigners.speaks() {
                let (theirs, own) = (format_args!("{theirs:016x}"), format_args!("{own:016x}"));
                tracing::warn!(node, %theirs, %own, "a node of another cluster was refused");
            }
            let text = format!("this node belongs to cluster {own:016x}, not {theirs:016x}");
            return Err(Status::failed_precondition(text));
        }
        Ok(())
    }

    fn hosted(&self, headers: &HeaderMap) -> Result<Hosted, Status> {
        let set = number(headers, &SET).and_then(|set| u32::try_from(set).ok());
        let set = SetId(set.ok_or_else(|| Status::invalid_argument("which set?"))?);
        if number(headers, &CLUSTER).unwrap_or(0) == 0 {
            return Err(Status::failed_precondition("not a member of a cluster"));
        }
        let hosted = self.hub.hosted(set);
        hosted.ok_or_else(|| Status::unavailable(format!("no replica of set {set} here")))
    }

    async fn dispatch(self, request: http::Request<Body>) -> Result<Answers, Status> {
        let (head, body) = request.into_parts();
        self.admit(&head.headers)?;
        let mut messages = Messages::new(body, self.pool.clone());
        match head.uri.path() {
            super::REQUEST => {
                let hosted = self.hosted(&head.headers)?;
                let frame = wanted(messages.next().await?)?;
                Ok(one(group(&hosted)?.answer(frame).await))
            }
            super::APPENDS => {
                let hosted = self.hosted(&head.headers)?;
                let frames: BoxStream<Bytes> = Box::pin(unbroken(messages));
                let answers = group(&hosted)?.answer_appends(frames);
                Ok(Box::pin(answers.map(|answer| Ok(vec![answer]))))
            }
            super::SNAPSHOT => {
                let hosted = self.hosted(&head.headers)?;
                let frames: BoxStream<Bytes> = Box::pin(unbroken(messages));
                let answer = group(&hosted)?.answer_snapshot(frames);
                Ok(one(answer.await))
            }
            super::ENTRY => {
                let hosted = self.hosted(&head.headers)?;
                let frame = wanted(messages.next().await?)?;
                Ok(one(entry(&hosted, &frame).await?))
            }
            super::PIPE => {
                let hosted = self.hosted(&head.headers)?;
                let end = async move { Err(take_batches(hosted, messages).await) };
                Ok(Box::pin(futures_util::stream::once(end)))
            }
            super::WATCH => {
                let hosted = self.hosted(&head.headers)?;
                let request = wanted(messages.next().await?)?;
                let request = WatchRequest::decode(&request)
                    .map_err(|_| Status::invalid_argument("no watch request"))?;
                let own = self.own.pipe();
                let events = watch(hosted, own.node, own.incarnation, request)?;
                Ok(Box::pin(events))
            }
            super::CONTROL => {
                let frame = wanted(messages.next().await?)?;
                let answer = self.hub.control();
                let answer = answer.ok_or_else(|| Status::unavailable("the node starts"))?;
                Ok(one(answer(frame).await))
            }
            _ => Err(Status::unimplemented("no such method")),
        }
    }
}

fn wanted(message: Option<crate::model::batch::PooledBuffer>) -> Result<Bytes, Status> {
    let message = message.ok_or_else(|| Status::invalid_argument("no message"))?;
    Ok(message.freeze())
}

/// The messages until the stream breaks: what follows a break never arrives.
fn unbroken(messages: Messages) -> impl Stream<Item = Bytes> + Send {
    messages
        .into_stream()
        .take_while(|message| std::future::ready(message.is_ok()))
        .filter_map(|message| std::future::ready(message.ok()))
}

async fn entry(hosted: &Hosted, index: &[u8]) -> Result<Bytes, Status> {
    let index = index
        .try_into()
        .map(u64::from_le_bytes)
        .map_err(|_| Status::invalid_argument("no index"))?;
    let handle = hosted.handle.as_ref();
    let handle = handle.ok_or_else(|| Status::invalid_argument("the topology has no messages"))?;
    let payload = handle.load_here(index).await;
    payload.map_err(|error| Status::data_loss(error.to_string()))
}

fn group(hosted: &Hosted) -> Result<&Group, Status> {
    let group = hosted.group.as_ref();
    group.ok_or_else(|| Status::invalid_argument("the set is not replicated"))
}

/// Takes a peer's batches until one cannot be; why.
async fn take_batches(hosted: Hosted, messages: Messages) -> Status {
    match (&hosted.group, &hosted.handle) {
        (Some(group), _) => propose_batches(group, &hosted.stamp, messages).await,
        (None, Some(SetHandle::Local { set, .. })) => apply_batches(set, messages).await,
        (None, _) => Status::invalid_argument("the set takes no batches"),
    }
}

async fn apply_batches(set: &LocalSet, mut messages: Messages) -> Status {
    loop {
        match messages.next().await {
            Ok(Some(message)) => set.take_batch(message),
            Ok(None) => return Status::cancelled("the peer closed the pipe"),
            Err(error) => return error,
        }
    }
}

pub(super) async fn propose_batches(
    group: &Group,
    stamp: &Stamp,
    mut messages: Messages,
) -> Status {
    let mut last: Option<ProposalReceipt> = None;
    // Batches that were proposed in a tenure that has ended may be gone: the peer must send them again before it goes on,
    // and if it waits for them, nothing more will come.
    let mut leadership = group.leadership();
    let tenure = leadership.borrow_and_update().tenure();
    let term = tenure.term;
    let mut ended = std::pin::pin!(leadership.wait_for(|now| now.tenure() != tenure));
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            _ = &mut ended => return Status::unavailable("the lead was interrupted"),
        };
        let mut message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Status::cancelled("the peer closed the pipe"),
            Err(error) => return error,
        };
        let Some(now) = stamp.now() else {
            return Status::unavailable("not the leader");
        };
        if !restamp(message.filled(), now) {
            return Status::invalid_argument("no batch");
        }
        let payload = message.freeze();
        loop {
            match group.propose_in(term, payload.clone()) {
                Ok(receipt) => {
                    last = Some(receipt);
                    break;
                }
                Err(ProposeError::Busy) => match last.take() {
                    // Room comes with the end of what was proposed before.
                    Some(receipt) => drop(receipt.await),
                    None => tokio::task::yield_now().await,
                },
                Err(error) => return Status::unavailable(error.to_string()),
            }
        }
    }
}
