//! Three replicas in one process, joined by channels.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::super::{
    BoxFuture, BoxStream, Frame, Group, GroupOptions, Lane, Peer, Transport, TransportError,
};
use super::{ToyHandle, options, payload};
use crate::base::NodeId;

/// Replicas by node; a node that is not here cannot be reached.
#[derive(Clone, Default)]
pub(super) struct Wires {
    groups: Arc<Mutex<HashMap<NodeId, Group>>>,
    asked: Arc<Mutex<HashSet<(NodeId, String)>>>,
    /// Snapshots sent so far, and after how many frames each is to break off.
    pub(super) snapshots: Arc<AtomicUsize>,
    pub(super) breaks: Arc<Mutex<Option<Break>>>,
    /// Streams of entries that were opened before the last [`Self::stick`] of their end are not answered any more.
    stuck: Arc<Mutex<HashMap<NodeId, usize>>>,
}

/// Told how many snapshots were sent before; says after how many frames this one ends.
pub(super) type Break = Box<dyn FnMut(usize) -> usize + Send>;

impl Wires {
    fn peer(&self, to: &Peer) -> Result<Group, TransportError> {
        self.asked.lock().insert((to.node, to.address.clone()));
        let known = self.groups.lock().get(&to.node).cloned();
        known.ok_or_else(|| TransportError(format!("node {} is away", to.node)))
    }

    pub(super) fn join(&self, node: NodeId, group: &Group) {
        self.groups.lock().insert(node, group.clone());
    }

    pub(super) fn part(&self, node: NodeId) {
        self.groups.lock().remove(&node);
    }

    /// Whatever is on its way to `node` as entries arrives, and is never answered; new streams are.
    pub(super) fn stick(&self, node: NodeId) {
        *self.stuck.lock().entry(node).or_default() += 1;
    }

    fn stuck(&self, node: NodeId) -> usize {
        self.stuck.lock().get(&node).copied().unwrap_or(0)
    }

    /// Whether the member was asked something at this address.
    pub(super) fn asked(&self, node: NodeId, address: &str) -> bool {
        self.asked.lock().contains(&(node, address.to_owned()))
    }

    pub(super) fn forget_asked(&self) {
        self.asked.lock().clear();
    }
}

fn joined(frame: &Frame) -> Bytes {
    let mut all = BytesMut::new();
    for part in frame {
        all.extend_from_slice(part);
    }
    all.freeze()
}

impl Transport for Wires {
    fn request(
        &self,
        to: &Peer,
        _lane: Lane,
        frame: Frame,
    ) -> BoxFuture<Result<Bytes, TransportError>> {
        let peer = self.peer(to);
        Box::pin(async move { Ok(peer?.answer(joined(&frame)).await) })
    }

    fn appends(
        &self,
        to: &Peer,
        _lane: Lane,
        frames: BoxStream<Frame>,
    ) -> BoxFuture<Result<BoxStream<Result<Bytes, TransportError>>, TransportError>> {
        let (peer, wires, to) = (self.peer(to), self.clone(), to.clone());
        let opened = self.stuck(to.node);
        Box::pin(async move {
            let requests = frames.map(|frame| joined(&frame));
            let answers = peer?.answer_appends(Box::pin(requests));
            let there = answers.then(move |answer| {
                let answer = wires.peer(&to).map(|_| answer);
                let stuck = wires.stuck(to.node) != opened;
                async move {
                    if stuck {
                        std::future::pending::<()>().await;
                    }
                    answer
                }
            });
            let boxed: BoxStream<Result<Bytes, TransportError>> = Box::pin(there);
            Ok(boxed)
        })
    }

    fn snapshot(
        &self,
        to: &Peer,
        frames: BoxStream<Frame>,
    ) -> BoxFuture<Result<Bytes, TransportError>> {
        let peer = self.peer(to);
        let mut end = usize::MAX;
        if peer.is_ok() {
            let before = self.snapshots.fetch_add(1, Ordering::Relaxed);
            let mut breaks = self.breaks.lock();
            end = breaks.as_mut().map_or(usize::MAX, |says| says(before));
        }
        Box::pin(async move {
            let frames = frames.map(|frame| joined(&frame)).take(end);
            Ok(peer?.answer_snapshot(Box::pin(frames)).await)
        })
    }
}

pub(super) struct Node {
    pub(super) group: Group,
    pub(super) machine: ToyHandle,
    pub(super) options: GroupOptions,
    pub(super) dir: TempDir,
}

/// What node `id` of three is started with.
pub(super) fn rule(wires: &Wires, dir: &TempDir, id: u64) -> GroupOptions {
    let mut options = options(dir.path());
    options.node = NodeId(id);
    options.voters = (1..=3)
        .map(|id| (NodeId(id), format!("node {id}")))
        .collect();
    options.transport = Arc::new(wires.clone());
    options.keep_log_bytes = 0;
    options.heartbeat = Duration::from_millis(50);
    options.election_timeout_min = Duration::from_millis(800);
    options.election_timeout_max = Duration::from_millis(1_200);
    options
}

