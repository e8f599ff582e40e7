//! Figures over time, of this node: how fast everything goes, and samples of what somebody looks at.
//!
//! Shape: one task reads counters that are there anyway every [`EVERY_S`] seconds, so a message costs nothing more.
//! Of every queue, exchange, connection, channel and vhost the last values and rates are kept; samples are kept of the
//! node's totals, and of up to [`WATCHED_MAX`] objects from the moment somebody asks for theirs until nobody has for
//! [`WATCHED_FOR`] ticks. Not here: the figures of other nodes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::Api;
use super::history::{BASIC, EVERY_S, GLOBAL, History, Range, Ranges, details};
use crate::base::{Clock, QueueId, SessionId, SetId, SystemClock};
use crate::broker::{Client, Count, Counts, Stats, alarm};
use crate::cluster::SetHandle;
use crate::model::set::{Flow, QueueStats};
use crate::rt::Supervisor;

const WATCHED_MAX: usize = 512;
/// Ticks: ten minutes.
const WATCHED_FOR: u32 = 120;

/// What figures are of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// This node.
    Node,
    /// A queue.
    Queue(QueueId),
    /// An exchange: vhost, name.
    Exchange(Arc<str>, Bytes),
    /// A connection.
    Connection(SessionId),
    /// A channel.
    Channel(SessionId, u16),
    /// A vhost.
    Vhost(Arc<str>),
}

/// Message counters by RabbitMQ's names, in the order of [`messages`].
pub const MESSAGES: [&str; 12] = [
    "publish",
    "confirm",
    "return_unroutable",
    "drop_unroutable",
    "deliver",
    "deliver_no_ack",
    "get",
    "get_no_ack",
    "get_empty",
    "redeliver",
    "ack",
    "deliver_get",
];
/// Of queues, in the order of [`queue_values`].
pub const QUEUE: [&str; 8] = [
    "publish",
    "deliver",
    "deliver_no_ack",
    "get",
    "get_no_ack",
    "deliver_get",
    "redeliver",
    "ack",
];
/// After them.
pub const LENGTHS: [&str; 3] = ["messages", "messages_ready", "messages_unacknowledged"];
/// Of exchanges.
pub const EXCHANGE: [&str; 2] = ["publish_in", "publish_out"];
/// Of connections; after messages of vhosts.
pub const BYTES: [&str; 2] = ["recv_oct", "send_oct"];
/// Of the node after messages.
const THROUGH: [&str; 2] = ["publish_in", "publish_out"];
const CHURN: [&str; 7] = [
    "connection_created",
    "connection_closed",
    "channel_created",
    "channel_closed",
    "queue_declared",
    "queue_created",
    "queue_deleted",
];
const GAUGES: [&str; 8] = [
    "fd_used",
    "sockets_used",
    "proc_used",
    "mem_used",
    "disk_free",
    "gc_num",
    "gc_bytes_reclaimed",
    "context_switches",
];

/// In the order of [`MESSAGES`].
pub fn messages(counts: &Counts) -> [u64; 12] {
    let all = [
        Count::Deliver,
        Count::DeliverNoAck,
        Count::Get,
        Count::GetNoAck,
    ];
    let all = all.into_iter().map(|count| counts.get(count)).sum();
    let mut values = [0; 12];
    values[..11].copy_from_slice(&counts.0);
    values[11] = all;
    values
}

fn node_messages(stats: &Stats) -> [u64; 12] {
    messages(&Counts([
        stats.received.get(),
        stats.confirmed.get(),
        stats.unroutable_returned.get(),
        stats.unroutable_dropped.get(),
        stats.delivered_manual.get(),
        stats.delivered_auto.get(),
        stats.get_manual.get(),
        stats.get_auto.get(),
        stats.get_empty.get(),
        stats.redelivered.get(),
        stats.acknowledged.get(),
    ]))
}

fn churn(stats: &Stats) -> [u64; 7] {
    [
        stats.connections_opened.get(),
        stats.connections_closed.get(),
        stats.channels_opened.get(),
        stats.channels_closed.get(),
        stats.queues_declared.get(),
        stats.queues_created.get(),
        stats.queues_deleted.get(),
    ]
}

