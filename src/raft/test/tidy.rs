//! What a snapshot does to the files behind it.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "lists of slots are lists of ranges"
)]

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use parking_lot::Mutex;

use super::super::{Group, GroupOptions, LiveEntry, Machine, MachineError, SnapshotPages};
use super::{kill, options};
use crate::log::LogError;

/// Bytes of one slot.
const SLOT: usize = 1024;
/// Slots of one entry.
const SLOTS: u32 = 16;

/// A machine that is told what lives, and notes when its pages are asked for.
#[derive(Default)]
struct Keeper {
    live: BTreeMap<u64, Vec<Range<u32>>>,
    pages: Option<Pages>,
}

impl Machine for Keeper {
    fn apply(&mut self, _index: u64, _term: u64, _payload: &Bytes) {}

    fn snapshot(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, slots) in &self.live {
            for range in slots {
                out.put_u64_le(*index);
                out.put_u32_le(range.start);
                out.put_u32_le(range.end);
            }
        }
        out
    }

    fn pages(&mut self) -> Option<Box<dyn SnapshotPages>> {
        let pages = self.pages.clone()?;
        Some(Box::new(pages))
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        for one in bytes.chunks_exact(16) {
            let index = u64::from_le_bytes(one[..8].try_into().unwrap());
            let start = u32::from_le_bytes(one[8..12].try_into().unwrap());
            let end = u32::from_le_bytes(one[12..].try_into().unwrap());
            self.live.entry(index).or_default().push(start..end);
        }
        Ok(())
    }

    fn live_bytes(&self, first: u64, last: u64) -> u64 {
        let entries = self.live.range(first..=last);
        let slots = entries.flat_map(|(_, slots)| slots);
        slots.map(|range| range.len() as u64 * SLOT as u64).sum()
    }

    fn live_entries(&self, first: u64, last: u64) -> Vec<LiveEntry> {
        let entries = self.live.range(first..=last);
        let entry = |(index, slots): (&u64, &Vec<Range<u32>>)| LiveEntry {
            index: *index,
            slots: slots.clone(),
        };
        entries.map(entry).collect()
    }

    fn compact_payload(_index: u64, payload: &Bytes, live: &[Range<u32>]) -> Option<Bytes> {
        let mut out = Vec::new();
        for slot in live.iter().cloned().flatten() {
            out.put_slice(&payload[slot as usize * SLOT..][..SLOT]);
        }
        Some(out.into())
    }
}

/// Notes what was done with the pages, and how many snapshots were published at that time.
#[derive(Clone)]
struct Pages {
    dir: PathBuf,
    done: Arc<Mutex<Vec<(&'static str, usize)>>>,
    broken: bool,
}

impl Pages {
    fn note(&self, what: &'static str) {
        self.done.lock().push((what, files(&self.dir, "snap")));
    }
}

impl SnapshotPages for Pages {
    fn sync(&mut self) -> io::Result<()> {
        self.note("sync");
        if self.broken {
            return Err(io::Error::other("broken"));
        }
        Ok(())
    }

    fn published(self: Box<Self>) {
        self.note("published");
    }
}

fn files(dir: &Path, kind: &str) -> usize {
    let all = std::fs::read_dir(dir).unwrap();
    let all = all.map(|one| one.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|found| found == kind))
        .count()
}

/// Each slot says which it is.
fn body(number: u64) -> Bytes {
    let mut out = Vec::new();
    for slot in 0..SLOTS {
        out.put_slice(&slot_bytes(number, slot));
    }
    out.into()
}

fn slot_bytes(number: u64, slot: u32) -> Vec<u8> {
    vec![(number as u8).wrapping_mul(31) ^ slot as u8; SLOT]
}

fn rule(dir: &Path) -> GroupOptions {
    let mut rule = options(dir);
    rule.log.segment_size_bytes = 256 * 1024;
    rule.log.cache_bytes = 0;
    rule.log.read_cache_bytes = 0;
    rule.keep_log_bytes = 0;
    rule
}

