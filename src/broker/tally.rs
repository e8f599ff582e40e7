//! What one connection did since it last reported, counted without an atomic per message.
//!
//! Shape: the counts of the channel in use are kept apart; when another channel's turn comes they go to its meter. The
//! same for the exchange published to. Bounds: an entry per open channel.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;

use crate::base::ChannelId;

use super::meters::{ChannelMeter, Count, Counts, ExchangeMeter, VhostMeter};
use super::stats::{QueueType, Stats};

/// Counts that differ by the type of the queue.
const TYPES: usize = 3;

#[derive(Debug)]
struct Counted {
    meter: Arc<ChannelMeter>,
    /// Something happened to it since the last report.
    touched: bool,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Tally {
    channel: ChannelId,
    now: Counts,
    all: Counts,
    channels: HashMap<ChannelId, Counted>,
    touched: Vec<ChannelId>,
    exchange: Option<Arc<ExchangeMeter>>,
    through: [u64; 4],
    vhost: Option<Arc<VhostMeter>>,
    /// Deliver, DeliverNoAck, Redeliver, Ack, by type of queue.
    typed: [[u64; 4]; TYPES],
    received_confirm: u64,
    routed: u64,
    enqueued: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub reads: u64,
    pub writes: u64,
    /// (size, how many) of messages received in a row.
    sizes: Vec<(usize, u32)>,
}

impl Tally {
    /// Whose connection it is.
    pub(super) fn of_vhost(&mut self, vhost: Arc<VhostMeter>) {
        self.vhost = Some(vhost);
    }

    /// A channel is open; its meter.
    pub(super) fn open(&mut self, channel: ChannelId) -> Arc<ChannelMeter> {
        let meter = Arc::new(ChannelMeter {
            number: channel.0,
            ..ChannelMeter::default()
        });
        let counted = Counted {
            meter: Arc::clone(&meter),
            touched: false,
        };
        self.channels.insert(channel, counted);
        meter
    }

    /// A channel is closed.
    pub(super) fn close(&mut self, channel: ChannelId, stats: &Stats) {
        self.turn();
        if let Some(gone) = self.channels.remove(&channel) {
            loads(&gone.meter, stats, [0, 0]);
        }
    }

    /// One more of a kind on a channel, or several.
    pub(super) fn count(&mut self, channel: ChannelId, count: Count, by: u64) {
        if self.channel != channel {
            self.turn();
            self.channel = channel;
        }
        self.now.add(count, by);
    }

    /// Something happened to a channel that is not counted: what it holds may be another number now.
    pub(super) fn touch(&mut self, channel: ChannelId) {
        if let Some(counted) = self.channels.get_mut(&channel)
            && !std::mem::replace(&mut counted.touched, true)
        {
            self.touched.push(channel);
        }
    }

    fn turn(&mut self) {
        if self.now.is_zero() {
            return;
        }
        let now = std::mem::take(&mut self.now);
        self.all.join(&now);
        if let Some(counted) = self.channels.get(&self.channel) {
            counted.meter.counts.add(&now);
        }
        self.touch(self.channel);
    }

    pub(super) fn received(&mut self, channel: ChannelId, size: usize, confirm: bool) {
        self.count(channel, Count::Publish, 1);
        self.received_confirm += u64::from(confirm);
        match self.sizes.last_mut() {
            Some((last, count)) if *last == size => *count += 1,
            _ => self.sizes.push((size, 1)),
        }
    }

    /// A message was published to an exchange and went to so many queues.
    pub(super) fn through(&mut self, exchange: &Arc<ExchangeMeter>, queues: u64) {
        let same = |known: &Arc<ExchangeMeter>| Arc::ptr_eq(known, exchange);
        if !self.exchange.as_ref().is_some_and(same) {
            self.leave_exchange();
            self.exchange = Some(Arc::clone(exchange));
        }
        self.through[0] += 1;
        self.through[1] += queues;
        self.routed += u64::from(queues > 0);
        self.enqueued += queues;
    }

    fn leave_exchange(&mut self) {
        let through = std::mem::take(&mut self.through);
        if let Some(exchange) = &self.exchange {
            exchange.add(through);
        }
    }

    /// The message that came last has no queue.
    pub(super) fn unroutable(&mut self, channel: ChannelId, returned: bool) {
        let (count, at) = match returned {
            true => (Count::ReturnUnroutable, 2),
            false => (Count::DropUnroutable, 3),
        };
        self.count(channel, count, 1);
        self.through[at] += 1;
    }

