//! What a log does with the files it finds.
//!
//! | found | and | means | done |
//! | --- | --- | --- | --- |
//! | newest file, foreign or empty first block | | the crash was before its first write | file removed |
//! | any other first block that does not check out | | damage | refuse |
//! | newest segment ends in an unsound item | no later frame says it was durable | torn, unacknowledged write | cut there |
//! | the same | a later frame's `durable` is past it | damage | see below |
//! | older segment unsound before the end its successor notes | | damage | see below |
//! | damage | the next sound record after it is at most one past the purge mark | nobody needs for Raft what it hides | noted |
//! | damage | a later truncation cut its whole segment | nobody needs it | noted |
//! | damage before the oldest segment's first sound record | never purged, its index is not 0 | the beginning is lost | refuse |
//! | damage | otherwise | an acknowledged record is lost | refuse |
//! | a record of an index the segment had, after damage | | the damage hid a truncation | records before it: damaged |
//! | records past a later segment's truncation or first record | | the cut was not finished | cut again |
//! | no record, and the log ends before the last truncation | | a lost segment | refuse |
//! | side index missing, torn or of another life | | it was not synced | made again by a scan |
//!
//! A truncation is written in the active segment first. Sealed segments that it kills are removed, after the last one it
//! spares has been given a truncation record of its own behind its end: the active segment may be deleted before that one,
//! and what it holds past the cut must not come back. The frame of that record also vouches for the segment's end, which
//! its successor, if removed, no longer notes.
//!
//! Damage can hide a truncation: what precedes it in its segment is only trusted below the purge mark, and may there be
//! a record that was cut.
//!
//! Segments are read whole from the newest back until hard state and purge mark are known; older ones through their side
//! index. A log that was never purged is read whole.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::LogError;
use super::disk::{Disk, DiskFile, OpenMode, read_exact, read_full};
use super::record::{FRAME_MAGIC, FRAME_SIZE, Frame, HEADER_SIZE, Header, Kind};
use super::segment::{Segment, index_path, segment_path};
use super::segment_file::{DAMAGED, GONE, INDEX_HEAD, IndexHead, START, SegmentHead};

/// A part of a segment that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Number of the segment.
    pub segment: u64,
    /// Where it begins, bytes.
    pub offset: u64,
    /// The first record index that may be lost.
    pub first: u64,
}

/// What opening a log found and did.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The newest durable hard state.
    pub hard_state: Option<Bytes>,
    /// First index of Raft's log, if it holds any record.
    pub first: Option<u64>,
    /// Last index of Raft's log, if it holds any record.
    pub last: Option<u64>,
    /// The purge mark.
    pub purged: Option<(u64, Bytes)>,
    /// Bytes of a torn write that were cut: 0 or the distance to the last byte that is not zero.
    pub cut_bytes: u64,
    /// Lost parts of segments that Raft no longer needs.
    pub damages: Vec<Damage>,
}

/// A segment read from end to end.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) first: u64,
    pub(super) offsets: Vec<u32>,
    pub(super) cut: Option<u64>,
    pub(super) end: u64,
    pub(super) hard_state: Option<Bytes>,
    pub(super) purged: Option<(u64, Bytes)>,
    damages: Vec<Lost>,
}

/// A damage: what it hides may have been any records before `until`.
#[derive(Clone, Copy, Debug)]
struct Lost {
    offset: u64,
    /// The index that was expected.
    first: u64,
    /// Index of the next sound record, or of a later cut; `u64::MAX` if there is none.
    until: u64,
}

