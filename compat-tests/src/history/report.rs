//! What the check found.

use std::collections::BTreeMap;
use std::fmt;

use super::Message;

/// Why a message may be delivered once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its publish was repeated, so the queue may hold it twice.
    PublishRepeated,
    /// The consumer gave it back.
    Requeued,
    /// The consumer that held it is gone, its ack never sent.
    ConsumerLost,
    /// The consumer that held it is gone, and its ack may have gone with it.
    AckLost,
    /// A fault of the node of the consumer that held it.
    NodeFault,
    /// Its lease had run out.
    LeaseEnded,
}

/// What the check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Messages that were tried.
    pub attempted: u64,
    /// Messages confirmed.
    pub confirmed: u64,
    /// Messages refused.
    pub refused: u64,
    /// Messages without an answer.
    pub unknown: u64,
    /// Messages without a confirm that were delivered nevertheless.
    pub unknown_delivered: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// First deliveries flagged as redelivered: an earlier one never reached its consumer.
    pub flagged_at_first: u64,
    /// Deliveries of a lease that was over when they were read: the consumer was about to end, or its node had a fault.
    pub read_late: u64,
    /// Deliveries beyond a message's first, by what explains them.
    pub duplicates: BTreeMap<Why, u64>,
    /// Confirmed and never delivered.
    pub lost: u64,
    /// What may not be: the first of them, as text with their messages.
    pub violations: Vec<(Message, String)>,
    /// How many of them there are, those lost not among them.
    pub violation_count: u64,
}

const VIOLATIONS_KEPT: usize = 20;

impl Report {
    pub(super) fn violation(&mut self, message: Message, text: String) {
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push((message, text));
        }
    }

    pub(super) fn violates(&mut self, message: Message, text: String) {
        self.violation_count += 1;
        self.violation(message, text);
    }

    /// Whether everything is as it may be.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.lost == 0 && self.violation_count == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "attempted {}, confirmed {}, refused {}, unknown {} (delivered {}); deliveries {}; lost {}, \
             violations {}; duplicates:",
            self.attempted,
            self.confirmed,
            self.refused,
            self.unknown,
            self.unknown_delivered,
            self.deliveries,
            self.lost,
            self.violation_count,
        )?;
        if self.duplicates.is_empty() {
            write!(f, " none")?;
        }
        for (why, count) in &self.duplicates {
            write!(f, " {why:?} {count}")?;
        }
        write!(
            f,
            "; first seen as redelivered {}, read late {}",
            self.flagged_at_first, self.read_late
        )
    }
}
