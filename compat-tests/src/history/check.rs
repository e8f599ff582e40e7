//! One walk over the events.
//!
//! | checked | a violation is |
//! | --- | --- |
//! | nothing is lost | a confirmed message that was never delivered (the history must end with a drain) |
//! | nothing is invented | a delivery of what was not published, from another queue than it went to, or with other bytes |
//! | duplicates | a delivery beyond the first that nothing explains, or that is not flagged as redelivered |
//! | acks | a delivery after an ack that is certain |
//! | leases | a delivery while another consumer, or the same one, holds the message |
//! | order | a message not flagged, after a later one of its publisher and queue: with the same consumer, or with one whose delivery was seen before this consumer began |
//!
//! A client learns of its end later than the broker, so a consumer that is found gone within [`Rules::grace_ms`] counts
//! as gone already. Messages published twice are not judged for order.

use std::collections::HashMap;

use super::record::{Event, EventKind};
use super::report::{Report, Why};
use super::{History, Message};

/// What the judge must know of the test.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The time after which a lease ends by itself, milliseconds.
    pub lease_ms: u32,
    /// How much later than the broker a client may learn of its end, milliseconds.
    pub grace_ms: u32,
    /// Whether leases of a node that is silent for a while end, although the node and its consumers live: the cluster's
    /// `consumer_disconnected_timeout` is shorter than the faults.
    pub silence_ends_leases: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            lease_ms: u32::MAX,
            grace_ms: 5000,
            silence_ends_leases: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Answer {
    #[default]
    None,
    Confirmed,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Hold {
    #[default]
    Nobody,
    Held,
    Acked,
    Certain,
    GivenBack,
}

/// What is known of one message.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    attempts: u8,
    answer: Answer,
    hold: Hold,
    delivered: bool,
    /// Seen only with the flag so far: an earlier delivery is still on its way to a consumer, or never arrives.
    first_unseen: bool,
    queue: u16,
    holder: u16,
    held_since_ms: u32,
}

struct Consumer {
    queue: u16,
    node: u16,
    /// Filled before the walk: a client may learn of its end after others did.
    end_ms: Option<u32>,
    /// The highest unflagged number per publisher that anybody had seen of the queue when this consumer began, and since
    /// then those it saw itself.
    highest: HashMap<u32, u64>,
}

#[derive(Default)]
struct Node {
    open: u32,
    last_end_ms: Option<u32>,
}

#[derive(Default)]
struct Walk {
    publishers: Vec<Vec<State>>,
    consumers: HashMap<u16, Consumer>,
    nodes: HashMap<u16, Node>,
    /// The highest unflagged number delivered, per queue and publisher.
    highest: HashMap<u16, HashMap<u32, u64>>,
    report: Report,
}

/// Judges a history.
#[must_use]
pub fn check(history: &History, rules: Rules) -> Report {
    let mut report = history.with(|events| {
        let mut walk = Walk::default();
        let stops = events.iter().filter(|event| event.kind == EventKind::Stop);
        let mut ends: HashMap<u16, u32> = HashMap::new();
        for stop in stops {
            ends.entry(stop.who).or_insert(stop.at_ms);
        }
        for event in events {
            walk.step(event, &ends, rules);
        }
        walk.finish()
    });
    for (message, text) in &mut report.violations {
        text.push_str(" [");
        text.push_str(&history.story(*message));
        text.push(']');
    }
    report
}

impl Walk {
    fn state(&mut self, message: Message) -> Option<&mut State> {
        let publisher = self.publishers.get_mut(message.publisher as usize)?;
        let at = usize::try_from(message.number).ok()?.checked_sub(1)?;
        publisher.get_mut(at).filter(|state| state.attempts > 0)
    }

