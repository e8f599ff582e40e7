use bytes::Bytes;

use crate::base::{ConsumerId, Millis, NodeId, PipeId, QueueId, SessionId};
use crate::model::set::{
    Command, ConsumerConfig, Credit, Outcome, Overdue, QueueConfig, StreamRules, StreamStart,
};

use super::*;

const PIPE: PipeId = PipeId {
    node: NodeId(7),
    incarnation: 3,
};

fn parts<'a>(key: &'a [u8], body: &'a [Bytes]) -> MessageParts<'a> {
    MessageParts {
        flags: MessageFlags {
            died: true,
            rekeyed: false,
        },
        exchange: b"amq.topic",
        routing_key: key,
        blind_keys: &[],
        properties: &[0x10, 0, 2],
        body,
    }
}

fn sealed() -> Bytes {
    let mut builder = BatchBuilder::new(BufferPool::default());
    let body = [Bytes::from_static(b"hello "), Bytes::from_static(b"world")];
    let options = PublishOptions {
        ttl: Some(Millis(5)),
        priority: Some(9),
        delay: None,
    };
    builder.publish(&[QueueId(1), QueueId(300)], options, &parts(b"a.b", &body));
    builder.command(&Command::Tick);
    builder.publish(&[QueueId(2)], PublishOptions::default(), &parts(b"", &[]));
    builder.seal(PIPE, 41, Millis(1_000))
}

#[test]
fn commands_and_messages_come_back_in_order() {
    let payload = sealed();
    let mut batch = Batch::new(&payload).unwrap();
    assert_eq!(batch.stamp, Millis(1_000));
    let (chunk, mut items) = batch.next_chunk().unwrap().unwrap();
    assert_eq!(
        chunk,
        Chunk {
            pipe: PIPE,
            first_seq: 41,
            commands: 3
        }
    );
    let Some(Item::Publish(first)) = items.next_item().unwrap() else {
        panic!("a publish")
    };
    assert_eq!(
        first.queues().collect::<Vec<_>>(),
        [QueueId(1), QueueId(300)]
    );
    assert_eq!((first.slot, first.size, first.priority), (0, 11, Some(9)));
    assert!(matches!(
        items.next_item().unwrap(),
        Some(Item::Command(Command::Tick))
    ));
    let Some(Item::Publish(second)) = items.next_item().unwrap() else {
        panic!("a publish")
    };
    assert_eq!((second.slot, second.size), (1, 0));
    assert!(items.next_item().unwrap().is_none());
    assert!(batch.next_chunk().unwrap().is_none());

    let read = message(&payload, 0).unwrap();
    assert_eq!(
        (&read.routing_key[..], &read.body[..]),
        (&b"a.b"[..], &b"hello world"[..])
    );
    assert!(read.flags.died);
    assert_eq!(message(&payload, 1).unwrap().body, Bytes::new());
    assert_eq!(message(&payload, 2), Err(MessageError::Missing(2)));
}

#[test]
fn keys_that_the_properties_do_not_show_come_back() {
    let mut builder = BatchBuilder::new(BufferPool::default());
    let (body, keys) = (
        [Bytes::from_static(b"x")],
        [Bytes::from_static(b"one"), Bytes::from(vec![b'k'; 300])],
    );
    let mut parts = parts(b"a.b", &body);
    parts.flags.rekeyed = true;
    builder.publish(&[QueueId(1)], PublishOptions::default(), &parts);
    parts.blind_keys = &keys;
    builder.publish(&[QueueId(1)], PublishOptions::default(), &parts);
    let payload = builder.seal(PIPE, 1, Millis(0));
    for (slot, keys) in [(0, &[][..]), (1, &keys)] {
        let read = message(&payload, slot).unwrap();
        assert!(read.flags.died && read.flags.rekeyed);
        assert_eq!(read.blind_keys, keys);
        assert_eq!(
            (&read.properties[..], &read.body[..]),
            (parts.properties, &b"x"[..])
        );
    }
}

#[test]
fn survivors_keep_their_slots() {
    let payload = sealed();
    let kept = survivors(&payload, [1].into_iter()).unwrap();
    assert_eq!(message(&kept, 1), message(&payload, 1));
    assert_eq!(message(&kept, 0), Err(MessageError::Missing(0)));
    assert!(
        Batch::new(&kept).is_err(),
        "survivors are no batch to apply"
    );
}

#[test]
fn no_changed_byte_of_a_message_is_delivered() {
    let payload = sealed();
    let whole = message(&payload, 0).unwrap();
    for at in 0..payload.len() {
        let mut bytes = payload.to_vec();
        bytes[at] ^= 0x40;
        if let Ok(read) = message(&Bytes::from(bytes), 0) {
            assert_eq!(read, whole, "byte {at} changed unseen");
        }
    }
}

