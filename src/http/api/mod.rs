//! The management HTTP API, RabbitMQ's: `/api/…` on port 15672.
//!
//! Need: rabbitmqadmin, Terraform, dashboards and health probes work unchanged. Shape: [`routes`] is one table of paths,
//! methods and who may use them, checked here; each resource is a file that answers what is in the table. Paths are split
//! before they are decoded, so `%2F` stays within its segment. Invariants: a request that is malformed gets a 4xx; bodies
//! are bounded by [`ApiOptions::body_bytes_max`]; what changes something goes through the topology as a client's would.
//! What other nodes know is asked of them ([`peers`]). Not here: a user interface, TLS.

mod auth;
mod bindings;
mod certificates;
mod channels;
mod connections;
mod defaults;
mod definitions;
mod encoding;
mod error;
mod exchanges;
mod figures;
mod front;
mod health;
mod history;
mod import;
mod json;
mod limits;
mod list;
mod messages;
mod nodes;
mod overview;
mod passwords;
mod peers;
mod permissions;
mod policies;
mod queues;
mod quorum;
mod request;
mod routes;
mod samples;
mod shovels;
mod users;
mod vhosts;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{ConnectInfo, State};
use axum::http::{
    HeaderMap, HeaderValue, Method, Request as HttpRequest, Response, StatusCode, header,
};
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use serde_json::Value;

use self::auth::Who;
pub use self::defaults::{DefaultLimits, DefaultPolicy, DefaultUser, VhostDefaults};
use self::encoding::Encoding;
use self::error::ApiError;
use self::front::Asked;
pub use self::front::Front;
use self::history::Ranges;
pub use self::import::{at_start as import, files as definition_files};
pub use self::passwords::{PasswordRule, Passwords};
use self::request::Request;
pub(super) use self::request::pairs;
use self::samples::Samples;
use super::Names;
use super::web::{Peer, WebListener};
use crate::broker::tls::TlsServer;
use crate::broker::{Direct, Failures, Node, alarm};
use crate::cluster::peer::control::{Ask, Told};
use crate::model::topology::TopologyCommand;
use crate::shovel::Shovels;

/// What the API is told.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// Largest body taken, bytes (RabbitMQ's `management.http.max_body_size`).
    pub body_bytes_max: usize,
    /// Vhosts that may be made of the cluster; those that are there stay. `None`: any number.
    pub vhosts_max: Option<u32>,
    /// What new vhosts are given.
    pub vhost_defaults: VhostDefaults,
    /// What new passwords must be like.
    pub passwords: Passwords,
    /// How it looks from outside.
    pub front: Front,
    /// The files the node's configuration came from.
    pub config_files: Vec<PathBuf>,
    /// Where its log goes.
    pub log_files: Vec<String>,
    /// Nodes that make the cluster complete, as configured; 0 and 1 are one.
    pub target_size: usize,
}

/// Where the node listens, for overview and health checks.
#[derive(Clone, Debug)]
pub struct Listener {
    /// `amqp`, `amqp/ssl`, `http`, `https`, `http/prometheus`, `https/prometheus`, `clustering`.
    pub protocol: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// Its TLS, if it has any.
    pub tls: Option<Arc<TlsServer>>,
}

/// What the API answers from.
pub struct Api {
    node: Arc<Node>,
    names: Names,
    limits: alarm::Limits,
    listeners: Vec<Listener>,
    options: ApiOptions,
    started: Instant,
    brake: Failures,
    samples: Samples,
    shovels: Arc<Shovels>,
}

/// One request on its way.
struct Context {
    api: Arc<Api>,
    request: Request,
    who: Who,
    /// From where.
    peer: IpAddr,
    /// Windows of samples that are wanted.
    ranges: Ranges,
    /// Nodes that were asked and did not answer.
    silent: Mutex<BTreeSet<String>>,
}

/// A good answer.
enum Reply {
    /// 200.
    Json(Value),
    /// 201, with where it is.
    Created(Option<String>),
    /// 204.
    Done,
    /// 303: look there.
    See(String),
    /// 200 without a body, with `Allow`.
    Allowed(String),
    /// 200, to be saved under this name.
    Download(Value, String),
    /// 200 with a list that is rendered while it is sent.
    Rows(Rows),
}

type Answer = Result<Reply, ApiError>;
type Rows = Pin<Box<dyn Stream<Item = Vec<u8>> + Send>>;

impl Api {
    /// Over a started node.
    #[must_use]
    pub fn new(
        node: Arc<Node>,
        names: Names,
        limits: alarm::Limits,
        listeners: Vec<Listener>,
        options: ApiOptions,
        shovels: Arc<Shovels>,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            names,
            limits,
            listeners,
            options,
            started: Instant::now(),
            brake: Failures::default(),
            samples: Samples::default(),
            shovels,
        })
    }
}

