//! Figures of queues: from the machines of this node, and of parts that live elsewhere from a node that has them.
//!
//! Bounds: a machine is locked for [`AT_ONCE`] queues at a time; other nodes are asked once per node, within
//! `cluster::figures`' limit. A queue of which a part does not answer is shown as down.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::history::Ranges;
use super::samples::{LENGTHS, Object, QUEUE, queue_values};
use super::{Api, Context, peers};
use crate::base::{ConsumerId, NodeId, QueueId, SetId};
use crate::model::set::{Flow, QueueStats};
use crate::model::topology::QueueRecord;

const AT_ONCE: usize = 512;

/// Which queue, and where its parts are.
#[derive(Clone, Debug)]
pub struct Where {
    /// The queue.
    pub id: QueueId,
    /// The sets of its parts.
    pub sets: Vec<SetId>,
}

impl Where {
    /// Of a record.
    pub fn of(record: &QueueRecord) -> Self {
        Self {
            id: record.id,
            sets: record.sets().collect(),
        }
    }
}

/// What is known of a queue.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// As it is.
    pub stats: QueueStats,
    /// What went through it.
    pub flow: Flow,
    /// Rates of the parts elsewhere.
    pub rates: Vec<f32>,
    /// A part of it is not answered for.
    pub silent: bool,
}

impl Figures {
    fn join(&mut self, stats: &QueueStats, flow: &Flow) {
        let all = &mut self.stats;
        all.ready += stats.ready;
        all.ready_bytes += stats.ready_bytes;
        all.unsettled += stats.unsettled;
        all.unsettled_bytes += stats.unsettled_bytes;
        all.delayed += stats.delayed;
        all.dead_letters += stats.dead_letters;
        all.consumers = all.consumers.max(stats.consumers);
        all.active = all.active.or(stats.active);
        let all = &mut self.flow;
        all.published += flow.published;
        all.delivered += flow.delivered;
        all.delivered_auto += flow.delivered_auto;
        all.got += flow.got;
        all.got_auto += flow.got_auto;
        all.redelivered += flow.redelivered;
        all.acked += flow.acked;
    }

    /// In the order of [`QUEUE`] and [`LENGTHS`].
    pub fn values(&self) -> [u64; 11] {
        queue_values(&self.flow, &self.stats)
    }
}

/// Figures of these queues, in their order.
pub async fn of(context: &Context, queues: &[Where]) -> Vec<Figures> {
    let api = &context.api;
    let mut all = vec![Figures::default(); queues.len()];
    let mut by_set: BTreeMap<SetId, Vec<usize>> = BTreeMap::new();
    for (at, queue) in queues.iter().enumerate() {
        for set in &queue.sets {
            by_set.entry(*set).or_default().push(at);
        }
    }
    let mut elsewhere = Vec::new();
    for (set, some) in by_set {
        let ids: Vec<QueueId> = some.iter().map(|at| queues[*at].id).collect();
        match here(api, set, &ids) {
            Some(found) => {
                for (at, (stats, flow)) in some.iter().zip(found) {
                    all[*at].join(&stats, &flow);
                }
            }
            None => elsewhere.push((set, some)),
        }
    }
    if !elsewhere.is_empty() {
        ask(context, queues, elsewhere, &mut all).await;
    }
    all
}

/// What a set of this node knows of these queues; nothing if the set is elsewhere.
fn here(api: &Api, set: SetId, queues: &[QueueId]) -> Option<Vec<(QueueStats, Flow)>> {
    let handle = api.node.cluster.set(set)?;
    let mut all = Vec::with_capacity(queues.len());
    for some in queues.chunks(AT_ONCE) {
        handle.with(|replica| {
            let machine = replica.machine();
            for queue in some {
                let stats = machine.queue_stats(*queue).unwrap_or_default();
                all.push((stats, machine.flow(*queue).unwrap_or_default()));
            }
        })?;
    }
    Some(all)
}

/// A node that has a set: its leader as far as is known, or any member.
fn host(context: &Context, set: SetId) -> Option<NodeId> {
    if let Some(node) = set.local_node() {
        return Some(node);
    }
    let own = context.node().cluster.node();
    let topology = &context.node().cluster.topology;
    topology.read(|topology| {
        let record = topology.set(set)?;
        let mut members = record.members.iter().copied().filter(|node| *node != own);
        let leader = record.leader;
        match record.members.contains(&leader) && leader != own {
            true => Some(leader),
            false => members.next(),
        }
    })
}

