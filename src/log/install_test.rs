//! A peer's log takes the place of one's own: wholly, or not at all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::faulty_disk::FaultyDisk;
use super::*;

const DIR: &str = "/log";
const UPTO: u64 = 5000;

fn options() -> LogOptions {
    LogOptions {
        segment_size_bytes: 16 * 1024,
        cache_bytes: 2048,
        read_cache_bytes: 4096,
        direct: false,
        spare_segments: 1,
        host: None,
    }
}

fn record(index: u64, size: usize) -> Record {
    Record {
        index,
        meta: Bytes::copy_from_slice(&index.to_le_bytes()),
        payload: Bytes::from(vec![index as u8; size]),
    }
}

fn open(disk: &FaultyDisk) -> Log {
    let opened = Log::open(Arc::new(disk.clone()), DIR, options());
    opened.unwrap().0
}

/// A log of its own past, with a vote and a snapshot.
fn old(disk: &FaultyDisk) -> Log {
    let log = open(disk);
    log.append(
        (1..=60).map(|index| record(index, 900)).collect(),
        Box::new(drop),
    );
    log.save_hard_state(Bytes::from_static(b"vote"), Box::new(drop));
    log.sync_barrier().unwrap();
    log.write_snapshot(30, b"old").unwrap();
    log.purge(29, Bytes::from_static(b"mark")).unwrap();
    log.sync_barrier().unwrap();
    log
}

/// What the peer sends: holes, and one record longer than a segment.
fn sent() -> BTreeMap<u64, Record> {
    let size = |index| if index == 4002 { 40_000 } else { 700 };
    let all = (100..4500).step_by(78).chain([4002, UPTO]);
    all.map(|index| (index, record(index, size(index))))
        .collect()
}

fn install(log: &Log) -> Result<(), LogError> {
    let mut staged = log.begin_install()?;
    for one in sent().values() {
        staged.push(one)?;
    }
    log.install(
        staged,
        UPTO,
        Bytes::from_static(b"new mark"),
        UPTO + 1,
        b"new",
    )
}

/// Whether the log is the new one; panics if it is neither.
fn is_new(log: &Log) -> bool {
    assert_eq!(log.hard_state().unwrap(), b"vote"[..]);
    let (name, snapshot) = log.newest_snapshot().unwrap().unwrap();
    if name == 30 {
        assert_eq!(snapshot, b"old"[..]);
        assert_eq!(log.purged().unwrap().0, 29);
        assert_eq!((log.first_index(), log.last_index()), (Some(30), Some(60)));
        for index in 30..=60 {
            assert_eq!(log.get(index).unwrap(), record(index, 900));
        }
        return false;
    }
    assert_eq!((name, &snapshot[..]), (UPTO + 1, &b"new"[..]));
    assert_eq!(
        log.purged().unwrap(),
        (UPTO, Bytes::from_static(b"new mark"))
    );
    assert_eq!(log.last_index(), None);
    let sent = sent();
    for index in 1..=UPTO {
        match sent.get(&index) {
            Some(ours) => assert_eq!(log.get(index).unwrap(), *ours),
            None => assert!(matches!(log.get(index), Err(LogError::Gone { .. }))),
        }
    }
    true
}

fn left_behind(disk: &FaultyDisk) -> Vec<String> {
    let names = disk.list(Path::new(DIR)).unwrap();
    let odd = |name: &String| name.ends_with(".staged") || name.starts_with("install");
    names.into_iter().filter(odd).collect()
}

#[test]
fn an_installed_log_is_read_goes_on_behind_its_mark_and_comes_back() {
    let disk = FaultyDisk::new(1);
    let log = old(&disk);
    install(&log).unwrap();
    assert!(is_new(&log));
    assert!(log.segments().len() > 3, "{:?}", log.segments());
    assert_eq!(left_behind(&disk), Vec::<String>::new());
    log.append(vec![record(UPTO + 1, 10)], Box::new(drop));
    log.sync_barrier().unwrap();
    log.close().unwrap();
    let log = open(&disk.crash());
    assert_eq!(log.last_index(), Some(UPTO + 1));
    assert_eq!(log.get(UPTO + 1).unwrap(), record(UPTO + 1, 10));
    assert_eq!(log.get(4002).unwrap(), record(4002, 40_000));
    assert_eq!(log.hard_state().unwrap(), b"vote"[..]);
}

