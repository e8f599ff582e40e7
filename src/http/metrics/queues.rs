//! Queues: sums for `/metrics`, and a line per queue and family elsewhere.
//!
//! A queue is reported by the node that leads its set, as in RabbitMQ; what it is called is also told by the others, as
//! followers.

use hashbrown::HashMap;

use super::text::{Kind, Metric, Text, labels};
use super::{MetricsState, Scope};
use crate::base::QueueId;
use crate::model::set::{Flow, QueueStats};
use crate::model::topology::QueueKind;

/// Families of `/metrics/per-object`.
pub const FAMILIES: &[&str] = &[
    "queue_coarse_metrics",
    "queue_metrics",
    "queue_delivery_metrics",
    "channel_queue_exchange_metrics",
];
/// Families that can be asked for.
pub const ALL: &[&str] = &[
    "queue_coarse_metrics",
    "queue_consumer_count",
    "queue_metrics",
    "queue_delivery_metrics",
    "channel_queue_exchange_metrics",
];

/// A queue of this node.
#[derive(Debug)]
pub struct Row {
    labels: String,
    kind: QueueKind,
    durable: bool,
    led: bool,
    stats: QueueStats,
    flow: Flow,
}

/// Sums over the sets this node leads.
pub fn sums(text: &mut Text, state: &MetricsState) {
    let (mut queues, mut ready, mut unsettled, mut consumers) = (0, 0, 0, 0);
    let (mut ready_bytes, mut unsettled_bytes) = (0, 0);
    for (_, handle) in state.node.cluster.sets() {
        let led = handle.group().is_none_or(|group| group.is_leader());
        handle.with(|replica| {
            let totals = replica.machine().totals();
            if led {
                queues += totals.queues;
                consumers += totals.consumers;
                ready += totals.ready;
                unsettled += totals.unsettled;
                ready_bytes += totals.ready_bytes;
                unsettled_bytes += totals.unsettled_bytes;
            }
        });
    }
    for (name, help, value) in [
        ("queues", "Queues available", queues),
        (
            "queue_messages_ready",
            "Messages ready to be delivered to consumers",
            ready,
        ),
        (
            "queue_messages_unacked",
            "Messages delivered to consumers but not yet acknowledged",
            unsettled,
        ),
        (
            "queue_messages",
            "Sum of ready and unacknowledged messages - total queue depth",
            ready + unsettled,
        ),
        ("queue_consumers", "Consumers on a queue", consumers),
        (
            "queue_messages_bytes",
            "Size in bytes of ready and unacknowledged messages",
            ready_bytes + unsettled_bytes,
        ),
        (
            "queue_messages_ready_bytes",
            "Size in bytes of ready messages",
            ready_bytes,
        ),
        (
            "queue_messages_unacked_bytes",
            "Size in bytes of all unacknowledged messages",
            unsettled_bytes,
        ),
    ] {
        text.single(name, Kind::Gauge, help, value);
    }
}

/// Every queue of this node that is wanted.
pub fn rows(state: &MetricsState, scope: &Scope) -> Vec<Row> {
    let (mut rows, mut several) = (Vec::<Row>::new(), HashMap::<QueueId, usize>::new());
    for (_, handle) in state.node.cluster.sets() {
        let led = handle.group().is_none_or(|group| group.is_leader());
        for some in handle.figures() {
            state.node.cluster.topology.read(|topology| {
                for (id, stats, flow) in some {
                    let record = topology.queue_by_id(id);
                    let record =
                        record.filter(|record| scope.has_queue(&record.vhost, &record.name));
                    let Some(record) = record else { continue };
                    if topology.has_parts(id)
                        && let Some(row) = several.get(&id).and_then(|at| rows.get_mut(*at))
                    {
                        join(row, led, &stats, &flow);
                        continue;
                    }
                    several.extend(topology.has_parts(id).then_some((id, rows.len())));
                    rows.push(Row {
                        labels: labels(&[("vhost", &record.vhost), ("queue", &record.name)]),
                        kind: record.kind,
                        durable: record.durable,
                        led,
                        stats: if led { stats } else { QueueStats::default() },
                        flow: if led { flow } else { Flow::default() },
                    });
                }
            });
        }
    }
    rows
}

