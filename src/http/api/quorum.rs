//! Quorum queues as RabbitMQ's tools see their replicas. Here a queue's replicas are those of its broker set, which the
//! controller keeps; they can be looked at, not set.

use serde_json::{Value, json};

use super::error::ApiError;
use super::{Answer, Context, queues};
use crate::model::topology::QueueRecord;

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match path.as_slice() {
        ["queues", "quorum", vhost, name, "status"] => {
            let topology = &context.node().cluster.topology;
            let record = topology.read(|topology| topology.queue(vhost, name).cloned());
            let record = record.ok_or_else(ApiError::not_found)?;
            context.all(status(context, &record))
        }
        _ => Err(ApiError::bad_request(
            "replicas of a queue are those of its broker set; the cluster keeps their number",
        )),
    }
}

/// A row per member. Indexes are known of this node's replica, and from a leader how far the others are.
fn status(context: &Context, record: &QueueRecord) -> Vec<Value> {
    let cluster = &context.node().cluster;
    let names = queues::node_names(&context.api);
    let name = |id| {
        let known = names.iter().find(|(known, _)| *known == id);
        known.map(|(_, name)| name.clone())
    };
    let set = cluster
        .topology
        .read(|topology| topology.set(record.set()).cloned());
    let Some(set) = set else {
        return Vec::new();
    };
    let group = cluster.set(set.id).and_then(|handle| handle.group());
    let metrics = group.map(|group| group.metrics()).unwrap_or_default();
    let matched = group.map(|group| group.replication()).unwrap_or_default();
    let members = set.members.iter().map(|id| {
        let own = *id == cluster.node();
        let state = match metrics.leader == Some(*id) {
            true => "leader",
            false => "follower",
        };
        let last = match own {
            true => metrics.last_log,
            false => matched
                .iter()
                .find(|(node, _)| *node == id)
                .and_then(|(_, last)| *last),
        };
        json!({
            "Node Name": name(*id),
            "Raft State": state,
            "Membership": "voter",
            "Last Log Index": last,
            "Last Written": last,
            "Last Applied": metrics.applied.filter(|_| own),
            "Commit Index": metrics.committed.filter(|_| own),
            "Snapshot Index": metrics.snapshot.filter(|_| own),
            "Term": metrics.term,
            "Machine Version": 1,
        })
    });
    members.collect()
}
