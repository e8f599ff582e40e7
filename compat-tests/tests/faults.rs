//! Random faults under load, then peace, then a judgement of everything the clients were told.
//!
//! With nothing set, a short run. Longer: `COMPAT_FAULT_MINUTES=30 cargo test --release -p compat-tests --test faults -- --nocapture`.
//! A run's faults are repeated with the seed it printed: `COMPAT_FAULT_SEED=…`; only some kinds:
//! `COMPAT_FAULTS=KillLeader,CutLeader`. `COMPAT_KEEP=1` keeps the folders of a failed run. `COMPAT_DISCONNECTED_MS=2000`
//! lets the leases of a silent node end during faults; without it they outlast them. `COMPAT_LOG=debug` lets the nodes log
//! more.
//!
//! Links are cut in network namespaces and disks filled on a small tmpfs, which needs root; clocks are moved by a preloaded
//! library, which needs a C compiler. What cannot be done is left out, and the run says so. There are no retries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "common/faults.rs"]
mod faults;
#[path = "common/load.rs"]
mod load;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compat_tests::cluster::{Net, Shape, TestCluster};
use compat_tests::history::History;
use compat_tests::{SmallDisk, env_number, skipped_on_foreign};
use faults::{DISK_MIB, Fault, Nemesis};
use load::{Load, Plan, declare, depth, drain};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Longer than any fault, so that no lease ends but by its consumer's end: what comes back after an ack that was certain
/// is then a fault of the broker.
const OUTLASTS_FAULTS_MS: u64 = 120_000;
const SHORT: Duration = Duration::from_secs(30);
const DRAIN_LIMIT: Duration = Duration::from_secs(40);
/// Between two faults every queue must confirm this many messages, within the time.
const CONFIRMS_BETWEEN: usize = 20;
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// How long a node has been silent when the log says so, and until it knows of the end of its leases.
const SILENT_MS: u32 = 3_000;
const HEARD_MS: u32 = 2_000;
const VIOLATIONS_SHOWN: usize = 10;
const LOG_LINES_SHOWN: usize = 120;

