//! Routing: the queues one message goes to.
//!
//! Need: one copy per queue, however many bindings lead there, in the same order on every node. Shape: each exchange
//! keeps an [`Index`] by its type; routing walks exchanges breadth-first, each once. Invariants: cycles end, the result
//! is sorted by queue id, and a direct or default exchange with one key allocates nothing. Not here: permissions,
//! `internal`, and what becomes of an unroutable message.

mod headers;
mod spread;
mod topic;

use std::sync::Arc;

use hashbrown::HashMap;

use self::headers::HeaderBindings;
use self::spread::{HashOf, Weighted, hash};
use self::topic::Trie;
use crate::amqp::{AMQPValue, FieldTable, ProtocolError, RawProperties};
use crate::base::{QueueId, SetId};
use crate::model::topology::{Exchange, ExchangeKind, Topology, history_queue, no_exchange};

pub(crate) use headers::check_headers_binding;
pub(crate) use spread::{HashOf as ConsistentHashOf, weight as consistent_hash_weight};

/// A queue a message goes to, and where it takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueTarget {
    /// The queue.
    pub queue: QueueId,
    /// Its set.
    pub set: SetId,
}

/// What routing looks at.
#[derive(Clone, Copy, Debug)]
pub struct RouteInput<'a> {
    /// Vhost name.
    pub vhost: &'a str,
    /// Exchange name as published.
    pub exchange: &'a [u8],
    /// The routing key, and those of CC and BCC.
    pub keys: &'a [&'a [u8]],
    /// Read only by headers exchanges, and by those of x-consistent-hash that hash a header or a property.
    pub properties: &'a RawProperties,
    /// Chance, for x-random: routing has none of its own.
    pub dice: u64,
}

/// How a route came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteResult {
    /// Whether exchange and keys alone decided: until the topology's version changes they always give this.
    pub cacheable: bool,
    /// Whether the exchange published to is of type x-delayed-message.
    pub delays: bool,
    /// Queues among them that only keep the history of an exchange: without others the message is unroutable.
    pub histories: usize,
}

/// Where a binding leads, as indices keep it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Queue(QueueId),
    Exchange(Arc<str>),
}

/// Targets in order, each with how many bindings lead to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Targets(Vec<(Target, u32)>);

impl Targets {
    fn insert(&mut self, target: &Target) {
        match self.0.binary_search_by(|(other, _)| other.cmp(target)) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (target.clone(), 1)),
        }
    }

    fn remove(&mut self, target: &Target) {
        if let Ok(at) = self.0.binary_search_by(|(other, _)| other.cmp(target)) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The bindings of one exchange, arranged for its type.
#[derive(Debug)]
pub(crate) enum Index {
    /// By binding key. Lookup only.
    Direct(HashMap<Box<[u8]>, Targets>),
    Fanout(Targets),
    Topic(Trie),
    Headers(HeaderBindings),
    ConsistentHash(Weighted),
    Modulus(Targets),
    Random(Targets),
}

impl Index {
    pub(crate) fn new(exchange: &Exchange) -> Self {
        match exchange.routes_as() {
            ExchangeKind::Direct => Self::Direct(HashMap::new()),
            ExchangeKind::Fanout | ExchangeKind::RecentHistory => Self::Fanout(Targets::default()),
            ExchangeKind::Topic => Self::Topic(Trie::default()),
            ExchangeKind::Headers => Self::Headers(HeaderBindings::default()),
            ExchangeKind::ConsistentHash => {
                let of = HashOf::of(&exchange.arguments).unwrap_or(HashOf::Key);
                Self::ConsistentHash(Weighted::new(of))
            }
            ExchangeKind::ModulusHash => Self::Modulus(Targets::default()),
            ExchangeKind::Random | ExchangeKind::LocalRandom => Self::Random(Targets::default()),
            // An exchange never routes as this one.
            ExchangeKind::Delayed => Self::Direct(HashMap::new()),
        }
    }

    /// Adds a binding that is not there; `identity` is its arguments' bytes.
    pub(crate) fn insert(
        &mut self,
        target: &Target,
        key: &str,
        arguments: &FieldTable,
        identity: &[u8],
    ) {
        match self {
            Self::Direct(keys) => keys
                .entry(key.as_bytes().into())
                .or_default()
                .insert(target),
            Self::Fanout(targets) => targets.insert(target),
            Self::Topic(trie) => trie.insert(key.as_bytes(), target),
            Self::Headers(bindings) => bindings.insert(target, key, arguments, identity),
            Self::ConsistentHash(weighted) => weighted.insert(target, key),
            Self::Modulus(targets) | Self::Random(targets) => targets.insert(target),
        }
    }

    /// Removes a binding that is there.
    pub(crate) fn remove(&mut self, target: &Target, key: &str, identity: &[u8]) {
        match self {
            Self::Direct(keys) => {
                if let Some(targets) = keys.get_mut(key.as_bytes()) {
                    targets.remove(target);
                    if targets.is_empty() {
                        keys.remove(key.as_bytes());
                    }
                }
            }
            Self::Fanout(targets) => targets.remove(target),
            Self::Topic(trie) => trie.remove(key.as_bytes(), target),
            Self::Headers(bindings) => bindings.remove(target, key, identity),
            Self::ConsistentHash(weighted) => weighted.remove(target, key),
            Self::Modulus(targets) | Self::Random(targets) => targets.remove(target),
        }
    }
}

/// Where one walk stands.
struct Walk<'a, 'o> {
    topology: &'a Topology,
    out: &'o mut Vec<QueueTarget>,
    /// Exchanges met so far, in order, without the first.
    exchanges: Vec<&'a str>,
    found: bool,
}

impl<'a> Walk<'a, '_> {
    fn take(&mut self, targets: &'a Targets) {
        for (target, _) in &targets.0 {
            self.take_one(target);
        }
    }

    fn take_one(&mut self, target: &'a Target) {
        self.found = true;
        match target {
            Target::Queue(id) => self.out.extend(self.topology.place(*id)),
            Target::Exchange(name) => self.visit(name),
        }
    }

    fn visit(&mut self, name: &'a str) {
        if !self.exchanges.contains(&name) {
            self.exchanges.push(name);
        }
    }
}

