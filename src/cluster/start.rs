//! Starting and stopping a node's sets.
//!
//! Order: the topology first, then the sets, then what the node owes both: its pipes opened, what older incarnations
//! of it held released, and each queue record matched by a queue in its set.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::base::limits::SET_EFFECTS_MAX;
use crate::base::{Millis, PipeId, QueueId, SetId};
use crate::log::{LogError, PageFiles};
use crate::model::batch::BufferPool;
use crate::model::set::{Command, MemoryPages, Reply, SetMachine};
use crate::model::topology::{QueueDefaults, QueueRecord, Seed, TopologyCommand, TopologyReply};
use crate::raft::{Group, GroupOptions, RaftError};
use crate::rt::Supervisor;

use super::local_set::LocalSet;
use super::outbox::{Outbox, Refusal};
use super::pages::SetPages;
use super::proposer;
use super::registry::Registry;
use super::replica::{SetEffect, SetEffects, SetReplica};
use super::set_handle::SetHandle;
use super::topology_replica::{SharedTopology, TopologyReplica};

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
    /// Broker sets of which this node has a replica.
    pub sets: Vec<SetId>,
    /// Raft and log options of a set.
    pub group: Box<dyn Fn(SetId, PathBuf) -> GroupOptions + Send>,
    /// What an empty store begins with.
    pub seed: Seed,
    /// What the configuration says about queues.
    pub queue_defaults: QueueDefaults,
}

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
    topology_outbox: Arc<Outbox<TopologyReply>>,
    topology_group: Group,
    sets: BTreeMap<SetId, SetHandle>,
    placement: Vec<SetId>,
    queue_defaults: QueueDefaults,
}

impl Cluster {
    /// Starts the topology, the sets and the local set, and opens this incarnation's pipes.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        options: ClusterOptions,
        supervisor: &Supervisor,
    ) -> Result<(Arc<Self>, mpsc::Receiver<SetEffect>), StartError> {
        let pipe = options.pipe;
        let pool = BufferPool::default();
        let registry = Arc::new(Registry::new(pipe));
        let (effects, receiver) = SetEffects::channel(SET_EFFECTS_MAX);
        let topology = Arc::new(SharedTopology::default());
        let topology_outbox = Arc::new(Outbox::new(SetId::TOPOLOGY, pipe, pool.clone()));
        let topology_group =
            start_topology(&options, &topology, &topology_outbox, supervisor).await?;
        let mut sets = BTreeMap::new();
        // The first command of every pipe, before anybody else can send one.
        let mut opened = Vec::new();
        for set in &options.sets {
            let outbox = Arc::new(Outbox::new(*set, pipe, pool.clone()));
            opened.push(open_pipe(&outbox));
            let handle = start_set(&options, outbox, &registry, &effects, supervisor).await?;
            sets.insert(*set, handle);
        }
        let outbox = Arc::new(Outbox::new(SetId::LOCAL, pipe, pool));
        opened.push(open_pipe(&outbox));
        let replica = SetReplica::new(
            SetMachine::new(Box::new(MemoryPages::default())),
            Arc::clone(&outbox),
            Arc::clone(&registry),
            effects.clone(),
        );
        let set = Arc::new(LocalSet::new(Arc::clone(&outbox), replica));
        supervisor.spawn("local set", Arc::clone(&set).run(supervisor.clone()));
        sets.insert(SetId::LOCAL, SetHandle::Local { outbox, set });
        let cluster = Arc::new(Self {
            pipe,
            registry,
            topology,
            effects,
            topology_outbox,
            topology_group,
            sets,
            placement: options.sets.clone(),
            queue_defaults: options.queue_defaults,
        });
        cluster.open(options.seed, opened).await?;
        Ok((cluster, receiver))
    }

    /// Opens the pipes and matches queues with their records.
    async fn open(
        &self,
        seed: Seed,
        opened: Vec<oneshot::Receiver<Reply>>,
    ) -> Result<(), StartError> {
        let PipeId { node, incarnation } = self.pipe;
        let seed = Some(seed);
        self.ask_topology(&TopologyCommand::OpenNode {
            node,
            incarnation,
            first: seed,
        })
        .await?;
        for (handle, opened) in self.sets.values().zip(opened) {
            handle.kick();
            opened.await.map_err(|_| Refusal)?;
        }
        self.reconcile().await?;
        Ok(())
    }

    /// A crash between the two steps of a declare or a delete leaves a record without a queue, or a queue without a
    /// record: the record is what counts.
    async fn reconcile(&self) -> Result<(), Refusal> {
        let records: Vec<QueueRecord> = self
            .topology
            .read(|topology| topology.queues().cloned().collect());
        let mut last = Vec::new();
        for (set, handle) in &self.sets {
            let known = handle.with(|replica| {
                replica
                    .machine()
                    .queues()
                    .map(|(id, _)| id)
                    .collect::<Vec<_>>()
            });
            for id in known {
                if self
                    .topology
                    .read(|topology| topology.queue_by_id(id).is_none())
                {
                    let delete = Command::Delete {
                        queue: id,
                        if_unused: false,
                        if_empty: false,
                    };
                    last.push(handle.asking(&delete));
                }
            }
            for record in records.iter().filter(|r| r.set() == *set) {
                if handle.with(|replica| !replica.machine().has_queue(record.id)) {
                    let config = Box::new(record.config(&self.queue_defaults));
                    last.push(handle.asking(&Command::Create {
                        queue: record.id,
                        config,
                    }));
                }
            }
        }
        for answer in last {
            answer.await.map_err(|_| Refusal)?;
        }
        Ok(())
    }

    /// A set of this node.
    #[must_use]
    pub fn set(&self, set: SetId) -> Option<&SetHandle> {
        self.sets.get(&set)
    }

    /// All sets of this node, the local one too.
    pub fn sets(&self) -> impl Iterator<Item = (SetId, &SetHandle)> {
        self.sets.iter().map(|(set, handle)| (*set, handle))
    }

    /// Where a new durable queue goes: the set with the fewest queues.
    #[must_use]
    pub fn place(&self) -> SetId {
        let queues = |set: &SetId| {
            self.sets
                .get(set)
                .map_or(0, |handle| handle.with(|r| r.machine().totals().queues))
        };
        self.placement
            .iter()
            .copied()
            .min_by_key(queues)
            .unwrap_or(SetId::LOCAL)
    }

    /// Changes the topology; the answer comes when this node's copy has changed.
    ///
    /// # Errors
    /// [`Refusal`] if the node stops first.
    pub async fn ask_topology(&self, command: &TopologyCommand) -> Result<TopologyReply, Refusal> {
        let mut bytes = BytesMut::new();
        command.encode(&mut bytes);
        self.topology_outbox
            .ask_opaque(&bytes)
            .await
            .map_err(|_| Refusal)
    }

    /// The topology's Raft group, for metrics.
    #[must_use]
    pub fn topology_group(&self) -> &Group {
        &self.topology_group
    }

    /// Stops every replica: snapshot, close.
    pub async fn stop(&self) {
        let groups = self.sets.values().filter_map(|handle| match handle {
            SetHandle::Replica { group, .. } => Some(group),
            SetHandle::Local { .. } => None,
        });
        for group in groups.chain([&self.topology_group]) {
            if let Err(error) = group.shutdown().await {
                tracing::warn!(%error, "a replica did not stop cleanly");
            }
        }
    }
}

