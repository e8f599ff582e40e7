//! Random command lists: runs against single messages, and a machine restored at random places against one
//! that never stopped.

use proptest::prelude::*;

use crate::base::*;
use crate::model::Meta;
use crate::model::set::*;

const QUEUES: u64 = 3;

fn pipe() -> PipeId {
    PipeId {
        node: NodeId(1),
        incarnation: 1,
    }
}

fn overdue(dice: u8) -> Overdue {
    match dice {
        0 => Overdue::Cancel,
        1 => Overdue::Close,
        _ => Overdue::Nothing,
    }
}

pub(super) fn config() -> impl Strategy<Value = QueueConfig> {
    let limits = (
        prop::option::of(0..12u64),
        prop::option::of(0..200u64),
        0..3u8,
        any::<bool>(),
    );
    let times = (
        prop::option::of(0..40u64),
        prop::option::of(1..90u64),
        1..60u64,
        any::<bool>(),
    );
    let rules = (
        prop::option::of(1..4u8),
        any::<bool>(),
        prop::option::of(0..3u32),
        any::<bool>(),
        any::<bool>(),
        (0..6u8, any::<bool>(), any::<bool>()),
    );
    let stream = (
        prop::option::of(5..200u64),
        prop::option::of(0..200u64),
        0..4u8,
    );
    (limits, times, rules, stream).prop_map(|(l, t, r, s)| QueueConfig {
        message_ttl: t.0.map(Millis),
        expires: t.1.filter(|at| *at > 60).map(Millis),
        max_length: l.0,
        max_length_bytes: l.1,
        overflow: [
            Overflow::DropHead,
            Overflow::RejectPublish,
            Overflow::RejectPublishDlx,
        ][usize::from(l.2)],
        dead_letters: l.3,
        at_least_once: r.5.1,
        max_priority: r.0,
        default_priority: 0,
        single_active: r.1,
        active_by_priority: r.5.2,
        delivery_limit: r.2,
        count_every_return: r.3,
        visibility: Millis(t.2),
        overdue: overdue(r.5.0),
        auto_delete: r.4,
        stream: (s.2 == 0).then_some(StreamRules {
            max_age: s.0.map(Millis),
            max_bytes: s.1,
        }),
        delayed_retry: t.3.then_some(DelayedRetry {
            failed: true,
            returned: r.3,
            min: Millis(3),
            max: Millis(7),
        }),
    })
}

fn queue() -> impl Strategy<Value = QueueId> {
    (1..=QUEUES).prop_map(QueueId)
}

fn consumer() -> impl Strategy<Value = ConsumerId> {
    (1..7u64).prop_map(ConsumerId)
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    let credit = prop_oneof![
        (1..6u32).prop_map(Credit::Prefetch),
        (0..9u32).prop_map(Credit::Window)
    ];
    let start = prop_oneof![
        Just(StreamStart::First),
        Just(StreamStart::Last),
        Just(StreamStart::Next),
        (0..60u64).prop_map(StreamStart::Offset),
        (990..1400u64).prop_map(|at| StreamStart::Time(Millis(at))),
        (0..100u64).prop_map(|span| StreamStart::Ago(Millis(span))),
    ];
    let how = (
        1..4u64,
        0..2u16,
        any::<bool>(),
        0..12u8,
        0..2i32,
        credit,
        start,
    );
    let subscriber = how.prop_map(
        |(session, channel, no_ack, exclusive, priority, credit, start)| ConsumerConfig {
            session: SessionId(session),
            channel,
            no_ack,
            until_sent: exclusive % 2 == 0,
            exclusive: exclusive == 0,
            priority,
            credit,
            visibility: None,
            overdue: (exclusive > 8).then(|| overdue(exclusive - 9)),
            start,
        },
    );
    let outcome = prop_oneof![
        3 => Just(Outcome::Ack),
        2 => any::<bool>().prop_map(|failed| Outcome::Requeue { failed }),
        1 => Just(Outcome::Reject),
        1 => (0..50u64).prop_map(|at| Outcome::Extend { visibility: Millis(at) }),
    ];
    let options = (
        prop::option::of(0..30u64),
        prop::option::of(0..5u8),
        prop::option::of(0..9u64),
    );
    prop_oneof![
        12 => (queue(), 1..9u32, 0..30u32, options).prop_map(|(queue, count, size, (ttl, priority, delay))| {
            Command::Enqueue(Enqueue {
                queue, first: Position::new(0, 0), count, size, ttl: ttl.map(Millis), priority,
                delay: delay.filter(|at| *at > 5).map(Millis),
            })
        }),
        5 => (consumer(), queue(), subscriber)
            .prop_map(|(consumer, queue, config)| Command::Subscribe { consumer, queue, config }),
        12 => (consumer(), 1..20u64, 0..8u64, outcome).prop_map(|(consumer, first, more, outcome)| {
            Command::Settle { consumer, first, last: first + more, outcome }
        }),
        3 => (consumer(), 0..9u32).prop_map(|(consumer, add)| Command::Grant { consumer, add }),
        3 => (queue(), 1..4u64, 0..2u16, any::<bool>()).prop_map(|(queue, session, channel, no_ack)| Command::Get {
            queue, holder: ConsumerId(100 + session * 2 + u64::from(channel)), session: SessionId(session), channel,
            no_ack,
        }),
        2 => (queue(), config()).prop_map(|(queue, config)| Command::Create { queue, config: Box::new(config) }),
        1 => (1..4u64, prop::option::of(0..2u16))
            .prop_map(|(s, channel)| Command::CloseSession { session: SessionId(s), channel }),
        1 => consumer().prop_map(|consumer| Command::Unsubscribe { consumer }),
        1 => (1..4u64, 0..2u16, 0..5u32)
            .prop_map(|(s, channel, limit)| Command::LimitChannel { session: SessionId(s), channel, limit }),
        1 => queue().prop_map(|queue| Command::Purge { queue }),
        1 => (queue(), any::<bool>(), any::<bool>())
            .prop_map(|(queue, if_unused, if_empty)| Command::Delete { queue, if_unused, if_empty }),
        2 => (queue(), 1..9u64).prop_map(|(queue, id)| Command::DeadLettered { queue, id }),
        4 => Just(Command::Tick),
    ]
}

