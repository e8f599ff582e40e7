//! Consumers and what is leased to them.
//!
//! A lease run is neighbours of one delivery with one deadline. Deadlines of plain leases rise with the delivery
//! number, so the first one is the earliest and an ack moves no timer; a lease that was extended, or whose
//! deadline would fall before the last, lives in an ordered structure of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::command::{Credit, Overdue};
use super::pages::Run;
use crate::base::{ConsumerId, Millis, PipeId, Position, QueueId, SessionId, limits};

/// A run with its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub run: Run,
    pub acquired: u32,
    pub failed: u32,
    pub level: u8,
}

impl Piece {
    pub fn joins(&self, next: &Self) -> bool {
        self.run.joins(&next.run)
            && self.acquired == next.acquired
            && self.failed == next.failed
            && self.level == next.level
    }

    /// Cuts off and returns the first `count`, fewer than it has.
    pub fn split(&mut self, count: u32) -> Self {
        assert!(count < self.run.count, "{count} of {}", self.run.count);
        let mut front = *self;
        front.run.count = count;
        self.run.first = self.run.first.plus(count);
        self.run.count -= count;
        front
    }
}

/// A run of leased messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub queue: QueueId,
    pub piece: Piece,
    pub deadline: Millis,
}

/// What a consumer holds, by delivery number.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    pub plain: BTreeMap<u64, Lease>,
    pub extended: BTreeMap<u64, Lease>,
    pub by_deadline: BTreeSet<(Millis, u64)>,
    pub last_deadline: Millis,
}

impl Leases {
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.extended.is_empty()
    }

    pub fn push(&mut self, no: u64, lease: Lease) {
        if lease.deadline < self.last_deadline && !self.plain.is_empty() {
            self.push_extended(no, lease);
            return;
        }
        self.last_deadline = lease.deadline;
        if let Some(mut last) = self.plain.last_entry() {
            let start = *last.key();
            let old = last.get_mut();
            if start + u64::from(old.piece.run.count) == no
                && old.queue == lease.queue
                && old.deadline == lease.deadline
                && old.piece.joins(&lease.piece)
            {
                old.piece.run.count += lease.piece.run.count;
                return;
            }
        }
        self.plain.insert(no, lease);
    }

    pub fn push_extended(&mut self, no: u64, lease: Lease) {
        self.by_deadline.insert((lease.deadline, no));
        self.extended.insert(no, lease);
    }

    /// The earliest deadline.
    pub fn earliest(&self) -> Option<Millis> {
        let plain = self.plain.first_key_value().map(|(_, l)| l.deadline);
        let extended = self.by_deadline.first().map(|(at, _)| *at);
        match (plain, extended) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes the leases of `first ..= last`, in order of number.
    pub fn take(&mut self, first: u64, last: u64, out: &mut Vec<(u64, Lease)>) {
        take_range(&mut self.plain, first, last, out, &mut |_, _, _| {});
        if !self.extended.is_empty() {
            let order = &mut self.by_deadline;
            take_range(
                &mut self.extended,
                first,
                last,
                out,
                &mut |no, lease, rest| {
                    order.remove(&(lease.deadline, no));
                    for no in rest {
                        order.insert((lease.deadline, no));
                    }
                },
            );
            out.sort_unstable_by_key(|(no, _)| *no);
        }
    }

    /// Takes one lease that ends at or before `at`.
    pub fn take_due(&mut self, at: Millis) -> Option<(u64, Lease)> {
        if let Some(&(deadline, no)) = self.by_deadline.first()
            && deadline <= at
        {
            self.by_deadline.pop_first();
            return self.extended.remove_entry(&no);
        }
        let (_, first) = self.plain.first_key_value()?;
        if first.deadline <= at {
            self.plain.pop_first()
        } else {
            None
        }
    }

    /// All of them, in order of number.
    pub fn all(&self) -> impl Iterator<Item = (&u64, &Lease)> {
        self.plain.iter().chain(&self.extended)
    }

    /// Takes the leases of `queue`.
    pub fn take_queue(&mut self, queue: QueueId, out: &mut Vec<(u64, Lease)>) {
        let numbers: Vec<(u64, u32)> = self
            .all()
            .filter(|(_, lease)| lease.queue == queue)
            .map(|(no, lease)| (*no, lease.piece.run.count))
            .collect();
        for (no, count) in numbers {
            self.take(no, no + u64::from(count) - 1, out);
        }
    }
}

