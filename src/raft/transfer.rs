//! A snapshot on the wire: a row of items, cut into frames of about 1 MiB wherever they happen to end.
//!
//! | frame | fields |
//! | --- | --- |
//! | part | version (1), 1, number of the frame from 0 (4), bytes of items |
//! | end | version (1), 2, number of the frame (4), crc32 of the bytes of all parts (4) |
//!
//! An item is its kind (1), the length of what follows (8), and: head (1): vote, meta of the snapshot; state (2): the
//! whole snapshot as its file holds it; page (3): id (8), bytes; record (4): index (8), head of the record (varint
//! length first), payload. The head comes first, once, then the state, then pages, then records by index.
//! Invariants: large payloads are sent as they lie in memory, not copied; decoding never panics, and never holds more
//! than one item and one frame.
//! Not here: where items come from and go ([`super::shipping`], [`super::receiving`]).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Frame;
use super::codec::{self, CodecError};
use super::types::{SnapshotMeta, Vote};
use crate::base::coding::{Reader, Truncated, Writer};
use crate::log::Record;

/// Bytes of items in one frame.
pub(super) const PART_BYTES: usize = 1024 * 1024;
/// Bytes before the items in a frame.
const FRAME_HEAD: usize = 6;
/// Bytes before an item's content.
const ITEM_HEAD: usize = 9;
/// Shorter content is copied: a part of its own costs more.
const COPY_MAX: usize = 4096;

const PART: u8 = 1;
const END: u8 = 2;

const HEAD: u8 = 1;
const STATE: u8 = 2;
const PAGE: u8 = 3;
const RECORD: u8 = 4;

/// Longest content of each kind of item; a peer that announces more is not believed.
const fn longest(kind: u8) -> u64 {
    match kind {
        HEAD => 64 * 1024,
        PAGE => 64 << 20,
        // As the log: a payload of 1 GiB, its head and index.
        STATE | RECORD => (1 << 30) + 1024,
        _ => 0,
    }
}

/// A part of a snapshot.
#[derive(Debug)]
pub(super) enum Item {
    Head { vote: Vote, meta: SnapshotMeta },
    State(Bytes),
    Page(u64, Bytes),
    Record(Record),
}

/// Why a stream of frames is no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TransferError {
    /// The stream ended before its last frame, or nothing came for too long.
    #[error("the transfer broke off")]
    BrokenOff,
    /// A frame is missing, or came twice.
    #[error("frame {found} came in the place of {expected}")]
    Order {
        /// Its number.
        found: u32,
        /// The number that would follow.
        expected: u32,
    },
    /// An item is longer than its kind can be.
    #[error("an item of kind {kind} with {len} bytes")]
    TooLong {
        /// Its kind.
        kind: u8,
        /// Bytes it would have.
        len: u64,
    },
    /// An item came where it may not be.
    #[error("an item out of place")]
    Place,
    /// Not the bytes that were sent.
    #[error("wrong checksum")]
    Checksum,
    /// The content is not what it should be.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl From<Truncated> for TransferError {
    fn from(error: Truncated) -> Self {
        Self::Codec(error.into())
    }
}

/// Cuts items into frames.
#[derive(Default)]
pub(super) struct Packer {
    parts: Vec<Bytes>,
    open: BytesMut,
    size: usize,
    number: u32,
    crc: crc32fast::Hasher,
}

impl Packer {
    /// Adds an item; the frames it fills go to `full`.
    pub(super) fn put<E>(
        &mut self,
        item: &Item,
        full: &mut dyn FnMut(Frame) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut head = Vec::with_capacity(64);
        let (kind, content) = match item {
            Item::Head { vote, meta } => {
                codec::put_vote(&mut head, vote);
                codec::put_log_id(&mut head, meta.last_log_id.as_ref());
                codec::put_stored_members(&mut head, &meta.last_membership);
                (HEAD, Bytes::new())
            }
            Item::State(bytes) => (STATE, bytes.clone()),
            Item::Page(id, bytes) => {
                head.put_u64_le(*id);
                (PAGE, bytes.clone())
            }
            Item::Record(record) => {
                head.put_u64_le(record.index);
                head.put_blob(&record.meta);
                (RECORD, record.payload.clone())
            }
        };
        let mut start = Vec::with_capacity(ITEM_HEAD + head.len());
        start.put_u8(kind);
        start.put_u64_le((head.len() + content.len()) as u64);
        start.put_slice(&head);
        self.bytes(start.into(), full)?;
        self.bytes(content, full)
    }

    fn bytes<E>(
        &mut self,
        mut bytes: Bytes,
        full: &mut dyn FnMut(Frame) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PART_BYTES - self.size));
            self.crc.update(&piece);
            self.size += piece.len();
            if piece.len() <= COPY_MAX {
                self.open.put_slice(&piece);
            } else {
                self.close();
                self.parts.push(piece);
            }
            if self.size == PART_BYTES {
                full(self.frame(PART, &[]))?;
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.parts.push(self.open.split().freeze());
        }
    }

    fn frame(&mut self, kind: u8, tail: &[u8]) -> Frame {
        self.close();
        let mut head = Vec::with_capacity(FRAME_HEAD + tail.len());
        codec::put_version(&mut head);
        head.put_u8(kind);
        head.put_u32_le(self.number);
        head.put_slice(tail);
        self.number += 1;
        self.size = 0;
        let mut frame = vec![head.into()];
        frame.append(&mut self.parts);
        frame
    }

    /// The last frames: what is left, and the one that says that all is there.
    pub(super) fn end(mut self) -> Vec<Frame> {
        let mut last = Vec::new();
        if self.size > 0 {
            last.push(self.frame(PART, &[]));
        }
        let crc = std::mem::take(&mut self.crc).finalize();
        last.push(self.frame(END, &crc.to_le_bytes()));
        last
    }
}

