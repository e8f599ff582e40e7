//! Figures over time: totals of the node every five seconds, how fast each connection reads and writes, and how fast
//! each queue goes.
//!
//! Shape: one task samples counters that are there anyway, so a message costs nothing more. Bounds: [`KEPT`] samples of
//! the node, two figures per open connection, [`FLOWS`] per queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::Api;
use super::error::ApiError;
use super::request::Request;
use crate::base::{Clock, QueueId, SessionId, SystemClock};
use crate::broker::Stats;
use crate::model::set::Flow;
use crate::rt::Supervisor;

const EVERY_S: u64 = 5;
/// 605 seconds, RabbitMQ's shortest window.
const KEPT: usize = 121;
const POINTS_MAX: u64 = 500;

/// Counters of the node by RabbitMQ's names.
fn counters(stats: &Stats) -> [(&'static str, u64); 21] {
    let manual = stats.delivered_manual.get();
    let auto = stats.delivered_auto.get();
    let (get, get_auto) = (stats.get_manual.get(), stats.get_auto.get());
    [
        ("publish", stats.received.get()),
        ("publish_in", stats.received.get()),
        ("publish_out", stats.routed.get()),
        ("confirm", stats.confirmed.get()),
        ("return_unroutable", stats.unroutable_returned.get()),
        ("drop_unroutable", stats.unroutable_dropped.get()),
        ("deliver", manual),
        ("deliver_no_ack", auto),
        ("get", get),
        ("get_no_ack", get_auto),
        ("get_empty", stats.get_empty.get()),
        ("deliver_get", manual + auto + get + get_auto),
        ("redeliver", stats.redelivered.get()),
        ("ack", stats.acknowledged.get()),
        ("connection_created", stats.connections_opened.get()),
        ("connection_closed", stats.connections_closed.get()),
        ("channel_created", stats.channels_opened.get()),
        ("channel_closed", stats.channels_closed.get()),
        ("queue_declared", stats.queues_declared.get()),
        ("queue_created", stats.queues_created.get()),
        ("queue_deleted", stats.queues_deleted.get()),
    ]
}

/// How many of them are about messages.
const MESSAGES: usize = 14;

#[derive(Debug)]
struct Sample {
    /// ms since the epoch.
    at: u64,
    values: [u64; 21],
}

#[derive(Debug, Default)]
struct Kept {
    samples: VecDeque<Sample>,
    /// Bytes in and out when last seen, and per second.
    connections: HashMap<SessionId, ([u64; 2], [f64; 2])>,
    /// What went through each queue with a part here when last seen, and per second.
    queues: HashMap<QueueId, ([u64; FLOWS], [f64; FLOWS])>,
}

const FLOWS: usize = 8;

/// What went through a queue, by RabbitMQ's names.
fn named(flow: Flow) -> [(&'static str, u64); FLOWS] {
    let all = flow.delivered + flow.delivered_auto + flow.got + flow.got_auto;
    [
        ("publish", flow.published),
        ("deliver", flow.delivered),
        ("deliver_no_ack", flow.delivered_auto),
        ("get", flow.got),
        ("get_no_ack", flow.got_auto),
        ("deliver_get", all),
        ("redeliver", flow.redelivered),
        ("ack", flow.acked),
    ]
}

impl Kept {
    fn take_queues(&mut self, api: &Api) {
        let mut queues = HashMap::with_capacity(self.queues.len());
        for (_, handle) in api.node.cluster.sets() {
            let flows = handle.with(|replica| replica.machine().flows().collect::<Vec<_>>());
            for (queue, flow) in flows.unwrap_or_default() {
                let entry = queues.entry(queue).or_insert(([0; FLOWS], [0.0; FLOWS]));
                for (sum, (_, value)) in entry.0.iter_mut().zip(named(flow)) {
                    *sum += value;
                }
            }
        }
        for (queue, (now, rates)) in &mut queues {
            let Some((before, _)) = self.queues.get(queue) else {
                continue;
            };
            for at in 0..FLOWS {
                rates[at] = now[at].saturating_sub(before[at]) as f64 / EVERY_S as f64;
            }
        }
        self.queues = queues;
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Samples(Mutex<Kept>);

/// Samples until the node stops.
pub async fn run(api: Arc<Api>, supervisor: Supervisor) {
    let mut every = tokio::time::interval(Duration::from_secs(EVERY_S));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = every.tick() => api.samples.take(&api),
            () = supervisor.stopping() => return,
        }
    }
}

impl Samples {
    fn take(&self, api: &Api) {
        let values = counters(&api.node.stats).map(|(_, value)| value);
        let clients = api.node.clients.all();
        let mut kept = self.0.lock();
        kept.samples.push_back(Sample {
            at: SystemClock.now().0,
            values,
        });
        if kept.samples.len() > KEPT {
            kept.samples.pop_front();
        }
        let mut connections = HashMap::with_capacity(clients.len());
        for client in clients {
            let now = [
                client.bytes_in.load(Ordering::Relaxed),
                client.bytes_out.load(Ordering::Relaxed),
            ];
            let before = kept
                .connections
                .get(&client.session)
                .map_or([0; 2], |known| known.0);
            let rate = [0, 1].map(|at| now[at].saturating_sub(before[at]) as f64 / EVERY_S as f64);
            connections.insert(client.session, (now, rate));
        }
        kept.connections = connections;
        kept.take_queues(api);
    }

    /// `message_stats` of a queue.
    pub fn queue(&self, queue: QueueId, flow: Flow) -> Value {
        let kept = self.0.lock();
        let rates = kept
            .queues
            .get(&queue)
            .map_or([0.0; FLOWS], |known| known.1);
        let mut table = Map::new();
        for ((name, value), rate) in named(flow).into_iter().zip(rates) {
            table.insert(name.to_owned(), json!(value));
            table.insert(format!("{name}_details"), json!({"rate": rate}));
        }
        Value::Object(table)
    }

    /// Bytes per second in and out.
    pub fn connection(&self, session: SessionId) -> [f64; 2] {
        let kept = self.0.lock();
        kept.connections
            .get(&session)
            .map_or([0.0; 2], |known| known.1)
    }

    fn table(&self, api: &Api, range: Option<Range>, from: usize, to: usize) -> Value {
        let kept = self.0.lock();
        let mut table = Map::new();
        let counters = counters(&api.node.stats);
        for (at, (name, value)) in counters.iter().enumerate().take(to).skip(from) {
            table.insert((*name).to_owned(), json!(value));
            let series = || {
                kept.samples
                    .iter()
                    .rev()
                    .map(|sample| (sample.at, sample.values[at]))
            };
            table.insert(format!("{name}_details"), details(series, range));
        }
        Value::Object(table)
    }

    /// `message_stats` of the node.
    pub fn messages(&self, api: &Api, range: Option<Range>) -> Value {
        self.table(api, range, 0, MESSAGES)
    }

    /// `churn_rates` of the node.
    pub fn churn(&self, api: &Api, range: Option<Range>) -> Value {
        self.table(api, range, MESSAGES, usize::MAX)
    }
}

/// A window that was asked for, seconds.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    age: u64,
    incr: u64,
}

impl Range {
    /// The window of `<name>_age` and `<name>_incr`, if they are there.
    ///
    /// # Errors
    /// 400 if they make no sense.
    pub fn of(request: &Request, name: &str) -> Result<Option<Self>, ApiError> {
        let part = |end: &str| request.parameter(&format!("{name}_{end}"));
        let (Some(age), Some(incr)) = (part("age"), part("incr")) else {
            return Ok(None);
        };
        let invalid =
            || ApiError::bad_request(format!("Invalid range parameters: age {age}, incr {incr}"));
        let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0);
        let (age_s, incr_s) = (
            number(age).ok_or_else(invalid)?,
            number(incr).ok_or_else(invalid)?,
        );
        match age_s / incr_s <= POINTS_MAX {
            true => Ok(Some(Self {
                age: age_s,
                incr: incr_s,
            })),
            false => Err(invalid()),
        }
    }
}

