//! Shovels: messages that the cluster itself takes from one place and puts to another, as parameters of the component
//! `shovel` say (RabbitMQ's plugin of that name; the management page's "move messages" is one).
//!
//! - `definition`, `uri`: what a parameter says.
//! - `client`: a connection to either end, this cluster or another broker.
//! - `worker`: one shovel.
//! - `status`: how it is.
//!
//! Shape: the node that leads the topology runs them all, so each runs once; another takes over where it does not.
//! Invariant: with `on-confirm` a message leaves its source only when the destination has confirmed it, so a failure
//! anywhere repeats messages and loses none. Bounds: a shovel holds no more than its prefetch, which is never unlimited.
//! Not here: parameters' storage, who may set them, JSON; AMQP 1.0, static shovels.

mod client;
mod definition;
#[cfg(test)]
mod definition_test;
mod status;
mod uri;
mod worker;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::amqp::AMQPValue;
use crate::broker::Node;

pub use definition::{Definition, Destination, Source};
pub use status::{Progress, State, View};
pub use uri::Uri;

use status::Status;
use worker::Worker;

/// The component of their parameters.
pub const COMPONENT: &str = "shovel";
/// How soon a new leader takes over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Vhost and name.
type Key = (String, String);

struct Running {
    value: AMQPValue,
    status: Arc<Status>,
    stop: CancellationToken,
}

/// The shovels that run on this node.
pub struct Shovels {
    node: Arc<Node>,
    /// Queues must be there, where a definition does not say.
    predeclared: bool,
    table: Mutex<BTreeMap<Key, Running>>,
}

impl Shovels {
    /// None yet. `predeclared`: queues must be there (`shovel.topology.predeclared`).
    #[must_use]
    pub fn new(node: Arc<Node>, predeclared: bool) -> Arc<Self> {
        Arc::new(Self {
            node,
            predeclared,
            table: Mutex::default(),
        })
    }

    /// Those that run here, by vhost and name.
    #[must_use]
    pub fn all(&self) -> Vec<View> {
        let table = self.table.lock();
        let rows = table.iter();
        rows.map(|((vhost, name), running)| running.status.view(vhost, name))
            .collect()
    }

    /// Ends one that runs here and starts it again; whether there is one.
    pub fn restart(&self, vhost: &str, name: &str) -> bool {
        let key = (vhost.to_owned(), name.to_owned());
        let mut table = self.table.lock();
        let Some(old) = table.remove(&key) else {
            return false;
        };
        old.stop.cancel();
        let started = self.start(&key, old.value);
        table.insert(key, started);
        true
    }

    /// What this node should run.
    fn wanted(&self) -> BTreeMap<Key, AMQPValue> {
        let cluster = &self.node.cluster;
        if !cluster.topology_group().is_leader() {
            return BTreeMap::new();
        }
        cluster.topology.read(|topology| {
            let shovels = topology.parameters_of(COMPONENT);
            let owned = shovels
                .map(|((_, vhost, name), value)| ((vhost.clone(), name.clone()), value.clone()));
            owned.collect()
        })
    }

    fn follow(&self) {
        let wanted = self.wanted();
        let mut table = self.table.lock();
        table.retain(|key, running| {
            let stays = wanted.get(key) == Some(&running.value);
            if !stays {
                running.stop.cancel();
            }
            stays
        });
        for (key, value) in wanted {
            if let Entry::Vacant(place) = table.entry(key) {
                let started = self.start(place.key(), value);
                place.insert(started);
            }
        }
    }

    fn start(&self, (vhost, name): &Key, value: AMQPValue) -> Running {
        let status = Arc::new(Status::default());
        let stop = CancellationToken::new();
        let worker = Worker {
            node: Arc::clone(&self.node),
            vhost: vhost.clone(),
            name: name.clone(),
            value: value.clone(),
            predeclared: self.predeclared,
            status: Arc::clone(&status),
        };
        let ends = stop.clone();
        self.node.supervisor.spawn("shovel", worker.run(ends));
        Running {
            value,
            status,
            stop,
        }
    }
}

/// Starts and ends shovels until the node stops.
pub async fn run(shovels: Arc<Shovels>) {
    let node = Arc::clone(&shovels.node);
    let mut changed = node.cluster.topology.changes();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            more = changed.changed() => if more.is_err() { return },
            _ = look.tick() => {}
            () = node.supervisor.stopping() => return,
        }
        shovels.follow();
    }
}

// Names of what a shovel adds to the headers.
mod header {
    pub const SHOVELLED: &str = "x-shovelled";
    pub const TIMESTAMP: &str = "x-shovelled-timestamp";
}