/// One more part of a queue, if it is for this node to report.
fn join(row: &mut Row, led: bool, stats: &QueueStats, flow: &Flow) {
    if !led {
        return;
    }
    row.led = true;
    row.stats.ready += stats.ready;
    row.stats.delayed += stats.delayed;
    row.stats.unsettled += stats.unsettled;
    row.stats.ready_bytes += stats.ready_bytes;
    row.stats.unsettled_bytes += stats.unsettled_bytes;
    row.stats.consumers = row.stats.consumers.max(stats.consumers);
    row.flow.published += flow.published;
    row.flow.delivered += flow.delivered;
    row.flow.delivered_auto += flow.delivered_auto;
    row.flow.got += flow.got;
    row.flow.got_auto += flow.got_auto;
    row.flow.redelivered += flow.redelivered;
    row.flow.acked += flow.acked;
}

fn ready(row: &Row) -> u64 {
    row.stats.ready + row.stats.delayed
}

fn all(row: &Row) -> u64 {
    ready(row) + row.stats.unsettled
}

fn bytes(row: &Row) -> u64 {
    row.stats.ready_bytes + row.stats.unsettled_bytes
}

fn has_consumers(row: &Row) -> u64 {
    u64::from(row.stats.consumers > 0)
}

const COARSE: &[Metric<Row, u64>] = &[
    (
        "queue_messages_ready",
        "Messages ready to be delivered to consumers",
        ready,
    ),
    (
        "queue_messages_unacked",
        "Messages delivered to consumers but not yet acknowledged",
        |row| row.stats.unsettled,
    ),
    (
        "queue_messages",
        "Sum of ready and unacknowledged messages - total queue depth",
        all,
    ),
];

const CONSUMERS: &[Metric<Row, u64>] = &[("queue_consumers", "Consumers on a queue", |row| {
    u64::from(row.stats.consumers)
})];

const MORE: &[Metric<Row, u64>] = &[
    (
        "queue_consumer_capacity",
        "Consumer capacity: whether there are consumers",
        has_consumers,
    ),
    (
        "queue_consumer_utilisation",
        "Same as consumer capacity",
        has_consumers,
    ),
    ("queue_messages_persistent", "Persistent messages", |row| {
        if row.durable { all(row) } else { 0 }
    }),
    (
        "queue_messages_persistent_bytes",
        "Size in bytes of persistent messages",
        |row| if row.durable { bytes(row) } else { 0 },
    ),
    (
        "queue_messages_bytes",
        "Size in bytes of ready and unacknowledged messages",
        bytes,
    ),
    (
        "queue_messages_ready_bytes",
        "Size in bytes of ready messages",
        |row| row.stats.ready_bytes,
    ),
    (
        "queue_messages_unacked_bytes",
        "Size in bytes of all unacknowledged messages",
        |row| row.stats.unsettled_bytes,
    ),
];

const DELIVERY: &[Metric<Row, u64>] = &[
    (
        "queue_get_ack_total",
        "Messages fetched with basic.get in manual acknowledgement mode",
        |row| row.flow.got,
    ),
    (
        "queue_get_total",
        "Messages fetched with basic.get in automatic acknowledgement mode",
        |row| row.flow.got_auto,
    ),
    (
        "queue_messages_delivered_ack_total",
        "Messages delivered to consumers in manual acknowledgement mode",
        |row| row.flow.delivered,
    ),
    (
        "queue_messages_delivered_total",
        "Messages delivered to consumers in automatic acknowledgement mode",
        |row| row.flow.delivered_auto,
    ),
    (
        "queue_messages_redelivered_total",
        "Messages redelivered to consumers",
        |row| row.flow.redelivered,
    ),
    (
        "queue_messages_acked_total",
        "Messages acknowledged by consumers",
        |row| row.flow.acked,
    ),
];

const PUBLISHED: &[Metric<Row, u64>] = &[(
    "queue_messages_published_total",
    "Messages published into a queue",
    |row| row.flow.published,
)];

/// A line per queue for each metric of a family.
pub fn objects(text: &mut Text, rows: &[Row], family: &str) {
    let families: &[&[Metric<Row, u64>]] = match family {
        "queue_coarse_metrics" => &[COARSE],
        "queue_consumer_count" => &[CONSUMERS],
        "queue_metrics" => &[CONSUMERS, MORE],
        "queue_delivery_metrics" => &[DELIVERY],
        "channel_queue_exchange_metrics" => &[PUBLISHED],
        _ => return,
    };
    let led = rows.iter().filter(|row| row.led);
    let led = led.map(|row| (&*row.labels, row));
    for metrics in families {
        text.families(None, metrics, led.clone());
    }
    if family == "queue_metrics" {
        text.family("queue_info", Kind::Gauge, "Which queues there are");
        for row in rows {
            let kind = row.kind.module();
            let role = if row.led { "leader" } else { "follower" };
            let more = format!("{},queue_type=\"{kind}\",membership=\"{role}\"", row.labels);
            text.sample(&more, 1);
        }
    }
}
