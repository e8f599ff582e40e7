//! One replica that is its own majority.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::errors::{ClientWriteError, ForwardToLeader};
use openraft::raft::responder::Responder;

use super::super::ProposeError;
use super::super::proposal::{InFlight, Proposal};
use super::{kill, options, payload, start};
use crate::base::NodeId;

#[tokio::test]
async fn a_fresh_replica_leads_at_once_and_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let (group, machine) = start(options(dir.path())).await;
    assert!(group.is_leader());
    assert_eq!(group.leader(), Some(NodeId(1)));
    assert_eq!(machine.lock().terms_led, [1]);
    group.shutdown().await.unwrap();
    assert!(!group.is_leader());
    assert!(!machine.lock().leading);
    assert_eq!(
        group.propose(payload(0)).unwrap_err(),
        ProposeError::NotLeader { leader: None }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_pipelined_proposals_are_applied_in_the_order_of_the_calls() {
    let dir = tempfile::tempdir().unwrap();
    let (group, machine) = start(options(dir.path())).await;
    let receipts: Vec<_> = (0..1000)
        .map(|number| group.propose(payload(number)).unwrap())
        .collect();
    let mut indexes = Vec::new();
    for receipt in receipts {
        indexes.push(receipt.await.unwrap().index);
    }
    assert_eq!(indexes.len(), 1000);
    assert!(indexes.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    assert_eq!(machine.lock().applied_here, indexes);
    assert_eq!(group.metrics().proposals_in_flight, 0);
    group.shutdown().await.unwrap();
}

#[tokio::test]
async fn past_its_bound_a_proposal_is_refused_and_not_appended() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.proposals_in_flight_max = 2;
    let (group, machine) = start(options).await;
    // The test's runtime has one thread, so nothing is applied before the first await.
    let first = group.propose(payload(1)).unwrap();
    let second = group.propose(payload(2)).unwrap();
    assert_eq!(group.propose(payload(3)).unwrap_err(), ProposeError::Busy);
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(machine.lock().payloads, 2);
    group.propose(payload(4)).unwrap().await.unwrap();
    group.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_restart_replays_to_the_same_digest() {
    let dir = tempfile::tempdir().unwrap();
    let (group, machine) = start(options(dir.path())).await;
    for number in 0..100 {
        group.propose(payload(number)).unwrap().await.unwrap();
    }
    let before = machine.lock().standing();
    // Killed: no snapshot, nothing handed over.
    kill(group).await;
    let (group, machine) = start(options(dir.path())).await;
    assert_eq!(machine.lock().standing(), before);
    assert_eq!(machine.lock().restores, 0);
    assert_eq!(machine.lock().applied_here.len(), 100);
    assert_eq!(machine.lock().terms_led, [2]);
    group.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_shortens_the_replay_and_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut rule = options(dir.path());
    rule.keep_log_bytes = 0;
    let (group, machine) = start(rule.clone()).await;
    for number in 0..50 {
        group.propose(payload(number)).unwrap().await.unwrap();
    }
    group.snapshot_now().await.unwrap();
    let metrics = group.metrics();
    assert_eq!(metrics.snapshot, metrics.applied);
    assert_eq!(metrics.purged, metrics.applied);
    for number in 50..60 {
        group.propose(payload(number)).unwrap().await.unwrap();
    }
    let before = machine.lock().digest;
    kill(group).await;
    let (group, machine) = start(rule).await;
    assert_eq!(machine.lock().digest, before);
    assert_eq!(machine.lock().payloads, 60);
    assert_eq!(machine.lock().restores, 1);
    assert_eq!(machine.lock().applied_here.len(), 10);
    group.propose(payload(60)).unwrap().await.unwrap();
    group.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_clean_stop_leaves_nothing_to_replay() {
    let dir = tempfile::tempdir().unwrap();
    let (group, machine) = start(options(dir.path())).await;
    for number in 0..20 {
        group.propose(payload(number)).unwrap().await.unwrap();
    }
    let before = machine.lock().digest;
    group.shutdown().await.unwrap();
    drop(group);
    let (group, machine) = start(options(dir.path())).await;
    assert_eq!(machine.lock().digest, before);
    assert!(machine.lock().applied_here.is_empty());
    group.shutdown().await.unwrap();
}

#[tokio::test]
async fn enough_applied_bytes_bring_a_snapshot_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let mut rule = options(dir.path());
    rule.snapshot_every_bytes = 10_000;
    let (group, _machine) = start(rule).await;
    assert_eq!(group.metrics().snapshot, None);
    let big = bytes::Bytes::from(vec![7; 4_000]);
    for _ in 0..3 {
        group.propose(big.clone()).unwrap().await.unwrap();
    }
    let core = group.raft().wait(None);
    core.metrics(|seen| seen.snapshot.is_some(), "snapshot")
        .await
        .unwrap();
    group.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_damaged_snapshot_refuses_the_start() {
    use super::super::snapshot::{decode, encode};
    let bytes = encode(&Default::default(), b"state");
    assert!(decode(&bytes).is_ok());
    for at in 0..bytes.len() {
        let mut bad = bytes.to_vec();
        bad[at] ^= 1;
        assert!(decode(&bad.into()).is_err(), "byte {at}");
        assert!(decode(&bytes.slice(..at)).is_err(), "cut at {at}");
    }
}

#[tokio::test]
async fn a_failed_write_is_told_once() {
    let told = Arc::new(AtomicBool::new(false));
    let dir = tempfile::tempdir().unwrap();
    let mut rule = options(dir.path());
    let heard = Arc::clone(&told);
    rule.on_fatal = Arc::new(move |_, _| assert!(!heard.swap(true, Ordering::AcqRel)));
    let (group, _machine) = start(rule).await;
    group.shared().fail("one");
    group.shared().fail("two");
    assert!(told.load(Ordering::Acquire));
    assert!(!group.is_leader());
    kill(group).await;
}

#[tokio::test]
async fn a_proposal_that_was_taken_and_is_refused_after_all_interrupts_the_lead() {
    let dir = tempfile::tempdir().unwrap();
    let (group, machine) = start(options(dir.path())).await;
    let mut watch = group.leadership();
    let before = *watch.borrow_and_update();
    let shared = group.shared();
    let proposal = |term| {
        let place = InFlight::take(&shared.in_flight, 8).unwrap();
        Proposal::new(place, Arc::clone(shared), term)
    };
    let refusal = || Err(ClientWriteError::ForwardToLeader(ForwardToLeader::empty()));
    let (old, _) = proposal(before.term - 1);
    old.on_complete(refusal());
    assert_eq!(
        *watch.borrow(),
        before,
        "an earlier term's says nothing of this one"
    );
    let (refused, receipt) = proposal(before.term);
    refused.on_complete(refusal());
    // The test's runtime has one thread: nobody looked yet.
    let lapsed = *watch.borrow_and_update();
    assert!(!lapsed.leading);
    assert_ne!(lapsed.tenure(), before.tenure());
    assert!(matches!(receipt.await, Err(ProposeError::NotLeader { .. })));
    let again = *watch.wait_for(|now| now.leading).await.unwrap();
    assert_eq!((again.term, again.tenure()), (before.term, lapsed.tenure()));
    assert_eq!(machine.lock().terms_led, [1, 1]);
    group.propose(payload(1)).unwrap().await.unwrap();
    group.shutdown().await.unwrap();
}
