//! Field values and arguments, as bytes and as text.
//!
//! Need: a codec that shares nothing with the broker's, so that both cannot be wrong in the same way, and that can say
//! what no client library would say.
//! Shape: [`Value`] is what stands in a table, [`Arg`] what stands in a method or a property list; [`Kind`] is the letter
//! that a layout gives an argument. [`Cursor`] reads; every read may fail and says where.
//! Limits: text is UTF-8 here; bytes that are not come out with replacement characters.

use std::fmt;

/// A table: names in the order of the wire, with duplicates.
pub type Table = Vec<(String, Value)>;

/// A value in a table or an array. The tag of each is beside it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: scale and value
    Decimal(u8, u32),
    /// `S`
    Text(String),
    /// `x`
    Bytes(Vec<u8>),
    /// `T`, seconds
    Time(u64),
    /// `F`
    Table(Table),
    /// `A`
    Array(Vec<Self>),
    /// `V`
    Void,
}

/// How an argument of a method or a property is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `o`: 8 bits
    Octet,
    /// `w`: 16 bits
    Word,
    /// `l`: 32 bits
    Long,
    /// `L`: 64 bits
    LongLong,
    /// `b`: neighbours share octets
    Bit,
    /// `s`
    Short,
    /// `S`
    LongText,
    /// `t`
    Table,
}

impl Kind {
    /// The kind of a layout's letter.
    ///
    /// # Panics
    /// When the letter is none of those above, which is a mistake in this suite.
    #[must_use]
    pub fn of(letter: &str) -> Self {
        match letter {
            "o" => Self::Octet,
            "w" => Self::Word,
            "l" => Self::Long,
            "L" => Self::LongLong,
            "b" => Self::Bit,
            "s" => Self::Short,
            "S" => Self::LongText,
            "t" => Self::Table,
            other => panic!("no kind has the letter {other}"),
        }
    }
}

/// An argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// Any of the integers.
    Num(u64),
    /// A bit.
    Bit(bool),
    /// A short or a long string.
    Text(String),
    /// A table.
    Table(Table),
}

impl Arg {
    /// What an argument is when a program does not name it.
    #[must_use]
    pub const fn nothing(kind: Kind) -> Self {
        match kind {
            Kind::Octet | Kind::Word | Kind::Long | Kind::LongLong => Self::Num(0),
            Kind::Bit => Self::Bit(false),
            Kind::Short | Kind::LongText => Self::Text(String::new()),
            Kind::Table => Self::Table(Vec::new()),
        }
    }

    /// Appends the bytes of an argument that is not a bit.
    ///
    /// # Panics
    /// When the argument does not fit its kind.
    #[allow(clippy::cast_possible_truncation)] // an integer's layout keeps its low bits
    pub fn write(&self, kind: Kind, out: &mut Vec<u8>) {
        match (kind, self) {
            (Kind::Octet, Self::Num(number)) => out.push(*number as u8),
            (Kind::Word, Self::Num(number)) => out.extend((*number as u16).to_be_bytes()),
            (Kind::Long, Self::Num(number)) => out.extend((*number as u32).to_be_bytes()),
            (Kind::LongLong, Self::Num(number)) => out.extend(number.to_be_bytes()),
            (Kind::Short, Self::Text(text)) => short(text, out),
            (Kind::LongText, Self::Text(text)) => long(text.as_bytes(), out),
            (Kind::Table, Self::Table(table)) => write_table(table, out),
            (kind, arg) => panic!("{arg:?} is not laid out as {kind:?}"),
        }
    }

    /// Reads an argument that is not a bit.
    ///
    /// # Errors
    /// When the bytes end too early or hold what no value is.
    pub fn read(kind: Kind, from: &mut Cursor<'_>) -> Result<Self, String> {
        Ok(match kind {
            Kind::Octet => Self::Num(from.number(1)?),
            Kind::Word => Self::Num(from.number(2)?),
            Kind::Long => Self::Num(from.number(4)?),
            Kind::LongLong => Self::Num(from.number(8)?),
            Kind::Short => Self::Text(from.short()?),
            Kind::LongText => Self::Text(text(from.long()?)),
            Kind::Table => Self::Table(from.table()?),
            Kind::Bit => return Err("a bit is read by its octet".into()),
        })
    }
}