/// Reads the items of a segment. `known_end`: all before it was once durable.
pub(super) fn scan(bytes: &[u8], head: &SegmentHead, known_end: Option<u64>) -> Scan {
    let mut scan = Scan {
        first: head.first,
        ..Scan::default()
    };
    let mut at = START as usize;
    let mut nonce = None;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        if let Some(frame) = Frame::decode(rest, head.salt, at as u64) {
            nonce = Some(frame.nonce);
            at += FRAME_SIZE;
            continue;
        }
        let record = Header::decode(rest)
            .filter(|header| Some(header.nonce) == nonce && header.sound(rest, head.salt));
        if let Some(header) = record {
            scan.take(&header, rest, at, head);
            at += header.record_size();
            continue;
        }
        if known_end == Some(at as u64) {
            break;
        }
        let Some(next) = next_frame(bytes, head.salt, at) else {
            if known_end.is_some_and(|end| end > at as u64) {
                scan.lose(at);
            }
            break;
        };
        scan.lose(at);
        at = next;
    }
    // Behind a known end there is only the note of a cut.
    scan.end = known_end.map_or(at as u64, |end| end.min(at as u64));
    if head.compacted {
        scan.offsets.resize(head.count as usize, GONE);
    }
    scan
}

/// The next frame that proves that `at` was durable before it.
fn next_frame(bytes: &[u8], salt: u32, at: usize) -> Option<usize> {
    let mut from = at + 1;
    while let Some(rest) = bytes.get(from..) {
        let found = from + rest.iter().position(|byte| *byte == FRAME_MAGIC[0])?;
        let frame = Frame::decode(&bytes[found..], salt, found as u64);
        if frame.is_some_and(|frame| frame.durable > at as u64) {
            return Some(found);
        }
        from = found + 1;
    }
    None
}

impl Scan {
    /// Where each damage begins.
    pub(super) fn damage_offsets(&self) -> impl Iterator<Item = u64> {
        self.damages.iter().map(|lost| lost.offset)
    }

    fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }

    fn lose(&mut self, at: usize) {
        self.damages.push(Lost {
            offset: at as u64,
            first: self.next(),
            until: u64::MAX,
        });
    }

    fn take(&mut self, header: &Header, bytes: &[u8], at: usize, head: &SegmentHead) {
        let body = &bytes[HEADER_SIZE..header.record_size()];
        let (meta, payload) = body.split_at(header.meta_len);
        match header.kind {
            Kind::Entry if head.compacted => self.survivor(header.index, at, head.count),
            Kind::Entry => self.entry(header.index, at, (at + bytes.len()) as u64),
            Kind::HardState => self.hard_state = Some(Bytes::copy_from_slice(payload)),
            Kind::Purge => self.purged = Some((header.index, Bytes::copy_from_slice(meta))),
            // All of a compacted segment is purged, and so never cut.
            Kind::Truncate if head.compacted => {}
            Kind::Truncate => self.truncate(header.index),
        }
    }

    fn survivor(&mut self, index: u64, at: usize, count: u64) {
        let Some(skip) = index.checked_sub(self.next()) else {
            return;
        };
        if index - self.first < count {
            let holes = self.offsets.len() + skip as usize;
            self.offsets.resize(holes, GONE);
            self.offsets.push(at as u32);
        }
    }

    fn entry(&mut self, index: u64, at: usize, size: u64) {
        if index < self.next() {
            // Only damage hides a truncation; how far it went is not known.
            if self.damages.is_empty() {
                return;
            }
            self.truncate(index);
            self.offsets.fill(DAMAGED);
        }
        if self.offsets.is_empty() {
            self.first = index;
        }
        let skip = index - self.next();
        // Holes come from damage.
        if skip > 0 && (self.damages.is_empty() || skip > size) {
            return;
        }
        self.offsets
            .resize(self.offsets.len() + skip as usize, DAMAGED);
        self.offsets.push(at as u32);
        for lost in self.damages.iter_mut().filter(|one| one.until == u64::MAX) {
            lost.until = index;
        }
    }

    /// Drops the records from `index` on.
    fn truncate(&mut self, index: u64) {
        let keep = index.saturating_sub(self.first);
        self.offsets
            .truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        if self.offsets.is_empty() {
            self.first = index;
            self.cut = Some(self.cut.map_or(index, |cut| cut.min(index)));
        }
        for lost in &mut self.damages {
            lost.until = lost.until.min(index);
        }
    }
}