/// In the order of [`QUEUE`] and [`LENGTHS`].
pub fn queue_values(flow: &Flow, stats: &QueueStats) -> [u64; 11] {
    let all = flow.delivered + flow.delivered_auto + flow.got + flow.got_auto;
    let ready = stats.ready + stats.delayed;
    [
        flow.published,
        flow.delivered,
        flow.delivered_auto,
        flow.got,
        flow.got_auto,
        all,
        flow.redelivered,
        flow.acked,
        ready + stats.unsettled,
        ready,
        stats.unsettled,
    ]
}

/// Bytes of a connection, in and out.
pub fn bytes(client: &Client) -> [u64; 2] {
    [
        client.bytes_in.load(Ordering::Relaxed),
        client.bytes_out.load(Ordering::Relaxed),
    ]
}

#[derive(Debug)]
struct Track {
    last: Box<[u64]>,
    rates: Box<[f32]>,
    tick: u64,
}

#[derive(Debug)]
struct Watched {
    history: History,
    /// Ticks until it is forgotten.
    left: u32,
}

#[derive(Debug, Default)]
struct Kept {
    tick: u64,
    tracks: HashMap<Object, Track>,
    watched: HashMap<Object, Watched>,
    node: Option<History>,
    last: Option<Instant>,
    /// Dead letters of each set when last seen.
    letters: HashMap<SetId, [u64; 4]>,
}

impl Kept {
    fn take(&mut self, object: Object, values: &[u64], (at, seconds): (u64, f64)) {
        if let Some(watched) = self.watched.get_mut(&object) {
            watched.history.push(at, values);
        }
        let tick = self.tick;
        let Some(track) = self.tracks.get_mut(&object) else {
            let rates = values.iter().map(|_| 0.0).collect();
            let last = values.into();
            self.tracks.insert(object, Track { last, rates, tick });
            return;
        };
        for (at, value) in values.iter().enumerate() {
            track.rates[at] = ((*value as f64 - track.last[at] as f64) / seconds) as f32;
        }
        track.last.copy_from_slice(values);
        track.tick = tick;
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Samples(Mutex<Kept>);

/// Samples until the node stops, when the wall clock is at a multiple of [`EVERY_S`].
pub async fn run(api: Arc<Api>, supervisor: Supervisor) {
    let every = EVERY_S * 1000;
    loop {
        let wait = every - SystemClock.now().0 % every;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(wait)) => api.samples.tick(&api),
            () = supervisor.stopping() => return,
        }
    }
}

impl Samples {
    fn tick(&self, api: &Api) {
        let now = Instant::now();
        let at = SystemClock.now().0;
        let at = at - at % (EVERY_S * 1000);
        let node = node_values(api);
        let mut kept = self.0.lock();
        kept.tick += 1;
        let seconds = match kept.last.replace(now) {
            Some(last) => now.duration_since(last).as_secs_f64().max(0.1),
            None => EVERY_S as f64,
        };
        kept.node
            .get_or_insert_with(|| History::new(GLOBAL))
            .push(at, &node);
        kept.take(Object::Node, &node, (at, seconds));
        count_letters(api, &mut kept.letters);
        for client in api.node.clients.all() {
            let connection = Object::Connection(client.session);
            kept.take(connection, &bytes(&client), (at, seconds));
            for meter in client.meters() {
                let channel = Object::Channel(client.session, meter.number);
                kept.take(channel, &messages(&meter.counts.read()), (at, seconds));
            }
        }
        for (vhost, name, values) in api.node.meters.exchanges() {
            kept.take(Object::Exchange(vhost, name), &values[..2], (at, seconds));
        }
        drop(kept);
        let lengths = self.take_queues(api, (at, seconds));
        let mut kept = self.0.lock();
        for (name, meter) in api.node.meters.vhosts() {
            let mut values = [0; 17];
            values[..14].copy_from_slice(&vhost_values(&meter));
            let own = lengths.get(&name).copied().unwrap_or_default();
            values[14..].copy_from_slice(&own);
            kept.take(Object::Vhost(name), &values, (at, seconds));
        }
        let tick = kept.tick;
        kept.tracks.retain(|_, track| track.tick == tick);
        kept.watched.retain(|_, watched| {
            watched.left = watched.left.saturating_sub(1);
            watched.left > 0
        });
        drop(kept);
        let topology = &api.node.cluster.topology;
        topology.read(|topology| {
            api.node.meters.prune(
                |vhost| topology.has_vhost(vhost),
                |vhost, name| topology.exchange(vhost, name).is_some(),
            );
        });
    }

