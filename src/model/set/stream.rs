//! A stream's index: runs in the order they came, numbered from 0 (offsets), kept after they were read.
//!
//! Need: any number of readers, each at a place of its own, over messages that only retention takes away; a place found
//! by number or by time without a walk. Shape: that of a ready index ([`super::ready`]): the oldest page decoded once
//! retention cuts it, immutable pages outside, the tail being filled. A page knows its first offset and its times, so a
//! seek is two binary searches and at most one page read; pages that readers are in stay decoded, a few per set.
//!
//! Invariants: offsets and times rise along `head`, `middle`, `tail`; the offsets of neighbours touch. A run's
//! `expires_at` is here the moment it came: what is in a stream expires by the stream's rule alone.
//! Limits: `head` ≤ 1 page, `tail` < 2 pages, [`limits::STREAM_PAGES_HOT_MAX`] decoded pages per set.
//! Not here: who reads, and what retention takes (stream_rules.rs).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::command::StreamStart;
use super::pages::{self, RUNS_MAX, Run};
use super::ready::Store;
use crate::base::{ConsumerId, Millis, Position, limits};

/// A run and the offset of its first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub offset: u64,
    pub run: Run,
}

impl Span {
    /// The offset behind it.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.run.count)
    }

    /// When it came.
    pub fn since(&self) -> Millis {
        self.run.expires_at
    }
}

/// A page outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamPage {
    pub id: u64,
    /// Offset of its first message.
    pub offset: u64,
    pub messages: u64,
    pub bytes: u64,
    /// When its first and its last run came.
    pub since: Millis,
    pub until: Millis,
    pub index_min: u64,
    pub index_max: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Stream {
    /// Offset of the next message.
    pub next: u64,
    pub head: VecDeque<Span>,
    pub middle: VecDeque<StreamPage>,
    pub tail: VecDeque<Span>,
    /// Consumers that have read all there is.
    pub waiting: BTreeSet<ConsumerId>,
}

/// Decoded pages, the one used last at the end. No part of the state.
pub(super) type HotPages = VecDeque<(u64, Arc<[Span]>)>;

fn read(page: &StreamPage, store: &mut Store) -> Vec<Span> {
    let mut offset = page.offset;
    let number = |run: Run| {
        let span = Span { offset, run };
        offset = span.end();
        span
    };
    store.read(page.id).into_iter().map(number).collect()
}

fn hot(page: &StreamPage, store: &mut Store) -> Arc<[Span]> {
    if let Some(at) = store.hot.iter().position(|(id, _)| *id == page.id) {
        // The last one used is mostly the one used next.
        if at + 1 < store.hot.len()
            && let Some(found) = store.hot.remove(at)
        {
            store.hot.push_back(found);
        }
        if let Some((_, spans)) = store.hot.back() {
            return Arc::clone(spans);
        }
    }
    let spans: Arc<[Span]> = read(page, store).into();
    if store.hot.len() >= limits::STREAM_PAGES_HOT_MAX {
        store.hot.pop_front();
    }
    store.hot.push_back((page.id, Arc::clone(&spans)));
    spans
}

impl Stream {
    /// Offset of the oldest message, [`Self::next`] if there is none.
    pub fn first(&self) -> u64 {
        let spans = [self.head.front(), self.tail.front()];
        match (spans, self.middle.front()) {
            ([Some(span), _], _) => span.offset,
            (_, Some(page)) => page.offset,
            ([_, Some(span)], _) => span.offset,
            _ => self.next,
        }
    }

    /// When the oldest message came.
    pub fn since(&self) -> Option<Millis> {
        let head = self.head.front().map(Span::since);
        let middle = || self.middle.front().map(|page| page.since);
        let tail = || self.tail.front().map(Span::since);
        head.or_else(middle).or_else(tail)
    }

    /// Appends; joins the last run if this one continues it.
    pub fn push(&mut self, run: Run, store: &mut Store) {
        let offset = self.next;
        self.next += u64::from(run.count);
        let last = if self.tail.is_empty() && self.middle.is_empty() {
            self.head.back_mut()
        } else {
            self.tail.back_mut()
        };
        if let Some(last) = last
            && last.run.joins(&run)
        {
            last.run.count += run.count;
            return;
        }
        self.tail.push_back(Span { offset, run });
        if self.tail.len() >= 2 * RUNS_MAX {
            self.spill(store);
        }
    }

