//! Starting this node's replica of a broker set: pages, machine, Raft group, and the task that feeds it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::{Millis, NodeId};
use crate::log::PageFiles;
use crate::model::set::{Reply, SetMachine};
use crate::model::topology::SetRecord;
use crate::raft::Group;

use super::others::Others;
use super::outbox::Outbox;
use super::pages::SetPages;
use super::peer::Hosted;
use super::proposer::{self, Proposer};
use super::replica::SetReplica;
use super::ring::Ring;
use super::set_handle::SetHandle;
use super::start::{Cluster, StartError};

/// Starts the replica; entries after its snapshot are applied as soon as they are known to be committed. `muted`: what it
/// does is not told to this node's clients yet.
pub async fn start_set(
    cluster: &Cluster,
    record: &SetRecord,
    outbox: Arc<Outbox<Reply>>,
    muted: bool,
) -> Result<SetHandle, StartError> {
    let set = record.id;
    let options = &cluster.options;
    let dir = options.set_dir(set);
    let mut group_options = (options.group)(set, dir.clone());
    group_options.voters = first_voters(cluster, record);
    group_options.peers = addresses(cluster, record);
    group_options.transport = Arc::new(options.links.clone());
    let pages = PageFiles::open(Arc::clone(&group_options.disk), dir.join("pages"))
        .map_err(|error| StartError::Pages { set, error })?;
    let pages = SetPages::new(pages);
    let ring = Arc::new(Ring::new(cluster.pipe.node));
    let replica = SetReplica::new(
        SetMachine::new(Box::new(pages.clone())),
        Arc::clone(&outbox),
        Arc::clone(&cluster.registry),
        cluster.effects.clone(),
        Arc::clone(&ring),
    )
    .with_pages(pages.clone());
    let replica = match muted {
        true => replica.muted(),
        false => replica,
    };
    let deadline = replica.deadline();
    let replica = Arc::new(Mutex::new(replica));
    let clock = Arc::clone(&replica);
    let started = Group::start(group_options, Arc::clone(&replica)).await;
    let group = started.map_err(|error| StartError::Replica { set, error })?;
    pages.bind(group.log());
    let stamp = Arc::default();
    let handle = SetHandle::Replica {
        others: Others::new(
            options.links.clone(),
            Arc::clone(&cluster.topology),
            cluster.pipe.node,
        ),
        outbox: Arc::clone(&outbox),
        log: group.log().clone(),
        group: group.clone(),
        replica,
    };
    let hosted = Hosted {
        own: cluster.pipe.node,
        handle: Some(handle.clone()),
        group: Some(group.clone()),
        stamp: Arc::clone(&stamp),
        ring,
    };
    options.hub.host(set, hosted);
    let proposer = Proposer {
        outbox: Arc::clone(&outbox),
        group: group.clone(),
        stamp,
        deadline,
        tick: proposer::set_tick,
        links: options.links.clone(),
        node: cluster.pipe.node,
    };
    let last_stamp = move || -> Millis { clock.lock().machine().last_now() };
    let run = proposer.run(last_stamp, cluster.supervisor.clone());
    cluster.supervisor.spawn("set proposer", run);
    Ok(handle)
}

/// Members a fresh group begins with. Once they were ever changed, a replica that is empty is one that must be told by
/// the set's leader who the members are.
fn first_voters(cluster: &Cluster, record: &SetRecord) -> Vec<(NodeId, String)> {
    if record.generation > 0 {
        return Vec::new();
    }
    addresses(cluster, record)
}

fn addresses(cluster: &Cluster, record: &SetRecord) -> Vec<(NodeId, String)> {
    let address = |node: &NodeId| cluster.options.links.address(*node).unwrap_or_default();
    record
        .members
        .iter()
        .map(|node| (*node, address(node)))
        .collect()
}
