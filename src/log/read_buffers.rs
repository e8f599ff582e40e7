//! Buffers for reads of many records, recycled: fresh pages cost more than the read itself, and an allocator that
//! keeps them per thread makes a backlog's drain look like a leak.
//!
//! A buffer comes back when the last record read into it is dropped. At most [`KEPT_MAX`] wait for use.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

const KEPT_MAX: usize = 8;

/// The buffers that wait for use, all of one size.
#[derive(Clone, Debug)]
pub(super) struct ReadBuffers {
    size: usize,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl ReadBuffers {
    /// Of `size` bytes each.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            free: Arc::default(),
        }
    }

    /// Reads into a buffer, at most its size; what `read` says it read becomes the bytes.
    pub fn fill<E>(&self, read: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<Bytes, E> {
        let mut buffer = self.free.lock().pop().unwrap_or_else(|| vec![0; self.size]);
        let len = read(&mut buffer)?.min(buffer.len());
        Ok(Bytes::from_owner(Lent {
            buffer,
            len,
            home: self.clone(),
        }))
    }
}

struct Lent {
    buffer: Vec<u8>,
    len: usize,
    home: ReadBuffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut free = self.home.free.lock();
        if free.len() < KEPT_MAX {
            free.push(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_slice_is_gone() {
        let buffers = ReadBuffers::new(16);
        let fill = |to: &mut [u8]| {
            to[..3].copy_from_slice(b"abc");
            Ok::<_, ()>(3)
        };
        let first = buffers.fill(fill).unwrap();
        let slice = first.slice(1..);
        let address = first.as_ptr();
        drop(first);
        assert!(buffers.free.lock().is_empty());
        assert_eq!(&slice[..], b"bc");
        drop(slice);
        assert_eq!(buffers.fill(fill).unwrap().as_ptr(), address);
    }
}
