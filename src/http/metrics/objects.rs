//! Exchanges, channels, connections and vhosts: a line per object and family.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::text::{Kind, Metric, Text, labels};
use super::{MetricsState, Scope};
use crate::broker::{ChannelMeter, Client, Count, Counts};

/// Connections, and what their tasks say of their channels.
pub type Described = Vec<(Arc<Client>, crate::broker::Described)>;

/// Families of `/metrics/per-object`.
pub const FAMILIES: &[&str] = &[
    "exchange_metrics",
    "connection_coarse_metrics",
    "connection_metrics",
    "channel_metrics",
    "channel_exchange_metrics",
    "channel_queue_metrics",
];

/// Whether a family of the node's own counters has a line per object instead.
pub fn has_objects(family: &str) -> bool {
    const PREFIXES: [&str; 4] = [
        "rabbitmq_channel_",
        "rabbitmq_connection_",
        "rabbitmq_queue_",
        "rabbitmq_exchange_",
    ];
    PREFIXES.iter().any(|prefix| family.starts_with(prefix))
}

/// Whether connections are asked for a family.
pub fn asks(family: &str) -> bool {
    family == "channel_metrics"
}

/// A line per object for each metric of a family.
pub fn objects(
    text: &mut Text,
    state: &MetricsState,
    family: &str,
    scope: &Scope,
    described: &Described,
) {
    match family {
        "exchange_metrics" => exchanges(text, state, scope),
        "connection_coarse_metrics" => connections(text, state, true),
        "connection_metrics" => connections(text, state, false),
        "channel_metrics" => channels(text, state, described),
        "channel_exchange_metrics" => counted(text, state, PUBLISHING),
        "channel_queue_metrics" => counted(text, state, CONSUMING),
        "vhost_status" | "exchange_bindings" | "exchange_names" => {
            cluster(text, state, family, scope);
        }
        _ => {}
    }
}

fn exchanges(text: &mut Text, state: &MetricsState, scope: &Scope) {
    let mut all = state.node.meters.exchanges();
    all.retain(|(vhost, ..)| scope.has_vhost(vhost));
    let rows: Vec<(String, [u64; 4])> = all
        .iter()
        .map(|(vhost, name, values)| {
            let name = String::from_utf8_lossy(name);
            (labels(&[("vhost", vhost), ("exchange", &name)]), *values)
        })
        .collect();
    for (at, name, help) in [
        (
            0,
            "exchange_messages_published_total",
            "Messages published into an exchange",
        ),
        (
            2,
            "exchange_messages_unroutable_returned_total",
            "Messages published as mandatory into an exchange and returned to the publisher as unroutable",
        ),
        (
            3,
            "exchange_messages_unroutable_dropped_total",
            "Messages published as non-mandatory into an exchange and dropped as unroutable",
        ),
    ] {
        text.family(name, Kind::Counter, help);
        for (labels, values) in &rows {
            text.sample(labels, values[at]);
        }
    }
}

fn connections(text: &mut Text, state: &MetricsState, coarse: bool) {
    const COARSE: &[Metric<Arc<Client>, u64>] = &[
        (
            "connection_incoming_bytes_total",
            "connection incoming bytes",
            |client| client.bytes_in.load(Ordering::Relaxed),
        ),
        (
            "connection_outgoing_bytes_total",
            "connection outgoing bytes",
            |client| client.bytes_out.load(Ordering::Relaxed),
        ),
    ];
    const MORE: &[Metric<Arc<Client>, u64>] = &[
        (
            "connection_incoming_packets_total",
            "connection incoming packets",
            |client| client.reads.load(Ordering::Relaxed),
        ),
        (
            "connection_outgoing_packets_total",
            "connection outgoing packets",
            |client| client.writes.load(Ordering::Relaxed),
        ),
        ("connection_channels", "connection channels", |client| {
            u64::from(client.channels.load(Ordering::Relaxed))
        }),
    ];
    let clients = state.node.clients.all();
    let named = clients.iter();
    let named = named.map(|client| labels(&[("connection", &client.name())]));
    let named: Vec<String> = named.collect();
    let rows = named.iter().map(String::as_str).zip(&clients);
    text.families(None, if coarse { COARSE } else { MORE }, rows);
}

fn channel(client: &Client, number: u16) -> String {
    labels(&[("channel", &format!("{} ({number})", client.name()))])
}

