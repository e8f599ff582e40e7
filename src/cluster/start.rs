//! Starting and stopping a node's sets.
//!
//! Order: the topology first, then the sets, then what the node owes both: its pipes opened, what older incarnations
//! of it held released, and each queue record matched by a queue in its set.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::base::limits::SET_EFFECTS_MAX;
use crate::base::{NodeId, PipeId, QueueId, SetId};
use crate::log::LogError;
use crate::model::batch::BufferPool;
use crate::model::set::{Command, MemoryPages, Reply, SetMachine};
use crate::model::topology::{
    MembersCommand, QueueDefaults, QueueRecord, Seed, SetRecord, TopologyCommand, TopologyReply,
};
use crate::raft::{Group, GroupOptions, RaftError};
use crate::rt::Supervisor;

use super::controller::{self, Patience};
use super::figures::Figures;
use super::formation::Membership;
use super::local_set::LocalSet;
use super::outbox::{Outbox, Refusal};
use super::peer::{Hosted, Hub, Links};
use super::policies;
use super::presence::{self, Presence};
use super::proposer::Proposer;
use super::reconcile;
use super::registry::Registry;
use super::remote::Remote;
use super::replica::{SetEffect, SetEffects, SetReplica};
use super::replicas;
use super::ring::Ring;
use super::set_handle::SetHandle;
use super::table::SetTable;
use super::topology_replica::{SharedTopology, TopologyReplica};
use super::waits;

/// Why a node's sets do not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A replica could not start.
    #[error("set {set}: {error}")]
    Replica {
        /// Which.
        set: SetId,
        /// Why.
        error: RaftError,
    },
    /// The index pages could not be opened.
    #[error("set {set}: index pages: {error}")]
    Pages {
        /// Which.
        set: SetId,
        /// Why.
        error: LogError,
    },
    /// The first command of the node got no answer.
    #[error(transparent)]
    Silent(#[from] Refusal),
}

/// What a node's sets are started with.
pub struct ClusterOptions {
    /// The data folder; sets live in `sets/<id>` below it.
    pub data_dir: PathBuf,
    /// This node and incarnation.
    pub pipe: PipeId,
    /// This node's name.
    pub name: String,
    /// Where its peers reach it; empty if they cannot.
    pub address: String,
    /// Names its data folder.
    pub token: u64,
    /// The cluster it became a member of.
    pub membership: Membership,
    /// Ways to other nodes.
    pub links: Links,
    /// What it offers them.
    pub hub: Arc<Hub>,
    /// Raft and log options of a set.
    pub group: Box<dyn Fn(SetId, PathBuf) -> GroupOptions + Send + Sync>,
    /// What an empty store begins with.
    pub seed: Option<Seed>,
    /// What the configuration says about queues.
    pub queue_defaults: QueueDefaults,
    /// How long silent nodes keep what they have.
    pub patience: Patience,
    /// Broker sets for each node.
    pub sets_per_node: usize,
    /// Recycled buffers.
    pub pool: BufferPool,
}

/// Voters of the topology; further nodes follow as learners.
pub const TOPOLOGY_VOTERS_MAX: usize = 5;

/// The sets of this node, and the topology.
pub struct Cluster {
    /// This node and incarnation.
    pub pipe: PipeId,
    /// Ids and consumers.
    pub registry: Arc<Registry>,
    /// The topology, to read.
    pub topology: Arc<SharedTopology>,
    /// What the node's worker must do.
    pub effects: SetEffects,
    /// Who answers for what this node can show of itself.
    pub figures: Figures,
    pub(super) presence: Presence,
    pub(super) options: ClusterOptions,
    pub(super) topology_outbox: Arc<Outbox<TopologyReply>>,
    pub(super) topology_group: Group,
    pub(super) table: SetTable,
    pub(super) supervisor: Supervisor,
    pub(super) removed: CancellationToken,
    seeded: AtomicBool,
    /// Placings so far: whose turn it is among sets of the same load.
    placed: AtomicUsize,
    pub(super) joins: CancellationToken,
}