#[test]
fn an_empty_log_can_be_installed_into_a_fresh_one() {
    let disk = FaultyDisk::new(2);
    let log = open(&disk);
    let staged = log.begin_install().unwrap();
    let mark = Bytes::from_static(b"mark");
    log.install(staged, 7, mark, 8, b"state").unwrap();
    log.append(vec![record(8, 10)], Box::new(drop));
    log.close().unwrap();
    let log = open(&disk.crash());
    assert_eq!(log.purged().unwrap().0, 7);
    assert_eq!(log.last_index(), Some(8));
}

#[test]
fn a_transfer_that_breaks_off_leaves_the_old_log_and_no_file() {
    let disk = FaultyDisk::new(3);
    let log = old(&disk);
    let mut staged = log.begin_install().unwrap();
    assert!(matches!(log.begin_install(), Err(LogError::Installing)));
    for one in sent().values() {
        staged.push(one).unwrap();
    }
    let backwards = staged.push(&record(3, 1)).unwrap_err();
    assert!(matches!(backwards, LogError::NotContiguous { .. }));
    assert_ne!(left_behind(&disk), Vec::<String>::new());
    drop(staged);
    assert_eq!(left_behind(&disk), Vec::<String>::new());
    assert!(!is_new(&log));
    install(&log).unwrap();
    assert!(is_new(&log));
}

#[test]
fn a_crash_in_the_middle_of_a_transfer_leaves_the_old_log_and_no_file() {
    for seed in 0..20 {
        let disk = FaultyDisk::new(seed);
        let log = old(&disk);
        let mut staged = log.begin_install().unwrap();
        for one in sent().values().take(seed as usize * 3) {
            staged.push(one).unwrap();
        }
        let disk = disk.crash();
        drop(staged);
        let log = open(&disk);
        assert!(!is_new(&log));
        assert_eq!(left_behind(&disk), Vec::<String>::new());
    }
}

#[test]
fn a_crash_at_any_sync_of_an_install_gives_the_old_log_or_the_new_one() {
    let mut seen = [0, 0];
    for seed in 0..6 {
        for syncs in 0.. {
            let disk = FaultyDisk::new(seed * 1000 + syncs);
            let log = old(&disk);
            disk.fail_syncs_after(syncs);
            let done = install(&log).is_ok();
            let disk = disk.crash();
            drop(log);
            let log = open(&disk);
            let new = is_new(&log);
            assert!(new || !done, "acknowledged and lost");
            assert_eq!(left_behind(&disk), Vec::<String>::new());
            // Once more, and once more opened.
            install(&log).unwrap();
            drop(log);
            assert!(is_new(&open(&disk.crash())));
            seen[usize::from(new)] += 1;
            if done {
                break;
            }
        }
    }
    assert!(seen[0] > 20 && seen[1] > 6, "{seen:?}");
}

#[test]
fn a_disk_that_fills_during_an_install_leaves_the_old_log_or_the_new_one() {
    for writes in 0.. {
        let disk = FaultyDisk::new(writes);
        let log = old(&disk);
        disk.fill_after(writes);
        let done = install(&log).is_ok();
        let disk = disk.crash();
        drop(log);
        assert_eq!(is_new(&open(&disk)), done);
        if done {
            break;
        }
    }
}

#[test]
fn survivors_are_read_across_segments_and_holes_as_many_as_asked_for() {
    let disk = FaultyDisk::new(5);
    let log = old(&disk);
    install(&log).unwrap();
    log.append(
        vec![record(UPTO + 1, 10), record(UPTO + 2, 10)],
        Box::new(drop),
    );
    log.sync_barrier().unwrap();
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let some = log.survivors(from, UPTO + 2, 3000).unwrap();
        let Some(last) = some.last() else {
            break;
        };
        assert!(some.len() <= 4);
        from = last.index + 1;
        all.extend(some);
    }
    let mut ours: Vec<_> = sent().into_values().collect();
    ours.push(record(UPTO + 1, 10));
    assert_eq!(all, ours);
}
