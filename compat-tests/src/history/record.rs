//! Taking events from many tasks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::Message;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A publish is about to be sent; `who` is the queue.
    Attempt,
    /// Its confirm was an ack.
    Confirm,
    /// Its confirm was a nack.
    Refuse,
    /// A consumer begins on queue `message.number`, at node `message.publisher`.
    Start,
    /// Consumer `who` got the message for what the broker says is the first time.
    Deliver,
    /// The same, flagged as redelivered.
    DeliverAgain,
    /// Consumer `who` is about to send an ack.
    Ack,
    /// A synchronous method behind that ack was answered: the broker has it.
    AckCertain,
    /// Consumer `who` is about to give the message back.
    Requeue,
    /// Consumer `who` is about to close, or has found that its channel is gone.
    Stop,
    /// A fault that node `who` suffers is about to begin.
    FaultBegin,
    /// The fault is over.
    FaultEnd,
    /// Consumer `who` got something that nobody published.
    Unreadable,
}

/// One thing that happened, 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Publisher in the upper 24 bits, number in the lower 40.
    message: u64,
    /// Milliseconds since the history began.
    pub at_ms: u32,
    /// Consumer, queue or node: see the kind.
    pub who: u16,
    /// What happened.
    pub kind: EventKind,
}

const NUMBER_BITS: u32 = 40;

impl Event {
    /// The message it is about.
    #[must_use]
    pub fn message(&self) -> Message {
        Message {
            publisher: u32::try_from(self.message >> NUMBER_BITS).expect("24 bits"),
            number: self.message & ((1 << NUMBER_BITS) - 1),
        }
    }
}

/// See the head of [`super`].
pub struct History {
    begin: Instant,
    begin_wall: SystemTime,
    events: Mutex<Vec<Event>>,
    publishers: AtomicU32,
    consumers: AtomicU32,
}

impl Default for History {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            begin_wall: SystemTime::now(),
            events: Mutex::default(),
            publishers: AtomicU32::new(0),
            consumers: AtomicU32::new(0),
        }
    }
}

const NOTHING: Message = Message {
    publisher: 0,
    number: 0,
};

impl History {
    fn add(&self, kind: EventKind, message: Message, who: u16) {
        assert!(message.publisher < 1 << 24 && message.number < 1 << NUMBER_BITS);
        let packed = (u64::from(message.publisher) << NUMBER_BITS) | message.number;
        let mut events = self.events.lock().expect("events");
        // Under the lock, so that times never go back in the list.
        events.push(Event {
            message: packed,
            at_ms: self.now_ms(),
            who,
            kind,
        });
    }

    /// Milliseconds since the history began.
    #[must_use]
    pub fn now_ms(&self) -> u32 {
        u32::try_from(self.begin.elapsed().as_millis()).expect("less than seven weeks")
    }

    /// A publisher nobody was before.
    pub fn new_publisher(&self) -> u32 {
        self.publishers.fetch_add(1, Ordering::Relaxed)
    }

    /// A consumer nobody was before, at `node`, about to subscribe to `queue`.
    pub fn start_consumer(&self, queue: u16, node: usize) -> u16 {
        let number = self.consumers.fetch_add(1, Ordering::Relaxed);
        let consumer = u16::try_from(number).expect("65 thousand consumers");
        let place = Message {
            publisher: u32::try_from(node).expect("a node"),
            number: u64::from(queue),
        };
        self.add(EventKind::Start, place, consumer);
        consumer
    }

    /// To be said before the publish is sent, and again when it is repeated.
    pub fn attempt(&self, message: Message, queue: u16) {
        self.add(EventKind::Attempt, message, queue);
    }

    /// The broker confirmed it, or refused it.
    pub fn answered(&self, message: Message, confirmed: bool) {
        let kind = if confirmed {
            EventKind::Confirm
        } else {
            EventKind::Refuse
        };
        self.add(kind, message, 0);
    }

    /// A consumer got it.
    pub fn delivered(&self, message: Message, consumer: u16, redelivered: bool) {
        let kind = if redelivered {
            EventKind::DeliverAgain
        } else {
            EventKind::Deliver
        };
        self.add(kind, message, consumer);
    }

