//! Header values of every AMQP type come back as they were sent, those that Python clients cannot send included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use common::{connect, declared, persistent};
use compat_tests::Stage;
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};

#[tokio::test]
async fn header_values_of_every_type_come_back_with_their_type() {
    let broker = Stage::start(&[]);
    let channel = declared(
        &connect(broker.url()).await,
        "lapin-headers",
        FieldTable::default(),
    )
    .await;
    let mut inner = FieldTable::default();
    inner.insert("deep".into(), AMQPValue::ShortInt(-3));
    let mut headers = FieldTable::default();
    for (key, value) in [
        ("bool", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-8)),
        ("u8", AMQPValue::ShortShortUInt(200)),
        ("i16", AMQPValue::ShortInt(-1600)),
        ("u16", AMQPValue::ShortUInt(60_000)),
        ("i32", AMQPValue::LongInt(-32_000_000)),
        ("u32", AMQPValue::LongUInt(4_000_000_000)),
        ("i64", AMQPValue::LongLongInt(i64::MIN)),
        ("f32", AMQPValue::Float(0.5)),
        ("f64", AMQPValue::Double(0.25)),
        ("text", AMQPValue::LongString("ü".into())),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("table", AMQPValue::FieldTable(inner)),
        ("nothing", AMQPValue::Void),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
    ] {
        headers.insert(key.into(), value);
    }
    let properties = persistent().with_headers(headers.clone());
    channel
        .basic_publish(
            "".into(),
            "lapin-headers".into(),
            BasicPublishOptions::default(),
            b"",
            properties,
        )
        .await
        .expect("sent")
        .await
        .expect("confirmed");
    let got = channel
        .basic_get("lapin-headers".into(), BasicGetOptions { no_ack: true })
        .await
        .expect("asked")
        .expect("one");
    assert_eq!(got.delivery.properties.headers().as_ref(), Some(&headers));
    channel
        .queue_delete("lapin-headers".into(), QueueDeleteOptions::default())
        .await
        .expect("deleted");
}
