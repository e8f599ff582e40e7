//! Field tables and arrays: checked, decoded and written with a bound on nesting.
//!
//! Need: `amq-protocol` parses tables recursively without a bound, so nothing from outside may reach it unchecked.
//! Shape: [`check_table`] is one linear scan without allocation; the decoder runs only over bytes that passed it.
//! Limits: nesting of tables and arrays together is at most [`TABLE_DEPTH_MAX`], the outermost table counting as 1.
//! What does not survive decoding (spec/amqp-behaviour.md §2.1): `U` becomes `s`, `L` becomes `l`, a boolean octet
//! other than 0 becomes 1, order of names is lost, of duplicate names the first is kept.

use amq_protocol::types::DecimalValue;

use super::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use crate::base::limits::TABLE_DEPTH_MAX;

/// Splits `n` bytes off the front.
pub(super) fn take(input: &[u8], n: usize) -> Option<(&[u8], &[u8])> {
    input.split_at_checked(n)
}

/// A shortstr and what follows it.
pub(super) fn shortstr(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&n, rest) = input.split_first()?;
    take(rest, usize::from(n))
}

/// A longstr, table or array body and what follows it.
pub(super) fn longstr(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (n, rest) = input.split_first_chunk::<4>()?;
    take(rest, usize::try_from(u32::from_be_bytes(*n)).ok()?)
}

/// Whether names must be UTF-8: they must where they become `ShortString`s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    Utf8,
    Any,
}

/// Whether `body` (without its length) is a well-formed table at `depth` (the outermost is 1).
pub(super) fn check_table(mut body: &[u8], names: Names, depth: usize) -> bool {
    if depth > TABLE_DEPTH_MAX {
        return false;
    }
    while !body.is_empty() {
        let Some((name, rest)) = shortstr(body) else {
            return false;
        };
        if names == Names::Utf8 && std::str::from_utf8(name).is_err() {
            return false;
        }
        let Some(rest) = check_value(rest, names, depth) else {
            return false;
        };
        body = rest;
    }
    true
}

fn check_array(mut body: &[u8], names: Names, depth: usize) -> bool {
    if depth > TABLE_DEPTH_MAX {
        return false;
    }
    while !body.is_empty() {
        let Some(rest) = check_value(body, names, depth) else {
            return false;
        };
        body = rest;
    }
    true
}

/// What follows a well-formed tagged value.
fn check_value(input: &[u8], names: Names, depth: usize) -> Option<&[u8]> {
    let (raw, rest) = split_value(input)?;
    let nested = match raw.tag {
        b'F' => check_table(raw.bytes, names, depth + 1),
        b'A' => check_array(raw.bytes, names, depth + 1),
        _ => true,
    };
    nested.then_some(rest)
}

/// One field value as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawValue<'a> {
    /// Type octet, e.g. `b'S'`.
    pub tag: u8,
    /// The value's octets, big-endian; without the length for `S`, `x`, `F` and `A`.
    pub bytes: &'a [u8],
}

impl RawValue<'_> {
    /// The value, decoded. `None` if its octets are not well-formed.
    #[must_use]
    pub fn decode(&self) -> Option<AMQPValue> {
        decode_value(*self, 1)
    }
}

/// A tagged value and what follows; does not look inside tables and arrays.
pub(super) fn split_value(input: &[u8]) -> Option<(RawValue<'_>, &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (bytes, rest) = match tag {
        b't' | b'b' | b'B' => take(rest, 1)?,
        b's' | b'u' | b'U' => take(rest, 2)?,
        b'I' | b'i' | b'f' => take(rest, 4)?,
        b'l' | b'L' | b'd' | b'T' => take(rest, 8)?,
        b'D' => take(rest, 5)?,
        b'S' | b'x' | b'F' | b'A' => longstr(rest)?,
        b'V' => take(rest, 0)?,
        _ => return None,
    };
    Some((RawValue { tag, bytes }, rest))
}

fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

fn decode_value(raw: RawValue<'_>, depth: usize) -> Option<AMQPValue> {
    let bytes = raw.bytes;
    Some(match raw.tag {
        b't' => AMQPValue::Boolean(fixed::<1>(bytes)? != [0]),
        b'b' => AMQPValue::ShortShortInt(i8::from_be_bytes(fixed(bytes)?)),
        b'B' => AMQPValue::ShortShortUInt(u8::from_be_bytes(fixed(bytes)?)),
        b's' | b'U' => AMQPValue::ShortInt(i16::from_be_bytes(fixed(bytes)?)),
        b'u' => AMQPValue::ShortUInt(u16::from_be_bytes(fixed(bytes)?)),
        b'I' => AMQPValue::LongInt(i32::from_be_bytes(fixed(bytes)?)),
        b'i' => AMQPValue::LongUInt(u32::from_be_bytes(fixed(bytes)?)),
        b'l' | b'L' => AMQPValue::LongLongInt(i64::from_be_bytes(fixed(bytes)?)),
        b'f' => AMQPValue::Float(f32::from_be_bytes(fixed(bytes)?)),
        b'd' => AMQPValue::Double(f64::from_be_bytes(fixed(bytes)?)),
        b'T' => AMQPValue::Timestamp(u64::from_be_bytes(fixed(bytes)?)),
        b'D' => {
            let (&scale, value) = bytes.split_first()?;
            AMQPValue::DecimalValue(DecimalValue {
                scale,
                value: u32::from_be_bytes(fixed(value)?),
            })
        }
        b'S' => AMQPValue::LongString(LongString::from(bytes)),
        b'x' => AMQPValue::ByteArray(bytes.into()),
        b'F' => AMQPValue::FieldTable(decode_table(bytes, depth + 1)?),
        b'A' => AMQPValue::FieldArray(decode_array(bytes, depth + 1)?),
        b'V' => AMQPValue::Void,
        _ => return None,
    })
}

