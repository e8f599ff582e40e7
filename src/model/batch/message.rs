//! One message's record: written once, read by (payload, slot), its crc checked at each read.

use bytes::{BufMut, Bytes};

use crate::base::coding::Reader;

use super::{HEADER_SIZE, MAGIC_SURVIVORS, MAGIC_WHOLE, VERSION};

/// What the broker must know of a message besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageFlags {
    /// The x-death headers in the properties are the broker's own, not a client's.
    pub died: bool,
    /// A dead-letter routing key has taken the place of its keys: those in CC count no more.
    pub rekeyed: bool,
}

/// A message to be written; bodies come as the frames' slices.
#[derive(Clone, Copy, Debug)]
pub struct MessageParts<'a> {
    /// Flags.
    pub flags: MessageFlags,
    /// Exchange name, at most 255 bytes.
    pub exchange: &'a [u8],
    /// Routing key, at most 255 bytes.
    pub routing_key: &'a [u8],
    /// Further keys that its properties do not show: those of BCC.
    pub blind_keys: &'a [Bytes],
    /// Property flags and list as on the wire.
    pub properties: &'a [u8],
    /// Body in order.
    pub body: &'a [Bytes],
}

/// A message read back: slices of its entry's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Flags.
    pub flags: MessageFlags,
    /// Exchange it was published to.
    pub exchange: Bytes,
    /// Routing key.
    pub routing_key: Bytes,
    /// Further keys that its properties do not show.
    pub blind_keys: Vec<Bytes>,
    /// Property flags and list as on the wire.
    pub properties: Bytes,
    /// Body.
    pub body: Bytes,
}

/// Why a message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The entry has no such slot, or a compaction dropped it.
    #[error("entry holds no message in slot {0}")]
    Missing(u32),
    /// The bytes are not what was published.
    #[error("message in slot {0} fails its checksum")]
    Corrupt(u32),
}

/// Writes a record at the end of `out`; returns its offset and the size of its body.
pub(super) fn encode(out: &mut Vec<u8>, parts: &MessageParts<'_>) -> (usize, usize) {
    let start = out.len();
    out.put_u64_le(0);
    let blind = !parts.blind_keys.is_empty();
    out.put_u8(
        u8::from(parts.flags.died) | u8::from(blind) << 1 | u8::from(parts.flags.rekeyed) << 2,
    );
    put_short(out, parts.exchange);
    put_short(out, parts.routing_key);
    if blind {
        out.put_u32_le(parts.blind_keys.len() as u32);
        for key in parts.blind_keys {
            out.put_u32_le(key.len() as u32);
            out.put_slice(key);
        }
    }
    out.put_u32_le(parts.properties.len() as u32);
    out.put_slice(parts.properties);
    let body = out.len();
    for part in parts.body {
        out.put_slice(part);
    }
    let end = out.len();
    let length = u32::try_from(end - start - 8).unwrap_or(u32::MAX);
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    let crc = crc32fast::hash(&out[start + 4..end]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    (start, end - body)
}

fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = bytes.len().min(255);
    out.put_u8(len as u8);
    out.put_slice(&bytes[..len]);
}

