//! A damaged sealed segment is made whole with a peer's records, before the log is opened and while it is open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::repair::Repair;
use super::*;

const RECORDS: u64 = 200;

fn options() -> LogOptions {
    LogOptions {
        segment_size_bytes: 8 * 1024,
        cache_bytes: 0,
        read_cache_bytes: 0,
        direct: false,
        spare_segments: 0,
        host: None,
    }
}

fn record(index: u64) -> Record {
    Record {
        index,
        meta: Bytes::copy_from_slice(&index.to_le_bytes()),
        payload: Bytes::from(vec![index as u8; 40]),
    }
}

fn open(dir: &Path) -> Result<(Log, Recovered), LogError> {
    Log::open(Arc::new(OsDisk), dir, options())
}

/// A log of several segments that was closed in order; the paths of all but the newest.
fn write(dir: &Path, purged: Option<u64>) -> Vec<PathBuf> {
    let (log, _) = open(dir).unwrap();
    log.save_hard_state(
        Bytes::from_static(b"vote"),
        Box::new(|result| result.unwrap()),
    );
    for index in 1..=RECORDS {
        log.append(vec![record(index)], Box::new(|result| result.unwrap()));
        log.sync_barrier().unwrap();
    }
    if let Some(purged) = purged {
        log.purge(purged, Bytes::from_static(b"mark")).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|one| one == "seg"))
        .collect();
    paths.sort();
    paths.pop();
    assert!(paths.len() >= 3, "{paths:?}");
    paths
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x20;
    std::fs::write(path, bytes).unwrap();
}

fn number(path: &Path) -> u64 {
    path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}

fn had(repair: &Repair) -> BTreeMap<u64, Record> {
    repair
        .wanted()
        .iter()
        .map(|index| (*index, record(*index)))
        .collect()
}

fn check(log: &Log) {
    assert_eq!(log.last_index(), Some(RECORDS));
    for index in 1..=RECORDS {
        assert_eq!(log.get(index).unwrap(), record(index));
    }
    assert_eq!(log.hard_state(), Some(Bytes::from_static(b"vote")));
}

#[test]
fn a_sealed_segment_damaged_anywhere_is_repaired_before_the_log_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write(dir.path(), None);
    let mut repaired = 0;
    for path in &paths {
        let whole = std::fs::read(path).unwrap();
        let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for at in (4096..used).step_by(37) {
            flip(path, at);
            let refused = match open(dir.path()) {
                // Nothing of ours stands there.
                Ok((log, _)) => {
                    check(&log);
                    drop(log);
                    std::fs::write(path, &whole).unwrap();
                    continue;
                }
                Err(error) => error,
            };
            assert!(matches!(refused, LogError::Damaged { .. }), "{refused}");
            let repair = Repair::of(Arc::new(OsDisk), dir.path(), number(path)).unwrap();
            // The first write of the first segment says where the log begins, and nothing stands before it.
            let Some(repair) = repair else {
                assert_eq!(path, &paths[0], "byte {at}");
                std::fs::write(path, &whole).unwrap();
                continue;
            };
            assert!(repair.wanted().len() < 4, "{at}: {:?}", repair.wanted());
            let made = repair.write(&had(&repair)).unwrap();
            made.put(&OsDisk, dir.path()).unwrap();
            let (log, recovered) = open(dir.path()).unwrap();
            assert!(recovered.damages.is_empty());
            check(&log);
            drop(log);
            repaired += 1;
            std::fs::write(path, &whole).unwrap();
        }
    }
    assert!(repaired > 100, "{repaired}");
}

#[test]
fn a_record_that_raft_needs_and_nobody_has_leaves_the_segment_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write(dir.path(), None);
    flip(&paths[1], 4096 + 200);
    let before = std::fs::read(&paths[1]).unwrap();
    let repair = Repair::of(Arc::new(OsDisk), dir.path(), number(&paths[1])).unwrap();
    let repair = repair.unwrap();
    let first = repair.wanted()[0];
    let Err(error) = repair.write(&BTreeMap::new()) else {
        panic!("written without its records");
    };
    assert!(matches!(error, LogError::Missing { index } if index == first));
    assert_eq!(std::fs::read(&paths[1]).unwrap(), before);
}

#[test]
fn an_open_log_gets_its_damaged_segment_back_while_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write(dir.path(), Some(RECORDS - 1));
    let (log, _) = open(dir.path()).unwrap();
    flip(&paths[1], 4096 + 200);
    let damaged = (1..=RECORDS)
        .find(|index| log.get(*index).is_err())
        .unwrap();
    let segment = log.sealed_segment(damaged).unwrap();
    assert_eq!(segment, number(&paths[1]));
    let (disk, place) = log.place_on_disk();
    let repair = Repair::of(disk, &place, segment).unwrap().unwrap();
    assert!(repair.range().contains(&damaged));
    assert!(!repair.must_have(damaged), "it is below the purge mark");
    log.put_repaired(repair.write(&had(&repair)).unwrap())
        .unwrap();
    check(&log);
    drop(log);
    let (log, recovered) = open(dir.path()).unwrap();
    assert!(recovered.damages.is_empty());
    check(&log);
}

#[test]
fn a_compacted_segment_is_repaired_and_what_it_dropped_stays_away() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write(dir.path(), Some(RECORDS - 1));
    let (log, _) = open(dir.path()).unwrap();
    let first = log.segments()[1].first;
    let last = log.segments()[1].last;
    log.compact_segment(first, &mut |index, _| match index % 2 {
        0 => Fate::Keep,
        _ => Fate::Drop,
    })
    .unwrap();
    log.close().unwrap();
    drop(log);
    flip(&paths[1], 4096 + 60);
    let repair = Repair::of(Arc::new(OsDisk), dir.path(), number(&paths[1])).unwrap();
    let repair = repair.unwrap();
    assert!(repair.wanted().iter().all(|index| index % 2 == 0));
    assert_eq!(repair.wanted().len(), 1);
    let made = repair.write(&had(&repair)).unwrap();
    made.put(&OsDisk, dir.path()).unwrap();
    let (log, _) = open(dir.path()).unwrap();
    for index in first..=last {
        assert_eq!(log.get(index).is_ok(), index % 2 == 0, "{index}");
    }
}
