//! Methods and content headers: one table of layouts, and what is read and written by it.
//!
//! Need: programs send any method of the protocol, those included that only a server may send, with any arguments.
//! Shape: [`LAYOUTS`] has one row per method; [`Method`] is a row and its arguments. The text of a method leaves out
//! what is zero, false or empty.
//! Source: AMQP 0-9-1, and RabbitMQ's extensions of it (confirms, nack, exchange bindings, update-secret).

use std::fmt;

use super::value::{Arg, Cursor, Kind, Table};

/// A method's name, its numbers, its arguments as `name:letter`, and the number of the method that answers it.
#[derive(Debug)]
pub struct Layout {
    /// As in the protocol's text.
    pub name: &'static str,
    /// Class number.
    pub class: u16,
    /// Method number.
    pub id: u16,
    fields: &'static str,
    /// Number of the answer, in the same class; 0 when there is none.
    pub answer: u16,
}

const fn row(name: &'static str, class: u16, id: u16, fields: &'static str, answer: u16) -> Layout {
    Layout {
        name,
        class,
        id,
        fields,
        answer,
    }
}

const CLOSE: &str = "code:w text:s class:w method:w";

/// Every method.
pub const LAYOUTS: &[Layout] = &[
    row(
        "connection.start",
        10,
        10,
        "major:o minor:o properties:t mechanisms:S locales:S",
        0,
    ),
    row(
        "connection.start-ok",
        10,
        11,
        "properties:t mechanism:s response:S locale:s",
        0,
    ),
    row("connection.secure", 10, 20, "challenge:S", 0),
    row("connection.secure-ok", 10, 21, "response:S", 0),
    row(
        "connection.tune",
        10,
        30,
        "channel-max:w frame-max:l heartbeat:w",
        0,
    ),
    row(
        "connection.tune-ok",
        10,
        31,
        "channel-max:w frame-max:l heartbeat:w",
        0,
    ),
    row("connection.open", 10, 40, "vhost:s reserved:s insist:b", 41),
    row("connection.open-ok", 10, 41, "reserved:s", 0),
    row("connection.close", 10, 50, CLOSE, 51),
    row("connection.close-ok", 10, 51, "", 0),
    row("connection.blocked", 10, 60, "reason:s", 0),
    row("connection.unblocked", 10, 61, "", 0),
    row("connection.update-secret", 10, 70, "secret:S reason:s", 71),
    row("connection.update-secret-ok", 10, 71, "", 0),
    row("channel.open", 20, 10, "reserved:s", 11),
    row("channel.open-ok", 20, 11, "reserved:S", 0),
    row("channel.flow", 20, 20, "active:b", 21),
    row("channel.flow-ok", 20, 21, "active:b", 0),
    row("channel.close", 20, 40, CLOSE, 41),
    row("channel.close-ok", 20, 41, "", 0),
    row(
        "access.request",
        30,
        10,
        "realm:s exclusive:b passive:b active:b write:b read:b",
        11,
    ),
    row("access.request-ok", 30, 11, "ticket:w", 0),
    row(
        "exchange.declare",
        40,
        10,
        "ticket:w exchange:s type:s passive:b durable:b auto-delete:b internal:b no-wait:b arguments:t",
        11,
    ),
    row("exchange.declare-ok", 40, 11, "", 0),
    row(
        "exchange.delete",
        40,
        20,
        "ticket:w exchange:s if-unused:b no-wait:b",
        21,
    ),
    row("exchange.delete-ok", 40, 21, "", 0),
    row(
        "exchange.bind",
        40,
        30,
        "ticket:w destination:s source:s key:s no-wait:b arguments:t",
        31,
    ),
    row("exchange.bind-ok", 40, 31, "", 0),
    row(
        "exchange.unbind",
        40,
        40,
        "ticket:w destination:s source:s key:s no-wait:b arguments:t",
        51,
    ),
    row("exchange.unbind-ok", 40, 51, "", 0),
    row(
        "queue.declare",
        50,
        10,
        "ticket:w queue:s passive:b durable:b exclusive:b auto-delete:b no-wait:b arguments:t",
        11,
    ),
    row(
        "queue.declare-ok",
        50,
        11,
        "queue:s messages:l consumers:l",
        0,
    ),
    row(
        "queue.bind",
        50,
        20,
        "ticket:w queue:s exchange:s key:s no-wait:b arguments:t",
        21,
    ),
    row("queue.bind-ok", 50, 21, "", 0),
    row("queue.purge", 50, 30, "ticket:w queue:s no-wait:b", 31),
    row("queue.purge-ok", 50, 31, "messages:l", 0),
    row(
        "queue.delete",
        50,
        40,
        "ticket:w queue:s if-unused:b if-empty:b no-wait:b",
        41,
    ),
    row("queue.delete-ok", 50, 41, "messages:l", 0),
    row(
        "queue.unbind",
        50,
        50,
        "ticket:w queue:s exchange:s key:s arguments:t",
        51,
    ),
    row("queue.unbind-ok", 50, 51, "", 0),
    row("basic.qos", 60, 10, "size:l count:w global:b", 11),
    row("basic.qos-ok", 60, 11, "", 0),
    row(
        "basic.consume",
        60,
        20,
        "ticket:w queue:s consumer:s no-local:b no-ack:b exclusive:b no-wait:b arguments:t",
        21,
    ),
    row("basic.consume-ok", 60, 21, "consumer:s", 0),
    row("basic.cancel", 60, 30, "consumer:s no-wait:b", 31),
    row("basic.cancel-ok", 60, 31, "consumer:s", 0),
    row(
        "basic.publish",
        60,
        40,
        "ticket:w exchange:s key:s mandatory:b immediate:b",
        0,
    ),
    row("basic.return", 60, 50, "code:w text:s exchange:s key:s", 0),
    row(
        "basic.deliver",
        60,
        60,
        "consumer:s tag:L redelivered:b exchange:s key:s",
        0,
    ),
    row("basic.get", 60, 70, "ticket:w queue:s no-ack:b", 71),
    row(
        "basic.get-ok",
        60,
        71,
        "tag:L redelivered:b exchange:s key:s messages:l",
        0,
    ),
    row("basic.get-empty", 60, 72, "reserved:s", 0),
    row("basic.ack", 60, 80, "tag:L multiple:b", 0),
    row("basic.reject", 60, 90, "tag:L requeue:b", 0),
    row("basic.recover-async", 60, 100, "requeue:b", 0),
    row("basic.recover", 60, 110, "requeue:b", 111),
    row("basic.recover-ok", 60, 111, "", 0),
    row("basic.nack", 60, 120, "tag:L multiple:b requeue:b", 0),
    row("confirm.select", 85, 10, "no-wait:b", 11),
    row("confirm.select-ok", 85, 11, "", 0),
    row("tx.select", 90, 10, "", 11),
    row("tx.select-ok", 90, 11, "", 0),
    row("tx.commit", 90, 20, "", 21),
    row("tx.commit-ok", 90, 21, "", 0),
    row("tx.rollback", 90, 30, "", 31),
    row("tx.rollback-ok", 90, 31, "", 0),
];

