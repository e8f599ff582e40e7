//! Who belongs to the cluster, and which broker sets there are.
//!
//! Need: every node knows the same members, where they are, and who holds which replica. Shape: records of nodes and
//! sets beside the other records. Invariants: a node's id is given once, also to a node that comes back with an empty
//! data folder under its old name; a set has at least one member, each of them known, and its leader of choice is one.
//! Not here: whether a node is alive, and who leads in fact.

use bytes::BufMut;

use super::command::{CodecError, Removed, TopologyReply};
use super::record::{Part, PartState};
use super::{Topology, precondition};
use crate::amqp::ProtocolError;
use crate::base::coding::{Reader, Writer};
use crate::base::{NodeId, QueueId, SetId};

/// What a node is meant to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Takes its share.
    Active,
    /// Gives its replicas and leaderships away, to be taken out.
    Draining,
    /// As draining; once it holds nothing it is no member any more.
    Leaving,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its id.
    pub id: NodeId,
    /// Its name, `rabbit@host`.
    pub name: String,
    /// Where its peers reach it, `host:port`.
    pub address: String,
    /// Names its data folder: a folder that was made anew is another node.
    pub token: u64,
    /// Highest incarnation that has started; 0 if none has.
    pub incarnation: u64,
    /// What it is meant to do.
    pub state: NodeState,
}

/// A broker set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetRecord {
    /// Its id, from 1.
    pub id: SetId,
    /// The nodes that hold a replica, ascending.
    pub members: Vec<NodeId>,
    /// The one that should lead.
    pub leader: NodeId,
    /// How often its members were changed.
    pub generation: u64,
}

/// The cluster as it was formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formation {
    /// The cluster's id, not 0.
    pub cluster: u64,
    /// The first nodes.
    pub nodes: Vec<NodeRecord>,
}

impl Formation {
    /// As many sets as nodes, each on [`SetRecord::REPLICAS`] of them, each led by another.
    fn sets(&self) -> impl Iterator<Item = SetRecord> + '_ {
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        (0..ids.len()).map(move |at| {
            let ring = ids.iter().cycle().skip(at);
            let mut members: Vec<NodeId> = ring
                .take(SetRecord::REPLICAS.min(ids.len()))
                .copied()
                .collect();
            members.sort_unstable();
            SetRecord {
                id: SetId(at as u32 + 1),
                members,
                leader: ids[at],
                generation: 0,
            }
        })
    }
}