    pub(super) fn delivered(
        &mut self,
        channel: ChannelId,
        kind: QueueType,
        no_ack: bool,
        redelivered: bool,
    ) {
        let (count, at) = match no_ack {
            true => (Count::DeliverNoAck, 1),
            false => (Count::Deliver, 0),
        };
        self.count(channel, count, 1);
        let typed = &mut self.typed[kind as usize];
        typed[at] += 1;
        if redelivered {
            typed[2] += 1;
            self.now.add(Count::Redeliver, 1);
        }
    }

    pub(super) fn acked(&mut self, channel: ChannelId, kind: QueueType, by: u64) {
        self.count(channel, Count::Ack, by);
        self.typed[kind as usize][3] += by;
    }

    /// A basic.get was answered; the node has counted it already.
    pub(super) fn got(&mut self, channel: ChannelId, found: Option<(bool, bool)>) {
        let Some((no_ack, redelivered)) = found else {
            return self.count(channel, Count::GetEmpty, 1);
        };
        let count = if no_ack { Count::GetNoAck } else { Count::Get };
        self.count(channel, count, 1);
        if redelivered {
            self.now.add(Count::Redeliver, 1);
        }
    }

    /// Adds everything to the node's counters. `load` says what a channel holds: unsettled and unconfirmed messages.
    pub(super) fn flush(
        &mut self,
        stats: &Stats,
        mut load: impl FnMut(ChannelId) -> Option<[u64; 2]>,
    ) {
        self.turn();
        self.leave_exchange();
        for channel in self.touched.drain(..) {
            if let Some(counted) = self.channels.get_mut(&channel) {
                counted.touched = false;
                loads(&counted.meter, stats, load(channel).unwrap_or_default());
            }
        }
        for (size, count) in self.sizes.drain(..) {
            for _ in 0..count {
                stats.message_size.observe(size as f64);
            }
        }
        let (bytes_in, bytes_out) = (
            std::mem::take(&mut self.bytes_in),
            std::mem::take(&mut self.bytes_out),
        );
        let all = std::mem::take(&mut self.all);
        if let Some(vhost) = &self.vhost {
            vhost.counts.add(&all);
            vhost.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
            vhost.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
        }
        for (count, counter) in [
            (Count::Publish, &stats.received),
            (Count::Confirm, &stats.confirmed),
            (Count::DropUnroutable, &stats.unroutable_dropped),
            (Count::ReturnUnroutable, &stats.unroutable_returned),
        ] {
            if all.get(count) > 0 {
                counter.inc_by(all.get(count));
            }
        }
        let pairs = [
            (&stats.received_confirm, &mut self.received_confirm),
            (&stats.routed, &mut self.routed),
            (&stats.enqueued, &mut self.enqueued),
            (&stats.packets_in, &mut self.reads),
            (&stats.packets_out, &mut self.writes),
        ];
        for (counter, value) in pairs {
            if *value > 0 {
                counter.inc_by(std::mem::take(value));
            }
        }
        stats.bytes_in.inc_by(bytes_in);
        stats.bytes_out.inc_by(bytes_out);
        for (kind, typed) in QueueType::ALL.into_iter().zip(&mut self.typed) {
            let [manual, auto, again, acked] = std::mem::take(typed);
            stats.delivered.add(kind, manual + auto);
            stats.delivered_manual.add(kind, manual);
            stats.delivered_auto.add(kind, auto);
            stats.redelivered.add(kind, again);
            stats.acknowledged.add(kind, acked);
        }
    }

    /// The connection is gone, and what its channels held.
    pub(super) fn end(&mut self, stats: &Stats) {
        for (_, gone) in self.channels.drain() {
            loads(&gone.meter, stats, [0, 0]);
        }
    }
}

/// What a channel holds now; the node's sums follow.
fn loads(meter: &ChannelMeter, stats: &Stats, [unacked, unconfirmed]: [u64; 2]) {
    for (now, value, sum) in [
        (unacked, &meter.unacked, &stats.unacked),
        (unconfirmed, &meter.unconfirmed, &stats.unconfirmed),
    ] {
        let before = value.swap(now, Ordering::Relaxed);
        if now != before {
            let (now, before) = (i64::try_from(now), i64::try_from(before));
            sum.add(now.unwrap_or(i64::MAX) - before.unwrap_or(i64::MAX));
        }
    }
}
