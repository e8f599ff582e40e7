//! Transactions: publishes and settlements wait for tx.commit (§16).
//!
//! Tags leave the ring when they are settled, and go back to their places on rollback. A client that never commits
//! is stopped at [`TRANSACTION_BYTES_MAX`]. RabbitMQ refuses methods that come while a commit is unanswered; here
//! they wait, as after any other method.

use amq_protocol::protocol::tx::{AMQPMethod as Class, CommitOk, RollbackOk, SelectOk};

use super::channel::{Channel, Mode, Then, unimplemented};
use super::core::{Core, IntoClass, error, join};
use super::unacked::Taken;
use super::{ChannelRequest, PublishRequest, SettleOutcome, Settlement};
use crate::amqp::{ProtocolError, ReplyCode};

/// Bytes one transaction may hold; past it the channel fails with 406.
const TRANSACTION_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What a publish is charged beyond its body and its properties, bytes.
const PUBLISH_BYTES: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Transaction {
    publishes: Vec<PublishRequest>,
    settled: Vec<(Taken, SettleOutcome)>,
    bytes: usize,
}

impl Transaction {
    /// Keeps a publish for the commit.
    pub fn publish(&mut self, request: PublishRequest) -> Result<(), ProtocolError> {
        let keys: usize = request.more_keys.iter().map(|key| key.len() + 64).sum();
        self.bytes += PUBLISH_BYTES + request.body.size + request.properties.0.len() + keys;
        if self.bytes > TRANSACTION_BYTES_MAX {
            return Err(error(
                ReplyCode::PreconditionFailed,
                format!("transaction is larger than {TRANSACTION_BYTES_MAX} bytes"),
            ));
        }
        self.publishes.push(request);
        Ok(())
    }

    /// Which publish of the transaction the next one is, from 0.
    pub fn next(&self) -> u64 {
        self.publishes.len() as u64
    }

    /// Publishes and settlements kept.
    pub fn sizes(&self) -> (usize, usize) {
        (self.publishes.len(), self.settled.len())
    }

    /// Keeps a settlement for the commit. Bounded by what the ring held.
    pub fn settle(&mut self, taken: Taken, outcome: SettleOutcome) {
        self.settled.push((taken, outcome));
    }
}

impl Channel {
    /// The tx class.
    pub(super) fn tx(&mut self, core: &mut Core, method: &Class) -> Result<(), ProtocolError> {
        match method {
            Class::Select(_) => {
                match self.mode {
                    Mode::Plain => self.mode = Mode::Tx(Transaction::default()),
                    Mode::Tx(_) => {}
                    Mode::Confirm(_) => {
                        return Err(error(
                            ReplyCode::PreconditionFailed,
                            "cannot switch from confirm to tx mode",
                        ));
                    }
                }
                core.send(self.id, &Class::SelectOk(SelectOk {}).class());
                Ok(())
            }
            Class::Commit(_) => {
                let Transaction {
                    publishes, settled, ..
                } = self.end_transaction()?;
                let mut settlements = Vec::new();
                for (Taken { lease, .. }, outcome) in settled {
                    join(
                        &mut settlements,
                        Settlement {
                            consumer: lease.consumer,
                            first: lease.no,
                            last: lease.no,
                            outcome,
                        },
                    );
                }
                let request = ChannelRequest::Commit {
                    publishes,
                    settlements,
                };
                let ok = Class::CommitOk(CommitOk {}).class();
                self.ask(core, request, Then::Reply(Some(ok)), (90, 20));
                Ok(())
            }
            Class::Rollback(_) => {
                let ended = self.end_transaction()?;
                self.unacked
                    .put_back(ended.settled.into_iter().map(|(taken, _)| taken));
                core.send(self.id, &Class::RollbackOk(RollbackOk {}).class());
                Ok(())
            }
            Class::SelectOk(_) | Class::CommitOk(_) | Class::RollbackOk(_) => Err(unimplemented()),
        }
    }

    /// The transaction so far; an empty one begins.
    fn end_transaction(&mut self) -> Result<Transaction, ProtocolError> {
        match &mut self.mode {
            Mode::Tx(transaction) => Ok(std::mem::take(transaction)),
            _ => Err(error(
                ReplyCode::PreconditionFailed,
                "channel is not transactional",
            )),
        }
    }
}

#[cfg(test)]
mod test {
    use bytes::Bytes;

    use super::*;
    use crate::amqp::RawProperties;
    use crate::session::Body;

    #[test]
    fn a_transaction_that_only_grows_is_refused() {
        let publish = |size| PublishRequest {
            exchange: Bytes::new(),
            routing_key: Bytes::new(),
            more_keys: Vec::new(),
            blind: 0,
            mandatory: false,
            properties: RawProperties::default(),
            body: Body {
                parts: Vec::new(),
                size,
            },
            ttl_ms: None,
            confirm: None,
        };
        let mut transaction = Transaction::default();
        assert_eq!(
            transaction.publish(publish(TRANSACTION_BYTES_MAX - PUBLISH_BYTES)),
            Ok(())
        );
        let refused = transaction.publish(publish(0)).unwrap_err();
        assert_eq!(refused.code, ReplyCode::PreconditionFailed);
        assert_eq!(transaction.publishes.len(), 1);
    }
}
