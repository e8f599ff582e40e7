//! Which publishes of this connection wait for which pipe, in the order they were sent.
//!
//! One deque per set, in sequence order: when the pipe has been applied up to a number, everything before it is
//! confirmed. Neighbouring publishes of one channel in one batch share an item, so a streaming publisher costs one
//! item per batch.

use std::collections::VecDeque;

use crate::base::{ChannelId, SetId};
use crate::cluster::Pushed;
use hashbrown::HashMap;

/// One verdict on a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub channel: ChannelId,
    /// The publish's number on its channel.
    pub number: u64,
    pub accepted: bool,
    /// It belongs to a transaction, not to a confirming channel.
    pub tx: bool,
}

#[derive(Debug)]
struct Item {
    /// `None` once the channel is closed.
    channel: Option<ChannelId>,
    first_seq: u64,
    last_seq: u64,
    batch: u64,
    first_number: u64,
    shared: bool,
    tx: bool,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    sets: Vec<(SetId, VecDeque<Item>)>,
    refused: Vec<(SetId, u64)>,
    /// Publishes that went to several sets: parts still out, and whether all were accepted so far.
    shared: HashMap<(ChannelId, u64), (usize, bool)>,
}

impl Confirms {
    /// A publish went to `sets` places.
    pub fn share(&mut self, channel: ChannelId, number: u64, sets: usize) {
        self.shared.insert((channel, number), (sets, true));
    }

    /// A publish waits for `pushed` in the pipe to `set`.
    pub fn wait(
        &mut self,
        set: SetId,
        pushed: Pushed,
        channel: ChannelId,
        number: u64,
        shared: bool,
        tx: bool,
    ) {
        let index = match self.sets.iter().position(|(known, _)| *known == set) {
            Some(index) => index,
            None => {
                self.sets.push((set, VecDeque::new()));
                self.sets.len() - 1
            }
        };
        let Some((_, items)) = self.sets.get_mut(index) else {
            return;
        };
        if let Some(last) = items.back_mut() {
            let count = last.last_seq - last.first_seq + 1;
            if last.channel == Some(channel)
                && last.batch == pushed.batch
                && last.last_seq + 1 == pushed.seq
                && last.first_number + count == number
                && !last.shared
                && !shared
                && last.tx == tx
            {
                last.last_seq = pushed.seq;
                return;
            }
        }
        items.push_back(Item {
            channel: Some(channel),
            first_seq: pushed.seq,
            last_seq: pushed.seq,
            batch: pushed.batch,
            first_number: number,
            shared,
            tx,
        });
    }

    /// The publish at `seq` was refused; its verdict follows with [`Self::applied`].
    pub fn refused(&mut self, set: SetId, seq: u64) {
        self.refused.push((set, seq));
    }

    /// Nothing will be heard of what went to `set` up to `seq`: it counts as refused.
    pub fn given_up(&mut self, set: SetId, seq: u64) {
        let Some((_, items)) = self.sets.iter().find(|(known, _)| *known == set) else {
            return;
        };
        let gone = items.iter().take_while(|item| item.last_seq <= seq);
        let seqs = gone.flat_map(|item| item.first_seq..=item.last_seq);
        self.refused.extend(seqs.map(|seq| (set, seq)));
    }

    /// The pipe to `set` is applied up to `seq`: the verdicts this settles, in order.
    pub fn applied(&mut self, set: SetId, seq: u64, mut verdict: impl FnMut(Verdict)) {
        let Some((_, items)) = self.sets.iter_mut().find(|(known, _)| *known == set) else {
            self.refused.retain(|(of, _)| *of != set);
            return;
        };
        while items.front().is_some_and(|item| item.last_seq <= seq) {
            let Some(item) = items.pop_front() else { break };
            let Some(channel) = item.channel else {
                continue;
            };
            for (offset, at) in (item.first_seq..=item.last_seq).enumerate() {
                let number = item.first_number + offset as u64;
                let mut accepted = self.refused.is_empty() || !self.refused.contains(&(set, at));
                if item.shared {
                    let Some((left, all)) = self.shared.get_mut(&(channel, number)) else {
                        continue;
                    };
                    *left -= 1;
                    *all &= accepted;
                    if *left > 0 {
                        continue;
                    }
                    accepted = *all;
                    self.shared.remove(&(channel, number));
                }
                verdict(Verdict {
                    channel,
                    number,
                    accepted,
                    tx: item.tx,
                });
            }
        }
        if !self.refused.is_empty() {
            self.refused.retain(|(of, at)| *of != set || *at > seq);
        }
    }

    /// A channel is closed: its publishes get no verdict, also when its number is used again.
    pub fn forget(&mut self, channel: ChannelId) {
        for item in self.sets.iter_mut().flat_map(|(_, items)| items) {
            if item.channel == Some(channel) {
                item.channel = None;
            }
        }
        self.shared.retain(|(of, _), _| *of != channel);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const SET: SetId = SetId(1);
    const OTHER: SetId = SetId(2);
    const ONE: ChannelId = ChannelId(1);

    fn pushed(seq: u64, batch: u64) -> Pushed {
        Pushed { seq, batch }
    }

    fn settle(confirms: &mut Confirms, set: SetId, seq: u64) -> Vec<(u64, bool)> {
        let mut out = Vec::new();
        confirms.applied(set, seq, |v| out.push((v.number, v.accepted)));
        out
    }

    #[test]
    fn a_batch_confirms_what_it_carried_and_nothing_later() {
        let mut confirms = Confirms::default();
        for number in 1..=3 {
            confirms.wait(SET, pushed(10 + number, 1), ONE, number, false, false);
        }
        confirms.wait(SET, pushed(20, 2), ONE, 4, false, false);
        assert_eq!(
            settle(&mut confirms, SET, 13),
            [(1, true), (2, true), (3, true)]
        );
        assert_eq!(settle(&mut confirms, SET, 13), []);
        assert_eq!(settle(&mut confirms, SET, 20), [(4, true)]);
    }

    #[test]
    fn a_refused_publish_is_the_only_one_refused() {
        let mut confirms = Confirms::default();
        for number in 1..=3 {
            confirms.wait(SET, pushed(number, 1), ONE, number, false, false);
        }
        confirms.refused(SET, 2);
        assert_eq!(
            settle(&mut confirms, SET, 3),
            [(1, true), (2, false), (3, true)]
        );
        assert!(confirms.refused.is_empty());
    }

    #[test]
    fn a_publish_to_two_sets_waits_for_both_and_one_refusal_refuses_it() {
        let mut confirms = Confirms::default();
        confirms.share(ONE, 1, 2);
        confirms.wait(SET, pushed(1, 1), ONE, 1, true, false);
        confirms.wait(OTHER, pushed(9, 4), ONE, 1, true, false);
        confirms.refused(OTHER, 9);
        assert_eq!(settle(&mut confirms, OTHER, 9), []);
        assert_eq!(settle(&mut confirms, SET, 1), [(1, false)]);
    }

    #[test]
    fn a_closed_channel_gets_no_verdict_even_when_its_number_is_used_again() {
        let mut confirms = Confirms::default();
        confirms.wait(SET, pushed(1, 1), ONE, 1, false, false);
        confirms.forget(ONE);
        confirms.wait(SET, pushed(2, 1), ONE, 1, false, false);
        assert_eq!(settle(&mut confirms, SET, 2), [(1, true)]);
    }
}
