//! Metrics for Prometheus, under RabbitMQ's names: `/metrics` (sums), `/metrics/per-object`, `/metrics/detailed` (chosen
//! families) and `/metrics/memory-breakdown`.
//!
//! Need: RabbitMQ's dashboards and alerts work unchanged, and a scrape does not slow messages. Shape: counters of the node
//! are the crate `prometheus`'s and count as things happen; everything else is read at each scrape and written as text.
//! Invariants: one `rabbitmq_identity_info` and one `rabbitmq_build_info` per scrape; what a set holds is reported by its
//! leader only, so that sums over nodes are right. Bounds: `/metrics` is as long with 20 000 queues as with one; the others
//! have a line per object and family, and at most [`SCRAPES_MAX`] of them are written at a time.

mod node;
mod objects;
mod queues;
mod raft;
mod text;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fancy_regex::Regex;
use prometheus::TextEncoder;
use tokio::sync::Semaphore;

use self::objects::Described;
use self::text::Text;
use super::web::{Peer, WebListener};
use crate::broker::{Failures, Node, alarm};
use crate::shovel::Shovels;

pub(super) use self::node::{max_fds, open_fds, tasks};

/// Long scrapes that run at once; more wait.
const SCRAPES_MAX: usize = 2;
/// A connection that does not say within this what its channels are like is left out.
const ASK_LIMIT: Duration = Duration::from_secs(2);
const PATTERN_MAX: usize = 1_024;

/// What a scrape reads.
pub struct MetricsState {
    node: Arc<Node>,
    names: Names,
    limits: alarm::Limits,
    shovels: Arc<Shovels>,
    started: Instant,
    scrapes: Semaphore,
    options: MetricsOptions,
    brake: Failures,
}

/// Where metrics are, for whom, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsOptions {
    /// The path of the sums; the other endpoints are below it. Begins with `/` and does not end with it.
    pub path: String,
    /// Only users with the tag `monitoring` or `administrator` may read them, by HTTP Basic.
    pub authenticated: bool,
    /// The sums are as `per-object`.
    pub per_object: bool,
}

impl Default for MetricsOptions {
    fn default() -> Self {
        Self {
            path: "/metrics".to_owned(),
            authenticated: false,
            per_object: false,
        }
    }
}

/// What the node says of itself.
#[derive(Clone, Debug)]
pub struct Names {
    /// Node name, `rabbit@host`.
    pub node: String,
    /// What the cluster is called by as long as it exists, on each of its nodes; empty until the node is a member.
    pub cluster_id: String,
    /// The version advertised to clients.
    pub version: String,
    /// The product advertised to clients.
    pub product: String,
    /// Type of queues declared without one, in vhosts made without one.
    pub default_queue_type: String,
    /// What the operator calls the cluster by: names and values.
    pub cluster_tags: Vec<(String, String)>,
    /// And this node.
    pub node_tags: Vec<(String, String)>,
}

impl MetricsState {
    /// Over a started node.
    #[must_use]
    pub fn new(
        node: Arc<Node>,
        names: Names,
        limits: alarm::Limits,
        shovels: Arc<Shovels>,
        options: MetricsOptions,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            names,
            limits,
            shovels,
            started: Instant::now(),
            scrapes: Semaphore::new(SCRAPES_MAX),
            options,
            brake: Failures::default(),
        })
    }
}

/// Serves until the node stops.
pub async fn serve(state: Arc<MetricsState>, listener: WebListener) {
    let supervisor = state.node.supervisor.clone();
    let app = router(state).into_make_service_with_connect_info::<Peer>();
    let stopping = async move { supervisor.stopping().await };
    if let Err(error) = axum::serve(listener, app)
        .with_graceful_shutdown(stopping)
        .await
    {
        tracing::error!(%error, "the metrics listener ended");
    }
}

fn router(state: Arc<MetricsState>) -> Router {
    let path = &state.options.path;
    let root = if path.is_empty() { "/" } else { path };
    let router = Router::new()
        .route(root, get(aggregated))
        .route(&format!("{path}/per-object"), get(per_object))
        .route(&format!("{path}/detailed"), get(detailed))
        .route(&format!("{path}/memory-breakdown"), get(memory));
    let router = match state.options.authenticated {
        true => router.layer(middleware::from_fn_with_state(Arc::clone(&state), watched)),
        false => router,
    };
    let router = router.fallback(|| async { (StatusCode::NOT_FOUND, "Unknown Registry") });
    router.with_state(state)
}

/// Lets through who may watch.
async fn watched(
    State(state): State<Arc<MetricsState>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let refused = super::api::watches(&state.node, &state.brake, request.headers(), peer.ip());
    match refused {
        Ok(()) => next.run(request).await,
        Err(refused) => *refused,
    }
}

fn answered(text: String) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn aggregated(State(state): State<Arc<MetricsState>>) -> Response {
    if state.options.per_object {
        return per_object(State(state)).await;
    }
    let mut text = Text::new("rabbitmq_");
    node::identity(&mut text, &state, "aggregated");
    counters(&mut text, &state, |_| true);
    node::figures(&mut text, &state);
    node::sums(&mut text, &state);
    queues::sums(&mut text, &state);
    raft::figures(&mut text, &state, false);
    raft::own(&mut text, &state);
    node::shovels(&mut text, &state);
    answered(text.finish())
}

