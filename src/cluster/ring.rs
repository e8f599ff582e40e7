//! What a set did for nodes that hold no replica of it, kept for them until they have read it.
//!
//! Need: such a node gets confirms, answers and deliveries from any member, and goes on with another when that one is
//! lost. Every member applies the same entries, so each keeps the same list, told apart by the entry's index.
//! Limits: [`EVENTS_MAX`] per node; who fell further behind must begin anew.
//! Not here: sending ([`super::peer`]), bodies.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::base::{ConsumerId, NodeId, PipeId};
use crate::model::set::{Delivery, Reply, TimedOut};

/// Events kept for one node.
const EVENTS_MAX: usize = 64 * 1024;

/// One thing a set did for a pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PipeEvent {
    /// The pipe is applied up to this sequence number.
    Applied(u64),
    /// Something that followed this sequence number came without what is between: it is to be sent again from there.
    Gap(u64),
    /// The publish at this sequence number was refused.
    Refused(u64),
    /// The answer to the command at this sequence number.
    Reply(u64, Reply),
    /// Messages leased to a consumer of the node.
    Deliver(Delivery),
    /// A consumer was ended.
    Cancelled(ConsumerId),
    /// A consumer was ended because it was too slow.
    TimedOut(TimedOut),
}

/// An event and the entry it came from.
pub type Kept = (u64, PipeEvent);

#[derive(Debug)]
struct Kind {
    events: VecDeque<Kept>,
    /// Events of entries up to here are not all kept.
    floor: u64,
    /// Index of the last entry that gave an event.
    last: watch::Sender<u64>,
}

/// Which nodes events are kept for.
#[derive(Debug)]
enum Foreign {
    All,
    Only(HashSet<NodeId>),
}

/// See the module's head.
#[derive(Debug)]
pub struct Ring {
    own: NodeId,
    foreign: ArcSwap<Foreign>,
    /// What concerns this node is kept too: it still hears of it from elsewhere.
    keeps_own: AtomicBool,
    nodes: Mutex<HashMap<NodeId, Kind>>,
}

impl Ring {
    /// Keeps nothing yet: all nodes of a replicated set are thought to hold a replica until told otherwise.
    #[must_use]
    pub fn new(own: NodeId) -> Self {
        Self {
            own,
            keeps_own: AtomicBool::new(false),
            foreign: ArcSwap::from_pointee(Foreign::Only(HashSet::new())),
            nodes: Mutex::default(),
        }
    }

    /// Keeps what concerns any other node.
    #[must_use]
    pub fn for_all(own: NodeId) -> Self {
        let ring = Self::new(own);
        ring.foreign.store(Arc::new(Foreign::All));
        ring
    }

    /// Keeps what concerns this node, too, or no longer.
    pub fn keep_own(&self, keep: bool) {
        self.keeps_own.store(keep, Ordering::Release);
        if keep {
            let mut nodes = self.nodes.lock();
            nodes.entry(self.own).or_insert_with(|| Kind::new(0));
        } else {
            self.nodes.lock().remove(&self.own);
        }
    }

    /// From now on these nodes hold no replica; `applied` is the last entry applied here.
    pub fn set_foreign(&self, nodes: HashSet<NodeId>, applied: u64) {
        if let Foreign::Only(now) = &**self.foreign.load()
            && *now == nodes
        {
            return;
        }
        let mut kept = self.nodes.lock();
        kept.retain(|node, _| nodes.contains(node) || *node == self.own);
        for node in &nodes {
            kept.entry(*node).or_insert_with(|| Kind::new(applied));
        }
        self.foreign.store(Arc::new(Foreign::Only(nodes)));
    }

    /// Whether what concerns `node` is kept.
    #[must_use]
    pub fn keeps(&self, node: NodeId) -> bool {
        if node == self.own {
            return self.keeps_own.load(Ordering::Acquire);
        }
        match &**self.foreign.load() {
            Foreign::All => true,
            Foreign::Only(nodes) => nodes.contains(&node),
        }
    }

    /// Keeps an event of the entry at `index`.
    pub fn push(&self, node: NodeId, index: u64, event: PipeEvent) {
        let mut nodes = self.nodes.lock();
        // It may have got a replica since it was looked up.
        if !self.keeps(node) {
            return;
        }
        let kept = nodes.entry(node).or_insert_with(|| Kind::new(0));
        // Neighbouring progress of one entry is one event.
        if let (PipeEvent::Applied(seq), Some((at, PipeEvent::Applied(last)))) =
            (&event, kept.events.back_mut())
            && *at == index
        {
            *last = *seq;
            return;
        }
        kept.events.push_back((index, event));
        if kept.events.len() > EVENTS_MAX
            && let Some((dropped, _)) = kept.events.pop_front()
        {
            kept.floor = dropped;
        }
    }

