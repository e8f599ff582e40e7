use std::sync::Arc;

use bytes::Bytes;

use super::*;

fn options() -> LogOptions {
    LogOptions {
        segment_size_bytes: 16 * 1024,
        cache_bytes: 1024,
        read_cache_bytes: 4096,
        direct: true,
        spare_segments: 1,
        host: None,
    }
}

fn record(index: u64) -> Record {
    Record {
        index,
        meta: Bytes::copy_from_slice(&index.to_le_bytes()),
        payload: Bytes::from(vec![index as u8; 500]),
    }
}

fn append(log: &Log, range: std::ops::Range<u64>) {
    for index in range {
        log.append(vec![record(index)], Box::new(|result| result.unwrap()));
    }
    log.sync_barrier().unwrap();
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(Arc::new(OsDisk), dir.path(), options()).unwrap();
    log.save_hard_state(
        Bytes::from_static(b"vote"),
        Box::new(|result| result.unwrap()),
    );
    append(&log, 1..200);
    log.truncate_after(Some(150)).unwrap();
    append(&log, 151..180);
    log.purge(60, Bytes::from_static(b"p")).unwrap();
    log.close().unwrap();
    drop(log);
    let (log, recovered) = Log::open(Arc::new(OsDisk), dir.path(), options()).unwrap();
    assert_eq!(recovered.hard_state.as_deref(), Some(&b"vote"[..]));
    assert_eq!((recovered.first, recovered.last), (Some(61), Some(179)));
    for index in 1..180 {
        assert_eq!(log.get(index).unwrap(), record(index));
    }
    assert_eq!(log.read(61, 180, usize::MAX).unwrap().len(), 119);
    let first = log.segments()[0];
    let outcome = log.compact_segment(first.first, &mut |index, _| {
        if index % 2 == 0 {
            Fate::Keep
        } else {
            Fate::Drop
        }
    });
    assert!(outcome.unwrap().kept > 0);
    assert!(matches!(log.get(1), Err(LogError::Gone { .. })));
    assert_eq!(log.get(2).unwrap(), record(2));
    log.delete_segment(first.first).unwrap();
    append(&log, 180..400);
    log.close().unwrap();
    let (log, _) = Log::open(Arc::new(OsDisk), dir.path(), options()).unwrap();
    assert!(matches!(log.get(2), Err(LogError::Gone { .. })));
    assert_eq!(log.read(61, 400, usize::MAX).unwrap().len(), 339);
}