/// What the faults need beyond processes.
fn world(disconnected_ms: u64) -> (TestCluster, bool, bool, Vec<SmallDisk>) {
    let net = Net::namespaces(3);
    let links = net.is_some();
    let disks: Vec<SmallDisk> = (0..3).map_while(|_| SmallDisk::mount(DISK_MIB)).collect();
    let mut shape = Shape {
        settings: vec![
            // Small, so that segments are sealed and snapshots taken while faults happen.
            ("leveret.segment_size", "1MiB".to_owned()),
            ("leveret.snapshot_every", "2MiB".to_owned()),
            ("disk_free_limit.absolute", "1MB".to_owned()),
            ("consumer_disconnected_timeout", disconnected_ms.to_string()),
        ],
        ..Shape::default()
    };
    if let Ok(level) = std::env::var("COMPAT_LOG") {
        shape.settings.push(("log.console.level", level));
    }
    if disks.len() == 3 {
        shape.data = disks.iter().map(|disk| disk.folder().keep()).collect();
    }
    let net = net.unwrap_or_else(|| Net::loopback(3));
    let mut cluster = TestCluster::on(net, &shape);
    let clocks = cluster.skewable();
    if let Err(why) = &clocks {
        println!("skipped: clocks cannot be moved: {why}");
    }
    let disks = if disks.len() == 3 { disks } else { Vec::new() };
    (cluster, links, clocks.is_ok(), disks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_confirmed_is_lost_whatever_fails() {
    if skipped_on_foreign("faults") {
        return;
    }
    let seed = env_number("COMPAT_FAULT_SEED", rand::random());
    println!("COMPAT_FAULT_SEED={seed}");
    let minutes = env_number("COMPAT_FAULT_MINUTES", 0);
    let length = if minutes == 0 {
        SHORT
    } else {
        Duration::from_secs(60 * minutes)
    };
    let disconnected_ms = env_number("COMPAT_DISCONNECTED_MS", OUTLASTS_FAULTS_MS);
    let (mut cluster, links, clocks, disks) = world(disconnected_ms);
    cluster.start_all();
    cluster.settled();
    let queues = declare(&cluster.url(0), "fault", 6).await;
    let history = Arc::new(History::default());
    let urls = (0..3).map(|node| cluster.url(node)).collect();
    let mut plan = Plan::new(urls, queues.clone(), &[0, 1, 2]);
    (plan.publishers, plan.consumers) = (2, 2);
    plan.patience = Duration::from_secs(20);
    plan.requeue_one_in = 97;
    plan.rules.silence_ends_leases = disconnected_ms < OUTLASTS_FAULTS_MS;
    let mut load = Load::start(plan.clone(), Arc::clone(&history));
    let chance = StdRng::seed_from_u64(seed);
    let mut nemesis = Nemesis::new(chance, Arc::clone(&history), links, clocks, disks);
    recovers(&load, "before the first fault").await;
    let begin = Instant::now();
    let mut slowest: BTreeMap<Fault, u32> = BTreeMap::new();
    while begin.elapsed() < length {
        let (fault, what) = nemesis.strike(&mut cluster).await;
        let recovered = recovers(&load, &what).await;
        let slowest = slowest.entry(fault).or_default();
        *slowest = recovered.max(*slowest);
        println!(
            "{:>4} s: {what}; all queues confirm after {recovered} ms",
            begin.elapsed().as_secs()
        );
    }
    let errors = load.errors().len();
    load.stop_publishing().await;
    let drained = Instant::now();
    let mut report = drain(&mut load, DRAIN_LIMIT).await;
    if plan.rules.silence_ends_leases {
        let ended = ended_leases(&cluster, &history);
        println!("leases of silent nodes ended {ended} times");
        report = compat_tests::history::check(&history, plan.rules);
    }
    println!("faults: {:?}", nemesis.counts);
    println!("slowest recovery after each, ms: {slowest:?}");
    println!("{report}");
    println!(
        "{errors} connections broke; drained in {} ms",
        drained.elapsed().as_millis()
    );
    if !report.is_clean() {
        autopsy(&cluster, plan, &history).await;
        for (message, text) in report.violations.iter().take(VIOLATIONS_SHOWN) {
            println!("  {message:?}: {text}");
        }
    }
    assert!(report.is_clean(), "seed {seed}");
    cluster.caught_up(RECOVERY_LIMIT);
    for queue in &queues {
        for node in 0..3 {
            assert_eq!(
                depth(&cluster.url(node), queue).await,
                0,
                "{queue} at {node}"
            );
        }
    }
}

/// Whether what never came is gone, or lies in a queue that does not hand it out: says what the nodes hold, and asks
/// again with new consumers.
async fn autopsy(cluster: &TestCluster, mut plan: Plan, history: &Arc<History>) {
    for node in 0..cluster.len() {
        for queue in &plan.queues {
            let ready = depth(&plan.urls[node], queue).await;
            println!("  node {node}, {queue}: {ready} ready");
        }
        println!("  {:?}", cluster.sets(node));
        for ask in [
            "rabbitmqctl -q list_queues name messages_ready messages_unacknowledged consumers",
            "rabbitmqctl -q list_consumers",
        ] {
            match cluster.tool(node, ask) {
                Ok(answer) | Err(answer) => println!("{answer}"),
            }
        }
        // Connections come and go by the hundred; the rest says what the node went through.
        let log = cluster.log(node);
        let lines = log.lines().filter(|line| !line.contains("connection"));
        let lines: Vec<&str> = lines.collect();
        let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
        println!("node {node} logged\n{}", lines[from..].join("\n"));
    }
    plan.publishers = 0;
    let mut again = Load::start(plan, Arc::clone(history));
    let report = drain(&mut again, Duration::from_secs(20)).await;
    println!("with new consumers: {report}");
}

/// The controller may find a node silent that suffers no fault of ours, on a machine that is too busy: what it says in the
/// log explains what came back then. How often it did.
fn ended_leases(cluster: &TestCluster, history: &History) -> usize {
    let mut count = 0;
    for log in (0..cluster.len()).map(|node| cluster.log(node)) {
        for line in log.lines() {
            let Some((_, rest)) = line.split_once("a node is silent; its leases end node=") else {
                continue;
            };
            let id = rest
                .split(' ')
                .next()
                .and_then(|id| id.parse::<usize>().ok());
            if let (Some(id), Some(at)) = (id, history.at_of_line(line)) {
                history.fault_was(id - 1, at.saturating_sub(SILENT_MS), at + HEARD_MS);
                count += 1;
            }
        }
    }
    count
}

/// Waits until every queue confirms again; how long it took, milliseconds.
async fn recovers(load: &Load, after: &str) -> u32 {
    let from = load.now_ms();
    let begin = Instant::now();
    while load.confirmed_each(from) < CONFIRMS_BETWEEN {
        assert!(
            begin.elapsed() < RECOVERY_LIMIT,
            "no confirms after {after}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    load.now_ms() - from
}
