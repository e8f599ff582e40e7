//! Three processes that are one broker: what clients and operators may rely on when one of them comes, goes or stands still.
//!
//! The leader killed fifty times: `COMPAT_LEADER_KILLS=50 cargo test --release -p compat-tests --test cluster leader -- --nocapture`.
//! Nodes killed soon after their starts, again and again:
//! `COMPAT_START_KILLS=100 cargo test --release -p compat-tests --test cluster killed_soon_after -- --nocapture`; a run's moments come
//! from the seed it prints, `COMPAT_START_SEED=…`.
//! `COMPAT_KEEP=1` keeps the folders of a failed run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "cluster/behind.rs"]
mod behind;
mod common;
#[path = "common/load.rs"]
mod load;
#[path = "cluster/moving.rs"]
mod moving;
#[path = "cluster/shovelling.rs"]
mod shovelling;
#[path = "cluster/stopping.rs"]
mod stopping;

use std::sync::Arc;
use std::time::Duration;

use common::{PATIENCE, connect, declared, put};
use compat_tests::cluster::{Shape, TestCluster};
use compat_tests::history::History;
use compat_tests::{env_number, eventually, skipped_on_foreign};
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::FieldTable;
use load::{Load, Plan, declare, depth, drain};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// A failover may take no longer.
const FAILOVER_MS_MAX: u32 = 5000;
/// A start may take no longer, once its peers run again.
const START_MAX: Duration = Duration::from_secs(60);
/// A leader that stood still for so long has lost its lease (`election_timeout_max`, 800 ms).
const LEASE_LOST: Duration = Duration::from_millis(850);
/// Confirms of every queue before a test goes on.
const SOME: usize = 100;

fn urls(cluster: &TestCluster) -> Vec<String> {
    (0..cluster.len()).map(|node| cluster.url(node)).collect()
}

/// The cluster's id, as a node logged it last.
fn cluster_id(cluster: &TestCluster, node: usize) -> String {
    let log = cluster.log(node);
    let (_, id) = log
        .rsplit_once("cluster=")
        .expect("the node says its cluster");
    id.chars().take(16).collect()
}

async fn confirms_each(load: &Load, count: usize) {
    let from = load.now_ms();
    compat_tests::eventually_async(Duration::from_secs(60), || async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        (load.confirmed_each(from) >= count).then_some(())
    })
    .await;
}

