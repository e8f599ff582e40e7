//! Dead letters of queues with `x-dead-letter-strategy: at-least-once`, as far as they are tried now (RabbitMQ:
//! rabbit_fifo_dlx). Such a letter leaves its queue only when every queue it was routed to has taken it; until then it is
//! tried again, and where it was taken already it does not go a second time.
//!
//! Bounds: [`limits::RETAINED_IN_FLIGHT_MAX`] letters of a queue at once, the others stay in the machine and are asked for in
//! order. Pure: times come in. Not here: routing and publishing (dead_letter.rs).

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

use crate::base::limits::RETAINED_IN_FLIGHT_MAX;
use crate::base::{QueueId, SetId};

/// Names a dead letter: the set and queue it died in, and its id there.
pub(super) type Key = (SetId, QueueId, u64);

#[derive(Debug, Default)]
struct OfQueue {
    /// Each with the queues that have taken it.
    tried: BTreeMap<u64, Vec<QueueId>>,
    /// The last one begun.
    last: u64,
    /// The machine has some after that.
    more: bool,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Retained {
    queues: BTreeMap<(SetId, QueueId), OfQueue>,
    /// When to try which again, in order of time: all wait equally long.
    later: VecDeque<(Instant, Key)>,
}

impl Retained {
    /// Whether a letter is to be tried now; one that is not is asked for later, or was tried before.
    pub fn begin(&mut self, (set, queue, id): Key) -> bool {
        let of = self.queues.entry((set, queue)).or_default();
        if id <= of.last {
            return false;
        }
        if of.more || of.tried.len() >= RETAINED_IN_FLIGHT_MAX {
            of.more = true;
            return false;
        }
        of.last = id;
        of.tried.insert(id, Vec::new());
        of.more = of.tried.len() >= RETAINED_IN_FLIGHT_MAX;
        true
    }

    /// A queue has taken the letter.
    pub fn taken(&mut self, (set, queue, id): Key, by: QueueId) {
        let of = self.queues.get_mut(&(set, queue));
        if let Some(taken) = of.and_then(|of| of.tried.get_mut(&id)) {
            taken.push(by);
        }
    }

    /// Whether a queue has taken the letter.
    pub fn has_taken(&self, (set, queue, id): Key, by: QueueId) -> bool {
        let of = self.queues.get(&(set, queue));
        of.and_then(|of| of.tried.get(&id))
            .is_some_and(|taken| taken.contains(&by))
    }

    /// The letter has gone. After which id, and how many, the machine is to be asked for more.
    pub fn end(&mut self, (set, queue, id): Key) -> Option<(u64, usize)> {
        let of = self.queues.get_mut(&(set, queue))?;
        of.tried.remove(&id);
        let room = RETAINED_IN_FLIGHT_MAX.saturating_sub(of.tried.len());
        if std::mem::take(&mut of.more) {
            return Some((of.last, room));
        }
        if of.tried.is_empty() {
            self.queues.remove(&(set, queue));
        }
        None
    }

    /// The machine has no more of this queue.
    pub fn rest(&mut self, set: SetId, queue: QueueId) {
        let idle = |of: &OfQueue| of.tried.is_empty();
        if self.queues.get(&(set, queue)).is_some_and(idle) {
            self.queues.remove(&(set, queue));
        }
    }

    /// The letter is to be tried again at this time.
    pub fn again(&mut self, key: Key, at: Instant) {
        self.later.push_back((at, key));
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.later.front().map(|(at, _)| *at)
    }

    /// One that is due.
    pub fn due(&mut self, now: Instant) -> Option<Key> {
        let (at, _) = self.later.front()?;
        let due = *at <= now;
        due.then(|| self.later.pop_front())
            .flatten()
            .map(|(_, key)| key)
    }

    /// Another node sees to this queue now.
    pub fn forget(&mut self, set: SetId, queue: QueueId) {
        self.queues.remove(&(set, queue));
        self.later
            .retain(|(_, (of, which, _))| (*of, *which) != (set, queue));
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const SET: SetId = SetId(1);
    const QUEUE: QueueId = QueueId(2);

    #[test]
    fn a_queue_has_so_many_letters_under_way_and_the_rest_is_asked_for_in_order() {
        let mut retained = Retained::default();
        let max = RETAINED_IN_FLIGHT_MAX as u64;
        for id in 1..=max {
            assert!(retained.begin((SET, QUEUE, id)));
        }
        assert!(!retained.begin((SET, QUEUE, 3)), "it is under way");
        assert!(!retained.begin((SET, QUEUE, max + 1)), "too many");
        assert!(retained.begin((SET, QueueId(9), 1)), "of another queue");
        assert_eq!(retained.end((SET, QUEUE, 5)), Some((max, 1)));
        assert!(retained.begin((SET, QUEUE, max + 1)));
        assert!(!retained.begin((SET, QUEUE, 5)), "it has gone");
    }

    #[test]
    fn a_letter_is_due_again_at_its_time_and_keeps_who_has_taken_it() {
        let mut retained = Retained::default();
        let key = (SET, QUEUE, 1);
        let now = Instant::now();
        let later = now + std::time::Duration::from_secs(1);
        assert!(retained.begin(key));
        retained.taken(key, QueueId(7));
        retained.again(key, later);
        assert_eq!((retained.next(), retained.due(now)), (Some(later), None));
        assert_eq!(retained.due(later), Some(key));
        assert!(retained.has_taken(key, QueueId(7)) && !retained.has_taken(key, QueueId(8)));
        retained.again(key, later);
        retained.forget(SET, QUEUE);
        assert_eq!(retained.next(), None);
        assert!(retained.begin(key), "whoever leads again begins anew");
    }
}
