//! Truncations over several segments, and what a power cut, a deletion or damage makes of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::faulty_disk::FaultyDisk;
use super::*;

fn options() -> LogOptions {
    LogOptions {
        segment_size_bytes: 16 * 1024,
        cache_bytes: 0,
        read_cache_bytes: 0,
        direct: false,
        spare_segments: 0,
        host: None,
    }
}

/// Records of one generation are told from those of another.
fn record(index: u64, generation: u8) -> Record {
    Record {
        index,
        meta: Bytes::copy_from_slice(&[generation]),
        payload: Bytes::from(vec![generation; 3000]),
    }
}

/// Each record in a group of its own.
fn append(log: &Log, range: std::ops::Range<u64>, generation: u8) {
    for index in range {
        let record = record(index, generation);
        log.append(vec![record], Box::new(|result| result.unwrap()));
        log.sync_barrier().unwrap();
    }
}

fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(Log, Recovered), LogError> {
    Log::open(Arc::clone(disk), dir, options())
}

fn on_disk(dir: &Path) -> (Arc<dyn Disk>, Log) {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let (log, _) = open(&disk, dir).unwrap();
    (disk, log)
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.seg"))
}

/// Ranges of the segments.
fn ranges(log: &Log) -> Vec<(u64, u64)> {
    let segments = log.segments();
    segments.iter().map(|one| (one.first, one.last)).collect()
}

#[test]
fn what_was_cut_stays_away_when_the_segment_with_the_truncation_is_deleted_first() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, log) = on_disk(dir.path());
    append(&log, 1..12, 1);
    assert_eq!(ranges(&log), [(1, 4), (5, 8), (9, 11)]);
    log.truncate_after(Some(3)).unwrap();
    append(&log, 4..13, 2);
    // Raft goes on after a snapshot: nothing is left that begins where the first segment ended.
    log.purge(20, Bytes::new()).unwrap();
    append(&log, 21..22, 3);
    for (first, _) in ranges(&log).into_iter().skip(1).rev().skip(1) {
        log.delete_segment(first).unwrap();
    }
    drop(log);
    // Neither a hard state is there nor, for good measure, a side index: all is read whole.
    let index = dir.path().join(format!("{:020}.idx", 1));
    std::fs::remove_file(index).unwrap();
    let (log, _) = open(&disk, dir.path()).unwrap();
    assert_eq!(ranges(&log), [(1, 3), (21, 21)]);
    for index in 1..4 {
        assert_eq!(log.get(index).unwrap(), record(index, 1));
    }
    for index in 4..21 {
        assert!(matches!(log.get(index), Err(LogError::Gone { .. })));
    }
    assert_eq!(log.get(21).unwrap(), record(21, 3));
}

#[test]
fn a_truncation_survives_a_power_cut_at_any_of_its_writes() {
    let mut seen = std::collections::BTreeSet::new();
    for (seed, syncs) in (0..200).flat_map(|seed| (0..8).map(move |syncs| (seed, syncs))) {
        let first = FaultyDisk::new(seed);
        let disk: Arc<dyn Disk> = Arc::new(first.clone());
        let (log, _) = open(&disk, Path::new("/log")).unwrap();
        append(&log, 1..12, 1);
        log.purge(1, Bytes::from_static(b"mark")).unwrap();
        let state = Bytes::from_static(b"vote");
        log.save_hard_state(state.clone(), Box::new(|result| result.unwrap()));
        log.sync_barrier().unwrap();
        first.fail_syncs_after(syncs);
        log.truncate_after(Some(3)).unwrap();
        let cut = log.sync_barrier().is_ok();
        let mut disk = first;
        // What recovery does is cut short as well.
        for _ in 0..3 {
            disk = disk.crash();
            let again: Arc<dyn Disk> = Arc::new(disk.clone());
            let (log, recovered) = open(&again, Path::new("/log")).unwrap();
            assert_eq!(recovered.hard_state.as_ref(), Some(&state));
            assert_eq!(log.purged().map(|(index, _)| index), Some(1));
            let last = log.last_index().unwrap();
            assert!(last == 3 || (last == 11 && !cut), "{last}");
            for index in 1..=last {
                assert_eq!(log.get(index).unwrap(), record(index, 1));
            }
            seen.insert((last, cut));
        }
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        [(3, false), (3, true), (11, false)]
    );
}

