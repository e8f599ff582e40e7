//! The cluster at a glance, who asks, and the small endpoints that tools probe.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prometheus::IntCounter;
use serde_json::{Value, json};

use super::auth::Who;
use super::error::ApiError;
use super::history::{self, Ranges};
use super::{Answer, Api, Context, Listener, Reply, peers};
use crate::amqp::{AMQPValue, LongString};
use crate::model::topology::{SettingsCommand, Topology, TopologyCommand, hash_password};

/// Stable features, all there and required, under the names tools look for.
const FEATURES: [&str; 17] = [
    "classic_mirrored_queue_version",
    "classic_queue_type_delivery_support",
    "detailed_queues_endpoint",
    "direct_exchange_routing_v2",
    "empty_basic_get_metric",
    "feature_flags_v2",
    "implicit_default_bindings",
    "khepri_db",
    "listener_records_in_ets",
    "maintenance_mode_status",
    "message_containers",
    "quorum_queue",
    "rabbitmq_4.0.0",
    "rabbitmq_4.2.0",
    "restart_streams",
    "tracking_records_in_ets",
    "user_limits",
];

/// What RabbitMQ 4.2 calls deprecated, since when it does, and whether it can be used here.
const DEPRECATED: [(&str, &str, bool); 7] = [
    ("amqp_address_v1", "permitted_by_default", false),
    ("classic_queue_mirroring", "removed", false),
    ("global_qos", "permitted_by_default", true),
    (
        "management_metrics_collection",
        "permitted_by_default",
        true,
    ),
    ("queue_master_locator", "permitted_by_default", false),
    ("ram_node_type", "removed", false),
    ("transient_nonexcl_queues", "permitted_by_default", true),
];

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match (path.as_slice(), context.request.method.as_str()) {
        (["overview"], _) => overview(context).await,
        (["whoami"], _) => context.one(shown(context, &context.who)),
        (["auth"], _) => Ok(Reply::Json(json!({"oauth_enabled": false}))),
        (["version"], _) => Ok(Reply::Json(json!(context.api.names.version))),
        (["cluster-name"], "GET") => context.one(json!({"name": context.node().cluster_name()})),
        (["cluster-name"], _) => rename(context).await,
        (["extensions"], _) => context.all(vec![json!({"javascript": "dispatcher.js"})]),
        (["feature-flags"], _) => context.all(features()),
        (["feature-flags", name, "enable"], _) => {
            match features().iter().any(|row| row["name"] == **name) {
                true => Ok(Reply::Done),
                false => Err(ApiError::bad_request("unsupported")),
            }
        }
        (["rebalance", "queues"], _) => Ok(Reply::Done),
        (["auth", "attempts", node, rest @ ..], _) => attempts_of(context, node, rest).await,
        (["login"], "POST") => login(context),
        (["login"], _) => Ok(Reply::Done),
        (["reset", ..], _) => {
            context.api.samples.clear();
            Ok(Reply::Done)
        }
        (["auth", "hash_password", password], _) => {
            let hashing = context.api.options.passwords.hashing;
            let hash = hash_password(hashing, rand::random(), password);
            context.one(json!({"ok": hash}))
        }
        (["deprecated-features"], _) => context.all(deprecated()),
        (["deprecated-features", "used"], _) => context.all(used(context)),
        // What is not there has nothing to list.
        (["federation-links" | "stream", ..], "GET") => context.all(Vec::new()),
        _ => Err(ApiError::not_found()),
    }
}

async fn rename(context: &Context) -> Answer {
    let body = context.request.object()?;
    body.need(&["name"])?;
    let name = body.text("name")?.unwrap_or_default();
    let set = SettingsCommand::PutGlobal {
        name: Topology::CLUSTER_NAME.to_owned(),
        value: AMQPValue::LongString(LongString::from(name)),
    };
    context.change(TopologyCommand::Settings(set)).await?;
    Ok(Reply::Done)
}

/// Logins at a node of the cluster, by protocol; where they came from is not told apart.
async fn attempts_of(context: &Context, node: &str, rest: &[&str]) -> Answer {
    let names = super::queues::node_names(&context.api);
    let known = names.into_iter().find(|(_, name)| *name == *node);
    let (id, _) = known.ok_or_else(ApiError::not_found)?;
    let reset = context.is("DELETE");
    let mut rows = Vec::new();
    if rest.is_empty() {
        let question = json!({"what": "attempts", "reset": reset});
        let told = match id == context.node().cluster.node() {
            true => Some(own_attempts(&context.api, reset)),
            false => {
                let told = peers::others(context, &question, Some(&[id])).await;
                told.into_iter().next().map(|(_, _, answer)| answer)
            }
        };
        let told = told.and_then(|told| told.as_array().cloned());
        rows = told.ok_or_else(|| ApiError::unavailable("the node does not answer"))?;
    }
    match reset {
        true => Ok(Reply::Done),
        false => context.all(rows),
    }
}

