//! The arguments of basic.consume: what each queue type knows, and what a value may be.
//!
//! Need: refuse what RabbitMQ refuses, in its words. Not here: what the arguments do.

use super::arguments::{integer_of, invalid, max_age, range, unacceptable, visibility};
use super::precondition;
use super::record::{QueueKind, QueueRecord};
use super::table::{Value, binary, integer, lookup, show, text, view};
use crate::amqp::value::type_name;
use crate::amqp::{AMQPValue, FieldTable, ProtocolError};
use crate::base::Millis;
use crate::model::set::{Overdue, StreamStart};

/// Arguments of streams only.
const OF_STREAMS: [&str; 3] = [
    "x-stream-offset",
    "x-stream-filter",
    "x-stream-match-unfiltered",
];
/// Arguments of all but streams.
const OF_QUEUES: [&str; 3] = ["x-priority", "x-consumer-timeout", "x-visibility-timeout"];

/// Which messages of a stream a consumer wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamFilter {
    /// Values of `x-stream-filter-value`, any of which will do.
    pub values: Vec<Vec<u8>>,
    /// Also those without one.
    pub unfiltered: bool,
}

impl StreamFilter {
    /// Whether a message with this value, or without one, is wanted.
    #[must_use]
    pub fn wants(&self, value: Option<&[u8]>) -> bool {
        value.map_or(self.unfiltered, |value| {
            self.values.iter().any(|wanted| wanted == value)
        })
    }
}

/// The arguments of basic.consume that the broker acts on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerArguments {
    /// `x-priority`, higher first; clamped to 32 bits.
    pub priority: i32,
    /// `x-visibility-timeout` or else `x-consumer-timeout`, ms.
    pub visibility: Option<Millis>,
    /// What it hears of a lease that ends by its deadline, if not what the queue says.
    pub overdue: Option<Overdue>,
    /// `x-stream-offset`.
    pub start: StreamStart,
    /// `x-stream-filter` and `x-stream-match-unfiltered`.
    pub filter: Option<StreamFilter>,
}

impl ConsumerArguments {
    /// Reads them; unknown arguments are ignored.
    ///
    /// # Errors
    /// 406 if a value has the wrong type or is out of range, or the argument belongs to another queue type.
    pub fn parse(queue: &QueueRecord, arguments: &FieldTable) -> Result<Self, ProtocolError> {
        let title = queue.title();
        let mut parsed = Self::default();
        let foreign = match queue.kind {
            QueueKind::Stream => OF_QUEUES,
            QueueKind::Classic | QueueKind::Quorum => OF_STREAMS,
        };
        if let Some(key) = foreign.iter().find(|key| lookup(arguments, key).is_some()) {
            let module = queue.kind.module();
            let text = format!("invalid arg '{key}' for {title} of queue type {module}");
            return Err(precondition(text));
        }
        if queue.kind == QueueKind::Stream {
            if let Some(value) = lookup(arguments, "x-stream-offset") {
                parsed.start =
                    start(value).map_err(|reason| invalid("x-stream-offset", &title, &reason))?;
            }
            parsed.filter = filter(arguments);
            return Ok(parsed);
        }
        if let Some(value) = lookup(arguments, "x-priority") {
            let priority =
                integer_of(value).map_err(|reason| invalid("x-priority", &title, &reason))?;
            let clamped = priority.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
            parsed.priority = i32::try_from(clamped).unwrap_or_default();
        }
        if let Some(value) = lookup(arguments, "x-visibility-timeout") {
            let span = visibility(value)
                .map_err(|reason| invalid("x-visibility-timeout", &title, &reason))?;
            parsed.visibility = Some(span);
        }
        parsed.overdue = parsed.visibility.map(|_| Overdue::Nothing);
        if let Some(value) = lookup(arguments, "x-consumer-timeout") {
            range(value, 0, u64::MAX, "value_too_large")
                .map_err(|reason| invalid("x-consumer-timeout", &title, &reason))?;
            let span = integer(value).and_then(|span| u64::try_from(span).ok());
            if parsed.visibility.is_none() {
                parsed.visibility = span.map(Millis);
                parsed.overdue = Some(Overdue::Cancel);
            }
        }
        let strict = match lookup(arguments, "x-strict-lease") {
            Some(AMQPValue::Boolean(strict)) => Some(*strict),
            Some(value) => {
                return Err(invalid("x-strict-lease", &title, &unacceptable(value)));
            }
            None => queue.strict_lease(),
        };
        match strict {
            Some(true) => parsed.overdue = Some(Overdue::Close),
            Some(false) => parsed.overdue = Some(Overdue::Nothing),
            None => {}
        }
        Ok(parsed)
    }
}

/// Where a stream's consumer begins.
fn start(value: &AMQPValue) -> Result<StreamStart, String> {
    let bad = || {
        let shown = match view(value) {
            Value::Text(bytes) => binary(bytes),
            _ => show(value),
        };
        format!(
            "{{invalid_stream_offset_arg,{{{},{shown}}}}}",
            type_name(value)
        )
    };
    if let AMQPValue::Timestamp(seconds) = value {
        return Ok(StreamStart::Time(Millis(seconds.saturating_mul(1_000))));
    }
    if let Some(word) = text(value) {
        return match word {
            b"first" => Ok(StreamStart::First),
            b"last" => Ok(StreamStart::Last),
            b"next" => Ok(StreamStart::Next),
            _ => max_age(value).map(StreamStart::Ago).map_err(|_| bad()),
        };
    }
    let offset = integer(value).and_then(|offset| u64::try_from(offset).ok());
    offset.map(StreamStart::Offset).ok_or_else(bad)
}

/// The filter, if one is given; values that are no text do not count.
fn filter(arguments: &FieldTable) -> Option<StreamFilter> {
    let values = match lookup(arguments, "x-stream-filter")? {
        AMQPValue::FieldArray(values) => values.as_slice().iter().filter_map(text).collect(),
        value => vec![text(value)?],
    };
    let unfiltered = lookup(arguments, "x-stream-match-unfiltered");
    Some(StreamFilter {
        values: values.into_iter().map(<[u8]>::to_vec).collect(),
        unfiltered: unfiltered == Some(&AMQPValue::Boolean(true)),
    })
}
