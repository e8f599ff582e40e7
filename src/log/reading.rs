//! Reading a log: from the tail cache, from what was read lately, from disk.
//!
//! Every record that comes from disk is checked against its crc and its index; one that does not check out was
//! overwritten because its segment went, or it is damaged.
//!
//! Not here: what may be read below the purge mark (whatever segment still lives).

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::LogError;
use super::disk::read_full;
use super::record::{HEADER_SIZE, Header, Kind, Record};
use super::segment::{Place, segment_path};
use super::wal::Log;

/// A read of one record begins with so many bytes.
const GUESS: usize = 4096;
/// A read of several records that are not in memory brings at most so many bytes.
pub(super) const READ_AHEAD: usize = 1024 * 1024;

impl Log {
    /// Raft's records from `from` to before `to_exclusive`, at most `bytes_max` bytes but at least one record.
    ///
    /// # Errors
    /// [`LogError::Missing`] if one of them was never there or is purged.
    pub fn read(
        &self,
        from: u64,
        to_exclusive: u64,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        let (mut out, mut bytes, mut index) = (Vec::new(), 0, from);
        let first = self.purged().map_or(0, |(purged, _)| purged + 1);
        if from < first && from < to_exclusive {
            return Err(LogError::Missing { index: from });
        }
        while index < to_exclusive && (out.is_empty() || bytes < bytes_max) {
            let tail = self.shared().tail.read();
            let before = index;
            while index < to_exclusive
                && let Some(record) = tail.get(index)
            {
                if !out.is_empty() && bytes + record.payload.len() > bytes_max {
                    return Ok(out);
                }
                bytes += record.payload.len();
                index += 1;
                out.push(record.clone());
            }
            drop(tail);
            if index > before {
                continue;
            }
            // Raft asks for a few entries at a time: what one disk read brought serves the next calls too.
            let more = match self.read_cached(index) {
                Some(record) => vec![record],
                None => self.read_ahead(index, READ_AHEAD)?,
            };
            for record in more {
                let fits = out.is_empty() || bytes + record.payload.len() <= bytes_max;
                if record.index >= to_exclusive || !fits {
                    return Ok(out);
                }
                if record.index != index {
                    break;
                }
                bytes += record.payload.len();
                index += 1;
                out.push(record);
            }
        }
        Ok(out)
    }

    /// One record, also below the purge mark while its segment lives.
    ///
    /// # Errors
    /// [`LogError::Gone`], [`LogError::Missing`], [`LogError::Damaged`], [`LogError::Io`].
    pub fn get(&self, index: u64) -> Result<Record, LogError> {
        if let Some(record) = self.cached(index) {
            self.shared().counters.tail_hits.fetch_add(1, Relaxed);
            return Ok(record);
        }
        if let Some(record) = self.shared().cache.lock().get(index) {
            self.shared().counters.read_hits.fetch_add(1, Relaxed);
            return Ok(record);
        }
        let generation = self.shared().cache.lock().generation();
        let record = self.load(index)?;
        self.shared().cache.lock().put(record.clone(), generation);
        Ok(record)
    }

    /// A record of the tail cache. Never touches the disk. O(1).
    #[must_use]
    pub fn cached(&self, index: u64) -> Option<Record> {
        self.shared().tail.read().get(index).cloned()
    }

    /// A record read from disk lately. Never touches the disk.
    #[must_use]
    pub fn read_cached(&self, index: u64) -> Option<Record> {
        self.shared().cache.lock().get(index)
    }

    fn place(&self, index: u64, count: usize) -> Result<Place, LogError> {
        // What is on disk from here on is cut, though the writer may not have come to it yet.
        let written = self.shared().tail.read().written;
        let room = written.checked_sub(index).filter(|room| *room > 0);
        let room = room.ok_or(LogError::Missing { index })?;
        let count = usize::try_from(room).unwrap_or(count).min(count);
        self.shared().segments.lock().place(index, count)
    }

