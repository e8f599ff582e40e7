//! One shovel: connects, carries, and starts again after a failure until it is told to stop or has done its work.
//!
//! Shape: deliveries that are there are published together; confirms come back in order and are acked together. What the
//! destination refuses goes back to the source, and for [`REFUSED_PAUSE`] nothing more is taken.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{BoxStream, FuturesOrdered};
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Consumer, Event, PublisherConfirm,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{Fault, connect};
use super::definition::{AckMode, Definition, DeleteAfter, Destination, Source};
use super::status::{Progress, State, Status};
use super::uri::Uri;
use super::{COMPONENT, header};
use crate::base::{Clock, SystemClock};
use crate::broker::{Direct, Node};
use crate::model::topology::{SettingsCommand, TopologyCommand};

/// Messages published together.
const BATCH: usize = 128;
/// After a refused message.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
const NOT_SPOKEN: &str = "AMQP 1.0 is not spoken here";
const CLOSED: &str = "the source is gone: its consumer was cancelled";

pub(super) struct Worker {
    pub node: Arc<Node>,
    pub vhost: String,
    pub name: String,
    /// What its parameter says.
    pub value: AMQPValue,
    /// What holds where it does not say.
    pub predeclared: bool,
    pub status: Arc<Status>,
}

/// Both ends, open.
struct Ends<'a> {
    definition: &'a Definition,
    from: Channel,
    to: Channel,
    consumer: Consumer,
    /// The row of `x-shovelled` that is added to each message.
    row: Option<AMQPValue>,
    progress: Progress,
}

impl Worker {
    pub(super) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = self.work() => {}
            () = stop.cancelled() => {}
            () = self.node.supervisor.stopping() => {}
        }
    }

    async fn work(&self) {
        let (vhost, name) = (&self.vhost, &self.name);
        let definition = match Definition::read(name, &self.value) {
            Ok(definition) => definition,
            // It came in before it was checked.
            Err(reason) => return self.terminated(reason),
        };
        if matches!(definition.source, Source::Address(_))
            || matches!(definition.destination, Destination::Address(_))
        {
            return self.terminated(NOT_SPOKEN.to_owned());
        }
        let mut said = String::new();
        loop {
            self.status.set(State::Starting, None);
            match self.attempt(&definition).await {
                Ok(()) => return self.done().await,
                Err(fault) => {
                    let reason = fault.to_string();
                    // What goes on is said once.
                    match reason == said {
                        true => tracing::debug!(vhost, name, reason, "a shovel failed again"),
                        false => tracing::warn!(vhost, name, error = reason, "a shovel failed"),
                    }
                    said.clone_from(&reason);
                    self.terminated(reason);
                }
            }
            let Some(delay) = definition.reconnect_delay else {
                return;
            };
            tokio::time::sleep(delay).await;
        }
    }

    fn terminated(&self, reason: String) {
        self.status.set(State::Terminated { reason }, None);
    }

    /// Its work is done: it goes, if it is still the one that was asked for.
    async fn done(&self) {
        let (vhost, name) = (self.vhost.clone(), self.name.clone());
        let topology = &self.node.cluster.topology;
        let same = topology.read(|topology| {
            let known = topology.parameter(COMPONENT, &vhost, &name);
            known == Some(&self.value)
        });
        if !same {
            return;
        }
        tracing::info!(vhost, name, "a shovel has moved what it was to move");
        let delete = SettingsCommand::DeleteParameter {
            component: COMPONENT.to_owned(),
            vhost: vhost.clone(),
            name: name.clone(),
        };
        let direct = Direct::operator(&self.node, &vhost);
        if let Err(error) = direct.change(TopologyCommand::Settings(delete)).await {
            tracing::warn!(vhost, name, %error, "a shovel that is done could not be deleted");
        }
    }

    /// From connecting to the end of its work.
    async fn attempt(&self, definition: &Definition) -> Result<(), Fault> {
        let title = format!("Shovel {}", self.name);
        let any = |uris: &[Uri]| {
            let at = rand::random_range(0..uris.len().max(1));
            uris.get(at).cloned().ok_or(Fault::Other("no address"))
        };
        let (source_uri, destination_uri) = (
            any(&definition.source_uris)?,
            any(&definition.destination_uris)?,
        );
        let source = connect(&self.node, &source_uri, &title).await?;
        let destination = connect(&self.node, &destination_uri, &title).await?;
        let from = source.create_channel().await?;
        let to = destination.create_channel().await?;
        if let Destination::Queue { name, arguments } = &definition.destination {
            let predeclared = definition.destination_predeclared;
            let predeclared = predeclared.unwrap_or(self.predeclared);
            ensure(&destination, name, arguments, predeclared).await?;
        }
        let (queue, ready) = prepare(&source, &from, definition, self.predeclared).await?;
        let progress = Progress {
            remaining: match definition.delete_after {
                DeleteAfter::Never => None,
                DeleteAfter::QueueLength => Some(ready),
                DeleteAfter::Messages(count) => Some(count),
            },
            ..Progress::default()
        };
        if definition.ack_mode == AckMode::OnConfirm {
            to.confirm_select(ConfirmSelectOptions::default()).await?;
        }
        from.basic_qos(definition.prefetch, BasicQosOptions::default())
            .await?;
        let options = BasicConsumeOptions::default();
        let arguments = definition.consumer_arguments.clone();
        let consumer = from
            .basic_consume(queue, "".into(), options, arguments)
            .await?;
        self.status.progress(progress);
        let state = State::Running {
            source: source_uri.shown.clone(),
            destination: destination_uri.shown.clone(),
            definition: Box::new(definition.clone()),
        };
        self.status.set(state, Some(destination.status().clone()));
        let (vhost, name) = (&self.vhost, &self.name);
        tracing::info!(
            vhost,
            name,
            from = source_uri.shown,
            to = destination_uri.shown,
            "a shovel runs"
        );
        let ends = Ends {
            definition,
            from,
            to,
            consumer,
            row: self.row(definition, &source_uri, &destination_uri),
            progress,
        };
        let lost = destination.events_listener().boxed();
        ends.carry(&self.status, lost).await?;
        // Behind the acks: what is closed has taken them.
        source.close(200, "shovel is done".into()).await?;
        destination.close(200, "shovel is done".into()).await?;
        Ok(())
    }

    /// What tells where a message has been.
    fn row(&self, definition: &Definition, source: &Uri, destination: &Uri) -> Option<AMQPValue> {
        if !definition.forward_headers {
            return None;
        }
        let mut rows = vec![
            ("shovelled-by", self.node.cluster_name()),
            ("shovel-type", "dynamic".to_owned()),
            ("shovel-name", self.name.clone()),
            ("shovel-vhost", self.vhost.clone()),
            ("src-uri", source.shown.clone()),
            ("dest-uri", destination.shown.clone()),
        ];
        rows.extend(definition.places());
        let mut table = FieldTable::default();
        for (key, value) in rows {
            table.insert(key.into(), AMQPValue::LongString(value.into()));
        }
        Some(AMQPValue::FieldTable(table))
    }
}

