//! amqprs against one node, or with `COMPAT_NODES=3` against a follower of three.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use amqprs::callbacks::ChannelCallback;
use amqprs::channel::{
    BasicAckArguments, BasicConsumeArguments, BasicGetArguments, BasicNackArguments,
    BasicPublishArguments, BasicQosArguments, BasicRejectArguments, Channel,
    ConfirmSelectArguments, ConsumerMessage, ExchangeDeclareArguments, QueueBindArguments,
    QueueDeclareArguments, QueueDeleteArguments,
};
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::{
    Ack, BasicProperties, Cancel, CloseChannel, DELIVERY_MODE_PERSISTENT, FieldTable, FieldValue,
    Nack, Return,
};
use compat_tests::{Stage, foreign_url};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

fn arguments(stage: &Stage, password: &str) -> OpenConnectionArguments {
    let place = stage.url().rsplit('@').next().expect("a place");
    let place = place.split('/').next().expect("a place");
    let (host, port) = place.split_once(':').expect("a port");
    OpenConnectionArguments::new(host, port.parse().expect("a number"), "guest", password)
}

async fn connect(stage: &Stage) -> Connection {
    let opening = Connection::open(&arguments(stage, "guest")).await;
    opening.expect("a connection")
}

/// What the broker tells a channel.
#[derive(Debug, PartialEq)]
enum Told {
    Ack(u64),
    Nack(u64),
    Returned(u16, String, Vec<u8>),
    Cancelled(String),
    Closed(u16),
}

struct Teller(UnboundedSender<Told>);

impl Teller {
    fn tell(&self, what: Told) {
        // A test that is over does not listen any more.
        drop(self.0.send(what));
    }
}

#[async_trait::async_trait]
impl ChannelCallback for Teller {
    async fn close(
        &mut self,
        _: &Channel,
        close: CloseChannel,
    ) -> Result<(), amqprs::error::Error> {
        self.tell(Told::Closed(close.reply_code()));
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, cancel: Cancel) -> Result<(), amqprs::error::Error> {
        self.tell(Told::Cancelled(cancel.consumer_tag().to_string()));
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, amqprs::error::Error> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.tell(Told::Ack(ack.delivery_tag()));
    }

    async fn publish_nack(&mut self, _: &Channel, nack: Nack) {
        self.tell(Told::Nack(nack.delivery_tag()));
    }

    async fn publish_return(
        &mut self,
        _: &Channel,
        ret: Return,
        _: BasicProperties,
        content: Vec<u8>,
    ) {
        let text = ret.reply_text().to_string();
        self.tell(Told::Returned(ret.reply_code(), text, content));
    }
}

/// A channel in confirm mode, and what it is told.
struct Client {
    channel: Channel,
    told: UnboundedReceiver<Told>,
}

impl Client {
    async fn new(connection: &Connection) -> Self {
        let channel = connection.open_channel(None).await.expect("a channel");
        let (tell, told) = unbounded_channel();
        let registered = channel.register_callback(Teller(tell)).await;
        registered.expect("a callback");
        let confirm = ConfirmSelectArguments::default();
        channel.confirm_select(confirm).await.expect("confirm mode");
        Self { channel, told }
    }

    async fn told(&mut self) -> Told {
        let told = timeout(PATIENCE, self.told.recv()).await;
        told.expect("in time").expect("an open channel")
    }

    async fn declared(&self, name: &str, table: FieldTable) -> String {
        let mut declare = QueueDeclareArguments::durable_client_named(name);
        let declared = self
            .channel
            .queue_declare(declare.arguments(table).finish());
        declared.await.expect("declared").expect("an answer").0
    }

    /// Publishes and waits for the answer.
    async fn put(&mut self, queue: &str, properties: BasicProperties, body: &[u8]) -> Told {
        let to = BasicPublishArguments::new("", queue);
        let sent = self.channel.basic_publish(properties, body.to_vec(), to);
        sent.await.expect("sent");
        self.told().await
    }

    async fn consumed(&self, queue: &str, automatic: bool) -> UnboundedReceiver<ConsumerMessage> {
        let mut arguments = BasicConsumeArguments::new(queue, "");
        arguments.manual_ack(!automatic);
        let consuming = self.channel.basic_consume_rx(arguments.finish());
        consuming.await.expect("subscribed").1
    }
}

async fn take(
    from: &mut UnboundedReceiver<ConsumerMessage>,
) -> (u64, bool, BasicProperties, Vec<u8>) {
    let message = timeout(PATIENCE, from.recv()).await.expect("in time");
    let message = message.expect("an open channel");
    let deliver = message.deliver.expect("a delivery");
    let properties = message.basic_properties.expect("properties");
    let body = message.content.expect("a body");
    (
        deliver.delivery_tag(),
        deliver.redelivered(),
        properties,
        body,
    )
}

