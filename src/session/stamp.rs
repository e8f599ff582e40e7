//! What the broker writes into messages unasked: when they came, by which node, when they were sent (§19).
//!
//! RabbitMQ: `rabbit_msg_interceptor_timestamp.erl`, `rabbit_msg_interceptor_routing_node.erl`. All of it is off unless it is
//! configured, and then costs a branch. A message is stamped before it is routed, so exchanges of type `headers` see it.

use std::borrow::Cow;

use bytes::Bytes;

use crate::amqp::{AMQPValue, LongString, RawProperties};
use crate::base::Millis;

const RECEIVED: &str = "timestamp_in_ms";
const ROUTED_BY: &str = "x-routed-by";
const SENT: &str = "x-opt-rabbitmq-sent-time";

/// Which stamps are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// On publish, header `timestamp_in_ms` (`l`, milliseconds since 1970) and property `timestamp` (seconds). `None` = no;
    /// otherwise whether what the publisher sent is replaced, or kept where there is any.
    pub received: Option<bool>,
    /// On publish, header `x-routed-by`, the node's name. As [`Self::received`].
    pub routed_by: Option<bool>,
    /// On delivery, header `x-opt-rabbitmq-sent-time` (`l`, milliseconds since 1970), in place of what was there.
    pub sent: bool,
}

fn since_1970(now: Millis) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(now.0).unwrap_or(i64::MAX))
}

impl Stamps {
    /// The properties of a message that came at `now` through `node`.
    #[must_use]
    pub fn on_publish(self, properties: RawProperties, node: &str, now: Millis) -> RawProperties {
        if self.received.is_none() && self.routed_by.is_none() {
            return properties;
        }
        let due = |stamp: Option<bool>, name: &str| {
            let sent = || properties.iter_headers().any(|(n, _)| n == name.as_bytes());
            stamp.is_some_and(|replaces| replaces || !sent())
        };
        let mut headers = Vec::new();
        if due(self.received, RECEIVED) {
            headers.push((RECEIVED, since_1970(now)));
        }
        if due(self.routed_by, ROUTED_BY) {
            headers.push((ROUTED_BY, AMQPValue::LongString(LongString::from(node))));
        }
        let mut stamped = if headers.is_empty() {
            properties
        } else {
            properties.with_headers_set(&headers)
        };
        if let Some(replaces) = self.received
            && (replaces || stamped.timestamp().is_none())
        {
            stamped = stamped.with_timestamp(now.0 / 1000);
        }
        stamped
    }

    /// The properties of a message that is sent to a consumer at `now`.
    pub(super) fn on_delivery(self, properties: &[u8], now: Millis) -> Cow<'_, [u8]> {
        if !self.sent {
            return Cow::Borrowed(properties);
        }
        let properties = RawProperties(Bytes::copy_from_slice(properties));
        let stamped = properties.with_headers_set(&[(SENT, since_1970(now))]);
        Cow::Owned(stamped.0.into())
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::amqp::{FieldTable, Properties};

    const NOW: Millis = Millis(1_700_000_000_123);

    fn stamped(stamps: Stamps, headers: Option<FieldTable>, timestamp: Option<u64>) -> Properties {
        let sent = Properties {
            headers,
            timestamp,
            priority: Some(3),
            ..Properties::default()
        };
        let stamped = stamps.on_publish(sent.encode(), "rabbit@hare", NOW);
        stamped.decode()
    }

    fn table(rows: &[(&str, AMQPValue)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in rows {
            table.insert((*name).into(), value.clone());
        }
        table
    }

    #[test]
    fn nothing_is_written_unless_it_is_asked_for() {
        let sent = RawProperties(Bytes::from_static(&[0, 0]));
        let kept = Stamps::default().on_publish(sent.clone(), "rabbit@hare", NOW);
        assert_eq!(kept.0.as_ptr(), sent.0.as_ptr());
        assert!(matches!(
            Stamps::default().on_delivery(&[0, 0], NOW),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn what_the_publisher_sent_is_kept_or_replaced() {
        let node = || AMQPValue::LongString(LongString::from("rabbit@hare"));
        let ms = || AMQPValue::LongLongInt(1_700_000_000_123);
        let own = table(&[
            ("a", AMQPValue::Void),
            (RECEIVED, AMQPValue::LongInt(1)),
            (ROUTED_BY, AMQPValue::Void),
        ]);
        let made = table(&[(RECEIVED, ms()), (ROUTED_BY, node())]);
        let mixed = table(&[
            ("a", AMQPValue::Void),
            (RECEIVED, ms()),
            (ROUTED_BY, node()),
        ]);
        for (replaces, sent, timestamp, headers, then) in [
            (true, None, None, made.clone(), 1_700_000_000),
            (false, None, None, made, 1_700_000_000),
            (true, Some(own.clone()), Some(5), mixed, 1_700_000_000),
            (false, Some(own.clone()), Some(5), own.clone(), 5),
            (false, Some(own.clone()), None, own, 1_700_000_000),
        ] {
            let stamps = Stamps {
                received: Some(replaces),
                routed_by: Some(replaces),
                sent: false,
            };
            let got = stamped(stamps, sent, timestamp);
            assert_eq!(got.headers, Some(headers), "{replaces} {timestamp:?}");
            assert_eq!((got.timestamp, got.priority), (Some(then), Some(3)));
        }
    }

    #[test]
    fn each_stamp_stands_for_itself() {
        let stamps = |received, routed_by| Stamps {
            received,
            routed_by,
            sent: true,
        };
        let got = stamped(stamps(Some(true), None), None, None);
        assert_eq!(got.headers.map(|headers| headers.inner().len()), Some(1));
        let got = stamped(stamps(None, Some(false)), None, None);
        assert_eq!(got.headers.map(|headers| headers.inner().len()), Some(1));
        assert_eq!(got.timestamp, None);
    }
}