/// The offsets of a sealed segment, found by reading it.
pub(super) fn rescan(dir: &Path, segment: &Segment) -> Result<Vec<u32>, LogError> {
    let path = segment_path(dir, segment.number);
    let failed = |error| LogError::io(&path, error);
    let bytes = whole(&*segment.file).map_err(failed)?;
    let head = SegmentHead::decode(&bytes).filter(|head| head.salt == segment.salt);
    let head = head.ok_or_else(|| damaged(&path, 0, segment.first))?;
    let mut found = scan(&bytes, &head, Some(segment.end));
    // If the first records are damaged the scan begins later.
    let late = found.first.saturating_sub(segment.first).min(segment.count);
    let mut offsets = vec![DAMAGED; late as usize];
    offsets.append(&mut found.offsets);
    offsets.resize(segment.count as usize, DAMAGED);
    Ok(offsets)
}

fn damaged(path: &Path, offset: u64, first: u64) -> LogError {
    LogError::Damaged {
        path: path.to_owned(),
        offset,
        first,
        last: u64::MAX,
    }
}

fn whole(file: &dyn DiskFile) -> std::io::Result<Vec<u8>> {
    let size = usize::try_from(file.size()?).unwrap_or(usize::MAX);
    read_exact(file, size, 0)
}

/// All that was found.
#[derive(Default)]
pub(super) struct Found {
    /// In order; the last was the active one.
    pub(super) segments: Vec<(Segment, Option<Vec<u32>>)>,
    pub(super) recovered: Recovered,
}

/// Reads the log in `dir`.
pub(super) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Found, LogError> {
    let mut heads = heads(disk, dir)?;
    drop_unborn(disk, dir, &mut heads)?;
    let mut found = Found::default();
    let mut damages = Vec::new();
    // All before a later segment's truncation or first record is cut from there on.
    let mut floor = u64::MAX;
    for at in (0..heads.len()).rev() {
        let (number, head, file) = &heads[at];
        let path = segment_path(dir, *number);
        let head = head.ok_or_else(|| damaged(&path, 0, 0))?;
        let newest = at + 1 == heads.len();
        let next = heads
            .get(at + 1)
            .and_then(|next| next.1.as_ref().map(|head| (next.0, head)));
        let known_end = match next {
            _ if head.compacted => Some(head.end),
            Some((next, after)) if next == number + 1 => Some(after.previous_end),
            _ => None,
        };
        // Both marks stand in every segment that was written to since they were known, unless its first writes were torn.
        let known = found.recovered.hard_state.is_some() && found.recovered.purged.is_some();
        let side = side_index(disk, dir, &head, known_end).filter(|_| !newest && known);
        let segment = |first, count, end, cut| Segment {
            number: *number,
            salt: head.salt,
            first,
            count,
            end,
            cut,
            file: Arc::clone(file),
        };
        if let Some(side) = side {
            let one = segment(side.first, side.count, side.end, side.cut);
            floor = floor.min(one.lowest());
            found.segments.push((one, None));
            continue;
        }
        let bytes = whole(&**file).map_err(|error| LogError::io(&path, error))?;
        let seen = scan(&bytes, &head, known_end);
        if newest {
            let tail = bytes.get(seen.end as usize..).unwrap_or_default();
            let used = tail
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            found.recovered.cut_bytes = used as u64;
        }
        for lost in &seen.damages {
            let (offset, first) = (lost.offset, lost.first);
            let segment = *number;
            let damage = Damage {
                segment,
                offset,
                first,
            };
            let until = lost.until.min(floor);
            // Of a segment without a sound record, a gap tells what is missed, if there is a mark to count from.
            let hollow = seen.offsets.is_empty() && found.recovered.purged.is_some();
            // Before the first sound record of a later segment a gap is seen; the log's own beginning has nothing to miss.
            let beginning = at == 0 && found.recovered.purged.is_none() && seen.first > 0;
            let gone = floor <= seen.first || (until <= seen.first && !beginning);
            let dead = !newest && (gone || (hollow && until < u64::MAX));
            damages.push((damage, Some(until).filter(|_| !dead)));
        }
        if !head.compacted {
            let state = &mut found.recovered;
            state.hard_state = state.hard_state.take().or(seen.hard_state);
            state.purged = state.purged.take().or(seen.purged);
        }
        let count = seen.offsets.len() as u64;
        let one = segment(seen.first, count, seen.end, seen.cut);
        floor = floor.min(one.lowest());
        found.segments.push((one, Some(seen.offsets)));
    }
    found.segments.reverse();
    judge(dir, &found, damages).map(|damages| found.recovered.damages = damages)?;
    Ok(found)
}

