//! What a leader's core refused, in a term that goes on, is proposed again: by the leader itself, and by peers, whose
//! streams end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::frame;
use super::service::propose_batches;
use super::{Links, Messages, Own, PeerSecurity};
use crate::base::{Millis, NodeId, PipeId, SetId};
use crate::cluster::clock::Stamp;
use crate::cluster::outbox::Outbox;
use crate::cluster::proposer::Proposer;
use crate::log::OsDisk;
use crate::model::batch::BufferPool;
use crate::model::set::Command;
use crate::raft::{Frame, Group, GroupOptions, Machine, MachineError};
use crate::rt::Supervisor;

/// Longest wait for what must happen.
const LIMIT: Duration = Duration::from_secs(30);

/// Tells what it was given, and does nothing with it.
struct Told(watch::Sender<Vec<Bytes>>);

impl Machine for Told {
    fn apply(&mut self, _index: u64, _term: u64, payload: &Bytes) {
        self.0.send_modify(|all| all.push(payload.clone()));
    }

    fn snapshot(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _bytes: &[u8]) -> Result<(), MachineError> {
        Ok(())
    }
}

async fn alone(dir: &tempfile::TempDir) -> (Group, watch::Receiver<Vec<Bytes>>) {
    let path = dir.path().to_path_buf();
    let options = GroupOptions::new(SetId(1), NodeId(1), path, Arc::new(OsDisk));
    let (told, applied) = watch::channel(Vec::new());
    let group = Group::start(options, Arc::new(Mutex::new(Told(told)))).await;
    let group = group.unwrap();
    group.ready().await.unwrap();
    (group, applied)
}

#[tokio::test]
async fn the_stream_of_a_peer_that_waits_for_what_was_refused_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (group, _) = alone(&dir).await;
    let stamp = Stamp::default();
    stamp.lead(Some(Millis(1)));
    let waiting = frame::body(stream::pending::<Result<Frame, Status>>());
    let messages = Messages::new(waiting, BufferPool::default());
    let pipe = propose_batches(&group, &stamp, messages);
    let refusal = async { group.refuse() };
    let both = async { tokio::join!(biased; pipe, refusal) };
    let (ended, ()) = timeout(LIMIT, both).await.unwrap();
    assert_eq!(ended.code(), Code::Unavailable);
    group.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_leader_proposes_again_what_its_own_core_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (group, mut applied) = alone(&dir).await;
    let pipe = PipeId {
        node: NodeId(1),
        incarnation: 1,
    };
    let outbox = Arc::new(Outbox::<()>::new(SetId(1), pipe, BufferPool::default()));
    let links = Links::new(
        Arc::new(Own::default()),
        PeerSecurity::new("secret", None),
        BufferPool::default(),
    );
    let proposer = Proposer {
        outbox: Arc::clone(&outbox),
        group: group.clone(),
        stamp: Arc::default(),
        deadline: Arc::default(),
        tick: |_| {},
        links,
        node: NodeId(1),
    };
    let running = tokio::spawn(proposer.run(|| Millis(1), Supervisor::default()));
    outbox.push(&Command::Tick);
    outbox.kick();
    // The machine tells no outbox, so the batch stays in flight, as if it had been refused.
    let count = |count| move |all: &Vec<Bytes>| all.len() == count;
    timeout(LIMIT, applied.wait_for(count(1)))
        .await
        .unwrap()
        .unwrap();
    group.refuse();
    let all = timeout(LIMIT, applied.wait_for(count(2)))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert_eq!(all[0], all[1]);
    running.abort();
    group.shutdown().await.unwrap();
}
