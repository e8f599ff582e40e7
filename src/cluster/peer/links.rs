//! Connections to other nodes.
//!
//! Shape: one HTTP/2 connection per node and lane, made at first use and made again by tonic when it broke. A peer that
//! fell silent is noticed by pings, so that a healed partition does not wait for TCP's patience.
//! Invariants: every request says which cluster and node it comes from, and proves the shared secret.
//! Not here: the answering side ([`super::service`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use hashbrown::HashMap;
use http::{HeaderMap, HeaderValue};
use parking_lot::{Mutex, RwLock};
use tonic::body::Body;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tower_service::Service;

use super::frame::{self, Messages};
use super::{AUTH, CLUSTER, NODE, PeerSecurity, SET};
use crate::base::{NodeId, PipeId, SetId};
use crate::cluster::formation::Membership;
use crate::model::batch::BufferPool;
use crate::raft::{BoxFuture, BoxStream, Frame, Lane, Peer, Transport, TransportError};

/// Flow-control windows: a stream's, and a connection's. Several batches of the largest size fit.
pub(super) const STREAM_WINDOW: u32 = 16 << 20;
/// See [`STREAM_WINDOW`].
pub(super) const CONNECTION_WINDOW: u32 = 32 << 20;
/// Bytes of one HTTP/2 frame: read buffers of this size are recycled by the HTTP/2 layer.
pub(super) const HTTP_FRAME_BYTES: u32 = 64 << 10;
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const PING_EVERY: Duration = Duration::from_secs(2);
const PONG_LIMIT: Duration = Duration::from_secs(2);

/// Which connection to a node a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    Urgent,
    Entries,
    Snapshot,
    Pipe,
}

/// Who this node is to its peers.
#[derive(Debug, Default)]
pub struct Own {
    /// This node; 0 until it is a member.
    pub(super) node: AtomicU64,
    /// The cluster's id; 0 until it is known.
    pub(super) cluster: AtomicU64,
    incarnation: AtomicU64,
}

impl Own {
    /// This node, in this incarnation.
    #[must_use]
    pub fn pipe(&self) -> PipeId {
        PipeId {
            node: NodeId(self.node.load(Ordering::Acquire)),
            incarnation: self.incarnation.load(Ordering::Acquire),
        }
    }

    /// This node is a member from now on.
    pub fn set(&self, membership: &Membership, incarnation: u64) {
        self.node.store(membership.node.0, Ordering::Release);
        self.incarnation.store(incarnation, Ordering::Release);
        let cluster = membership.formation.cluster;
        self.cluster.store(cluster, Ordering::Release);
    }
}

/// See the module's head. Clones share the connections.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

struct Inner {
    own: Arc<Own>,
    security: PeerSecurity,
    pool: BufferPool,
    channels: Mutex<HashMap<(String, Way), Channel>>,
    /// Where nodes are, as the topology says; a member's own record may be older.
    addresses: RwLock<HashMap<NodeId, String>>,
}

fn failed(error: impl std::fmt::Display) -> TransportError {
    TransportError(error.to_string())
}

impl Links {
    /// No connection yet.
    #[must_use]
    pub fn new(own: Arc<Own>, security: PeerSecurity, pool: BufferPool) -> Self {
        Self(Arc::new(Inner {
            own,
            security,
            pool,
            channels: Mutex::default(),
            addresses: RwLock::default(),
        }))
    }

    /// The same secret and certificates, but of no cluster: for a first word to another cluster's member.
    #[must_use]
    pub fn stranger(&self) -> Self {
        let (security, pool) = (self.0.security.clone(), self.0.pool.clone());
        Self::new(Arc::default(), security, pool)
    }

    /// Where a node is from now on.
    pub fn set_address(&self, node: NodeId, address: &str) {
        let known = self
            .0
            .addresses
            .read()
            .get(&node)
            .is_some_and(|at| at == address);
        if !known && !address.is_empty() {
            self.0.addresses.write().insert(node, address.to_owned());
        }
    }

