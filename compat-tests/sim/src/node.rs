//! One life of one node: the real cluster floor over the simulated disk and network, and its clients.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leveret::base::{Millis, NodeId, PipeId, SessionId, SetId};
use leveret::cluster::peer::{self, Hub, Links, Own, PeerSecurity};
use leveret::cluster::{Cluster, ClusterOptions, Membership, Patience};
use leveret::log::LogOptions;
use leveret::log::faulty_disk::FaultyDisk;
use leveret::model::batch::BufferPool;
use leveret::model::set::Command;
use leveret::model::topology::{
    DeclareQueue, Formation, NodeRecord, NodeState, QueueDefaults, QueueRecord, Seed,
    TopologyCommand, TopologyReply,
};
use leveret::raft::GroupOptions;
use leveret::rt::Supervisor;

use crate::world::{NODES, World};
use crate::{client, disk, net};

fn name(at: usize) -> String {
    format!("n{}", at + 1)
}

fn formation() -> Formation {
    let nodes = (0..NODES).map(|at| NodeRecord {
        id: NodeId(at as u64 + 1),
        name: name(at),
        address: format!("{}:{}", name(at), net::PORT),
        token: at as u64 + 1,
        incarnation: 0,
        state: NodeState::Active,
    });
    Formation {
        cluster: 77,
        nodes: nodes.collect(),
    }
}

/// What of the seed a whole run shares.
#[derive(Clone, Copy)]
pub struct Shape {
    pub direct: bool,
    pub segment_bytes: u64,
    pub snapshot_every_bytes: u64,
    pub keep_log_bytes: u64,
}

/// Lives until the node is crashed, or must stop.
pub async fn live(world: World, at: usize, shape: Shape) -> turmoil::Result {
    let (disk, incarnation, dead) = world.with(|state| {
        let node = &mut state.nodes[at];
        node.incarnation += 1;
        node.dead = Arc::default();
        node.fatal = None;
        node.runtime = Some(tokio::runtime::Handle::current().id());
        node.started = false;
        (node.disk.clone(), node.incarnation, Arc::clone(&node.dead))
    });
    net::begin(&dead);
    world.note(&format!("n{} starts, life {incarnation}", at + 1));
    let supervisor = Supervisor::default();
    let options = options(&world, at, shape, incarnation, disk, &dead);
    let (own, security) = (Arc::new(Own::default()), PeerSecurity::new("sim", None));
    own.set(&options.membership, incarnation);
    let options = ClusterOptions {
        links: Links::new(Arc::clone(&own), security.clone(), options.pool.clone()),
        ..options
    };
    let incoming = net::listen(Arc::clone(&dead)).await?;
    let (hub, pool) = (Arc::clone(&options.hub), options.pool.clone());
    tokio::spawn(peer::serve_incoming(
        incoming,
        hub,
        own,
        security,
        pool,
        supervisor.clone(),
    ));
    let (cluster, effects) = match Cluster::start(options, &supervisor).await {
        Ok(started) => started,
        Err(error) => {
            world.fatal(at, &error.to_string());
            return Ok(());
        }
    };
    let queues = match declare(&cluster).await {
        Some(queues) => queues,
        None => {
            world.fatal(at, "queues could not be declared");
            return Ok(());
        }
    };
    world.with(|state| {
        state.nodes[at].cluster = Arc::downgrade(&cluster);
        state.nodes[at].started = true;
    });
    world.note(&format!("n{} serves", at + 1));
    for queue in queues.clone() {
        let run = client::consume(world.clone(), at, Arc::clone(&cluster), queue, dead.clone());
        tokio::spawn(run);
    }
    let run = client::publish(world, at, Arc::clone(&cluster), queues, dead);
    tokio::spawn(run);
    // No queue here has dead letters.
    let _effects = effects;
    std::future::pending::<()>().await;
    Ok(())
}

