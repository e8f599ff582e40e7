//! Field values as declarations compare and store them.
//!
//! Need: arguments are compared regardless of integer width and named in reply texts in RabbitMQ's words.
//! What does not survive `table_from_bytes ∘ table_to_bytes`: nothing the types can hold, except that a
//! `ShortString` value (which the wire cannot carry) comes back as a `LongString`.

use super::table::{Names, check_table, decode_table, longstr, put_table};
use super::{AMQPValue, FieldTable, ProtocolError, ReplyCode};

/// The two classes in which numbers compare regardless of width (spec/amqp-behaviour.md §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberClass {
    /// b, B, s, u, I, i, l, and D.
    Integer,
    /// f and d.
    Float,
}

/// The type's name in RabbitMQ's reply texts.
#[must_use]
pub fn type_name(value: &AMQPValue) -> &'static str {
    match value {
        AMQPValue::Boolean(_) => "bool",
        AMQPValue::ShortShortInt(_) => "byte",
        AMQPValue::ShortShortUInt(_) => "unsignedbyte",
        AMQPValue::ShortInt(_) => "short",
        AMQPValue::ShortUInt(_) => "unsignedshort",
        AMQPValue::LongInt(_) => "signedint",
        AMQPValue::LongUInt(_) => "unsignedint",
        AMQPValue::LongLongInt(_) => "long",
        AMQPValue::Float(_) => "float",
        AMQPValue::Double(_) => "double",
        AMQPValue::DecimalValue(_) => "decimal",
        AMQPValue::ShortString(_) | AMQPValue::LongString(_) => "longstr",
        AMQPValue::FieldArray(_) => "array",
        AMQPValue::Timestamp(_) => "timestamp",
        AMQPValue::FieldTable(_) => "table",
        AMQPValue::ByteArray(_) => "binary",
        AMQPValue::Void => "void",
    }
}

/// The class numbers compare in; `None` for what is not a number (timestamps are not).
#[must_use]
pub fn number_class(value: &AMQPValue) -> Option<NumberClass> {
    match value {
        AMQPValue::Float(_) | AMQPValue::Double(_) => Some(NumberClass::Float),
        AMQPValue::DecimalValue(_) => Some(NumberClass::Integer),
        other => as_int(other).map(|_| NumberClass::Integer),
    }
}

/// The integer, whatever its width. `None` for all else, decimals and timestamps included.
#[must_use]
pub fn as_int(value: &AMQPValue) -> Option<i64> {
    Some(match value {
        AMQPValue::ShortShortInt(v) => i64::from(*v),
        AMQPValue::ShortShortUInt(v) => i64::from(*v),
        AMQPValue::ShortInt(v) => i64::from(*v),
        AMQPValue::ShortUInt(v) => i64::from(*v),
        AMQPValue::LongInt(v) => i64::from(*v),
        AMQPValue::LongUInt(v) => i64::from(*v),
        AMQPValue::LongLongInt(v) => *v,
        _ => return None,
    })
}

fn as_float(value: &AMQPValue) -> Option<f64> {
    match value {
        AMQPValue::Float(v) => Some(f64::from(*v)),
        AMQPValue::Double(v) => Some(*v),
        _ => None,
    }
}

/// Whether two declarations mean the same by these values: numbers of one class by value, all else exactly.
#[must_use]
pub fn equivalent(a: &AMQPValue, b: &AMQPValue) -> bool {
    if let (Some(a), Some(b)) = (as_int(a), as_int(b)) {
        return a == b;
    }
    if let (Some(a), Some(b)) = (as_float(a), as_float(b)) {
        return a == b;
    }
    a == b
}

/// The table as on the wire, its 4 length octets included.
///
/// # Errors
/// 502 if it nests deeper than [`crate::base::limits::TABLE_DEPTH_MAX`].
pub fn table_to_bytes(table: &FieldTable) -> Result<Vec<u8>, ProtocolError> {
    let mut out = Vec::new();
    match put_table(&mut out, table, 1) {
        Some(()) => Ok(out),
        None => Err(malformed()),
    }
}

/// The reverse of [`table_to_bytes`].
///
/// # Errors
/// 502 if the bytes are not exactly one table with UTF-8 names within the depth limit.
pub fn table_from_bytes(bytes: &[u8]) -> Result<FieldTable, ProtocolError> {
    match longstr(bytes) {
        Some((body, [])) => table_from_body(body),
        _ => Err(malformed()),
    }
}

/// A table without its length octets, as AMQPLAIN sends its response.
///
/// # Errors
/// As [`table_from_bytes`].
pub fn table_from_body(body: &[u8]) -> Result<FieldTable, ProtocolError> {
    if !check_table(body, Names::Utf8, 1) {
        return Err(malformed());
    }
    decode_table(body, 1).ok_or_else(malformed)
}

fn malformed() -> ProtocolError {
    ProtocolError::new(ReplyCode::SyntaxError, "malformed field table")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn integers_are_equivalent_whatever_their_width_but_not_to_floats() {
        let narrow = AMQPValue::ShortShortInt(7);
        assert!(equivalent(&narrow, &AMQPValue::LongLongInt(7)));
        assert!(!equivalent(&narrow, &AMQPValue::LongLongInt(8)));
        assert!(!equivalent(&narrow, &AMQPValue::Double(7.0)));
        assert!(equivalent(&AMQPValue::Float(0.5), &AMQPValue::Double(0.5)));
        assert_eq!(number_class(&narrow), Some(NumberClass::Integer));
        assert_eq!(number_class(&AMQPValue::Timestamp(7)), None);
    }

    #[test]
    fn a_table_nested_past_the_limit_is_neither_written_nor_read() {
        let nest = |levels: usize| {
            let mut table = FieldTable::default();
            for _ in 1..levels {
                let mut outer = FieldTable::default();
                outer.insert("t".into(), AMQPValue::FieldTable(table));
                table = outer;
            }
            table
        };
        let deepest = nest(crate::base::limits::TABLE_DEPTH_MAX);
        let bytes = table_to_bytes(&deepest).unwrap();
        assert_eq!(table_from_bytes(&bytes).unwrap(), deepest);
        assert!(table_to_bytes(&nest(crate::base::limits::TABLE_DEPTH_MAX + 1)).is_err());
        let mut deeper = b"\x01tF".to_vec();
        deeper.extend_from_slice(&bytes);
        assert!(table_from_body(&deeper).is_err());
        assert!(!check_table(&deeper, Names::Any, 1));
    }

    #[test]
    fn the_tag_of_the_printed_specification_for_short_integers_is_read() {
        let table = table_from_body(b"\x01aU\xff\xfe").unwrap();
        assert_eq!(table.inner().get("a"), Some(&AMQPValue::ShortInt(-2)));
    }
}
