//! Publishing: route, append to the outboxes, and later turn what was applied into confirms.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::amqp::value::as_int;
use crate::amqp::{AMQPValue, ProtocolError, RawProperties, ReplyCode};
use crate::base::{ChannelId, Millis, QueueId, SetId};
use crate::model::batch::{MessageFlags, MessageParts, PublishOptions};
use crate::model::set::Command;
use crate::session::{ChannelAnswer, PublishRequest, Settlement};

use super::connection::{Connection, Posted};
use super::meters::Count;
use super::replies::{ADDRESS_PREFIX, Reply};
use super::routes::{Route, Routed, with_parts};

const PUBLISH_METHOD: (u16, u16) = (60, 40);

/// Longest delay of x-delayed-message, ms (spec §9.6).
const DELAY_MS_MAX: i128 = u32::MAX as i128;

/// What `x-delay` says: an integer of any width, or one in a string. Nothing for none, zero, or less.
fn delay(properties: &RawProperties) -> Option<Millis> {
    let ms = match properties.header(b"x-delay")? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?.parse().ok()?,
        value => i128::from(as_int(&value)?),
    };
    let ms = u64::try_from(ms.min(DELAY_MS_MAX)).ok()?;
    (ms > 0).then_some(Millis(ms))
}

impl Connection {
    /// basic.publish outside a transaction.
    pub(super) fn publish(&mut self, channel: ChannelId, publish: &PublishRequest) {
        self.received(channel, publish, publish.confirm.is_some());
        match self.route(publish) {
            Ok(route) => self.send(channel, publish, &route, publish.confirm, false),
            Err(error) => self.session.fail_channel(channel, error, PUBLISH_METHOD),
        }
    }

    fn received(&mut self, channel: ChannelId, publish: &PublishRequest, confirmed: bool) {
        self.publishes = true;
        self.tally.received(channel, publish.body.size, confirmed);
    }

    /// Whether a publish would be let in.
    pub(super) fn check_publish(&mut self, channel: ChannelId, publish: &PublishRequest) {
        let answer = match self.route(publish) {
            Ok(route) => {
                if let Some(number) = publish.confirm {
                    self.keep_route(channel, number, route);
                }
                ChannelAnswer::Done
            }
            Err(error) => ChannelAnswer::Failed(error),
        };
        self.session.answer_channel(channel, answer);
    }

    /// Remembers where a publish of a transaction goes. What a transaction before left behind goes.
    fn keep_route(&mut self, channel: ChannelId, number: u64, route: Arc<Route>) {
        let routes = self.tx_routes.entry(channel).or_default();
        routes.truncate(usize::try_from(number).unwrap_or(usize::MAX));
        routes.push(route);
    }

    fn route(&mut self, publish: &PublishRequest) -> Result<Arc<Route>, ProtocolError> {
        let routed = Routed {
            vhost: &self.vhost,
            user: &self.user,
            exchange: &publish.exchange,
            routing_key: &publish.routing_key,
            more_keys: &publish.more_keys,
            properties: &publish.properties,
            meters: &self.node.meters,
        };
        self.routes.find(&self.node.cluster.topology, &routed)
    }

    /// Appends one message to the sets it goes to. `number`: who waits for its verdict.
    fn send(
        &mut self,
        channel: ChannelId,
        publish: &PublishRequest,
        route: &Route,
        number: Option<u64>,
        tx: bool,
    ) {
        self.tally.through(&route.meter, route.queues);
        // After the check of the right to publish, which replies need too.
        let replied = publish.exchange.is_empty() && self.reply_to_requester(publish);
        if route.nowhere && !replied {
            self.unroutable(channel, publish);
        }
        if self.is_traced() {
            self.trace_publish(channel, publish, route);
        }
        if route.sets.is_empty() && route.spread.is_empty() {
            self.accepted(channel, number, tx);
            return;
        }
        let seen = publish.more_keys.len() - publish.blind;
        let parts = MessageParts {
            flags: MessageFlags::default(),
            exchange: &publish.exchange,
            routing_key: &publish.routing_key,
            blind_keys: &publish.more_keys[seen..],
            properties: &publish.properties.0,
            body: &publish.body.parts,
        };
        let options = PublishOptions {
            ttl: publish.ttl_ms.map(Millis),
            priority: publish.properties.priority(),
            delay: route.delays.then(|| delay(&publish.properties)).flatten(),
        };
        let sets = match &route.spread[..] {
            [] => Cow::Borrowed(&route.sets),
            spread => {
                self.rotation += 1;
                Cow::Owned(with_parts(&route.sets, spread, self.rotation))
            }
        };
        let shared = sets.len() > 1;
        if let (true, Some(number)) = (shared, number) {
            self.confirms.share(channel, number, sets.len());
        }
        for (set, queues) in &*sets {
            self.append(
                *set,
                queues,
                options,
                &parts,
                channel,
                number.map(|n| (n, shared, tx)),
            );
        }
    }