pub(super) async fn three(wires: &Wires) -> Vec<Node> {
    three_with(wires, |_| {}).await
}

/// Three whose options are changed.
pub(super) async fn three_with(wires: &Wires, change: impl Fn(&mut GroupOptions)) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let dir = tempfile::tempdir().unwrap();
        let mut options = rule(wires, &dir, id);
        change(&mut options);
        let machine = ToyHandle::default();
        let group = Group::start(options.clone(), Arc::clone(&machine))
            .await
            .unwrap();
        wires.join(NodeId(id), &group);
        nodes.push(Node {
            group,
            machine,
            options,
            dir,
        });
    }
    nodes
}

/// Waits until all of `nodes` are ready and agree who leads; says which of them does.
pub(super) async fn leader(nodes: &[Node]) -> usize {
    loop {
        for node in nodes {
            node.group.ready().await.unwrap();
        }
        let named: Vec<_> = nodes.iter().map(|node| node.group.leader()).collect();
        let leads = nodes.iter().position(|node| node.group.is_leader());
        if let Some(at) = leads
            && named.iter().all(|one| *one == named[at])
        {
            return at;
        }
        tokio::task::yield_now().await;
    }
}

async fn applies(node: &Node, index: u64) {
    node.group.wait_applied(index).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_agree_before_and_after_the_leader_is_lost() {
    let wires = Wires::default();
    let mut nodes = three(&wires).await;
    let first = leader(&nodes).await;
    let mut last = 0;
    for number in 0..50 {
        let receipt = nodes[first].group.propose(payload(number)).unwrap();
        last = receipt.await.unwrap().index;
    }
    for node in &nodes {
        applies(node, last).await;
    }
    let digest = nodes[first].machine.lock().digest;
    assert!(
        nodes
            .iter()
            .all(|node| node.machine.lock().digest == digest)
    );

    let lost = nodes.remove(first);
    wires.part(lost.options.node);
    lost.group.raft().shutdown().await.unwrap();
    drop(lost.group);

    let second = loop {
        let at = leader(&nodes).await;
        if nodes[at].group.leader() != Some(lost.options.node) {
            break at;
        }
        tokio::task::yield_now().await;
    };
    for number in 50..60 {
        let receipt = nodes[second].group.propose(payload(number)).unwrap();
        last = receipt.await.unwrap().index;
    }

    let machine = ToyHandle::default();
    let back = Group::start(lost.options.clone(), Arc::clone(&machine))
        .await
        .unwrap();
    wires.join(lost.options.node, &back);
    nodes.push(Node {
        group: back,
        machine,
        options: lost.options,
        dir: lost.dir,
    });
    for node in &nodes {
        applies(node, last).await;
        assert_eq!(node.machine.lock().payloads, 60);
    }
    let digest = nodes[0].machine.lock().digest;
    assert!(
        nodes
            .iter()
            .all(|node| node.machine.lock().digest == digest)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_stop_hands_the_leadership_over() {
    let wires = Wires::default();
    let mut nodes = three(&wires).await;
    let first = leader(&nodes).await;
    let receipt = nodes[first].group.propose(payload(1)).unwrap();
    receipt.await.unwrap();
    let gone = nodes.remove(first);
    gone.group.shutdown().await.unwrap();
    wires.part(gone.options.node);
    let at = leader(&nodes).await;
    assert_ne!(nodes[at].group.leader(), Some(gone.options.node));
    nodes[at].group.propose(payload(2)).unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_behind_the_purged_log_is_brought_back_by_a_snapshot() {
    let wires = Wires::default();
    let mut nodes = three(&wires).await;
    let first = leader(&nodes).await;
    let away = nodes.remove(if first == 0 { 1 } else { 0 });
    wires.part(away.options.node);
    away.group.raft().shutdown().await.unwrap();
    drop(away.group);
    let at = leader(&nodes).await;
    let mut last = 0;
    for number in 0..20 {
        let receipt = nodes[at].group.propose(payload(number)).unwrap();
        last = receipt.await.unwrap().index;
    }
    nodes[at].group.snapshot_now().await.unwrap();
    assert_eq!(nodes[at].group.metrics().purged, Some(last));

    let machine = ToyHandle::default();
    let back = Group::start(away.options.clone(), Arc::clone(&machine))
        .await
        .unwrap();
    wires.join(away.options.node, &back);
    let node = Node {
        group: back,
        machine,
        options: away.options,
        dir: away.dir,
    };
    applies(&node, last).await;
    assert_eq!(node.machine.lock().restores, 1);
    assert_eq!(node.machine.lock().digest, nodes[at].machine.lock().digest);
}