impl Cluster {
    /// This node's name.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.options.name
    }

    /// Whether this start found an empty store and had something to begin it with. Several nodes that start at once may
    /// all say so.
    #[must_use]
    pub fn seeded(&self) -> bool {
        self.seeded.load(Ordering::Acquire)
    }

    /// Starts the topology, the sets and the local set, and opens this incarnation's pipes.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        options: ClusterOptions,
        supervisor: &Supervisor,
    ) -> Result<(Arc<Self>, mpsc::Receiver<SetEffect>), StartError> {
        let pipe = options.pipe;
        for node in &options.membership.formation.nodes {
            options.links.set_address(node.id, &node.address);
        }
        let registry = Arc::new(Registry::new(pipe));
        let (effects, receiver) = SetEffects::channel(SET_EFFECTS_MAX);
        let topology = Arc::new(SharedTopology::default());
        let outbox = Outbox::new(SetId::TOPOLOGY, pipe, options.pool.clone());
        let topology_outbox = Arc::new(outbox);
        let topology_group =
            start_topology(&options, &topology, &topology_outbox, supervisor).await?;
        let cluster = Arc::new(Self {
            pipe,
            registry,
            topology,
            effects,
            figures: Figures::default(),
            presence: Presence::new(options.patience.leases),
            options,
            topology_outbox,
            topology_group,
            table: SetTable::default(),
            supervisor: supervisor.clone(),
            removed: CancellationToken::new(),
            seeded: AtomicBool::new(false),
            placed: AtomicUsize::new(pipe.node.0 as usize),
            joins: CancellationToken::new(),
        });
        cluster.answer_control();
        let topology = || waits::set_state(Some(&cluster.topology_group), &cluster.topology_outbox);
        waits::tell(topology, cluster.enter()).await?;
        cluster.start_local().await?;
        let sets: Vec<SetRecord> = cluster.topology.read(|topology| {
            let own = |set: &&SetRecord| set.members.contains(&pipe.node);
            topology.sets().filter(own).cloned().collect()
        });
        for set in &sets {
            let replica = || format!("the replica of set {} is being started", set.id);
            waits::tell(replica, cluster.host(set)).await?;
        }
        for set in &sets {
            let pipe = || cluster.waits_for(set.id);
            waits::tell(pipe, cluster.open_pipe(set.id)).await?;
        }
        let sets = || {
            let sets = cluster.sets().map(|(set, _)| cluster.waits_for(set));
            let all: Vec<String> = sets.chain([topology()]).collect();
            format!("queues and records are compared; {}", all.join("; "))
        };
        waits::tell(sets, cluster.reconcile()).await?;
        let run = reconcile::run(Arc::clone(&cluster), supervisor.clone());
        supervisor.spawn("reconcile", run);
        let run = policies::run(Arc::clone(&cluster), supervisor.clone());
        supervisor.spawn("policies", run);
        let patience = cluster.options.patience;
        let run = controller::run(Arc::clone(&cluster), patience, supervisor.clone());
        supervisor.spawn("controller", run);
        let run = presence::run(Arc::clone(&cluster), supervisor.clone());
        supervisor.spawn("presence", run);
        Ok((cluster, receiver))
    }

    /// Where a set stands, for the log.
    fn waits_for(&self, set: SetId) -> String {
        match self.table.get(set) {
            Some(handle) => waits::set_state(handle.group(), handle.outbox()),
            None => format!("set {set} is not known"),
        }
    }

    /// Tells the topology that this node is here, and where.
    async fn enter(&self) -> Result<(), Refusal> {
        let PipeId { node, incarnation } = self.pipe;
        let options = &self.options;
        let form = MembersCommand::Form(options.membership.formation.clone());
        self.ask_topology(&TopologyCommand::Members(form)).await?;
        let here = MembersCommand::AddNode {
            name: options.name.clone(),
            address: options.address.clone(),
            token: options.token,
        };
        self.ask_topology(&TopologyCommand::Members(here)).await?;
        let empty = self
            .topology
            .read(|topology| topology.vhosts().count() == 0);
        let seeded = empty && options.seed.is_some();
        self.seeded.store(seeded, Ordering::Release);
        let open = TopologyCommand::OpenNode {
            node,
            incarnation,
            first: options.seed.clone(),
        };
        self.ask_topology(&open).await?;
        Ok(())
    }

    async fn start_local(&self) -> Result<(), Refusal> {
        let own = SetId::local(self.pipe.node);
        let outbox = Arc::new(Outbox::new(own, self.pipe, self.options.pool.clone()));
        let ring = Arc::new(Ring::for_all(self.pipe.node));
        let replica = SetReplica::new(
            SetMachine::new(Box::new(MemoryPages::default())),
            Arc::clone(&outbox),
            Arc::clone(&self.registry),
            self.effects.clone(),
            Arc::clone(&ring),
        );
        let set = Arc::new(LocalSet::new(Arc::clone(&outbox), replica));
        let run = Arc::clone(&set).run(self.supervisor.clone());
        self.supervisor.spawn("local set", run);
        let handle = SetHandle::Local { outbox, set };
        let hosted = Hosted {
            own: self.pipe.node,
            handle: Some(handle.clone()),
            group: None,
            stamp: Arc::default(),
            ring,
        };
        self.options.hub.host(own, hosted);
        self.table.insert(own, handle);
        self.open_pipe(own).await
    }

    /// Starts this node's replica of a set, if it does not run yet.
    pub(super) async fn host(&self, record: &SetRecord) -> Result<(), StartError> {
        match self.table.get(record.id) {
            Some(SetHandle::Remote { outbox, remote }) if !remote.has_replica() => {
                let handle = replicas::start_set(self, record, Arc::clone(outbox), true).await?;
                remote.replica_comes(handle);
                return Ok(());
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let outbox = self.pipe_to(record.id);
        // The first command of the pipe, before anybody else can send one.
        outbox.push(&Command::OpenPipe);
        let handle = replicas::start_set(self, record, outbox, false).await?;
        self.table.insert(record.id, handle);
        Ok(())
    }

    fn pipe_to(&self, set: SetId) -> Arc<Outbox<Reply>> {
        let outbox = Outbox::new(set, self.pipe, self.options.pool.clone());
        outbox.knows_lapses(self.presence.lapses());
        Arc::new(outbox)
    }

    /// Waits until the set knows this incarnation of the node.
    pub(super) async fn open_pipe(&self, set: SetId) -> Result<(), Refusal> {
        let Some(handle) = self.table.get(set) else {
            return Ok(());
        };
        if set.is_local() {
            handle.push(&Command::OpenPipe);
        }
        let inspect = Command::Inspect {
            queue: QueueId(0),
            touch: false,
        };
        handle.ask(&inspect).await.map(|_| ())
    }

    /// A crash between the two steps of a declare or a delete leaves a record without a queue, or a queue without a
    /// record: the record is what counts.
    async fn reconcile(&self) -> Result<(), Refusal> {
        let mut known = Vec::new();
        for (set, handle) in self.sets() {
            let ids = |replica: &SetReplica| {
                let queues = replica.machine().queues().map(|(id, _)| id);
                queues.collect::<Vec<QueueId>>()
            };
            known.push((set, handle, handle.with(ids).unwrap_or_default()));
        }
        // A queue that another node made just now has a record, but this copy of the topology may be behind.
        self.topology_barrier().await?;
        let records: Vec<QueueRecord> = self
            .topology
            .read(|topology| topology.queues().cloned().collect());
        let mut last = Vec::new();
        for (set, handle, known) in known {
            let gone = known.into_iter().filter(|id| {
                self.topology
                    .read(|topology| topology.queue_by_id(*id).is_none())
            });
            for queue in gone {
                let delete = Command::Delete {
                    queue,
                    if_unused: false,
                    if_empty: false,
                };
                last.push(handle.asking(&delete));
            }
            for record in records.iter().filter(|record| record.lives_in(set)) {
                let here = handle.with(|replica| replica.machine().has_queue(record.id));
                if here == Some(false) {
                    let config = Box::new(record.config(&self.options.queue_defaults));
                    last.push(handle.asking(&Command::Create {
                        queue: record.id,
                        config,
                    }));
                }
            }
        }
        for answer in last {
            answer.answer().await?;
        }
        Ok(())
    }

    /// A set as this node uses it. The first use of one that is elsewhere opens a pipe to it.
    #[must_use]
    pub fn set(&self, set: SetId) -> Option<&SetHandle> {
        self.table.get(set).or_else(|| self.reach(set))
    }

    fn reach(&self, set: SetId) -> Option<&SetHandle> {
        let elsewhere = match set.local_node() {
            Some(node) => node != self.pipe.node,
            None => self.topology.read(|topology| {
                let record = topology.set(set);
                record.is_some_and(|record| !record.members.contains(&self.pipe.node))
            }),
        };
        if !elsewhere {
            return None;
        }
        self.table.insert_with(set, || {
            let outbox = self.pipe_to(set);
            outbox.push(&Command::OpenPipe);
            let registry = Arc::clone(&self.registry);
            let links = self.options.links.clone();
            let remote = Arc::new(Remote::new(Arc::clone(&outbox), registry, links));
            let topology = Arc::clone(&self.topology);
            let members = move || match set.local_node() {
                Some(node) => vec![node],
                None => topology.read(|topology| {
                    let record = topology.set(set);
                    record.map_or_else(Vec::new, |record| record.members.clone())
                }),
            };
            let run = Arc::clone(&remote).run(members, self.supervisor.clone());
            self.supervisor.spawn("watch", run);
            let feed = Arc::clone(&remote).feed(self.supervisor.clone());
            self.supervisor.spawn("feed", feed);
            SetHandle::Remote { outbox, remote }
        })
    }

    /// The sets of which this node holds a replica, and its own.
    pub fn sets(&self) -> impl Iterator<Item = (SetId, &SetHandle)> {
        self.table.iter()
    }

    /// This node's own set.
    #[must_use]
    pub fn local(&self) -> SetId {
        SetId::local(self.pipe.node)
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.pipe.node
    }

    /// Where a new durable queue goes: `parts` sets, those with the fewest queues. Queues placed before this node knows of
    /// each other's places go to different sets all the same.
    #[must_use]
    pub fn place(&self, parts: usize) -> Vec<SetId> {
        let load: Vec<(u64, SetId)> = self.topology.read(|topology| {
            let sets = topology.sets();
            sets.map(|set| (topology.queues_in(set.id), set.id))
                .collect()
        });
        least_loaded(load, parts, self.placed.fetch_add(1, Ordering::Relaxed))
    }

    /// Changes the topology; the answer comes when this node's copy has changed.
    ///
    /// # Errors
    /// None today: it waits for as long as the topology has no leader. Callers treat it as any other set.
    pub async fn ask_topology(&self, command: &TopologyCommand) -> Result<TopologyReply, Refusal> {
        let mut bytes = BytesMut::new();
        command.encode(&mut bytes);
        loop {
            // A copy that skipped the entry knows what it did, and not the answer. Commands of the topology may come twice.
            if let Ok(reply) = self.topology_outbox.ask_opaque(&bytes).await {
                return Ok(reply);
            }
        }
    }

    /// Completes when this node's copy has everything that was committed before the call.
    ///
    /// # Errors
    /// [`Refusal`] if the node stops first.
    pub async fn topology_barrier(&self) -> Result<(), Refusal> {
        let PipeId { node, incarnation } = self.pipe;
        let again = TopologyCommand::OpenNode {
            node,
            incarnation,
            first: None,
        };
        self.ask_topology(&again).await.map(|_| ())
    }

    /// The topology's Raft group.
    #[must_use]
    pub fn topology_group(&self) -> &Group {
        &self.topology_group
    }

    /// Gives every leadership to another member that is there.
    pub async fn yield_leaderships(&self) {
        let groups = self.sets().filter_map(|(_, handle)| handle.group());
        let yields = groups.chain([&self.topology_group]);
        let yields = yields.map(Group::yield_leadership);
        futures_util::future::join_all(yields).await;
    }

    /// Stops every replica: hands leaderships over, snapshot, close.
    pub async fn stop(&self) {
        let groups = self.sets().filter_map(|(_, handle)| handle.group());
        let stops = groups.chain([&self.topology_group]).map(Group::shutdown);
        for stopped in futures_util::future::join_all(stops).await {
            if let Err(error) = stopped {
                tracing::warn!(%error, "a replica did not stop cleanly");
            }
        }
    }
}

/// The `count` sets of the least load, at least one; among equals they take turns.
fn least_loaded(mut load: Vec<(u64, SetId)>, count: usize, turn: usize) -> Vec<SetId> {
    let sets = load.len().max(1);
    load.sort_unstable_by_key(|(_, set)| *set);
    load.rotate_left(turn % sets);
    load.sort_by_key(|(queues, _)| *queues);
    let chosen = load.into_iter().take(count.max(1));
    chosen.map(|(_, set)| set).collect()
}

async fn start_topology(
    options: &ClusterOptions,
    shared: &Arc<SharedTopology>,
    outbox: &Arc<Outbox<TopologyReply>>,
    supervisor: &Supervisor,
) -> Result<Group, StartError> {
    let set = SetId::TOPOLOGY;
    let machine = TopologyReplica::new(Arc::clone(shared), Arc::clone(outbox));
    let machine = Arc::new(Mutex::new(machine));
    let mut group_options = (options.group)(set, options.set_dir(set));
    let first = options.membership.formation.nodes.iter();
    group_options.voters = first
        .take(TOPOLOGY_VOTERS_MAX)
        .map(|node| (node.id, node.address.clone()))
        .collect();
    group_options.peers.clone_from(&group_options.voters);
    group_options.transport = Arc::new(options.links.clone());
    let replica = || "the topology's replica is being started".to_owned();
    let started = Group::start(group_options, Arc::clone(&machine));
    let started = waits::tell(replica, started).await;
    let group = started.map_err(|error| StartError::Replica { set, error })?;
    let stamp = Arc::default();
    let hosted = Hosted {
        own: options.pipe.node,
        handle: None,
        group: Some(group.clone()),
        stamp: Arc::clone(&stamp),
        ring: Arc::new(Ring::new(options.pipe.node)),
    };
    options.hub.host(set, hosted);
    let proposer = Proposer {
        outbox: Arc::clone(outbox),
        group: group.clone(),
        stamp,
        deadline: Arc::default(),
        tick: |_| (),
        links: options.links.clone(),
        node: options.pipe.node,
    };
    let last_stamp = move || machine.lock().last_stamp();
    let run = proposer.run(last_stamp, supervisor.clone());
    supervisor.spawn("topology proposer", run);
    let state = || format!("the topology, {}", waits::group_state(&group));
    waits::tell(state, group.ready())
        .await
        .map_err(|error| StartError::Replica { set, error })?;
    Ok(group)
}

impl ClusterOptions {
    /// Where a set's replica lives.
    pub(super) fn set_dir(&self, set: SetId) -> PathBuf {
        self.data_dir.join("sets").join(set.to_string())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn queues_go_where_there_are_fewest_and_in_turns_where_there_are_as_many() {
        let sets = |load: &[u64]| -> Vec<(u64, SetId)> {
            let ids = (1..).map(SetId);
            load.iter().copied().zip(ids).collect()
        };
        let one = |load: &[u64], turn| least_loaded(sets(load), 1, turn)[0].0;
        assert_eq!([0, 1, 2, 3].map(|turn| one(&[0, 0, 0], turn)), [1, 2, 3, 1]);
        assert_eq!([0, 1, 2, 3].map(|turn| one(&[5, 4, 9], turn)), [2; 4]);
        assert_eq!(least_loaded(sets(&[1, 0, 1]), 2, 2), [SetId(2), SetId(3)]);
        assert_eq!(least_loaded(sets(&[3]), 0, 7), [SetId(1)]);
        assert_eq!(least_loaded(Vec::new(), 1, 7), []);
    }
}