#[test]
fn a_cluster_forms_in_any_order_of_starts() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let mut cluster = TestCluster::new(&Shape::default());
        for node in order {
            cluster.spawn(node);
            eventually(PATIENCE, || {
                cluster
                    .log(node)
                    .contains("started the listener for peers")
                    .then_some(())
            });
            let all = (0..3).all(|node| cluster.runs(node));
            assert!(all || !cluster.is_ready(node), "a part is no cluster");
        }
        cluster.start_all();
        let id = cluster_id(&cluster, 0);
        assert!(
            (1..3).all(|node| cluster_id(&cluster, node) == id),
            "{order:?}"
        );
        cluster.kill(order[0]);
        cluster.start_all();
        assert_eq!(cluster_id(&cluster, order[0]), id, "after a restart");
        assert_eq!(cluster.broker_sets().len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_at_one_node_is_consumed_at_another_in_order_from_every_set() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let cluster = TestCluster::start();
    let applied = |cluster: &TestCluster| -> Vec<u64> {
        let sets = cluster.sets(0).expect("metrics");
        cluster
            .broker_sets()
            .iter()
            .map(|set| sets[set].applied)
            .collect()
    };
    let queues = declare(&cluster.url(0), "cross", 6).await;
    let before = applied(&cluster);
    let history = Arc::new(History::default());
    let plan = Plan::new(urls(&cluster), queues, &[0, 1, 2]);
    let mut load = Load::start(plan, history);
    confirms_each(&load, SOME).await;
    load.stop_publishing().await;
    let report = drain(&mut load, PATIENCE).await;
    println!("{report}");
    assert!(report.is_clean(), "{:?}", report.violations);
    assert!(report.duplicates.is_empty(), "{report}");
    assert!(load.errors().is_empty(), "{:?}", load.errors());
    let after = applied(&cluster);
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| after > before),
        "{before:?} {after:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_unseen_by_clients_elsewhere_and_catches_up_when_it_comes_back()
{
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let mut cluster = TestCluster::start();
    let queues = declare(&cluster.url(0), "kill", 6).await;
    let history = Arc::new(History::default());
    let mut times = Vec::new();
    let rounds = env_number("COMPAT_LEADER_KILLS", 2);
    for round in 0..rounds {
        cluster.settled();
        let victim = usize::try_from(round % 3).unwrap();
        let led = cluster.led_by(victim);
        assert!(led.iter().any(|set| *set != 0), "{victim} leads {led:?}");
        let others: Vec<usize> = (0..3).filter(|node| *node != victim).collect();
        let plan = Plan::new(urls(&cluster), queues.clone(), &others);
        let mut load = Load::start(plan, Arc::clone(&history));
        confirms_each(&load, SOME).await;
        let at = load.now_ms();
        cluster.kill(victim);
        confirms_each(&load, SOME).await;
        let silences = load.silences(at);
        let back = silences.iter().map(|(end, _)| end - at).max().unwrap();
        let next = silences.iter().max_by_key(|(_, gap)| gap).unwrap().0 - at;
        println!(
            "round {round}: node {victim} led {led:?}; confirms of all queues after {next} ms (last longest gap ends at {back})"
        );
        times.push(next);
        cluster.start_all();
        let caught = cluster.caught_up(Duration::from_secs(60));
        println!("  caught up {} ms after it was ready", caught.as_millis());
        load.stop_publishing().await;
        let report = drain(&mut load, PATIENCE).await;
        assert!(report.is_clean(), "{report} {:?}", report.violations);
        assert!(load.errors().is_empty(), "{:?}", load.errors());
        if round + 1 == rounds {
            println!("{report}");
        }
    }
    times.sort_unstable();
    let (p50, max) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{rounds} leaders killed: next confirm after p50 {p50} ms, max {max} ms");
    assert!(max <= FAILOVER_MS_MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing_and_confirms_all_the_time() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let mut cluster = TestCluster::start();
    let queues = declare(&cluster.url(0), "roll", 6).await;
    let mut plan = Plan::new(urls(&cluster), queues.clone(), &[0, 1, 2]);
    (plan.publishers, plan.consumers) = (2, 2);
    let mut load = Load::start(plan, Arc::new(History::default()));
    confirms_each(&load, SOME).await;
    let begin = load.now_ms();
    for node in 0..3 {
        let from = load.now_ms();
        cluster.terminate(node);
        cluster.wait_end(node);
        let down = load.now_ms();
        cluster.start_all();
        println!(
            "node {node}: {} ms to stop, {} ms to start",
            down - from,
            load.now_ms() - down
        );
        cluster.caught_up(Duration::from_secs(60));
        confirms_each(&load, SOME).await;
    }
    let longest = load
        .silences(begin)
        .iter()
        .map(|(_, gap)| *gap)
        .max()
        .unwrap();
    load.stop_publishing().await;
    let report = drain(&mut load, PATIENCE).await;
    println!("longest time without a confirm of a queue: {longest} ms; {report}");
    assert!(report.is_clean(), "{:?}", report.violations);
    assert!(longest <= FAILOVER_MS_MAX, "{longest} ms");
    for queue in queues {
        assert_eq!(depth(&cluster.url(0), &queue).await, 0, "{queue}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_killed_at_once_keep_what_they_confirmed() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let mut cluster = TestCluster::start();
    let queues = declare(&cluster.url(0), "all", 3).await;
    let history = Arc::new(History::default());
    let mut plan = Plan::new(urls(&cluster), queues, &[0, 1, 2]);
    plan.consumers = 2;
    let mut load = Load::start(plan, Arc::clone(&history));
    confirms_each(&load, SOME).await;
    for node in 0..3 {
        history.fault_begins(node);
        cluster.kill(node);
    }
    cluster.start_all();
    for node in 0..3 {
        history.fault_ends(node);
    }
    confirms_each(&load, SOME).await;
    load.stop_publishing().await;
    let report = drain(&mut load, PATIENCE).await;
    println!("{report}");
    assert!(report.is_clean(), "{:?}", report.violations);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_refused_and_the_log_says_why() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let mut cluster = TestCluster::start();
    let join = |cluster: &TestCluster| vec![("leveret.cluster.join", cluster.peer_address(0))];
    let mut thief = TestCluster::new(&Shape {
        nodes: 1,
        secret: "guessed",
        settings: join(&cluster),
        ..Shape::default()
    });
    thief.spawn(0);
    eventually(PATIENCE, || {
        let here = cluster
            .log(0)
            .contains("a peer without the shared secret was refused");
        let there = thief
            .log(0)
            .contains("the shared secret is not this cluster's");
        (here && there).then_some(())
    });
    assert!(!thief.is_ready(0));
    drop(thief);

    let mut other = TestCluster::new(&Shape {
        nodes: 1,
        ..Shape::default()
    });
    other.start_all();
    let (id, other_id) = (cluster_id(&cluster, 0), cluster_id(&other, 0));
    assert_ne!(id, other_id);
    other.terminate(0);
    other.wait_end(0);
    cluster.kill(2);
    let own = cluster.data_dir(2).to_owned();
    cluster.set_data_dir(2, other.data_dir(0).to_owned());
    cluster.spawn(2);
    // Both others call it; the log names one of them every ten seconds.
    let said = [1, 2].map(|node| {
        format!("a node of another cluster was refused node={node} theirs={id} own={other_id}")
    });
    eventually(PATIENCE, || {
        let log = cluster.log(2);
        said.iter().any(|said| log.contains(said)).then_some(())
    });
    let channel = declared(
        &connect(&cluster.url(0)).await,
        "ours",
        FieldTable::default(),
    )
    .await;
    assert!(
        put(&channel, "ours", b"still here")
            .await
            .expect("published")
    );
    cluster.kill(2);
    cluster.set_data_dir(2, own);
    cluster.start_all();
    cluster.caught_up(PATIENCE);
    assert_eq!(depth(&cluster.url(2), "ours").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_does_not_serve_from_the_past() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let cluster = TestCluster::start();
    let queues = declare(&cluster.url(0), "still", 6).await;
    let first = connect(&cluster.url(0)).await;
    let other = connect(&cluster.url(1)).await;
    let mut frozen = Vec::new();
    for queue in &queues {
        let channel = declared(&other, queue, FieldTable::default()).await;
        for number in 0..5_u8 {
            assert!(put(&channel, queue, &[number]).await.expect("published"));
        }
        frozen.push(declared(&first, queue, FieldTable::default()).await);
    }
    cluster.pause(0);
    // What the frozen node finds in its sockets when it wakes: one question per queue.
    let gets: Vec<_> = queues
        .iter()
        .zip(frozen)
        .map(|(queue, channel)| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let got = channel
                    .basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true })
                    .await;
                got.expect("answered").map(|got| got.delivery.data.clone())
            })
        })
        .collect();
    let mut goes_on = Duration::ZERO;
    for queue in &queues {
        let begin = std::time::Instant::now();
        let channel = declared(&other, queue, FieldTable::default()).await;
        for number in 0..5_u8 {
            let got = channel
                .basic_get(queue.as_str().into(), BasicGetOptions::default())
                .await
                .expect("answered")
                .expect("a message");
            assert_eq!(got.delivery.data[..], [number]);
            got.delivery
                .ack(BasicAckOptions::default())
                .await
                .expect("acked");
        }
        assert!(put(&channel, queue, b"new").await.expect("published"));
        goes_on = goes_on.max(begin.elapsed());
    }
    println!("longest wait for a queue while a leader stands still: {goes_on:?}");
    assert!(
        goes_on.as_millis() <= u128::from(FAILOVER_MS_MAX),
        "{goes_on:?}"
    );
    cluster.unpause(0);
    for get in gets {
        let got = get.await.expect("a task");
        assert_eq!(got.as_deref(), Some(&b"new"[..]), "read from the past");
    }
    for queue in &queues {
        assert_eq!(depth(&cluster.url(0), queue).await, 0);
    }
}

