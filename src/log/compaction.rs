//! The end of segments: deletion, and compaction to their survivors; and the assembly of an opened log's segments.
//!
//! Invariant: a survivor is durable in the new file before the old one goes; readers see one file or the other.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::LogError;
use super::appender::Appender;
use super::cache::ReadCache;
use super::disk::{Disk, OpenMode, aside, or_poison, read_exact};
use super::options::LogOptions;
use super::read_buffers::ReadBuffers;
use super::reading::READ_AHEAD;
use super::record::{Frame, Header, Kind};
use super::recovery::{Found, Recovered};
use super::segment::{Segment, Segments, segment_path};
use super::segment_file::{GONE, START, SegmentHead};
use super::spare::Spares;
use super::stats::Counters;
use super::wal::{Log, Shared, Tail};
use super::writer::begin;

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
    let mut all = found.segments;
    let (active, active_offsets, began) = match all.pop() {
        Some((segment, offsets)) => (segment, offsets.unwrap_or_default(), None),
        None => {
            let (segment, file) = begin(&*disk, &dir, options.direct, &spare, 1, START)?;
            (segment, Vec::new(), Some(file))
        }
    };
    drop(began);
    let poisoned = Arc::new(AtomicBool::new(false));
    let mut segments = Segments {
        disk: Arc::clone(&disk),
        dir: dir.clone(),
        sealed: Vec::new(),
        poisoned: Arc::clone(&poisoned),
        active,
        active_offsets,
        loaded: Vec::new(),
    };
    // What was read may so far be in the page cache only, and files go because of it.
    segments.sync_active()?;
    let mut empty = Vec::new();
    let mut cut_any = segments.active.cut.is_some();
    for (segment, offsets) in all {
        segments.cut_sealed(segment.lowest())?;
        cut_any |= segment.cut.is_some();
        if segment.count > 0 {
            if let Some(offsets) = offsets {
                segments.write_index(&segment, &offsets, false)?;
            }
            segments.sealed.push(segment);
        } else {
            empty.push(segment.number);
        }
    }
    segments.cut_sealed(segments.active.lowest())?;
    complete(&segments, &found.recovered, &empty, cut_any)?;
    // Without a purge mark the first file must be there, to tell a log's beginning from a lost one.
    if found.recovered.purged.is_some() {
        for number in empty {
            segments.remove_files(number)?;
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
        poisoned,
        spare: Arc::new(spare),
        upkeep: Mutex::new(()),
    });
    Ok((shared, found.recovered))
}

/// Refuses a log of which a segment that Raft may need is not there.
fn complete(
    segments: &Segments,
    recovered: &Recovered,
    empty: &[u64],
    cut: bool,
) -> Result<(), LogError> {
    let all: Vec<_> = segments.sealed.iter().chain([&segments.active]).collect();
    let purged = recovered.purged.as_ref().map(|(index, _)| *index);
    let oldest = all
        .iter()
        .map(|one| one.number)
        .chain(empty.iter().copied());
    let oldest = oldest.min().unwrap_or(1);
    let lost = |number, first, last| {
        Err(LogError::Damaged {
            path: segment_path(&segments.dir, number),
            offset: 0,
            first,
            last,
        })
    };
    let mut next = match purged {
        Some(purged) => purged + 1,
        // A truncation may have removed the first file.
        None if oldest > 1 && !cut => return lost(1, 0, u64::MAX),
        None => 0,
    };
    let mut before = 0;
    for one in all.into_iter().filter(|one| one.count > 0) {
        // The very first record may have any index.
        if one.first > next && (purged.is_some() || next > 0) {
            return lost(before + 1, next, one.first - 1);
        }
        next = next.max(one.first + one.count);
        before = one.number;
    }
    // A truncation that nothing follows tells where the log ends.
    let active = &segments.active;
    let end = active.cut.filter(|_| active.count == 0);
    match end.filter(|end| *end > next && (purged.is_some() || next > 0)) {
        Some(end) => lost(before + 1, next, end - 1),
        None => Ok(()),
    }
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
        self.sync_barrier()?;
        // Only now: what was truncated before may have taken the segment away.
        let segment = self.sealed(first)?;
        let path = segment_path(&shared.dir, segment.number);
        let failed = |error| LogError::io(&path, error);
        let mut segments = shared.segments.lock();
        segments.sealed.retain(|one| one.number != segment.number);
        shared.cache.lock().clear();
        shared.spare.give(&path).map_err(failed)?;
        segments.remove_files(segment.number)?;
        drop(segments);
        or_poison(shared.disk.sync_dir(&shared.dir), &shared.poisoned).map_err(failed)
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
        self.sync_barrier()?;
        let old = self.sealed(first)?;
        let path = segment_path(&shared.dir, old.number);
        let aside = aside(&path);
        let failed = |error| LogError::io(&path, error);
        let block = read_exact(&*old.file, 64, 0).map_err(failed)?;
        let before = SegmentHead::decode(&block).map_or(0, |head| head.previous_end);
        self.discard_aside(&aside)?;
        let file = shared.disk.open(&aside, OpenMode::Write).map_err(failed)?;
        let mut head = SegmentHead {
            number: old.number,
            salt: rand::random(),
            compacted: true,
            previous_end: before,
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
            // Past the caches: they may still have what an earlier compaction dropped.
            let record = match self.load(index) {
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
        or_poison(out.commit(), &shared.poisoned).map_err(failed)?;
        head.end = out.end();
        outcome.bytes_after = head.end;
        file.write_at(&head.encode(), 0).map_err(failed)?;
        or_poison(file.sync(), &shared.poisoned).map_err(failed)?;
        let reader = shared.disk.open(&aside, OpenMode::Read).map_err(failed)?;
        let new = Segment {
            salt: head.salt,
            end: head.end,
            file: reader,
            ..old
        };
        let mut segments = shared.segments.lock();
        shared.disk.rename(&aside, &path).map_err(failed)?;
        or_poison(shared.disk.sync_dir(&shared.dir), &shared.poisoned).map_err(failed)?;
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

    /// What a compaction that failed left behind.
    fn discard_aside(&self, aside: &Path) -> Result<(), LogError> {
        match self.shared().disk.remove(aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(LogError::io(aside, error)),
            _ => Ok(()),
        }
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