fn channels(text: &mut Text, state: &MetricsState, described: &Described) {
    let mut rows = Vec::new();
    for client in state.node.clients.all() {
        for meter in client.meters() {
            rows.push((channel(&client, meter.number), meter));
        }
    }
    type Held = fn(&ChannelMeter) -> u64;
    let held: [(&str, &str, Held); 2] = [
        (
            "channel_messages_unacked",
            "Delivered but not yet acknowledged messages",
            |meter| meter.unacked.load(Ordering::Relaxed),
        ),
        (
            "channel_messages_unconfirmed",
            "Published but not yet confirmed messages",
            |meter| meter.unconfirmed.load(Ordering::Relaxed),
        ),
    ];
    for (name, help, value) in held {
        text.family(name, Kind::Gauge, help);
        for (labels, meter) in &rows {
            text.sample(labels, value(meter));
        }
    }
    let views = described.iter().flat_map(|(client, told)| {
        let channels = told.channels.iter();
        channels.map(|view| (channel(client, view.state.number), view))
    });
    let views: Vec<_> = views.collect();
    type Known = fn(&crate::broker::ChannelView) -> u64;
    let known: [(&str, &str, Known); 5] = [
        ("channel_consumers", "Consumers on a channel", |view| {
            view.consumers.len() as u64
        }),
        (
            "channel_messages_uncommitted",
            "Messages received in a transaction but not yet committed",
            |view| view.state.uncommitted.0 as u64,
        ),
        (
            "channel_acks_uncommitted",
            "Message acknowledgements in a transaction not yet committed",
            |view| view.state.uncommitted.1 as u64,
        ),
        (
            "consumer_prefetch",
            "Limit of unacknowledged messages for each consumer",
            |view| u64::from(view.state.prefetch),
        ),
        (
            "channel_prefetch",
            "Total limit of unacknowledged messages for all consumers on a channel",
            |view| u64::from(view.state.global_prefetch),
        ),
    ];
    for (name, help, value) in known {
        text.family(name, Kind::Gauge, help);
        for (labels, view) in &views {
            text.sample(labels, value(view));
        }
    }
}

type Counted = &'static [(&'static str, Count)];

const PUBLISHING: Counted = &[
    ("channel_messages_published_total", Count::Publish),
    ("channel_messages_confirmed_total", Count::Confirm),
    (
        "channel_messages_unroutable_returned_total",
        Count::ReturnUnroutable,
    ),
    (
        "channel_messages_unroutable_dropped_total",
        Count::DropUnroutable,
    ),
];

const CONSUMING: Counted = &[
    ("channel_get_ack_total", Count::Get),
    ("channel_get_total", Count::GetNoAck),
    ("channel_get_empty_total", Count::GetEmpty),
    ("channel_messages_delivered_ack_total", Count::Deliver),
    ("channel_messages_delivered_total", Count::DeliverNoAck),
    ("channel_messages_redelivered_total", Count::Redeliver),
    ("channel_messages_acked_total", Count::Ack),
];

fn counted(text: &mut Text, state: &MetricsState, metrics: Counted) {
    let mut rows: Vec<(String, Counts)> = Vec::new();
    for client in state.node.clients.all() {
        for meter in client.meters() {
            rows.push((channel(&client, meter.number), meter.counts.read()));
        }
    }
    for (name, count) in metrics {
        let help = name.trim_end_matches("_total").replace('_', " ");
        text.family(name, Kind::Counter, &help);
        for (labels, counts) in &rows {
            text.sample(labels, counts.get(*count));
        }
    }
}

/// What the whole cluster has, whichever node is asked.
fn cluster(text: &mut Text, state: &MetricsState, family: &str, scope: &Scope) {
    let topology = &state.node.cluster.topology;
    if family == "vhost_status" {
        let help = "Whether a given vhost is running";
        text.raw_family("rabbitmq_cluster_vhost_status", Kind::Gauge, help);
        let names: Vec<String> =
            topology.read(|topology| topology.vhosts().map(str::to_owned).collect());
        for name in names.iter().filter(|name| scope.has_vhost(name)) {
            text.sample(&labels(&[("vhost", name)]), 1);
        }
        return;
    }
    let (name, help) = match family {
        "exchange_bindings" => (
            "rabbitmq_cluster_exchange_bindings",
            "Number of bindings for an exchange",
        ),
        _ => (
            "rabbitmq_cluster_exchange_name",
            "Enumerates exchanges without any additional info",
        ),
    };
    text.raw_family(name, Kind::Gauge, help);
    let counts = match family {
        "exchange_bindings" => Some(topology.read(|topology| {
            let mut counts = hashbrown::HashMap::<(String, String), u64>::new();
            for binding in topology.bindings() {
                let key = (binding.vhost.to_owned(), binding.source.to_owned());
                *counts.entry(key).or_default() += 1;
            }
            counts
        })),
        _ => None,
    };
    let rows: Vec<(String, u64)> = topology.read(|topology| {
        let exchanges = topology.exchanges();
        let exchanges = exchanges.filter(|exchange| scope.has_vhost(&exchange.vhost));
        exchanges
            .map(|exchange| {
                let labels = labels(&[
                    ("vhost", &exchange.vhost),
                    ("exchange", &exchange.name),
                    ("type", exchange.kind.name()),
                ]);
                let key = (exchange.vhost.to_string(), exchange.name.to_string());
                let count = counts
                    .as_ref()
                    .map_or(1, |counts| counts.get(&key).copied().unwrap_or_default());
                (labels, count)
            })
            .collect()
    });
    for (labels, count) in rows {
        text.sample(&labels, count);
    }
}
