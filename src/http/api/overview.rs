//! The cluster at a glance, who asks, and the small endpoints that tools probe.

use serde_json::{Value, json};

use super::error::ApiError;
use super::samples::Range;
use super::{Answer, Context, Listener, Reply, queues};
use crate::amqp::{AMQPValue, LongString};
use crate::model::topology::{SettingsCommand, Topology, TopologyCommand, hash_password};

/// Stable features, all there and required, under the names tools look for.
const FEATURES: [&str; 14] = [
    "classic_mirrored_queue_version",
    "classic_queue_type_delivery_support",
    "detailed_queues_endpoint",
    "direct_exchange_routing_v2",
    "empty_basic_get_metric",
    "feature_flags_v2",
    "implicit_default_bindings",
    "listener_records_in_ets",
    "maintenance_mode_status",
    "message_containers",
    "quorum_queue",
    "restart_streams",
    "tracking_records_in_ets",
    "user_limits",
];

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match (path.as_slice(), context.request.method.as_str()) {
        (["overview"], _) => overview(context),
        (["whoami"], _) => context.one(json!({
            "name": context.who.name,
            "tags": context.who.tags,
            "is_internal_user": true,
        })),
        (["auth"], _) => Ok(Reply::Json(json!({"oauth_enabled": false}))),
        (["version"], _) => Ok(Reply::Json(json!(context.api.names.version))),
        (["cluster-name"], "GET") => context.one(json!({"name": cluster_name(context)})),
        (["cluster-name"], _) => {
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
        (["extensions"], _) => context.all(vec![json!({"javascript": "dispatcher.js"})]),
        (["feature-flags"], _) => context.all(features()),
        (["feature-flags", name, "enable"], _) => {
            match features().iter().any(|row| row["name"] == **name) {
                true => Ok(Reply::Done),
                false => Err(ApiError::bad_request("unsupported")),
            }
        }
        (["rebalance", "queues"], _) => Ok(Reply::Done),
        (["auth", "attempts", _], _) => {
            let stats = &context.node().stats;
            context.all(vec![json!({
                "protocol": "amqp091",
                "auth_attempts": stats.auth_attempts.get(),
                "auth_attempts_failed": stats.auth_attempts_failed.get(),
                "auth_attempts_succeeded": stats.auth_attempts_succeeded.get(),
            })])
        }
        (["auth", "hash_password", password], _) => {
            context.one(json!({"ok": hash_password(rand::random(), password)}))
        }
        // What is not there has nothing to list.
        (["deprecated-features", ..] | ["federation-links" | "shovels"] | ["stream", ..], _) => {
            context.all(Vec::new())
        }
        _ => Err(ApiError::not_found()),
    }
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

/// The cluster's name: as it was set, or as it was configured.
pub fn cluster_name(context: &Context) -> String {
    let topology = &context.node().cluster.topology;
    let set = topology.read(Topology::cluster_name);
    set.unwrap_or_else(|| context.api.names.cluster.clone())
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
    ];
    kinds
        .iter()
        .map(|(name, description)| json!({"name": name, "description": description, "enabled": true}))
        .collect()
}

fn listener_row(context: &Context, listener: &Listener) -> Value {
    json!({
        "node": context.api.names.node,
        "protocol": listener.protocol,
        "ip_address": listener.address.ip().to_string(),
        "port": listener.address.port(),
        "socket_opts": {"backlog": 1024, "nodelay": true},
        "tls": listener.protocol.ends_with("ssl") || listener.protocol.starts_with("https"),
    })
}

/// The API's own place.
pub fn contexts(context: &Context) -> Value {
    let http = context
        .api
        .listeners
        .iter()
        .filter(|listener| matches!(listener.protocol, "http" | "https"));
    http.map(|listener| {
        json!({
            "node": context.api.names.node,
            "description": "RabbitMQ Management",
            "path": "/",
            "ip": listener.address.ip().to_string(),
            "port": listener.address.port().to_string(),
            "ssl_opts": [],
            "cowboy_opts": "[]",
        })
    })
    .collect()
}

fn overview(context: &Context) -> Answer {
    let names = &context.api.names;
    let node = context.node();
    let bare = context.request.is_set("disable_stats");
    let range = Range::of(&context.request, "msg_rates")?;
    Range::of(&context.request, "lengths")?;
    let (queues, exchanges) = node.cluster.topology.read(|topology| {
        let exchanges = topology.exchanges().count();
        (topology.queue_count(), exchanges)
    });
    let mut totals = json!({
        "connections": node.clients.count(),
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
        "cluster_name": cluster_name(context),
        "cluster_tags": {},
        "node_tags": {},
        "rates_mode": "basic",
        "sample_retention_policies": {"global": [600], "basic": [600], "detailed": [600]},
        "exchange_types": exchange_types(),
        "disable_stats": bare,
        "enable_queue_totals": false,
        "is_op_policy_updating_enabled": true,
        "require_definition_json_extension": false,
        "default_queue_type": names.default_queue_type,
        "release_series_support_status": "supported",
    });
    row["node"] = json!(names.node);
    if !bare {
        totals["channels"] = json!(node.stats.channels.get());
        totals["consumers"] = json!(node.stats.consumers.get());
        row["message_stats"] = context.api.samples.messages(&context.api, range);
        row["churn_rates"] = context.api.samples.churn(&context.api, range);
        row["queue_totals"] = queues::totals_of(context, None);
        row["statistics_db_event_queue"] = json!(0);
    }
    row["object_totals"] = totals;
    if context.who.is_monitor() {
        let listeners = context.api.listeners.iter();
        row["listeners"] = listeners
            .map(|listener| listener_row(context, listener))
            .collect();
        row["contexts"] = contexts(context);
    } else {
        row["listeners"] = json!([]);
        row["contexts"] = json!([]);
    }
    context.one(row)
}