    pub(super) fn load(&self, index: u64) -> Result<Record, LogError> {
        let place = self.place(index, 1)?;
        let at = place
            .offsets
            .first()
            .copied()
            .ok_or(LogError::Gone { index })?;
        let path = segment_path(&self.shared().dir, place.number);
        let failed = |error| LogError::io(&path, error);
        self.shared().counters.disk_reads.fetch_add(1, Relaxed);
        let mut bytes = vec![0; GUESS];
        let read = read_full(&*place.file, &mut bytes, u64::from(at)).map_err(failed)?;
        bytes.truncate(read);
        if let Some(header) = Header::decode(&bytes)
            && header.record_size() > read
            && u64::from(at) + header.record_size() as u64 <= place.end
        {
            bytes.resize(header.record_size(), 0);
            let rest = &mut bytes[read..];
            read_full(&*place.file, rest, u64::from(at) + read as u64).map_err(failed)?;
        }
        parse(&Bytes::from(bytes), 0, index, place.salt)
            .map_err(|()| self.unsound(index, &path, at))
    }

    /// A record that does not check out was overwritten because its segment went, or it is damaged.
    fn unsound(&self, index: u64, path: &Path, at: u32) -> LogError {
        if let Err(LogError::Gone { index }) = self.place(index, 1) {
            return LogError::Gone { index };
        }
        LogError::Damaged {
            path: path.to_owned(),
            offset: u64::from(at),
            first: index,
            last: index,
        }
    }

    /// Reads records from `index` on with one disk read of about `bytes`, into the read cache too.
    ///
    /// # Errors
    /// As [`Log::get`], for the first record.
    pub fn read_ahead(&self, index: u64, bytes: usize) -> Result<Vec<Record>, LogError> {
        let bytes = bytes.clamp(GUESS, READ_AHEAD);
        let generation = self.shared().cache.lock().generation();
        let place = self.place(index, bytes / HEADER_SIZE)?;
        let at = place
            .offsets
            .first()
            .copied()
            .ok_or(LogError::Gone { index })?;
        let len = usize::try_from(place.end.saturating_sub(u64::from(at)))
            .unwrap_or(bytes)
            .min(bytes);
        let path = segment_path(&self.shared().dir, place.number);
        let read = self.shared().buffers.fill(|buffer| {
            let len = len.min(buffer.len());
            let into = buffer.get_mut(..len).unwrap_or_default();
            read_full(&*place.file, into, u64::from(at))
        });
        let buffer = read.map_err(|error| LogError::io(&path, error))?;
        self.shared().counters.disk_reads.fetch_add(1, Relaxed);
        let mut out = Vec::new();
        for (skip, offset) in place.offsets.iter().enumerate() {
            let Some(from) = offset.checked_sub(at) else {
                continue;
            };
            match parse(&buffer, from as usize, index + skip as u64, place.salt) {
                Ok(record) => out.push(record),
                Err(()) => break,
            }
        }
        if out.is_empty() {
            return self.get(index).map(|record| vec![record]);
        }
        let mut cache = self.shared().cache.lock();
        for record in &out {
            cache.put(record.clone(), generation);
        }
        Ok(out)
    }
}

/// The record at `from`, if it is all there, checks out and is the one wanted.
pub(super) fn parse(buffer: &Bytes, from: usize, index: u64, salt: u32) -> Result<Record, ()> {
    let bytes = buffer.get(from..).ok_or(())?;
    let header = Header::decode(bytes).ok_or(())?;
    if header.kind != Kind::Entry || header.index != index || !header.sound(bytes, salt) {
        return Err(());
    }
    let meta = from + HEADER_SIZE;
    let payload = meta + header.meta_len;
    Ok(Record {
        index,
        meta: buffer.slice(meta..payload),
        payload: buffer.slice(payload..payload + header.payload_len),
    })
}