async fn ask(
    context: &Context,
    queues: &[Where],
    parts: Vec<(SetId, Vec<usize>)>,
    all: &mut [Figures],
) {
    let mut by_node: BTreeMap<NodeId, Vec<(usize, SetId)>> = BTreeMap::new();
    for (set, some) in parts {
        let Some(node) = host(context, set) else {
            some.into_iter().for_each(|at| all[at].silent = true);
            continue;
        };
        let rows = by_node.entry(node).or_default();
        rows.extend(some.into_iter().map(|at| (at, set)));
    }
    let asked = by_node.into_iter().map(|(node, rows)| async move {
        let wanted = rows
            .iter()
            .map(|(at, set)| json!([queues[*at].id.0, set.0]));
        let question = json!({"what": "queues", "rows": wanted.collect::<Vec<_>>()});
        let answers = peers::others(context, &question, Some(&[node])).await;
        (
            rows,
            answers.into_iter().next().map(|(_, _, answer)| answer),
        )
    });
    for (rows, answer) in futures_util::future::join_all(asked).await {
        for (n, (at, _)) in rows.iter().enumerate() {
            let known = answer.as_ref().and_then(|answer| read(answer.get(n)?));
            match known {
                Some((stats, flow, rates)) => {
                    all[*at].join(&stats, &flow);
                    all[*at].rates = rates;
                }
                None => all[*at].silent = true,
            }
        }
    }
}

/// This node's answer to [`ask`].
pub fn own(api: &Api, rows: &[Value], _: Ranges) -> Value {
    let row = |row: &Value| -> Option<Value> {
        let queue = QueueId(row.get(0)?.as_u64()?);
        let set = SetId(u32::try_from(row.get(1)?.as_u64()?).ok()?);
        let (stats, flow) = here(api, set, &[queue])?.pop()?;
        let rates = api.samples.rates(&Object::Queue(queue));
        Some(json!([
            [
                stats.ready,
                stats.ready_bytes,
                stats.unsettled,
                stats.unsettled_bytes,
                stats.delayed,
                stats.dead_letters,
                stats.consumers,
                stats.active.map(|active| active.0),
            ],
            [
                flow.published,
                flow.delivered,
                flow.delivered_auto,
                flow.got,
                flow.got_auto,
                flow.redelivered,
                flow.acked,
            ],
            rates,
        ]))
    };
    rows.iter()
        .map(|one| row(one).unwrap_or(Value::Null))
        .collect()
}

fn read(row: &Value) -> Option<(QueueStats, Flow, Vec<f32>)> {
    let number = |of: usize, at: usize| row.get(of)?.get(at)?.as_u64();
    let stats = QueueStats {
        ready: number(0, 0)?,
        ready_bytes: number(0, 1)?,
        unsettled: number(0, 2)?,
        unsettled_bytes: number(0, 3)?,
        delayed: number(0, 4)?,
        dead_letters: number(0, 5)?,
        consumers: u32::try_from(number(0, 6)?).ok()?,
        active: number(0, 7).map(ConsumerId),
    };
    let flow = Flow {
        published: number(1, 0)?,
        delivered: number(1, 1)?,
        delivered_auto: number(1, 2)?,
        got: number(1, 3)?,
        got_auto: number(1, 4)?,
        redelivered: number(1, 5)?,
        acked: number(1, 6)?,
    };
    let rates = row.get(2)?.as_array()?.iter();
    let rates = rates.map(|rate| rate.as_f64().unwrap_or(0.0) as f32);
    Some((stats, flow, rates.collect()))
}

/// The value a list of queues is to be ordered by, where it needs no rendering: figures, and rates of this node.
pub fn order_values(
    api: &Api,
    key: &str,
    queues: &[Where],
    figures: &[Figures],
) -> Option<Vec<f64>> {
    let names: Vec<&str> = QUEUE.iter().chain(&LENGTHS).copied().collect();
    let (plain, rated) = match key.strip_suffix("_details.rate") {
        Some(name) => (name, true),
        None => (key, false),
    };
    let plain = plain.strip_prefix("message_stats.").unwrap_or(plain);
    if rated {
        let at = names.iter().position(|name| *name == plain)?;
        let ids = queues.iter().map(|queue| queue.id);
        let rates = api
            .samples
            .rates_of(ids, |rates| rates.get(at).copied().unwrap_or(0.0));
        let rates = rates.into_iter().zip(figures);
        let rates =
            rates.map(|(own, figures)| figures.rates.get(at).map_or(own, |more| own + more));
        return Some(rates.map(f64::from).collect());
    }
    let value: Box<dyn Fn(&Figures) -> u64> =
        match (plain, names.iter().position(|name| *name == plain)) {
            (_, Some(at)) => Box::new(move |figures| figures.values()[at]),
            ("consumers", _) => Box::new(|figures| u64::from(figures.stats.consumers)),
            ("message_bytes", _) => {
                Box::new(|figures| figures.stats.ready_bytes + figures.stats.unsettled_bytes)
            }
            ("message_bytes_ready", _) => Box::new(|figures| figures.stats.ready_bytes),
            ("message_bytes_unacknowledged", _) => {
                Box::new(|figures| figures.stats.unsettled_bytes)
            }
            _ => return None,
        };
    Some(
        figures
            .iter()
            .map(|figures| value(figures) as f64)
            .collect(),
    )
}
