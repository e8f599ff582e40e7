//! Health checks: 200 `ok`, or 503 `failed` with a reason.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::{Answer, Api, Context, Reply, certificates, list, peers};
use crate::base::{NodeId, SetId};
use crate::model::topology::QueueRecord;

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match path.as_slice() {
        ["aliveness-test", _] | ["healthchecks", ..] => ok(json!({})),
        ["health", "checks", "alarms"] => alarms(context, true).await,
        ["health", "checks", "local-alarms"] => alarms(context, false).await,
        ["health", "checks", check @ ..] => checked(context, check).await,
        _ => Err(ApiError::not_found()),
    }
}

pub fn ok(more: Value) -> Answer {
    let mut row = json!({"status": "ok"});
    extend(&mut row, more);
    Ok(Reply::Json(row))
}

fn extend(row: &mut Value, more: Value) {
    if let (Some(row), Value::Object(more)) = (row.as_object_mut(), more) {
        row.extend(more);
    }
}

/// 503; the body is not an error's but the check's own.
pub fn failed(reason: &str, more: Value) -> Answer {
    let mut error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "failed", reason);
    let mut row = Map::new();
    row.insert("status".to_owned(), json!("failed"));
    row.insert("reason".to_owned(), json!(reason));
    row.extend(more.as_object().cloned().unwrap_or_default());
    error.whole = Some(Value::Object(row));
    Err(error)
}

async fn checked(context: &Context, check: &[&str]) -> Answer {
    let api = &context.api;
    match check {
        ["port-listener", port] => {
            let port: u16 = port
                .parse()
                .map_err(|_| ApiError::bad_request(format!("Invalid port: {port}")))?;
            let ports: Vec<u16> = api.listeners.iter().map(|one| one.address.port()).collect();
            match ports.contains(&port) {
                true => ok(json!({"port": port})),
                false => failed(
                    "No active listener",
                    json!({"missing": port, "ports": ports}),
                ),
            }
        }
        ["protocol-listener", wanted] => protocols(context, wanted),
        ["virtual-hosts"]
        | ["node-is-mirror-sync-critical"]
        | ["metadata-store", "initialized"]
        | ["metadata-store", "initialized", "with-data"] => ok(json!({})),
        ["certificate-expiration", within, unit] => certificates::check(context, within, unit),
        ["node-is-quorum-critical"] => quorum_critical(context).await,
        ["quorum-queues-without-elected-leaders", scope @ ..] => match scope {
            ["all-vhosts"] => leaderless(context, None, ""),
            ["all-vhosts", "pattern", pattern] => leaderless(context, None, pattern),
            ["vhost", vhost] => leaderless(context, Some(vhost), ""),
            ["vhost", vhost, "pattern", pattern] => leaderless(context, Some(vhost), pattern),
            _ => Err(ApiError::not_found()),
        },
        ["is-in-service"] => match is_away(context) {
            false => ok(json!({})),
            true => failed("this rabbit node is not in service", json!({})),
        },
        ["below-node-connection-limit"] => below_limit(context),
        ["ready-to-serve-clients"] => {
            if is_away(context) {
                return failed("this rabbit node is not in service", json!({}));
            }
            if !api
                .listeners
                .iter()
                .any(|one| one.protocol.starts_with("amqp"))
            {
                return failed("no active listeners for AMQP/AMQPS", json!({}));
            }
            below_limit(context)
        }
        ["reached-target-cluster-size"] => reached_target(context).await,
        _ => Err(ApiError::not_found()),
    }
}

/// A node that serves is online by itself; the others are only asked if they are to be counted.
async fn reached_target(context: &Context) -> Answer {
    let target = context.api.options.target_size.max(1);
    let mut online = 1;
    if target > 1 {
        online += peers::others(context, &json!({"what": "sets"}), None)
            .await
            .len();
    }
    match online >= target {
        true => ok(json!({})),
        false => failed(
            "The cluster has fewer online nodes than its target size",
            json!({"online": online, "target": target}),
        ),
    }
}

/// The node stops, or takes no clients for now.
fn is_away(context: &Context) -> bool {
    let node = context.node();
    node.supervisor.is_stopping() || node.is_suspended()
}

/// This node's alarms.
pub fn own_alarms(api: &Api) -> Vec<Value> {
    let alarms = *api.node.alarm.borrow();
    let node = &api.names.node;
    let mut raised = Vec::new();
    for (is, resource) in [(alarms.memory, "memory"), (alarms.disk, "disk")] {
        if is {
            raised.push(json!({"node": node, "resource": resource}));
        }
    }
    raised
}

async fn alarms(context: &Context, all: bool) -> Answer {
    let mut raised = own_alarms(&context.api);
    if all {
        let question = json!({"what": "alarms"});
        for (_, _, answer) in peers::others(context, &question, None).await {
            raised.extend(answer.as_array().cloned().unwrap_or_default());
        }
    }
    match raised.is_empty() {
        true => ok(json!({})),
        false => failed(
            match all {
                true => "There are alarms in effect in the cluster",
                false => "There are alarms in effect on the node",
            },
            json!({"alarms": raised}),
        ),
    }
}

fn normal(protocol: &str) -> String {
    let protocol = protocol.trim().to_lowercase();
    match protocol.as_str() {
        "amqp091" | "amqp10" | "amqp0.9.1" | "amqp1.0" | "amqp0-9-1" | "amqp" => "amqp",
        "amqps" | "amqp/ssl" | "amqp-over-tls" => "amqp/ssl",
        "http" | "management" | "ui" => "http",
        "https" | "management-tls" => "https",
        "prometheus" | "http/prometheus" => "http/prometheus",
        other => other,
    }
    .to_owned()
}

