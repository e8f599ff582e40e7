//! Faults drawn from a seed, one after another.
//!
//! Each begins, lasts, ends, and is counted; what it did to which node is told to the history before it begins, and when
//! the node works again.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compat_tests::SmallDisk;
use compat_tests::cluster::TestCluster;
use compat_tests::history::History;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Mebibytes of a node's disk, and what is left of it when it is filled.
pub const DISK_MIB: u64 = 512;

/// A restart among healthy nodes; one that waits for a limit of the broker takes longer.
const RESTART_MAX: Duration = Duration::from_secs(18);

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The node that leads a set ends at once.
    KillLeader,
    /// A node ends at once, and again before it has caught up.
    KillTwice,
    /// Another node ends at once.
    KillFollower,
    /// All end at once.
    KillAll,
    /// A node is stopped and started, as by an operator.
    Restart,
    /// A leader stands still.
    PauseLeader,
    /// Two nodes stand still.
    PauseMajority,
    /// A leader is cut off from the others.
    CutLeader,
    /// A leader hears, and is not heard.
    MuteLeader,
    /// A leader is heard, and hears nothing.
    DeafLeader,
    /// Each node hears the one before it only.
    Ring,
    /// Two nodes do not hear each other, the third hears both.
    Bridge,
    /// A node's wall clock jumps by minutes, and back.
    Clock,
    /// A node's disk is full.
    DiskFull,
}

const PROCESS: &[Fault] = &[
    Fault::KillLeader,
    Fault::KillTwice,
    Fault::KillFollower,
    Fault::KillAll,
    Fault::Restart,
    Fault::PauseLeader,
    Fault::PauseMajority,
];
const LINKS: &[Fault] = &[
    Fault::CutLeader,
    Fault::MuteLeader,
    Fault::DeafLeader,
    Fault::Ring,
    Fault::Bridge,
];

/// Injects faults into a cluster.
pub struct Nemesis {
    chance: StdRng,
    history: Arc<History>,
    menu: Vec<Fault>,
    /// Those of the menu that are still to come in this turn, so that each comes as often as every other.
    turn: Vec<Fault>,
    disks: Vec<SmallDisk>,
    /// How often each has come.
    pub counts: BTreeMap<Fault, u32>,
}

impl Nemesis {
    /// With what the cluster allows: links can be cut, clocks moved, disks filled.
    pub fn new(
        chance: StdRng,
        history: Arc<History>,
        links: bool,
        clocks: bool,
        disks: Vec<SmallDisk>,
    ) -> Self {
        let mut menu = PROCESS.to_vec();
        if links {
            menu.extend(LINKS);
        }
        if clocks {
            menu.push(Fault::Clock);
        }
        if !disks.is_empty() {
            menu.push(Fault::DiskFull);
        }
        if let Ok(only) = std::env::var("COMPAT_FAULTS") {
            menu.retain(|fault| only.split(',').any(|name| name == format!("{fault:?}")));
            assert!(!menu.is_empty(), "COMPAT_FAULTS names no fault");
        }
        Self {
            chance,
            history,
            menu,
            turn: Vec::new(),
            disks,
            counts: BTreeMap::new(),
        }
    }

    /// Lets the next fault happen, from its begin to its end. Says what it was.
    pub async fn strike(&mut self, cluster: &mut TestCluster) -> (Fault, String) {
        if self.turn.is_empty() {
            self.turn = self.menu.clone();
        }
        let at = self.chance.random_range(0..self.turn.len());
        let fault = self.turn.swap_remove(at);
        let leader = self.a_leader(cluster);
        let others: Vec<usize> = (0..cluster.len()).filter(|node| *node != leader).collect();
        let other = *others.choose(&mut self.chance).expect("another node");
        let begin = Instant::now();
        *self.counts.entry(fault).or_default() += 1;
        let remark = self.inflict(fault, cluster, leader, other).await;
        let text = format!(
            "{fault:?} of {leader} (other {other}), {} ms{}",
            begin.elapsed().as_millis(),
            remark.unwrap_or_default()
        );
        (fault, text)
    }

    /// A node that leads a broker set, drawn among the sets.
    fn a_leader(&mut self, cluster: &TestCluster) -> usize {
        let sets = cluster.broker_sets();
        let set = sets.choose(&mut self.chance).copied().unwrap_or(1);
        let drawn = self.chance.random_range(0..cluster.len());
        cluster.leader(set).unwrap_or(drawn)
    }

