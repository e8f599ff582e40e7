//! A segment's first block, and the side index of a sealed segment. Little-endian.
//!
//! The first block of `<number>.seg`, padded with zeros to 4 KiB:
//!
//! | at | size | field | why |
//! | --- | --- | --- | --- |
//! | 0 | 8 | magic "LVRTSEG" and version 1 | |
//! | 8 | 8 | number | order of the segments; also the file's name, so a misplaced file is seen |
//! | 16 | 4 | salt | random per life of the file |
//! | 20 | 4 | compacted: 0 or 1 | a compacted segment has holes |
//! | 24 | 8 | end of the previous segment | all before it was durable when this segment began |
//! | 32 | 8 | first index | compacted: of the range it stands for; otherwise 0 |
//! | 40 | 8 | count | compacted: of that range; otherwise 0 |
//! | 48 | 8 | end | compacted: of its records; otherwise 0 |
//! | 56 | 4 | crc | of bytes 0..56 |
//!
//! Behind the end of a sealed segment there may be one more frame with a truncation: a later one reached into it, or
//! took all that followed it. See the head of recovery.
//!
//! `<number>.idx`: magic "LVRTIDX" and version 1 (8), number (8), salt (4), zero (4), first index (8), count (8), end
//! (8), cut (8, `u64::MAX` if none), crc of all before (4), `count` offsets (4 each: 0 gone, 1 damaged), crc of these
//! (4). It can be lost: a scan of the segment makes it again. A wrong salt means it is of an earlier life.

use crate::base::coding::{Reader, Truncated};

/// Where records begin: after the first block.
pub(super) const START: u64 = 4096;
/// Offset of a record that was dropped.
pub(super) const GONE: u32 = 0;
/// Offset of a record that could not be read.
pub(super) const DAMAGED: u32 = 1;
/// Bytes of a side index before the offsets.
pub(super) const INDEX_HEAD: usize = 60;
const SEGMENT_MAGIC: &[u8; 8] = b"LVRTSEG\x01";
const INDEX_MAGIC: &[u8; 8] = b"LVRTIDX\x01";

/// A segment's first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    pub(super) number: u64,
    pub(super) salt: u32,
    pub(super) compacted: bool,
    pub(super) previous_end: u64,
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) end: u64,
}

impl SegmentHead {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(START as usize);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&u32::from(self.compacted).to_le_bytes());
        for word in [self.previous_end, self.first, self.count, self.end] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out.resize(START as usize, 0);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        Self::parse(bytes).ok().flatten()
    }

    fn parse(bytes: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut reader = Reader::new(bytes);
        let magic = reader.bytes(8)? == SEGMENT_MAGIC;
        let head = Self {
            number: reader.u64()?,
            salt: reader.u32()?,
            compacted: reader.u32()? != 0,
            previous_end: reader.u64()?,
            first: reader.u64()?,
            count: reader.u64()?,
            end: reader.u64()?,
        };
        let crc = crc32fast::hash(&bytes[..reader.offset()]);
        Ok((magic && reader.u32()? == crc).then_some(head))
    }
}

/// The head of a side index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexHead {
    pub(super) number: u64,
    pub(super) salt: u32,
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) end: u64,
    /// Records from this index on in earlier segments are cut.
    pub(super) cut: Option<u64>,
}

impl IndexHead {
    pub(super) fn encode(&self, offsets: &[u32]) -> Vec<u8> {
        let mut out = Vec::with_capacity(INDEX_HEAD + offsets.len() * 4 + 4);
        out.extend_from_slice(INDEX_MAGIC);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let cut = self.cut.unwrap_or(u64::MAX);
        for word in [self.first, self.count, self.end, cut] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        for offset in offsets {
            out.extend_from_slice(&offset.to_le_bytes());
        }
        let crc = crc32fast::hash(&out[INDEX_HEAD..]);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        Self::parse(bytes).ok().flatten()
    }

    fn parse(bytes: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut reader = Reader::new(bytes);
        let magic = reader.bytes(8)? == INDEX_MAGIC;
        let (number, salt, _zero) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let head = Self {
            number,
            salt,
            first: reader.u64()?,
            count: reader.u64()?,
            end: reader.u64()?,
            cut: Some(reader.u64()?).filter(|cut| *cut != u64::MAX),
        };
        let crc = crc32fast::hash(&bytes[..reader.offset()]);
        Ok((magic && reader.u32()? == crc).then_some(head))
    }

    /// The offsets after the head, if `bytes`, a whole file, checks out.
    pub(super) fn offsets(&self, bytes: &[u8]) -> Option<Vec<u32>> {
        let (body, crc) = bytes.get(INDEX_HEAD..)?.split_last_chunk::<4>()?;
        let sound = body.len() as u64 == self.count.checked_mul(4)?
            && crc32fast::hash(body) == u32::from_le_bytes(*crc);
        let words = body.as_chunks::<4>().0.iter();
        sound.then(|| words.map(|word| u32::from_le_bytes(*word)).collect())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn heads_come_back_and_a_flipped_byte_is_seen() {
        let head = SegmentHead {
            number: 3,
            salt: 77,
            compacted: true,
            previous_end: 5000,
            first: 9,
            count: 4,
            end: 8000,
        };
        let mut bytes = head.encode();
        assert_eq!(bytes.len() as u64, START);
        assert_eq!(
            bytes[..24],
            *b"LVRTSEG\x01\x03\0\0\0\0\0\0\0\x4d\0\0\0\x01\0\0\0"
        );
        assert_eq!(SegmentHead::decode(&bytes), Some(head));
        for at in 0..60 {
            bytes[at] ^= 4;
            assert_eq!(SegmentHead::decode(&bytes), None);
            bytes[at] ^= 4;
        }
        let index = IndexHead {
            number: 3,
            salt: 77,
            first: 9,
            count: 2,
            end: 8000,
            cut: None,
        };
        let bytes = index.encode(&[4096, 5000]);
        assert_eq!(bytes[..20], *b"LVRTIDX\x01\x03\0\0\0\0\0\0\0\x4d\0\0\0");
        assert_eq!(IndexHead::decode(&bytes), Some(index));
        assert_eq!(index.offsets(&bytes), Some(vec![4096, 5000]));
        assert_eq!(index.offsets(&bytes[..bytes.len() - 1]), None);
    }
}
