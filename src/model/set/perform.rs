//! What each command does: the way to its verb, and what concerns whole queues (create, purge, delete, get).
//!
//! Every command ends with `settle_down` of the queues it touched, which keeps the machine's main invariant.

use std::collections::VecDeque;

use super::command::QueueConfig;
use super::effect::{Effect, Effects, Reply};
use super::lease::{Consumer, Leases, Timer};
use super::machine::SetMachine;
use super::queue::Queue;
use super::{Command, Credit, Source};
use crate::base::{ConsumerId, PipeId, QueueId, SessionId};

impl SetMachine {
    pub(super) fn perform(
        &mut self,
        source: Source,
        skip: u32,
        command: Command,
        effects: &mut Effects,
    ) {
        let reply = match command {
            Command::Enqueue(run) => {
                self.enqueue(source, skip, run, effects);
                return;
            }
            Command::Settle {
                consumer,
                first,
                last,
                outcome,
            } => {
                self.settle(consumer, first, last, outcome, effects);
                return;
            }
            Command::Grant { consumer, add } => {
                self.grant(consumer, add, effects);
                return;
            }
            Command::DeadLettered { queue, id } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    queue.forget_dead(id, &mut self.ground);
                }
                return;
            }
            Command::OpenPipe => {
                self.release_older(source.pipe, effects);
                return;
            }
            Command::Tick => return,
            Command::Subscribe {
                consumer,
                queue,
                config,
            } => {
                self.subscribe(source, consumer, queue, config, effects);
                return;
            }
            Command::Create { queue, config } => self.create(queue, *config),
            Command::Configure { queue, config } => self.configure(queue, *config, effects),
            Command::Delete {
                queue,
                if_unused,
                if_empty,
            } => self.delete_if(queue, if_unused, if_empty, effects),
            Command::Retire { queue } => self.retire_part(queue, effects),
            Command::Purge { queue } => match self.queues.get_mut(&queue) {
                Some(queue) if queue.is_stream() => Reply::Count(0),
                Some(queue) => {
                    if queue.config.at_least_once {
                        queue.forget_all_dead(&mut self.ground);
                    }
                    Reply::Count(queue.purge(&mut self.ground))
                }
                None => Reply::NoQueue,
            },
            Command::Inspect { queue, touch } => self.inspect(queue, touch),
            Command::CloseNode {
                node,
                incarnation,
                returns,
            } => match self.pipe(PipeId { node, incarnation }) {
                Some(pipe) if pipe.returns > returns => Reply::Returned(pipe.returns),
                _ => {
                    self.close_node(node, incarnation, effects);
                    Reply::Done
                }
            },
            Command::Return => {
                if let Some(pipe) = self.pipes.get_mut(&source.pipe.node) {
                    pipe.returns = pipe.returns.saturating_add(1);
                }
                Reply::Done
            }
            Command::Unsubscribe { consumer } => self.unsubscribe(consumer, effects),
            Command::LimitChannel {
                session,
                channel,
                limit,
            } => {
                self.limit_channel(source.pipe, session, channel, limit, effects);
                Reply::Done
            }
            Command::Get {
                queue,
                holder,
                session,
                channel,
                no_ack,
            } => self.get(
                source.pipe,
                queue,
                (holder, session, channel),
                no_ack,
                effects,
            ),
            Command::CloseSession { session, channel } => {
                let deleted = self.close(session, channel, effects);
                Reply::Closed { deleted }
            }
        };
        effects.push(Effect::Reply(source, reply));
    }

    pub(super) fn grant(&mut self, id: ConsumerId, add: u32, effects: &mut Effects) {
        let Some(consumer) = self.ground.consumers.get_mut(&id) else {
            return;
        };
        if let Credit::Window(window) = &mut consumer.credit {
            *window = window.saturating_add(add);
        }
        let mut left = add;
        while left > 0
            && let Some((first, count)) = consumer.take_sent(left)
        {
            left -= count;
            self.ground.live.remove(first, u64::from(count));
        }
        let mut touched = Vec::new();
        self.unpark(id, &mut touched);
        for queue in touched {
            self.settle_down(queue, effects);
        }
    }

    pub(super) fn create(&mut self, id: QueueId, config: QueueConfig) -> Reply {
        self.moved.remove(&id);
        if !self.queues.contains_key(&id) {
            let mut queue = Queue::new(id, config, self.ground.now);
            queue.touch(&mut self.ground);
            self.queues.insert(id, queue);
            self.ground.totals.queues += 1;
        }
        Reply::Done
    }

    pub(super) fn configure(
        &mut self,
        id: QueueId,
        config: QueueConfig,
        effects: &mut Effects,
    ) -> Reply {
        let Some(queue) = self.queues.get_mut(&id) else {
            return Reply::NoQueue;
        };
        let kept = queue.is_stream().then(|| config.stream.unwrap_or_default());
        queue.config = QueueConfig {
            stream: kept,
            ..config
        };
        queue.elect(&self.ground);
        queue.touch(&mut self.ground);
        queue.settle_down(&mut self.ground, effects);
        Reply::Done
    }

    pub(super) fn inspect(&mut self, id: QueueId, touch: bool) -> Reply {
        let Some(queue) = self.queues.get_mut(&id) else {
            return Reply::NoQueue;
        };
        if touch {
            queue.touch(&mut self.ground);
        }
        let stats = queue.stats();
        Reply::Counts {
            ready: stats.ready,
            unsettled: stats.unsettled,
            consumers: stats.consumers,
        }
    }

    pub(super) fn delete_if(
        &mut self,
        id: QueueId,
        if_unused: bool,
        if_empty: bool,
        effects: &mut Effects,
    ) -> Reply {
        let Some(queue) = self.queues.get(&id) else {
            return Reply::Count(0);
        };
        if if_empty && queue.ready > 0 {
            return Reply::NotEmpty;
        }
        if if_unused && !queue.attached.is_empty() {
            return Reply::InUse;
        }
        Reply::Count(self.delete(id, effects))
    }

    fn retire_part(&mut self, id: QueueId, effects: &mut Effects) -> Reply {
        let Some(queue) = self.queues.get(&id) else {
            return Reply::NoQueue;
        };
        let stats = queue.stats();
        if stats.ready + stats.unsettled + stats.delayed + stats.dead_letters > 0 {
            return Reply::NotEmpty;
        }
        self.moved.insert(id);
        Reply::Count(self.delete(id, effects))
    }

    /// Takes a queue away with all it holds; returns how many were ready. Its consumers hear of it.
    pub(super) fn delete(&mut self, id: QueueId, effects: &mut Effects) -> u64 {
        let Some(mut queue) = self.queues.remove(&id) else {
            return 0;
        };
        let ground = &mut self.ground;
        let count = queue.purge(ground);
        for piece in queue.delayed.values() {
            ground
                .live
                .remove(piece.run.first, u64::from(piece.run.count));
        }
        queue.forget_all_dead(ground);
        let timers = [
            (queue.heads_armed, Timer::Heads(id)),
            (queue.delayed_armed, Timer::Delayed(id)),
            (queue.expires_armed, Timer::Expires(id)),
        ];
        for (armed, timer) in timers {
            if let Some(at) = armed {
                ground.timers.remove(&(at, timer));
            }
        }
        ground.totals.queues -= 1;
        ground.totals.consumers -= queue.attached.len() as u64;
        for consumer in &queue.attached {
            effects.push(Effect::Cancelled(*consumer));
        }
        let mut touched = Vec::new();
        for holder in std::mem::take(&mut queue.holders) {
            self.drop_holder(holder, &mut queue, &mut touched);
        }
        for queue in touched {
            self.settle_down(queue, effects);
        }
        count
    }

    pub(super) fn drop_holder(
        &mut self,
        id: ConsumerId,
        queue: &mut Queue,
        touched: &mut Vec<QueueId>,
    ) {
        let Some(consumer) = self.ground.consumers.get_mut(&id) else {
            return;
        };
        let mut taken = Vec::new();
        consumer.leases.take_queue(queue.id, &mut taken);
        if !consumer.getter {
            consumer.attached = false;
        }
        let mut count = 0;
        for (_, lease) in taken {
            queue.unlease(&lease.piece, &mut self.ground);
            self.ground
                .live
                .remove(lease.piece.run.first, u64::from(lease.piece.run.count));
            count += u64::from(lease.piece.run.count);
        }
        self.free(id, count, touched);
        self.forget_if_idle(id);
    }

    pub(super) fn get(
        &mut self,
        pipe: PipeId,
        queue_id: QueueId,
        (holder, session, channel): (ConsumerId, SessionId, u16),
        no_ack: bool,
        effects: &mut Effects,
    ) -> Reply {
        let Some(queue) = self.queues.get_mut(&queue_id) else {
            return Reply::NoQueue;
        };
        let limited = self.ground.channels.contains_key(&(session, channel));
        let known = self
            .ground
            .consumers
            .entry(holder)
            .or_insert_with(|| Consumer {
                queue: queue_id,
                session,
                channel,
                pipe,
                attached: false,
                getter: true,
                no_ack,
                until_sent: false,
                priority: 0,
                credit: Credit::Prefetch(0),
                visibility: None,
                overdue: None,
                parked: false,
                limited,
                next_no: 1,
                unsettled: 0,
                leases: Leases::default(),
                on_way: VecDeque::new(),
                armed: None,
                cursor: None,
            });
        // An id that is a consumer's is not a holder's; the node never mints it twice.
        if !known.getter {
            return Reply::GotNothing;
        }
        self.members.insert((session, channel, holder));
        self.opened.insert((pipe, session));
        queue.touch(&mut self.ground);
        let got = queue.get(holder, no_ack, &mut self.ground, effects);
        if got.is_some() {
            // What has expired right behind it does not count as ready.
            queue.serving(&mut self.ground, effects);
        }
        queue.settle_down(&mut self.ground, effects);
        if let Some(delivery) = got {
            return Reply::Got {
                delivery,
                ready: queue.ready,
            };
        }
        self.ground.totals.got_nothing += 1;
        Reply::GotNothing
    }
}