impl Topology {
    /// The queues `input` goes to, into `out` (cleared first), sorted by id, each once.
    ///
    /// # Errors
    /// 404 if the exchange does not exist.
    pub fn route(
        &self,
        input: &RouteInput<'_>,
        out: &mut Vec<QueueTarget>,
    ) -> Result<RouteResult, ProtocolError> {
        out.clear();
        let missing = || no_exchange(input.vhost, &String::from_utf8_lossy(input.exchange));
        let vhost = self.vhost(input.vhost).ok_or_else(missing)?;
        let mut result = RouteResult {
            cacheable: true,
            delays: false,
            histories: 0,
        };
        if input.exchange.is_empty() {
            out.extend(input.keys.iter().filter_map(|key| vhost.queue_named(key)));
            tidy(out);
            return Ok(result);
        }
        let name = std::str::from_utf8(input.exchange).ok();
        let first = name
            .and_then(|name| vhost.exchange_named(name))
            .ok_or_else(missing)?;
        result.delays = first.exchange.kind == ExchangeKind::Delayed;
        let mut walk = Walk {
            topology: self,
            out,
            exchanges: Vec::new(),
            found: false,
        };
        let mut state = first;
        let mut next = 0;
        loop {
            walk.found = false;
            match &state.index {
                Index::Direct(_) if state.exchange.name.is_empty() => {
                    let found = input.keys.iter().filter_map(|key| vhost.queue_named(key));
                    let before = walk.out.len();
                    walk.out.extend(found);
                    walk.found = walk.out.len() > before;
                }
                Index::Direct(keys) => {
                    for targets in input.keys.iter().filter_map(|key| keys.get(*key)) {
                        walk.take(targets);
                    }
                }
                Index::Fanout(targets) => {
                    walk.take(targets);
                    if state.exchange.kind == ExchangeKind::RecentHistory {
                        result.cacheable = false;
                        let history =
                            vhost.queue_named(history_queue(&state.exchange.name).as_bytes());
                        if let Some(history) = history.filter(|_| stores(input.properties)) {
                            walk.out.push(history);
                            result.histories += 1;
                        }
                    }
                }
                Index::Topic(trie) => {
                    for key in input.keys {
                        trie.matches(key, &mut |targets| walk.take(targets));
                    }
                }
                Index::Headers(bindings) => {
                    result.cacheable = false;
                    bindings.matches(input.properties, &mut |target| walk.take_one(target));
                }
                Index::ConsistentHash(weighted) => {
                    result.cacheable &= weighted.of == HashOf::Key;
                    let key = input.keys.first().copied().unwrap_or_default();
                    let number = weighted.of.number(key, input.properties);
                    weighted
                        .pick(number)
                        .into_iter()
                        .for_each(|target| walk.take_one(target));
                }
                Index::Modulus(targets) => {
                    let chosen = targets.nth(hash(input.keys));
                    chosen.into_iter().for_each(|target| walk.take_one(target));
                }
                Index::Random(targets) => {
                    result.cacheable = false;
                    let chosen = targets.nth(input.dice);
                    chosen.into_iter().for_each(|target| walk.take_one(target));
                }
            }
            let alternate = state.exchange.alternate.as_deref().filter(|_| !walk.found);
            if let Some(alternate) = alternate {
                walk.visit(alternate);
            }
            // The first exchange is not in the list (that would allocate), so it is skipped by name.
            loop {
                match walk.exchanges.get(next) {
                    None => {
                        tidy(walk.out);
                        return Ok(result);
                    }
                    Some(name) if *name == &*first.exchange.name => next += 1,
                    Some(name) => match vhost.exchange_named(name) {
                        None => next += 1,
                        Some(found) => {
                            state = found;
                            next += 1;
                            break;
                        }
                    },
                }
            }
        }
    }
}

/// Whether x-recent-history keeps a message.
fn stores(properties: &RawProperties) -> bool {
    properties.header(b"x-recent-history-no-store") != Some(AMQPValue::Boolean(true))
}

fn tidy(out: &mut Vec<QueueTarget>) {
    if out.len() > 1 {
        out.sort_unstable();
        out.dedup();
    }
}

#[cfg(test)]
mod test;
