//! Newtypes for every id, so that two numbers of different meaning never change places.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// One broker process and its data folder: 1 to [`NodeId::MAX`], given when it joins, never reused.
    NodeId, u64
);
id!(
    /// A broker set (Raft group). 0 is the topology; [`SetId::local`] names a node's own unreplicated set.
    SetId, u32
);
id!(
    /// A queue, minted by the topology; never reused, so a deleted queue's id names nothing.
    QueueId, u64
);
id!(
    /// A consumer, or the holder of a channel's `basic.get` leases. Minted by a node: unique in the cluster.
    ConsumerId, u64
);
id!(
    /// One client connection. Minted by a node: unique in the cluster.
    SessionId, u64
);
id!(
    /// AMQP channel number, 1 to 65 535; 0 is the connection itself.
    ChannelId, u16
);

impl SetId {
    /// The topology's set.
    pub const TOPOLOGY: Self = Self(0);

    /// A node's own set for exclusive and transient queues: no Raft, no disk.
    #[must_use]
    pub fn local(node: NodeId) -> Self {
        Self(u32::MAX - node.0.min(NodeId::MAX.0) as u32)
    }

    /// The node whose own set this is; `None` for a replicated set.
    #[must_use]
    pub fn local_node(self) -> Option<NodeId> {
        let node = NodeId(u64::from(u32::MAX - self.0));
        (node <= NodeId::MAX).then_some(node)
    }

    /// Whether this is a node's own set.
    #[must_use]
    pub fn is_local(self) -> bool {
        self.local_node().is_some()
    }
}

impl NodeId {
    /// The highest id a node may have: consumer and session ids carry it in ten bits.
    pub const MAX: Self = Self(1023);
}

/// The ordered stream of commands from one node to one set; a restarted node opens a new incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipeId {
    /// The sending node.
    pub node: NodeId,
    /// Counts the node's starts.
    pub incarnation: u64,
}

/// Where a message is: (entry index, slot in the entry). The same on every replica of its set.
///
/// Packed as `index << 20 | slot`, so positions sort in log order.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Slots one entry may hold.
    pub const SLOTS_MAX: u32 = 1 << 20;

    /// The position of `slot` in the entry at `index`. `slot` is below [`Self::SLOTS_MAX`].
    #[must_use]
    pub fn new(index: u64, slot: u32) -> Self {
        assert!(
            slot < Self::SLOTS_MAX && index < 1 << 44,
            "position out of range {index}/{slot}"
        );
        Self(index << 20 | u64::from(slot))
    }

    /// Raft log index of the entry.
    #[must_use]
    pub fn index(self) -> u64 {
        self.0 >> 20
    }

    /// Slot in the entry, from 0.
    #[must_use]
    pub fn slot(self) -> u32 {
        (self.0 & u64::from(Self::SLOTS_MAX - 1)) as u32
    }

    /// The position `count` slots further in the same entry.
    #[must_use]
    pub fn plus(self, count: u32) -> Self {
        Self(self.0 + u64::from(count))
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index(), self.slot())
    }
}
