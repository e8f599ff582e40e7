//! AMQP field tables inside commands and snapshots, and what their values mean to a broker.
//!
//! Need: replicas must read back exactly the table a client sent, and compare values as RabbitMQ does: all integer
//! widths are one class, text and byte arrays another. Shape: a tagged value codec (varint lengths, sorted names) and
//! [`Value`], the comparable view. Limits: nesting of `TABLE_DEPTH_MAX`. Not here: the wire format of AMQP.

use std::collections::BTreeMap;

use amq_protocol::types::{ByteArray, DecimalValue};
use bytes::BufMut;

use super::CodecError;
pub(crate) use crate::amqp::value::as_int as integer;
use crate::amqp::value::type_name;
use crate::amqp::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use crate::base::coding::{Reader, Writer};
use crate::base::limits::TABLE_DEPTH_MAX;

/// Writes a table, names in byte order.
pub(super) fn put_table(out: &mut impl BufMut, table: &FieldTable) {
    out.put_varint(table.inner().len() as u64);
    for (name, value) in table {
        out.put_blob(name.as_str().as_bytes());
        put_value(out, value);
    }
}

/// Writes one value.
pub(super) fn put_value(out: &mut impl BufMut, value: &AMQPValue) {
    let tag = match value {
        // Has no tag on the wire; a long string is what a peer would read.
        AMQPValue::ShortString(_) => b'S',
        other => u8::try_from(other.get_type().get_id()).unwrap_or(b'V'),
    };
    out.put_u8(tag);
    match value {
        AMQPValue::Boolean(v) => out.put_flag(*v),
        AMQPValue::ShortShortInt(v) => out.put_i8(*v),
        AMQPValue::ShortShortUInt(v) => out.put_u8(*v),
        AMQPValue::ShortInt(v) => out.put_i16_le(*v),
        AMQPValue::ShortUInt(v) => out.put_u16_le(*v),
        AMQPValue::LongInt(v) => out.put_i32_le(*v),
        AMQPValue::LongUInt(v) => out.put_u32_le(*v),
        AMQPValue::LongLongInt(v) => out.put_i64_le(*v),
        AMQPValue::Float(v) => out.put_u32_le(v.to_bits()),
        AMQPValue::Double(v) => out.put_u64_le(v.to_bits()),
        AMQPValue::DecimalValue(v) => {
            out.put_u8(v.scale);
            out.put_u32_le(v.value);
        }
        AMQPValue::ShortString(v) => out.put_blob(v.as_str().as_bytes()),
        AMQPValue::LongString(v) => out.put_blob(v.as_bytes()),
        AMQPValue::ByteArray(v) => out.put_blob(v.as_slice()),
        AMQPValue::Timestamp(v) => out.put_u64_le(*v),
        AMQPValue::FieldArray(v) => {
            out.put_varint(v.as_slice().len() as u64);
            for item in v.as_slice() {
                put_value(out, item);
            }
        }
        AMQPValue::FieldTable(v) => put_table(out, v),
        AMQPValue::Void => {}
    }
}

/// Reads what [`put_table`] wrote.
pub(super) fn get_table(reader: &mut Reader<'_>) -> Result<FieldTable, CodecError> {
    table(reader, 0)
}

fn table(reader: &mut Reader<'_>, depth: usize) -> Result<FieldTable, CodecError> {
    if depth > TABLE_DEPTH_MAX {
        return Err(CodecError::TooDeep);
    }
    let mut entries = BTreeMap::new();
    for _ in 0..reader.varint()? {
        let name = ShortString::try_new(reader.text()?).map_err(|_| CodecError::NameTooLong)?;
        entries.insert(name, value(reader, depth)?);
    }
    Ok(FieldTable::from(entries))
}

/// Reads what [`put_value`] wrote.
pub(super) fn get_value(reader: &mut Reader<'_>) -> Result<AMQPValue, CodecError> {
    value(reader, 0)
}