    /// Every queue with a part here; parts of one queue add up. Lengths by vhost of what this node leads.
    fn take_queues(&self, api: &Api, time: (u64, f64)) -> HashMap<Arc<str>, [u64; 3]> {
        let mut lengths: HashMap<Arc<str>, [u64; 3]> = HashMap::new();
        let mut spread: HashMap<QueueId, [u64; 11]> = HashMap::new();
        for (_, handle) in api.node.cluster.sets() {
            let led = leads(handle);
            for some in handle.figures() {
                let several: Vec<bool> = api.node.cluster.topology.read(|topology| {
                    for (queue, stats, _) in some.iter().filter(|_| led) {
                        if let Some(record) = topology.queue_by_id(*queue) {
                            add_lengths(
                                lengths.entry(Arc::clone(&record.vhost)).or_default(),
                                stats,
                            );
                        }
                    }
                    let some = some.iter();
                    some.map(|(queue, ..)| topology.has_parts(*queue)).collect()
                });
                let mut kept = self.0.lock();
                for ((queue, stats, flow), several) in some.iter().zip(several) {
                    let values = queue_values(flow, stats);
                    if several {
                        let sum = spread.entry(*queue).or_default();
                        sum.iter_mut()
                            .zip(values)
                            .for_each(|(sum, one)| *sum += one);
                    } else {
                        kept.take(Object::Queue(*queue), &values, time);
                    }
                }
            }
        }
        let mut kept = self.0.lock();
        for (queue, values) in spread {
            kept.take(Object::Queue(queue), &values, time);
        }
        lengths
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.0.lock() = Kept::default();
    }

    /// The rates of an object, as far as they are known.
    pub fn rates(&self, object: &Object) -> Vec<f32> {
        let kept = self.0.lock();
        let track = kept.tracks.get(object);
        track.map_or_else(Vec::new, |track| track.rates.to_vec())
    }

    /// Rates of many queues: what `rate` makes of each, under one lock.
    pub fn rates_of<T>(
        &self,
        queues: impl Iterator<Item = QueueId>,
        rate: impl Fn(&[f32]) -> T,
    ) -> Vec<T> {
        let kept = self.0.lock();
        let rates = queues.map(|queue| {
            let track = kept.tracks.get(&Object::Queue(queue));
            rate(track.map_or(&[], |track| &track.rates))
        });
        rates.collect()
    }

    /// Counters with their `_details`: `names` for the columns from `from`, with the values they have now.
    pub fn table(
        &self,
        object: &Object,
        (names, from): (&[&str], usize),
        values: &[u64],
        range: Option<Range>,
    ) -> Map<String, Value> {
        let mut kept = self.0.lock();
        if range.is_some() && *object != Object::Node {
            watch(&mut kept, object);
        }
        let rates = kept.tracks.get(object).map(|track| &track.rates);
        let history = match object {
            Object::Node => kept.node.as_ref(),
            _ => kept.watched.get(object).map(|watched| &watched.history),
        };
        let (mut table, now) = (Map::new(), SystemClock.now().0);
        for (at, (name, value)) in names.iter().zip(values).enumerate() {
            let rate = rates.and_then(|rates| rates.get(from + at));
            let rate = rate.map_or(0.0, |rate| f64::from(*rate));
            let gauge = LENGTHS.contains(name) || GAUGES.contains(name);
            // A counter falls when a replica begins anew.
            let rate = if gauge { rate } else { rate.max(0.0) };
            table.insert((*name).to_owned(), json!(value));
            let history = history.map(|history| (history, from + at));
            let shown = details(rate, history, range, (now, *value));
            table.insert(format!("{name}_details"), shown);
        }
        table
    }

    /// `message_stats` of this node.
    pub fn messages(&self, api: &Api, ranges: Ranges) -> Value {
        let (values, range) = (node_values(api), ranges.msg_rates);
        let mut table = self.table(&Object::Node, (&MESSAGES, 0), &values[..12], range);
        table.extend(self.table(&Object::Node, (&THROUGH, 12), &values[12..14], range));
        Value::Object(table)
    }

    /// `churn_rates` of this node.
    pub fn churn(&self, api: &Api, ranges: Ranges) -> Map<String, Value> {
        let values = churn(&api.node.stats);
        self.table(&Object::Node, (&CHURN, 14), &values, ranges.msg_rates)
    }

    /// `queue_totals` of what this node leads.
    pub fn lengths(&self, api: &Api, ranges: Ranges) -> Map<String, Value> {
        let values = led_lengths(api);
        self.table(&Object::Node, (&LENGTHS, 21), &values, ranges.lengths)
    }