fn table(pairs: Vec<(&str, FieldValue)>) -> FieldTable {
    let mut table = FieldTable::new();
    for (key, value) in pairs {
        table.insert(key.try_into().expect("a short key"), value);
    }
    table
}

fn text(value: &str) -> FieldValue {
    FieldValue::S(value.try_into().expect("a text"))
}

fn persistent() -> BasicProperties {
    let mut properties = BasicProperties::default();
    properties
        .with_delivery_mode(DELIVERY_MODE_PERSISTENT)
        .finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_open_with_the_right_password_only_and_live_by_heartbeats() {
    let stage = Stage::start(&[]);
    assert!(Connection::open(&arguments(&stage, "wrong")).await.is_err());
    let mut elsewhere = arguments(&stage, "guest");
    elsewhere.virtual_host("nowhere");
    assert!(Connection::open(&elsewhere).await.is_err());
    let mut beating = arguments(&stage, "guest");
    let idle = Connection::open(beating.heartbeat(1)).await.expect("open");
    assert_eq!(idle.heartbeat(), 1);
    // Longer than either side waits for a sign of the other.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(idle.is_open());
    idle.open_channel(None).await.expect("a channel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_are_confirmed_refused_and_returned() {
    let stage = Stage::start(&[]);
    let connection = connect(&stage).await;
    let mut client = Client::new(&connection).await;
    let full = table(vec![
        ("x-max-length", FieldValue::I(1)),
        ("x-overflow", text("reject-publish")),
    ]);
    let queue = client.declared("amqprs-full", full).await;
    assert_eq!(client.put(&queue, persistent(), b"1").await, Told::Ack(1));
    assert_eq!(client.put(&queue, persistent(), b"2").await, Told::Nack(2));
    let mut nowhere = BasicPublishArguments::new("", "amqprs-nowhere");
    let nowhere = nowhere.mandatory(true).finish();
    let sent = client
        .channel
        .basic_publish(persistent(), b"lost".to_vec(), nowhere);
    sent.await.expect("sent");
    let back = Told::Returned(312, "NO_ROUTE".to_owned(), b"lost".to_vec());
    assert_eq!(client.told().await, back);
    assert_eq!(client.told().await, Told::Ack(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefetch_ack_nack_and_reject() {
    let stage = Stage::start(&[]);
    let connection = connect(&stage).await;
    let mut client = Client::new(&connection).await;
    let dead = client.declared("amqprs-dead", FieldTable::new()).await;
    let letters = table(vec![
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&dead)),
    ]);
    let queue = client.declared("amqprs-work", letters).await;
    for body in [b"a", b"b", b"c"] {
        client.put(&queue, persistent(), body).await;
    }
    let qos = BasicQosArguments::new(0, 2, false);
    client.channel.basic_qos(qos).await.expect("qos");
    let mut arrivals = client.consumed(&queue, false).await;
    let (first, ..) = take(&mut arrivals).await;
    let (second, again, ..) = take(&mut arrivals).await;
    assert!(!again);
    let early = timeout(Duration::from_millis(300), arrivals.recv()).await;
    assert!(early.is_err(), "a third message in spite of the prefetch");
    let ack = BasicAckArguments::new(first, false);
    client.channel.basic_ack(ack).await.expect("acked");
    let (third, _, _, body) = take(&mut arrivals).await;
    assert_eq!(body, b"c");
    let nack = BasicNackArguments::new(second, false, true);
    client.channel.basic_nack(nack).await.expect("nacked");
    let (second, again, _, body) = take(&mut arrivals).await;
    assert!(again && body == b"b");
    for tag in [third, second] {
        let reject = BasicRejectArguments::new(tag, false);
        client.channel.basic_reject(reject).await.expect("rejected");
    }
    let mut lost = client.consumed(&dead, true).await;
    for wanted in [b"c", b"b"] {
        let (_, _, properties, body) = take(&mut lost).await;
        assert_eq!(body, wanted);
        let headers = properties.headers().expect("headers").clone();
        let reason = headers.get(&"x-first-death-reason".try_into().expect("a key"));
        assert_eq!(reason, Some(&text("rejected")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiry_priorities_and_direct_reply_to() {
    let stage = Stage::start(&[]);
    let connection = connect(&stage).await;
    let mut client = Client::new(&connection).await;
    let dead = client.declared("amqprs-late", FieldTable::new()).await;
    let brief = table(vec![
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&dead)),
        ("x-message-ttl", FieldValue::I(100)),
    ]);
    let source = client.declared("amqprs-brief", brief).await;
    client.put(&source, persistent(), b"late").await;
    let mut late = client.consumed(&dead, true).await;
    assert_eq!(take(&mut late).await.3, b"late");

    let ranked = table(vec![("x-max-priority", FieldValue::I(10))]);
    let queue = client.declared("amqprs-ranked", ranked).await;
    for priority in [1, 9, 5] {
        let properties = persistent().with_priority(priority).finish();
        client.put(&queue, properties, &[priority]).await;
    }
    let mut arrivals = client.consumed(&queue, true).await;
    for wanted in [9, 5, 1] {
        assert_eq!(take(&mut arrivals).await.3, [wanted]);
    }

    let calls = client.declared("amqprs-calls", FieldTable::new()).await;
    let mut replies = client.consumed("amq.rabbitmq.reply-to", true).await;
    let mut call = BasicProperties::default();
    call.with_reply_to("amq.rabbitmq.reply-to")
        .with_correlation_id("one");
    client.put(&calls, call.finish(), b"21").await;
    let get = BasicGetArguments::new(&calls).no_ack(true).finish();
    let asked = client.channel.basic_get(get).await.expect("asked");
    let (_, asked, _) = asked.expect("a call");
    let mut answer = BasicProperties::default();
    answer.with_correlation_id(asked.correlation_id().expect("an id"));
    let to = asked.reply_to().expect("an address").clone();
    client.put(&to, answer.finish(), b"42").await;
    let (_, _, reply, body) = take(&mut replies).await;
    assert_eq!(
        (body.as_slice(), reply.correlation_id()),
        (&b"42"[..], asked.correlation_id())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_many_channels_unicode_names_and_headers_of_every_type() {
    let stage = Stage::start(&[("max_message_size", "16777216")]);
    let connection = connect(&stage).await;
    let mut client = Client::new(&connection).await;
    let queue = client
        .declared("amqprs-очередь-兎", FieldTable::new())
        .await;
    let exchange = "amqprs-обмен-🐇";
    let declare = ExchangeDeclareArguments::new(exchange, "topic");
    client
        .channel
        .exchange_declare(declare)
        .await
        .expect("declared");
    let bind = QueueBindArguments::new(&queue, exchange, "ключ.*");
    client.channel.queue_bind(bind).await.expect("bound");
    let headers = table(vec![
        ("bool", FieldValue::t(true)),
        ("i8", FieldValue::b(-8)),
        ("u8", FieldValue::B(200)),
        ("i16", FieldValue::s(-16)),
        ("u16", FieldValue::u(65535)),
        ("i32", FieldValue::I(-32)),
        ("u32", FieldValue::i(u32::MAX)),
        ("i64", FieldValue::l(-64)),
        ("f32", FieldValue::f(0.5)),
        ("f64", FieldValue::d(0.25)),
        ("text", text("ü")),
        ("time", FieldValue::T(1_700_000_000)),
        ("none", FieldValue::V),
        (
            "table",
            FieldValue::F(table(vec![("deep", FieldValue::I(1))])),
        ),
    ]);
    let properties = BasicProperties::default()
        .with_headers(headers.clone())
        .finish();
    let body: Vec<u8> = (0_u32..16 << 20).map(|at| (at % 251) as u8).collect();
    let to = BasicPublishArguments::new(exchange, "ключ.é");
    let sent = client.channel.basic_publish(properties, body.clone(), to);
    sent.await.expect("sent");
    assert_eq!(client.told().await, Told::Ack(1));
    let mut arrivals = client.consumed(&queue, true).await;
    let (_, _, got, content) = take(&mut arrivals).await;
    assert!(content == body, "another body");
    assert_eq!(got.headers(), Some(&headers));
    for _ in 0..300 {
        let mut other = Client::new(&connection).await;
        assert_eq!(other.put(&queue, persistent(), b"x").await, Told::Ack(1));
        take(&mut arrivals).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_cancels_an_error_closes_the_channel_and_messages_survive_a_restart() {
    let stage = Stage::start(&[]);
    let connection = connect(&stage).await;
    let mut client = Client::new(&connection).await;
    let queue = client.declared("amqprs-gone", FieldTable::new()).await;
    let mut arguments = BasicConsumeArguments::new(&queue, "its-tag");
    let consuming = client.channel.basic_consume_rx(arguments.finish());
    consuming.await.expect("subscribed");
    let other = Client::new(&connection).await;
    let delete = QueueDeleteArguments::new(&queue);
    other.channel.queue_delete(delete).await.expect("deleted");
    assert_eq!(client.told().await, Told::Cancelled("its-tag".to_owned()));

    let mut nowhere = QueueDeclareArguments::new("amqprs-nowhere");
    let refused = client.channel.queue_declare(nowhere.passive(true).finish());
    assert!(refused.await.is_err());
    assert_eq!(client.told().await, Told::Closed(404));

    if foreign_url().is_some() {
        return;
    }
    let mut last = Client::new(&connection).await;
    let kept = last.declared("amqprs-kept", FieldTable::new()).await;
    last.put(&kept, persistent(), b"kept").await;
    tokio::task::block_in_place(|| stage.restart());
    let again = connect(&stage).await;
    let client = Client::new(&again).await;
    let mut arrivals = client.consumed(&kept, true).await;
    assert_eq!(take(&mut arrivals).await.3, b"kept");
}