/// Keeps figures, and answers other nodes, until the node stops; once, however many listeners serve, or none.
pub async fn sample(api: Arc<Api>) {
    peers::serve(&api);
    let supervisor = api.node.supervisor.clone();
    samples::run(api, supervisor).await;
}

/// Serves until the node stops.
pub async fn serve(api: Arc<Api>, listener: WebListener) {
    let supervisor = api.node.supervisor.clone();
    let app = Router::new().fallback(handle).with_state(api);
    let app = app.into_make_service_with_connect_info::<Peer>();
    let stopping = async move { supervisor.stopping().await };
    if let Err(error) = axum::serve(listener, app)
        .with_graceful_shutdown(stopping)
        .await
    {
        tracing::error!(%error, "the management listener ended");
    }
}

async fn handle(
    State(api): State<Arc<Api>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: HttpRequest<Body>,
) -> Response<Body> {
    // A client that leaves must not take a half-done request with it.
    let supervisor = api.node.supervisor.clone();
    let answer = supervisor.spawn("api request", answer(api, Some(peer), request));
    match answer.await {
        Ok(response) => response,
        Err(_) => written(StatusCode::INTERNAL_SERVER_ERROR, Vec::new(), &[]),
    }
}

/// Answers whoever runs the node: no credentials, every right.
pub(super) async fn answer_operator(api: Arc<Api>, request: HttpRequest<Body>) -> Response<Body> {
    answer(api, None, request).await
}

/// Whether these credentials are a user's.
pub(super) fn authenticates(api: &Api, user: &str, password: &str) -> bool {
    let topology = &api.node.cluster.topology;
    topology.read(|topology| topology.authenticate(user, password).is_some())
}

/// Gives the vhost that an empty store was seeded with what is configured for new vhosts.
///
/// # Errors
/// Why not.
pub async fn furnish(api: &Api, vhost: &str) -> Result<(), String> {
    let given = api.options.vhost_defaults.give(&api.node, vhost).await;
    given.map_err(|error| error.reason.as_str().unwrap_or_default().to_owned())
}

