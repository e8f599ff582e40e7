//! The ready index of one priority level: runs in the order in which they became visible.
//!
//! The head being consumed and the tail being filled are decoded; the middle is immutable pages outside
//! ([`Pages`]), each of [`RUNS_MAX`] runs and 40 bytes here. So memory does not follow the backlog.
//!
//! Invariants: everything in `head` is before everything in `middle`, and that before `tail`. `head` is empty
//! only while `middle` has not been asked for. Limits: `head` ≤ 1 page, `tail` < 2 pages.
//! Not here: messages that came back (they are served first; queue.rs).

use std::collections::VecDeque;

use super::pages::{self, PageError, Pages, RUNS_MAX, Run};
use super::stream::HotPages;
use crate::base::Position;

/// A page outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageRef {
    pub id: u64,
    pub messages: u64,
    pub bytes: u64,
    pub index_min: u64,
    pub index_max: u64,
}

/// The pages, the next free id, the first failure (after it the machine does nothing more), and what is decoded of
/// streams.
pub(super) struct Store {
    pub pages: Box<dyn Pages>,
    pub next_id: u64,
    pub fault: Option<PageError>,
    pub hot: HotPages,
}

impl Store {
    pub fn read(&mut self, id: u64) -> Vec<Run> {
        match self
            .pages
            .read(id)
            .and_then(|bytes| pages::decode(id, &bytes))
        {
            Ok(runs) => runs,
            Err(fault) => {
                self.fault.get_or_insert(fault);
                Vec::new()
            }
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Ready {
    pub head: VecDeque<Run>,
    pub middle: VecDeque<PageRef>,
    pub tail: VecDeque<Run>,
}

impl Ready {
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.middle.is_empty() && self.tail.is_empty()
    }

    /// Appends; joins the last run if this one continues it.
    pub fn push(&mut self, run: Run, store: &mut Store) {
        let last = if self.tail.is_empty() && self.middle.is_empty() {
            self.head.back_mut()
        } else {
            self.tail.back_mut()
        };
        if let Some(last) = last
            && last.joins(&run)
        {
            last.count += run.count;
            return;
        }
        self.tail.push_back(run);
        if self.tail.len() >= 2 * RUNS_MAX {
            self.spill(store);
        }
    }

    fn spill(&mut self, store: &mut Store) {
        let runs: Vec<Run> = self.tail.drain(..RUNS_MAX).collect();
        let id = store.next_id;
        store.next_id += 1;
        store.pages.write(id, &pages::encode(runs.iter()));
        let mut page = PageRef {
            id,
            messages: 0,
            bytes: 0,
            index_min: u64::MAX,
            index_max: 0,
        };
        for run in &runs {
            page.messages += u64::from(run.count);
            page.bytes += run.bytes();
            page.index_min = page.index_min.min(run.first.index());
            page.index_max = page.index_max.max(run.first.index());
        }
        self.middle.push_back(page);
    }

    /// The first run; takes back a page if it must.
    pub fn front(&mut self, store: &mut Store) -> Option<Run> {
        if self.head.is_empty() {
            if let Some(page) = self.middle.pop_front() {
                self.head = store.read(page.id).into();
                store.pages.discard(page.id);
                if let Some(next) = self.middle.front() {
                    store.pages.prefetch(next.id);
                }
            } else {
                self.head.shrink_to(64);
                std::mem::swap(&mut self.head, &mut self.tail);
            }
        }
        self.head.front().copied()
    }

    /// Takes `count` messages of the first run, which has at least that many.
    pub fn advance(&mut self, count: u32) {
        if let Some(run) = self.head.front_mut() {
            if run.count > count {
                run.first = run.first.plus(count);
                run.count -= count;
            } else {
                self.head.pop_front();
            }
        }
    }

    /// Empties the index, giving each run to `each`. Reads every page.
    pub fn drain(&mut self, store: &mut Store, mut each: impl FnMut(Run)) {
        self.head.drain(..).for_each(&mut each);
        for page in std::mem::take(&mut self.middle) {
            store.read(page.id).into_iter().for_each(&mut each);
            store.pages.discard(page.id);
        }
        self.tail.drain(..).for_each(&mut each);
        *self = Self::default();
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
        self.head.iter().for_each(&mut one);
        for page in &self.middle {
            if page.index_min <= to && page.index_max >= from {
                store.read(page.id).iter().for_each(&mut one);
            }
        }
        self.tail.iter().for_each(&mut one);
    }
}