/// Makes sure that a queue is there; how many messages are ready in it.
async fn ensure(
    connection: &Connection,
    queue: &str,
    arguments: &FieldTable,
    predeclared: bool,
) -> Result<u64, Fault> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    // A refusal ends the channel.
    let channel = connection.create_channel().await?;
    let found = channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await;
    let queue = match found {
        Ok(found) => found,
        Err(error) if predeclared => return Err(error.into()),
        Err(_) => {
            let channel = connection.create_channel().await?;
            let durable = QueueDeclareOptions {
                durable: true,
                ..QueueDeclareOptions::default()
            };
            channel
                .queue_declare(queue.into(), durable, arguments.clone())
                .await?
        }
    };
    Ok(u64::from(queue.message_count()))
}

/// Makes the source ready; its queue, and how many messages are ready in it.
async fn prepare(
    connection: &Connection,
    channel: &Channel,
    definition: &Definition,
    predeclared: bool,
) -> Result<(ShortString, u64), Fault> {
    match &definition.source {
        Source::Queue { name, arguments } => {
            let predeclared = definition.source_predeclared.unwrap_or(predeclared);
            let ready = ensure(connection, name, arguments, predeclared).await?;
            Ok((name.as_str().into(), ready))
        }
        Source::Exchange { name, key } => {
            let own = QueueDeclareOptions {
                exclusive: true,
                ..QueueDeclareOptions::default()
            };
            let queue = channel
                .queue_declare("".into(), own, FieldTable::default())
                .await?;
            let queue = queue.name().clone();
            let (exchange, key) = (name.as_str().into(), key.as_str().into());
            let options = QueueBindOptions::default();
            channel
                .queue_bind(queue.clone(), exchange, key, options, FieldTable::default())
                .await?;
            Ok((queue, 0))
        }
        Source::Address(_) => Err(Fault::Other(NOT_SPOKEN)),
    }
}

