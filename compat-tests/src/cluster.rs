//! A cluster of real broker processes.
//!
//! Need: what a cluster promises is only worth what it keeps when its processes die, freeze or cannot hear each other.
//! Shape: [`TestCluster`] owns the nodes, their data folders and their logs. A [`Net`] gives each node an address: a block
//! of loopback addresses, or network namespaces on a bridge, whose links can be cut while clients still reach every node.
//! Invariants: two clusters never share an address, so tests run side by side; a dropped cluster leaves no process, no
//! namespace and no bridge; a failing test shows the end of every node's log.
//! Limits: 120 s for a node to get ready, 60 s to stop.
//! Not here: AMQP; faults drawn at random.

mod net;
mod node;
mod scrape;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use net::Net;
pub use scrape::{SetView, Sets};

use crate::eventually;
use node::Node;

/// The same in every cluster of the tests, unless a test says otherwise.
const SECRET: &str = "a secret of the tests";
const LOG_LINES_SHOWN: usize = 60;

/// What the nodes of a cluster are started with.
pub struct Shape<'a> {
    /// How many.
    pub nodes: usize,
    /// What they share.
    pub secret: &'a str,
    /// More lines for each configuration file.
    pub settings: Vec<(&'a str, String)>,
    /// More lines for the configuration file of one node, by number from 0.
    pub own: Vec<Vec<(&'a str, String)>>,
    /// Where each node keeps its data, by number from 0; default: folders of one temporary folder.
    pub data: Vec<PathBuf>,
}

impl Default for Shape<'_> {
    fn default() -> Self {
        Self {
            nodes: 3,
            secret: SECRET,
            settings: Vec::new(),
            own: Vec::new(),
            data: Vec::new(),
        }
    }
}

/// Several broker processes told to form a cluster. Nodes are numbered from 0.
pub struct TestCluster {
    nodes: Vec<Node>,
    net: Net,
    folder: Option<tempfile::TempDir>,
}

impl TestCluster {
    /// Nodes on loopback addresses, none started.
    #[must_use]
    pub fn new(shape: &Shape<'_>) -> Self {
        Self::on(Net::loopback(shape.nodes), shape)
    }

    /// Nodes on `net`, none started.
    #[must_use]
    pub fn on(net: Net, shape: &Shape<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let hosts: Vec<String> = (0..shape.nodes).map(|n| net.host(n)).collect();
        let nodes = (0..shape.nodes)
            .map(|n| {
                let own = folder.path().join(format!("n{n}"));
                std::fs::create_dir_all(&own).expect("a folder");
                let data = shape.data.get(n).cloned();
                Node::new(own, data, &hosts, n, shape)
            })
            .collect();
        Self {
            nodes,
            net,
            folder: Some(folder),
        }
    }

    /// Three nodes on loopback addresses, started, and each set led.
    #[must_use]
    pub fn start() -> Self {
        let mut cluster = Self::new(&Shape::default());
        cluster.start_all();
        cluster.settled();
        cluster
    }

    /// How many nodes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Where the nodes are, and the links between them.
    pub const fn net(&mut self) -> &mut Net {
        &mut self.net
    }

    /// The address of a node's listener for peers.
    #[must_use]
    pub fn peer_address(&self, node: usize) -> String {
        format!("{}:25672", self.net.host(node))
    }

    /// The AMQP URL of a node.
    #[must_use]
    pub fn url(&self, node: usize) -> String {
        format!("amqp://guest:guest@{}:5672/%2f", self.net.host(node))
    }

    /// The process of a node begins; it may wait for others, so this does not wait for it.
    pub fn spawn(&mut self, node: usize) {
        let prefix = self.net.command(node);
        self.nodes[node].spawn(&prefix);
    }

    /// Waits until a spawned node says that clients may come.
    pub fn ready(&mut self, node: usize) {
        self.nodes[node].ready();
    }

    /// Whether a spawned node has said that clients may come.
    #[must_use]
    pub fn is_ready(&self, node: usize) -> bool {
        self.nodes[node].is_ready()
    }

    /// Spawns the nodes that do not run and waits for all.
    pub fn start_all(&mut self) {
        for node in 0..self.len() {
            if !self.runs(node) {
                self.spawn(node);
            }
        }
        for node in 0..self.len() {
            self.ready(node);
        }
    }

    /// Whether the process of a node was started and not ended by the test.
    #[must_use]
    pub fn runs(&self, node: usize) -> bool {
        self.nodes[node].runs()
    }

    /// Ends a node at once.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Asks a node to end; [`TestCluster::wait_end`] comes next.
    pub fn terminate(&self, node: usize) {
        self.nodes[node].signal("TERM");
    }

    /// Waits for a terminated node's end, and asserts that it was a clean one.
    pub fn wait_end(&mut self, node: usize) {
        let status = self.nodes[node].wait_end();
        assert!(status.success(), "node {node} ended with {status}");
    }

    /// How a node ends by itself.
    pub fn ends(&mut self, node: usize) -> std::process::ExitStatus {
        self.nodes[node].wait_end()
    }

    /// Whether the process of a node has ended by itself.
    pub fn has_ended(&mut self, node: usize) -> bool {
        self.nodes[node].has_ended()
    }

    /// Takes note of a node's end, whatever it was, so that it can be started again.
    pub fn collect(&mut self, node: usize) {
        self.nodes[node].end();
    }