/// The properties of class 60, from the flag of bit 15 downwards.
pub const PROPERTIES: &str = "content-type:s content-encoding:s headers:t delivery-mode:o priority:o correlation-id:s reply-to:s \
     expiration:s message-id:s timestamp:L type:s user-id:s app-id:s cluster-id:s";

fn fields(text: &'static str) -> impl Iterator<Item = (&'static str, Kind)> {
    text.split_whitespace().map(|field| {
        let (name, letter) = field.split_once(':').expect("name:letter");
        (name, Kind::of(letter))
    })
}

/// A method with its arguments.
#[derive(Clone)]
pub struct Method {
    /// Its row.
    pub layout: &'static Layout,
    /// One per field of the layout.
    pub args: Vec<Arg>,
}

impl Method {
    /// A method by its name, all arguments zero, false or empty.
    ///
    /// # Panics
    /// When no row has the name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let layout = LAYOUTS
            .iter()
            .find(|layout| layout.name == name)
            .unwrap_or_else(|| panic!("no method {name}"));
        let args = fields(layout.fields)
            .map(|(_, kind)| Arg::nothing(kind))
            .collect();
        Self { layout, args }
    }

    fn index(&self, name: &str) -> usize {
        fields(self.layout.fields)
            .position(|(field, _)| field == name)
            .unwrap_or_else(|| panic!("{} has no {name}", self.layout.name))
    }

    /// The same with one argument set.
    #[must_use]
    pub fn with(mut self, name: &str, arg: Arg) -> Self {
        let index = self.index(name);
        self.args[index] = arg;
        self
    }

    /// The same with a text set.
    #[must_use]
    pub fn text(self, name: &str, text: &str) -> Self {
        self.with(name, Arg::Text(text.into()))
    }

    /// The same with a bit set.
    #[must_use]
    pub fn bit(self, name: &str, bit: bool) -> Self {
        self.with(name, Arg::Bit(bit))
    }

    /// The same with a number set.
    #[must_use]
    pub fn num(self, name: &str, number: u64) -> Self {
        self.with(name, Arg::Num(number))
    }

    /// The same with a table set.
    #[must_use]
    pub fn table(self, name: &str, table: Table) -> Self {
        self.with(name, Arg::Table(table))
    }

    /// An argument that is text.
    #[must_use]
    pub fn text_of(&self, name: &str) -> &str {
        match &self.args[self.index(name)] {
            Arg::Text(text) => text,
            other => panic!("{name} is {other}"),
        }
    }

    /// An argument that is a number.
    #[must_use]
    pub fn num_of(&self, name: &str) -> u64 {
        match &self.args[self.index(name)] {
            Arg::Num(number) => *number,
            other => panic!("{name} is {other}"),
        }
    }

    /// An argument that is a table.
    #[must_use]
    pub fn table_of(&self, name: &str) -> &Table {
        match &self.args[self.index(name)] {
            Arg::Table(table) => table,
            other => panic!("{name} is {other}"),
        }
    }

    /// An argument that is a bit; false when the method has none of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let mut named = fields(self.layout.fields).zip(&self.args);
        named.any(|((field, _), arg)| field == name && *arg == Arg::Bit(true))
    }

    /// The method's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.layout.name
    }

    /// The payload of its frame.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.layout.class.to_be_bytes());
        out.extend(self.layout.id.to_be_bytes());
        let mut bits = 0_u32;
        for ((_, kind), arg) in fields(self.layout.fields).zip(&self.args) {
            let Arg::Bit(bit) = arg else {
                bits = 0;
                arg.write(kind, &mut out);
                continue;
            };
            if bits.is_multiple_of(8) {
                out.push(0);
            }
            if let Some(octet) = out.last_mut() {
                *octet |= u8::from(*bit) << (bits % 8);
            }
            bits += 1;
        }
        out
    }

    /// Reads the payload of a method frame.
    ///
    /// # Errors
    /// When no method has these numbers, or its arguments are not laid out so, or bytes are left over.
    pub fn read(payload: &[u8]) -> Result<Self, String> {
        let mut from = Cursor(payload);
        let (class, id) = (from.number(2)?, from.number(2)?);
        let layout = LAYOUTS
            .iter()
            .find(|layout| u64::from(layout.class) == class && u64::from(layout.id) == id)
            .ok_or_else(|| format!("unknown method {class}.{id}"))?;
        let (mut args, mut octet, mut bits) = (Vec::new(), 0, 0_u32);
        for (_, kind) in fields(layout.fields) {
            if kind != Kind::Bit {
                bits = 0;
                args.push(Arg::read(kind, &mut from)?);
                continue;
            }
            if bits.is_multiple_of(8) {
                octet = from.number(1)?;
            }
            args.push(Arg::Bit(octet >> (bits % 8) & 1 == 1));
            bits += 1;
        }
        if !from.0.is_empty() {
            return Err(format!("{} bytes behind {}", from.0.len(), layout.name));
        }
        Ok(Self { layout, args })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.layout.name)?;
        for ((name, kind), arg) in fields(self.layout.fields).zip(&self.args) {
            match arg {
                Arg::Bit(true) => write!(out, " {name}")?,
                arg if *arg == Arg::nothing(kind) => {}
                arg => write!(out, " {name}={arg}")?,
            }
        }
        Ok(())
    }
}

