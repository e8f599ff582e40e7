//! What a shovel's parameter says, and whether it may (RabbitMQ's `rabbit_shovel_parameters`).
//!
//! Shape: [`Definition::read`] reads a table as a whole and names everything that is wrong with it. Not here: who may
//! define one.

use std::time::Duration;

use lapin::BasicProperties as AMQPProperties;

use super::uri::Uri;
use crate::amqp::value::as_int;
use crate::amqp::{AMQPValue, FieldTable, ShortString};

/// Messages under way between the two ends, where the definition does not say.
const PREFETCH: u16 = 1000;
/// Between two attempts.
const RECONNECT_DELAY: Duration = Duration::from_secs(5);

/// When the message is taken from the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckMode {
    /// When it has come: at most once.
    NoAck,
    /// When it is on its way to the destination: at most once.
    OnPublish,
    /// When the destination has confirmed it: at least once.
    OnConfirm,
}

/// When a shovel has done its work and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteAfter {
    /// It stays.
    Never,
    /// After as many messages as are ready at its start.
    QueueLength,
    /// After this many.
    Messages(u64),
}

/// Where messages come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A queue, and what it is declared with if it is not there.
    Queue {
        /// Its name.
        name: String,
        /// Its arguments.
        arguments: FieldTable,
    },
    /// An exchange: a queue of the shovel's own is bound to it.
    Exchange {
        /// Its name.
        name: String,
        /// Of the binding.
        key: String,
    },
    /// An address of AMQP 1.0, which is not spoken.
    Address(String),
}

/// Where messages go.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    /// A queue, and what it is declared with if it is not there.
    Queue {
        /// Its name.
        name: String,
        /// Its arguments.
        arguments: FieldTable,
    },
    /// Where they were published before, but for what is said here.
    Exchange {
        /// Another exchange.
        name: Option<String>,
        /// Another key.
        key: Option<String>,
    },
    /// An address of AMQP 1.0.
    Address(String),
}

/// A shovel as it is defined.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Addresses of the source; one is taken at each attempt.
    pub source_uris: Vec<Uri>,
    /// Addresses of the destination.
    pub destination_uris: Vec<Uri>,
    /// From where.
    pub source: Source,
    /// To where.
    pub destination: Destination,
    /// A missing source queue is an error (true), or made (false).
    pub source_predeclared: Option<bool>,
    /// The same of the destination's.
    pub destination_predeclared: Option<bool>,
    /// Arguments of its consumer.
    pub consumer_arguments: FieldTable,
    /// Messages under way.
    pub prefetch: u16,
    /// See [`AckMode`].
    pub ack_mode: AckMode,
    /// See [`DeleteAfter`].
    pub delete_after: DeleteAfter,
    /// `None`: it is not tried again.
    pub reconnect_delay: Option<Duration>,
    /// Properties set in every message.
    pub properties: FieldTable,
    /// `x-shovelled` is added to the headers.
    pub forward_headers: bool,
    /// `x-shovelled-timestamp` is.
    pub timestamp_header: bool,
}

/// Keys of either end in any protocol.
const KEYS: &[&str] = &[
    "ack-mode",
    "add-forward-headers",
    "add-timestamp-header",
    "delete-after",
    "dest-add-forward-headers",
    "dest-add-timestamp-header",
    "dest-protocol",
    "dest-uri",
    "prefetch-count",
    "publish-properties",
    "reconnect-delay",
    "src-delete-after",
    "src-prefetch-count",
    "src-protocol",
    "src-uri",
];
/// Keys of the two ends in AMQP 0-9-1.
const KEYS_091: [&[&str]; 2] = [
    &[
        "src-consumer-args",
        "src-exchange",
        "src-exchange-key",
        "src-predeclared",
        "src-queue",
        "src-queue-args",
    ],
    &[
        "dest-exchange",
        "dest-exchange-key",
        "dest-predeclared",
        "dest-publish-properties",
        "dest-queue",
        "dest-queue-args",
    ],
];
/// Keys of the two ends in AMQP 1.0.
const KEYS_10: [&[&str]; 2] = [
    &["src-address"],
    &[
        "dest-address",
        "dest-application-properties",
        "dest-message-annotations",
        "dest-properties",
    ],
];
/// AMQP 1.0.
const AMQP10: &str = "amqp10";

/// Properties that may be set, and whether they are numbers.
pub const PROPERTIES: &[(&str, bool)] = &[
    ("app_id", false),
    ("cluster_id", false),
    ("content_encoding", false),
    ("content_type", false),
    ("correlation_id", false),
    ("delivery_mode", true),
    ("expiration", false),
    ("message_id", false),
    ("priority", true),
    ("reply_to", false),
    ("timestamp", true),
    ("type", false),
    ("user_id", false),
];

