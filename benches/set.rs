//! What a message costs in the queue machine: enqueue, deliver and acknowledge, in batches and singly.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use leveret::base::{ConsumerId, Millis, NodeId, PipeId, Position, QueueId, SessionId};
use leveret::model::Meta;
use leveret::model::set::{
    Command, ConsumerConfig, Credit, Effects, Enqueue, MemoryPages, Outcome, QueueConfig,
    SetMachine, Source, StreamStart,
};

struct Load {
    machine: SetMachine,
    effects: Effects,
    seq: u64,
    index: u64,
    settled: u64,
}

impl Load {
    fn new() -> Self {
        let mut load = Self {
            machine: SetMachine::new(Box::new(MemoryPages::default())),
            effects: Effects::new(),
            seq: 0,
            index: 0,
            settled: 0,
        };
        let config = QueueConfig {
            visibility: Millis(1_800_000),
            ..QueueConfig::default()
        };
        let consumer = ConsumerConfig {
            session: SessionId(1),
            channel: 1,
            no_ack: false,
            until_sent: false,
            exclusive: false,
            priority: 0,
            credit: Credit::Prefetch(1024),
            visibility: None,
            start: StreamStart::Next,
            overdue: None,
        };
        let queue = QueueId(1);
        load.begin();
        load.give(Command::OpenPipe, 1);
        load.give(
            Command::Create {
                queue,
                config: Box::new(config),
            },
            1,
        );
        load.give(
            Command::Subscribe {
                consumer: ConsumerId(1),
                queue,
                config: consumer,
            },
            1,
        );
        load
    }

    fn begin(&mut self) {
        self.index += 1;
        self.effects.clear();
        let now = Millis(self.index);
        self.machine.begin(
            Meta {
                index: self.index,
                now,
            },
            &mut self.effects,
        );
    }

    fn give(&mut self, command: Command, count: u64) {
        let pipe = PipeId {
            node: NodeId(1),
            incarnation: 1,
        };
        let seq = self.seq + 1;
        black_box(
            self.machine
                .apply(Source { pipe, seq }, command, &mut self.effects),
        );
        self.seq += count;
    }

    fn publish(&mut self, slot: u32, count: u32) {
        let run = Enqueue {
            queue: QueueId(1),
            first: Position::new(self.index, slot),
            count,
            size: 16,
            ttl: None,
            priority: None,
            delay: None,
        };
        self.give(Command::Enqueue(run), u64::from(count));
    }

    fn ack(&mut self, count: u64) {
        let first = self.settled + 1;
        self.settled += count;
        let last = self.settled;
        let outcome = Outcome::Ack;
        let consumer = ConsumerId(1);
        self.give(
            Command::Settle {
                consumer,
                first,
                last,
                outcome,
            },
            1,
        );
    }
}

/// Registers the benches.
pub fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("set");
    group.throughput(Throughput::Elements(128));
    group.bench_function("enqueue, deliver, ack: 128 as one run", |b| {
        let mut load = Load::new();
        b.iter(|| {
            load.begin();
            load.publish(0, 128);
            load.begin();
            load.ack(128);
        });
    });
    group.bench_function("enqueue, deliver, ack: 128 one by one", |b| {
        let mut load = Load::new();
        b.iter(|| {
            load.begin();
            (0..128).for_each(|slot| load.publish(slot, 1));
            load.begin();
            (0..128).for_each(|_| load.ack(1));
        });
    });
    group.finish();
}