fn protocols(context: &Context, wanted: &str) -> Answer {
    let active: Vec<&str> = context
        .api
        .listeners
        .iter()
        .map(|one| one.protocol)
        .collect();
    let wanted: Vec<String> = wanted.split(',').map(normal).collect();
    let missing: Vec<&String> = wanted
        .iter()
        .filter(|protocol| !active.contains(&protocol.as_str()))
        .collect();
    match missing.is_empty() {
        true => ok(json!({"protocols": active})),
        false => failed(
            "No active listener",
            json!({"missing": missing, "protocols": active}),
        ),
    }
}

fn below_limit(context: &Context) -> Answer {
    let limit = context.node().access.load().connections_max;
    let count = context.node().clients.count() as u64;
    match limit.filter(|limit| count >= u64::from(*limit)) {
        None => ok(json!({})),
        Some(limit) => {
            let reason = format!("node connection limit ({limit}) is reached");
            failed(&reason, json!({"connections": count}))
        }
    }
}

/// The sets of which this node has a replica that runs, as it tells the others.
pub fn own_sets(api: &Api) -> Vec<u32> {
    let sets = api.node.cluster.sets();
    sets.filter(|(_, handle)| handle.group().is_some())
        .map(|(set, _)| set.0)
        .collect()
}

/// Whether a set keeps its majority when one more of its members goes, of whom `others` besides it run.
const fn stands(members: usize, others: usize) -> bool {
    others > members / 2
}

/// Sets that would lose their majority without this node, whoever leads them: the others are asked what they run.
async fn quorum_critical(context: &Context) -> Answer {
    let cluster = &context.node().cluster;
    let own = cluster.node();
    let (nodes, sets) = cluster.topology.read(|topology| {
        let mine = topology.sets().filter(|set| set.members.contains(&own));
        let sets: Vec<_> = mine.map(|set| (set.id, set.members.clone())).collect();
        (topology.nodes().count(), sets)
    });
    if nodes < 2 {
        return ok(json!({"reason": "single node cluster"}));
    }
    let told = peers::others(context, &json!({"what": "sets"}), None).await;
    let runs = |node: NodeId, set: SetId| {
        let answer = told.iter().find(|(of, ..)| *of == node);
        let sets = answer.and_then(|(_, _, sets)| sets.as_array());
        sets.is_some_and(|sets| sets.iter().any(|id| id.as_u64() == Some(u64::from(set.0))))
    };
    let mut critical = Vec::new();
    if !stands(nodes, told.len()) {
        critical.push(SetId::TOPOLOGY);
    }
    for (set, members) in &sets {
        let others = members.iter().filter(|node| runs(**node, *set));
        if !stands(members.len(), others.count()) {
            critical.push(*set);
        }
    }
    match critical.is_empty() {
        true => ok(json!({})),
        false => failed(
            "There are quorum queues that would lose their quorum if the target node is shut down",
            json!({"queues": queues_in(context, &critical, |_| true)}),
        ),
    }
}

/// Of the queues in a vhost, or in all, whose names a pattern is found in.
fn leaderless(context: &Context, vhost: Option<&str>, pattern: &str) -> Answer {
    if vhost.is_some_and(|vhost| !context.has_vhost(vhost)) {
        return Err(ApiError::not_found());
    }
    let pattern = list::pattern(pattern, "")?;
    let cluster = &context.node().cluster;
    let without = cluster.sets().filter(|(_, handle)| {
        handle
            .group()
            .is_some_and(|group| group.metrics().leader.is_none())
    });
    let sets: Vec<SetId> = without.map(|(set, _)| set).collect();
    let wanted = |queue: &QueueRecord| {
        vhost.is_none_or(|vhost| *queue.vhost == *vhost)
            && pattern.is_match(&queue.name).unwrap_or(false)
    };
    let queues = match sets.is_empty() {
        true => Vec::new(),
        false => queues_in(context, &sets, wanted),
    };
    match queues.is_empty() {
        true => ok(json!({})),
        false => failed(
            "There are quorum queues without an elected leader",
            json!({"queues": queues}),
        ),
    }
}

/// At most a hundred of the queues in these sets that are wanted.
fn queues_in(
    context: &Context,
    sets: &[SetId],
    wanted: impl Fn(&QueueRecord) -> bool,
) -> Vec<Value> {
    let topology = &context.node().cluster.topology;
    topology.read(|topology| {
        let queues = topology.queues();
        let queues = queues.filter(|queue| sets.iter().any(|set| queue.lives_in(*set)));
        queues
            .filter(|queue| wanted(queue))
            .take(100)
            .map(|queue| {
                json!({
                    "name": queue.name,
                    "readable_name": queue.title(),
                    "virtual_host": &*queue.vhost,
                    "type": queue.kind.name(),
                })
            })
            .collect()
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_set_stands_while_a_majority_is_left_without_the_node() {
        for (members, others, stand) in [
            (1, 0, false),
            (2, 1, false),
            (3, 2, true),
            (3, 1, false),
            (5, 3, true),
            (5, 2, false),
        ] {
            assert_eq!(stands(members, others), stand, "{others} of {members}");
        }
    }
}