/// A table being read, and what is wrong with it so far.
struct Reader<'a> {
    table: &'a FieldTable,
    errors: Vec<String>,
}

impl Definition {
    /// Reads a parameter's value; `name` is the shovel's.
    ///
    /// # Errors
    /// A line for each thing that is wrong, in RabbitMQ's words as far as they are English.
    pub fn read(name: &str, value: &AMQPValue) -> Result<Self, String> {
        let empty = FieldTable::default();
        let (table, mut errors) = match value {
            AMQPValue::FieldTable(table) => (table, Vec::new()),
            other => (
                &empty,
                vec![format!("{name} is no object: {}", said(other))],
            ),
        };
        let mut reader = Reader {
            table,
            errors: Vec::new(),
        };
        let read = reader.definition(name);
        errors.extend(reader.errors);
        match errors.is_empty() {
            true => Ok(read),
            false => Err(errors.join("\n")),
        }
    }

    /// Queues, exchanges and keys it is about, by the names of their keys.
    pub fn places(&self) -> Vec<(&'static str, String)> {
        let mut places = match &self.source {
            Source::Queue { name, .. } => vec![("src-queue", name.clone())],
            Source::Exchange { name, key } => vec![
                ("src-exchange", name.clone()),
                ("src-exchange-key", key.clone()),
            ],
            Source::Address(address) => vec![("src-address", address.clone())],
        };
        match &self.destination {
            Destination::Queue { name, .. } => places.push(("dest-queue", name.clone())),
            Destination::Exchange { name, key } => {
                let named = [("dest-exchange", name), ("dest-exchange-key", key)];
                let named = named.into_iter();
                places.extend(named.filter_map(|(key, value)| Some((key, value.clone()?))));
            }
            Destination::Address(address) => places.push(("dest-address", address.clone())),
        }
        places
    }

    /// Properties with those it sets.
    #[must_use]
    pub fn overwrite(&self, mut properties: AMQPProperties) -> AMQPProperties {
        let texts = |value: &AMQPValue| match value {
            AMQPValue::LongString(text) => {
                let text = String::from_utf8_lossy(text.as_bytes()).into_owned();
                ShortString::try_new(text).unwrap_or_default()
            }
            _ => ShortString::default(),
        };
        for (key, value) in self.properties.inner() {
            let number = as_int(value).and_then(|number| u64::try_from(number).ok());
            let (number, text) = (number.unwrap_or_default(), texts(value));
            let small = u8::try_from(number).unwrap_or(u8::MAX);
            properties = match key.as_str() {
                "app_id" => properties.with_app_id(text),
                "cluster_id" => properties.with_cluster_id(text),
                "content_encoding" => properties.with_content_encoding(text),
                "content_type" => properties.with_content_type(text),
                "correlation_id" => properties.with_correlation_id(text),
                "delivery_mode" => properties.with_delivery_mode(small),
                "expiration" => properties.with_expiration(text),
                "message_id" => properties.with_message_id(text),
                "priority" => properties.with_priority(small),
                "reply_to" => properties.with_reply_to(text),
                "timestamp" => properties.with_timestamp(number),
                "type" => properties.with_type(text),
                "user_id" => properties.with_user_id(text),
                _ => properties,
            };
        }
        properties
    }

    /// Vhosts of this cluster it works in without naming a user: who defines it must have access to them.
    pub fn own_vhosts(&self) -> impl Iterator<Item = &str> {
        let uris = self.source_uris.iter().chain(&self.destination_uris);
        let own = uris.filter(|uri| uri.host.is_none() && uri.login.is_none());
        own.map(|uri| &*uri.vhost)
    }
}