/// Whether somebody may read the metrics; if not, the answer. The realm of its challenge is Prometheus's.
pub(super) fn watches(
    node: &Node,
    brake: &Failures,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<(), Box<Response<Body>>> {
    let who = auth::who(node, brake, headers, peer).and_then(|who| match who.is_monitor() {
        true => Ok(()),
        false => Err(ApiError::not_authorised("Not monitor user")),
    });
    who.map_err(|error| {
        let mut response = refused(&error);
        if let Some(realm) = response.headers_mut().get_mut(header::WWW_AUTHENTICATE) {
            *realm = HeaderValue::from_static("Basic realm=\"RabbitMQ Prometheus\"");
        }
        Box::new(response)
    })
}

/// Certificates of the node's listeners.
pub(super) fn certificates_of(api: &Api) -> Value {
    certificates::all(api).into()
}

/// How many messages of which size came in at this node: `{"up_to": bytes or null, "count"}`, the smallest first.
pub(super) fn message_sizes(api: &Api) -> Value {
    let sizes = api.node.stats.message_sizes();
    let rows = sizes.into_iter();
    rows.map(|(up_to, count)| serde_json::json!({"up_to": up_to, "count": count}))
        .collect()
}

/// Tells the cluster something on behalf of whoever runs the node.
pub(super) async fn tell_cluster(api: &Api, ask: Ask) -> Result<(), String> {
    match api.node.cluster.told(ask).await {
        Told::Refused(why) => Err(why),
        _ => Ok(()),
    }
}

/// Takes the node out of service for its operator, or puts it back: `drain`, `suspend`, `revive`.
pub(super) async fn maintain(api: &Api, word: &str) -> Result<(), String> {
    match word {
        "drain" => {
            api.node.suspend(true);
            tracing::warn!("the node goes into maintenance: its clients are sent away");
            for client in api.node.clients.all() {
                client.close("Node was put into maintenance mode");
            }
            api.node.cluster.yield_leaderships().await;
        }
        "suspend" => api.node.suspend(true),
        "revive" => api.node.suspend(false),
        _ => return Err("no such verb".to_owned()),
    }
    Ok(())
}

/// Without a `peer` it is the operator who asks.
async fn answer(
    api: Arc<Api>,
    peer: Option<SocketAddr>,
    request: HttpRequest<Body>,
) -> Response<Body> {
    let head = request.method() == Method::HEAD;
    let encoding = Encoding::of(request.headers());
    let asked = Asked::of(request.method(), request.headers());
    let mut silent = BTreeSet::new();
    // An operator asks over the control socket, which has no front.
    let front = api.options.front.clone();
    let front = peer.map(|_| front);
    let answer = match taken(request, front.as_ref(), api.options.body_bytes_max).await {
        Ok(request) => perform(api, peer, request, &mut silent).await,
        Err(error) => Err(error),
    };
    let mut response = match answer {
        Ok(reply) => accepted(reply, encoding),
        Err(error) => refused(&error),
    };
    if response.body().size_hint().exact() == Some(0) {
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    if let Some(front) = &front {
        front.dress(&asked, &mut response);
    }
    let names = silent.into_iter().collect::<Vec<_>>().join(", ");
    if !names.is_empty()
        && let Ok(names) = HeaderValue::from_str(&names)
    {
        response
            .headers_mut()
            .insert("x-leveret-silent-nodes", names);
    }
    if head {
        *response.body_mut() = Body::empty();
    }
    response
}

/// Takes a request apart and reads its body.
async fn taken(
    request: HttpRequest<Body>,
    front: Option<&Front>,
    body_max: usize,
) -> Result<Request, ApiError> {
    let (parts, body) = request.into_parts();
    let mut path = parts.uri.path();
    let bad = || ApiError::bad_request("malformed path");
    let mut query = request::parameters(parts.uri.query().unwrap_or_default());
    if let Some(front) = front {
        path = front.inner(path)?;
        for (is, name) in [
            (front.without_stats, "disable_stats"),
            (front.queue_totals, "enable_queue_totals"),
        ] {
            query.extend(is.then(|| (name.to_owned(), "true".to_owned())));
        }
    }
    let path = request::segments(path).ok_or_else(bad)?;
    let body = axum::body::to_bytes(body, body_max).await;
    let body = body.map_err(|_| ApiError::bad_request("Exceeded HTTP request body size limit"))?;
    let method = match parts.method {
        Method::HEAD => Method::GET,
        other => other,
    };
    let Some(("api", path)) = path
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    else {
        return Err(ApiError::not_found());
    };
    Ok(Request {
        method,
        path: path.to_vec(),
        query,
        headers: parts.headers,
        body: body.to_vec(),
    })
}

async fn perform(
    api: Arc<Api>,
    peer: Option<SocketAddr>,
    request: Request,
    silent: &mut BTreeSet<String>,
) -> Answer {
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    let route = routes::find(&path).ok_or_else(ApiError::not_found)?;
    if request.method == Method::OPTIONS {
        return Ok(Reply::Allowed(route.allow()));
    }
    let front = &api.options.front;
    let fixed = front.operator_policies_fixed && path[0] == "operator-policies" && peer.is_some();
    let mut methods = if fixed { "GET" } else { route.methods }.split(' ');
    if !methods.any(|method| method == request.method.as_str()) {
        let mut error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "");
        error.allow = Some(route.allow());
        return Err(error);
    }
    let open = route.read == routes::Tag::Nobody;
    let who = match peer {
        None => Who::operator(),
        Some(_) if open => Who::default(),
        Some(_) if front.without_basic => {
            let status = StatusCode::UNAUTHORIZED;
            return Err(ApiError::new(status, "not_authorized", "Not_Authorized"));
        }
        Some(peer) => auth::who(&api.node, &api.brake, &request.headers, peer.ip())?,
    };
    let ranges = Ranges::of(&request)?;
    let context = Context {
        api,
        request,
        who,
        peer: peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip()),
        ranges,
        silent: Mutex::default(),
    };
    if !open {
        route.check(&context)?;
    }
    let answer = routes::perform(&context).await;
    *silent = context.silent.into_inner();
    answer
}

impl Context {
    /// The same request, for what goes on after its answer has begun.
    fn again(&self) -> Self {
        Self {
            api: Arc::clone(&self.api),
            request: self.request.clone(),
            who: self.who.clone(),
            peer: self.peer,
            ranges: self.ranges,
            silent: Mutex::default(),
        }
    }

    fn node(&self) -> &Arc<Node> {
        &self.api.node
    }

    /// Somebody who names themselves in the request's body.
    fn login(&self, user: &str, password: &str) -> Result<Who, ApiError> {
        if self.api.options.front.without_basic {
            return Err(ApiError::not_authorised("Not_Authorized"));
        }
        let known = (user.to_owned(), password);
        auth::login(self.node(), &self.api.brake, known, self.peer)
    }

    fn path(&self) -> Vec<&str> {
        self.request.path.iter().map(String::as_str).collect()
    }

    fn is(&self, method: &str) -> bool {
        self.request.method.as_str() == method
    }

