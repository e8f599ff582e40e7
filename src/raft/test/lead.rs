//! A leader that is cut off, or whose disk stalls, leads no longer.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::{Condvar, Mutex};

use super::super::{Group, GroupOptions, ProposeError};
use super::three::{Node, Wires, leader, rule, three, three_with};
use super::{ToyHandle, payload};
use crate::base::{NodeId, SetId};
use crate::log::{Disk, DiskFile, OpenMode, OsDisk};

/// Holds writes and syncs of the log up while it is closed.
#[derive(Debug, Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut closed = self.closed.lock();
        while *closed {
            self.opened.wait(&mut closed);
        }
    }

    fn set(&self, closed: bool) {
        *self.closed.lock() = closed;
        self.opened.notify_all();
    }
}

/// A real disk behind a gate.
#[derive(Debug, Default)]
struct StallDisk(Arc<Gate>);

struct StallFile(Arc<Gate>, Arc<dyn DiskFile>);

impl DiskFile for StallFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.pass();
        self.1.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.pass();
        self.1.sync()
    }

    fn durable_writes(&self) -> bool {
        self.1.durable_writes()
    }

    fn size(&self) -> io::Result<u64> {
        self.1.size()
    }
}

impl Disk for StallDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = OsDisk.open(path, mode)?;
        match path.extension() {
            Some(kind) if kind == "seg" => Ok(Arc::new(StallFile(Arc::clone(&self.0), file))),
            _ => Ok(file),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsDisk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        OsDisk.free_bytes(dir)
    }
}