/// The table in `body` (without its length). Names that are not UTF-8 are left out; the first of duplicates wins.
pub(super) fn decode_table(mut body: &[u8], depth: usize) -> Option<FieldTable> {
    if depth > TABLE_DEPTH_MAX {
        return None;
    }
    let mut table = FieldTable::default();
    while !body.is_empty() {
        let (name, rest) = shortstr(body)?;
        let (raw, rest) = split_value(rest)?;
        body = rest;
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        if !table.contains_key(name) {
            table.insert(ShortString::try_new(name).ok()?, decode_value(raw, depth)?);
        }
    }
    Some(table)
}

fn decode_array(mut body: &[u8], depth: usize) -> Option<FieldArray> {
    if depth > TABLE_DEPTH_MAX {
        return None;
    }
    let mut values = Vec::new();
    while !body.is_empty() {
        let (raw, rest) = split_value(body)?;
        values.push(decode_value(raw, depth)?);
        body = rest;
    }
    Some(FieldArray::from(values))
}

/// Appends a shortstr, cut at its 255 octets.
pub(super) fn put_shortstr(out: &mut Vec<u8>, text: &[u8]) {
    let n = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.push(n);
    out.extend_from_slice(&text[..usize::from(n)]);
}

/// Writes a length over the 4 bytes at `at`, for what follows them. `None` past `u32::MAX`.
fn close_length(out: &mut [u8], at: usize) -> Option<()> {
    let n = u32::try_from(out.len() - at - 4).ok()?;
    out[at..at + 4].copy_from_slice(&n.to_be_bytes());
    Some(())
}

/// Appends a table with its length. `None` if nested too deeply; `out` then holds a torn table.
pub(super) fn put_table(out: &mut Vec<u8>, table: &FieldTable, depth: usize) -> Option<()> {
    if depth > TABLE_DEPTH_MAX {
        return None;
    }
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    for (name, value) in table {
        put_shortstr(out, name.as_str().as_bytes());
        put_value(out, value, depth)?;
    }
    close_length(out, at)
}

fn put_long(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) -> Option<()> {
    out.push(tag);
    out.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_be_bytes());
    out.extend_from_slice(bytes);
    Some(())
}

/// Appends a tagged value. A `ShortString` goes out as `S`, for it has no tag of its own.
pub(super) fn put_value(out: &mut Vec<u8>, value: &AMQPValue, depth: usize) -> Option<()> {
    let mut put = |tag: u8, bytes: &[u8]| {
        out.push(tag);
        out.extend_from_slice(bytes);
    };
    match value {
        AMQPValue::Boolean(v) => put(b't', &[u8::from(*v)]),
        AMQPValue::ShortShortInt(v) => put(b'b', &v.to_be_bytes()),
        AMQPValue::ShortShortUInt(v) => put(b'B', &v.to_be_bytes()),
        AMQPValue::ShortInt(v) => put(b's', &v.to_be_bytes()),
        AMQPValue::ShortUInt(v) => put(b'u', &v.to_be_bytes()),
        AMQPValue::LongInt(v) => put(b'I', &v.to_be_bytes()),
        AMQPValue::LongUInt(v) => put(b'i', &v.to_be_bytes()),
        AMQPValue::LongLongInt(v) => put(b'l', &v.to_be_bytes()),
        AMQPValue::Float(v) => put(b'f', &v.to_be_bytes()),
        AMQPValue::Double(v) => put(b'd', &v.to_be_bytes()),
        AMQPValue::Timestamp(v) => put(b'T', &v.to_be_bytes()),
        AMQPValue::DecimalValue(v) => {
            put(b'D', &[v.scale]);
            out.extend_from_slice(&v.value.to_be_bytes());
        }
        AMQPValue::Void => put(b'V', &[]),
        AMQPValue::ShortString(v) => put_long(out, b'S', v.as_str().as_bytes())?,
        AMQPValue::LongString(v) => put_long(out, b'S', v.as_bytes())?,
        AMQPValue::ByteArray(v) => put_long(out, b'x', v.as_slice())?,
        AMQPValue::FieldTable(v) => {
            put(b'F', &[]);
            put_table(out, v, depth + 1)?;
        }
        AMQPValue::FieldArray(v) => {
            if depth + 1 > TABLE_DEPTH_MAX {
                return None;
            }
            put(b'A', &[0; 4]);
            let at = out.len() - 4;
            for value in v.as_slice() {
                put_value(out, value, depth + 1)?;
            }
            close_length(out, at)?;
        }
    }
    Some(())
}
