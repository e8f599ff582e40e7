//! A replica killed at every stage of its life comes back with all it acknowledged.

use std::path::Path;

use super::super::{Group, GroupOptions, ProposalReceipt};
use super::{ToyHandle, kill, options, payload, start};

/// Many small segments, nothing kept behind a snapshot.
fn small(dir: &Path) -> GroupOptions {
    let mut rule = options(dir);
    rule.log.segment_size_bytes = 16 * 1024;
    rule.log.cache_bytes = 4 * 1024;
    rule.keep_log_bytes = 0;
    rule
}

async fn acknowledged(group: &Group, numbers: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    let receipts: Vec<_> = numbers
        .map(|number| (number, group.propose(payload(number)).unwrap()))
        .collect();
    let mut known = Vec::new();
    for (number, receipt) in receipts {
        known.push((receipt.await.unwrap().index, number));
    }
    known
}

/// Kills the replica, starts it again, and holds the two lives against each other.
async fn again(group: Group, machine: ToyHandle, rule: &GroupOptions) -> (Group, ToyHandle) {
    let before = machine.lock().standing();
    kill(group).await;
    let (group, machine) = start(rule.clone()).await;
    assert_eq!(machine.lock().standing(), before);
    (group, machine)
}

fn all_there(group: &Group, known: &[(u64, u64)]) {
    for (index, number) in known {
        let record = group.log().get(*index).unwrap();
        assert_eq!(record.payload, payload(*number), "entry {index}");
    }
}

#[tokio::test]
async fn killed_before_the_first_entry_it_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let rule = small(dir.path());
    let (group, machine) = start(rule.clone()).await;
    let (group, machine) = again(group, machine, &rule).await;
    let known = acknowledged(&group, 0..1).await;
    all_there(&group, &known);
    assert_eq!(machine.lock().payloads, 1);
    kill(group).await;
}

#[tokio::test]
async fn killed_after_one_entry_it_has_that_entry() {
    let dir = tempfile::tempdir().unwrap();
    let rule = small(dir.path());
    let (group, machine) = start(rule.clone()).await;
    let known = acknowledged(&group, 0..1).await;
    let (group, machine) = again(group, machine, &rule).await;
    assert_eq!(machine.lock().payloads, 1);
    all_there(&group, &known);
    kill(group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_a_thousand_entries_in_many_segments_it_has_them_all() {
    let dir = tempfile::tempdir().unwrap();
    let rule = small(dir.path());
    let (group, machine) = start(rule.clone()).await;
    let known = acknowledged(&group, 0..1000).await;
    assert!(group.log().segments().len() > 1);
    let (group, machine) = again(group, machine, &rule).await;
    assert_eq!(machine.lock().payloads, 1000);
    all_there(&group, &known);
    kill(group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_a_snapshot_and_a_purge_it_goes_on_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let rule = small(dir.path());
    let (group, machine) = start(rule.clone()).await;
    acknowledged(&group, 0..1000).await;
    group.snapshot_now().await.unwrap();
    assert_eq!(group.metrics().purged, group.metrics().applied);
    let (group, machine) = again(group, machine, &rule).await;
    assert_eq!(machine.lock().restores, 1);
    assert!(machine.lock().applied_here.is_empty());
    let known = acknowledged(&group, 1000..1010).await;
    let (group, machine) = again(group, machine, &rule).await;
    assert_eq!(machine.lock().applied_here.len(), 10);
    assert_eq!(machine.lock().payloads, 1010);
    all_there(&group, &known);
    kill(group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_it_loses_nothing_and_leads_a_new_term_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let rule = small(dir.path());
    let (mut group, mut machine) = start(rule.clone()).await;
    let mut known = Vec::new();
    for life in 0..4 {
        assert_eq!(machine.lock().terms_led, [life + 1]);
        known.extend(acknowledged(&group, life * 100..life * 100 + 100).await);
        (group, machine) = again(group, machine, &rule).await;
        all_there(&group, &known);
    }
    assert_eq!(machine.lock().payloads, 400);
    kill(group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_proposals_on_their_way_it_has_every_acknowledged_one() {
    let dir = tempfile::tempdir().unwrap();
    let rule = small(dir.path());
    let (group, _machine) = start(rule.clone()).await;
    let mut receipts: Vec<(u64, ProposalReceipt)> = (0..500)
        .map(|number| (number, group.propose(payload(number)).unwrap()))
        .collect();
    let rest = receipts.split_off(100);
    let mut known = Vec::new();
    for (number, receipt) in receipts {
        known.push((receipt.await.unwrap().index, number));
    }
    kill(group).await;
    for (number, receipt) in rest {
        if let Ok(applied) = receipt.await {
            known.push((applied.index, number));
        }
    }
    let (group, machine) = start(rule).await;
    assert!(machine.lock().payloads >= known.len() as u64);
    all_there(&group, &known);
    kill(group).await;
}

#[tokio::test]
async fn a_log_purged_past_every_sound_snapshot_refuses_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let rule = small(dir.path());
    let (group, _machine) = start(rule.clone()).await;
    acknowledged(&group, 0..10).await;
    group.snapshot_now().await.unwrap();
    kill(group).await;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "snap") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let refused = Group::start(rule, ToyHandle::default()).await;
    let refused = refused.map(|_| ()).unwrap_err().to_string();
    assert!(refused.starts_with("snapshot: "), "{refused}");
}
