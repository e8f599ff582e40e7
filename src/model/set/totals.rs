//! Figures for metrics: sums over all queues, kept step by step so that reading them is O(1).

/// Sums over the queues of a set, and counters that only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Queues.
    pub queues: u64,
    /// Attached consumers.
    pub consumers: u64,
    /// Ready messages.
    pub ready: u64,
    /// Body bytes of ready messages.
    pub ready_bytes: u64,
    /// Leased messages.
    pub unsettled: u64,
    /// Body bytes of leased messages.
    pub unsettled_bytes: u64,
    /// Messages put into queues, ever.
    pub enqueued: u64,
    /// Publishes refused by a length limit, ever.
    pub refused: u64,
    /// Delivered to consumers that acknowledge, ever.
    pub delivered_manual: u64,
    /// Delivered to consumers that do not, ever.
    pub delivered_auto: u64,
    /// Fetched by basic.get to be acknowledged, ever.
    pub got_manual: u64,
    /// Fetched by basic.get without acknowledgement, ever.
    pub got_auto: u64,
    /// basic.get on an empty queue, ever.
    pub got_nothing: u64,
    /// Handed out again, ever.
    pub redelivered: u64,
    /// Acknowledged, ever.
    pub acked: u64,
    /// Died by basic.reject or nack, dead-lettered or dropped, ever.
    pub died_rejected: u64,
    /// Died by TTL, ever.
    pub died_expired: u64,
    /// Died by a length limit, ever.
    pub died_max_len: u64,
    /// Died by the delivery limit, ever.
    pub died_delivery_limit: u64,
    /// Settles that named no running lease, ever.
    pub late_settles: u64,
    /// Leases ended by their deadline, ever.
    pub leases_expired: u64,
}

impl Totals {
    pub(super) const WORDS: usize = 21;

    /// The figures in a fixed order, for the snapshot.
    pub(super) fn words(&mut self) -> [&mut u64; Self::WORDS] {
        [
            &mut self.queues,
            &mut self.consumers,
            &mut self.ready,
            &mut self.ready_bytes,
            &mut self.unsettled,
            &mut self.unsettled_bytes,
            &mut self.enqueued,
            &mut self.refused,
            &mut self.delivered_manual,
            &mut self.delivered_auto,
            &mut self.got_manual,
            &mut self.got_auto,
            &mut self.got_nothing,
            &mut self.redelivered,
            &mut self.acked,
            &mut self.died_rejected,
            &mut self.died_expired,
            &mut self.died_max_len,
            &mut self.died_delivery_limit,
            &mut self.late_settles,
            &mut self.leases_expired,
        ]
    }
}

/// One queue's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Ready messages.
    pub ready: u64,
    /// Body bytes of ready messages.
    pub ready_bytes: u64,
    /// Leased messages.
    pub unsettled: u64,
    /// Body bytes of leased messages.
    pub unsettled_bytes: u64,
    /// Messages that become visible later.
    pub delayed: u64,
    /// Dead letters waiting to be published.
    pub dead_letters: u64,
    /// Attached consumers.
    pub consumers: u32,
    /// The consumer that alone gets messages (`x-single-active-consumer`).
    pub active: Option<crate::base::ConsumerId>,
}

/// What went through one queue since this replica knows it: for listings, in no snapshot, and so not the same on every
/// replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Messages put into it.
    pub published: u64,
    /// Delivered to consumers that acknowledge.
    pub delivered: u64,
    /// Delivered to consumers that do not.
    pub delivered_auto: u64,
    /// Fetched to be acknowledged.
    pub got: u64,
    /// Fetched without acknowledgement.
    pub got_auto: u64,
    /// Handed out again, whichever way.
    pub redelivered: u64,
    /// Acknowledged.
    pub acked: u64,
}
