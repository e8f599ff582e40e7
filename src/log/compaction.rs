//! The end of segments: deletion, and compaction to their survivors; and the assembly of an opened log's segments.
//!
//! Invariant: a survivor is durable in the new file before the old one goes; readers see one file or the other.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::LogError;
use super::appender::Appender;
use super::cache::ReadCache;
use super::disk::{Disk, OpenMode};
use super::read_buffers::ReadBuffers;
use super::record::{Frame, Header, Kind};
use super::recovery::{Found, Recovered};
use super::segment::{Segment, Segments, segment_path};
use super::segment_file::{GONE, START, SegmentHead};
use super::spare::Spares;
use super::stats::Counters;
use super::wal::{Log, LogOptions, READ_AHEAD, Shared, Tail};

/// What becomes of a record when its segment is compacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is.
    Keep,
    /// It goes.
    Drop,
    /// It stays with this payload.
    Replace(Bytes),
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactOutcome {
    /// Records that stayed.
    pub kept: u64,
    /// Records that went.
    pub dropped: u64,
    /// Size before, bytes.
    pub bytes_before: u64,
    /// Size after, bytes.
    pub bytes_after: u64,
}

/// Puts together what recovery found.
pub(super) fn open(
    found: Found,
    spare: Spares,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: LogOptions,
) -> Result<(Arc<Shared>, Recovered), LogError> {
    let probe = dir.join("lock");
    let file = disk
        .open(&probe, OpenMode::Write)
        .map_err(|error| LogError::io(&probe, error))?;
    let none = Segment {
        number: 0,
        salt: 0,
        first: 0,
        count: 0,
        end: START,
        cut: None,
        file,
    };
    let mut segments = Segments {
        disk: Arc::clone(&disk),
        dir: dir.clone(),
        sealed: Vec::new(),
        active: none,
        active_offsets: Vec::new(),
        loaded: Vec::new(),
    };
    let last = found.segments.len().checked_sub(1);
    let fresh = last.is_none();
    for (at, (segment, offsets)) in found.segments.into_iter().enumerate() {
        if let Some(cut) = segment.cut {
            segments.cut_sealed(cut)?;
        }
        if Some(at) == last {
            segments.active = segment;
            segments.active_offsets = offsets.unwrap_or_default();
        } else if segment.count > 0 {
            if let Some(offsets) = offsets {
                segments.write_index(&segment, &offsets, false)?;
            }
            segments.sealed.push(segment);
        }
    }
    let tail = Tail::recovered(options.cache_bytes, &found.recovered);
    let shared = Arc::new(Shared {
        cache: Mutex::new(ReadCache::new(options.read_cache_bytes)),
        disk,
        dir,
        options,
        tail: RwLock::new(tail),
        segments: Mutex::new(segments),
        buffers: ReadBuffers::new(READ_AHEAD),
        counters: Counters::default(),
        poisoned: AtomicBool::new(false),
        spare,
        upkeep: Mutex::new(()),
    });
    if fresh {
        shared.first_segment()?;
    }
    Ok((shared, found.recovered))
}

impl Log {
    fn sealed(&self, first: u64) -> Result<Segment, LogError> {
        let purged = self.purged().map(|(purged, _)| purged);
        let segments = self.shared().segments.lock();
        let found = segments.sealed.iter().find(|one| one.first == first);
        let found = found.filter(|one| purged.is_some_and(|purged| one.info(true).last <= purged));
        found.cloned().ok_or(LogError::SegmentInUse { first })
    }

    /// Deletes a sealed segment whose records are all purged; its file becomes a spare. Waits for the purge mark to be
    /// durable. Blocks.
    ///
    /// # Errors
    /// [`LogError::SegmentInUse`], [`LogError::Io`].
    pub fn delete_segment(&self, first: u64) -> Result<(), LogError> {
        let shared = self.shared();
        let _alone = shared.upkeep.lock();
        let segment = self.sealed(first)?;
        self.sync_barrier()?;
        let path = segment_path(&shared.dir, segment.number);
        let failed = |error| LogError::io(&path, error);
        let mut segments = shared.segments.lock();
        segments.sealed.retain(|one| one.number != segment.number);
        shared.cache.lock().clear();
        shared.spare.give(&path).map_err(failed)?;
        segments.remove_files(segment.number)?;
        drop(segments);
        shared.disk.sync_dir(&shared.dir).map_err(failed)
    }

