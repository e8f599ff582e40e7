//! Counters and gauges under RabbitMQ's names (spec/operations.md §2.2). A connection counts in its own [`Tally`] and
//! adds it up once per turn of its loop.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

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
    pub confirmed: IntCounter,
    pub unroutable_dropped: IntCounter,
    pub unroutable_returned: IntCounter,
    pub delivered: IntCounter,
    pub delivered_manual: IntCounter,
    pub delivered_auto: IntCounter,
    pub get_manual: IntCounter,
    pub get_auto: IntCounter,
    pub get_empty: IntCounter,
    pub redelivered: IntCounter,
    pub acknowledged: IntCounter,
    pub bytes_in: IntCounter,
    pub bytes_out: IntCounter,
    pub message_size: Histogram,
    /// Messages whose bytes could not be had, or were wrong.
    pub unreadable: IntCounter,
}

/// RabbitMQ's bounds of rabbitmq_message_size_bytes.
const SIZE_BOUNDS: [f64; 9] = [
    100.0,
    1_000.0,
    10_000.0,
    100_000.0,
    1_000_000.0,
    10_000_000.0,
    50_000_000.0,
    100_000_000.0,
    536_870_912.0,
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

    fn queue_type(&self, name: &str, help: &str) -> IntCounter {
        let family = IntCounterVec::new(Opts::new(name, help), &["protocol", "queue_type"]);
        self.add(family)
            .with_label_values(&["amqp091", "rabbit_quorum_queue"])
    }
}

impl Default for Stats {
    fn default() -> Self {
        let make = Maker(Registry::new());
        let size = HistogramOpts::new("rabbitmq_message_size_bytes", "Size of messages received")
            .buckets(SIZE_BOUNDS.to_vec())
            .const_label("protocol", "amqp091");
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
            auth_attempts: make.protocol("rabbitmq_auth_attempts_total", "Login attempts"),
            auth_attempts_succeeded: make.protocol(
                "rabbitmq_auth_attempts_succeeded_total",
                "Logins that succeeded",
            ),
            auth_attempts_failed: make
                .protocol("rabbitmq_auth_attempts_failed_total", "Logins that failed"),
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
            message_size: make.add(Histogram::with_opts(size)),
            unreadable: make.counter(
                "leveret_messages_unreadable_total",
                "Messages that could not be read back",
            ),
            registry: make.0,
        }
    }
}

impl Stats {
    pub(super) fn got(&self, no_ack: bool, redelivered: bool) {
        self.delivered.inc();
        if no_ack {
            self.get_auto.inc()
        } else {
            self.get_manual.inc()
        }
        if redelivered {
            self.redelivered.inc();
        }
    }
}

/// What one connection did since it last reported.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "as in `Stats`")]
pub struct Tally {
    pub received: u64,
    pub received_confirm: u64,
    pub routed: u64,
    pub confirmed: u64,
    pub unroutable_dropped: u64,
    pub unroutable_returned: u64,
    pub delivered_manual: u64,
    pub delivered_auto: u64,
    pub redelivered: u64,
    pub acknowledged: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// (size, how many) of messages received in a row.
    sizes: Vec<(usize, u32)>,
}

impl Tally {
    pub(super) fn received(&mut self, size: usize, confirm: bool) {
        self.received += 1;
        self.received_confirm += u64::from(confirm);
        match self.sizes.last_mut() {
            Some((last, count)) if *last == size => *count += 1,
            _ => self.sizes.push((size, 1)),
        }
    }

    pub(super) fn delivered(&mut self, no_ack: bool, redelivered: bool) {
        if no_ack {
            self.delivered_auto += 1;
        } else {
            self.delivered_manual += 1;
        }
        self.redelivered += u64::from(redelivered);
    }

    /// Adds everything to the node's counters.
    pub fn flush(&mut self, stats: &Stats) {
        for (size, count) in self.sizes.drain(..) {
            for _ in 0..count {
                stats.message_size.observe(size as f64);
            }
        }
        let delivered = self.delivered_manual + self.delivered_auto;
        let pairs = [
            (&stats.received, &mut self.received),
            (&stats.received_confirm, &mut self.received_confirm),
            (&stats.routed, &mut self.routed),
            (&stats.confirmed, &mut self.confirmed),
            (&stats.unroutable_dropped, &mut self.unroutable_dropped),
            (&stats.unroutable_returned, &mut self.unroutable_returned),
            (&stats.delivered_manual, &mut self.delivered_manual),
            (&stats.delivered_auto, &mut self.delivered_auto),
            (&stats.redelivered, &mut self.redelivered),
            (&stats.acknowledged, &mut self.acknowledged),
            (&stats.bytes_in, &mut self.bytes_in),
            (&stats.bytes_out, &mut self.bytes_out),
        ];
        for (counter, value) in pairs {
            if *value > 0 {
                counter.inc_by(std::mem::take(value));
            }
        }
        if delivered > 0 {
            stats.delivered.inc_by(delivered);
        }
    }
}
