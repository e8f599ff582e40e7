//! A node's clients: one that publishes with confirms to all queues, and one consumer per queue that acks, and now and
//! then gives back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use leveret::base::{ConsumerId, SetId};
use leveret::cluster::{Cluster, Event, Mailbox, SetHandle};
use leveret::model::batch::{MessageFlags, MessageParts, PublishOptions, message};
use leveret::model::set::{Command, ConsumerConfig, Credit, Delivery, Outcome, Reply, StreamStart};
use leveret::model::topology::QueueRecord;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::world::{MessageId, World};

/// Unconfirmed messages a publisher has at most.
const WINDOW: usize = 100;

type Pending = BTreeMap<SetId, VecDeque<(u64, MessageId)>>;

fn dice(world: &World, at: usize, cluster: &Cluster, of: u64) -> StdRng {
    let life = cluster.pipe.incarnation << 8 | (at as u64) << 4 | of;
    StdRng::seed_from_u64(world.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ life)
}

/// Publishes until the world says so, then waits for the last confirm.
pub async fn publish(
    world: World,
    at: usize,
    cluster: Arc<Cluster>,
    queues: Vec<QueueRecord>,
    dead: Arc<AtomicBool>,
) {
    let mut dice = dice(&world, at, &cluster, 0);
    let mailbox = Arc::new(Mailbox::default());
    let mut pending = Pending::new();
    let mut numbers = vec![0; queues.len()];
    loop {
        let wait = Duration::from_millis(dice.random_range(1..40));
        tokio::select! {
            biased;
            () = mailbox.ready() => {}
            () = sleep(wait) => {
                let going = world.with(|state| state.publishing);
                let unconfirmed: usize = pending.values().map(VecDeque::len).sum();
                if going && unconfirmed < WINDOW {
                    let queue = dice.random_range(0..queues.len());
                    let some = burst(&world, &cluster, &queues[queue], &mut numbers[queue], &mut dice, &mailbox);
                    pending.entry(queues[queue].set()).or_default().extend(some);
                }
            }
        }
        if dead.load(Ordering::Acquire) {
            return;
        }
        hear(&world, &mailbox, &mut pending);
        let busy = pending.values().any(|some| !some.is_empty());
        world.with(|state| state.busy[at] = busy);
    }
}

fn burst(
    world: &World,
    cluster: &Cluster,
    queue: &QueueRecord,
    number: &mut u64,
    dice: &mut StdRng,
    mailbox: &Arc<Mailbox>,
) -> Vec<(u64, MessageId)> {
    let Some(handle) = cluster.set(queue.set()) else {
        return Vec::new();
    };
    let mut sent = Vec::new();
    for _ in 0..dice.random_range(1..6) {
        *number += 1;
        let id = MessageId {
            node: cluster.pipe.node.0,
            incarnation: cluster.pipe.incarnation,
            queue: queue.id.0,
            number: *number,
        };
        let mut body = id.encode();
        body.resize(dice.random_range(32..2000), 7);
        world.published(id);
        let parts = MessageParts {
            flags: MessageFlags::default(),
            exchange: b"",
            routing_key: queue.name.as_bytes(),
            blind_keys: &[],
            properties: &[0, 0],
            body: &[Bytes::from(body)],
        };
        let pushed = handle.publish(mailbox, &[queue.id], PublishOptions::default(), &parts);
        sent.push((pushed.seq, id));
    }
    handle.kick();
    sent
}

fn hear(world: &World, mailbox: &Mailbox, pending: &mut Pending) {
    let mut events = Vec::new();
    mailbox.take(&mut events);
    for event in events {
        match event {
            Event::Refused(set, seq) => {
                world.note(&format!("set {set} refused {seq}"));
                let some = pending.entry(set).or_default();
                some.retain(|(one, _)| *one != seq);
            }
            Event::GivenUp(set, seq) => {
                world.note(&format!("set {set} gave up {seq}"));
                let some = pending.entry(set).or_default();
                some.retain(|(one, _)| *one > seq);
            }
            Event::Applied(set, seq) => {
                let some = pending.entry(set).or_default();
                while some.front().is_some_and(|(one, _)| *one <= seq) {
                    if let Some((_, id)) = some.pop_front() {
                        world.confirmed(id);
                    }
                }
            }
            Event::Deliver(..)
            | Event::Lost(_)
            | Event::Skipped(..)
            | Event::Cancelled(_)
            | Event::TimedOut(_) => {}
        }
    }
}

