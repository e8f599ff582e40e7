//! Counters and gauges of a node under RabbitMQ's names. A connection counts in its own `Tally` and adds it up once per
//! turn of its loop. Every series is there from the start, at 0, so that rates work from the first scrape.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::model::topology::QueueKind;

/// See the module's head.
#[derive(Debug)]
#[expect(missing_docs, reason = "RabbitMQ's own names")]
pub struct Stats {
    pub registry: Registry,
    pub connections: IntGauge,
    pub channels: IntGauge,
    pub consumers: IntGauge,
    pub connections_opened: IntCounter,
    pub connections_closed: IntCounter,
    pub channels_opened: IntCounter,
    pub channels_closed: IntCounter,
    pub queues_declared: IntCounter,
    pub queues_created: IntCounter,
    pub queues_deleted: IntCounter,
    pub auth_attempts: IntCounter,
    pub auth_attempts_succeeded: IntCounter,
    pub auth_attempts_failed: IntCounter,
    pub received: IntCounter,
    pub received_confirm: IntCounter,
    pub routed: IntCounter,
    pub enqueued: IntCounter,
    pub confirmed: IntCounter,
    pub unroutable_dropped: IntCounter,
    pub unroutable_returned: IntCounter,
    pub delivered: Typed,
    pub delivered_manual: Typed,
    pub delivered_auto: Typed,
    pub get_manual: Typed,
    pub get_auto: Typed,
    pub get_empty: Typed,
    pub redelivered: Typed,
    pub acknowledged: Typed,
    pub bytes_in: IntCounter,
    pub bytes_out: IntCounter,
    pub packets_in: IntCounter,
    pub packets_out: IntCounter,
    pub unacked: IntGauge,
    pub unconfirmed: IntGauge,
    pub http_auth_attempts: IntCounter,
    pub http_auth_attempts_succeeded: IntCounter,
    pub http_auth_attempts_failed: IntCounter,
    pub message_size: Histogram,
    /// Died by a length limit, by time, rejected, by the delivery limit; counted by who leads the queue's set.
    pub dead_lettered: [IntCounter; 4],
    /// Messages whose bytes could not be had, or were wrong.
    pub unreadable: IntCounter,
}

/// Types of queues, as metrics tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    /// `rabbit_classic_queue`.
    Classic,
    /// `rabbit_quorum_queue`.
    Quorum,
    /// `rabbit_stream_queue`.
    Stream,
}

impl QueueType {
    pub(super) const ALL: [Self; 3] = [Self::Classic, Self::Quorum, Self::Stream];

    /// Of a queue's record.
    #[must_use]
    pub fn of(kind: QueueKind) -> Self {
        match kind {
            QueueKind::Classic => Self::Classic,
            QueueKind::Quorum => Self::Quorum,
            QueueKind::Stream => Self::Stream,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Classic => "rabbit_classic_queue",
            Self::Quorum => "rabbit_quorum_queue",
            Self::Stream => "rabbit_stream_queue",
        }
    }
}

/// A counter by type of queue.
#[derive(Debug)]
pub struct Typed([IntCounter; 3]);

impl Typed {
    /// Counts some of a type.
    pub fn add(&self, kind: QueueType, by: u64) {
        if by > 0 {
            self.0[kind as usize].inc_by(by);
        }
    }

    /// Of all types.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.iter().map(IntCounter::get).sum()
    }
}

/// RabbitMQ's bounds of rabbitmq_message_size_bytes.
const SIZE_BOUNDS: [f64; 8] = [
    100.0,
    1_000.0,
    10_000.0,
    100_000.0,
    1_000_000.0,
    10_000_000.0,
    50_000_000.0,
    100_000_000.0,
];

/// Registers metrics as they are made; names are ours, so a clash is a fault of ours.
struct Maker(Registry);