    fn step(&mut self, event: &Event, ends: &HashMap<u16, u32>, rules: Rules) {
        let message = event.message();
        match event.kind {
            EventKind::Attempt => self.attempt(message, event.who),
            EventKind::Confirm => self.answer(message, Answer::Confirmed),
            EventKind::Refuse => self.answer(message, Answer::Refused),
            EventKind::Start => self.start(event, ends.get(&event.who).copied()),
            EventKind::Deliver => self.deliver(event, false, rules),
            EventKind::DeliverAgain => self.deliver(event, true, rules),
            EventKind::Ack => self.settle(event, Hold::Acked),
            EventKind::AckCertain => self.certain(event, rules),
            EventKind::Requeue => self.settle(event, Hold::GivenBack),
            EventKind::Stop => {}
            EventKind::FaultBegin => self.nodes.entry(event.who).or_default().open += 1,
            EventKind::FaultEnd => {
                let node = self.nodes.entry(event.who).or_default();
                node.open = node.open.saturating_sub(1);
                node.last_end_ms = Some(event.at_ms);
            }
            EventKind::Unreadable => {
                let text = format!("consumer {} got bytes nobody published", event.who);
                self.report.violates(message, text);
            }
        }
    }

    fn attempt(&mut self, message: Message, queue: u16) {
        let publisher = message.publisher as usize;
        if self.publishers.len() <= publisher {
            self.publishers.resize_with(publisher + 1, Vec::new);
        }
        let at = usize::try_from(message.number - 1).expect("numbers are dense");
        let states = &mut self.publishers[publisher];
        if states.len() <= at {
            states.resize(at + 1, State::default());
        }
        let state = &mut states[at];
        state.attempts = state.attempts.saturating_add(1);
        state.queue = queue;
    }

    fn answer(&mut self, message: Message, answer: Answer) {
        let Some(state) = self.state(message) else {
            let text = "an answer to what was not published".to_owned();
            return self.report.violates(message, text);
        };
        // A repeat may be refused after the first was confirmed: that one counts.
        if state.answer != Answer::Confirmed {
            state.answer = answer;
        }
    }

    fn start(&mut self, event: &Event, end_ms: Option<u32>) {
        let place = event.message();
        let queue = u16::try_from(place.number).expect("a queue");
        let consumer = Consumer {
            queue,
            node: u16::try_from(place.publisher).expect("a node"),
            end_ms,
            highest: self.highest.get(&queue).cloned().unwrap_or_default(),
        };
        self.consumers.insert(event.who, consumer);
    }

    fn settle(&mut self, event: &Event, hold: Hold) {
        let Some(state) = self.state(event.message()) else {
            return;
        };
        // Somebody else may hold it since; then this settle is stale, and says nothing about that lease.
        let own = state.holder == event.who;
        if own && !(state.hold == Hold::Certain && hold == Hold::Acked) {
            state.hold = hold;
        }
    }

    /// An ack is only certain to have settled the message if the lease cannot have ended before it.
    fn certain(&mut self, event: &Event, rules: Rules) {
        let since = self
            .state(event.message())
            .map_or(0, |one| one.held_since_ms);
        let node = self.consumers.get(&event.who).map(|one| one.node);
        let faulty = node
            .and_then(|node| self.nodes.get(&node))
            .is_some_and(|node| {
                let reaches = |end: u32| end.saturating_add(rules.grace_ms) >= since;
                node.open > 0 || node.last_end_ms.is_some_and(reaches)
            });
        if !(faulty && rules.silence_ends_leases) {
            self.settle(event, Hold::Certain);
        }
    }

    fn deliver(&mut self, event: &Event, flagged: bool, rules: Rules) {
        let message = event.message();
        self.report.deliveries += 1;
        let queue = self
            .consumers
            .get(&event.who)
            .map(|consumer| consumer.queue);
        let Some(state) = self.state(message).map(|state| *state) else {
            let text = format!("consumer {} got it, and nobody published it", event.who);
            return self.report.violates(message, text);
        };
        if queue != Some(state.queue) {
            let text = format!(
                "published to queue {}, delivered from {queue:?}",
                state.queue
            );
            self.report.violates(message, text);
        }
        if state.first_unseen && !flagged && self.ends_soon(event, rules) {
            self.report.read_late += 1;
            if let Some(state) = self.state(message) {
                state.first_unseen = false;
            }
            return;
        }
        if state.delivered {
            self.again(event, state, flagged, rules);
        } else if flagged {
            self.report.flagged_at_first += 1;
        }
        if !flagged && !state.delivered && state.attempts == 1 {
            self.order(event, state.queue);
        }
        if let Some(state) = self.state(message) {
            state.first_unseen |= flagged && !state.delivered;
            state.delivered = true;
            state.hold = Hold::Held;
            state.holder = event.who;
            state.held_since_ms = event.at_ms;
        }
    }