/// Consumes one queue for as long as the node lives.
pub async fn consume(
    world: World,
    at: usize,
    cluster: Arc<Cluster>,
    queue: QueueRecord,
    dead: Arc<AtomicBool>,
) {
    let mut dice = dice(&world, at, &cluster, queue.id.0);
    let mailbox = Arc::new(Mailbox::default());
    let session = cluster.registry.session();
    loop {
        let consumer = cluster.registry.consumer(&mailbox);
        let Some(handle) = cluster.set(queue.set()) else {
            return;
        };
        let subscribe = Command::Subscribe {
            consumer,
            queue: queue.id,
            config: ConsumerConfig {
                session,
                channel: 1,
                no_ack: false,
                until_sent: false,
                exclusive: false,
                priority: 0,
                credit: Credit::Prefetch(16),
                visibility: None,
                start: StreamStart::Next,
                overdue: None,
            },
        };
        match handle.ask(&subscribe).await {
            Ok(Reply::Subscribed) => {}
            Ok(_) => {
                sleep(Duration::from_millis(100)).await;
                continue;
            }
            Err(_) if dead.load(Ordering::Acquire) => return,
            Err(error) => {
                world.violation(format!("a replica here gives no answer: {error}"));
                return;
            }
        }
        let mut going = true;
        let mut next_no = 1;
        while going {
            mailbox.ready().await;
            let mut events = Vec::new();
            mailbox.take(&mut events);
            for event in events {
                if dead.load(Ordering::Acquire) {
                    return;
                }
                match event {
                    Event::Deliver(_, delivery, _) if delivery.consumer == consumer => {
                        next_no = delivery.first_no + u64::from(delivery.count);
                        take(&world, handle, consumer, delivery, &mut dice).await;
                    }
                    Event::Skipped(set, skipped) if set == queue.set() => {
                        let held = skipped.held(session, consumer);
                        going = held.is_some_and(|held| held.attached);
                        for delivery in held.iter().flat_map(|held| &held.deliveries) {
                            if let Some(unseen) = delivery.from_no(next_no) {
                                take(&world, handle, consumer, unseen, &mut dice).await;
                            }
                        }
                        next_no = held.map_or(next_no, |held| held.next_no);
                    }
                    Event::Cancelled(which) if which == consumer => going = false,
                    Event::TimedOut(late) if late.consumer == consumer => going = false,
                    Event::Lost(_) => {
                        // The set may still know them: what was leased and never told goes back.
                        handle.push(&Command::CloseSession {
                            session,
                            channel: None,
                        });
                        going = false;
                    }
                    _ => {}
                }
            }
            handle.kick();
        }
        cluster.registry.forget(consumer);
        world.note(&format!("n{} consumer {consumer} ended", at + 1));
    }
}

async fn take(
    world: &World,
    handle: &SetHandle,
    consumer: ConsumerId,
    delivery: Delivery,
    dice: &mut StdRng,
) {
    for nth in 0..delivery.count {
        let position = delivery.first.plus(nth);
        let number = delivery.first_no + u64::from(nth);
        let read = handle
            .load(position)
            .await
            .map_err(|error| error.to_string());
        let read = read.and_then(|payload| {
            message(&payload, position.slot()).map_err(|error| error.to_string())
        });
        let mut outcome = Outcome::Ack;
        match read {
            Ok(message) => match MessageId::decode(&message.body) {
                Some(id) => world.delivered(consumer, id, delivery.redelivered),
                None => world.violation(format!("{position:?} holds bytes nobody published")),
            },
            Err(error) => {
                world.note(&format!("{position:?} cannot be read: {error}"));
                outcome = Outcome::Requeue { failed: false };
            }
        }
        if dice.random_range(0..20) == 0 {
            outcome = Outcome::Requeue { failed: false };
        }
        handle.push(&Command::Settle {
            consumer,
            first: number,
            last: number,
            outcome,
        });
    }
}