#[allow(clippy::cast_possible_truncation)]
fn short(text: &str, out: &mut Vec<u8>) {
    let bytes = &text.as_bytes()[..text.len().min(255)];
    out.push(bytes.len() as u8);
    out.extend(bytes);
}

fn long(bytes: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(bytes.len()).expect("a program's text is short");
    out.extend(length.to_be_bytes());
    out.extend(bytes);
}

/// Appends a table with its length.
pub fn write_table(table: &Table, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    for (name, value) in table {
        short(name, &mut inner);
        value.write(&mut inner);
    }
    long(&inner, out);
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(value) => out.extend([b't', u8::from(*value)]),
            Self::I8(value) => out.extend([b'b', value.to_be_bytes()[0]]),
            Self::U8(value) => out.extend([b'B', *value]),
            Self::I16(value) => tagged(b's', &value.to_be_bytes(), out),
            Self::U16(value) => tagged(b'u', &value.to_be_bytes(), out),
            Self::I32(value) => tagged(b'I', &value.to_be_bytes(), out),
            Self::U32(value) => tagged(b'i', &value.to_be_bytes(), out),
            Self::I64(value) => tagged(b'l', &value.to_be_bytes(), out),
            Self::F32(value) => tagged(b'f', &value.to_be_bytes(), out),
            Self::F64(value) => tagged(b'd', &value.to_be_bytes(), out),
            Self::Decimal(scale, value) => {
                out.extend([b'D', *scale]);
                out.extend(value.to_be_bytes());
            }
            Self::Text(value) => {
                out.push(b'S');
                long(value.as_bytes(), out);
            }
            Self::Bytes(value) => {
                out.push(b'x');
                long(value, out);
            }
            Self::Time(value) => tagged(b'T', &value.to_be_bytes(), out),
            Self::Table(value) => {
                out.push(b'F');
                write_table(value, out);
            }
            Self::Array(values) => {
                let mut inner = Vec::new();
                for value in values {
                    value.write(&mut inner);
                }
                out.push(b'A');
                long(&inner, out);
            }
            Self::Void => out.push(b'V'),
        }
    }
}