async fn memory(State(state): State<Arc<MetricsState>>) -> Response {
    let mut text = Text::new("rabbitmq_");
    node::identity(&mut text, &state, "memory-breakdown");
    node::memory(&mut text);
    answered(text.finish())
}

/// The node's own counters, those whose family is wanted.
fn counters(text: &mut Text, state: &MetricsState, wanted: impl Fn(&str) -> bool) {
    let mut families = state.node.stats.registry.gather();
    families.retain(|family| wanted(family.name()));
    match TextEncoder::new().encode_to_string(&families) {
        Ok(written) => text.append(&written),
        Err(error) => tracing::error!(%error, "metrics cannot be written"),
    }
}

/// Which objects are wanted.
#[derive(Debug, Default)]
struct Scope {
    vhosts: Option<Vec<String>>,
    queue: Option<Regex>,
}

impl Scope {
    fn has_vhost(&self, vhost: &str) -> bool {
        let wanted = self.vhosts.as_ref();
        wanted.is_none_or(|wanted| wanted.iter().any(|one| one == vhost))
    }

    fn has_queue(&self, vhost: &str, queue: &str) -> bool {
        // A pattern that takes too many steps matches nothing.
        let fits = |pattern: &Regex| pattern.is_match(queue).unwrap_or(false);
        self.has_vhost(vhost) && self.queue.as_ref().is_none_or(fits)
    }
}

async fn per_object(State(state): State<Arc<MetricsState>>) -> Response {
    let described = described(&state).await;
    let write = move |state: &MetricsState| {
        let mut text = Text::new("rabbitmq_");
        node::identity(&mut text, state, "per-object");
        counters(&mut text, state, |family| !objects::has_objects(family));
        node::figures(&mut text, state);
        let scope = Scope::default();
        let rows = queues::rows(state, &scope);
        for family in queues::FAMILIES {
            queues::objects(&mut text, &rows, family);
        }
        for family in objects::FAMILIES {
            objects::objects(&mut text, state, family, &scope, &described);
        }
        raft::figures(&mut text, state, true);
        raft::own(&mut text, state);
        node::shovels(&mut text, state);
        text.finish()
    };
    apart(state, write).await
}

async fn detailed(State(state): State<Arc<MetricsState>>, RawQuery(query): RawQuery) -> Response {
    let (families, scope) = match wanted(&state, &query.unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(reason) => return (StatusCode::BAD_REQUEST, reason).into_response(),
    };
    let asks = families.iter().any(|family| objects::asks(family));
    let described = if asks {
        described(&state).await
    } else {
        Vec::new()
    };
    let write = move |state: &MetricsState| {
        let mut text = Text::new("rabbitmq_detailed_");
        node::identity(&mut text, state, "detailed");
        let of_queues = |family: &String| queues::ALL.contains(&family.as_str());
        let rows = match families.iter().any(of_queues) {
            true => queues::rows(state, &scope),
            false => Vec::new(),
        };
        for family in &families {
            queues::objects(&mut text, &rows, family);
            objects::objects(&mut text, state, family, &scope, &described);
            match family.as_str() {
                "connection_churn_metrics" => node::churn(&mut text, state),
                "node_coarse_metrics" | "node_metrics" | "node_persister_metrics" => {
                    node::detailed(&mut text, state, family);
                }
                "auth_attempt_metrics" => node::auth(&mut text, state),
                "ra_metrics" => raft::figures(&mut text, state, true),
                _ => {}
            }
        }
        text.finish()
    };
    apart(state, write).await
}

/// Families and objects a query names. What is not known is ignored, but a pattern must be one.
fn wanted(state: &MetricsState, query: &str) -> Result<(Vec<String>, Scope), &'static str> {
    let (mut families, mut scope) = (Vec::<String>::new(), Scope::default());
    let topology = &state.node.cluster.topology;
    for (key, value) in super::api::pairs(query) {
        match key.as_str() {
            "family" if !families.contains(&value) => families.push(value),
            "vhost" => {
                let wanted = scope.vhosts.get_or_insert_default();
                if topology.read(|topology| topology.has_vhost(&value)) {
                    wanted.push(value);
                }
            }
            "queue" if scope.queue.is_some() => return Err("only one queue pattern is taken"),
            "queue" if value.len() > PATTERN_MAX => return Err("the queue pattern is too long"),
            "queue" => {
                let pattern = Regex::new(&value).map_err(|_| "the queue pattern is none")?;
                scope.queue = Some(pattern);
            }
            _ => {}
        }
    }
    if families.iter().any(|family| family == "queue_metrics") {
        families.retain(|family| family != "queue_consumer_count");
    }
    Ok((families, scope))
}

/// What only connections' tasks know of their channels.
async fn described(state: &MetricsState) -> Described {
    let mut all = Vec::new();
    for some in state.node.clients.all().chunks(256) {
        let asked = some.iter().map(|client| client.describe(ASK_LIMIT));
        let told = futures_util::future::join_all(asked.collect::<Vec<_>>()).await;
        let told = told.into_iter().map(Option::unwrap_or_default);
        all.extend(some.iter().cloned().zip(told));
    }
    all
}

/// Writes a long scrape where it holds up no message.
async fn apart(
    state: Arc<MetricsState>,
    write: impl FnOnce(&MetricsState) -> String + Send + 'static,
) -> Response {
    let Ok(_turn) = state.scrapes.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let shared = Arc::clone(&state);
    match tokio::task::spawn_blocking(move || write(&shared)).await {
        Ok(text) => answered(text),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