impl Ends<'_> {
    /// Carries messages until as many as were to go are through.
    async fn carry(
        mut self,
        status: &Status,
        mut destination: BoxStream<'static, Event>,
    ) -> Result<(), Fault> {
        let mut waiting = FuturesOrdered::new();
        let mut pause = Instant::now();
        while self.progress.remaining != Some(0) || !waiting.is_empty() {
            tokio::select! {
                Some((tag, confirmed)) = waiting.next(), if !waiting.is_empty() => {
                    let mut verdicts = vec![(tag, confirmed)];
                    while let Some(Some(more)) = waiting.next().now_or_never() {
                        verdicts.push(more);
                    }
                    if self.settle(verdicts).await? {
                        pause = Instant::now() + REFUSED_PAUSE;
                    }
                }
                Some(event) = destination.next() => {
                    if let Event::Error(error) = event {
                        return Err(error.into());
                    }
                }
                () = tokio::time::sleep_until(pause), if pause > Instant::now() => {}
                delivery = self.consumer.next(),
                    if pause <= Instant::now() && self.progress.remaining != Some(0) =>
                {
                    let first = delivery.ok_or(Fault::Other(CLOSED))??;
                    let batch = self.gather(first)?;
                    let sent = self.publish(batch).await?;
                    waiting.extend(sent.into_iter().map(confirmed));
                }
            }
            self.progress.pending = waiting.len() as u64;
            status.progress(self.progress);
        }
        Ok(())
    }

    /// What has come besides the first.
    fn gather(&mut self, first: Delivery) -> Result<Vec<Delivery>, Fault> {
        let most = self.progress.remaining.unwrap_or(u64::MAX);
        let most = usize::try_from(most).unwrap_or(BATCH).min(BATCH);
        let mut batch = vec![first];
        while batch.len() < most
            && let Some(next) = self.consumer.next().now_or_never()
        {
            batch.push(next.ok_or(Fault::Other(CLOSED))??);
        }
        Ok(batch)
    }

    /// Sends them; those that are to be confirmed.
    async fn publish(&mut self, batch: Vec<Delivery>) -> Result<Vec<Sent>, Fault> {
        let tags: Vec<u64> = batch.iter().map(|delivery| delivery.delivery_tag).collect();
        let Some(last) = tags.last().copied() else {
            return Ok(Vec::new());
        };
        let count = tags.len() as u64;
        if self.definition.ack_mode == AckMode::NoAck {
            self.ack(last).await?;
        }
        let sending = batch.into_iter().map(|delivery| self.send(delivery));
        let mut confirms = Vec::with_capacity(tags.len());
        for sent in join_all(sending).await {
            confirms.push(sent?);
        }
        if self.definition.ack_mode == AckMode::OnPublish {
            self.ack(last).await?;
        }
        if let Some(remaining) = &mut self.progress.remaining {
            *remaining = remaining.saturating_sub(count);
        }
        if self.definition.ack_mode != AckMode::OnConfirm {
            self.progress.forwarded += count;
            return Ok(Vec::new());
        }
        Ok(tags.into_iter().zip(confirms).collect())
    }

    async fn send(&self, delivery: Delivery) -> lapin::Result<PublisherConfirm> {
        let (exchange, key) = match &self.definition.destination {
            Destination::Queue { name, .. } => ("".into(), name.as_str().into()),
            Destination::Exchange { name, key } => (
                name.as_ref()
                    .map_or(delivery.exchange, |name| name.as_str().into()),
                key.as_ref()
                    .map_or(delivery.routing_key, |key| key.as_str().into()),
            ),
            // It is not run.
            Destination::Address(_) => (delivery.exchange, delivery.routing_key),
        };
        let properties = self.properties(delivery.properties);
        let options = BasicPublishOptions::default();
        self.to
            .basic_publish(exchange, key, options, &delivery.data, properties)
            .await
    }

    fn properties(&self, properties: BasicProperties) -> BasicProperties {
        let properties = self.definition.overwrite(properties);
        if self.row.is_none() && !self.definition.timestamp_header {
            return properties;
        }
        let mut headers = properties.headers().clone().unwrap_or_default();
        if let Some(row) = &self.row {
            let mut rows = FieldArray::default();
            rows.push(row.clone());
            if let Some(AMQPValue::FieldArray(before)) = headers.inner().get(header::SHOVELLED) {
                before
                    .as_slice()
                    .iter()
                    .for_each(|row| rows.push(row.clone()));
            }
            headers.insert(header::SHOVELLED.into(), AMQPValue::FieldArray(rows));
        }
        if self.definition.timestamp_header {
            let seconds = i64::try_from(SystemClock.now().0 / 1000).unwrap_or(0);
            headers.insert(header::TIMESTAMP.into(), AMQPValue::LongLongInt(seconds));
        }
        properties.with_headers(headers)
    }

    async fn ack(&self, tag: u64) -> Result<(), Fault> {
        let all = BasicAckOptions { multiple: true };
        Ok(self.from.basic_ack(tag, all).await?)
    }

    /// Acks what was confirmed and gives back what was refused; whether anything was.
    async fn settle(&mut self, verdicts: Vec<(u64, Verdict)>) -> Result<bool, Fault> {
        let (mut acked, mut refused) = (None, false);
        for (tag, verdict) in verdicts {
            if !verdict?.is_nack() {
                acked = Some(tag);
                self.progress.forwarded += 1;
                continue;
            }
            // Up to here, before it is the one that would be acked too.
            if let Some(tag) = acked.take() {
                self.ack(tag).await?;
            }
            let requeue = BasicNackOptions {
                requeue: true,
                ..BasicNackOptions::default()
            };
            self.from.basic_nack(tag, requeue).await?;
            refused = true;
            if let Some(remaining) = &mut self.progress.remaining {
                *remaining += 1;
            }
        }
        if let Some(tag) = acked {
            self.ack(tag).await?;
        }
        Ok(refused)
    }
}

type Sent = (u64, PublisherConfirm);
type Verdict = lapin::Result<Confirmation>;

async fn confirmed((tag, confirm): Sent) -> (u64, Verdict) {
    (tag, confirm.await)
}
