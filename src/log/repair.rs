//! A damaged sealed segment, made whole with records that are had from elsewhere.
//!
//! Need: a replica with damage below what its peers have committed need not be thrown away, and one that must give up
//! only because of it could have been mended.
//! Shape: [`Repair::of`] reads the damaged file and its neighbours and says which records are wanted. [`Repair::write`]
//! writes what is sound there and what was had into a compacted segment beside it: that form names its own range and
//! end, so no neighbour changes. It takes the damaged one's place before the log is opened ([`Repaired::put`]), or under
//! one that is open ([`Log::put_repaired`]).
//!
//! | found | done |
//! | --- | --- |
//! | the first block does not check out, or the segment is the newest | refused |
//! | no later segment holds the hard state | refused: the damaged one may hold the last vote |
//! | damage at the begin or the end, and no sound neighbour that says what should be there | refused |
//! | damage otherwise | the records between the sound ones around it are wanted |
//!
//! Invariants: the caller vouches that all of the segment's range is committed, because a compacted segment is never
//! cut; a sound record stays as it is; a crash leaves the one file or the other.
//! Limits: the file is in memory while it is repaired.
//! Not here: where records come from.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use super::LogError;
use super::appender::Appender;
use super::disk::{Disk, OpenMode, aside, or_poison, read_exact};
use super::reading::parse;
use super::record::{Frame, Header, Kind, Record};
use super::recovery::{Scan, scan};
use super::segment::{Segment, index_path, segment_path};
use super::segment_file::{DAMAGED, GONE, IndexHead, START, SegmentHead};
use super::wal::Log;

/// See the module's head.
pub struct Repair {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    head: SegmentHead,
    bytes: Bytes,
    range: Range<u64>,
    /// Where the sound records are.
    sound: BTreeMap<u64, u32>,
    wanted: Vec<u64>,
    purged: Option<u64>,
}

/// A repaired segment, not in its place yet.
pub struct Repaired {
    head: SegmentHead,
    /// Salt of the file it stands for.
    of_salt: u32,
    offsets: Vec<u32>,
    path: PathBuf,
    aside: PathBuf,
}

/// One file, read from end to end.
struct Whole {
    head: SegmentHead,
    bytes: Vec<u8>,
    scan: Scan,
}

impl Whole {
    fn read(
        disk: &dyn Disk,
        dir: &Path,
        number: u64,
        end: Option<u64>,
    ) -> Result<Option<Self>, LogError> {
        let path = segment_path(dir, number);
        let failed = |error| LogError::io(&path, error);
        let file = disk.open(&path, OpenMode::Read).map_err(failed)?;
        let size = usize::try_from(file.size().map_err(failed)?).unwrap_or(usize::MAX);
        let bytes = read_exact(&*file, size, 0).map_err(failed)?;
        let head = SegmentHead::decode(&bytes).filter(|head| head.number == number);
        Ok(head.map(|head| {
            let end = if head.compacted { Some(head.end) } else { end };
            let scan = scan(&bytes, &head, end);
            Self { head, bytes, scan }
        }))
    }

    fn next(&self) -> u64 {
        self.scan.first + self.scan.offsets.len() as u64
    }

    /// Indexes and places of its sound records.
    fn sound(&self) -> Vec<(u64, u32)> {
        let records = (self.scan.first..).zip(self.scan.offsets.iter().copied());
        records
            .filter(|(_, at)| *at != GONE && *at != DAMAGED)
            .collect()
    }

    /// Whether damage comes before the first sound record.
    fn begins_damaged(&self) -> bool {
        let first = self.sound().first().map_or(u32::MAX, |(_, at)| *at);
        self.scan
            .damage_offsets()
            .any(|offset| offset < u64::from(first))
    }

    /// Whether damage comes after the last sound record.
    fn ends_damaged(&self) -> bool {
        let last = self.sound().last().map_or(0, |(_, at)| *at);
        self.scan
            .damage_offsets()
            .any(|offset| offset > u64::from(last))
    }

    /// The first index it says something of.
    fn lowest(&self) -> Option<u64> {
        let first = (!self.scan.offsets.is_empty()).then_some(self.scan.first);
        first.into_iter().chain(self.scan.cut).min()
    }
}

/// What the segments after a damaged one say.
#[derive(Default)]
struct After {
    lowest: Option<u64>,
    hard_state: bool,
    purged: Option<u64>,
}