/// The properties of a message that are there, each by its place from bit 15 downwards.
#[derive(Clone, Default, PartialEq)]
pub struct Properties(pub Vec<(usize, Arg)>);

impl Properties {
    /// Sets one by its name.
    ///
    /// # Panics
    /// When no property has the name.
    pub fn set(&mut self, name: &str, arg: Arg) {
        let place = fields(PROPERTIES)
            .position(|(field, _)| field == name)
            .expect("a property");
        self.0.retain(|(other, _)| *other != place);
        self.0.push((place, arg));
        self.0.sort_by_key(|(place, _)| *place);
    }

    /// Takes one out by its name.
    pub fn unset(&mut self, name: &str) {
        let place = fields(PROPERTIES).position(|(field, _)| field == name);
        self.0.retain(|(other, _)| Some(*other) != place);
    }

    /// The headers, when there are any.
    pub fn headers_mut(&mut self) -> Option<&mut Table> {
        self.0.iter_mut().find_map(|(_, arg)| match arg {
            Arg::Table(table) => Some(table),
            _ => None,
        })
    }

    /// The payload of a content header.
    #[must_use]
    pub fn payload(&self, body_size: u64) -> Vec<u8> {
        let mut out = vec![0, 60, 0, 0];
        out.extend(body_size.to_be_bytes());
        let flags = self
            .0
            .iter()
            .fold(0_u16, |flags, (place, _)| flags | 0x8000 >> place);
        out.extend(flags.to_be_bytes());
        let kinds: Vec<_> = fields(PROPERTIES).collect();
        for (place, arg) in &self.0 {
            arg.write(kinds[*place].1, &mut out);
        }
        out
    }