#[test]
fn every_truncation_is_an_error_and_no_panic() {
    let payload = sealed();
    for end in 0..payload.len() {
        let cut = payload.slice(..end);
        let read = || -> Result<u32, BatchError> {
            let mut batch = Batch::new(&cut)?;
            let mut count = 0;
            while let Some((_, mut items)) = batch.next_chunk()? {
                while items.next_item()?.is_some() {
                    count += 1;
                }
            }
            Ok(count)
        };
        assert!(matches!(read(), Err(_) | Ok(3)));
        assert!(message(&cut, 0).is_err() || end > payload.len() - 8);
    }
}

#[test]
fn every_command_comes_back() {
    let consumer = ConsumerId(u64::MAX);
    let config = ConsumerConfig {
        session: SessionId(9),
        channel: 65_535,
        no_ack: true,
        until_sent: true,
        exclusive: true,
        priority: -5,
        credit: Credit::Window(4096),
        visibility: Some(Millis(0)),
        start: StreamStart::Ago(Millis(7)),
        overdue: Some(Overdue::Nothing),
    };
    let queue_config = QueueConfig {
        message_ttl: Some(Millis(0)),
        max_length: Some(u64::MAX - 1),
        dead_letters: true,
        max_priority: Some(255),
        visibility: Millis(1_800_000),
        stream: Some(StreamRules {
            max_age: Some(Millis(0)),
            max_bytes: None,
        }),
        overdue: Overdue::Close,
        at_least_once: true,
        active_by_priority: true,
        ..QueueConfig::default()
    };
    let commands = [
        Command::Create {
            queue: QueueId(1),
            config: Box::new(queue_config.clone()),
        },
        Command::Configure {
            queue: QueueId(1),
            config: Box::new(queue_config),
        },
        Command::Delete {
            queue: QueueId(1),
            if_unused: true,
            if_empty: false,
        },
        Command::Purge { queue: QueueId(1) },
        Command::Inspect {
            queue: QueueId(1),
            touch: true,
        },
        Command::Subscribe {
            consumer,
            queue: QueueId(2),
            config,
        },
        Command::Unsubscribe { consumer },
        Command::Grant {
            consumer,
            add: u32::MAX,
        },
        Command::LimitChannel {
            session: SessionId(1),
            channel: 2,
            limit: 3,
        },
        Command::Get {
            queue: QueueId(1),
            holder: consumer,
            session: SessionId(1),
            channel: 1,
            no_ack: true,
        },
        Command::Settle {
            consumer,
            first: 5,
            last: 9,
            outcome: Outcome::Ack,
        },
        Command::Settle {
            consumer,
            first: 5,
            last: 5,
            outcome: Outcome::Extend {
                visibility: Millis(77),
            },
        },
        Command::Settle {
            consumer,
            first: 1,
            last: 2,
            outcome: Outcome::Requeue { failed: true },
        },
        Command::CloseSession {
            session: SessionId(4),
            channel: None,
        },
        Command::CloseSession {
            session: SessionId(4),
            channel: Some(8),
        },
        Command::OpenPipe,
        Command::Retire { queue: QueueId(7) },
        Command::CloseNode {
            node: crate::base::NodeId(3),
            incarnation: 4,
            returns: 5,
        },
        Command::Return,
        Command::DeadLettered {
            queue: QueueId(3),
            id: 12,
        },
        Command::Tick,
    ];
    let mut builder = BatchBuilder::new(BufferPool::default());
    commands.iter().for_each(|command| builder.command(command));
    builder.opaque(b"topology");
    let payload = builder.seal(PIPE, 1, Millis(0));
    let mut batch = Batch::new(&payload).unwrap();
    let (_, mut items) = batch.next_chunk().unwrap().unwrap();
    for command in &commands {
        let Some(Item::Command(read)) = items.next_item().unwrap() else {
            panic!("{command:?}")
        };
        assert_eq!(&read, command);
    }
    assert!(matches!(
        items.next_item().unwrap(),
        Some(Item::Opaque(b"topology"))
    ));
}

#[test]
fn a_large_payload_gives_its_buffer_back() {
    let pool = BufferPool::default();
    let mut builder = BatchBuilder::new(pool);
    let body = [Bytes::from(vec![1; 300_000])];
    builder.publish(
        &[QueueId(1)],
        PublishOptions::default(),
        &parts(b"k", &body),
    );
    let payload = builder.seal(PIPE, 1, Millis(0));
    let address = payload.as_ptr();
    drop(payload);
    builder.publish(
        &[QueueId(1)],
        PublishOptions::default(),
        &parts(b"k", &body),
    );
    let second = builder.seal(PIPE, 2, Millis(0));
    builder.publish(
        &[QueueId(1)],
        PublishOptions::default(),
        &parts(b"k", &body),
    );
    let third = builder.seal(PIPE, 3, Millis(0));
    assert!(second.as_ptr() == address || third.as_ptr() == address);
}
