//! Cold pages of a ready index or a stream: where the middle of a deep queue waits outside the machine.
//!
//! A page is written once, read once (or again by compaction, purge and a stream's readers), and discarded. Its bytes are a
//! function of the commands alone, so every replica writes the same page under the same id.
//!
//! Format of a page, little-endian:
//!
//! | field | size | why |
//! | --- | --- | --- |
//! | crc32 | 4 | of all that follows; a page that fails is never believed |
//! | runs | varint | at most [`RUNS_MAX`] |
//! | per run: position delta | zigzag varint | from the previous run's first position |
//! | count, size | varint each | messages, body bytes of each |
//! | moment | varint | when they expire, in a stream when they came: 0 = never, else moment + 1, in ms |
//!
//! Not here: when pages are made and taken back (ready.rs).

use std::collections::BTreeMap;

use crate::base::coding::{Reader, Truncated, Writer};
use crate::base::{Millis, Position};

/// Runs in a page; also the most a page may claim to hold.
pub(super) const RUNS_MAX: usize = 4096;
/// The expiry of a message that has none.
pub(super) const NEVER: Millis = Millis(u64::MAX);

/// Messages of one entry, one size and one expiry, in consecutive slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Position of the first.
    pub first: Position,
    /// How many.
    pub count: u32,
    /// Body bytes of each.
    pub size: u32,
    /// When they expire, [`NEVER`] if they do not; in a stream, when they came.
    pub expires_at: Millis,
}

impl Run {
    /// Body bytes of all.
    pub fn bytes(&self) -> u64 {
        u64::from(self.count) * u64::from(self.size)
    }

    /// Whether `next` continues this run.
    pub fn joins(&self, next: &Self) -> bool {
        self.first.0 + u64::from(self.count) == next.first.0
            && self.first.index() == next.first.index()
            && self.size == next.size
            && self.expires_at == next.expires_at
    }
}

/// Why a page cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// There is no page of this id.
    #[error("page {id} is missing")]
    Missing {
        /// The page.
        id: u64,
    },
    /// Its bytes are not those that were written.
    #[error("page {id} is damaged")]
    Damaged {
        /// The page.
        id: u64,
    },
}

/// Cold index pages, outside the machine but the same bytes on every replica.
pub trait Pages: Send {
    /// Stores a page. Ids are minted by the machine and never reused.
    fn write(&mut self, id: u64, bytes: &[u8]);

    /// The bytes of a page.
    ///
    /// # Errors
    /// [`PageError`] if they are not there or known to be wrong. The machine stops: see
    /// [`SetMachine::fault`](super::SetMachine::fault).
    fn read(&mut self, id: u64) -> Result<Vec<u8>, PageError>;

    /// The machine no longer needs the page. A durable snapshot may; that is the implementation's business.
    fn discard(&mut self, id: u64);

    /// The page will be read soon.
    fn prefetch(&mut self, id: u64);
}

/// Pages in memory, for the local set and for tests.
#[derive(Clone, Debug, Default)]
pub struct MemoryPages {
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Pages for MemoryPages {
    fn write(&mut self, id: u64, bytes: &[u8]) {
        self.pages.insert(id, bytes.to_vec());
    }

    fn read(&mut self, id: u64) -> Result<Vec<u8>, PageError> {
        self.pages
            .get(&id)
            .cloned()
            .ok_or(PageError::Missing { id })
    }

    fn discard(&mut self, id: u64) {
        self.pages.remove(&id);
    }

    fn prefetch(&mut self, _id: u64) {}
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Writes one run; `last` is the first position of the run before it, 0 at the start.
pub(super) fn put_run(out: &mut Vec<u8>, run: &Run, last: &mut u64) {
    out.put_varint(zigzag(run.first.0.wrapping_sub(*last) as i64));
    out.put_varint(u64::from(run.count));
    out.put_varint(u64::from(run.size));
    out.put_varint(run.expires_at.0.wrapping_add(1));
    *last = run.first.0;
}

/// Reads what [`put_run`] wrote.
pub(super) fn get_run(reader: &mut Reader<'_>, last: &mut u64) -> Result<Run, Truncated> {
    let first = last.wrapping_add(unzigzag(reader.varint()?) as u64);
    let count = u32::try_from(reader.varint()?).map_err(|_| Truncated)?;
    let size = u32::try_from(reader.varint()?).map_err(|_| Truncated)?;
    let expires_at = Millis(reader.varint()?.wrapping_sub(1));
    let slot = (first & u64::from(Position::SLOTS_MAX - 1)) as u32;
    if count == 0 || u64::from(slot) + u64::from(count) > u64::from(Position::SLOTS_MAX) {
        return Err(Truncated);
    }
    *last = first;
    Ok(Run {
        first: Position(first),
        count,
        size,
        expires_at,
    })
}

/// The bytes of a page.
pub(super) fn encode<'a>(runs: impl ExactSizeIterator<Item = &'a Run>) -> Vec<u8> {
    let mut out = Vec::with_capacity(runs.len() * 8 + 8);
    out.extend_from_slice(&[0; 4]);
    out.put_varint(runs.len() as u64);
    let mut last = 0;
    for run in runs {
        put_run(&mut out, run, &mut last);
    }
    let crc = crc32fast::hash(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The runs of page `id`.
///
/// # Errors
/// [`PageError::Damaged`] if the bytes are not a page.
pub(super) fn decode(id: u64, bytes: &[u8]) -> Result<Vec<Run>, PageError> {
    let damaged = |_: Truncated| PageError::Damaged { id };
    let mut reader = Reader::new(bytes);
    let crc = reader.u32().map_err(damaged)?;
    if crc != crc32fast::hash(reader.rest()) {
        return Err(PageError::Damaged { id });
    }
    let count = reader.varint().map_err(damaged)?;
    if count > RUNS_MAX as u64 {
        return Err(PageError::Damaged { id });
    }
    let mut runs = Vec::with_capacity(count as usize);
    let mut last = 0;
    for _ in 0..count {
        runs.push(get_run(&mut reader, &mut last).map_err(damaged)?);
    }
    if reader.is_empty() {
        Ok(runs)
    } else {
        Err(PageError::Damaged { id })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn sample() -> Vec<Run> {
        (0..100u32)
            .map(|i| Run {
                first: Position::new(u64::from(1000 - i * 7), i),
                count: i + 1,
                size: i * 1000,
                expires_at: if i % 3 == 0 {
                    NEVER
                } else {
                    Millis(u64::from(i))
                },
            })
            .collect()
    }

    #[test]
    fn a_page_comes_back_as_it_was_whatever_the_order_of_its_positions() {
        let runs = sample();
        assert_eq!(decode(7, &encode(runs.iter())), Ok(runs));
    }

    #[test]
    fn a_page_with_any_byte_changed_is_damaged() {
        let good = encode(sample().iter());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(
                decode(7, &bad),
                Err(PageError::Damaged { id: 7 }),
                "byte {at}"
            );
        }
        for cut in 0..good.len() {
            assert!(decode(7, &good[..cut]).is_err());
        }
    }
}