/// Effects message by message: a pipe's in their order, then the set's in theirs (no order holds between the two), what
/// streams deliver by consumer (no order holds between those either).
fn expand(effects: &[Effect]) -> Vec<String> {
    let mut out = Vec::new();
    for effect in effects {
        if let Effect::Deliver(d) = effect {
            for i in 0..d.count {
                let one = Delivery {
                    first_no: d.first_no + u64::from(i),
                    first: d.first.plus(i),
                    count: 1,
                    offset: d.offset.map(|offset| offset + u64::from(i)),
                    ..*d
                };
                let group = if d.offset.is_some() { d.consumer.0 } else { 0 };
                out.push((group, format!("{one:?}")));
            }
        } else {
            let dead = matches!(effect, Effect::DeadLetter(_));
            out.push((if dead { u64::MAX } else { 0 }, format!("{effect:?}")));
        }
    }
    out.sort_by_key(|(group, _)| *group);
    out.into_iter().map(|(_, line)| line).collect()
}

struct Driver {
    machine: SetMachine,
    seq: u64,
    effects: Vec<Effect>,
}

impl Driver {
    fn new(machine: SetMachine) -> Self {
        Self {
            machine,
            seq: 0,
            effects: Vec::new(),
        }
    }

    fn give(&mut self, command: Command) {
        let count = if let Command::Enqueue(run) = &command {
            u64::from(run.count)
        } else {
            1
        };
        let source = Source {
            pipe: pipe(),
            seq: self.seq + 1,
        };
        assert_eq!(
            self.machine.apply(source, command, &mut self.effects),
            Applied::Done
        );
        self.seq += count;
        self.machine.check();
    }

    fn begin(&mut self, index: u64, now: u64) {
        self.machine.begin(
            Meta {
                index,
                now: Millis(now),
            },
            &mut self.effects,
        );
        self.machine.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn runs_act_like_their_messages_and_a_restored_machine_like_one_that_never_stopped(
        first in prop::collection::vec(config(), QUEUES as usize),
        steps in prop::collection::vec((command(), 0..12u64, 0..10u8), 1..70),
    ) {
        let pages = || Box::new(MemoryPages::default());
        let mut whole = Driver::new(SetMachine::new(pages()));
        let mut single = Driver::new(SetMachine::new(pages()));
        for driver in [&mut whole, &mut single] {
            driver.begin(1, 1000);
            driver.give(Command::OpenPipe);
            for (at, config) in first.iter().enumerate() {
                let queue = QueueId(at as u64 + 1);
                driver.give(Command::Create { queue, config: Box::new(config.clone()) });
            }
        }
        let mut now = 1000;
        for (at, (command, wait, stop)) in steps.into_iter().enumerate() {
            let index = at as u64 + 2;
            now += wait;
            whole.begin(index, now);
            single.begin(index, now);
            if let Command::Enqueue(run) = command {
                let run = Enqueue { first: Position::new(index, 0), ..run };
                whole.give(Command::Enqueue(run));
                for slot in 0..run.count {
                    single.give(Command::Enqueue(Enqueue { first: run.first.plus(slot), count: 1, ..run }));
                }
            } else {
                whole.give(command.clone());
                single.give(command);
            }
            prop_assert_eq!(expand(&whole.effects), expand(&single.effects));
            whole.effects.clear();
            single.effects.clear();
            prop_assert_eq!(whole.machine.totals(), single.machine.totals());
            prop_assert_eq!(whole.machine.live(), single.machine.live());
            if stop == 0 {
                let bytes = whole.machine.snapshot();
                let digest = whole.machine.digest();
                whole.machine = SetMachine::restore(&bytes, pages()).unwrap();
                prop_assert_eq!(whole.machine.digest(), digest);
                whole.machine.check();
            }
        }
    }
}