    /// Where a node is, if known.
    #[must_use]
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.0.addresses.read().get(&node).cloned()
    }

    fn channel(&self, address: &str, way: Way) -> Result<Channel, TransportError> {
        let mut channels = self.0.channels.lock();
        if let Some(channel) = channels.get(&(address.to_owned(), way)) {
            return Ok(channel.clone());
        }
        let tls = self.0.security.tls.as_ref();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(failed)?
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_LIMIT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(HTTP_FRAME_BYTES)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_LIMIT)
            .keep_alive_while_idle(true);
        if let Some(tls) = tls {
            let config = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(&tls.ca))
                .identity(Identity::from_pem(&tls.certificate, &tls.key));
            endpoint = endpoint.tls_config(config).map_err(failed)?;
        }
        #[cfg(feature = "sim")]
        let channel = super::wire::connect(&endpoint);
        #[cfg(not(feature = "sim"))]
        let channel = endpoint.connect_lazy();
        channels.insert((address.to_owned(), way), channel.clone());
        Ok(channel)
    }

    fn headers(&self, set: SetId) -> HeaderMap {
        let own = &self.0.own;
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
        headers.insert(CLUSTER, own.cluster.load(Ordering::Acquire).into());
        headers.insert(NODE, own.node.load(Ordering::Acquire).into());
        headers.insert(SET, set.0.into());
        headers.insert(AUTH, self.0.security.token.clone());
        headers
    }

    /// Starts a call; the answer's messages follow as they come.
    async fn call(
        &self,
        address: &str,
        way: Way,
        method: &'static str,
        set: SetId,
        body: Body,
    ) -> Result<Messages, TransportError> {
        let mut channel = self.channel(address, way)?;
        let mut request = http::Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = http::Uri::from_static(method);
        *request.headers_mut() = self.headers(set);
        std::future::poll_fn(|cx| channel.poll_ready(cx))
            .await
            .map_err(failed)?;
        let response = channel.call(request).await.map_err(failed)?;
        frame::ended(response.headers()).map_err(failed)?;
        Ok(Messages::new(response.into_body(), self.0.pool.clone()))
    }

    async fn ask_at(
        &self,
        address: &str,
        way: Way,
        method: &'static str,
        set: SetId,
        frame: Frame,
    ) -> Result<Bytes, TransportError> {
        let once = futures_util::stream::once(async { Ok::<_, tonic::Status>(frame) });
        let mut answer = self
            .call(address, way, method, set, frame::body(once))
            .await?;
        match answer.next().await.map_err(failed)? {
            Some(message) => Ok(message.freeze()),
            None => Err(failed("the peer gave no answer")),
        }
    }

    /// Asks the node at `address` what `frame` says, of the cluster itself: see [`super::control`].
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn control(&self, address: &str, frame: Bytes) -> Result<Bytes, TransportError> {
        let set = SetId::TOPOLOGY;
        self.ask_at(address, Way::Urgent, super::CONTROL, set, vec![frame])
            .await
    }

    /// As [`Self::control`], for long answers: they take a connection on which no vote waits behind them.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn figures(&self, address: &str, frame: Bytes) -> Result<Bytes, TransportError> {
        let set = SetId::TOPOLOGY;
        self.ask_at(address, Way::Snapshot, super::CONTROL, set, vec![frame])
            .await
    }

    /// The payload of an entry of `set`, from the replica on `node`.
    ///
    /// # Errors
    /// The node cannot be reached, or cannot read it either.
    pub async fn entry(
        &self,
        node: NodeId,
        set: SetId,
        index: u64,
    ) -> Result<Bytes, TransportError> {
        let address = self
            .address(node)
            .ok_or_else(|| failed(format!("node {node} has no address")))?;
        let frame = vec![Bytes::copy_from_slice(&index.to_le_bytes())];
        self.ask_at(&address, Way::Snapshot, super::ENTRY, set, frame)
            .await
    }

    /// Sends batches to `node`, which leads `set`; completes with the reason when the pipe ends.
    pub async fn pipe(
        &self,
        node: NodeId,
        set: SetId,
        batches: impl Stream<Item = Bytes> + Send + 'static,
    ) -> TransportError {
        let Some(address) = self.address(node) else {
            return failed(format!("node {node} has no address"));
        };
        let body = frame::body(batches.map(|batch| Ok::<_, tonic::Status>(vec![batch])));
        match self.call(&address, Way::Pipe, super::PIPE, set, body).await {
            Ok(mut answers) => match answers.next().await {
                Ok(_) => failed("the leader closed the pipe"),
                Err(error) => failed(error),
            },
            Err(error) => error,
        }
    }

    /// Opens a watch of `set` at `node`: the request goes out, what it says comes back.
    ///
    /// # Errors
    /// The node cannot be reached, or refuses.
    pub async fn watch(
        &self,
        node: NodeId,
        set: SetId,
        request: Bytes,
    ) -> Result<Messages, TransportError> {
        let address = self
            .address(node)
            .ok_or_else(|| failed(format!("node {node} has no address")))?;
        let once = futures_util::stream::once(async { Ok::<_, tonic::Status>(vec![request]) });
        let body = frame::body(once);
        self.call(&address, Way::Pipe, super::WATCH, set, body)
            .await
    }
}

impl Transport for Links {
    fn request(
        &self,
        to: &Peer,
        lane: Lane,
        frame: Frame,
    ) -> BoxFuture<Result<Bytes, TransportError>> {
        let (links, set) = (self.clone(), to.set);
        let address = self.address(to.node).unwrap_or_else(|| to.address.clone());
        let way = way(lane);
        Box::pin(async move {
            links
                .ask_at(&address, way, super::REQUEST, set, frame)
                .await
        })
    }

    fn appends(
        &self,
        to: &Peer,
        lane: Lane,
        frames: BoxStream<Frame>,
    ) -> BoxFuture<Result<BoxStream<Result<Bytes, TransportError>>, TransportError>> {
        let (links, set) = (self.clone(), to.set);
        let address = self.address(to.node).unwrap_or_else(|| to.address.clone());
        let way = way(lane);
        Box::pin(async move {
            let body = frame::body(frames.map(Ok::<_, tonic::Status>));
            let answers = links.call(&address, way, super::APPENDS, set, body).await?;
            let answers = answers.into_stream().map(|answer| answer.map_err(failed));
            let boxed: BoxStream<Result<Bytes, TransportError>> = Box::pin(answers);
            Ok(boxed)
        })
    }

    fn snapshot(
        &self,
        to: &Peer,
        frames: BoxStream<Frame>,
    ) -> BoxFuture<Result<Bytes, TransportError>> {
        let (links, set) = (self.clone(), to.set);
        let address = self.address(to.node).unwrap_or_else(|| to.address.clone());
        Box::pin(async move {
            let body = frame::body(frames.map(Ok::<_, tonic::Status>));
            let call = links.call(&address, Way::Snapshot, super::SNAPSHOT, set, body);
            match call.await?.next().await.map_err(failed)? {
                Some(message) => Ok(message.freeze()),
                None => Err(failed("the peer gave no answer")),
            }
        })
    }
}

fn way(lane: Lane) -> Way {
    match lane {
        Lane::Urgent => Way::Urgent,
        Lane::Appends => Way::Entries,
        Lane::Snapshot => Way::Snapshot,
    }
}