impl Reader<'_> {
    fn definition(&mut self, name: &str) -> Definition {
        let protocols = ["src-protocol", "dest-protocol"];
        let protocols =
            protocols.map(|key| self.one_of(key, &["amqp091", "local", AMQP10], "amqp091"));
        let source = match protocols[0] {
            AMQP10 => Source::Address(self.address("src-address", name)),
            _ => self.source(),
        };
        let destination = match protocols[1] {
            AMQP10 => Destination::Address(self.address("dest-address", name)),
            _ => self.destination(),
        };
        let of_ends = protocols.iter().zip(KEYS_091).zip(KEYS_10);
        let of_ends = of_ends.map(|((protocol, known), keys_10)| match *protocol {
            AMQP10 => keys_10,
            _ => known,
        });
        let known: Vec<&str> = of_ends.chain([KEYS]).flatten().copied().collect();
        let unknown = self.table.inner().keys().map(|key| key.as_str());
        let unknown: Vec<&str> = unknown.filter(|key| !known.contains(key)).collect();
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            self.errors
                .push(format!("Unrecognised terms [{unknown}] in {name}"));
        }
        let destination_uris = self.uris("dest-uri", name);
        let source_uris = self.uris("src-uri", name);
        let ack_mode = match self.one_of(
            "ack-mode",
            &["no-ack", "on-publish", "on-confirm"],
            "on-confirm",
        ) {
            "no-ack" => AckMode::NoAck,
            "on-publish" => AckMode::OnPublish,
            _ => AckMode::OnConfirm,
        };
        let delete_after = self.delete_after();
        if ack_mode == AckMode::NoAck && matches!(delete_after, DeleteAfter::Messages(_)) {
            let text = "Cannot specify 'no-ack' and numerical 'delete-after'";
            self.errors.push(text.to_owned());
        }
        let prefetch = self.number(&["src-prefetch-count", "prefetch-count"]);
        let delay = self.number(&["reconnect-delay"]);
        Definition {
            source_uris,
            destination_uris,
            source,
            destination,
            source_predeclared: self.switch(&["src-predeclared"]),
            destination_predeclared: self.switch(&["dest-predeclared"]),
            consumer_arguments: self.table_of("src-consumer-args"),
            prefetch: prefetch.map_or(PREFETCH, bounded),
            ack_mode,
            delete_after,
            reconnect_delay: match delay {
                None => Some(RECONNECT_DELAY),
                Some(0) => None,
                Some(seconds) => Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
            },
            properties: self.properties(),
            forward_headers: self.flag(&["dest-add-forward-headers", "add-forward-headers"]),
            timestamp_header: self.flag(&["dest-add-timestamp-header", "add-timestamp-header"]),
        }
    }

    fn get(&self, key: &str) -> Option<&AMQPValue> {
        self.table.inner().get(key)
    }

    fn wrong(&mut self, key: &str, should: &str, value: &AMQPValue) {
        let said = said(value);
        self.errors
            .push(format!("{key} should be {should}, actually was {said}"));
    }

    fn address(&mut self, key: &str, name: &str) -> String {
        if self.get(key).is_none() {
            let text = format!("Key \"{key}\" not found in {name}");
            self.errors.push(text);
        }
        self.text(key).unwrap_or_default()
    }

    fn source(&mut self) -> Source {
        let queue = self.text("src-queue");
        let exchange = self.text("src-exchange");
        let key = self.text("src-exchange-key").unwrap_or_default();
        let arguments = self.table_of("src-queue-args");
        match (queue, exchange) {
            (Some(_), Some(_)) => self
                .errors
                .push("Cannot specify 'src-exchange' and 'src-queue'".to_owned()),
            (Some(name), None) => return Source::Queue { name, arguments },
            (None, Some(name)) => return Source::Exchange { name, key },
            (None, None) => self
                .errors
                .push("Must specify 'src-exchange' or 'src-queue'".to_owned()),
        }
        let name = String::new();
        Source::Exchange { name, key }
    }

    fn destination(&mut self) -> Destination {
        let queue = self.text("dest-queue");
        let exchange = self.text("dest-exchange");
        let key = self.text("dest-exchange-key");
        let arguments = self.table_of("dest-queue-args");
        match (queue, exchange) {
            (Some(name), None) => return Destination::Queue { name, arguments },
            (Some(_), Some(_)) => self
                .errors
                .push("Cannot specify 'dest-exchange' and 'dest-queue'".to_owned()),
            (None, name) => return Destination::Exchange { name, key },
        }
        Destination::Exchange { name: None, key }
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.get(key)?.clone() {
            AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into()),
            other => {
                self.wrong(key, "binary", &other);
                None
            }
        }
    }

    fn one_of<'k>(&mut self, key: &str, words: &[&'k str], default: &'k str) -> &'k str {
        let Some(value) = self.get(key).cloned() else {
            return default;
        };
        let known = match &value {
            AMQPValue::LongString(text) => {
                words.iter().find(|word| word.as_bytes() == text.as_bytes())
            }
            _ => None,
        };
        match known {
            Some(word) => word,
            None => {
                let words = words.join(", ");
                self.wrong(key, &format!("one of [{words}]"), &value);
                default
            }
        }
    }

    /// The first of these keys that is there.
    fn first(&self, keys: &[&'static str]) -> Option<(&'static str, AMQPValue)> {
        keys.iter()
            .find_map(|key| Some((*key, self.get(key)?.clone())))
    }

    fn number(&mut self, keys: &[&'static str]) -> Option<i64> {
        let (key, value) = self.first(keys)?;
        let number = as_int(&value);
        if number.is_none() {
            self.wrong(key, "a number", &value);
        }
        number
    }

    fn switch(&mut self, keys: &[&'static str]) -> Option<bool> {
        match self.first(keys)? {
            (_, AMQPValue::Boolean(flag)) => Some(flag),
            (key, other) => {
                self.wrong(key, "boolean", &other);
                None
            }
        }
    }

    fn flag(&mut self, keys: &[&'static str]) -> bool {
        self.switch(keys).unwrap_or(false)
    }

    fn table_of(&mut self, key: &'static str) -> FieldTable {
        match self.get(key).cloned() {
            Some(AMQPValue::FieldTable(table)) => table,
            // What JSON's empty object becomes in some exports.
            Some(AMQPValue::FieldArray(array)) if array.as_slice().is_empty() => {
                FieldTable::default()
            }
            Some(other) => {
                self.errors
                    .push(format!("{key} not a list {}", said(&other)));
                FieldTable::default()
            }
            None => FieldTable::default(),
        }
    }

    fn properties(&mut self) -> FieldTable {
        let keys = ["dest-publish-properties", "publish-properties"];
        let Some((key, _)) = self.first(&keys) else {
            return FieldTable::default();
        };
        let table = self.table_of(key);
        for (property, value) in table.inner() {
            let known = PROPERTIES
                .iter()
                .find(|(name, _)| *name == property.as_str());
            match (known, value) {
                (None, _) => self
                    .errors
                    .push(format!("Unrecognised terms [{property}] in {key}")),
                (Some((_, true)), value) if as_int(value).is_none() => {
                    self.wrong(property.as_str(), "a number", value);
                }
                (Some((_, false)), value) if !is_short(value) => {
                    self.wrong(property.as_str(), "binary", value);
                }
                _ => {}
            }
        }
        table
    }

    fn delete_after(&mut self) -> DeleteAfter {
        let Some((key, value)) = self.first(&["src-delete-after", "delete-after"]) else {
            return DeleteAfter::Never;
        };
        let count = as_int(&value).and_then(|count| u64::try_from(count).ok());
        match (&value, count) {
            (AMQPValue::LongString(text), _) if text.as_bytes() == b"never" => DeleteAfter::Never,
            (AMQPValue::LongString(text), _) if text.as_bytes() == b"queue-length" => {
                DeleteAfter::QueueLength
            }
            (_, Some(count)) => DeleteAfter::Messages(count),
            _ => {
                let should = "a number greater than or equal to 0, \"never\" or \"queue-length\"";
                self.wrong(key, should, &value);
                DeleteAfter::Never
            }
        }
    }

    fn uris(&mut self, key: &str, name: &str) -> Vec<Uri> {
        let texts = match self.get(key).cloned() {
            None => {
                self.errors
                    .push(format!("Key \"{key}\" not found in {name}"));
                return Vec::new();
            }
            Some(AMQPValue::FieldArray(array)) => array.as_slice().to_vec(),
            Some(one) => vec![one],
        };
        let mut uris = Vec::new();
        for text in &texts {
            let AMQPValue::LongString(text) = text else {
                self.wrong(key, "list", text);
                continue;
            };
            match Uri::parse(&String::from_utf8_lossy(text.as_bytes())) {
                Ok(uri) => uris.push(uri),
                Err(error) => self.errors.push(error),
            }
        }
        uris
    }
}

/// No prefetch would be no bound: the usual one. Beyond what the protocol can say it is the most it can.
fn bounded(prefetch: i64) -> u16 {
    match prefetch {
        ..=0 => PREFETCH,
        _ => u16::try_from(prefetch).unwrap_or(u16::MAX),
    }
}

fn is_short(value: &AMQPValue) -> bool {
    matches!(value, AMQPValue::LongString(text) if text.as_bytes().len() <= 255)
}

/// A value in an error.
fn said(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => format!("\"{}\"", String::from_utf8_lossy(text.as_bytes())),
        AMQPValue::Boolean(flag) => flag.to_string(),
        AMQPValue::FieldTable(_) => "an object".to_owned(),
        AMQPValue::FieldArray(_) => "a list".to_owned(),
        AMQPValue::Double(number) => number.to_string(),
        other => as_int(other).map_or_else(|| "null".to_owned(), |number| number.to_string()),
    }
}
