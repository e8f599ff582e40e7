//! Lets policies act on queues that exist: whoever leads a set tells its queues what their records say now.
//!
//! Need: a change of policy reaches every queue, also when the node that was asked for it is gone. Shape: one task that
//! compares records with machines whenever policies changed, or a leadership came here, and sends [`Command::Configure`]
//! where they differ; so it needs no memory of its own and repeats are harmless. Limits: a queue of which the machine
//! knows nothing yet is looked for again [`LOOKS_MAX`] times, then left to whoever makes it.
//! Not here: which policy applies ([`crate::model::topology`]).

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

use crate::base::{QueueId, SetId};
use crate::model::set::{Command, QueueConfig};
use crate::rt::Supervisor;

use super::set_handle::SetHandle;
use super::start::Cluster;

/// How often leaderships are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1_000);
const LOOKS_MAX: u32 = 5;
/// Queues compared under one hold of the machine's lock.
const RUN: usize = 256;

/// What was done about a set.
#[derive(Clone, Copy, Default)]
struct Done {
    version: Option<u64>,
    looks: u32,
}

/// Runs until the node stops.
pub async fn run(cluster: Arc<Cluster>, supervisor: Supervisor) {
    let mut changed = cluster.topology.changes();
    let mut done: HashMap<SetId, Done> = HashMap::new();
    loop {
        let version = cluster.topology.policies_version();
        for (set, handle) in cluster.sets() {
            let leads = set.is_local() || handle.group().is_some_and(|group| group.is_leader());
            let entry = done.entry(set).or_default();
            if !leads {
                *entry = Done::default();
                continue;
            }
            if entry.version == Some(version) {
                continue;
            }
            let complete = configure(&cluster, set, handle).await;
            entry.looks += 1;
            if complete || entry.looks >= LOOKS_MAX {
                *entry = Done {
                    version: Some(version),
                    looks: 0,
                };
            }
        }
        tokio::select! {
            more = changed.changed() => if more.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = supervisor.stopping() => return,
        }
    }
}

/// Whether the machine knew every queue.
async fn configure(cluster: &Cluster, set: SetId, handle: &SetHandle) -> bool {
    let defaults = &cluster.options.queue_defaults;
    let wanted: Vec<(QueueId, QueueConfig)> = cluster.topology.read(|topology| {
        let here = topology.queues().filter(|queue| queue.lives_in(set));
        here.map(|queue| (queue.id, queue.config(defaults)))
            .collect()
    });
    let mut complete = true;
    for run in wanted.chunks(RUN) {
        let differing = handle.with(|replica| {
            let machine = replica.machine();
            let mut differing = Vec::new();
            for (queue, config) in run {
                match machine.queue_config(*queue) {
                    Some(known) if known == config => {}
                    Some(_) => differing.push((*queue, config.clone())),
                    None => complete = false,
                }
            }
            differing
        });
        for (queue, config) in differing.unwrap_or_default() {
            let config = Box::new(config);
            handle.push(&Command::Configure { queue, config });
        }
        handle.kick();
        tokio::task::yield_now().await;
    }
    complete
}