    /// The entry at `index` is applied: wakes those who read.
    pub fn applied(&self, index: u64) {
        for kept in self.nodes.lock().values() {
            if kept.events.back().is_some_and(|(at, _)| *at == index) {
                kept.last.send_replace(index);
            }
        }
    }

    /// The machine was replaced: nothing before `index` is known.
    pub fn restart(&self, index: u64) {
        for kept in self.nodes.lock().values_mut() {
            kept.events.clear();
            kept.floor = index;
            kept.last.send_replace(index);
        }
    }

    /// At most `limit` events of `pipe`'s node after entry `after`, by whole entries, and where they end; `None` if some
    /// are no longer kept.
    #[must_use]
    pub fn read(&self, pipe: PipeId, after: u64, limit: usize) -> Option<(Vec<PipeEvent>, u64)> {
        let nodes = self.nodes.lock();
        let Some(kept) = nodes.get(&pipe.node) else {
            return Some((Vec::new(), after));
        };
        if after < kept.floor {
            return None;
        }
        let done = *kept.last.borrow();
        let from = kept.events.partition_point(|(index, _)| *index <= after);
        let mut end = after;
        let mut events = Vec::new();
        for (index, event) in kept.events.range(from..) {
            if *index > done || (events.len() >= limit && *index != end) {
                break;
            }
            end = *index;
            events.push(event.clone());
        }
        Some((events, end))
    }

    /// Tells of new events for `node`.
    #[must_use]
    pub fn watch(&self, node: NodeId) -> watch::Receiver<u64> {
        let mut nodes = self.nodes.lock();
        let kept = nodes.entry(node).or_insert_with(|| Kind::new(0));
        kept.last.subscribe()
    }
}

impl Kind {
    fn new(floor: u64) -> Self {
        Self {
            events: VecDeque::new(),
            floor,
            last: watch::Sender::new(floor),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const PIPE: PipeId = PipeId {
        node: NodeId(9),
        incarnation: 1,
    };

    fn ring() -> Ring {
        let ring = Ring::new(NodeId(1));
        ring.set_foreign([NodeId(9)].into_iter().collect(), 10);
        ring
    }

    #[test]
    fn only_nodes_without_a_replica_are_kept_for() {
        let ring = ring();
        assert!(ring.keeps(NodeId(9)));
        assert!(!ring.keeps(NodeId(1)) && !ring.keeps(NodeId(2)));
        let all = Ring::for_all(NodeId(1));
        assert!(all.keeps(NodeId(2)) && !all.keeps(NodeId(1)));
    }

    #[test]
    fn what_comes_late_for_a_node_that_has_a_replica_now_is_not_kept_as_if_it_were_all() {
        let ring = ring();
        ring.push(NodeId(9), 11, PipeEvent::Refused(1));
        ring.set_foreign(HashSet::new(), 11);
        ring.push(NodeId(9), 12, PipeEvent::Refused(2));
        ring.applied(12);
        assert_eq!(ring.read(PIPE, 10, 9), Some((vec![], 10)));
    }

    #[test]
    fn events_are_read_by_whole_entries_and_only_once_the_entry_is_applied() {
        let ring = ring();
        for seq in 1..=3 {
            ring.push(NodeId(9), 11, PipeEvent::Refused(seq));
        }
        assert_eq!(ring.read(PIPE, 10, 2), Some((vec![], 10)));
        ring.applied(11);
        ring.push(NodeId(9), 12, PipeEvent::Applied(4));
        ring.push(NodeId(9), 12, PipeEvent::Applied(5));
        ring.applied(12);
        let (events, end) = ring.read(PIPE, 10, 2).unwrap();
        assert_eq!((events.len(), end), (3, 11));
        assert_eq!(
            ring.read(PIPE, 11, 2),
            Some((vec![PipeEvent::Applied(5)], 12))
        );
        assert_eq!(ring.read(PIPE, 12, 2), Some((vec![], 12)));
    }

    #[test]
    fn who_fell_behind_what_is_kept_is_told_so() {
        let ring = ring();
        assert_eq!(ring.read(PIPE, 9, 1), None, "before keeping began");
        for index in 11..=(11 + EVENTS_MAX as u64) {
            ring.push(NodeId(9), index, PipeEvent::Refused(index));
            ring.applied(index);
        }
        assert_eq!(ring.read(PIPE, 10, 1), None);
        assert_eq!(
            ring.read(PIPE, 11, 1),
            Some((vec![PipeEvent::Refused(12)], 12))
        );
    }
}
