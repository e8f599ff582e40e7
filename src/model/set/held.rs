//! What a node's consumers hold, read from the state.
//!
//! Need: a replica that installed a snapshot has skipped the entries that gave messages to its node's consumers. The leases
//! are in the state, but nobody was told, and nobody else will be.
//! Not here: what of it is known already ([`crate::broker`]).

use std::collections::BTreeMap;

use super::effect::Delivery;
use super::lease::Consumer;
use super::machine::SetMachine;
use crate::base::{ConsumerId, PipeId, SessionId};

/// What one consumer, or holder of basic.get leases, has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// It gets deliveries, or is a holder.
    pub attached: bool,
    /// The number its next delivery will have.
    pub next_no: u64,
    /// What it was given and has not settled (or, without acks, not been sent), by number. Not told of a stream's.
    pub deliveries: Vec<Delivery>,
}

impl SetMachine {
    /// What the consumers of `pipe` hold, by session. O(consumers of the set + what they hold).
    #[must_use]
    pub fn held(&self, pipe: PipeId) -> BTreeMap<(SessionId, ConsumerId), Held> {
        let consumers = self.ground.consumers.iter();
        let own = consumers.filter(|(_, consumer)| consumer.pipe == pipe);
        own.map(|(id, consumer)| ((consumer.session, *id), consumer.held(*id)))
            .collect()
    }
}

impl Consumer {
    fn held(&self, id: ConsumerId) -> Held {
        let mut deliveries: Vec<Delivery> = Vec::new();
        if self.cursor.is_none() {
            deliveries.extend(self.leases.all().map(|(no, lease)| Delivery {
                consumer: id,
                first_no: *no,
                first: lease.piece.run.first,
                count: lease.piece.run.count,
                size: lease.piece.run.size,
                redelivered: lease.piece.acquired > 0,
                acquired: lease.piece.acquired,
                failed: lease.piece.failed,
                offset: None,
            }));
            let on_way: u64 = self.on_way.iter().map(|(_, count)| u64::from(*count)).sum();
            let mut no = self.next_no - on_way;
            for (first, count) in &self.on_way {
                deliveries.push(Delivery {
                    consumer: id,
                    first_no: no,
                    first: *first,
                    count: *count,
                    // Neither is kept of what nobody can give back.
                    size: 0,
                    redelivered: false,
                    acquired: 0,
                    failed: 0,
                    offset: None,
                });
                no += u64::from(*count);
            }
            deliveries.sort_unstable_by_key(|delivery| delivery.first_no);
        }
        Held {
            attached: self.attached || self.getter,
            next_no: self.next_no,
            deliveries,
        }
    }
}