#[test]
fn damage_in_a_segment_that_was_cut_whole_is_no_reason_to_refuse() {
    // One record of it, or all.
    for flipped in [5000..5001, 4096..16_000] {
        let dir = tempfile::tempdir().unwrap();
        let (disk, log) = on_disk(dir.path());
        append(&log, 1..12, 1);
        log.purge(1, Bytes::new()).unwrap();
        let dead = path(dir.path(), 2);
        let mut bytes = std::fs::read(&dead).unwrap();
        log.truncate_after(Some(4)).unwrap();
        append(&log, 5..8, 2);
        drop(log);
        assert!(!dead.exists());
        // As after a power cut that kept the truncation and lost the removal.
        for byte in &mut bytes[flipped] {
            *byte ^= 1;
        }
        std::fs::write(&dead, bytes).unwrap();
        let (log, recovered) = open(&disk, dir.path()).unwrap();
        assert_eq!((recovered.last, recovered.damages.len()), (Some(7), 1));
        for index in 2..8 {
            let generation = if index < 5 { 1 } else { 2 };
            assert_eq!(log.get(index).unwrap(), record(index, generation));
        }
        assert!(!dead.exists());
    }
}

#[test]
fn a_segment_whose_successor_was_cut_still_knows_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, log) = on_disk(dir.path());
    append(&log, 1..12, 1);
    log.truncate_after(Some(4)).unwrap();
    log.sync_barrier().unwrap();
    drop(log);
    // In the last record of the first segment; no segment follows it by number.
    let file = path(dir.path(), 1);
    let mut bytes = std::fs::read(&file).unwrap();
    let group = 20 + 24 + 1 + 3000;
    bytes[4096 + 4 * group - 500] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let refused = open(&disk, dir.path());
    assert!(matches!(refused, Err(LogError::Damaged { path, first: 4, .. }) if path == file));
}

#[test]
fn a_segment_does_not_count_what_a_waiting_truncation_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (_disk, log) = on_disk(dir.path());
    append(&log, 1..12, 1);
    // The writer waits in an answer.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (there, arrived) = std::sync::mpsc::channel();
    log.save_hard_state(
        Bytes::new(),
        Box::new(move |_| {
            there.send(()).unwrap();
            wait.recv().unwrap();
        }),
    );
    arrived.recv().unwrap();
    log.truncate_after(Some(3)).unwrap();
    assert_eq!(ranges(&log), [(1, 3)]);
    log.truncate_after(Some(2)).unwrap();
    log.append(vec![record(3, 2)], Box::new(|result| result.unwrap()));
    assert_eq!(ranges(&log), [(1, 2)]);
    go.send(()).unwrap();
    log.sync_barrier().unwrap();
    assert_eq!(ranges(&log), [(1, 2), (3, 3)]);
}

#[test]
fn a_second_compaction_does_not_bring_back_what_the_tail_cache_still_has() {
    let dir = tempfile::tempdir().unwrap();
    let cached = LogOptions {
        cache_bytes: 1 << 20,
        ..options()
    };
    let (log, _) = Log::open(Arc::new(OsDisk), dir.path(), cached).unwrap();
    append(&log, 1..12, 1);
    log.purge(5, Bytes::new()).unwrap();
    let keep = |fate: Fate| log.compact_segment(1, &mut |_, _| fate.clone()).unwrap();
    assert_eq!(keep(Fate::Drop).kept, 0);
    assert!(log.cached(2).is_some());
    assert_eq!(keep(Fate::Keep).kept, 0);
}