async fn run(rule: &GroupOptions) -> (Group, Arc<Mutex<Keeper>>) {
    let machine = Arc::new(Mutex::new(Keeper::default()));
    let group = Group::start(rule.clone(), Arc::clone(&machine))
        .await
        .unwrap();
    group.ready().await.unwrap();
    (group, machine)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_frees_dead_segments_shrinks_nearly_dead_ones_and_leaves_live_ones_readable() {
    let dir = tempfile::tempdir().unwrap();
    let rule = rule(dir.path());
    let (group, machine) = run(&rule).await;
    let mut bodies = BTreeMap::new();
    for number in 0..100 {
        let applied = group.propose(body(number)).unwrap().await.unwrap();
        bodies.insert(applied.index, number);
    }
    let before = group.log().segments();
    assert!(before.len() >= 6, "{before:?}");
    let (whole, scarce) = (before[1], before[3]);
    let survivor = scarce.first + 2;
    {
        let mut machine = machine.lock();
        for index in whole.first..=whole.last {
            machine.live.insert(index, vec![0..SLOTS]);
        }
        machine.live.insert(survivor, vec![3..4, 9..11]);
    }
    group.snapshot_now().await.unwrap();

    let check = |group: &Group| {
        let after = group.log().segments();
        let firsts: Vec<_> = after.iter().filter(|one| one.sealed).collect();
        assert_eq!(firsts.len(), 2, "{after:?}");
        assert_eq!(*firsts[0], whole);
        assert_eq!(
            (firsts[1].first, firsts[1].last),
            (scarce.first, scarce.last)
        );
        assert!(firsts[1].bytes < scarce.bytes / 8, "{after:?}");
        for index in whole.first..=whole.last {
            assert_eq!(
                group.log().get(index).unwrap().payload,
                body(bodies[&index])
            );
        }
        let mut left = Vec::new();
        for slot in [3, 9, 10] {
            left.extend(slot_bytes(bodies[&survivor], slot));
        }
        assert_eq!(group.log().get(survivor).unwrap().payload, left);
        for gone in [before[0].last, survivor + 1, before[2].first] {
            let error = group.log().get(gone).unwrap_err();
            assert!(matches!(error, LogError::Gone { .. }), "{gone}: {error}");
        }
    };
    check(&group);
    kill(group).await;
    let (group, _machine) = run(&rule).await;
    check(&group);
    kill(group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_died_only_after_the_snapshot_was_cut_waits_for_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let (group, machine) = run(&rule(dir.path())).await;
    for number in 0..60 {
        group.propose(body(number)).unwrap().await.unwrap();
    }
    let before = group.log().segments();
    let old = before[1];
    for index in old.first..=old.last {
        machine.lock().live.insert(index, vec![0..SLOTS]);
    }
    group.snapshot_now().await.unwrap();
    let sealed = |group: &Group| {
        let all = group.log().segments().into_iter();
        all.filter(|one| one.sealed).collect::<Vec<_>>()
    };
    assert_eq!(sealed(&group), [old]);
    machine.lock().live.clear();
    assert_eq!(group.log().get(old.first).unwrap().payload.len(), 16 * SLOT);
    group.propose(body(60)).unwrap().await.unwrap();
    group.snapshot_now().await.unwrap();
    assert_eq!(sealed(&group), []);
    kill(group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_synced_before_the_snapshot_is_published_and_told_after() {
    let dir = tempfile::tempdir().unwrap();
    let (group, machine) = run(&rule(dir.path())).await;
    let done = Arc::default();
    machine.lock().pages = Some(Pages {
        dir: dir.path().to_owned(),
        done: Arc::clone(&done),
        broken: false,
    });
    group.propose(body(1)).unwrap().await.unwrap();
    group.snapshot_now().await.unwrap();
    assert_eq!(*done.lock(), [("sync", 0), ("published", 1)]);
    group.propose(body(2)).unwrap().await.unwrap();
    group.snapshot_now().await.unwrap();
    assert_eq!(done.lock()[2..], [("sync", 1), ("published", 2)]);
    kill(group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_whose_pages_cannot_be_synced_is_not_published_and_stops_the_replica() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut rule = rule(dir.path());
    let heard = Arc::clone(&told);
    rule.on_fatal = Arc::new(move |_, reason| heard.lock().push(reason.to_owned()));
    let (group, machine) = run(&rule).await;
    let done = Arc::default();
    machine.lock().pages = Some(Pages {
        dir: dir.path().to_owned(),
        done: Arc::clone(&done),
        broken: true,
    });
    group.propose(body(1)).unwrap().await.unwrap();
    group.snapshot_now().await.unwrap_err();
    let mut watch = group.leadership();
    watch.wait_for(|state| state.stopped).await.unwrap();
    assert_eq!(*done.lock(), [("sync", 0)]);
    assert_eq!(files(dir.path(), "snap"), 0);
    assert_eq!(told.lock().len(), 1);
}