    /// A node stands still, its sockets open.
    pub fn pause(&self, node: usize) {
        self.nodes[node].stand_still();
    }

    /// A node that stood still goes on.
    pub fn unpause(&self, node: usize) {
        self.nodes[node].signal("CONT");
    }

    /// The wall clock of a node is off by this much from now on, seconds; only after [`TestCluster::skewable`].
    pub fn skew(&self, node: usize, seconds: i64) {
        self.nodes[node].skew(seconds);
    }

    /// From their next start on, the wall clocks of the nodes can be set; why not, if they cannot.
    ///
    /// # Errors
    /// There is no C compiler, or it says no.
    pub fn skewable(&mut self) -> Result<(), String> {
        let library = node::build_skew(self.folder())?;
        for node in &mut self.nodes {
            node.preload(library.clone());
        }
        Ok(())
    }

    /// The folder of all that the cluster keeps.
    ///
    /// # Panics
    /// Never before the cluster is dropped.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("kept until the end").path()
    }

    /// The data folder of a node.
    #[must_use]
    pub fn data_dir(&self, node: usize) -> &Path {
        self.nodes[node].data_dir()
    }

    /// From its next start on, a node has the data of another folder.
    pub fn set_data_dir(&mut self, node: usize, folder: PathBuf) {
        self.nodes[node].set_data_dir(folder);
    }

    /// All that a node has logged, over all its lives.
    #[must_use]
    pub fn log(&self, node: usize) -> String {
        self.nodes[node].log()
    }

    /// What `leveret cluster …` answers when it is told `words` and asks `node`; what it says if it fails.
    ///
    /// # Errors
    /// It ended with another status than 0.
    pub fn operate(&self, node: usize, words: &[&str]) -> Result<String, String> {
        let address = self.peer_address(node);
        self.nodes[node].operate(&self.net.command(node), &address, words)
    }

    /// What a tool of RabbitMQ's names answers beside a node, `rabbitmqctl status`; its code and what it says if it fails.
    ///
    /// # Errors
    /// It ended with another status than 0.
    pub fn tool(&self, node: usize, line: &str) -> Result<String, String> {
        self.nodes[node].tool(line)
    }

    /// The name of a node, `rabbit@host`.
    #[must_use]
    pub fn name(&self, node: usize) -> &str {
        self.nodes[node].name()
    }

    /// What a node says of the sets it holds; `None` if it does not answer.
    #[must_use]
    pub fn sets(&self, node: usize) -> Option<Sets> {
        scrape::sets(&self.net.host(node))
    }

    /// The node that leads `set`: of those that say so, the one with the latest term.
    #[must_use]
    pub fn leader(&self, set: u32) -> Option<usize> {
        let seen = |node: usize| Some((self.sets(node)?.get(&set)?.clone(), node));
        (0..self.len())
            .filter(|node| self.runs(*node))
            .filter_map(seen)
            .filter(|(view, _)| view.leading)
            .max_by_key(|(view, _)| view.term)
            .map(|(_, node)| node)
    }

    /// The sets that `node` leads, as it says, the topology (0) among them.
    #[must_use]
    pub fn led_by(&self, node: usize) -> Vec<u32> {
        let sets = self.sets(node).unwrap_or_default();
        let led = sets.into_iter().filter(|(_, view)| view.leading);
        led.map(|(set, _)| set).collect()
    }

    /// The broker sets, without the topology, as the running nodes know them.
    #[must_use]
    pub fn broker_sets(&self) -> Vec<u32> {
        let mut all: Vec<u32> = (0..self.len())
            .filter(|node| self.runs(*node))
            .filter_map(|node| self.sets(node))
            .flat_map(|sets| sets.into_keys().filter(|set| *set != 0))
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Waits until the leaderships are spread: each of the nodes leads one broker set. Returns the broker sets.
    pub fn settled(&self) -> Vec<u32> {
        eventually(Duration::from_secs(60), || {
            let sets = self.broker_sets();
            let mut leaders: Vec<usize> = sets.iter().filter_map(|set| self.leader(*set)).collect();
            leaders.sort_unstable();
            leaders.dedup();
            (sets.len() >= self.len() && leaders.len() == self.len()).then_some(sets)
        })
    }

    /// Waits until every running replica of every set has applied what its leader had applied when this began. How long
    /// it took.
    pub fn caught_up(&self, within: Duration) -> Duration {
        let begin = Instant::now();
        let mut sets = self.broker_sets();
        sets.push(0);
        for set in sets {
            let goal = eventually(within, || {
                let leader = self.leader(set)?;
                Some(self.sets(leader)?.get(&set)?.applied)
            });
            for node in (0..self.len()).filter(|node| self.runs(*node)) {
                eventually(within, || {
                    let view = self.sets(node)?.get(&set)?.clone();
                    (view.applied >= goal).then_some(())
                });
            }
        }
        begin.elapsed()
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.end();
        }
        let failed = std::thread::panicking();
        if failed {
            for (number, node) in self.nodes.iter().enumerate() {
                let log = node.log();
                let lines: Vec<&str> = log.lines().collect();
                let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
                println!("---- end of the log of node {number} ----");
                for line in &lines[from..] {
                    println!("{line}");
                }
            }
        }
        let keep = failed && std::env::var("COMPAT_KEEP").is_ok();
        if let Some(folder) = self.folder.take().filter(|_| keep) {
            println!("kept: {}", folder.keep().display());
        }
    }
}
