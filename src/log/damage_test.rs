//! Damaged, cut and unsynced files: what was acknowledged is recovered or refused, and nothing else comes back.

use std::path::Path;
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

/// A log whose process died, so that nothing vouches for its last group.
fn write(dir: &Path, records: std::ops::Range<u64>) -> std::path::PathBuf {
    let (log, _) = open(dir).unwrap();
    for index in records {
        log.append(vec![record(index)], Box::new(|result| result.unwrap()));
        log.sync_barrier().unwrap();
    }
    drop(log);
    dir.join(format!("{:020}.seg", 1))
}

/// Says how many records are there; all are right.
fn check(log: &Log) -> u64 {
    let last = log.last_index().unwrap_or(0);
    for index in 1..=last {
        assert_eq!(log.get(index).unwrap(), record(index));
    }
    last
}

#[test]
fn the_newest_segment_cut_at_any_byte_is_recovered_up_to_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), 1..6);
    let whole = std::fs::read(&path).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for len in (4096..whole.len()).rev().filter(|len| len - 4096 < 700) {
        std::fs::write(&path, &whole[..len]).unwrap();
        let (log, _) = open(dir.path()).unwrap();
        seen.insert(check(&log));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn any_flipped_byte_is_recovered_or_refused_by_name_and_never_wrong_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), 1..6);
    let whole = std::fs::read(&path).unwrap();
    let (mut refused, mut cut) = (0, 0);
    for at in 0..4096 + 600 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        std::fs::write(&path, &bytes).unwrap();
        match open(dir.path()) {
            Ok((log, _)) if check(&log) < 5 => cut += 1,
            Ok(_) => {}
            Err(LogError::Damaged { path: named, .. }) => {
                assert_eq!(named, path);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 300 && cut < 120, "{refused} refused, {cut} cut");
}

#[test]
fn after_a_failed_sync_nothing_more_is_written() {
    let disk = FaultyDisk::new(1);
    let (log, _) = Log::open(Arc::new(disk.clone()), "/log", options()).unwrap();
    let append = |index| {
        let (tx, rx) = std::sync::mpsc::channel();
        log.append(
            vec![record(index)],
            Box::new(move |result| drop(tx.send(result))),
        );
        rx.recv().unwrap()
    };
    append(1).unwrap();
    disk.fail_syncs_after(0);
    assert!(matches!(append(2), Err(LogError::Io { .. })));
    let written = disk.writes();
    assert!(matches!(append(3), Err(LogError::Poisoned)));
    assert!(log.truncate_after(Some(1)).is_err() && log.purge(1, Bytes::new()).is_err());
    assert!(log.write_snapshot(1, b"state").is_err());
    assert_eq!(disk.writes(), written);
}

#[test]
fn a_full_disk_is_named_and_what_was_acknowledged_stays() {
    let disk = FaultyDisk::new(2);
    let (log, _) = Log::open(Arc::new(disk.clone()), "/log", options()).unwrap();
    log.append(vec![record(1)], Box::new(|result| result.unwrap()));
    log.sync_barrier().unwrap();
    disk.fill_after(0);
    log.append(vec![record(2)], Box::new(|result| assert!(result.is_err())));
    assert!(matches!(
        log.sync_barrier(),
        Err(LogError::DiskFull { .. } | LogError::Poisoned)
    ));
    let (log, _) = Log::open(Arc::new(disk.crash()), "/log", options()).unwrap();
    assert_eq!(check(&log), 1);
}

#[test]
fn a_closed_log_refuses_everything_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path()).unwrap();
    log.close().unwrap();
    let (tx, rx) = std::sync::mpsc::channel();
    let other = log.clone();
    let done = move |result| {
        // Would wait for ever if a lock were held.
        drop(other.last());
        drop(tx.send(result));
    };
    log.append(vec![record(1)], Box::new(done));
    assert!(matches!(rx.recv().unwrap(), Err(LogError::Closed)));
    assert!(matches!(log.purge(1, Bytes::new()), Err(LogError::Closed)));
    assert_eq!(log.last_index(), None);
}