    /// Reads the payload of a content header: the properties and the size of the body.
    ///
    /// # Errors
    /// When the header is not one of class 60 or ends too early.
    pub fn read(payload: &[u8]) -> Result<(Self, u64), String> {
        let mut from = Cursor(payload);
        let (class, weight) = (from.number(2)?, from.number(2)?);
        if (class, weight) != (60, 0) {
            return Err(format!("header of class {class}, weight {weight}"));
        }
        let (size, flags) = (from.number(8)?, from.number(2)?);
        let mut properties = Vec::new();
        for (place, (_, kind)) in fields(PROPERTIES).enumerate() {
            if flags & 0x8000 >> place != 0 {
                properties.push((place, Arg::read(kind, &mut from)?));
            }
        }
        if !from.0.is_empty() || flags & 3 != 0 {
            return Err(format!("flags {flags:x}, {} bytes left", from.0.len()));
        }
        Ok((Self(properties), size))
    }
}

impl fmt::Display for Properties {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = fields(PROPERTIES).collect();
        for (place, arg) in &self.0 {
            write!(out, " {}={arg}", names[*place].0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::{Arg, LAYOUTS, Method, Properties, fields};
    use crate::differential::value::Kind;

    fn filled(kind: Kind, index: usize) -> Arg {
        match kind {
            Kind::Bit => Arg::Bit(index.is_multiple_of(2)),
            Kind::Short | Kind::LongText => Arg::Text(format!("text{index}")),
            Kind::Table => Arg::Table(Vec::new()),
            _ => Arg::Num(index as u64),
        }
    }

    #[test]
    fn every_method_is_read_as_it_was_written() {
        for layout in LAYOUTS {
            let args = fields(layout.fields)
                .enumerate()
                .map(|(index, (_, kind))| filled(kind, index))
                .collect();
            let method = Method { layout, args };
            let read = Method::read(&method.payload()).expect("readable");
            assert_eq!(read.to_string(), method.to_string());
        }
    }

    #[test]
    fn properties_are_read_as_they_were_written() {
        let mut properties = Properties::default();
        properties.set("priority", Arg::Num(3));
        properties.set("content-type", Arg::Text("text/plain".into()));
        properties.set("cluster-id", Arg::Text("c".into()));
        let (read, size) = Properties::read(&properties.payload(7)).expect("readable");
        assert!(read == properties && size == 7);
    }
}