    /// The user who asks, in a vhost.
    fn direct(&self, vhost: &str) -> Direct {
        match self.who.operator {
            true => Direct::operator(self.node(), vhost),
            false => Direct::new(self.node(), &self.who.name, vhost),
        }
    }

    /// Changes the topology; whoever asks was checked before.
    async fn change(&self, command: TopologyCommand) -> Result<(), ApiError> {
        let direct = Direct::new(self.node(), "", "");
        direct.change(command).await?;
        Ok(())
    }

    /// Whether the user may see what is in a vhost.
    fn sees(&self, vhost: &str) -> bool {
        self.who.is_administrator() || self.may_use(vhost)
    }

    /// Whether the user may see that there is a vhost, and what limits it has.
    fn sees_vhost(&self, vhost: &str) -> bool {
        self.who.is_monitor() || self.may_use(vhost)
    }

    fn may_use(&self, vhost: &str) -> bool {
        if self.who.operator {
            return self.has_vhost(vhost);
        }
        let topology = &self.node().cluster.topology;
        topology.read(|topology| topology.vhost_access(&self.who.name, vhost))
    }

    fn has_vhost(&self, vhost: &str) -> bool {
        let topology = &self.node().cluster.topology;
        topology.read(|topology| topology.has_vhost(vhost))
    }

    /// The vhost a list is limited to, by path or header.
    fn wanted_vhost(&self, in_path: Option<&str>) -> Option<String> {
        let header = self
            .request
            .header("x-vhost")
            .filter(|name| !name.is_empty());
        in_path.or(header).map(str::to_owned)
    }

    /// 200 with an object, in the columns asked for.
    fn one(&self, row: Value) -> Answer {
        Ok(Reply::Json(list::columns(&self.request, row)))
    }

    /// 200 with a list that has no pages.
    fn all(&self, rows: Vec<Value>) -> Answer {
        Ok(Reply::Json(list::plain(&self.request, rows)))
    }
}

/// 201 for what is new, 204 for what was there.
fn put(existed: bool) -> Answer {
    match existed {
        true => Ok(Reply::Done),
        false => Ok(Reply::Created(None)),
    }
}

fn accepted(reply: Reply, encoding: Encoding) -> Response<Body> {
    let ok = |body: Vec<u8>, mut headers: Vec<(header::HeaderName, String)>| {
        let (body, name) = encoding.encode(body);
        headers.extend(name.map(|name| (header::CONTENT_ENCODING, name.to_owned())));
        written(StatusCode::OK, body, &headers)
    };
    match reply {
        Reply::Json(value) => ok(value.to_string().into_bytes(), Vec::new()),
        Reply::Download(value, name) => {
            let quoted = name.replace(['"', '\\', '\r', '\n'], "_");
            let saved = format!("attachment; filename=\"{quoted}\"");
            let headers = vec![(header::CONTENT_DISPOSITION, saved)];
            ok(value.to_string().into_bytes(), headers)
        }
        Reply::Rows(rows) => {
            let (rows, name) = encoding.encode_rows(rows);
            let name = name.map(|name| (header::CONTENT_ENCODING, name.to_owned()));
            let mut response = written(StatusCode::OK, Vec::new(), name.as_slice());
            let rows = rows.map(Ok::<_, std::convert::Infallible>);
            *response.body_mut() = Body::from_stream(rows);
            response
        }
        Reply::Created(Some(location)) => written(
            StatusCode::CREATED,
            Vec::new(),
            &[(header::LOCATION, location)],
        ),
        Reply::Created(None) => written(StatusCode::CREATED, Vec::new(), &[]),
        Reply::Done => written(StatusCode::NO_CONTENT, Vec::new(), &[]),
        Reply::See(place) => written(
            StatusCode::SEE_OTHER,
            Vec::new(),
            &[(header::LOCATION, place)],
        ),
        Reply::Allowed(methods) => written(StatusCode::OK, Vec::new(), &[(header::ALLOW, methods)]),
    }
}

fn refused(error: &ApiError) -> Response<Body> {
    let mut headers = Vec::new();
    if let Some(allow) = &error.allow {
        headers.push((header::ALLOW, allow.clone()));
    }
    if error.challenge {
        let realm = "Basic realm=\"RabbitMQ Management\"".to_owned();
        headers.push((header::WWW_AUTHENTICATE, realm));
    }
    written(error.status, error.body(), &headers)
}

fn written(
    status: StatusCode,
    body: Vec<u8>,
    headers: &[(header::HeaderName, String)],
) -> Response<Body> {
    let mut builder = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CACHE_CONTROL, "no-cache")
        .header(header::VARY, "accept, accept-encoding, origin")
        .header(
            header::CONTENT_SECURITY_POLICY,
            "script-src 'self'; object-src 'self'",
        );
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    builder.body(Body::from(body)).unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