impl Maker {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = match made {
            Ok(collector) => collector,
            Err(error) => unreachable!("a metric of ours is malformed: {error}"),
        };
        if let Err(error) = self.0.register(Box::new(collector.clone())) {
            unreachable!("a metric of ours is registered twice: {error}");
        }
        collector
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn protocol(&self, name: &str, help: &str) -> IntCounter {
        let family = IntCounterVec::new(Opts::new(name, help), &["protocol"]);
        self.add(family).with_label_values(&["amqp091"])
    }

    /// By protocol: AMQP, HTTP.
    fn protocols(&self, name: &str, help: &str) -> [IntCounter; 2] {
        let family = self.add(IntCounterVec::new(Opts::new(name, help), &["protocol"]));
        ["amqp091", "http"].map(|protocol| family.with_label_values(&[protocol]))
    }

    /// Dead letters. Machines do not tell types of queues and strategies apart: all count as one.
    fn letters(&self, reason: &str) -> IntCounter {
        let name = format!("rabbitmq_global_messages_dead_lettered_{reason}_total");
        let opts = Opts::new(name, "Messages that died");
        let family = self.add(IntCounterVec::new(
            opts,
            &["queue_type", "dead_letter_strategy"],
        ));
        for kind in QueueType::ALL {
            for strategy in ["disabled", "at_most_once", "at_least_once"] {
                family.with_label_values(&[kind.label(), strategy]);
            }
        }
        family.with_label_values(&["rabbit_quorum_queue", "at_most_once"])
    }

    fn queue_type(&self, name: &str, help: &str) -> Typed {
        let family = IntCounterVec::new(Opts::new(name, help), &["protocol", "queue_type"]);
        let family = self.add(family);
        Typed(QueueType::ALL.map(|kind| family.with_label_values(&["amqp091", kind.label()])))
    }
}

