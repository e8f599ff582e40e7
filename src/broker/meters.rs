//! What channels, exchanges and vhosts saw of messages: plain counters for listings, metrics and rates.
//!
//! Shape: a connection counts in its own `Tally` and adds up here once per turn of its loop, so a message costs no atomic
//! of its own. Invariants: counters only rise. Bounds: an entry per open channel, and one per exchange and vhost that
//! exists; [`Meters::prune`] forgets the rest. Not here: rates and samples, which are made from these by whoever shows them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Published by clients.
    Publish,
    /// Confirmed to publishers.
    Confirm,
    /// Without a queue, returned.
    ReturnUnroutable,
    /// Without a queue, dropped.
    DropUnroutable,
    /// Delivered, to be acknowledged.
    Deliver,
    /// Delivered, not to be acknowledged.
    DeliverNoAck,
    /// Got, to be acknowledged.
    Get,
    /// Got, not to be acknowledged.
    GetNoAck,
    /// Nothing was there to be got.
    GetEmpty,
    /// Delivered or got again.
    Redeliver,
    /// Acknowledged.
    Ack,
}

/// How many kinds there are.
pub const COUNTS: usize = 11;

/// A value of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub [u64; COUNTS]);

impl Counts {
    /// One more of a kind, or several.
    pub fn add(&mut self, count: Count, by: u64) {
        self.0[count as usize] += by;
    }

    /// The value of a kind.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    /// All of them.
    pub fn join(&mut self, more: &Self) {
        for (sum, value) in self.0.iter_mut().zip(more.0) {
            *sum += value;
        }
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|value| *value == 0)
    }
}

/// Counters several read and few write.
#[derive(Debug, Default)]
pub struct Meter([AtomicU64; COUNTS]);

impl Meter {
    /// Adds what was counted elsewhere.
    pub fn add(&self, counts: &Counts) {
        for (counter, value) in self.0.iter().zip(counts.0) {
            if value > 0 {
                counter.fetch_add(value, Ordering::Relaxed);
            }
        }
    }

    /// The values.
    #[must_use]
    pub fn read(&self) -> Counts {
        Counts(
            self.0
                .each_ref()
                .map(|counter| counter.load(Ordering::Relaxed)),
        )
    }
}

/// A channel.
#[derive(Debug, Default)]
pub struct ChannelMeter {
    /// Its number.
    pub number: u16,
    /// Its counters.
    pub counts: Meter,
    /// Delivered and not settled, when it last did something.
    pub unacked: AtomicU64,
    /// Published and not confirmed, when it last did something.
    pub unconfirmed: AtomicU64,
}

/// An exchange: published to it, routed out of it (once per queue), returned, dropped.
#[derive(Debug, Default)]
pub struct ExchangeMeter([AtomicU64; 4]);

impl ExchangeMeter {
    /// Adds what was counted elsewhere.
    pub fn add(&self, values: [u64; 4]) {
        for (counter, value) in self.0.iter().zip(values) {
            if value > 0 {
                counter.fetch_add(value, Ordering::Relaxed);
            }
        }
    }

    /// The values.
    #[must_use]
    pub fn read(&self) -> [u64; 4] {
        self.0
            .each_ref()
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// A vhost: what all its connections did, closed ones too.
#[derive(Debug, Default)]
pub struct VhostMeter {
    /// Messages.
    pub counts: Meter,
    /// Bytes received.
    pub bytes_in: AtomicU64,
    /// Bytes sent.
    pub bytes_out: AtomicU64,
}

type Exchanges = HashMap<Arc<str>, HashMap<Bytes, Arc<ExchangeMeter>>>;

/// The exchanges and vhosts of a node.
#[derive(Debug, Default)]
pub struct Meters {
    exchanges: Mutex<Exchanges>,
    vhosts: Mutex<HashMap<Arc<str>, Arc<VhostMeter>>>,
}

impl Meters {
    /// An exchange's, made if it is new.
    pub fn exchange(&self, vhost: &str, name: &Bytes) -> Arc<ExchangeMeter> {
        let mut all = self.exchanges.lock();
        if let Some(known) = all.get(vhost).and_then(|all| all.get(name)) {
            return Arc::clone(known);
        }
        let of_vhost = all.entry_ref(vhost).or_default();
        Arc::clone(of_vhost.entry(Bytes::copy_from_slice(name)).or_default())
    }

    /// An exchange's values, if anything was published to it here.
    #[must_use]
    pub fn exchange_values(&self, vhost: &str, name: &[u8]) -> Option<[u64; 4]> {
        let all = self.exchanges.lock();
        Some(all.get(vhost)?.get(name)?.read())
    }

    /// Every exchange that was published to here: vhost, name, values.
    #[must_use]
    pub fn exchanges(&self) -> Vec<(Arc<str>, Bytes, [u64; 4])> {
        let all = self.exchanges.lock();
        let of_vhost = |(vhost, of_vhost): (&Arc<str>, &HashMap<Bytes, Arc<ExchangeMeter>>)| {
            let rows = of_vhost.iter();
            rows.map(|(name, meter)| (Arc::clone(vhost), name.clone(), meter.read()))
                .collect::<Vec<_>>()
        };
        all.iter().flat_map(of_vhost).collect()
    }

    /// A vhost's, made if it is new.
    pub fn vhost(&self, name: &str) -> Arc<VhostMeter> {
        Arc::clone(self.vhosts.lock().entry_ref(name).or_default())
    }

    /// Every vhost somebody used here.
    #[must_use]
    pub fn vhosts(&self) -> Vec<(Arc<str>, Arc<VhostMeter>)> {
        let all = self.vhosts.lock();
        all.iter()
            .map(|(name, meter)| (Arc::clone(name), Arc::clone(meter)))
            .collect()
    }

    /// Forgets what no longer exists.
    pub fn prune(
        &self,
        has_vhost: impl Fn(&str) -> bool,
        has_exchange: impl Fn(&str, &str) -> bool,
    ) {
        self.vhosts.lock().retain(|name, _| has_vhost(name));
        self.exchanges.lock().retain(|vhost, of_vhost| {
            of_vhost.retain(|name, _| has_exchange(vhost, &String::from_utf8_lossy(name)));
            !of_vhost.is_empty()
        });
    }
}
