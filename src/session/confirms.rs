//! Which publishes of a channel in confirm mode are still to be answered, and the acks and nacks that answer them.
//!
//! The outstanding numbers are kept as ranges, oldest first: confirmed in order there is one range whose front moves;
//! out of order a range splits, and there are never more ranges than outstanding numbers. What has been confirmed
//! waits, as ranges too, for [`Confirms::flush`], which joins it to as few frames as §15.3 allows.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
}

/// A frame to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmation {
    Ack { number: u64, multiple: bool },
    Nack { number: u64, multiple: bool },
}

/// The confirm state of one channel.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    /// The last number given.
    last: u64,
    outstanding: VecDeque<Range>,
    /// Numbers in these ranges.
    unanswered: u64,
    acked: Vec<Range>,
    nacked: Vec<Range>,
}

impl Confirms {
    /// The number of the next publish, from 1.
    pub fn number(&mut self) -> u64 {
        self.last += 1;
        self.unanswered += 1;
        match self.outstanding.back_mut() {
            Some(range) if range.last + 1 == self.last => range.last = self.last,
            _ => self.outstanding.push_back(Range {
                first: self.last,
                last: self.last,
            }),
        }
        self.last
    }

    /// How many are not answered.
    pub fn outstanding(&self) -> u64 {
        self.unanswered
    }

    /// Whether there is something to flush.
    pub fn is_dirty(&self) -> bool {
        !self.acked.is_empty() || !self.nacked.is_empty()
    }

    /// `number`, or all up to it, are safe. Numbers that are not outstanding are ignored.
    pub fn confirm(&mut self, number: u64, multiple: bool) {
        if !multiple {
            if self.remove(number) {
                note(&mut self.acked, number, number);
            }
            return;
        }
        while let Some(range) = self.outstanding.front_mut() {
            if range.first > number {
                break;
            }
            let (first, last) = (range.first, range.last.min(number));
            self.unanswered -= last - first + 1;
            if last == range.last {
                self.outstanding.pop_front();
            } else {
                range.first = last + 1;
            }
            note(&mut self.acked, first, last);
        }
    }

    /// `number` was refused.
    pub fn refuse(&mut self, number: u64) {
        if self.remove(number) {
            note(&mut self.nacked, number, number);
        }
    }

    fn remove(&mut self, number: u64) -> bool {
        // In order is by far the most frequent; no search then.
        let at = match self.outstanding.front() {
            Some(range) if range.last >= number => 0,
            Some(_) => self
                .outstanding
                .partition_point(|range| range.last < number),
            None => return false,
        };
        let Some(range) = self.outstanding.get_mut(at) else {
            return false;
        };
        if range.first > number {
            return false;
        }
        self.unanswered -= 1;
        match (range.first == number, range.last == number) {
            (true, true) => {
                self.outstanding.remove(at);
            }
            (true, false) => range.first += 1,
            (false, true) => range.last -= 1,
            (false, false) => {
                let after = Range {
                    first: number + 1,
                    last: range.last,
                };
                range.last = number - 1;
                self.outstanding.insert(at + 1, after);
            }
        }
        true
    }

    /// Everything confirmed or refused since the last flush, as frames in sending order. Nacks come first, as their
    /// numbers bound what an ack with `multiple` may cover.
    pub fn flush(&mut self, mut send: impl FnMut(Confirmation)) {
        let unanswered = self.outstanding.front().map_or(self.last + 1, |r| r.first);
        self.acked.sort_unstable_by_key(|range| range.first);
        self.nacked.sort_unstable_by_key(|range| range.first);
        let least = |ranges: &[Range]| ranges.first().map_or(u64::MAX, |range| range.first);
        let (acked_from, nacked_from) = (least(&self.acked), least(&self.nacked));
        emit(
            &self.nacked,
            unanswered.min(acked_from),
            |number, multiple| {
                send(Confirmation::Nack { number, multiple });
            },
        );
        emit(
            &self.acked,
            unanswered.min(nacked_from),
            |number, multiple| {
                send(Confirmation::Ack { number, multiple });
            },
        );
        self.acked.clear();
        self.nacked.clear();
    }
}

fn note(ranges: &mut Vec<Range>, first: u64, last: u64) {
    match ranges.last_mut() {
        Some(range) if range.last + 1 == first => range.last = last,
        _ => ranges.push(Range { first, last }),
    }
}