/// Logins at this node; counted from 0 again if that is wanted.
pub fn own_attempts(api: &Api, reset: bool) -> Value {
    let counters = attempts(api).into_iter();
    let rows = counters.map(|(protocol, [all, succeeded, failed])| {
        let row = json!({
            "protocol": protocol,
            "auth_attempts": all.get(),
            "auth_attempts_failed": failed.get(),
            "auth_attempts_succeeded": succeeded.get(),
        });
        if reset {
            for counter in [all, succeeded, failed] {
                counter.reset();
            }
        }
        row
    });
    rows.collect()
}

fn attempts(api: &Api) -> [(&'static str, [&IntCounter; 3]); 2] {
    let stats = &api.node.stats;
    [
        (
            "amqp091",
            [
                &stats.auth_attempts,
                &stats.auth_attempts_succeeded,
                &stats.auth_attempts_failed,
            ],
        ),
        (
            "http",
            [
                &stats.http_auth_attempts,
                &stats.http_auth_attempts_succeeded,
                &stats.http_auth_attempts_failed,
            ],
        ),
    ]
}

/// The user interface's login: the credentials it sends again with every request.
fn login(context: &Context) -> Answer {
    let form = super::request::parameters(&String::from_utf8_lossy(&context.request.body));
    let text = |key: &str| form.get(key).cloned().unwrap_or_default();
    let (user, password) = (text("username"), text("password"));
    let who = context.login(&user, &password)?;
    let value = STANDARD.encode(format!("{user}:{password}"));
    Ok(Reply::Json(json!({
        "token": {"type": "basic", "value": value},
        "user": shown(context, &who),
    })))
}

fn shown(context: &Context, who: &Who) -> Value {
    let mut row = json!({"name": who.name, "tags": who.tags, "is_internal_user": true});
    if let Some(minutes) = context.api.options.front.session_minutes {
        row["login_session_timeout"] = json!(minutes);
    }
    row
}

fn features() -> Vec<Value> {
    let flag = |name: &str, stability: &str| {
        json!({
            "name": name,
            "desc": "",
            "doc_url": "",
            "state": "enabled",
            "stability": stability,
            "require_level": "hard",
            "experiment_level": "unsupported",
            "callbacks": [],
            "provided_by": "rabbit",
        })
    };
    let mut rows: Vec<Value> = FEATURES.iter().map(|name| flag(name, "required")).collect();
    rows.push(flag("stream_queue", "required"));
    rows
}

fn deprecated() -> Vec<Value> {
    let feature = |(name, phase, permitted): &(&str, &str, bool)| {
        json!({
            "name": name,
            "desc": "",
            "deprecation_phase": phase,
            "doc_url": "",
            "provided_by": "rabbit",
            "state": if *permitted { "permitted" } else { "denied" },
        })
    };
    DEPRECATED.iter().map(feature).collect()
}

/// Those of them that something makes use of, as far as that can be seen: queues that are neither durable nor exclusive.
fn used(context: &Context) -> Vec<Value> {
    let topology = &context.node().cluster.topology;
    let transient = topology.read(|topology| {
        let mut queues = topology.queues();
        queues.any(|queue| !queue.durable && queue.exclusive.is_none())
    });
    let mut rows = deprecated();
    rows.retain(|row| transient && row["name"] == "transient_nonexcl_queues");
    rows
}

fn tags(tags: &[(String, String)]) -> Value {
    tags.iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect()
}

/// Exchange types, as overview and nodes show them.
pub fn exchange_types() -> Value {
    let kinds = [
        (
            "direct",
            "AMQP direct exchange, as per the AMQP specification",
        ),
        (
            "fanout",
            "AMQP fanout exchange, as per the AMQP specification",
        ),
        (
            "headers",
            "AMQP headers exchange, as per the AMQP specification",
        ),
        (
            "topic",
            "AMQP topic exchange, as per the AMQP specification",
        ),
        ("x-consistent-hash", "Consistent Hashing Exchange"),
        ("x-delayed-message", "Delayed Message Exchange."),
        (
            "x-local-random",
            "Picks one random local binding (queue) to route via (to).",
        ),
        ("x-modulus-hash", "Modulus Hashing Exchange"),
        (
            "x-random",
            "Picks one random binding (queue) to route via (to).",
        ),
        ("x-recent-history", "Recent History Exchange."),
    ];
    kinds
        .iter()
        .map(|(name, description)| json!({"name": name, "description": description, "enabled": true}))
        .collect()
}

fn listener_row(api: &Api, listener: &Listener) -> Value {
    json!({
        "node": api.names.node,
        "protocol": listener.protocol,
        "ip_address": listener.address.ip().to_string(),
        "port": listener.address.port(),
        "socket_opts": {"backlog": 1024, "nodelay": true},
        "tls": listener.protocol.ends_with("ssl") || listener.protocol.starts_with("https"),
    })
}

/// The API's own places.
pub fn contexts(api: &Api) -> Value {
    let prefix = &api.options.front.prefix;
    let path = if prefix.is_empty() { "/" } else { prefix };
    let http = api.listeners.iter();
    let http = http.filter(|listener| matches!(listener.protocol, "http" | "https"));
    http.map(|listener| {
        json!({
            "node": api.names.node,
            "description": "RabbitMQ Management",
            "path": path,
            "ip": listener.address.ip().to_string(),
            "port": listener.address.port().to_string(),
            "ssl_opts": [],
            "cowboy_opts": "[]",
        })
    })
    .collect()
}

/// This node's share of the overview.
pub fn own(api: &Api, ranges: Ranges) -> Value {
    let stats = &api.node.stats;
    let listeners = api.listeners.iter();
    json!({
        "sums": {
            "message_stats": api.samples.messages(api, ranges),
            "churn_rates": api.samples.churn(api, ranges),
            "queue_totals": api.samples.lengths(api, ranges),
            "objects": {
                "connections": api.node.clients.count(),
                "channels": stats.channels.get(),
                "consumers": stats.consumers.get(),
            },
        },
        "listeners": listeners.map(|one| listener_row(api, one)).collect::<Vec<_>>(),
        "contexts": contexts(api),
    })
}

async fn overview(context: &Context) -> Answer {
    let names = &context.api.names;
    let node = context.node();
    let bare = context.request.is_set("disable_stats");
    let (queues, exchanges) = node.cluster.topology.read(|topology| {
        let exchanges = topology.exchanges().count();
        (topology.queue_count(), exchanges)
    });
    let question = json!({"what": "overview", "ranges": context.ranges.to_json()});
    let (mut sums, mut listeners, mut contexts) = (json!({}), Vec::new(), Vec::new());
    for (_, _, answer) in peers::all(context, &question).await {
        history::add(&mut sums, &answer["sums"]);
        listeners.extend(answer["listeners"].as_array().cloned().unwrap_or_default());
        contexts.extend(answer["contexts"].as_array().cloned().unwrap_or_default());
    }
    let mut totals = json!({
        "connections": sums["objects"]["connections"],
        "queues": queues,
        "exchanges": exchanges,
    });
    let mut row = json!({
        "management_version": names.version,
        "rabbitmq_version": names.version,
        "product_name": names.product,
        "product_version": env!("CARGO_PKG_VERSION"),
        "erlang_version": "27.0",
        "erlang_full_version": "none: Leveret is written in Rust",
        "crypto_lib_version": "",
        "cluster_name": context.node().cluster_name(),
        "cluster_tags": tags(&names.cluster_tags),
        "node_tags": tags(&names.node_tags),
        "rates_mode": "basic",
        "sample_retention_policies": {
            "global": [600, 3_600, 28_800, 86_400],
            "basic": [600, 3_600],
            "detailed": [600],
        },
        "exchange_types": exchange_types(),
        "disable_stats": bare,
        "enable_queue_totals": context.request.is_set("enable_queue_totals"),
        "is_op_policy_updating_enabled": !context.api.options.front.operator_policies_fixed,
        "require_definition_json_extension": false,
        "default_queue_type": names.default_queue_type,
        "release_series_support_status": "supported",
    });
    row["node"] = json!(names.node);
    if !bare {
        totals["channels"] = sums["objects"]["channels"].clone();
        totals["consumers"] = sums["objects"]["consumers"].clone();
        for key in ["message_stats", "churn_rates", "queue_totals"] {
            row[key] = sums[key].clone();
        }
        row["statistics_db_event_queue"] = json!(0);
    }
    row["object_totals"] = totals;
    let seen = context.who.is_monitor();
    row["listeners"] = if seen { listeners.into() } else { json!([]) };
    row["contexts"] = if seen { contexts.into() } else { json!([]) };
    context.one(row)
}