/// `moved` hears of every run touched: its old number, itself, and the numbers of what stays of it.
fn take_range(
    leases: &mut BTreeMap<u64, Lease>,
    first: u64,
    last: u64,
    out: &mut Vec<(u64, Lease)>,
    moved: &mut dyn FnMut(u64, &Lease, Vec<u64>),
) {
    let mut from = leases
        .range(..=first)
        .next_back()
        .map_or(first, |(no, _)| *no);
    while from <= last
        && let Some((&no, &lease)) = leases.range(from..=last).next()
    {
        let end = no + u64::from(lease.piece.run.count);
        from = end;
        if end <= first {
            continue;
        }
        leases.remove(&no);
        let mut rest = Vec::new();
        let mut middle = lease;
        let mut start = no;
        if no < first {
            let mut before = lease;
            before.piece = middle.piece.split((first - no) as u32);
            leases.insert(no, before);
            rest.push(no);
            start = first;
        }
        if end - 1 > last {
            let mut after = middle;
            middle.piece = after.piece.split((last - start + 1) as u32);
            leases.insert(last + 1, after);
            rest.push(last + 1);
        }
        moved(no, &lease, rest);
        out.push((start, middle));
    }
}

/// A consumer, or the holder of a channel's basic.get leases.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub queue: QueueId,
    pub session: SessionId,
    pub channel: u16,
    pub pipe: PipeId,
    /// Gets deliveries. False for holders of basic.get and after basic.cancel.
    pub attached: bool,
    pub getter: bool,
    pub no_ack: bool,
    pub until_sent: bool,
    pub priority: i32,
    pub credit: Credit,
    pub visibility: Option<Millis>,
    pub overdue: Option<Overdue>,
    /// Out of its queue's rotation because it had no capacity when its turn came.
    pub parked: bool,
    /// Its channel has a limit.
    pub limited: bool,
    pub next_no: u64,
    pub unsettled: u64,
    pub leases: Leases,
    /// Delivered without a lease, and kept until it was sent; in order.
    pub on_way: VecDeque<(Position, u32)>,
    pub armed: Option<Millis>,
    /// Offset of the next message it gets, in a stream.
    pub cursor: Option<u64>,
}

impl Consumer {
    /// A run is on its way.
    pub fn send(&mut self, first: Position, count: u32) {
        if let Some((start, have)) = self.on_way.back_mut()
            && start.index() == first.index()
            && start.slot() + *have == first.slot()
        {
            *have += count;
        } else {
            self.on_way.push_back((first, count));
        }
    }

    /// Takes up to `count` messages that are on their way, from the front.
    pub fn take_sent(&mut self, count: u32) -> Option<(Position, u32)> {
        let (first, have) = self.on_way.front_mut()?;
        let taken = (*first, count.min(*have));
        *have -= taken.1;
        if *have == 0 {
            self.on_way.pop_front();
        } else {
            *first = first.plus(taken.1);
        }
        Some(taken)
    }

    /// Messages it may get, its channel's limit aside.
    pub fn room(&self) -> u64 {
        let credit = match self.credit {
            Credit::Prefetch(limit) if !self.no_ack => {
                u64::from(limit).saturating_sub(self.unsettled)
            }
            Credit::Prefetch(limit) | Credit::Window(limit) => u64::from(limit),
        };
        if self.no_ack {
            credit
        } else {
            credit.min(limits::LEASES_PER_CONSUMER_MAX.saturating_sub(self.unsettled))
        }
    }
}

/// A channel with a limit (basic.qos global=true).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channel {
    pub limit: u32,
    pub unsettled: u64,
}

/// What a deadline is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Leases(ConsumerId),
    Delayed(QueueId),
    Heads(QueueId),
    Expires(QueueId),
}