/// One frame for all below `cutoff`, single ones for the rest. A lone number is never sent as `multiple`.
fn emit(ranges: &[Range], cutoff: u64, mut send: impl FnMut(u64, bool)) {
    let below = ranges.iter().take_while(|range| range.first < cutoff);
    let (mut highest, mut count) = (0, 0);
    for range in below {
        highest = range.last.min(cutoff - 1);
        count += highest - range.first + 1;
    }
    if count > 0 {
        send(highest, count > 1);
    }
    for range in ranges {
        for number in range.first.max(cutoff)..=range.last {
            send(number, false);
        }
    }
}

#[cfg(test)]
mod test {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use Confirmation::{Ack, Nack};

    fn with_published(count: u64) -> Confirms {
        let mut confirms = Confirms::default();
        for expected in 1..=count {
            assert_eq!(confirms.number(), expected);
        }
        confirms
    }

    fn flushed(confirms: &mut Confirms) -> Vec<Confirmation> {
        let mut sent = Vec::new();
        confirms.flush(|one| sent.push(one));
        sent
    }

    #[test]
    fn a_lone_confirm_is_a_plain_ack() {
        let mut confirms = with_published(2);
        confirms.confirm(1, false);
        assert_eq!(
            flushed(&mut confirms),
            [Ack {
                number: 1,
                multiple: false
            }]
        );
        assert_eq!(flushed(&mut confirms), []);
    }

    #[test]
    fn what_is_below_the_smallest_outstanding_number_is_one_ack_and_the_rest_are_singles() {
        let mut confirms = with_published(7);
        for number in [2, 1, 3, 5, 6] {
            confirms.confirm(number, false);
        }
        let single = |number| Ack {
            number,
            multiple: false,
        };
        assert_eq!(
            flushed(&mut confirms),
            [
                Ack {
                    number: 3,
                    multiple: true
                },
                single(5),
                single(6)
            ]
        );
    }

    #[test]
    fn an_ack_with_multiple_never_covers_a_nack_of_the_same_flush() {
        let mut confirms = with_published(5);
        confirms.confirm(1, false);
        confirms.confirm(2, false);
        confirms.refuse(3);
        confirms.confirm(4, false);
        assert_eq!(
            flushed(&mut confirms),
            [
                Nack {
                    number: 3,
                    multiple: false
                },
                Ack {
                    number: 2,
                    multiple: true
                },
                Ack {
                    number: 4,
                    multiple: false
                },
            ]
        );
    }

    proptest! {
        #[test]
        fn every_number_is_answered_exactly_once_and_as_the_broker_said(
            steps in proptest::collection::vec((0..60u64, 0..8u8), 1..200)
        ) {
            let mut confirms = with_published(40);
            let mut open: BTreeSet<u64> = (1..=40).collect();
            let (mut acked, mut nacked) = (BTreeSet::new(), BTreeSet::new());
            // As a client keeps its books: `multiple` answers all that is not answered yet.
            let mut client: BTreeSet<u64> = (1..=40).collect();
            let (mut client_acked, mut client_nacked) = (BTreeSet::new(), BTreeSet::new());
            for (number, kind) in steps {
                match kind {
                    0 => {
                        let rest = open.split_off(&(number + 1));
                        acked.extend(std::mem::replace(&mut open, rest));
                        confirms.confirm(number, true);
                    }
                    1 => {
                        if open.remove(&number) { nacked.insert(number); }
                        confirms.refuse(number);
                    }
                    2 => confirms.flush(|one| {
                        let (number, multiple, to) = match one {
                            Ack { number, multiple } => (number, multiple, &mut client_acked),
                            Nack { number, multiple } => (number, multiple, &mut client_nacked),
                        };
                        let covered: Vec<u64> =
                            client.iter().copied().filter(|n| *n == number || multiple && *n < number).collect();
                        assert!(covered.contains(&number), "{number} answered twice");
                        for n in covered { client.remove(&n); to.insert(n); }
                    }),
                    _ => {
                        if open.remove(&number) { acked.insert(number); }
                        confirms.confirm(number, false);
                    }
                }
                prop_assert!(confirms.outstanding.len() <= open.len());
                prop_assert_eq!(confirms.outstanding(), open.len() as u64);
                if kind == 2 {
                    prop_assert_eq!(&client_acked, &acked);
                    prop_assert_eq!(&client_nacked, &nacked);
                }
            }
        }
    }
}
