//! One bounded cursor for every format we read, and the matching writers. Little-endian, LEB128 varints.
//!
//! Nothing is reserved or sliced before its length has been checked against what is there.

use bytes::BufMut;

/// The input ended before the value did, or a varint is longer than 10 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("input ends inside a value")]
pub struct Truncated;

/// Reads values from the front of a byte slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    start_len: usize,
}

macro_rules! fixed {
    ($name:ident, $type:ty) => {
        /// Reads one little-endian integer.
        ///
        /// # Errors
        /// [`Truncated`] if it is not all there.
        pub fn $name(&mut self) -> Result<$type, Truncated> {
            let (head, rest) = self.rest.split_first_chunk().ok_or(Truncated)?;
            self.rest = rest;
            Ok(<$type>::from_le_bytes(*head))
        }
    };
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            start_len: bytes.len(),
        }
    }

    /// Bytes consumed so far.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.start_len - self.rest.len()
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fixed!(u8, u8);
    fixed!(u16, u16);
    fixed!(u32, u32);
    fixed!(u64, u64);
    fixed!(i64, i64);

    /// Reads a LEB128 varint.
    ///
    /// # Errors
    /// [`Truncated`] if it is not all there or too long.
    pub fn varint(&mut self) -> Result<u64, Truncated> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(Truncated);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Truncated)
    }

    /// Reads `len` bytes.
    ///
    /// # Errors
    /// [`Truncated`] if they are not all there.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Truncated> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// Reads a varint length and that many bytes.
    ///
    /// # Errors
    /// [`Truncated`] if they are not all there.
    pub fn blob(&mut self) -> Result<&'a [u8], Truncated> {
        let len = usize::try_from(self.varint()?).map_err(|_| Truncated)?;
        self.bytes(len)
    }

    /// Reads a blob that must be UTF-8.
    ///
    /// # Errors
    /// [`Truncated`] if it is not all there, or no UTF-8.
    pub fn text(&mut self) -> Result<String, Truncated> {
        std::str::from_utf8(self.blob()?)
            .map(str::to_owned)
            .map_err(|_| Truncated)
    }

    /// Reads a byte as a bool: 0 is false.
    ///
    /// # Errors
    /// [`Truncated`] if there is none.
    pub fn flag(&mut self) -> Result<bool, Truncated> {
        Ok(self.u8()? != 0)
    }
}

/// The matching writers, for anything that takes bytes.
pub trait Writer: BufMut {
    /// Writes a LEB128 varint, 1 to 10 bytes.
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }

    /// Writes a varint length and the bytes.
    fn put_blob(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.put_slice(bytes);
    }

    /// Writes a bool as a byte.
    fn put_flag(&mut self, flag: bool) {
        self.put_u8(u8::from(flag));
    }
}

impl<T: BufMut + ?Sized> Writer for T {}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn varints_of_every_width_come_back() {
        for bits in 0..64 {
            for value in [1u64 << bits, (1u64 << bits) - 1, u64::MAX >> bits] {
                let mut out = Vec::new();
                out.put_varint(value);
                let mut reader = Reader::new(&out);
                assert_eq!(reader.varint(), Ok(value));
                assert!(reader.is_empty());
                for cut in 0..out.len() {
                    assert_eq!(Reader::new(&out[..cut]).varint(), Err(Truncated));
                }
            }
        }
        assert_eq!(Reader::new(&[0xff; 11]).varint(), Err(Truncated));
    }

    #[test]
    fn a_blob_never_reads_past_the_end() {
        assert_eq!(Reader::new(&[5, 1, 2]).blob(), Err(Truncated));
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f]).blob(),
            Err(Truncated)
        );
        assert_eq!(Reader::new(&[2, 1, 2]).blob(), Ok(&[1, 2][..]));
    }
}