    fn append(
        &mut self,
        set: SetId,
        queues: &[QueueId],
        options: PublishOptions,
        parts: &MessageParts<'_>,
        channel: ChannelId,
        wait: Option<(u64, bool, bool)>,
    ) {
        let Some(handle) = self.node.cluster.set(set) else {
            return;
        };
        let pushed = handle.publish(&self.mailbox, queues, options, parts);
        if let Some((number, shared, tx)) = wait {
            self.confirms.wait(set, pushed, channel, number, shared, tx);
        }
        self.touch(set);
    }

    /// A publish that needs no queue's word is confirmed at once.
    fn accepted(&mut self, channel: ChannelId, number: Option<u64>, tx: bool) {
        if let (Some(number), false) = (number, tx) {
            self.tally.count(channel, Count::Confirm, 1);
            self.session.confirm(channel, number, false);
        }
    }

    fn unroutable(&mut self, channel: ChannelId, publish: &PublishRequest) {
        self.tally.unroutable(channel, publish.mandatory);
        if !publish.mandatory {
            return;
        }
        let body = Bytes::from(publish.body.parts.concat());
        self.session.return_message(
            channel,
            ReplyCode::NoRoute.code(),
            ReplyCode::NoRoute.name(),
            &publish.exchange,
            &publish.routing_key,
            &publish.properties.0,
            &body,
        );
    }

    /// Whether it went, or would have gone, to a direct reply-to address.
    fn reply_to_requester(&mut self, publish: &PublishRequest) -> bool {
        let first = std::iter::once(&publish.routing_key);
        let mut addresses: Vec<&Bytes> = Vec::new();
        for key in first.chain(&publish.more_keys) {
            if key.starts_with(ADDRESS_PREFIX) && !addresses.contains(&key) {
                addresses.push(key);
            }
        }
        let mut replied = false;
        for address in addresses {
            let reply = Reply {
                address,
                routing_key: &publish.routing_key,
                properties: &publish.properties.0,
                body: &publish.body.parts,
            };
            let node = Arc::clone(&self.node);
            let (known, set) = node.send_reply(&self.mailbox, &self.vhost, &reply);
            replied |= known;
            if let Some(set) = set {
                self.touch(set);
            }
        }
        replied
    }

    /// A pipe of this connection has been applied up to `seq`.
    pub(super) fn applied(&mut self, set: SetId, seq: u64) {
        let (session, tally, refused) = (&mut self.session, &mut self.tally, &mut self.tx_refused);
        self.confirms.applied(set, seq, |verdict| {
            let channel = verdict.channel;
            match (verdict.tx, verdict.accepted) {
                (true, true) => {}
                (true, false) => {
                    refused.insert(channel);
                }
                (false, true) => {
                    tally.count(channel, Count::Confirm, 1);
                    session.confirm(channel, verdict.number, false);
                }
                (false, false) => {
                    tally.touch(channel);
                    session.refuse(channel, verdict.number);
                }
            }
        });
    }

    /// tx.commit: everything goes in order, to where it was routed when it was published, and the answer waits for every
    /// set it went to.
    pub(super) fn commit(
        &mut self,
        channel: ChannelId,
        publishes: &[PublishRequest],
        settlements: Vec<Settlement>,
    ) {
        self.tx_refused.remove(&channel);
        let routes = self.tx_routes.remove(&channel).unwrap_or_default();
        for (number, (publish, route)) in publishes.iter().zip(routes).enumerate() {
            self.received(channel, publish, false);
            let route = route.again(&self.node.cluster.topology);
            self.send(channel, publish, &route, Some(number as u64), true);
        }
        self.settle(settlements);
        // A command that changes nothing comes back once all before it is applied.
        let barrier = Command::Inspect {
            queue: QueueId(0),
            touch: false,
        };
        let sets = self.touched.clone();
        let answers: Vec<_> = sets
            .iter()
            .filter_map(|set| self.node.cluster.set(*set))
            .map(|handle| handle.asking(&barrier))
            .collect();
        self.task(async move {
            for answer in answers {
                if answer.answer().await.is_err() {
                    return None;
                }
            }
            Some(Posted::Committed(channel))
        });
    }

    pub(super) fn committed(&mut self, channel: ChannelId) {
        let answer = if self.tx_refused.remove(&channel) {
            let text = "partial tx completion";
            ChannelAnswer::Failed(ProtocolError::new(ReplyCode::PreconditionFailed, text))
        } else {
            ChannelAnswer::Done
        };
        self.session.answer_channel(channel, answer);
    }
}
