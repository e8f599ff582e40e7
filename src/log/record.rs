//! What a segment holds after its first 4 KiB: a stream of frames and records, byte after byte, no padding.
//!
//! Little-endian. Every crc is crc32 begun with the segment's salt, so records of an earlier life of a recycled file
//! never check out. A frame begins each write:
//!
//! | at | size | field | why |
//! | --- | --- | --- | --- |
//! | 0 | 4 | magic B5 'L' 'V' 'F' | told from a record by its first byte |
//! | 4 | 4 | nonce | drawn when the log is opened; ties records to their frame |
//! | 8 | 8 | durable | this segment was synced up to here before this write |
//! | 16 | 4 | crc | of its own offset (u64) and bytes 0..16 |
//!
//! A record:
//!
//! | at | size | field | why |
//! | --- | --- | --- | --- |
//! | 0 | 1 | kind | 1 entry, 2 hard state, 3 truncate, 4 purge; 0 is the end |
//! | 1 | 1 | length of meta | |
//! | 2 | 2 | zero | |
//! | 4 | 4 | length of payload | |
//! | 8 | 8 | index | entry: its own; truncate: the first that is cut; purge: the last that is purged |
//! | 16 | 4 | nonce | of the frame it was written under |
//! | 20 | 4 | crc | of bytes 0..20, meta and payload |
//! | 24 | | meta, payload | |
//!
//! The nonce: a torn write leaves old sectors behind new ones; a leftover record of a write that was cut must not
//! pass for one of the write that replaced it.

use bytes::Bytes;

/// Bytes of a frame.
pub(super) const FRAME_SIZE: usize = 20;
/// Bytes of a record before its meta.
pub(super) const HEADER_SIZE: usize = 24;
/// First bytes of a frame.
pub(super) const FRAME_MAGIC: [u8; 4] = [0xB5, b'L', b'V', b'F'];
/// Longest meta in bytes.
pub(super) const META_SIZE_MAX: usize = 255;

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place; each record follows the one before.
    pub index: u64,
    /// A small header whose meaning is the caller's; at most 255 bytes.
    pub meta: Bytes,
    /// The content.
    pub payload: Bytes,
}

impl Record {
    /// Bytes it counts for in a cache.
    pub(super) fn weight(&self) -> usize {
        self.meta.len() + self.payload.len() + size_of::<Self>()
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Entry = 1,
    HardState = 2,
    Truncate = 3,
    Purge = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Entry, Self::HardState, Self::Truncate, Self::Purge]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// A frame's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) nonce: u32,
    pub(super) durable: u64,
}

/// A record's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) meta_len: usize,
    pub(super) payload_len: usize,
    pub(super) index: u64,
    pub(super) nonce: u32,
    crc: u32,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn frame_crc(salt: u32, offset: u64, head: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(salt);
    crc.update(&offset.to_le_bytes());
    crc.update(head);
    crc.finalize()
}

impl Frame {
    /// Its bytes, at `offset` of a segment salted with `salt`.
    pub(super) fn encode(self, salt: u32, offset: u64) -> [u8; FRAME_SIZE] {
        let mut out = [0; FRAME_SIZE];
        out[..4].copy_from_slice(&FRAME_MAGIC);
        out[4..8].copy_from_slice(&self.nonce.to_le_bytes());
        out[8..16].copy_from_slice(&self.durable.to_le_bytes());
        let crc = frame_crc(salt, offset, &out[..16]);
        out[16..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The frame at the front of `bytes`, if there is one and it checks out.
    pub(super) fn decode(bytes: &[u8], salt: u32, offset: u64) -> Option<Self> {
        let head = bytes.get(..16)?;
        let sound =
            head.starts_with(&FRAME_MAGIC) && word(bytes, 16)? == frame_crc(salt, offset, head);
        sound.then_some(Self {
            nonce: word(bytes, 4)?,
            durable: long(bytes, 8)?,
        })
    }
}

impl Header {
    /// The bytes of a record's head; meta and payload follow it. Both lengths were checked by the caller.
    pub(super) fn encode(
        kind: Kind,
        index: u64,
        meta: &[u8],
        payload: &[u8],
        nonce: u32,
        salt: u32,
    ) -> [u8; HEADER_SIZE] {
        assert!(meta.len() <= META_SIZE_MAX, "meta of {} bytes", meta.len());
        let mut out = [0; HEADER_SIZE];
        out[0] = kind as u8;
        out[1] = meta.len() as u8;
        out[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        out[8..16].copy_from_slice(&index.to_le_bytes());
        out[16..20].copy_from_slice(&nonce.to_le_bytes());
        let crc = record_crc(salt, &out[..20], meta, payload);
        out[20..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a head; nothing is checked yet but its kind.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let kind = Kind::from_byte(*bytes.first()?)?;
        if bytes.get(2..4)? != [0, 0] {
            return None;
        }
        Some(Self {
            kind,
            meta_len: usize::from(*bytes.get(1)?),
            payload_len: word(bytes, 4)? as usize,
            index: long(bytes, 8)?,
            nonce: word(bytes, 16)?,
            crc: word(bytes, 20)?,
        })
    }

    /// Bytes of the whole record.
    pub(super) fn record_size(&self) -> usize {
        HEADER_SIZE + self.meta_len + self.payload_len
    }

    /// Whether the record that begins `bytes` is all there and checks out.
    pub(super) fn sound(&self, bytes: &[u8], salt: u32) -> bool {
        let Some(body) = bytes.get(HEADER_SIZE..self.record_size()) else {
            return false;
        };
        let (meta, payload) = body.split_at(self.meta_len);
        record_crc(salt, &bytes[..20], meta, payload) == self.crc
    }
}

fn record_crc(salt: u32, head: &[u8], meta: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(salt);
    crc.update(head);
    crc.update(meta);
    crc.update(payload);
    crc.finalize()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_bytes_of_a_frame_and_a_record_are_fixed() {
        let frame = Frame {
            nonce: 7,
            durable: 4096,
        };
        let bytes = frame.encode(9, 4096);
        assert_eq!(bytes[..16], *b"\xb5LVF\x07\0\0\0\0\x10\0\0\0\0\0\0");
        assert_eq!(Frame::decode(&bytes, 9, 4096), Some(frame));
        assert_eq!(Frame::decode(&bytes, 8, 4096), None, "another life");
        assert_eq!(Frame::decode(&bytes, 9, 4097), None, "another place");
        let mut record = Header::encode(Kind::Entry, 3, b"m", b"pay", 7, 9).to_vec();
        assert_eq!(
            record[..20],
            *b"\x01\x01\0\0\x03\0\0\0\x03\0\0\0\0\0\0\0\x07\0\0\0"
        );
        record.extend_from_slice(b"mpay");
        let header = Header::decode(&record).unwrap();
        assert!(header.sound(&record, 9));
        for at in 0..record.len() {
            record[at] ^= 1;
            assert!(!Header::decode(&record).is_some_and(|head| head.sound(&record, 9)));
            record[at] ^= 1;
        }
    }
}