impl Topology {
    /// The cluster's id; 0 until it is formed.
    #[must_use]
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// The members, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// A member.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&id)
    }

    /// The broker sets, by id.
    pub fn sets(&self) -> impl Iterator<Item = &SetRecord> {
        self.sets.values()
    }

    /// A broker set.
    #[must_use]
    pub fn set(&self, id: SetId) -> Option<&SetRecord> {
        self.sets.get(&id)
    }

    fn form(&mut self, formation: &Formation) {
        if self.cluster != 0 || formation.nodes.is_empty() {
            return;
        }
        self.cluster = formation.cluster;
        for node in &formation.nodes {
            self.last_node = self.last_node.max(node.id);
            self.nodes.insert(node.id, node.clone());
        }
        self.sets = formation.sets().map(|set| (set.id, set)).collect();
        self.changed();
    }

    fn add_node(
        &mut self,
        name: String,
        address: String,
        token: u64,
    ) -> Result<TopologyReply, ProtocolError> {
        if let Some(node) = self.nodes.values_mut().find(|node| node.token == token) {
            let id = node.id;
            if node.address != address {
                node.address = address;
                self.changed();
            }
            return Ok(TopologyReply::Node(id));
        }
        if self.last_node >= NodeId::MAX {
            return Err(precondition("no node id is left".to_owned()));
        }
        let id = NodeId(self.last_node.0 + 1);
        self.last_node = id;
        // Whoever had this name lost its data: it can give nothing back, so it is on its way out.
        for node in self.nodes.values_mut().filter(|node| node.name == name) {
            node.state = NodeState::Leaving;
        }
        let record = NodeRecord {
            id,
            name,
            address,
            token,
            incarnation: 0,
            state: NodeState::Active,
        };
        self.nodes.insert(id, record);
        self.changed();
        Ok(TopologyReply::Node(id))
    }

    fn remove_node(&mut self, node: NodeId) -> Result<TopologyReply, ProtocolError> {
        let holds = self.sets.values().find(|set| set.members.contains(&node));
        if let Some(set) = holds {
            let text = format!("node {node} still holds a replica of set {}", set.id);
            return Err(precondition(text));
        }
        let removed = self.close_node(node, u64::MAX);
        if self.nodes.remove(&node).is_some() {
            self.changed();
        }
        Ok(TopologyReply::Removed(removed))
    }

    fn set_node_state(
        &mut self,
        node: NodeId,
        state: NodeState,
    ) -> Result<TopologyReply, ProtocolError> {
        let record = self.nodes.get_mut(&node);
        let record = record.ok_or_else(|| precondition(format!("no node {node}")))?;
        record.state = state;
        self.changed();
        Ok(TopologyReply::Done)
    }

    /// Id 0 makes a new set.
    fn put_set(&mut self, mut set: SetRecord) -> Result<TopologyReply, ProtocolError> {
        set.members.sort_unstable();
        set.members.dedup();
        let known = set.members.iter().all(|node| self.nodes.contains_key(node));
        if !known || !set.members.contains(&set.leader) {
            return Err(precondition("a set of unknown nodes".to_owned()));
        }
        if set.id == SetId::TOPOLOGY {
            let last = self.sets.last_key_value().map_or(0, |(id, _)| id.0);
            set.id = SetId(last + 1);
        }
        if set.id.0 > SetRecord::ID_MAX {
            return Err(precondition("no set id is left".to_owned()));
        }
        let id = set.id;
        let known = self.sets.get(&id);
        set.generation = known.map_or(0, |known| {
            known.generation + u64::from(known.members != set.members)
        });
        if known != Some(&set) {
            self.sets.insert(id, set);
            self.changed();
        }
        Ok(TopologyReply::Set(id))
    }

    fn set_parts(
        &mut self,
        queue: QueueId,
        parts: Vec<Part>,
    ) -> Result<TopologyReply, ProtocolError> {
        let known = parts.iter().all(|part| self.sets.contains_key(&part.set));
        let active = parts.iter().any(|part| part.state == PartState::Active);
        let record = self.queues.get(&queue).filter(|record| !record.is_local());
        let Some(record) = record.filter(|_| known && active) else {
            return Err(precondition(format!("queue {queue} cannot live there")));
        };
        let mut record = record.clone();
        record.parts = parts;
        self.insert_queue(record.clone());
        self.parts_version += 1;
        self.changed();
        Ok(TopologyReply::Queue {
            record: Box::new(record),
            created: false,
        })
    }

    /// What incarnations of `node` up to `incarnation` owned goes with them.
    pub(super) fn close_node(&mut self, node: NodeId, incarnation: u64) -> Removed {
        let mut removed = Removed::default();
        let gone = self.queues.values().filter(|queue| {
            queue.node == node && queue.incarnation <= incarnation && queue.is_local()
        });
        let gone: Vec<QueueId> = gone.map(|queue| queue.id).collect();
        for id in gone {
            self.remove_queue(id, &mut removed);
        }
        for vhost in self.vhosts.values_mut() {
            let gone = vhost.exchanges.iter().filter(|(_, state)| {
                let exchange = &state.exchange;
                !exchange.durable && exchange.node == node && exchange.incarnation <= incarnation
            });
            let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
            for name in gone {
                vhost.remove_exchange(&name, &mut removed.exchanges);
            }
        }
        removed
    }
}

impl SetRecord {
    /// The highest id a set may have.
    pub const ID_MAX: u32 = 1023;
    /// Replicas of a set, as long as there are nodes enough.
    pub const REPLICAS: usize = 3;

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u32_le(self.id.0);
        out.put_varint(self.members.len() as u64);
        for node in &self.members {
            out.put_varint(node.0);
        }
        out.put_varint(self.leader.0);
        out.put_varint(self.generation);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let id = SetId(reader.u32()?);
        let mut members = Vec::new();
        for _ in 0..reader.varint()? {
            members.push(NodeId(reader.varint()?));
        }
        Ok(Self {
            id,
            members,
            leader: NodeId(reader.varint()?),
            generation: reader.varint()?,
        })
    }
}

impl NodeState {
    pub(super) fn encode(self) -> u8 {
        match self {
            Self::Active => 0,
            Self::Draining => 1,
            Self::Leaving => 2,
        }
    }

    pub(super) fn decode(byte: u8) -> Result<Self, CodecError> {
        match byte {
            0 => Ok(Self::Active),
            1 => Ok(Self::Draining),
            2 => Ok(Self::Leaving),
            other => Err(CodecError::UnknownTag(other)),
        }
    }
}

impl NodeRecord {
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_varint(self.id.0);
        out.put_blob(self.name.as_bytes());
        out.put_blob(self.address.as_bytes());
        out.put_u64_le(self.token);
        out.put_varint(self.incarnation);
        out.put_u8(self.state.encode());
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            id: NodeId(reader.varint()?),
            name: reader.text()?,
            address: reader.text()?,
            token: reader.u64()?,
            incarnation: reader.varint()?,
            state: NodeState::decode(reader.u8()?)?,
        })
    }
}