/// Refuses damage that may hide what Raft needs: each with the index before which that is, if it matters.
fn judge(
    dir: &Path,
    found: &Found,
    damages: Vec<(Damage, Option<u64>)>,
) -> Result<Vec<Damage>, LogError> {
    let purged = found.recovered.purged.as_ref().map(|(index, _)| *index);
    let newest = found.segments.last().map(|(one, _)| one.number);
    for (damage, until) in &damages {
        let Some(until) = *until else { continue };
        let needed = purged.is_none_or(|purged| until > purged.saturating_add(1));
        if needed || Some(damage.segment) == newest {
            return Err(LogError::Damaged {
                path: segment_path(dir, damage.segment),
                offset: damage.offset,
                first: damage.first,
                last: until
                    .checked_sub(1)
                    .filter(|_| until < u64::MAX)
                    .unwrap_or(u64::MAX),
            });
        }
    }
    Ok(damages.into_iter().map(|(damage, ..)| damage).collect())
}

type Head = (u64, Option<SegmentHead>, Arc<dyn DiskFile>);

fn heads(disk: &dyn Disk, dir: &Path) -> Result<Vec<Head>, LogError> {
    let mut heads = Vec::new();
    for name in disk.list(dir).map_err(|error| LogError::io(dir, error))? {
        let Some(number) = name.strip_suffix(".seg").and_then(|stem| stem.parse().ok()) else {
            continue;
        };
        let path = dir.join(&name);
        let failed = |error| LogError::io(&path, error);
        let file = disk.open(&path, OpenMode::Read).map_err(failed)?;
        let mut block = [0; 64];
        let read = read_full(&*file, &mut block, 0).map_err(failed)?;
        let head = SegmentHead::decode(&block[..read]);
        let foreign = head.is_some_and(|head| head.number != number);
        let unborn = foreign || block.iter().all(|byte| *byte == 0);
        // Kept apart from damage by the order of the rows: an unborn file has no head, and number 0 marks it.
        heads.push((
            number,
            head.filter(|_| !unborn).or(unborn.then(unborn_head)),
            file,
        ));
    }
    Ok(heads)
}

fn unborn_head() -> SegmentHead {
    SegmentHead {
        number: 0,
        salt: 0,
        compacted: false,
        previous_end: 0,
        first: 0,
        count: 0,
        end: 0,
    }
}

fn drop_unborn(disk: &dyn Disk, dir: &Path, heads: &mut Vec<Head>) -> Result<(), LogError> {
    while let Some((number, Some(head), _)) = heads.last()
        && head.number == 0
    {
        let path = segment_path(dir, *number);
        disk.remove(&path)
            .map_err(|error| LogError::io(&path, error))?;
        heads.pop();
    }
    match heads
        .iter()
        .find(|(_, head, _)| head.is_none_or(|head| head.number == 0))
    {
        Some((number, ..)) => Err(damaged(&segment_path(dir, *number), 0, 0)),
        None => Ok(()),
    }
}

fn side_index(
    disk: &dyn Disk,
    dir: &Path,
    head: &SegmentHead,
    end: Option<u64>,
) -> Option<IndexHead> {
    let file = disk
        .open(&index_path(dir, head.number), OpenMode::Read)
        .ok()?;
    let bytes = read_exact(&*file, INDEX_HEAD, 0).ok()?;
    let side = IndexHead::decode(&bytes)?;
    let same = side.number == head.number && side.salt == head.salt;
    (same && end.is_none_or(|end| end == side.end)).then_some(side)
}
