//! The log on a disk that fails, against a naive twin.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::faulty_disk::FaultyDisk;
use super::*;

const DIR: &str = "/log";

fn options(direct: bool, spare_segments: usize) -> LogOptions {
    LogOptions {
        segment_size_bytes: 16 * 1024,
        cache_bytes: 2048,
        read_cache_bytes: 4096,
        direct,
        spare_segments,
        host: None,
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Counts and size of the records.
    Append(u8, u16),
    /// How far past the first record, in 256ths of the log; over 250: past its end.
    Purge(u8),
    /// How much of the tail is cut, in 256ths of the log; over 250: all of it.
    Truncate(u8),
    HardState,
    Barrier,
    Compact(u8),
    Delete,
    Fill,
    Read(u8),
    Crash,
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        12 => (1..6_u8, 0..3000_u16).prop_map(|(count, size)| Op::Append(count, size)),
        3 => any::<u8>().prop_map(Op::Purge),
        3 => any::<u8>().prop_map(Op::Truncate),
        3 => Just(Op::HardState),
        3 => Just(Op::Barrier),
        2 => any::<u8>().prop_map(Op::Compact),
        2 => Just(Op::Delete),
        1 => Just(Op::Fill),
        4 => any::<u8>().prop_map(Op::Read),
        3 => Just(Op::Crash),
        1 => Just(Op::Reopen),
    ];
    proptest::collection::vec(op, 1..80)
}

/// What a power cut may leave.
#[derive(Clone, Debug)]
struct State {
    hard_state: u64,
    records: BTreeMap<u64, Record>,
    purged: Option<u64>,
    alive: BTreeMap<u64, Record>,
}

/// What the log must say. `history` has the state after every step since the last one known to be durable; a power cut
/// may leave any of them, in order, from the last acknowledged on.
struct Twin {
    records: BTreeMap<u64, Record>,
    purged: Option<u64>,
    /// Records that are purged and were not dropped; they may still be read.
    alive: BTreeMap<u64, Record>,
    /// Records that were dropped with their segment; the tail cache may still have them.
    dropped: BTreeMap<u64, Record>,
    hard_state: u64,
    history: Vec<State>,
    acknowledged: Arc<Mutex<usize>>,
    minted: u64,
}

impl Twin {
    fn new() -> Self {
        Self {
            records: BTreeMap::new(),
            purged: None,
            alive: BTreeMap::new(),
            dropped: BTreeMap::new(),
            hard_state: 0,
            history: Vec::new(),
            acknowledged: Arc::default(),
            minted: 0,
        }
    }

    fn note(&mut self) {
        self.history.push(State {
            hard_state: self.hard_state,
            records: self.records.clone(),
            purged: self.purged,
            alive: self.alive.clone(),
        });
    }

    /// For the next step: marks it acknowledged.
    fn done(&self) -> Done {
        let (step, acknowledged) = (self.history.len(), Arc::clone(&self.acknowledged));
        Box::new(move |result| {
            // After a power cut there are errors. No state follows an answer that came out of order.
            if result.is_ok() {
                let mut acknowledged = acknowledged.lock();
                let ordered = *acknowledged < step;
                *acknowledged = if ordered { step } else { usize::MAX };
            }
        })
    }

    fn next(&self) -> u64 {
        let after = self.records.last_key_value().map(|(last, _)| last + 1);
        after.or(self.purged.map(|purged| purged + 1)).unwrap_or(1)
    }

    fn record(&mut self, index: u64, size: usize) -> Record {
        self.minted += 1;
        Record {
            index,
            meta: Bytes::copy_from_slice(&self.minted.to_le_bytes()),
            payload: Bytes::from(vec![(self.minted % 251) as u8; size]),
        }
    }

    /// A step that is durable as a whole is all there is.
    fn settle(&mut self) {
        self.history.clear();
        self.note();
        *self.acknowledged.lock() = 0;
    }
}

struct Run {
    disk: FaultyDisk,
    options: LogOptions,
    log: Log,
    twin: Twin,
}

