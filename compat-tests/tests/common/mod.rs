//! What the lapin tests share: connecting, declaring, publishing with a confirm.
#![allow(dead_code)]

pub mod raw;
pub mod web;

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

/// No single answer of a healthy broker takes longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to `url`.
pub async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default())
        .await
        .expect("connected")
}

/// A channel in confirm mode, on which the durable `queue` is declared with `arguments`.
pub async fn declared(connection: &Connection, queue: &str, arguments: FieldTable) -> Channel {
    let channel = connection.create_channel().await.expect("a channel");
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirm mode");
    channel
        .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
        .await
        .expect("declared");
    channel
}

/// Publishes a persistent message to `queue` by the default exchange; true when it was confirmed by an ack.
pub async fn put(channel: &Channel, queue: &str, body: &[u8]) -> lapin::Result<bool> {
    let confirm = channel
        .basic_publish(
            "".into(),
            queue.into(),
            BasicPublishOptions::default(),
            body,
            persistent(),
        )
        .await?
        .await?;
    Ok(matches!(confirm, Confirmation::Ack(_)))
}

/// Properties of a message that survives a restart.
pub fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}
