//! What this connection's publishes resolved to, kept until the topology changes.
//!
//! A hit costs two comparisons of short byte strings; a miss takes the topology's read lock.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;

use crate::amqp::{ProtocolError, RawProperties};
use crate::base::{QueueId, SetId};
use crate::cluster::SharedTopology;
use crate::model::route::{QueueTarget, RouteInput};
use crate::model::topology::{Permission, Resource, Topology};

use super::meters::{ExchangeMeter, Meters};

/// Routes kept per connection; past it all are dropped.
const ROUTES_MAX: usize = 4096;

/// Where a publish goes: per set, its queues there.
#[derive(Debug, Default)]
pub(super) struct Route {
    pub sets: Vec<(SetId, Vec<QueueId>)>,
    /// Queues that are spread over several sets, each with those.
    pub spread: Vec<(QueueId, Vec<SetId>)>,
    /// Whether the message's `x-delay` counts.
    pub delays: bool,
    /// To how many queues.
    pub queues: u64,
    /// What the exchange saw.
    pub meter: Arc<ExchangeMeter>,
    /// No queue takes it but such as keep the history of an exchange.
    pub nowhere: bool,
}

impl Route {
    /// The same queues, where they are by now; without those that are gone.
    pub fn again(&self, topology: &SharedTopology) -> Self {
        let queues = self.sets.iter().flat_map(|(_, queues)| queues);
        let queues = queues.chain(self.spread.iter().map(|(queue, _)| queue));
        let mut targets = Vec::new();
        let mut spread = Vec::new();
        topology.read(|topology| {
            for queue in queues {
                match topology.spread(*queue) {
                    Some(parts) => spread.push((*queue, parts.to_vec())),
                    None => targets.extend(topology.place(*queue)),
                }
            }
        });
        Self {
            sets: by_set(&targets),
            spread,
            delays: self.delays,
            queues: self.queues,
            meter: Arc::clone(&self.meter),
            nowhere: self.nowhere,
        }
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Routes {
    version: u64,
    last: Option<(Bytes, Bytes, Arc<Route>)>,
    known: HashMap<(Bytes, Bytes), Arc<Route>>,
    allowed: Vec<Bytes>,
    targets: Vec<QueueTarget>,
    dice: u64,
}

/// A publish, as far as routing goes.
pub(super) struct Routed<'a> {
    pub vhost: &'a str,
    pub user: &'a str,
    pub exchange: &'a Bytes,
    pub routing_key: &'a Bytes,
    pub more_keys: &'a [Bytes],
    pub properties: &'a RawProperties,
    pub meters: &'a Meters,
}

/// Targets grouped by the set they live in, sets in the order they are met.
pub(super) fn by_set(targets: &[QueueTarget]) -> Vec<(SetId, Vec<QueueId>)> {
    let mut sets: Vec<(SetId, Vec<QueueId>)> = Vec::new();
    for target in targets {
        match sets.iter_mut().find(|(set, _)| *set == target.set) {
            Some((_, queues)) => queues.push(target.queue),
            None => sets.push((target.set, vec![target.queue])),
        }
    }
    sets
}

/// Publishes of one connection that go to the same part of a spread queue before the next part has its turn: enough
/// for batches to stay whole.
const TURN: u64 = 64;

/// `sets`, and for each spread queue the part whose turn it is.
pub(super) fn with_parts(
    sets: &[(SetId, Vec<QueueId>)],
    spread: &[(QueueId, Vec<SetId>)],
    count: u64,
) -> Vec<(SetId, Vec<QueueId>)> {
    let mut all = sets.to_vec();
    for (queue, parts) in spread {
        let turn = (count / TURN) as usize % parts.len().max(1);
        let Some(set) = parts.get(turn).copied() else {
            continue;
        };
        match all.iter_mut().find(|(known, _)| *known == set) {
            Some((_, queues)) => queues.push(*queue),
            None => all.push((set, vec![*queue])),
        }
    }
    all
}

/// Takes the queues that are spread over several sets out of `targets`, each with those sets.
pub(super) fn take_spread(
    topology: &Topology,
    targets: &mut Vec<QueueTarget>,
) -> Vec<(QueueId, Vec<SetId>)> {
    let mut spread = Vec::new();
    targets.retain(|target| {
        let parts = topology.spread(target.queue);
        spread.extend(parts.map(|parts| (target.queue, parts.to_vec())));
        parts.is_none()
    });
    spread
}

impl Routes {
    /// Checks the right to publish, and routes.
    ///
    /// # Errors
    /// 403 without the right or to an internal exchange, 404 to none.
    pub fn find(
        &mut self,
        topology: &SharedTopology,
        publish: &Routed<'_>,
    ) -> Result<Arc<Route>, ProtocolError> {
        let version = topology.version();
        if version != self.version {
            self.version = version;
            self.last = None;
            self.known.clear();
            self.allowed.clear();
        }
        let cacheable = publish.more_keys.is_empty();
        if cacheable {
            if let Some((exchange, key, route)) = &self.last
                && exchange == publish.exchange
                && key == publish.routing_key
            {
                return Ok(Arc::clone(route));
            }
            let key = (publish.exchange.clone(), publish.routing_key.clone());
            if let Some(route) = self.known.get(&key) {
                let route = Arc::clone(route);
                self.last = Some((key.0, key.1, Arc::clone(&route)));
                return Ok(route);
            }
        }
        self.miss(topology, publish, cacheable)
    }

    fn miss(
        &mut self,
        topology: &SharedTopology,
        publish: &Routed<'_>,
        cacheable: bool,
    ) -> Result<Arc<Route>, ProtocolError> {
        let name = String::from_utf8_lossy(publish.exchange);
        let mut keys: Vec<&[u8]> = vec![publish.routing_key];
        keys.extend(publish.more_keys.iter().map(|key| &key[..]));
        let allowed = self.allowed.contains(publish.exchange);
        self.targets.clear();
        self.dice = rand::random();
        let mut spread = Vec::new();
        let mut found = 0;
        let result = topology.read(|topology| {
            if !allowed {
                topology.check_permission(
                    publish.user,
                    publish.vhost,
                    Resource::Exchange(&name),
                    Permission::Write,
                )?;
                topology.check_publish(publish.vhost, publish.exchange)?;
            }
            topology.check_topic(
                publish.user,
                publish.vhost,
                &name,
                Permission::Write,
                keys.iter().copied(),
            )?;
            let input = RouteInput {
                vhost: publish.vhost,
                exchange: publish.exchange,
                keys: &keys,
                properties: publish.properties,
                dice: self.dice,
            };
            let routed = topology.route(&input, &mut self.targets);
            found = self.targets.len();
            spread = take_spread(topology, &mut self.targets);
            routed
        })?;
        let route = Arc::new(Route {
            sets: by_set(&self.targets),
            queues: found.saturating_sub(result.histories) as u64,
            spread,
            delays: result.delays,
            meter: publish.meters.exchange(publish.vhost, publish.exchange),
            nowhere: found <= result.histories,
        });
        // Names must not keep a socket's read buffer alive.
        let exchange = Bytes::copy_from_slice(publish.exchange);
        if !allowed && self.allowed.len() < 64 {
            self.allowed.push(exchange.clone());
        }
        if cacheable && result.cacheable {
            if self.known.len() >= ROUTES_MAX {
                self.known.clear();
            }
            let key = Bytes::copy_from_slice(publish.routing_key);
            self.known
                .insert((exchange.clone(), key.clone()), Arc::clone(&route));
            self.last = Some((exchange, key, Arc::clone(&route)));
        }
        Ok(route)
    }
}