    fn again(&mut self, event: &Event, state: State, flagged: bool, rules: Rules) {
        let message = event.message();
        let why = self.explain(event, state, rules);
        if let Some(why) = why {
            *self.report.duplicates.entry(why).or_default() += 1;
        } else {
            let text = match state.hold {
                Hold::Certain => "came back after its ack was certain",
                Hold::Acked => "came back after its ack, and its consumer lives",
                _ => "delivered to a second consumer while the first held it",
            };
            let text = format!("{text}: {} then {}", state.holder, event.who);
            self.report.violates(message, text);
        }
        if !flagged && why.is_some() && why != Some(Why::PublishRepeated) {
            let text = format!("came back ({why:?}) without its redelivered flag");
            self.report.violates(message, text);
        }
    }

    /// A consumer whose connection breaks may read what came before the break after others got it again.
    fn ends_soon(&self, event: &Event, rules: Rules) -> bool {
        let end = self.consumers.get(&event.who).and_then(|one| one.end_ms);
        end.is_some_and(|end| end <= event.at_ms.saturating_add(rules.grace_ms))
    }

    /// What ended the last lease.
    fn explain(&self, event: &Event, state: State, rules: Rules) -> Option<Why> {
        if state.attempts > 1 {
            return Some(Why::PublishRepeated);
        }
        match state.hold {
            Hold::Certain => return None,
            Hold::GivenBack => return Some(Why::Requeued),
            Hold::Nobody | Hold::Held | Hold::Acked => {}
        }
        let holder = self.consumers.get(&state.holder)?;
        let gone = holder
            .end_ms
            .is_some_and(|end| end <= event.at_ms.saturating_add(rules.grace_ms));
        if gone && state.hold == Hold::Acked {
            return Some(Why::AckLost);
        }
        if gone {
            return Some(Why::ConsumerLost);
        }
        let faulty = self.nodes.get(&holder.node).is_some_and(|node| {
            let since = |end: u32| end.saturating_add(rules.grace_ms) >= state.held_since_ms;
            node.open > 0 || node.last_end_ms.is_some_and(since)
        });
        if faulty {
            return Some(Why::NodeFault);
        }
        let held_ms = event.at_ms.saturating_sub(state.held_since_ms);
        (held_ms.saturating_add(rules.grace_ms) >= rules.lease_ms).then_some(Why::LeaseEnded)
    }

    fn order(&mut self, event: &Event, queue: u16) {
        let Message { publisher, number } = event.message();
        if let Some(consumer) = self.consumers.get_mut(&event.who) {
            let highest = consumer.highest.entry(publisher).or_insert(0);
            let before = *highest;
            *highest = before.max(number);
            if number < before {
                let text = format!("first delivered after {before} of its publisher");
                self.report.violates(event.message(), text);
            }
        }
        let of_queue = self.highest.entry(queue).or_default();
        let highest = of_queue.entry(publisher).or_insert(0);
        *highest = number.max(*highest);
    }

    fn finish(mut self) -> Report {
        for (publisher, states) in (0..).zip(&self.publishers) {
            for (number, state) in (1..).zip(states) {
                if state.attempts == 0 {
                    continue;
                }
                let report = &mut self.report;
                report.attempted += 1;
                match state.answer {
                    Answer::Confirmed => report.confirmed += 1,
                    Answer::Refused => report.refused += 1,
                    Answer::None => report.unknown += 1,
                }
                if state.delivered {
                    report.unknown_delivered += u64::from(state.answer == Answer::None);
                } else if state.answer == Answer::Confirmed {
                    report.lost += 1;
                    let message = Message { publisher, number };
                    let text = format!("lost: confirmed to queue {}, never delivered", state.queue);
                    report.violation(message, text);
                }
            }
        }
        self.report
    }
}