    fn spill(&mut self, store: &mut Store) {
        let spans: Vec<Span> = self.tail.drain(..RUNS_MAX).collect();
        let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
            return;
        };
        let id = store.next_id;
        store.next_id += 1;
        let runs: Vec<Run> = spans.iter().map(|span| span.run).collect();
        store.pages.write(id, &pages::encode(runs.iter()));
        let indexes = || runs.iter().map(|run| run.first.index());
        self.middle.push_back(StreamPage {
            id,
            offset: first.offset,
            messages: last.end() - first.offset,
            bytes: runs.iter().map(Run::bytes).sum(),
            since: first.since(),
            until: last.since(),
            index_min: indexes().min().unwrap_or(u64::MAX),
            index_max: indexes().max().unwrap_or(0),
        });
    }

    /// The oldest run; takes back a page if it must.
    pub fn front(&mut self, store: &mut Store) -> Option<Span> {
        if self.head.is_empty() {
            if let Some(page) = self.middle.pop_front() {
                self.head = read(&page, store).into();
                store.hot.retain(|(id, _)| *id != page.id);
                store.pages.discard(page.id);
            } else {
                self.head.shrink_to(64);
                std::mem::swap(&mut self.head, &mut self.tail);
            }
        }
        self.head.front().copied()
    }

    /// Takes `count` messages off the oldest run, which has at least that many.
    pub fn advance(&mut self, count: u32) {
        if let Some(span) = self.head.front_mut() {
            if span.run.count > count {
                span.offset += u64::from(count);
                span.run.first = span.run.first.plus(count);
                span.run.count -= count;
            } else {
                self.head.pop_front();
            }
        }
    }

    /// The run that holds the message at `offset`. Two binary searches.
    pub fn find(&self, offset: u64, store: &mut Store) -> Option<Span> {
        let before = |span: &Span| span.offset <= offset;
        let found = if self.tail.front().is_some_and(before) {
            let at = self.tail.partition_point(before);
            self.tail.get(at.checked_sub(1)?).copied()
        } else if self
            .middle
            .front()
            .is_some_and(|page| page.offset <= offset)
        {
            let at = self.middle.partition_point(|page| page.offset <= offset);
            let page = self.middle.get(at.checked_sub(1)?)?;
            let spans = hot(page, store);
            spans
                .get(spans.partition_point(before).checked_sub(1)?)
                .copied()
        } else {
            let at = self.head.partition_point(before);
            self.head.get(at.checked_sub(1)?).copied()
        };
        found.filter(|span| offset < span.end())
    }

    /// The offset a reader begins at.
    pub fn seek(&self, start: StreamStart, now: Millis, store: &mut Store) -> u64 {
        match start {
            StreamStart::First => self.first(),
            StreamStart::Last => {
                let last = self.tail.back().or(self.head.back());
                last.map_or(self.next, |span| span.offset)
            }
            StreamStart::Next => self.next,
            StreamStart::Offset(offset) => offset,
            StreamStart::Time(time) => self.at_time(time, store),
            StreamStart::Ago(span) => self.at_time(now.since(span), store),
        }
    }

    /// Offset of the first message that came at `time` or later.
    fn at_time(&self, time: Millis, store: &mut Store) -> u64 {
        let before = |span: &Span| span.since() < time;
        let in_tail = || self.tail.get(self.tail.partition_point(before));
        let found = if self.head.back().is_some_and(|span| span.since() >= time) {
            self.head.get(self.head.partition_point(before)).copied()
        } else {
            let at = self.middle.partition_point(|page| page.until < time);
            match self.middle.get(at) {
                Some(page) => {
                    let spans = hot(page, store);
                    spans.get(spans.partition_point(before)).copied()
                }
                None => in_tail().copied(),
            }
        };
        found.map_or(self.next, |span| span.offset)
    }

    /// Empties the stream, giving each run to `each`. Reads every page.
    pub fn drain(&mut self, store: &mut Store, mut each: impl FnMut(Run)) {
        self.head.drain(..).for_each(|span| each(span.run));
        for page in std::mem::take(&mut self.middle) {
            store.read(page.id).into_iter().for_each(&mut each);
            store.hot.retain(|(id, _)| *id != page.id);
            store.pages.discard(page.id);
        }
        self.tail.drain(..).for_each(|span| each(span.run));
    }

    /// Gives the runs of entries `from ..= to` to `each`; reads only pages that may hold some.
    pub fn visit(
        &self,
        from: u64,
        to: u64,
        store: &mut Store,
        mut each: impl FnMut(Position, u32),
    ) {
        let mut one = |run: &Run| {
            if (from..=to).contains(&run.first.index()) {
                each(run.first, run.count);
            }
        };
        self.head.iter().for_each(|span| one(&span.run));
        for page in &self.middle {
            if page.index_min <= to && page.index_max >= from {
                store.read(page.id).iter().for_each(&mut one);
            }
        }
        self.tail.iter().for_each(|span| one(&span.run));
    }
}