/// Numbers of the segments in a folder, in order.
fn numbers(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, LogError> {
    let names = disk.list(dir).map_err(|error| LogError::io(dir, error))?;
    let number = |name: &String| name.strip_suffix(".seg")?.parse().ok();
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

impl After {
    fn read(disk: &dyn Disk, dir: &Path, later: &[u64]) -> Result<Self, LogError> {
        let mut after = Self::default();
        for number in later {
            if after.lowest.is_some() && after.hard_state {
                break;
            }
            // One without a head was begun and never written to.
            let Some(one) = Whole::read(disk, dir, *number, None)? else {
                continue;
            };
            if after.lowest.is_none() && one.begins_damaged() {
                return Ok(Self::default());
            }
            after.lowest = after.lowest.or(one.lowest());
            after.hard_state |= !one.head.compacted && one.scan.hard_state.is_some();
        }
        // Whoever was written to begins with both marks; the last purge mark is the newest's.
        for number in later.iter().rev() {
            let one = Whole::read(disk, dir, *number, None)?;
            if let Some(one) = one.filter(|one| one.scan.hard_state.is_some()) {
                after.purged = one.scan.purged.map(|(index, _)| index);
                break;
            }
        }
        Ok(after)
    }
}

impl Repair {
    /// What segment `number` of the log in `dir` lacks; `None` if it cannot be repaired. Blocks.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn of(disk: Arc<dyn Disk>, dir: &Path, number: u64) -> Result<Option<Self>, LogError> {
        let all = numbers(&*disk, dir)?;
        let at = all.partition_point(|one| *one < number);
        let (_, later) = match all.get(at..).and_then(<[u64]>::split_first) {
            Some((found, later)) if *found == number => (found, later),
            _ => return Ok(None),
        };
        let known_end = match later.first() {
            Some(next) if *next == number + 1 => {
                let next = Whole::read(&*disk, dir, *next, None)?;
                next.map(|next| next.head.previous_end)
            }
            _ => None,
        };
        let Some(one) = Whole::read(&*disk, dir, number, known_end)? else {
            return Ok(None);
        };
        let after = After::read(&*disk, dir, later)?;
        if !after.hard_state {
            return Ok(None);
        }
        let before = match all[..at].last() {
            Some(before) if one.begins_damaged() && !one.head.compacted => {
                Whole::read(&*disk, dir, *before, None)?
            }
            _ => None,
        };
        let Some(range) = range(&one, before.as_ref(), after.lowest) else {
            return Ok(None);
        };
        let side = side_index(&*disk, dir, &one.head);
        let head = one.head;
        // A compacted segment has one frame, so a scan ends at its first damage; the side index knows the rest.
        let known = side.as_ref().map_or_else(Vec::new, |(side, offsets)| {
            let known = (side.first..).zip(offsets.iter().copied());
            known.filter(|(_, at)| *at > DAMAGED).collect()
        });
        let scanned = one.sound();
        let bytes = Bytes::from(one.bytes);
        let mut sound: BTreeMap<u64, u32> = scanned.into_iter().collect();
        for (index, at) in known {
            if parse(&bytes, at as usize, index, head.salt).is_ok() {
                sound.entry(index).or_insert(at);
            }
        }
        sound.retain(|index, _| range.contains(index));
        let dropped = |index: &u64| {
            let (side, offsets) = side.as_ref()?;
            let at = usize::try_from(index.checked_sub(side.first)?).ok()?;
            offsets.get(at).filter(|at| **at == GONE)
        };
        let missing = range.clone().filter(|index| !sound.contains_key(index));
        let wanted = missing.filter(|index| dropped(index).is_none()).collect();
        Ok(Some(Self {
            dir: dir.to_owned(),
            head,
            bytes,
            range,
            sound,
            wanted,
            purged: after.purged,
            disk,
        }))
    }

    /// The indexes it stands for.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Indexes of the records that must come from elsewhere, ascending. A compacted segment may never have had some.
    #[must_use]
    pub fn wanted(&self) -> &[u64] {
        &self.wanted
    }

    /// Whether the log needs a record of `index` for Raft; what is at or below the purge mark may be gone everywhere.
    #[must_use]
    pub fn must_have(&self, index: u64) -> bool {
        !self.head.compacted && self.purged.is_none_or(|purged| index > purged)
    }

    /// Writes the repaired segment beside the damaged one. Blocks.
    ///
    /// # Errors
    /// [`LogError::Missing`] for a record that is wanted for Raft and not in `had`; [`LogError::Io`].
    pub fn write(&self, had: &BTreeMap<u64, Record>) -> Result<Repaired, LogError> {
        let path = segment_path(&self.dir, self.head.number);
        let aside = aside(&path);
        let failed = |error| LogError::io(&path, error);
        match self.disk.remove(&aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let file = self.disk.open(&aside, OpenMode::Write).map_err(failed)?;
        let mut head = SegmentHead {
            salt: rand::random(),
            compacted: true,
            first: self.range.start,
            count: self.range.end - self.range.start,
            end: 0,
            ..self.head
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
        for index in self.range.clone() {
            let own = self.sound.get(&index);
            let own =
                own.and_then(|at| parse(&self.bytes, *at as usize, index, self.head.salt).ok());
            let Some(record) = own.or_else(|| had.get(&index).cloned()) else {
                if self.must_have(index) {
                    return Err(LogError::Missing { index });
                }
                offsets.push(GONE);
                continue;
            };
            let at = u32::try_from(out.end()).map_err(|_| LogError::TooLarge { index })?;
            let (meta, payload) = (&record.meta, &record.payload);
            let header = Header::encode(Kind::Entry, index, meta, payload, nonce, head.salt);
            for part in [&header[..], meta, payload] {
                out.put(part).map_err(failed)?;
            }
            offsets.push(at);
        }
        out.commit().map_err(failed)?;
        head.end = out.end();
        file.write_at(&head.encode(), 0).map_err(failed)?;
        file.sync().map_err(failed)?;
        Ok(Repaired {
            head,
            of_salt: self.head.salt,
            offsets,
            path,
            aside,
        })
    }
}

/// The indexes that `one` should hold.
fn range(one: &Whole, before: Option<&Whole>, after: Option<u64>) -> Option<Range<u64>> {
    if one.head.compacted {
        return Some(one.head.first..one.head.first.checked_add(one.head.count)?);
    }
    let first = one.sound().first().map(|(index, _)| *index);
    let start = match one.begins_damaged() {
        false => first?,
        true => {
            let before = before.filter(|before| before.scan.damage_offsets().next().is_none())?;
            let next = match before.head.compacted {
                true => before.head.first + before.head.count,
                false => before.next(),
            };
            (first.is_none_or(|first| next <= first)).then_some(next)?
        }
    };
    let end = match one.ends_damaged() {
        false => one.next().min(after.unwrap_or(u64::MAX)),
        true => after?,
    };
    // More than a file can hold is no range but another damage.
    let room = (one.bytes.len() / super::record::HEADER_SIZE) as u64;
    (start < end && end - start <= room).then_some(start..end)
}

/// The side index of the segment, if it is of this life of it.
fn side_index(disk: &dyn Disk, dir: &Path, head: &SegmentHead) -> Option<(IndexHead, Vec<u32>)> {
    let path = index_path(dir, head.number);
    let file = disk.open(&path, OpenMode::Read).ok()?;
    let size = usize::try_from(file.size().ok()?).ok()?;
    let bytes = read_exact(&*file, size, 0).ok()?;
    let side = IndexHead::decode(&bytes).filter(|side| side.salt == head.salt)?;
    let offsets = side.offsets(&bytes)?;
    Some((side, offsets))
}

impl Repaired {
    /// Takes the damaged file's place in a log that is not open. Blocks.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn put(self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        let failed = |error| LogError::io(&self.path, error);
        disk.rename(&self.aside, &self.path).map_err(failed)?;
        match disk.remove(&index_path(dir, self.head.number)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        disk.sync_dir(dir).map_err(failed)
    }
}

impl Log {
    /// Number of the sealed segment that holds `index`, if one does.
    #[must_use]
    pub fn sealed_segment(&self, index: u64) -> Option<u64> {
        let segments = self.shared().segments.lock();
        segments.find(index).map(|at| segments.sealed[at].number)
    }

    /// The disk and the folder of this log, for [`Repair::of`].
    #[must_use]
    pub fn place_on_disk(&self) -> (Arc<dyn Disk>, PathBuf) {
        (Arc::clone(&self.shared().disk), self.shared().dir.clone())
    }

    /// Puts a repaired segment in the place of the damaged one. Blocks.
    ///
    /// # Errors
    /// [`LogError::SegmentInUse`] if the segment changed meanwhile; [`LogError::Io`].
    pub fn put_repaired(&self, repaired: Repaired) -> Result<(), LogError> {
        let shared = self.shared();
        let _alone = shared.upkeep.lock();
        let failed = |error| LogError::io(&repaired.path, error);
        let head = &repaired.head;
        let mut segments = shared.segments.lock();
        let same = |one: &Segment| {
            one.number == head.number
                && one.salt == repaired.of_salt
                && (one.first, one.count) == (head.first, head.count)
        };
        let Some(at) = segments.sealed.iter().position(same) else {
            let first = head.first;
            return Err(LogError::SegmentInUse { first });
        };
        let poisoned: &AtomicBool = &shared.poisoned;
        let file = shared.disk.open(&repaired.aside, OpenMode::Read);
        let file = file.map_err(failed)?;
        let renamed = shared.disk.rename(&repaired.aside, &repaired.path);
        renamed.map_err(failed)?;
        or_poison(shared.disk.sync_dir(&shared.dir), poisoned).map_err(failed)?;
        let new = Segment {
            salt: head.salt,
            end: head.end,
            cut: None,
            file,
            ..segments.sealed[at].clone()
        };
        segments.write_index(&new, &repaired.offsets, false)?;
        segments.remember(new.number, Arc::new(repaired.offsets));
        segments.sealed[at] = new;
        shared.cache.lock().clear();
        Ok(())
    }
}
