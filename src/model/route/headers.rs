//! Headers matching: a binding's arguments against a message's headers.
//!
//! Need: values compare by class (all integer widths together, text with byte arrays), not by their tag. Shape: headers
//! are read once per message from the raw property bytes, then every binding is tried. Limits: linear in the exchange's
//! bindings. Invariant: malformed properties read as no headers; nothing panics.

use super::Target;
use crate::amqp::value::type_name;
use crate::amqp::{AMQPValue, FieldTable, ProtocolError, RawProperties, ReplyCode};
use crate::model::topology::table::{Value, lookup, term, text, view};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mode {
    any: bool,
    with_x: bool,
}

impl Mode {
    fn of(arguments: &FieldTable) -> Option<Self> {
        let (any, with_x) = match lookup(arguments, "x-match") {
            None => (false, false),
            Some(value) => match text(value)? {
                b"all" => (false, false),
                b"any" => (true, false),
                b"all-with-x" => (false, true),
                b"any-with-x" => (true, true),
                _ => return None,
            },
        };
        Some(Self { any, with_x })
    }
}

/// Whether a headers exchange accepts the binding.
pub(crate) fn check_headers_binding(arguments: &FieldTable) -> Result<(), ProtocolError> {
    if Mode::of(arguments).is_some() {
        return Ok(());
    }
    let Some(given) = lookup(arguments, "x-match") else {
        return Ok(());
    };
    let shown = term(given);
    let text = if text(given).is_some() {
        format!("Invalid x-match field value {shown}; expected all, any, all-with-x, or any-with-x")
    } else {
        let kind = type_name(given);
        format!("Invalid x-match field type {kind} (value {shown}); expected longstr")
    };
    Err(ProtocolError::new(ReplyCode::PreconditionFailed, text))
}

/// A headers exchange's bindings.
#[derive(Debug, Default)]
pub(crate) struct HeaderBindings(Vec<HeaderBinding>);

#[derive(Debug)]
struct HeaderBinding {
    target: Target,
    key: String,
    identity: Vec<u8>,
    any: bool,
    /// The arguments that count.
    wanted: Vec<(String, AMQPValue)>,
}

impl HeaderBinding {
    fn matches(&self, headers: &[(&[u8], Value<'_>)]) -> bool {
        let holds = |(name, value): &(String, AMQPValue)| {
            // RabbitMQ: mc_amqpl.erl, routing_headers. Of several headers of one name the last one counts here.
            let last = headers.iter().rfind(|(other, _)| *other == name.as_bytes());
            last.is_some_and(|(_, actual)| match view(value) {
                Value::Void => true,
                wanted => wanted == *actual,
            })
        };
        if self.any {
            self.wanted.iter().any(holds)
        } else {
            self.wanted.iter().all(holds)
        }
    }
}

impl HeaderBindings {
    pub(super) fn insert(
        &mut self,
        target: &Target,
        key: &str,
        arguments: &FieldTable,
        identity: &[u8],
    ) {
        let mode = Mode::of(arguments).unwrap_or(Mode {
            any: false,
            with_x: false,
        });
        let counts = |name: &str| name != "x-match" && (mode.with_x || !name.starts_with("x-"));
        let wanted = arguments
            .into_iter()
            .filter(|(name, _)| counts(name.as_str()));
        self.0.push(HeaderBinding {
            target: target.clone(),
            key: key.to_owned(),
            identity: identity.to_vec(),
            any: mode.any,
            wanted: wanted
                .map(|(name, value)| (name.to_string(), value.clone()))
                .collect(),
        });
    }

    pub(super) fn remove(&mut self, target: &Target, key: &str, identity: &[u8]) {
        self.0.retain(|binding| {
            binding.target != *target || binding.key != key || binding.identity != identity
        });
    }

    /// Calls `found` for every binding that matches.
    pub(super) fn matches<'a>(
        &'a self,
        properties: &RawProperties,
        found: &mut impl FnMut(&'a Target),
    ) {
        let headers = read_headers(&properties.0).unwrap_or_default();
        for binding in self.0.iter().filter(|binding| binding.matches(&headers)) {
            found(&binding.target);
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(head)
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    take(rest, N)?.try_into().ok()
}

fn short<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [len] = fixed(rest)?;
    take(rest, usize::from(len))
}

fn long<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32::from_be_bytes(fixed(rest)?);
    take(rest, usize::try_from(len).ok()?)
}

/// The headers table of raw properties: flags, content type, content encoding, headers, ….
fn read_headers(properties: &[u8]) -> Option<Vec<(&[u8], Value<'_>)>> {
    let mut rest = properties;
    let flags = u16::from_be_bytes(fixed(&mut rest)?);
    let mut more = flags;
    while more & 1 != 0 {
        more = u16::from_be_bytes(fixed(&mut rest)?);
    }
    for bit in [15, 14] {
        if flags >> bit & 1 != 0 {
            short(&mut rest)?;
        }
    }
    if flags >> 13 & 1 == 0 {
        return None;
    }
    let mut table = long(&mut rest)?;
    let mut headers = Vec::new();
    while !table.is_empty() {
        let name = short(&mut table)?;
        headers.push((name, wire_value(&mut table)?));
    }
    Some(headers)
}

fn wire_value<'a>(rest: &mut &'a [u8]) -> Option<Value<'a>> {
    let [tag] = fixed(rest)?;
    Some(match tag {
        b't' => Value::Bool(fixed::<1>(rest)? != [0]),
        b'b' => Value::Int(i64::from(i8::from_be_bytes(fixed(rest)?))),
        b'B' => Value::Int(i64::from(u8::from_be_bytes(fixed(rest)?))),
        b's' | b'U' => Value::Int(i64::from(i16::from_be_bytes(fixed(rest)?))),
        b'u' => Value::Int(i64::from(u16::from_be_bytes(fixed(rest)?))),
        b'I' => Value::Int(i64::from(i32::from_be_bytes(fixed(rest)?))),
        b'i' => Value::Int(i64::from(u32::from_be_bytes(fixed(rest)?))),
        b'l' | b'L' => Value::Int(i64::from_be_bytes(fixed(rest)?)),
        b'f' => Value::Float(f64::from(f32::from_be_bytes(fixed(rest)?))),
        b'd' => Value::Float(f64::from_be_bytes(fixed(rest)?)),
        b'D' => {
            take(rest, 5)?;
            Value::Opaque
        }
        b'S' | b'x' => Value::Text(long(rest)?),
        b'T' => Value::Time(u64::from_be_bytes(fixed(rest)?)),
        b'A' | b'F' => {
            long(rest)?;
            Value::Opaque
        }
        b'V' => Value::Void,
        _ => return None,
    })
}
