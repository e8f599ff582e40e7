//! The channel's ring: which delivery tag holds which lease, until the client settles it.
//!
//! Tags only grow, so the entries are sorted, and an entry is never further back than its tag is from the first one:
//! with every tag in the ring its place is plain arithmetic, with gaps (no-ack deliveries, earlier settles) a binary
//! search of what is before that place. A settled entry in the middle is marked and swept once such marks outnumber
//! the others, so the ring stays within twice what is outstanding, and every operation is O(1) amortised but for
//! that search.

use std::collections::VecDeque;

use super::Lease;

/// Marks are not worth a sweep below this many.
const SWEEP_MIN: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u64,
    lease: Lease,
    settled: bool,
}

/// One outstanding delivery, taken out of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub tag: u64,
    pub lease: Lease,
}

/// Outstanding deliveries by tag. The first and the last entry, if any, are never marked settled.
#[derive(Debug, Default)]
pub(super) struct Unacked {
    ring: VecDeque<Entry>,
    settled: usize,
    /// The delivery tag given last.
    tag: u64,
}

impl Unacked {
    /// Deliveries outstanding.
    pub fn len(&self) -> usize {
        self.ring.len() - self.settled
    }

    /// The tag of the next delivery. Its lease, if it has one to settle, is recorded under it.
    pub fn deliver(&mut self, lease: Option<Lease>) -> u64 {
        self.tag += 1;
        if let Some(lease) = lease {
            self.push(self.tag, lease);
        }
        self.tag
    }

    fn push(&mut self, tag: u64, lease: Lease) {
        debug_assert!(self.ring.back().is_none_or(|entry| entry.tag < tag));
        self.ring.push_back(Entry {
            tag,
            lease,
            settled: false,
        });
    }

    fn find(&self, tag: u64) -> Option<usize> {
        let distance = usize::try_from(tag.checked_sub(self.ring.front()?.tag)?).ok()?;
        let at = match self.ring.get(distance) {
            Some(entry) if entry.tag == tag => distance,
            _ => self
                .ring
                .binary_search_by_key(&tag, |entry| entry.tag)
                .ok()?,
        };
        (!self.ring[at].settled).then_some(at)
    }

    /// Takes one delivery out; `None` if it is not outstanding.
    pub fn take(&mut self, tag: u64) -> Option<Taken> {
        let at = self.find(tag)?;
        let lease = self.ring[at].lease;
        self.ring[at].settled = true;
        self.settled += 1;
        self.trim();
        Some(Taken { tag, lease })
    }

    /// Takes everything up to `tag` out, oldest first; false, and nothing taken, if `tag` is not outstanding.
    pub fn take_through(&mut self, tag: u64, mut each: impl FnMut(Taken)) -> bool {
        let Some(at) = self.find(tag) else {
            return false;
        };
        for entry in self.ring.drain(..=at) {
            if entry.settled {
                self.settled -= 1;
            } else {
                each(Taken {
                    tag: entry.tag,
                    lease: entry.lease,
                });
            }
        }
        self.trim();
        true
    }

    /// Takes everything out, oldest first.
    pub fn take_all(&mut self, mut each: impl FnMut(Taken)) {
        for entry in self.ring.drain(..).filter(|entry| !entry.settled) {
            each(Taken {
                tag: entry.tag,
                lease: entry.lease,
            });
        }
        self.settled = 0;
    }

    /// Puts deliveries back at their places (tx.rollback).
    pub fn put_back(&mut self, taken: impl Iterator<Item = Taken>) {
        self.ring.retain(|entry| !entry.settled);
        self.settled = 0;
        self.ring.extend(taken.map(|Taken { tag, lease }| Entry {
            tag,
            lease,
            settled: false,
        }));
        self.ring
            .make_contiguous()
            .sort_unstable_by_key(|entry| entry.tag);
    }

    fn trim(&mut self) {
        while self.ring.front().is_some_and(|entry| entry.settled) {
            self.ring.pop_front();
            self.settled -= 1;
        }
        while self.ring.back().is_some_and(|entry| entry.settled) {
            self.ring.pop_back();
            self.settled -= 1;
        }
        if self.settled > SWEEP_MIN && self.settled > self.ring.len() / 2 {
            self.ring.retain(|entry| !entry.settled);
            self.settled = 0;
        }
    }
}

#[cfg(test)]
mod test {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::base::ConsumerId;

    fn lease(no: u64) -> Lease {
        Lease {
            consumer: ConsumerId(no % 3),
            no,
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push { gap: u64 },
        Take(u64),
        TakeThrough(u64),
        TakeAll,
        TakeAndPutBack(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (1..4u64).prop_map(|gap| Step::Push { gap }),
            6 => (0..300u64).prop_map(Step::Take),
            1 => (0..300u64).prop_map(Step::TakeThrough),
            1 => (0..300u64).prop_map(Step::TakeAndPutBack),
            1 => Just(Step::TakeAll),
        ]
    }

    proptest! {
        #[test]
        fn the_ring_does_what_a_sorted_map_does(steps in proptest::collection::vec(step(), 1..400)) {
            let (mut ring, mut twin, mut tag) = (Unacked::default(), BTreeMap::new(), 0);
            for step in steps {
                match step {
                    Step::Push { gap } => {
                        // A gap is what no-ack deliveries leave.
                        for _ in 1..gap {
                            ring.deliver(None);
                        }
                        tag += gap;
                        prop_assert_eq!(ring.deliver(Some(lease(tag))), tag);
                        twin.insert(tag, lease(tag));
                    }
                    Step::Take(tag) => {
                        prop_assert_eq!(ring.take(tag).map(|taken| taken.lease), twin.remove(&tag));
                    }
                    Step::TakeThrough(tag) => {
                        let mut taken = Vec::new();
                        let found = ring.take_through(tag, |one| taken.push(one.tag));
                        prop_assert_eq!(found, twin.contains_key(&tag));
                        let mut expected = Vec::new();
                        if found {
                            let rest = twin.split_off(&(tag + 1));
                            expected = std::mem::replace(&mut twin, rest).into_keys().collect();
                        }
                        prop_assert_eq!(taken, expected);
                    }
                    Step::TakeAll => {
                        let mut taken = Vec::new();
                        ring.take_all(|one| taken.push(one.tag));
                        prop_assert_eq!(taken, std::mem::take(&mut twin).into_keys().collect::<Vec<_>>());
                    }
                    Step::TakeAndPutBack(tag) => {
                        let mut taken = Vec::new();
                        ring.take_through(tag, |one| taken.push(one));
                        ring.put_back(taken.into_iter());
                    }
                }
                prop_assert_eq!(ring.len(), twin.len());
                prop_assert!(ring.ring.len() <= 2 * twin.len() + SWEEP_MIN + 1);
            }
        }
    }

    #[test]
    fn one_stuck_delivery_does_not_make_the_ring_grow() {
        let mut ring = Unacked::default();
        for tag in 1..=100_000 {
            ring.deliver(Some(lease(tag)));
            if tag > 1 {
                assert!(tag < 3 || ring.take(tag - 1).is_some());
            }
        }
        assert_eq!(ring.len(), 2);
        assert!(ring.ring.len() < 200, "{}", ring.ring.len());
    }
}