/// Rate, and with a window the samples in it, newest first.
fn details<I: Iterator<Item = (u64, u64)>>(series: impl Fn() -> I, range: Option<Range>) -> Value {
    let per_second = |new: (u64, u64), old: (u64, u64)| {
        let ms = new.0.saturating_sub(old.0).max(1);
        new.1.saturating_sub(old.1) as f64 * 1000.0 / ms as f64
    };
    let mut newest = series();
    let rate = match (newest.next(), newest.next()) {
        (Some(new), Some(old)) => per_second(new, old),
        _ => 0.0,
    };
    let mut details = json!({"rate": rate});
    let (Some(range), Some(newest)) = (range, series().next()) else {
        return details;
    };
    let step = usize::try_from(range.incr.div_ceil(EVERY_S)).unwrap_or(usize::MAX);
    let oldest = newest.0.saturating_sub(range.age * 1000);
    let points: Vec<(u64, u64)> = series()
        .step_by(step)
        .take_while(|(at, _)| *at >= oldest)
        .collect();
    let sum: u64 = points.iter().map(|(_, value)| value).sum();
    details["avg"] = json!(sum as f64 / points.len().max(1) as f64);
    details["avg_rate"] = match (points.first(), points.last()) {
        (Some(new), Some(old)) if points.len() > 1 => json!(per_second(*new, *old)),
        _ => json!(0.0),
    };
    details["samples"] = points
        .iter()
        .map(|(at, value)| json!({"timestamp": at, "sample": value}))
        .collect();
    details
}
