//! JSON to AMQP's values and back.
//!
//! Integers become `long` whatever their size on the wire was meant to be; declarations compare numbers, not types.
//! Limits: names of 255 bytes, nesting of `TABLE_DEPTH_MAX`. What JSON cannot say (bytes that are no text) is shown in
//! base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::error::ApiError;
use crate::amqp::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use crate::base::limits::TABLE_DEPTH_MAX;

/// A value as AMQP has it.
///
/// # Errors
/// 400 for names longer than 255 bytes, and for what is nested too deep.
pub fn to_amqp(value: &Value) -> Result<AMQPValue, ApiError> {
    convert(value, 0)
}

/// An object as a table.
///
/// # Errors
/// As [`to_amqp`].
pub fn to_table(object: &Map<String, Value>) -> Result<FieldTable, ApiError> {
    table(object, 0)
}

fn table(object: &Map<String, Value>, depth: usize) -> Result<FieldTable, ApiError> {
    let mut table = FieldTable::default();
    for (key, value) in object {
        let name = ShortString::try_new(key.clone())
            .map_err(|_| ApiError::bad_request("argument name longer than 255 bytes"))?;
        table.insert(name, convert(value, depth + 1)?);
    }
    Ok(table)
}

fn convert(value: &Value, depth: usize) -> Result<AMQPValue, ApiError> {
    if depth >= TABLE_DEPTH_MAX {
        return Err(ApiError::bad_request("arguments nested too deep"));
    }
    Ok(match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(flag) => AMQPValue::Boolean(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => AMQPValue::LongLongInt(integer),
            None => AMQPValue::Double(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => AMQPValue::LongString(LongString::from(text.as_str())),
        Value::Array(items) => {
            let mut array = FieldArray::default();
            for item in items {
                array.push(convert(item, depth + 1)?);
            }
            AMQPValue::FieldArray(array)
        }
        Value::Object(object) => AMQPValue::FieldTable(table(object, depth)?),
    })
}

/// Text, or base64 of what is none.
pub fn text_or_base64(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => Value::from(STANDARD.encode(bytes)),
    }
}

fn float(number: f64) -> Value {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// A value as JSON.
pub fn from_amqp(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(flag) => Value::from(*flag),
        AMQPValue::Float(number) => float(f64::from(*number)),
        AMQPValue::Double(number) => float(*number),
        AMQPValue::DecimalValue(decimal) => {
            float(f64::from(decimal.value) / 10f64.powi(i32::from(decimal.scale)))
        }
        AMQPValue::ShortString(text) => Value::from(text.as_str()),
        AMQPValue::LongString(text) => text_or_base64(text.as_bytes()),
        AMQPValue::ByteArray(bytes) => text_or_base64(bytes.as_slice()),
        AMQPValue::Timestamp(time) => Value::from(*time),
        AMQPValue::FieldArray(items) => items.as_slice().iter().map(from_amqp).collect(),
        AMQPValue::FieldTable(table) => from_table(table),
        AMQPValue::Void => Value::Null,
        integer => crate::amqp::value::as_int(integer).map_or(Value::Null, Value::from),
    }
}

/// A table as an object.
pub fn from_table(table: &FieldTable) -> Value {
    let entries = table.into_iter();
    let entries = entries.map(|(key, value)| (key.as_str().to_owned(), from_amqp(value)));
    Value::Object(entries.collect())
}