    /// What more there is to say of it.
    async fn inflict(
        &mut self,
        fault: Fault,
        cluster: &mut TestCluster,
        leader: usize,
        other: usize,
    ) -> Option<String> {
        let third = (0..cluster.len())
            .find(|node| *node != leader && *node != other)
            .expect("three nodes");
        match fault {
            Fault::KillLeader => self.kill(cluster, &[leader]).await,
            Fault::KillFollower => self.kill(cluster, &[other]).await,
            Fault::KillAll => self.kill(cluster, &[leader, other, third]).await,
            Fault::KillTwice => {
                self.kill(cluster, &[leader]).await;
                self.kill(cluster, &[leader]).await;
            }
            Fault::Restart => {
                self.history.fault_begins(leader);
                let begin = Instant::now();
                cluster.terminate(leader);
                cluster.wait_end(leader);
                let stopped = begin.elapsed();
                cluster.start_all();
                self.history.fault_ends(leader);
                assert!(
                    begin.elapsed() < RESTART_MAX,
                    "a restart took {:?}, the stop {stopped:?} of it",
                    begin.elapsed()
                );
                return Some(format!(", stopped after {} ms", stopped.as_millis()));
            }
            Fault::PauseLeader => self.pause(cluster, &[leader]).await,
            Fault::PauseMajority => self.pause(cluster, &[leader, other]).await,
            Fault::CutLeader => {
                self.begin(&[leader]);
                cluster.net().isolate(leader);
                self.heal(cluster, &[leader]).await;
            }
            Fault::MuteLeader | Fault::DeafLeader => {
                self.begin(&[leader]);
                for peer in [other, third] {
                    let (from, to) = match fault {
                        Fault::MuteLeader => (leader, peer),
                        _ => (peer, leader),
                    };
                    cluster.net().cut_one_way(from, to);
                }
                self.heal(cluster, &[leader]).await;
            }
            Fault::Ring => {
                self.begin(&[leader, other, third]);
                for (from, to) in [(leader, other), (other, third), (third, leader)] {
                    cluster.net().cut_one_way(from, to);
                }
                self.heal(cluster, &[leader, other, third]).await;
            }
            Fault::Bridge => {
                self.begin(&[leader, other]);
                cluster.net().cut(leader, other);
                self.heal(cluster, &[leader, other]).await;
            }
            Fault::Clock => {
                let seconds = self.chance.random_range(-600..600);
                cluster.skew(leader, seconds);
                self.last(1000..4000).await;
                cluster.skew(leader, 0);
            }
            Fault::DiskFull => self.fill(cluster, leader).await,
        }
        None
    }

    fn begin(&self, nodes: &[usize]) {
        for node in nodes {
            self.history.fault_begins(*node);
        }
    }

    fn end(&self, nodes: &[usize]) {
        for node in nodes {
            self.history.fault_ends(*node);
        }
    }

    async fn last(&mut self, millis: std::ops::Range<u64>) {
        let millis = self.chance.random_range(millis);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    async fn kill(&mut self, cluster: &mut TestCluster, nodes: &[usize]) {
        self.begin(nodes);
        for node in nodes {
            cluster.kill(*node);
        }
        self.last(0..3000).await;
        cluster.start_all();
        self.end(nodes);
    }

    async fn pause(&mut self, cluster: &TestCluster, nodes: &[usize]) {
        self.begin(nodes);
        for node in nodes {
            cluster.pause(*node);
        }
        self.last(1000..5000).await;
        for node in nodes {
            cluster.unpause(*node);
        }
        self.end(nodes);
    }

    async fn heal(&mut self, cluster: &mut TestCluster, nodes: &[usize]) {
        self.last(1000..6000).await;
        cluster.net().heal();
        self.end(nodes);
    }

    /// The disk is filled to the last byte. The node may go on or end by itself; with room again it is started if it ended.
    async fn fill(&mut self, cluster: &mut TestCluster, node: usize) {
        self.begin(&[node]);
        self.disks[node].fill_up();
        self.last(2000..5000).await;
        self.disks[node].make_room();
        if cluster.has_ended(node) {
            println!("  node {node} ended with its disk full");
            cluster.collect(node);
        }
        cluster.start_all();
        self.end(&[node]);
    }
}