/// The answer to the command behind it tells that a pipe is open.
fn open_pipe(outbox: &Outbox<Reply>) -> oneshot::Receiver<Reply> {
    outbox.push(&Command::OpenPipe);
    outbox.ask(&Command::Inspect {
        queue: QueueId(0),
        touch: false,
    })
}

fn set_dir(options: &ClusterOptions, set: SetId) -> PathBuf {
    options.data_dir.join("sets").join(set.to_string())
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
    let group_options = (options.group)(set, set_dir(options, set));
    let started = Group::start(group_options, Arc::clone(&machine)).await;
    let group = started.map_err(|error| StartError::Replica { set, error })?;
    let last_stamp = move || machine.lock().last_stamp();
    let run = proposer::run(
        Arc::clone(outbox),
        group.clone(),
        last_stamp,
        |_: &Outbox<TopologyReply>| (),
        Arc::default(),
        supervisor.clone(),
    );
    supervisor.spawn("topology proposer", run);
    group
        .ready()
        .await
        .map_err(|error| StartError::Replica { set, error })?;
    Ok(group)
}

async fn start_set(
    options: &ClusterOptions,
    outbox: Arc<Outbox<Reply>>,
    registry: &Arc<Registry>,
    effects: &SetEffects,
    supervisor: &Supervisor,
) -> Result<SetHandle, StartError> {
    let set = outbox.set();
    let dir = set_dir(options, set);
    let group_options = (options.group)(set, dir.clone());
    let pages = PageFiles::open(Arc::clone(&group_options.disk), dir.join("pages"))
        .map_err(|error| StartError::Pages { set, error })?;
    let pages = SetPages::new(pages);
    let machine = SetMachine::new(Box::new(pages.clone()));
    let replica = SetReplica::new(
        machine,
        Arc::clone(&outbox),
        Arc::clone(registry),
        effects.clone(),
    )
    .with_pages(pages.clone());
    let deadline = replica.deadline();
    let replica = Arc::new(Mutex::new(replica));
    let started = Group::start(group_options, Arc::clone(&replica)).await;
    let group = started.map_err(|error| StartError::Replica { set, error })?;
    pages.bind(group.log());
    let clock = Arc::clone(&replica);
    let last_stamp = move || -> Millis { clock.lock().machine().last_now() };
    let run = proposer::run(
        Arc::clone(&outbox),
        group.clone(),
        last_stamp,
        proposer::set_tick,
        deadline,
        supervisor.clone(),
    );
    supervisor.spawn("set proposer", run);
    group
        .ready()
        .await
        .map_err(|error| StartError::Replica { set, error })?;
    let log = group.log().clone();
    Ok(SetHandle::Replica {
        outbox,
        log,
        group,
        replica,
    })
}