impl Formation {
    /// Appends its bytes.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.cluster);
        out.put_varint(self.nodes.len() as u64);
        for node in &self.nodes {
            node.encode(out);
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`CodecError`] if these bytes are none.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let cluster = reader.u64()?;
        let mut nodes = Vec::new();
        for _ in 0..reader.varint()? {
            nodes.push(NodeRecord::decode(reader)?);
        }
        Ok(Self { cluster, nodes })
    }
}

/// A change of the members or the sets.
#[derive(Clone, Debug, PartialEq)]
pub enum MembersCommand {
    /// The first nodes of the cluster and their sets. Changes nothing once there is a cluster. Answer: `Done`.
    Form(Formation),
    /// A node joins, or says where it is now. Answer: `Node`; the same id for the same token.
    AddNode {
        name: String,
        address: String,
        token: u64,
    },
    /// Answer: `Removed`, or `Failed` while the node holds a replica.
    RemoveNode { node: NodeId },
    /// Answer: `Done` or `Failed`.
    SetState { node: NodeId, state: NodeState },
    /// A node is lost: what incarnations up to this one owned goes. Answer: `Removed`.
    CloseNode { node: NodeId, incarnation: u64 },
    /// Makes (id 0) or replaces a set. Answer: `Set` or `Failed`.
    PutSet(SetRecord),
    /// Where a queue lives from now on. Answer: `Queue` or `Failed`.
    SetParts { queue: QueueId, parts: Vec<Part> },
}

impl MembersCommand {
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::Form(formation) => {
                out.put_u8(1);
                formation.encode(out);
            }
            Self::AddNode {
                name,
                address,
                token,
            } => {
                out.put_u8(2);
                out.put_blob(name.as_bytes());
                out.put_blob(address.as_bytes());
                out.put_u64_le(*token);
            }
            Self::RemoveNode { node } => {
                out.put_u8(3);
                out.put_varint(node.0);
            }
            Self::SetState { node, state } => {
                out.put_u8(4);
                out.put_varint(node.0);
                out.put_u8(state.encode());
            }
            Self::CloseNode { node, incarnation } => {
                out.put_u8(5);
                out.put_varint(node.0);
                out.put_varint(*incarnation);
            }
            Self::PutSet(set) => {
                out.put_u8(6);
                set.encode(out);
            }
            Self::SetParts { queue, parts } => {
                out.put_u8(7);
                out.put_varint(queue.0);
                put_parts(out, parts);
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match reader.u8()? {
            1 => Self::Form(Formation::decode(reader)?),
            2 => Self::AddNode {
                name: reader.text()?,
                address: reader.text()?,
                token: reader.u64()?,
            },
            3 => Self::RemoveNode {
                node: NodeId(reader.varint()?),
            },
            4 => Self::SetState {
                node: NodeId(reader.varint()?),
                state: NodeState::decode(reader.u8()?)?,
            },
            5 => Self::CloseNode {
                node: NodeId(reader.varint()?),
                incarnation: reader.varint()?,
            },
            6 => Self::PutSet(SetRecord::decode(reader)?),
            7 => Self::SetParts {
                queue: QueueId(reader.varint()?),
                parts: get_parts(reader)?,
            },
            other => return Err(CodecError::UnknownTag(other)),
        })
    }
}

impl Topology {
    pub(super) fn change_members(
        &mut self,
        command: MembersCommand,
    ) -> Result<TopologyReply, ProtocolError> {
        match command {
            MembersCommand::Form(formation) => {
                self.form(&formation);
                Ok(TopologyReply::Done)
            }
            MembersCommand::AddNode {
                name,
                address,
                token,
            } => self.add_node(name, address, token),
            MembersCommand::RemoveNode { node } => self.remove_node(node),
            MembersCommand::SetState { node, state } => self.set_node_state(node, state),
            MembersCommand::CloseNode { node, incarnation } => {
                Ok(TopologyReply::Removed(self.close_node(node, incarnation)))
            }
            MembersCommand::PutSet(set) => self.put_set(set),
            MembersCommand::SetParts { queue, parts } => self.set_parts(queue, parts),
        }
    }
}

pub(super) fn put_parts(out: &mut impl BufMut, parts: &[Part]) {
    out.put_varint(parts.len() as u64);
    for part in parts {
        out.put_u32_le(part.set.0);
        out.put_flag(part.state == PartState::Draining);
    }
}

pub(super) fn get_parts(reader: &mut Reader<'_>) -> Result<Vec<Part>, CodecError> {
    let mut parts = Vec::new();
    for _ in 0..reader.varint()? {
        let set = SetId(reader.u32()?);
        let state = match reader.flag()? {
            true => PartState::Draining,
            false => PartState::Active,
        };
        parts.push(Part { set, state });
    }
    Ok(parts)
}