impl Run {
    fn new(seed: u64, options: LogOptions) -> Self {
        let disk = FaultyDisk::new(seed);
        let (log, _) = Log::open(Arc::new(disk.clone()), DIR, options.clone()).unwrap();
        let mut twin = Twin::new();
        twin.note();
        Self {
            disk,
            options,
            log,
            twin,
        }
    }

    fn step(&mut self, op: Op) {
        let twin = &mut self.twin;
        match op {
            Op::Append(count, size) => {
                let next = twin.next();
                let records: Vec<Record> = (next..next + u64::from(count))
                    .map(|index| twin.record(index, usize::from(size)))
                    .collect();
                twin.records
                    .extend(records.iter().map(|one| (one.index, one.clone())));
                let done = twin.done();
                twin.note();
                self.log.append(records, done);
            }
            Op::Purge(part) => {
                let first = twin
                    .records
                    .first_key_value()
                    .map_or(twin.next(), |one| *one.0);
                let span = twin.next() - first;
                let upto = match part {
                    251.. => twin.next() + 7,
                    _ => first + span * u64::from(part) / 256,
                };
                let after = twin.records.split_off(&(upto + 1));
                let gone = std::mem::replace(&mut twin.records, after);
                twin.alive.extend(gone);
                twin.purged = Some(upto);
                twin.note();
                self.log.purge(upto, Bytes::from_static(b"mark")).unwrap();
            }
            Op::Truncate(part) => {
                let first = twin.records.keys().next().copied();
                let first = first.unwrap_or(twin.next());
                let span = twin.next() - first;
                let keep = match part {
                    251.. => 0,
                    _ => span - span * u64::from(part) / 256,
                };
                twin.records.split_off(&(first + keep));
                twin.note();
                let last = (keep > 0).then(|| first + keep - 1);
                self.log.truncate_after(last).unwrap();
            }
            Op::HardState => {
                twin.hard_state += 1;
                let done = twin.done();
                twin.note();
                let state = Bytes::copy_from_slice(&twin.hard_state.to_le_bytes());
                self.log.save_hard_state(state, done);
            }
            Op::Barrier => {
                self.log.sync_barrier().unwrap();
                twin.settle();
            }
            Op::Compact(keep) => self.compact(keep),
            Op::Delete => self.delete(),
            Op::Fill => self.log.fill_spares().unwrap(),
            Op::Read(part) => self.read(part),
            Op::Crash => self.crash(),
            Op::Reopen => {
                self.log.close().unwrap();
                twin.settle();
                self.crash();
            }
        }
    }

    fn purged_segment(&self) -> Option<SegmentInfo> {
        let purged = self.twin.purged?;
        let segments = self.log.segments();
        segments
            .into_iter()
            .rfind(|one| one.sealed && one.last <= purged)
    }

    fn compact(&mut self, keep: u8) {
        let Some(one) = self.purged_segment() else {
            return;
        };
        let (alive, dropped) = (&mut self.twin.alive, &mut self.twin.dropped);
        let outcome = self.log.compact_segment(one.first, &mut |index, payload| {
            let ours = alive.get(&index).map(|one| &one.payload);
            assert!(ours == Some(payload), "{index} is not ours");
            if index % (u64::from(keep) % 5 + 1) == 0 {
                return Fate::Keep;
            }
            dropped.extend(alive.remove_entry(&index));
            Fate::Drop
        });
        match outcome {
            Err(LogError::SegmentInUse { .. }) => return,
            result => assert!(result.unwrap().bytes_after > 0),
        }
        // It waited for the purge mark, and so for all before.
        self.twin.settle();
    }

    fn delete(&mut self) {
        if let Some(one) = self.purged_segment() {
            match self.log.delete_segment(one.first) {
                // A truncation that waited took it away.
                Err(LogError::SegmentInUse { .. }) => return,
                result => result.unwrap(),
            }
            let twin = &mut self.twin;
            let mut gone = twin.alive.split_off(&one.first);
            twin.alive.append(&mut gone.split_off(&(one.last + 1)));
            twin.dropped.append(&mut gone);
            twin.settle();
        }
    }