fn options(
    world: &World,
    at: usize,
    shape: Shape,
    incarnation: u64,
    disk: FaultyDisk,
    dead: &Arc<AtomicBool>,
) -> ClusterOptions {
    let node = NodeId(at as u64 + 1);
    let spindle = disk::Spindle {
        world: world.clone(),
        at,
        dead: Arc::clone(dead),
    };
    let (world, dead) = (world.clone(), Arc::clone(dead));
    let group = move |set: SetId, dir: PathBuf| {
        let mut options = GroupOptions::new(set, node, dir, Arc::new(disk.clone()));
        options.log = LogOptions {
            segment_size_bytes: shape.segment_bytes,
            cache_bytes: 32 << 10,
            read_cache_bytes: 16 << 10,
            direct: shape.direct,
            spare_segments: 0,
            host: Some(Arc::new(spindle.clone())),
        };
        options.snapshot_every_bytes = shape.snapshot_every_bytes;
        options.snapshot_every = Duration::from_secs(10);
        options.keep_log_bytes = shape.keep_log_bytes;
        let (world, dead) = (world.clone(), Arc::clone(&dead));
        options.on_fatal = Arc::new(move |set, reason| {
            if !dead.swap(true, Ordering::AcqRel) {
                world.fatal(at, &format!("set {set}: {reason}"));
            }
        });
        options
    };
    let (own, security) = (Arc::new(Own::default()), PeerSecurity::new("sim", None));
    let pool = BufferPool::default();
    ClusterOptions {
        data_dir: PathBuf::from("/data"),
        pipe: PipeId { node, incarnation },
        name: name(at),
        address: format!("{}:{}", name(at), net::PORT),
        token: at as u64 + 1,
        membership: Membership {
            node,
            formation: formation(),
        },
        links: Links::new(own, security, pool.clone()),
        hub: Arc::new(Hub::default()),
        group: Box::new(group),
        seed: Some(Seed {
            user: "guest".into(),
            password_hash: String::new(),
            tags: Vec::new(),
            vhost: "/".into(),
            permissions: [".*".into(), ".*".into(), ".*".into()],
            default_queue_type: String::new(),
        }),
        queue_defaults: QueueDefaults::default(),
        patience: Patience {
            leases: Duration::from_secs(5),
            replicas: Duration::from_secs(600),
        },
        sets_per_node: 1,
        pool,
    }
}

async fn declare(cluster: &Arc<Cluster>) -> Option<Vec<QueueRecord>> {
    let mut queues = Vec::new();
    for number in 1..=NODES {
        let declare = TopologyCommand::DeclareQueue(DeclareQueue {
            vhost: "/".into(),
            name: format!("q{number}"),
            relaxed: false,
            server_named: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: leveret::amqp::FieldTable::default(),
            session: SessionId(1),
            node: cluster.pipe.node,
            incarnation: cluster.pipe.incarnation,
            sets: vec![SetId(number as u32)],
            user: String::new(),
        });
        let TopologyReply::Queue { record, .. } = cluster.ask_topology(&declare).await.ok()? else {
            return None;
        };
        let create = Command::Create {
            queue: record.id,
            config: Box::new(record.config(&QueueDefaults::default())),
        };
        cluster.set(record.set())?.ask(&create).await.ok()?;
        queues.push(*record);
    }
    Some(queues)
}

/// The wall clock of whichever node runs now.
pub fn wall(world: &World) -> Millis {
    const EPOCH_MS: i64 = 1_700_000_000_000;
    let now = turmoil::sim_elapsed().unwrap_or_default().as_millis() as i64;
    let runtime = tokio::runtime::Handle::try_current()
        .ok()
        .map(|one| one.id());
    let skew = world.with(|state| {
        let here = state.nodes.iter().find(|node| node.runtime == runtime);
        here.map_or(0, |node| node.skew)
    });
    Millis((EPOCH_MS + now + skew) as u64)
}