impl Default for Stats {
    fn default() -> Self {
        let make = Maker(Registry::new());
        let size = HistogramOpts::new("rabbitmq_message_size_bytes", "Size of messages received")
            .buckets(SIZE_BOUNDS.to_vec())
            .const_label("protocol", "amqp091");
        let [auth_attempts, http_auth_attempts] =
            make.protocols("rabbitmq_auth_attempts_total", "Login attempts");
        let [auth_attempts_succeeded, http_auth_attempts_succeeded] = make.protocols(
            "rabbitmq_auth_attempts_succeeded_total",
            "Logins that succeeded",
        );
        let [auth_attempts_failed, http_auth_attempts_failed] =
            make.protocols("rabbitmq_auth_attempts_failed_total", "Logins that failed");
        Self {
            connections: make.gauge("rabbitmq_connections", "Connections currently open"),
            channels: make.gauge("rabbitmq_channels", "Channels currently open"),
            consumers: make.gauge("rabbitmq_consumers", "Consumers currently connected"),
            connections_opened: make
                .counter("rabbitmq_connections_opened_total", "Connections opened"),
            connections_closed: make
                .counter("rabbitmq_connections_closed_total", "Connections closed"),
            channels_opened: make.counter("rabbitmq_channels_opened_total", "Channels opened"),
            channels_closed: make.counter("rabbitmq_channels_closed_total", "Channels closed"),
            queues_declared: make.counter("rabbitmq_queues_declared_total", "Queues declared"),
            queues_created: make.counter("rabbitmq_queues_created_total", "Queues created"),
            queues_deleted: make.counter("rabbitmq_queues_deleted_total", "Queues deleted"),
            auth_attempts,
            auth_attempts_succeeded,
            auth_attempts_failed,
            http_auth_attempts,
            http_auth_attempts_succeeded,
            http_auth_attempts_failed,
            received: make.protocol(
                "rabbitmq_global_messages_received_total",
                "Messages from publishers",
            ),
            received_confirm: make.protocol(
                "rabbitmq_global_messages_received_confirm_total",
                "Messages from publishers that want confirms",
            ),
            routed: make.protocol(
                "rabbitmq_global_messages_routed_total",
                "Messages routed to queues",
            ),
            enqueued: make.counter(
                "rabbitmq_queue_messages_published_total",
                "Messages published into queues",
            ),
            confirmed: make.protocol(
                "rabbitmq_global_messages_confirmed_total",
                "Messages confirmed",
            ),
            unroutable_dropped: make.protocol(
                "rabbitmq_global_messages_unroutable_dropped_total",
                "Messages without a queue, dropped",
            ),
            unroutable_returned: make.protocol(
                "rabbitmq_global_messages_unroutable_returned_total",
                "Messages without a queue, returned",
            ),
            delivered: make.queue_type(
                "rabbitmq_global_messages_delivered_total",
                "Messages sent to consumers",
            ),
            delivered_manual: make.queue_type(
                "rabbitmq_global_messages_delivered_consume_manual_ack_total",
                "Messages sent to consumers that acknowledge",
            ),
            delivered_auto: make.queue_type(
                "rabbitmq_global_messages_delivered_consume_auto_ack_total",
                "Messages sent to consumers that do not acknowledge",
            ),
            get_manual: make.queue_type(
                "rabbitmq_global_messages_delivered_get_manual_ack_total",
                "Messages got, to be acknowledged",
            ),
            get_auto: make.queue_type(
                "rabbitmq_global_messages_delivered_get_auto_ack_total",
                "Messages got, not to be acknowledged",
            ),
            get_empty: make.queue_type(
                "rabbitmq_global_messages_get_empty_total",
                "basic.get on an empty queue",
            ),
            redelivered: make.queue_type(
                "rabbitmq_global_messages_redelivered_total",
                "Messages sent again",
            ),
            acknowledged: make.queue_type(
                "rabbitmq_global_messages_acknowledged_total",
                "Messages acknowledged",
            ),
            bytes_in: make.counter("rabbitmq_connection_incoming_bytes_total", "Bytes received"),
            bytes_out: make.counter("rabbitmq_connection_outgoing_bytes_total", "Bytes sent"),
            packets_in: make.counter(
                "rabbitmq_connection_incoming_packets_total",
                "Reads from clients",
            ),
            packets_out: make.counter(
                "rabbitmq_connection_outgoing_packets_total",
                "Writes to clients",
            ),
            unacked: make.gauge(
                "rabbitmq_channel_messages_unacked",
                "Delivered but not yet acknowledged messages",
            ),
            unconfirmed: make.gauge(
                "rabbitmq_channel_messages_unconfirmed",
                "Published but not yet confirmed messages",
            ),
            message_size: make.add(Histogram::with_opts(size)),
            dead_lettered: ["maxlen", "expired", "rejected", "delivery_limit"]
                .map(|reason| make.letters(reason)),
            unreadable: make.counter(
                "leveret_messages_unreadable_total",
                "Messages that could not be read back",
            ),
            registry: make.0,
        }
    }
}

impl Stats {
    /// How many messages came in by size: up to so many bytes (`None`: any), and more than the class before.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn message_sizes(&self) -> Vec<(Option<u64>, u64)> {
        let families = self.message_size.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        let mut classes = Vec::new();
        for histogram in metrics.map(|metric| metric.get_histogram()) {
            let mut below = 0;
            for bucket in histogram.get_bucket() {
                let bound = bucket.upper_bound();
                let count = bucket.cumulative_count();
                classes.push((bound.is_finite().then_some(bound as u64), count - below));
                below = count;
            }
            if classes.last().is_none_or(|(bound, _)| bound.is_some()) {
                classes.push((None, histogram.get_sample_count().saturating_sub(below)));
            }
        }
        classes
    }

    pub(super) fn got(&self, kind: QueueType, no_ack: bool, redelivered: bool) {
        self.delivered.add(kind, 1);
        if no_ack {
            self.get_auto.add(kind, 1);
        } else {
            self.get_manual.add(kind, 1);
        }
        if redelivered {
            self.redelivered.add(kind, 1);
        }
    }
}
