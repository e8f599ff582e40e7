//! What a replica's disk lost comes back from its peers.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::super::{Group, GroupOptions, RaftError};
use super::ToyHandle;
use super::three::{Node, Wires, leader, rule};
use crate::base::NodeId;
use crate::log::LogError;

const COUNT: u64 = 160;

fn body(number: u64) -> Bytes {
    let text = format!("entry number {number:06} ");
    Bytes::from(text.repeat(40))
}

/// Small segments, and nothing in memory that the disk has.
fn on_disk(mut options: GroupOptions) -> GroupOptions {
    options.log.segment_size_bytes = 16 * 1024;
    options.log.cache_bytes = 0;
    options.log.read_cache_bytes = 0;
    options.keep_log_bytes = 1 << 40;
    options.peers.clone_from(&options.voters);
    options
}

async fn started(wires: &Wires, options: GroupOptions, dir: tempfile::TempDir) -> Node {
    let machine = ToyHandle::default();
    let group = Group::start(options.clone(), Arc::clone(&machine))
        .await
        .unwrap();
    wires.join(options.node, &group);
    Node {
        group,
        machine,
        options,
        dir,
    }
}

/// Three replicas that hold the same entries on disk; the index of the first body.
async fn filled(wires: &Wires, keep: u64) -> (Vec<Node>, u64) {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let dir = tempfile::tempdir().unwrap();
        let mut options = on_disk(rule(wires, &dir, id));
        options.keep_log_bytes = keep;
        nodes.push(started(wires, options, dir).await);
    }
    let at = leader(&nodes).await;
    let mut first = None;
    let mut last = 0;
    for number in 0..COUNT {
        let receipt = nodes[at].group.propose(body(number)).unwrap();
        last = receipt.await.unwrap().index;
        first.get_or_insert(last);
    }
    for node in &nodes {
        node.group.wait_applied(last).await.unwrap();
    }
    (nodes, first.unwrap())
}

/// Flips a bit of body `number`, wherever it stands below `dir`.
fn damage(dir: &Path, number: u64) {
    let text = body(number);
    let mut found = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|one| one != "seg") {
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|part| part == text) {
            bytes[at + 7] ^= 4;
            std::fs::write(&path, bytes).unwrap();
            found += 1;
        }
    }
    assert_eq!(found, 1, "body {number}");
}

/// Ends a replica, of which peers may hold handles.
async fn end(group: Group) {
    group.raft().shutdown().await.unwrap();
    let log = group.log().clone();
    drop(group);
    let closed = tokio::task::spawn_blocking(move || log.close());
    closed.await.unwrap().unwrap();
}

fn check(group: &Group, first: u64, from: u64) {
    for number in from..COUNT {
        let record = group.log().get(first + number).unwrap();
        assert_eq!(record.payload, body(number), "{number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lost_entries_it_acknowledged_has_them_again_before_it_starts() {
    let wires = Wires::default();
    let (mut nodes, first) = filled(&wires, 1 << 40).await;
    let lead = leader(&nodes).await;
    let away = nodes.remove((lead + 1) % 3);
    wires.part(away.options.node);
    let index = away.group.log().sealed_segment(first + 20);
    assert!(index.is_some(), "the segment is sealed");
    let Node {
        group,
        options,
        dir,
        ..
    } = away;
    end(group).await;
    damage(dir.path(), 20);

    let mut alone = options.clone();
    alone.peers.clear();
    let refused = Group::start(alone, ToyHandle::default()).await.err();
    assert!(matches!(refused, Some(RaftError::Log(text)) if text.contains("damaged")));

    let back = started(&wires, options, dir).await;
    back.group.ready().await.unwrap();
    check(&back.group, first, 0);
    let lead = leader(&nodes).await;
    let last = nodes[lead].group.metrics().applied.unwrap();
    back.group.wait_applied(last).await.unwrap();
    assert_eq!(
        back.machine.lock().digest,
        nodes[lead].machine.lock().digest
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_found_damaged_is_repaired_on_disk_while_the_replica_runs() {
    // The oldest segments are compacted: nothing in them lives for the toy.
    const ODD: u64 = 130;
    let wires = Wires::default();
    let (nodes, first) = filled(&wires, 0).await;
    let at = leader(&nodes).await;
    let node = &nodes[(at + 1) % 3];
    node.group.snapshot_now().await.unwrap();
    assert!(node.group.metrics().purged >= Some(first + ODD));
    damage(node.dir.path(), ODD);
    let read = node.group.log().get(first + ODD);
    assert!(matches!(read, Err(LogError::Damaged { .. })), "{read:?}");
    node.group.damaged(first + ODD);
    while node.group.log().get(first + ODD).is_err() {
        tokio::task::yield_now().await;
    }
    check(&node.group, first, ODD - 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_lost_what_a_follower_lacks_has_it_from_the_other() {
    let wires = Wires::default();
    let (mut nodes, first) = filled(&wires, 1 << 40).await;
    let at = leader(&nodes).await;
    let away = nodes.remove((at + 1) % 3);
    let (node, mut options) = (away.options.node, away.options.clone());
    wires.part(node);
    end(away.group).await;
    // The follower comes back with nothing, so that all must be read again.
    drop(away.dir);
    let dir = tempfile::tempdir().unwrap();
    options.dir = dir.path().to_path_buf();
    options.voters = vec![(NodeId(99), String::new())];
    let at = leader(&nodes).await;
    damage(nodes[at].dir.path(), 20);
    let back = started(&wires, options, dir).await;
    let last = nodes[at].group.metrics().applied.unwrap();
    back.group.wait_applied(last).await.unwrap();
    check(&back.group, first, 0);
    check(&nodes[at].group, first, 0);
}