    /// What the node uses of the machine it is on.
    pub fn gauges(&self, api: &Api, ranges: Ranges) -> Map<String, Value> {
        let values = gauges(api);
        self.table(&Object::Node, (&GAUGES, 24), &values, ranges.node_stats)
    }
}

/// Dead letters since the last time, of the sets this node leads: counters of nodes must add up to the cluster's.
fn count_letters(api: &Api, known: &mut HashMap<SetId, [u64; 4]>) {
    for (set, handle) in api.node.cluster.sets() {
        let Some(totals) = handle.with(|replica| replica.machine().totals()) else {
            continue;
        };
        let now = [
            totals.died_max_len,
            totals.died_expired,
            totals.died_rejected,
            totals.died_delivery_limit,
        ];
        let before = known.insert(set, now).unwrap_or(now);
        if leads(handle) {
            for (at, counter) in api.node.stats.dead_lettered.iter().enumerate() {
                counter.inc_by(now[at].saturating_sub(before[at]));
            }
        }
    }
}

/// Samples of it are kept from now on, unless too many others are.
fn watch(kept: &mut Kept, object: &Object) {
    if let Some(watched) = kept.watched.get_mut(object) {
        watched.left = WATCHED_FOR;
    } else if kept.watched.len() < WATCHED_MAX {
        let watched = Watched {
            history: History::new(BASIC),
            left: WATCHED_FOR,
        };
        kept.watched.insert(object.clone(), watched);
    }
}

/// Messages, bytes.
pub fn vhost_values(meter: &crate::broker::VhostMeter) -> [u64; 14] {
    let mut values = [0; 14];
    values[..12].copy_from_slice(&messages(&meter.counts.read()));
    values[12] = meter.bytes_in.load(Ordering::Relaxed);
    values[13] = meter.bytes_out.load(Ordering::Relaxed);
    values
}

fn leads(handle: &SetHandle) -> bool {
    handle.group().is_none_or(|group| group.is_leader())
}

fn add_lengths(sum: &mut [u64; 3], stats: &QueueStats) {
    let ready = stats.ready + stats.delayed;
    for (sum, value) in sum
        .iter_mut()
        .zip([ready + stats.unsettled, ready, stats.unsettled])
    {
        *sum += value;
    }
}

/// Messages by vhost in the queues this node leads.
pub fn lengths_by_vhost(api: &Api, vhost: Option<&str>) -> HashMap<Arc<str>, [u64; 3]> {
    let mut lengths: HashMap<Arc<str>, [u64; 3]> = HashMap::new();
    for (_, handle) in api.node.cluster.sets().filter(|(_, handle)| leads(handle)) {
        for some in handle.figures() {
            api.node.cluster.topology.read(|topology| {
                for (queue, stats, _) in &some {
                    let record = topology.queue_by_id(*queue);
                    if let Some(record) = record
                        && vhost.is_none_or(|vhost| *vhost == *record.vhost)
                    {
                        add_lengths(lengths.entry(Arc::clone(&record.vhost)).or_default(), stats);
                    }
                }
            });
        }
    }
    lengths
}

/// Messages of the sets this node leads, and of its own: each message is counted by one node.
pub fn led_lengths(api: &Api) -> [u64; 3] {
    let (mut ready, mut unsettled) = (0, 0);
    for (_, handle) in api.node.cluster.sets() {
        if !leads(handle) {
            continue;
        }
        handle.with(|replica| {
            let totals = replica.machine().totals();
            ready += totals.ready;
            unsettled += totals.unsettled;
        });
    }
    [ready + unsettled, ready, unsettled]
}

fn gauges(api: &Api) -> [u64; 8] {
    let usage = alarm::measure(&api.limits.data_dir);
    [
        super::super::metrics::open_fds(),
        0,
        super::super::metrics::tasks(),
        usage.memory_bytes,
        usage.disk_free_bytes,
        0,
        0,
        0,
    ]
}

/// Messages 0, through 12, churn 14, lengths 21, gauges 24.
fn node_values(api: &Api) -> [u64; 32] {
    let stats = &api.node.stats;
    let mut values = [0; 32];
    values[..12].copy_from_slice(&node_messages(stats));
    values[12] = stats.received.get();
    values[13] = stats.routed.get();
    values[14..21].copy_from_slice(&churn(stats));
    values[21..24].copy_from_slice(&led_lengths(api));
    values[24..].copy_from_slice(&gauges(api));
    values
}