fn tagged(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend(bytes);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads from the front of a slice.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next `count` bytes.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        if count > self.0.len() {
            return Err(format!("{count} bytes wanted, {} left", self.0.len()));
        }
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(head)
    }

    /// A big-endian number of `size` bytes, at most 8.
    ///
    /// # Errors
    /// When the bytes end too early.
    pub fn number(&mut self, size: usize) -> Result<u64, String> {
        let bytes = self.take(size)?;
        Ok(bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("as many as asked for"))
    }

    /// A short string.
    ///
    /// # Errors
    /// When the bytes end too early.
    pub fn short(&mut self) -> Result<String, String> {
        let length = self.number(1)?;
        Ok(text(self.take(usize::try_from(length).expect("an octet"))?))
    }

    fn long(&mut self) -> Result<&'a [u8], String> {
        let length = self.number(4)?;
        self.take(usize::try_from(length).expect("32 bits"))
    }

    /// A table.
    ///
    /// # Errors
    /// When the bytes end too early or a tag is unknown.
    pub fn table(&mut self) -> Result<Table, String> {
        let mut inner = Cursor(self.long()?);
        let mut table = Vec::new();
        while !inner.0.is_empty() {
            table.push((inner.short()?, inner.value()?));
        }
        Ok(table)
    }

    fn value(&mut self) -> Result<Value, String> {
        let tag = self.take(1)?[0];
        Ok(match tag {
            b't' => Value::Bool(self.take(1)?[0] != 0),
            b'b' => Value::I8(i8::from_be_bytes(self.array()?)),
            b'B' => Value::U8(self.take(1)?[0]),
            b's' => Value::I16(i16::from_be_bytes(self.array()?)),
            b'u' => Value::U16(u16::from_be_bytes(self.array()?)),
            b'I' => Value::I32(i32::from_be_bytes(self.array()?)),
            b'i' => Value::U32(u32::from_be_bytes(self.array()?)),
            b'l' | b'L' => Value::I64(i64::from_be_bytes(self.array()?)),
            b'f' => Value::F32(f32::from_be_bytes(self.array()?)),
            b'd' => Value::F64(f64::from_be_bytes(self.array()?)),
            b'D' => Value::Decimal(self.take(1)?[0], u32::from_be_bytes(self.array()?)),
            b'S' => Value::Text(text(self.long()?)),
            b'x' => Value::Bytes(self.long()?.to_vec()),
            b'T' => Value::Time(self.number(8)?),
            b'F' => Value::Table(self.table()?),
            b'A' => {
                let mut inner = Cursor(self.long()?);
                let mut values = Vec::new();
                while !inner.0.is_empty() {
                    values.push(inner.value()?);
                }
                Value::Array(values)
            }
            b'V' => Value::Void,
            other => return Err(format!("unknown tag {other}")),
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(out, "{value}"),
            Self::I8(value) => write!(out, "{value}:b"),
            Self::U8(value) => write!(out, "{value}:B"),
            Self::I16(value) => write!(out, "{value}:s"),
            Self::U16(value) => write!(out, "{value}:u"),
            Self::I32(value) => write!(out, "{value}:I"),
            Self::U32(value) => write!(out, "{value}:i"),
            Self::I64(value) => write!(out, "{value}:l"),
            Self::F32(value) => write!(out, "{value}:f"),
            Self::F64(value) => write!(out, "{value}:d"),
            Self::Decimal(scale, value) => write!(out, "{value}e-{scale}:D"),
            Self::Text(value) => write!(out, "{value:?}"),
            Self::Bytes(value) => write!(out, "{value:?}:x"),
            Self::Time(value) => write!(out, "{value}:T"),
            Self::Table(value) => Arg::Table(value.clone()).fmt(out),
            Self::Array(values) => {
                out.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    write!(out, "{}{value}", if index == 0 { "" } else { ", " })?;
                }
                out.write_str("]")
            }
            Self::Void => out.write_str("void"),
        }
    }
}

impl fmt::Display for Arg {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Num(number) => write!(out, "{number}"),
            Self::Bit(bit) => write!(out, "{bit}"),
            Self::Text(text) => write!(out, "{text:?}"),
            Self::Table(table) => {
                out.write_str("{")?;
                for (index, (name, value)) in table.iter().enumerate() {
                    write!(out, "{}{name}={value}", if index == 0 { "" } else { ", " })?;
                }
                out.write_str("}")
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::{Arg, Cursor, Kind, Table, Value};

    #[test]
    fn a_table_with_every_kind_of_value_is_read_as_it_was_written() {
        let inner: Table = vec![("deep".into(), Value::Text("ü".into()))];
        let table: Table = [
            Value::Bool(true),
            Value::I8(-1),
            Value::U8(255),
            Value::I16(-2),
            Value::U16(65_535),
            Value::I32(-3),
            Value::U32(u32::MAX),
            Value::I64(-4),
            Value::F32(0.5),
            Value::F64(-0.25),
            Value::Decimal(2, 314),
            Value::Text("text".into()),
            Value::Bytes(vec![0, 255]),
            Value::Time(9),
            Value::Table(inner),
            Value::Array(vec![Value::Void, Value::I32(1)]),
            Value::Void,
        ]
        .into_iter()
        .enumerate()
        .map(|(index, value)| (index.to_string(), value))
        .collect();
        let mut bytes = Vec::new();
        Arg::Table(table.clone()).write(Kind::Table, &mut bytes);
        let mut cursor = Cursor(&bytes);
        assert_eq!(cursor.table(), Ok(table));
        assert!(cursor.0.is_empty());
    }
}