    fn read(&self, part: u8) {
        let Some((first, _)) = self.twin.records.first_key_value() else {
            return;
        };
        let from = first + (self.twin.next() - first) * u64::from(part) / 256;
        let read = self.log.read(from, self.twin.next(), 8000).unwrap();
        assert!(!read.is_empty());
        for (record, (_, ours)) in read.iter().zip(self.twin.records.range(from..)) {
            assert_eq!(record, ours);
        }
        let ahead = self.log.read_ahead(from, 8000);
        for record in ahead.unwrap_or_default() {
            assert_eq!(record, self.twin.records[&record.index]);
        }
    }

    fn crash(&mut self) {
        self.disk = self.disk.crash();
        let opened = Log::open(Arc::new(self.disk.clone()), DIR, self.options.clone());
        let (log, recovered) = opened.unwrap();
        let old = std::mem::replace(&mut self.log, log);
        // Joins the writer, so that no answer comes later.
        drop(old.close());
        drop(old);
        let twin = &mut self.twin;
        let acknowledged = *twin.acknowledged.lock();
        let hard_state = recovered.hard_state.map_or(0, |state| {
            u64::from_le_bytes(state.as_ref().try_into().unwrap())
        });
        let purged = self.log.purged().map(|(purged, _)| purged);
        let all = self.log.first_index().map_or(Vec::new(), |first| {
            let next = self.log.last_index().unwrap() + 1;
            (first..next)
                .map(|index| self.log.get(index).unwrap())
                .collect()
        });
        let records: BTreeMap<u64, Record> = all.into_iter().map(|one| (one.index, one)).collect();
        let states = &twin.history[acknowledged..];
        let marks = |state: &State| state.hard_state == hard_state && state.purged == purged;
        let whole = |state: &&State| marks(state) && state.records == records;
        // An append of several records may be there in part, if it was not acknowledged.
        let partly = |pair: &&[State]| {
            let (before, after) = (&pair[0].records, &pair[1].records);
            marks(&pair[1])
                && before.keys().all(|index| records.contains_key(index))
                && records
                    .iter()
                    .all(|(index, one)| after.get(index) == Some(one))
        };
        let found = states.iter().find(whole);
        let found = found.or_else(|| states.windows(2).find(partly).map(|pair| &pair[1]));
        let Some(found) = found else {
            panic!(
                "not a state from step {acknowledged} on: {hard_state} {purged:?} {:?}; wanted one of {:?}",
                records.keys().collect::<Vec<_>>(),
                twin.history
                    .iter()
                    .map(|one| (
                        one.hard_state,
                        one.records.keys().collect::<Vec<_>>(),
                        one.purged
                    ))
                    .collect::<Vec<_>>(),
            );
        };
        // A mark is followed by nothing that changes what is below it, but by what waits for all to be durable.
        twin.alive = found.alive.clone();
        twin.dropped.clear();
        (twin.records, twin.purged, twin.hard_state) = (records, purged, hard_state);
        twin.settle();
        self.check();
    }

    /// Purged records are as they were, as long as they are there.
    fn check(&self) {
        for (index, ours) in &self.twin.records {
            let found = self.log.get(*index).unwrap();
            assert!(found == *ours, "{index} is another");
        }
        for index in 0..=self.twin.purged.unwrap_or(0) {
            match (self.log.get(index), self.twin.alive.get(&index)) {
                (Ok(found), ours) => {
                    let ours = ours.or_else(|| self.twin.dropped.get(&index));
                    assert!(Some(&found) == ours, "{index} is not ours");
                }
                (Err(LogError::Gone { .. } | LogError::Missing { .. }), None) => {}
                (Err(error), _) => panic!("{index}: {error}"),
            }
        }
        assert_eq!(
            self.log.last_index(),
            self.twin.records.keys().last().copied()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn after_any_crash_all_that_was_acknowledged_is_there_and_nothing_else(
        seed: u64, direct: bool, spares in 0..2_usize, ops in ops(),
    ) {
        let mut run = Run::new(seed, options(direct, spares));
        for op in ops {
            run.step(op);
        }
        run.step(Op::Barrier);
        run.check();
        run.crash();
    }
}