    /// Replaces a sealed segment whose records are all purged by those that `fate` lets live. Blocks.
    ///
    /// # Errors
    /// [`LogError::SegmentInUse`]; [`LogError::Damaged`] if a record cannot be read, the segment is then as before.
    pub fn compact_segment(
        &self,
        first: u64,
        fate: &mut dyn FnMut(u64, &Bytes) -> Fate,
    ) -> Result<CompactOutcome, LogError> {
        let shared = self.shared();
        let _alone = shared.upkeep.lock();
        let old = self.sealed(first)?;
        self.sync_barrier()?;
        let path = segment_path(&shared.dir, old.number);
        let aside = path.with_extension("aside");
        let failed = |error| LogError::io(&path, error);
        let file = shared.disk.open(&aside, OpenMode::Write).map_err(failed)?;
        let mut head = SegmentHead {
            number: old.number,
            salt: rand::random(),
            compacted: true,
            previous_end: 0,
            first: old.first,
            count: old.count,
            end: 0,
        };
        let nonce = rand::random();
        let mut out = Appender::new(Arc::clone(&file));
        out.put(&head.encode()).map_err(failed)?;
        let frame = Frame {
            nonce,
            durable: START,
        };
        out.put(&frame.encode(head.salt, START)).map_err(failed)?;
        let mut offsets = Vec::new();
        let mut outcome = CompactOutcome {
            bytes_before: old.end,
            ..CompactOutcome::default()
        };
        for index in old.first..old.first + old.count {
            let record = match self.get(index) {
                Err(LogError::Gone { .. }) => None,
                other => Some(other?),
            };
            let survivor = record.and_then(|record| match fate(index, &record.payload) {
                Fate::Keep => Some((record.meta, record.payload)),
                Fate::Replace(payload) => Some((record.meta, payload)),
                Fate::Drop => None,
            });
            let Some((meta, payload)) = survivor else {
                offsets.push(GONE);
                outcome.dropped += 1;
                continue;
            };
            let at = u32::try_from(out.end()).map_err(|_| LogError::TooLarge { index })?;
            let header = Header::encode(Kind::Entry, index, &meta, &payload, nonce, head.salt);
            for part in [&header[..], &meta, &payload] {
                out.put(part).map_err(failed)?;
            }
            offsets.push(at);
            outcome.kept += 1;
        }
        out.commit().map_err(failed)?;
        head.end = out.end();
        outcome.bytes_after = head.end;
        file.write_at(&head.encode(), 0).map_err(failed)?;
        file.sync().map_err(failed)?;
        let reader = shared.disk.open(&aside, OpenMode::Read).map_err(failed)?;
        let new = Segment {
            salt: head.salt,
            end: head.end,
            file: reader,
            ..old
        };
        let mut segments = shared.segments.lock();
        shared.disk.rename(&aside, &path).map_err(failed)?;
        shared.disk.sync_dir(&shared.dir).map_err(failed)?;
        segments.write_index(&new, &offsets, false)?;
        segments.remember(new.number, Arc::new(offsets));
        if let Some(place) = segments
            .sealed
            .iter_mut()
            .find(|one| one.number == new.number)
        {
            *place = new;
        }
        shared.cache.lock().clear();
        Ok(outcome)
    }

    /// Makes a spare segment if one is missing; for a thread that may wait for the disk.
    ///
    /// # Errors
    /// [`LogError::DiskFull`], [`LogError::Io`].
    pub fn fill_spares(&self) -> Result<(), LogError> {
        let shared = self.shared();
        shared
            .spare
            .fill()
            .map_err(|error| LogError::io(&shared.dir, error))
    }
}
