//! What outlives a node's crash: its disk, its clock's error, and the history of what its clients saw.
//!
//! Shape: one lock around everything, as there is one thread. Every event goes into a running hash, the trace: two runs
//! of a seed must end with the same.
//! Not here: what the history must satisfy ([`crate::judge`]), when faults come ([`crate::faults`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use leveret::base::{ConsumerId, Digest};
use leveret::cluster::Cluster;
use leveret::log::faulty_disk::FaultyDisk;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Nodes of the cluster, and sets, and queues: one queue per set.
pub const NODES: usize = 3;

/// Names a message: who published it, in which life, to which queue, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageId {
    pub node: u64,
    pub incarnation: u64,
    pub queue: u64,
    pub number: u64,
}

impl MessageId {
    pub fn encode(self) -> Vec<u8> {
        let words = [self.node, self.incarnation, self.queue, self.number];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let part = bytes.get(at * 8..at * 8 + 8)?;
            Some(u64::from_le_bytes(part.try_into().ok()?))
        };
        (bytes.len() >= 32).then_some(())?;
        Some(Self {
            node: word(0)?,
            incarnation: word(1)?,
            queue: word(2)?,
            number: word(3)?,
        })
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fate {
    pub confirmed: bool,
    /// Deliveries marked as the first.
    pub fresh: u32,
    pub deliveries: u32,
}

/// One node, whether it runs or not.
pub struct Node {
    pub disk: FaultyDisk,
    pub incarnation: u64,
    /// Set at the moment at which the node's present life ends: nothing it does later counts.
    pub dead: Arc<AtomicBool>,
    pub fatal: Option<String>,
    pub cluster: Weak<Cluster>,
    /// Error of its wall clock, ms.
    pub skew: i64,
    pub stalled_until: Duration,
    pub runtime: Option<tokio::runtime::Id>,
    /// Whether its life began at all.
    pub started: bool,
}

/// Counts of a run, for its last line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub confirmed: u64,
    pub deliveries: u64,
    pub faults: u64,
    pub crashes: u64,
    pub fatals: u64,
    pub leaders: u64,
    pub compared: u64,
}

pub struct State {
    pub nodes: Vec<Node>,
    pub history: BTreeMap<MessageId, Fate>,
    /// Last first delivery, by consumer, publisher's life and queue.
    pub order: BTreeMap<(ConsumerId, u64, u64, u64), u64>,
    pub violations: Vec<String>,
    pub counts: Counts,
    pub publishing: bool,
    /// Publishers that still wait for something.
    pub busy: [bool; NODES],
    pub dice: StdRng,
    digest: u64,
    pub now: Duration,
}

/// See the module's head.
#[derive(Clone)]
pub struct World {
    pub seed: u64,
    tell: bool,
    state: Arc<Mutex<State>>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let node = |at: usize| Node {
            disk: FaultyDisk::new(seed ^ ((at as u64 + 1) << 56)),
            incarnation: 0,
            dead: Arc::default(),
            fatal: None,
            cluster: Weak::new(),
            skew: 0,
            stalled_until: Duration::ZERO,
            runtime: None,
            started: false,
        };
        Self {
            seed,
            tell: std::env::var_os("SIM_TRACE").is_some(),
            state: Arc::new(Mutex::new(State {
                nodes: (0..NODES).map(node).collect(),
                history: BTreeMap::new(),
                order: BTreeMap::new(),
                violations: Vec::new(),
                counts: Counts::default(),
                publishing: true,
                busy: [false; NODES],
                dice: StdRng::seed_from_u64(seed ^ 0x5eed),
                digest: 0,
                now: Duration::ZERO,
            })),
        }
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock())
    }

    /// Adds an event to the trace.
    pub fn note(&self, what: &str) {
        let now = turmoil::sim_elapsed();
        let mut state = self.state.lock();
        let now = now.unwrap_or(state.now);
        let mut digest = Digest::default();
        digest.word(state.digest);
        digest.word(now.as_micros() as u64);
        digest.bytes(what.as_bytes());
        state.digest = digest.value();
        if self.tell {
            eprintln!("{:>10.3} {what}", now.as_secs_f64());
        }
    }

    pub fn trace(&self) -> u64 {
        self.state.lock().digest
    }

    pub fn violation(&self, what: String) {
        self.note(&format!("VIOLATION {what}"));
        self.state.lock().violations.push(what);
    }

    /// A node's life has ended by its own decision.
    pub fn fatal(&self, at: usize, reason: &str) {
        self.note(&format!("n{} must stop: {reason}", at + 1));
        let mut state = self.state.lock();
        let node = &mut state.nodes[at];
        node.dead.store(true, Ordering::Release);
        node.fatal.get_or_insert_with(|| reason.to_owned());
        state.counts.fatals += 1;
    }

    /// The next number of the seed.
    pub fn roll(&self, range: std::ops::Range<u64>) -> u64 {
        self.state.lock().dice.random_range(range)
    }

    pub fn published(&self, id: MessageId) {
        self.note(&format!("publish {id:?}"));
        self.state.lock().history.insert(id, Fate::default());
    }

    pub fn confirmed(&self, id: MessageId) {
        self.note(&format!("confirm {id:?}"));
        let mut state = self.state.lock();
        state.counts.confirmed += 1;
        state.history.entry(id).or_default().confirmed = true;
    }

    pub fn delivered(&self, consumer: ConsumerId, id: MessageId, redelivered: bool) {
        self.note(&format!("deliver {id:?} to {consumer} again={redelivered}"));
        let mut state = self.state.lock();
        state.counts.deliveries += 1;
        let Some(fate) = state.history.get_mut(&id) else {
            drop(state);
            self.violation(format!("{id:?} was delivered and never published"));
            return;
        };
        fate.deliveries += 1;
        if redelivered {
            return;
        }
        fate.fresh += 1;
        let twice = fate.fresh > 1;
        let key = (consumer, id.node, id.incarnation, id.queue);
        let before = state.order.insert(key, id.number);
        drop(state);
        if twice {
            self.violation(format!(
                "{id:?} was delivered twice as if for the first time"
            ));
        }
        if let Some(before) = before.filter(|before| *before >= id.number) {
            self.violation(format!("{id:?} was delivered after number {before}"));
        }
    }
}