/// The message in `slot` of an entry's payload.
///
/// # Errors
/// [`MessageError::Missing`] if there is none, [`MessageError::Corrupt`] if its bytes changed.
pub fn message(payload: &Bytes, slot: u32) -> Result<Message, MessageError> {
    let offset = find(payload, slot).ok_or(MessageError::Missing(slot))?;
    let corrupt = MessageError::Corrupt(slot);
    let record = record(payload, offset).ok_or(corrupt)?;
    let base = offset + 8;
    let mut reader = Reader::new(&record[8..]);
    let slice = |reader: &mut Reader<'_>, len: usize| {
        let start = base + reader.offset();
        reader
            .bytes(len)
            .map(|_| payload.slice(start..start + len))
            .map_err(|_| corrupt)
    };
    let flags = reader.u8().map_err(|_| corrupt)?;
    let len = reader.u8().map_err(|_| corrupt)?;
    let exchange = slice(&mut reader, usize::from(len))?;
    let len = reader.u8().map_err(|_| corrupt)?;
    let routing_key = slice(&mut reader, usize::from(len))?;
    let mut blind_keys = Vec::new();
    if flags & 2 != 0 {
        for _ in 0..reader.u32().map_err(|_| corrupt)? {
            let len = reader.u32().map_err(|_| corrupt)?;
            blind_keys.push(slice(&mut reader, len as usize)?);
        }
    }
    let len = reader.u32().map_err(|_| corrupt)?;
    let properties = slice(&mut reader, len as usize)?;
    let len = reader.rest().len();
    let body = slice(&mut reader, len)?;
    Ok(Message {
        flags: MessageFlags {
            died: flags & 1 != 0,
            rekeyed: flags & 4 != 0,
        },
        exchange,
        routing_key,
        blind_keys,
        properties,
        body,
    })
}

/// The whole record at `offset`, crc and length included, if its crc holds.
fn record(payload: &[u8], offset: usize) -> Option<&[u8]> {
    let mut reader = Reader::new(payload.get(offset..)?);
    let crc = reader.u32().ok()?;
    let length = reader.u32().ok()? as usize;
    let record = payload.get(offset..offset.checked_add(8)?.checked_add(length)?)?;
    (crc32fast::hash(&record[4..]) == crc).then_some(record)
}

/// Offset of a slot's record by the directory.
fn find(payload: &[u8], slot: u32) -> Option<usize> {
    let mut header = Reader::new(payload.get(..HEADER_SIZE)?);
    let magic = header.u8().ok()?;
    if header.u8().ok()? != VERSION {
        return None;
    }
    header.bytes(14).ok()?;
    let slots = header.u32().ok()?;
    let directory = payload.get(header.u32().ok()? as usize..)?;
    let word = |index: usize| {
        directory
            .get(index * 4..index * 4 + 4)?
            .first_chunk()
            .map(|word| u32::from_le_bytes(*word))
    };
    match magic {
        MAGIC_WHOLE if slot < slots => word(slot as usize).map(|offset| offset as usize),
        MAGIC_SURVIVORS => {
            let (mut low, mut high) = (0usize, slots as usize);
            while low < high {
                let middle = low.midpoint(high);
                let found = word(middle * 2)?;
                if found == slot {
                    return word(middle * 2 + 1).map(|offset| offset as usize);
                }
                if found < slot {
                    low = middle + 1
                } else {
                    high = middle
                }
            }
            None
        }
        _ => None,
    }
}

/// What compaction keeps of an entry: the records of `slots` (ascending) with a directory of their own. `None` if a
/// slot is missing or damaged, in which case the entry must be kept whole.
#[must_use]
pub fn survivors(payload: &Bytes, slots: impl Iterator<Item = u32>) -> Option<Bytes> {
    let stamp = *payload.get(8..16)?.first_chunk::<8>()?;
    let mut out = Vec::with_capacity(256);
    out.put_u8(MAGIC_SURVIVORS);
    out.put_u8(VERSION);
    out.put_bytes(0, 6);
    out.put_slice(&stamp);
    out.put_bytes(0, HEADER_SIZE - 16);
    let mut directory = Vec::new();
    for slot in slots {
        let record = record(payload, find(payload, slot)?)?;
        directory.push((slot, u32::try_from(out.len()).ok()?));
        out.put_slice(record);
    }
    let count = u32::try_from(directory.len()).ok()?;
    let offset = u32::try_from(out.len()).ok()?;
    out[16..20].copy_from_slice(&count.to_le_bytes());
    out[20..24].copy_from_slice(&offset.to_le_bytes());
    for (slot, offset) in directory {
        out.put_u32_le(slot);
        out.put_u32_le(offset);
    }
    Some(Bytes::from(out))
}