async fn with_gates(wires: &Wires, stall_millis: u64) -> (Vec<Node>, Vec<Arc<Gate>>) {
    let (mut nodes, mut gates) = (Vec::new(), Vec::new());
    for id in 1..=3 {
        let dir = tempfile::tempdir().unwrap();
        let gate = Arc::new(Gate::default());
        let mut options = rule(wires, &dir, id);
        options.disk = Arc::new(StallDisk(Arc::clone(&gate)));
        options.stall_limit = Duration::from_millis(stall_millis);
        let machine = ToyHandle::default();
        let started = Group::start(options.clone(), Arc::clone(&machine)).await;
        let group = started.unwrap();
        wires.join(NodeId(id), &group);
        nodes.push(Node {
            group,
            machine,
            options,
            dir,
        });
        gates.push(gate);
    }
    (nodes, gates)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_stalls_hands_the_lead_over_and_follows_when_the_disk_is_back() {
    let wires = Wires::default();
    let (nodes, gates) = with_gates(&wires, 200).await;
    let first = leader(&nodes).await;
    nodes[first]
        .group
        .propose(payload(1))
        .unwrap()
        .await
        .unwrap();
    gates[first].set(true);
    // The others' disks commit it; this one's writer is stuck with it.
    nodes[first]
        .group
        .propose(payload(2))
        .unwrap()
        .await
        .unwrap();
    let mut watch = nodes[first].group.leadership();
    watch.wait_for(|state| !state.leading).await.unwrap();
    let refused = nodes[first].group.propose(payload(3)).unwrap_err();
    assert!(matches!(refused, ProposeError::NotLeader { leader } if leader.is_none()));
    let second = loop {
        let others = (0..3).filter(|at| *at != first);
        if let Some(at) = others.into_iter().find(|at| nodes[*at].group.is_leader()) {
            break at;
        }
        tokio::task::yield_now().await;
    };
    let receipt = nodes[second].group.propose(payload(4)).unwrap();
    let last = receipt.await.unwrap().index;
    gates[first].set(false);
    nodes[first].group.wait_applied(last).await.unwrap();
    assert!(!nodes[first].machine.lock().leading);
    assert_eq!(nodes[first].machine.lock().payloads, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_not_there_before_the_entries_it_stands_for_are_on_this_disk() {
    let wires = Wires::default();
    let (nodes, gates) = with_gates(&wires, 60_000).await;
    let first = leader(&nodes).await;
    let other = (first + 1) % 3;
    let lead = &nodes[first].group;
    lead.propose(payload(1)).unwrap().await.unwrap();
    gates[other].set(true);
    // The two others commit it, and it is applied here.
    let last = lead.propose(payload(2)).unwrap().await.unwrap().index;
    let group = nodes[other].group.clone();
    group.wait_applied(last).await.unwrap();
    let mut snapshot = tokio::spawn(async move { group.snapshot_now().await });
    let early = tokio::time::timeout(Duration::from_millis(500), &mut snapshot).await;
    assert!(early.is_err(), "after a power cut its bodies would be gone");
    gates[other].set(false);
    snapshot.await.unwrap().unwrap();
    assert!(nodes[other].group.shared().snapshot_index() >= Some(last));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_stalls_and_whom_nobody_hears_waits_for_a_voter() {
    let wires = Wires::default();
    let (nodes, gates) = with_gates(&wires, 2_000).await;
    let first = leader(&nodes).await;
    let others: Vec<_> = (0..3).filter(|at| *at != first).collect();
    for at in &others {
        wires.part(nodes[*at].options.node);
    }
    gates[first].set(true);
    drop(nodes[first].group.propose(payload(0)).unwrap());
    let mut watch = nodes[first].group.leadership();
    watch.wait_for(|state| !state.leading).await.unwrap();
    let long = Some(Duration::from_millis(2_400));
    while nodes[first].group.log().busy_for() < long {
        tokio::task::yield_now().await;
    }
    assert_eq!(*nodes[first].group.shared().handing_over.lock(), None);
    for at in &others {
        wires.join(nodes[*at].options.node, &nodes[*at].group);
    }
    gates[first].set(false);
    let at = leader(&nodes).await;
    nodes[at].group.propose(payload(1)).unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_no_majority_hears_leads_no_longer_and_again_when_one_hears_it() {
    let wires = Wires::default();
    let nodes = three(&wires).await;
    let at = leader(&nodes).await;
    for node in &nodes {
        wires.part(node.options.node);
    }
    let mut watch = nodes[at].group.leadership();
    let state = *watch.wait_for(|state| !state.leading).await.unwrap();
    assert_eq!((state.leader, state.ready), (None, false));
    assert!(!nodes[at].machine.lock().leading);
    let refused = nodes[at].group.propose(payload(1)).unwrap_err();
    assert!(matches!(refused, ProposeError::NotLeader { .. }));
    // Its core believes in itself as long as nobody tells it otherwise.
    let core = nodes[at].group.raft().server_metrics();
    assert!(core.borrow_watched().state.is_leader());
    for node in &nodes {
        wires.join(node.options.node, &node.group);
    }
    let at = leader(&nodes).await;
    nodes[at].group.propose(payload(1)).unwrap().await.unwrap();
}

/// As [`leader`], in a term after `term`.
async fn later_leader(nodes: &[Node], term: u64) -> usize {
    loop {
        let at = leader(nodes).await;
        if nodes[at].group.leadership().borrow().term > term {
            return at;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_nobody_takes_ends_with_a_leader_all_the_same() {
    let wires = Wires::default();
    let nodes = three(&wires).await;
    let at = leader(&nodes).await;
    let term = nodes[at].group.metrics().term;
    nodes[at].group.hand_over(NodeId(99)).await.unwrap();
    let at = later_leader(&nodes, term).await;
    nodes[at].group.propose(payload(1)).unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_proposals_come_to_nothing_is_replaced() {
    let wires = Wires::default();
    let nodes = three_with(&wires, |options| {
        options.stuck_limit = Duration::from_millis(700)
    })
    .await;
    let at = leader(&nodes).await;
    let term = nodes[at].group.metrics().term;
    nodes[at].group.propose(payload(1)).unwrap().await.unwrap();
    for node in &nodes {
        wires.stick(node.options.node);
    }
    // Heartbeats go on: the followers have no reason of their own.
    let lost = nodes[at].group.propose(payload(2)).unwrap();
    let next = later_leader(&nodes, term).await;
    nodes[next]
        .group
        .propose(payload(3))
        .unwrap()
        .await
        .unwrap();
    // It may have been in the log of the one that was elected.
    drop(lost.await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_stream_is_not_answered_gets_another() {
    let wires = Wires::default();
    let nodes = three_with(&wires, |options| {
        options.append_limit = Duration::from_millis(700)
    })
    .await;
    let at = leader(&nodes).await;
    nodes[at].group.propose(payload(1)).unwrap().await.unwrap();
    let (term, behind) = (nodes[at].group.metrics().term, (at + 1) % 3);
    wires.stick(nodes[behind].options.node);
    let third = &nodes[(at + 2) % 3];
    let last = nodes[at].group.propose(payload(2)).unwrap().await.unwrap();
    // Without an answer from the one there is no majority once the other is gone.
    wires.part(third.options.node);
    let last = loop {
        match nodes[at].group.propose(payload(3)) {
            Ok(sent) => break sent.await.unwrap().index.max(last.index),
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let mut applied = nodes[behind].group.raft().metrics();
    while applied
        .borrow_watched()
        .last_applied
        .map_or(0, |id| id.index)
        < last
    {
        applied.changed().await.unwrap();
    }
    assert_eq!(
        nodes[at].group.metrics().term,
        term,
        "the lead was not the matter"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_a_term_is_proposed_in_no_other() {
    let wires = Wires::default();
    let nodes = three(&wires).await;
    let at = leader(&nodes).await;
    let term = nodes[at].group.metrics().term;
    let sent = nodes[at].group.propose_in(term, payload(1)).unwrap();
    assert_eq!(sent.await.unwrap().term, term);
    for other in [term - 1, term + 1] {
        let refused = nodes[at].group.propose_in(other, payload(2)).unwrap_err();
        assert!(matches!(refused, ProposeError::NotLeader { .. }));
    }
}

#[test]
fn timeouts_are_those_the_failover_was_measured_with() {
    let dir = Path::new("/set").to_path_buf();
    let options = GroupOptions::new(SetId(1), NodeId(1), dir, Arc::new(OsDisk));
    let millis = [
        options.heartbeat,
        options.election_timeout_min,
        options.election_timeout_max,
        options.stall_limit,
    ];
    assert_eq!(millis.map(|span| span.as_millis()), [100, 500, 800, 1000]);
}