fn value(reader: &mut Reader<'_>, depth: usize) -> Result<AMQPValue, CodecError> {
    let tag = reader.u8()?;
    Ok(match tag {
        b't' => AMQPValue::Boolean(reader.flag()?),
        b'b' => AMQPValue::ShortShortInt(reader.u8()?.cast_signed()),
        b'B' => AMQPValue::ShortShortUInt(reader.u8()?),
        b's' => AMQPValue::ShortInt(reader.u16()?.cast_signed()),
        b'u' => AMQPValue::ShortUInt(reader.u16()?),
        b'I' => AMQPValue::LongInt(reader.u32()?.cast_signed()),
        b'i' => AMQPValue::LongUInt(reader.u32()?),
        b'l' => AMQPValue::LongLongInt(reader.i64()?),
        b'f' => AMQPValue::Float(f32::from_bits(reader.u32()?)),
        b'd' => AMQPValue::Double(f64::from_bits(reader.u64()?)),
        b'D' => AMQPValue::DecimalValue(DecimalValue {
            scale: reader.u8()?,
            value: reader.u32()?,
        }),
        b'S' => AMQPValue::LongString(LongString::from(reader.blob()?)),
        b'x' => AMQPValue::ByteArray(ByteArray::from(reader.blob()?)),
        b'T' => AMQPValue::Timestamp(reader.u64()?),
        b'A' => {
            if depth >= TABLE_DEPTH_MAX {
                return Err(CodecError::TooDeep);
            }
            let mut items = FieldArray::default();
            for _ in 0..reader.varint()? {
                items.push(value(reader, depth + 1)?);
            }
            AMQPValue::FieldArray(items)
        }
        b'F' => AMQPValue::FieldTable(table(reader, depth + 1)?),
        b'V' => AMQPValue::Void,
        other => return Err(CodecError::UnknownTag(other)),
    })
}

/// A value as declarations and header bindings compare it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Int(i64),
    Float(f64),
    Text(&'a [u8]),
    Bool(bool),
    Time(u64),
    Other(&'a AMQPValue),
    /// Nested or decimal, in a message: only its presence counts.
    Opaque,
    Void,
}

/// The comparable view of a value.
pub(crate) fn view(value: &AMQPValue) -> Value<'_> {
    match value {
        AMQPValue::Boolean(v) => Value::Bool(*v),
        AMQPValue::Float(v) => Value::Float(f64::from(*v)),
        AMQPValue::Double(v) => Value::Float(*v),
        AMQPValue::ShortString(v) => Value::Text(v.as_str().as_bytes()),
        AMQPValue::LongString(v) => Value::Text(v.as_bytes()),
        AMQPValue::ByteArray(v) => Value::Text(v.as_slice()),
        AMQPValue::Timestamp(v) => Value::Time(*v),
        AMQPValue::Void => Value::Void,
        AMQPValue::DecimalValue(_) | AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) => {
            Value::Other(value)
        }
        int => integer(int).map_or(Value::Void, Value::Int),
    }
}

/// The bytes of a long string.
pub(crate) fn text(value: &AMQPValue) -> Option<&[u8]> {
    match value {
        AMQPValue::LongString(v) => Some(v.as_bytes()),
        AMQPValue::ShortString(v) => Some(v.as_str().as_bytes()),
        _ => None,
    }
}

/// A value as error texts print it.
pub(crate) fn show(value: &AMQPValue) -> String {
    match view(value) {
        Value::Int(v) => v.to_string(),
        Value::Float(v) => float(v),
        Value::Text(v) => String::from_utf8_lossy(v).into_owned(),
        Value::Bool(v) => v.to_string(),
        Value::Time(v) => v.to_string(),
        Value::Void | Value::Opaque => "undefined".to_owned(),
        Value::Other(v) => term(v),
    }
}

/// Erlang's notation: always with a point.
fn float(value: f64) -> String {
    let shown = format!("{value:?}");
    match shown.split_once('e') {
        Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0e{exponent}"),
        _ => shown,
    }
}

/// A value as RabbitMQ prints it where it does not know its type: an Erlang term.
pub(crate) fn term(value: &AMQPValue) -> String {
    let listed = |items: Vec<String>| format!("[{}]", items.join(","));
    let typed = |value: &AMQPValue| format!("{},{}", type_name(value), term(value));
    match value {
        AMQPValue::DecimalValue(decimal) => format!("{{{},{}}}", decimal.scale, decimal.value),
        AMQPValue::FieldArray(items) => listed(
            items
                .as_slice()
                .iter()
                .map(|item| format!("{{{}}}", typed(item)))
                .collect(),
        ),
        AMQPValue::FieldTable(table) => listed(
            table
                .inner()
                .iter()
                .map(|(name, item)| {
                    format!("{{{},{}}}", binary(name.as_str().as_bytes()), typed(item))
                })
                .collect(),
        ),
        other => match view(other) {
            Value::Text(bytes) => binary(bytes),
            _ => show(other),
        },
    }
}

/// Octets as RabbitMQ prints them: an Erlang binary.
pub(crate) fn binary(bytes: &[u8]) -> String {
    let printable = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b'"' && *byte != b'\\';
    if !bytes.is_empty() && bytes.iter().all(printable) {
        return format!("<<\"{}\">>", String::from_utf8_lossy(bytes));
    }
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("<<{}>>", numbers.join(","))
}

/// The named value of a table.
pub(crate) fn lookup<'a>(table: &'a FieldTable, name: &str) -> Option<&'a AMQPValue> {
    table.inner().get(name)
}
