//! The segments of a log, and where in them each record is.
//!
//! Invariants: sealed segments are in order of number and of index, none is empty, their ranges do not overlap; the
//! active one comes after them. Limits: offsets of at most [`LOADED_MAX`] sealed segments are in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::LogError;
use super::disk::{Disk, DiskFile, OpenMode, or_poison, read_exact, write_aside};
use super::record::{Frame, Header, Kind};
use super::segment_file::{DAMAGED, GONE, IndexHead};

/// Sealed segments whose offsets are kept.
const LOADED_MAX: usize = 8;

/// One segment, as upkeep sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Index of its first record.
    pub first: u64,
    /// Index of its last record.
    pub last: u64,
    /// Size of its records in bytes.
    pub bytes: u64,
    /// Whether it is no longer written.
    pub sealed: bool,
}

/// One segment.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) salt: u32,
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) end: u64,
    pub(super) cut: Option<u64>,
    pub(super) file: Arc<dyn DiskFile>,
}

impl Segment {
    pub(super) fn info(&self, sealed: bool) -> SegmentInfo {
        SegmentInfo {
            first: self.first,
            last: (self.first + self.count).saturating_sub(1),
            bytes: self.end,
            sealed,
        }
    }

    /// No earlier segment has a record from this index on.
    pub(super) fn lowest(&self) -> u64 {
        let first = (self.count > 0).then_some(self.first);
        first.into_iter().chain(self.cut).min().unwrap_or(u64::MAX)
    }

    pub(super) fn index_head(&self) -> IndexHead {
        IndexHead {
            number: self.number,
            salt: self.salt,
            first: self.first,
            count: self.count,
            end: self.end,
            cut: self.cut,
        }
    }
}

/// Where a record is.
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) salt: u32,
    /// Offsets from the record's on, as many as were asked for and are in this segment.
    pub(super) offsets: Vec<u32>,
    pub(super) end: u64,
}

/// All segments.
pub(super) struct Segments {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) poisoned: Arc<AtomicBool>,
    pub(super) sealed: Vec<Segment>,
    pub(super) active: Segment,
    pub(super) active_offsets: Vec<u32>,
    /// Least recently used first.
    pub(super) loaded: Vec<(u64, Arc<Vec<u32>>)>,
}

pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.seg"))
}

pub(super) fn index_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.idx"))
}

impl Segments {
    pub(super) fn infos(&self) -> Vec<SegmentInfo> {
        let mut all: Vec<_> = self.sealed.iter().map(|one| one.info(true)).collect();
        if self.active.count > 0 {
            all.push(self.active.info(false));
        }
        all
    }

    /// Makes durable what was read of the active segment, and the names in the folder.
    pub(super) fn sync_active(&self) -> Result<(), LogError> {
        let path = segment_path(&self.dir, self.active.number);
        let failed = |error| LogError::io(&path, error);
        or_poison(self.active.file.sync(), &self.poisoned).map_err(failed)?;
        or_poison(self.disk.sync_dir(&self.dir), &self.poisoned).map_err(failed)
    }

    /// Position of the sealed segment that holds `index`.
    pub(super) fn find(&self, index: u64) -> Option<usize> {
        let at = self.sealed.partition_point(|one| one.first <= index);
        let at = at.checked_sub(1)?;
        (index - self.sealed[at].first < self.sealed[at].count).then_some(at)
    }

    /// Where `index` and up to `count - 1` following records are.
    pub(super) fn place(&mut self, index: u64, count: usize) -> Result<Place, LogError> {
        let active = &self.active;
        if active.count > 0 && index >= active.first && index - active.first < active.count {
            let skip = (index - active.first) as usize;
            return Ok(Place {
                number: active.number,
                file: Arc::clone(&active.file),
                salt: active.salt,
                offsets: self
                    .active_offsets
                    .iter()
                    .skip(skip)
                    .take(count)
                    .copied()
                    .collect(),
                end: active.end,
            });
        }
        let at = self.find(index).ok_or(LogError::Gone { index })?;
        let offsets = self.offsets(at)?;
        let one = &self.sealed[at];
        let skip = (index - one.first) as usize;
        let offsets: Vec<u32> = offsets.iter().skip(skip).take(count).copied().collect();
        match offsets.first() {
            None | Some(&GONE) => Err(LogError::Gone { index }),
            Some(&DAMAGED) => Err(LogError::Damaged {
                path: segment_path(&self.dir, one.number),
                offset: 0,
                first: index,
                last: index,
            }),
            Some(_) => Ok(Place {
                number: one.number,
                file: Arc::clone(&one.file),
                salt: one.salt,
                offsets,
                end: one.end,
            }),
        }
    }

