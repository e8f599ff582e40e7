//! What each queue says of itself, asked by a third connection.
//!
//! Need: a difference in what a queue holds is seen when it begins, not when somebody happens to get a message; and an
//! answer from a queue means that what was sent to it before has arrived.
//! Shape: every queue that is known to be there is declared passively after each step. A queue that is not there, or that
//! is another connection's own, is not asked again until something happens that may have changed it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::client::{Address, Client, Incoming};
use super::method::Method;

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Doubtful,
    There(u64, u64),
    Locked,
    Gone,
    Odd(String),
}

/// A connection that only asks.
pub struct Observer {
    client: Client,
    address: Address,
    open: bool,
    queues: BTreeMap<String, Seen>,
    /// Those that may be quorum queues.
    quorum: BTreeSet<String>,
}

impl Observer {
    /// An observer that knows of no queue.
    ///
    /// # Errors
    /// When the broker lets nobody in.
    pub fn new(address: &Address) -> Result<Self, String> {
        Ok(Self {
            client: Client::open(address)?,
            address: address.clone(),
            open: false,
            queues: BTreeMap::new(),
            quorum: BTreeSet::new(),
        })
    }

    /// A queue may come to be, and be a quorum queue.
    pub fn declare(&mut self, name: &str, quorum: bool) {
        self.doubt(name);
        if quorum {
            self.quorum.insert(name.to_owned());
        }
    }

    /// Something may have happened to a queue.
    pub fn doubt(&mut self, name: &str) {
        if !name.is_empty() {
            self.queues.insert(name.to_owned(), Seen::Doubtful);
        }
    }

    /// A connection has come or gone, and its own queues with it.
    pub fn doubt_locked(&mut self) {
        for seen in self
            .queues
            .values_mut()
            .filter(|seen| **seen == Seen::Locked)
        {
            *seen = Seen::Doubtful;
        }
    }

    /// Asks every queue that may be there.
    pub fn look(&mut self) {
        let names: Vec<String> = self
            .queues
            .iter()
            .filter(|(_, seen)| matches!(seen, Seen::Doubtful | Seen::There(..)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            let seen = self.ask(&name);
            self.queues.insert(name, seen);
        }
    }

    fn ask(&mut self, name: &str) -> Seen {
        if !self.open {
            drop(self.client.send(1, &Method::new("channel.open")));
            if let Err(odd) = self.answer("channel.open-ok") {
                return odd;
            }
            self.open = true;
        }
        let declare = Method::new("queue.declare")
            .bit("passive", true)
            .text("queue", name);
        drop(self.client.send(1, &declare));
        match self.answer("queue.declare-ok") {
            Ok(ok) => Seen::There(ok.num_of("messages"), ok.num_of("consumers")),
            Err(seen) => seen,
        }
    }

    fn answer(&mut self, name: &str) -> Result<Method, Seen> {
        match self.client.receive(PATIENCE) {
            Some(Incoming::Method(1, method, _)) if method.name() == name => Ok(method),
            Some(Incoming::Method(1, method, _)) if method.name() == "channel.close" => {
                drop(self.client.send(1, &Method::new("channel.close-ok")));
                self.open = false;
                Err(match method.num_of("code") {
                    404 => Seen::Gone,
                    405 => Seen::Locked,
                    _ => Seen::Odd(method.to_string()),
                })
            }
            Some(Incoming::Method(_, method, _)) => Err(self.lost(method.to_string())),
            Some(Incoming::End(why)) => Err(self.lost(why)),
            None => Err(self.lost(format!("{name} did not come"))),
        }
    }

    fn lost(&mut self, why: String) -> Seen {
        self.open = false;
        if let Ok(client) = Client::open(&self.address) {
            self.client = client;
        }
        Seen::Odd(why)
    }

    /// What was seen of each queue.
    pub fn seen(&self) -> impl Iterator<Item = (String, String)> + use<> {
        let rows: Vec<_> = self
            .queues
            .iter()
            .map(|(name, seen)| {
                let text = match seen {
                    Seen::There(messages, _) if self.quorum.contains(name) => {
                        format!("{messages} messages")
                    }
                    Seen::There(messages, consumers) => {
                        format!("{messages} messages, {consumers} consumers")
                    }
                    other => format!("{other:?}"),
                };
                (name.clone(), text)
            })
            .collect();
        rows.into_iter()
    }

    /// Deletes every queue that was ever known, and the exchanges named.
    pub fn remove(mut self, exchanges: &[String]) {
        if !self.open {
            drop(self.client.send(1, &Method::new("channel.open")));
        }
        let queues = self
            .queues
            .keys()
            .filter(|name| !name.starts_with("amq.") || name.starts_with("amq.gen-"));
        for name in queues {
            let delete = Method::new("queue.delete")
                .bit("no-wait", true)
                .text("queue", name);
            drop(self.client.send(1, &delete));
        }
        for name in exchanges {
            let delete = Method::new("exchange.delete")
                .bit("no-wait", true)
                .text("exchange", name);
            drop(self.client.send(1, &delete));
        }
        drop(
            self.client
                .send(1, &Method::new("channel.close").num("code", 200)),
        );
        while let Some(Incoming::Method(_, method, _)) = self.client.receive(PATIENCE) {
            if method.name().starts_with("channel.close") {
                break;
            }
        }
    }
}