/// Puts items together again.
#[derive(Default)]
pub(super) struct Unpacker {
    buffer: BytesMut,
    number: u32,
    crc: crc32fast::Hasher,
    whole: bool,
}

impl Unpacker {
    /// Takes a frame, whose items can then be had by [`Self::next`].
    pub(super) fn take(&mut self, frame: &[u8]) -> Result<(), TransferError> {
        let mut reader = Reader::new(frame);
        codec::version(&mut reader)?;
        let kind = reader.u8()?;
        let found = reader.u32()?;
        if found != self.number || self.whole {
            return Err(TransferError::Order {
                found,
                expected: self.number,
            });
        }
        self.number += 1;
        match kind {
            PART => {
                self.crc.update(reader.rest());
                self.buffer.extend_from_slice(reader.rest());
                Ok(())
            }
            END if reader.u32()? != self.crc.clone().finalize() => Err(TransferError::Checksum),
            END if !self.buffer.is_empty() => Err(TransferError::BrokenOff),
            END => {
                self.whole = true;
                Ok(())
            }
            other => Err(CodecError::Kind(other).into()),
        }
    }

    /// Whether the last frame was taken.
    pub(super) fn whole(&self) -> bool {
        self.whole
    }

    /// The next item that is all there.
    pub(super) fn next(&mut self) -> Result<Option<Item>, TransferError> {
        let mut reader = Reader::new(&self.buffer);
        let (Ok(kind), Ok(len)) = (reader.u8(), reader.u64()) else {
            return Ok(None);
        };
        if len > longest(kind) {
            return Err(TransferError::TooLong { kind, len });
        }
        let len = usize::try_from(len).map_err(|_| Truncated)?;
        if reader.rest().len() < len {
            return Ok(None);
        }
        self.buffer.advance(ITEM_HEAD);
        let content = self.buffer.split_to(len).freeze();
        item(kind, &content).map(Some)
    }
}

fn item(kind: u8, content: &Bytes) -> Result<Item, TransferError> {
    let mut reader = Reader::new(content);
    match kind {
        HEAD => Ok(Item::Head {
            vote: codec::vote(&mut reader)?,
            meta: SnapshotMeta {
                last_log_id: codec::opt_log_id(&mut reader)?,
                last_membership: codec::stored_members(&mut reader)?,
            },
        }),
        STATE => Ok(Item::State(content.clone())),
        PAGE => Ok(Item::Page(reader.u64()?, content.slice(reader.offset()..))),
        RECORD => {
            let index = reader.u64()?;
            let meta = content.slice_ref(reader.blob()?);
            let payload = content.slice(reader.offset()..);
            Ok(Item::Record(Record {
                index,
                meta,
                payload,
            }))
        }
        other => Err(CodecError::Kind(other).into()),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn record(index: u64, len: usize) -> Record {
        Record {
            index,
            meta: Bytes::from_static(b"meta"),
            payload: (0..len).map(|at| (at as u64 ^ index) as u8).collect(),
        }
    }

    fn packed(records: &[Record]) -> Vec<Bytes> {
        let mut packer = Packer::default();
        let mut frames = Vec::new();
        for record in records {
            let mut full = |frame: Frame| {
                frames.push(frame);
                Ok::<(), ()>(())
            };
            packer
                .put(&Item::Record(record.clone()), &mut full)
                .unwrap();
        }
        frames.extend(packer.end());
        frames
            .into_iter()
            .map(|frame| frame.concat().into())
            .collect()
    }

    fn unpacked(frames: &[Bytes]) -> Result<Vec<Record>, TransferError> {
        let mut unpacker = Unpacker::default();
        let mut records = Vec::new();
        for frame in frames {
            unpacker.take(frame)?;
            while let Some(item) = unpacker.next()? {
                match item {
                    Item::Record(record) => records.push(record),
                    other => panic!("{other:?}"),
                }
            }
        }
        match unpacker.whole() {
            true => Ok(records),
            false => Err(TransferError::BrokenOff),
        }
    }

    #[test]
    fn items_of_any_length_come_back_and_no_frame_is_longer_than_a_part() {
        let lens = [
            0,
            1,
            5000,
            PART_BYTES,
            3 * PART_BYTES + 7,
            10,
            PART_BYTES - 40,
        ];
        let records: Vec<_> = (1..).zip(lens).map(|(at, len)| record(at, len)).collect();
        let frames = packed(&records);
        assert!(frames.len() > 6);
        assert!(
            frames
                .iter()
                .all(|one| one.len() <= PART_BYTES + FRAME_HEAD)
        );
        assert_eq!(unpacked(&frames).unwrap(), records);
    }

    #[test]
    fn a_missing_a_repeated_or_a_changed_frame_is_noticed() {
        let frames = packed(&[record(1, 2 * PART_BYTES), record(2, 100)]);
        assert_eq!(frames.len(), 4);
        for at in 0..frames.len() {
            let mut less = frames.clone();
            less.remove(at);
            unpacked(&less).unwrap_err();
            let mut twice = frames.clone();
            twice.insert(at, frames[at].clone());
            unpacked(&twice).unwrap_err();
            let mut changed = frames.clone();
            let mut bytes = changed[at].to_vec();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            changed[at] = bytes.into();
            unpacked(&changed).unwrap_err();
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_before_anything_is_kept_for_it() {
        let mut frame = vec![1, PART, 0, 0, 0, 0, RECORD];
        frame.put_u64_le(u64::MAX);
        let mut unpacker = Unpacker::default();
        unpacker.take(&frame).unwrap();
        let refused = unpacker.next().unwrap_err();
        assert!(matches!(
            refused,
            TransferError::TooLong { kind: RECORD, .. }
        ));
    }
}
