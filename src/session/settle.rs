//! basic.ack, nack, reject and recover (§17.5, §17.6).

use super::channel::{Channel, Mode};
use super::core::{Core, error};
use super::tx::Transaction;
use super::unacked::Taken;
use super::{SettleOutcome, Settlement};
use crate::amqp::{ProtocolError, ReplyCode};
use crate::base::ChannelId;

fn unknown(tag: u64) -> ProtocolError {
    error(
        ReplyCode::PreconditionFailed,
        format!("unknown delivery tag {tag}"),
    )
}

/// Settles at once, or with the transaction.
fn settle(
    id: ChannelId,
    core: &mut Core,
    transaction: Option<&mut Transaction>,
    taken: Taken,
    outcome: SettleOutcome,
) {
    match transaction {
        Some(transaction) => transaction.settle(taken, outcome),
        None => core.settle(
            id,
            Settlement {
                consumer: taken.lease.consumer,
                first: taken.lease.no,
                last: taken.lease.no,
                outcome,
            },
        ),
    }
}

impl Channel {
    pub(super) fn ack(
        &mut self,
        core: &mut Core,
        tag: u64,
        multiple: bool,
    ) -> Result<(), ProtocolError> {
        self.settle(core, tag, multiple, SettleOutcome::Ack)
    }

    pub(super) fn nack(
        &mut self,
        core: &mut Core,
        tag: u64,
        multiple: bool,
        requeue: bool,
    ) -> Result<(), ProtocolError> {
        let outcome = if requeue {
            SettleOutcome::Requeue
        } else {
            SettleOutcome::Reject
        };
        self.settle(core, tag, multiple, outcome)
    }

    pub(super) fn reject(
        &mut self,
        core: &mut Core,
        tag: u64,
        requeue: bool,
    ) -> Result<(), ProtocolError> {
        let outcome = if requeue {
            SettleOutcome::RequeueFailed
        } else {
            SettleOutcome::Reject
        };
        self.settle(core, tag, false, outcome)
    }

    fn settle(
        &mut self,
        core: &mut Core,
        tag: u64,
        multiple: bool,
        outcome: SettleOutcome,
    ) -> Result<(), ProtocolError> {
        let id = self.id;
        let mut transaction = match &mut self.mode {
            Mode::Tx(transaction) => Some(transaction),
            _ => None,
        };
        let mut each = |taken| settle(id, core, transaction.as_deref_mut(), taken, outcome);
        match (tag, multiple) {
            (0, true) => self.unacked.take_all(each),
            (_, true) => {
                if !self.unacked.take_through(tag, each) {
                    return Err(unknown(tag));
                }
            }
            (_, false) => each(self.unacked.take(tag).ok_or_else(|| unknown(tag))?),
        }
        Ok(())
    }

    /// Gives everything unacked back to its queues; not part of a transaction.
    pub(super) fn recover(&mut self, core: &mut Core, requeue: bool) -> Result<(), ProtocolError> {
        if !requeue {
            return Err(error(ReplyCode::NotImplemented, "requeue=false"));
        }
        let id = self.id;
        self.unacked.take_all(|taken| {
            settle(id, core, None, taken, SettleOutcome::Requeue);
        });
        Ok(())
    }
}