    /// The offsets of a sealed segment; from its side index, or by a scan if that is lost.
    pub(super) fn offsets(&mut self, at: usize) -> Result<Arc<Vec<u32>>, LogError> {
        let number = self.sealed[at].number;
        if let Some(known) = self.loaded.iter().position(|(one, _)| *one == number) {
            let entry = self.loaded.remove(known);
            let offsets = Arc::clone(&entry.1);
            self.loaded.push(entry);
            return Ok(offsets);
        }
        let offsets = match self.read_index(&self.sealed[at]) {
            Some(offsets) => offsets,
            None => {
                let offsets = super::recovery::rescan(&self.dir, &self.sealed[at])?;
                self.write_index(&self.sealed[at], &offsets, false)?;
                offsets
            }
        };
        let offsets = Arc::new(offsets);
        self.remember(number, Arc::clone(&offsets));
        Ok(offsets)
    }

    pub(super) fn remember(&mut self, number: u64, offsets: Arc<Vec<u32>>) {
        self.loaded.retain(|(one, _)| *one != number);
        self.loaded.push((number, offsets));
        if self.loaded.len() > LOADED_MAX {
            self.loaded.remove(0);
        }
    }

    fn read_index(&self, segment: &Segment) -> Option<Vec<u32>> {
        let path = index_path(&self.dir, segment.number);
        let file = self.disk.open(&path, OpenMode::Read).ok()?;
        let size = usize::try_from(file.size().ok()?).ok()?;
        let bytes = read_exact(&*file, size, 0).ok()?;
        let head = IndexHead::decode(&bytes)?;
        (head == segment.index_head()).then(|| head.offsets(&bytes))?
    }

    pub(super) fn write_index(
        &self,
        segment: &Segment,
        offsets: &[u32],
        sync: bool,
    ) -> Result<(), LogError> {
        let path = index_path(&self.dir, segment.number);
        let bytes = segment.index_head().encode(offsets);
        let sync = sync.then_some(&*self.poisoned);
        write_aside(&*self.disk, &path, &bytes, sync).map_err(|error| LogError::io(&path, error))
    }

    /// Removes records from `next` on from all segments. The mark that says so is durable.
    pub(super) fn cut(&mut self, next: u64) -> Result<(), LogError> {
        let active = &mut self.active;
        let keep = next.saturating_sub(active.first).min(active.count);
        if active.count > 0 {
            active.count = keep;
            self.active_offsets.truncate(keep as usize);
        }
        if active.count == 0 {
            active.first = next;
            active.cut = Some(active.cut.map_or(next, |cut| cut.min(next)));
        }
        self.cut_sealed(next)
    }

    /// Removes records from `next` on from sealed segments. Until it returns, the mark that says so must stay.
    pub(super) fn cut_sealed(&mut self, next: u64) -> Result<(), LogError> {
        let keep = self.sealed.partition_point(|one| one.first < next);
        let dead: Vec<u64> = self.sealed[keep..].iter().map(|one| one.number).collect();
        let last = keep.checked_sub(1);
        let over = last.filter(|at| self.sealed[*at].first + self.sealed[*at].count > next);
        if dead.is_empty() && over.is_none() {
            return Ok(());
        }
        if let Some(last) = last {
            self.note_cut(last, next)?;
        }
        if let Some(at) = over {
            let mut offsets = self.offsets(at)?.as_ref().clone();
            let one = &mut self.sealed[at];
            one.count = next - one.first;
            offsets.truncate(one.count as usize);
            // Durable, because an index of before the cut would be taken for sound.
            self.write_index(&self.sealed[at], &offsets, true)?;
            self.remember(self.sealed[at].number, Arc::new(offsets));
        }
        self.sealed.truncate(keep);
        // The newest goes first, so that what a crash leaves has no gap.
        for number in dead.iter().rev() {
            self.remove_files(*number)?;
        }
        let synced = self.disk.sync_dir(&self.dir);
        or_poison(synced, &self.poisoned).map_err(|error| LogError::io(&self.dir, error))
    }

    /// Writes a truncation behind the end of a sealed segment, where a scan finds it. One that was there before said less.
    fn note_cut(&self, at: usize, next: u64) -> Result<(), LogError> {
        let Segment {
            number, salt, end, ..
        } = self.sealed[at];
        let path = segment_path(&self.dir, number);
        let failed = |error| LogError::io(&path, error);
        let nonce = rand::random();
        let frame = Frame {
            nonce,
            durable: end,
        };
        let mut bytes = frame.encode(salt, end).to_vec();
        bytes.extend_from_slice(&Header::encode(Kind::Truncate, next, &[], &[], nonce, salt));
        let file = self.disk.open(&path, OpenMode::Write).map_err(failed)?;
        file.write_at(&bytes, end).map_err(failed)?;
        or_poison(file.sync(), &self.poisoned).map_err(failed)
    }

    pub(super) fn remove_files(&mut self, number: u64) -> Result<(), LogError> {
        self.loaded.retain(|(one, _)| *one != number);
        for path in [
            index_path(&self.dir, number),
            segment_path(&self.dir, number),
        ] {
            match self.disk.remove(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LogError::io(&path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