/// The moments of a start at which things go wrong, drawn from a seed.
struct Moments(StdRng);

impl Moments {
    async fn within(&mut self, longest_ms: u64) {
        let span = Duration::from_millis(self.0.random_range(0..=longest_ms));
        tokio::time::sleep(span).await;
    }

    /// A node other than `victim`, one that leads a broker set if there is one.
    fn peer(&mut self, cluster: &TestCluster, victim: usize) -> usize {
        let others: Vec<usize> = (0..cluster.len()).filter(|node| *node != victim).collect();
        let leads = |node: &usize| cluster.led_by(*node).iter().any(|set| *set != 0);
        let leading: Vec<usize> = others.iter().copied().filter(leads).collect();
        let from = if leading.is_empty() { others } else { leading };
        *from.choose(&mut self.0).expect("another node")
    }

    /// `victim` starts while `peer` stands still most of the time, each time longer than a leader's lease lasts.
    async fn start_beside(&mut self, cluster: &mut TestCluster, victim: usize, peer: usize) {
        let member = |cluster: &TestCluster| cluster.log(victim).matches("member of a").count();
        let before = member(cluster);
        cluster.pause(peer);
        self.within(600).await;
        cluster.spawn(victim);
        eventually(PATIENCE, || (member(cluster) > before).then_some(()));
        for _ in 0..4 {
            tokio::time::sleep(LEASE_LOST).await;
            self.within(300).await;
            cluster.unpause(peer);
            self.within(150).await;
            if cluster.is_ready(victim) {
                return;
            }
            cluster.pause(peer);
        }
        tokio::time::sleep(LEASE_LOST).await;
        cluster.unpause(peer);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_soon_after_its_start_starts_again_while_a_leader_stands_still_now_and_then()
{
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let seed = env_number("COMPAT_START_SEED", rand::random());
    println!("COMPAT_START_SEED={seed}");
    let mut moments = Moments(StdRng::seed_from_u64(seed));
    let mut cluster = TestCluster::start();
    let queues = declare(&cluster.url(0), "start", 6).await;
    let history = Arc::new(History::default());
    let mut plan = Plan::new(urls(&cluster), queues.clone(), &[0, 1, 2]);
    plan.patience = Duration::from_secs(20);
    // Nobody lives until a snapshot, so what is published is read again at each start.
    (plan.window, plan.rest) = (4, Duration::from_millis(50));
    let mut load = Load::start(plan, Arc::clone(&history));
    confirms_each(&load, SOME).await;
    let rounds = env_number("COMPAT_START_KILLS", 4);
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let victim = moments.0.random_range(0..cluster.len());
        history.fault_begins(victim);
        cluster.kill(victim);
        cluster.spawn(victim);
        moments.within(5000).await;
        cluster.kill(victim);
        let peer = moments.peer(&cluster, victim);
        history.fault_begins(peer);
        moments.start_beside(&mut cluster, victim, peer).await;
        let begin = std::time::Instant::now();
        eventually(START_MAX, || cluster.is_ready(victim).then_some(()));
        history.fault_ends(victim);
        history.fault_ends(peer);
        let took = begin.elapsed();
        slowest = slowest.max(took);
        println!("round {round}: node {victim} beside {peer}, ready {took:?} after its peer ran");
        let client = connect(&cluster.url(victim)).await;
        for queue in &queues {
            let beside = format!("{queue}-beside");
            let channel = declared(&client, &beside, FieldTable::default()).await;
            let put = tokio::time::timeout(PATIENCE, put(&channel, &beside, b"through it")).await;
            assert!(put.expect("an answer in time").expect("published"));
        }
        confirms_each(&load, SOME).await;
    }
    load.stop_publishing().await;
    let report = drain(&mut load, PATIENCE).await;
    println!("{rounds} starts, the slowest ready {slowest:?} after its peer ran; {report}");
    assert!(report.is_clean(), "{:?}", report.violations);
}
