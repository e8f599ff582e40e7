//! AMQP 0-9-1 as far as a load generator needs it: frames written into a `Vec`, frames read from a buffer.
//!
//! Not a client library: it trusts the broker's frames to be well-formed and gives up with an error where they are not.

/// A frame's parts.
#[derive(Debug)]
pub struct Frame<'a> {
    pub kind: u8,
    pub payload: &'a [u8],
}

pub const METHOD: u8 = 1;
pub const HEADER: u8 = 2;
pub const BODY: u8 = 3;
pub const HEARTBEAT: u8 = 8;
const END: u8 = 0xCE;

/// The first whole frame of `input` and its length, if it is there.
pub fn frame(input: &[u8]) -> Option<(Frame<'_>, usize)> {
    let head: &[u8; 7] = input.first_chunk()?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let payload = input.get(7..7 + size)?;
    let end = *input.get(7 + size)?;
    assert_eq!(end, END, "the broker's frame has no end octet");
    Some((
        Frame {
            kind: head[0],
            payload,
        },
        size + 8,
    ))
}

/// Class and method of a method frame's payload.
pub fn ids(payload: &[u8]) -> (u16, u16) {
    match payload.first_chunk::<4>() {
        Some(ids) => (
            u16::from_be_bytes([ids[0], ids[1]]),
            u16::from_be_bytes([ids[2], ids[3]]),
        ),
        None => (0, 0),
    }
}

/// Reads arguments of a method.
pub struct Args<'a>(pub &'a [u8]);

impl<'a> Args<'a> {
    pub fn of(payload: &'a [u8]) -> Self {
        Self(payload.get(4..).unwrap_or_default())
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at_checked(len).unwrap_or((self.0, &[]));
        self.0 = rest;
        head
    }

    pub fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub fn u16(&mut self) -> u16 {
        self.take(2)
            .first_chunk()
            .map_or(0, |bytes| u16::from_be_bytes(*bytes))
    }

    pub fn u32(&mut self) -> u32 {
        self.take(4)
            .first_chunk()
            .map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    pub fn u64(&mut self) -> u64 {
        self.take(8)
            .first_chunk()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    pub fn short(&mut self) -> &'a [u8] {
        let len = usize::from(self.u8());
        self.take(len)
    }
}

/// Writes frames.
#[derive(Default)]
pub struct Out(pub Vec<u8>);

impl Out {
    /// A method frame; `write` adds the arguments.
    pub fn method(&mut self, channel: u16, class: u16, method: u16, write: impl FnOnce(&mut Out)) {
        let start = self.open(METHOD, channel);
        self.u16(class);
        self.u16(method);
        write(self);
        self.close(start);
    }

    fn open(&mut self, kind: u8, channel: u16) -> usize {
        self.0.push(kind);
        self.u16(channel);
        self.u32(0);
        self.0.len()
    }

    fn close(&mut self, start: usize) {
        let size = (self.0.len() - start) as u32;
        self.0[start - 4..start].copy_from_slice(&size.to_be_bytes());
        self.0.push(END);
    }

    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub fn short(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub fn long(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }

    /// A table: `write` adds its entries.
    pub fn table(&mut self, write: impl FnOnce(&mut Out)) {
        let start = self.0.len();
        self.u32(0);
        write(self);
        let size = (self.0.len() - start - 4) as u32;
        self.0[start..start + 4].copy_from_slice(&size.to_be_bytes());
    }

    /// The header frame of a message: delivery mode only.
    pub fn header(&mut self, channel: u16, size: u64, persistent: bool) {
        let start = self.open(HEADER, channel);
        self.u16(60);
        self.u16(0);
        self.u64(size);
        self.u16(1 << 12);
        self.u8(if persistent { 2 } else { 1 });
        self.close(start);
    }

    /// The body frames of a message.
    pub fn body(&mut self, channel: u16, frame_max: usize, body: &[u8]) {
        for part in body.chunks(frame_max - 8) {
            let start = self.open(BODY, channel);
            self.0.extend_from_slice(part);
            self.close(start);
        }
    }
}