    /// A consumer got something that is no message of ours.
    pub fn unreadable(&self, consumer: u16) {
        self.add(EventKind::Unreadable, NOTHING, consumer);
    }

    /// To be said before the ack is sent.
    pub fn acked(&self, message: Message, consumer: u16) {
        self.add(EventKind::Ack, message, consumer);
    }

    /// A synchronous method behind the ack was answered.
    pub fn ack_certain(&self, message: Message, consumer: u16) {
        self.add(EventKind::AckCertain, message, consumer);
    }

    /// To be said before the message is given back.
    pub fn requeued(&self, message: Message, consumer: u16) {
        self.add(EventKind::Requeue, message, consumer);
    }

    /// To be said before a consumer closes, or when it has found that it is gone.
    pub fn stop_consumer(&self, consumer: u16) {
        self.add(EventKind::Stop, NOTHING, consumer);
    }

    /// To be said before a node is killed, paused or cut off.
    pub fn fault_begins(&self, node: usize) {
        let node = u16::try_from(node).expect("a node");
        self.add(EventKind::FaultBegin, NOTHING, node);
    }

    /// To be said when the node works again.
    pub fn fault_ends(&self, node: usize) {
        let node = u16::try_from(node).expect("a node");
        self.add(EventKind::FaultEnd, NOTHING, node);
    }

    /// A node suffered from `from_ms` to `to_ms`, as is known only now.
    pub fn fault_was(&self, node: usize, from_ms: u32, to_ms: u32) {
        let who = u16::try_from(node).expect("a node");
        let mut events = self.events.lock().expect("events");
        let ends = [
            (from_ms, EventKind::FaultBegin),
            (to_ms.max(from_ms), EventKind::FaultEnd),
        ];
        for (at_ms, kind) in ends {
            let begins = kind == EventKind::FaultBegin;
            let before = |event: &Event| event.at_ms < at_ms || (event.at_ms == at_ms && !begins);
            let place = events.partition_point(before);
            events.insert(
                place,
                Event {
                    message: 0,
                    at_ms,
                    who,
                    kind,
                },
            );
        }
    }

    /// When a line of a log was written, `2026-11-26 07:17:20.532 …`, in the history's time; `None` if that was not in it.
    #[must_use]
    pub fn at_of_line(&self, line: &str) -> Option<u32> {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        const SLACK_MS: u32 = 1000;
        let (_, time) = line.split_once(' ')?;
        let number = |from: usize, to: usize| time.get(from..to)?.parse::<u64>().ok();
        let seconds = (number(0, 2)? * 60 + number(3, 5)?) * 60 + number(6, 8)?;
        let at = seconds * 1000 + number(9, 12)?;
        let begin = self.begin_wall.duration_since(UNIX_EPOCH).ok()?;
        let begin = u64::try_from(begin.as_millis()).ok()? % DAY_MS;
        let since = (at + DAY_MS - begin) % DAY_MS;
        let since = u32::try_from(since).ok()?;
        // The wall clock is read in whole milliseconds, and may be adjusted.
        let now = self.now_ms();
        (since <= now.saturating_add(SLACK_MS)).then_some(since.min(now))
    }

    /// Looks at all events so far.
    pub fn with<T>(&self, look: impl FnOnce(&[Event]) -> T) -> T {
        look(&self.events.lock().expect("events"))
    }

    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.with(<[Event]>::len)
    }

    /// Whether nothing has happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Events of one message, as text.
    #[must_use]
    pub fn story(&self, message: Message) -> String {
        let about = |event: &&Event| {
            let one = !matches!(
                event.kind,
                EventKind::Start | EventKind::Stop | EventKind::FaultBegin | EventKind::FaultEnd
            );
            one && event.message() == message
        };
        let line = |event: &Event| format!("{} ms {:?} {}", event.at_ms, event.kind, event.who);
        self.with(|events| {
            let lines: Vec<String> = events.iter().filter(about).map(line).collect();
            lines.join(", ")
        })
    }
}
