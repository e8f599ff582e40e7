//! Keys about what queues and exchanges there may be, and how queues are compared and counted.
//!
//! They stand before the other keys: `quorum_queue.*` as a whole is ignored, but not what is named here.

use super::keys::{Key, set};
use super::value;

/// What the file says about them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Channels of the node. Default none.
    pub channels_per_node: Option<u32>,
    /// Queues of the cluster. Default none.
    pub queues: Option<u32>,
    /// Exchanges of the cluster. Default none.
    pub exchanges: Option<u32>,
    /// A classic declaration of a quorum queue that is there may differ in what only one of the two types knows. Default no.
    pub relaxed_redeclaration: bool,
    /// Every return of a message counts towards its delivery limit, as before RabbitMQ 4.3. Default no.
    pub count_every_return: bool,
}

pub(super) static KEYS: &[Key] = &[
    set(
        "channel_max_per_node",
        "count, or infinity",
        "infinity",
        |d, _, v| {
            d.config.bounds.channels_per_node = value::limit(v)?;
            Ok(None)
        },
    ),
    set(
        "cluster_queue_limit",
        "count, or infinity",
        "infinity",
        |d, _, v| {
            d.config.bounds.queues = value::limit(v)?;
            Ok(None)
        },
    ),
    set(
        "cluster_exchange_limit",
        "count, or infinity",
        "infinity",
        |d, _, v| {
            d.config.bounds.exchanges = value::limit(v)?;
            Ok(None)
        },
    ),
    set(
        "quorum_queue.property_equivalence.relaxed_checks_on_redeclaration",
        "switch",
        "false",
        |d, _, v| {
            d.config.bounds.relaxed_redeclaration = value::switch(v)?;
            Ok(None)
        },
    ),
    set(
        "leveret.count_every_return",
        "switch",
        "false",
        |d, _, v| {
            d.config.bounds.count_every_return = value::switch(v)?;
            Ok(None)
        },
    ),
];
