//! Where the suite of a stock client plays: one node, or a follower of three.
//!
//! Need: each suite must pass against one node and against a cluster, and a suite in another language must be able to
//! restart the node that its client talks to.
//! Shape: [`Stage`] starts the nodes and tells a suite about them in its environment:
//!
//! | variable | what |
//! | --- | --- |
//! | `BROKER_URL` | AMQP URL, user `guest`, vhost `/` |
//! | `BROKER_HOST`, `BROKER_PORT` | the same in parts |
//! | `BROKER_TLS_PORT` | the same under TLS, at 127.0.0.1; empty with a foreign broker, as the next |
//! | `BROKER_CERTIFICATES` | folder: `ca.pem`, and for clients `client`, `nobody`, `stranger` with `.pem` and `.key` |
//! | `BROKER_MANAGEMENT_URL`, `BROKER_METRICS_URL` | without user and path |
//! | `BROKER_CONTROL` | `host:port` that takes one line: `restart` stops the client's node gracefully and starts it again, `kill` ends it at once and starts it again; the answer, `ok`, comes when it takes clients. Empty with a foreign broker |
//! | `BROKER_NODES` | 1 or 3 |
//! | `BROKER_IS_OURS` | empty with a foreign broker |
//!
//! Invariants: with three nodes the client's does not lead the topology, and leads one of the three broker sets: what a
//! suite declares, and two queues in three, are led elsewhere.
//! Limits: commands come one after another. Not here: what the suites do.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::{Shape, TestCluster};
use crate::{Broker, Certificates, Settings, env_number, eventually, foreign_url, free_port};

enum Nodes {
    One(Box<Broker>),
    Three { cluster: TestCluster, client: usize },
}

/// See the module's head.
pub struct Stage {
    nodes: Arc<Mutex<Nodes>>,
    control: Option<Control>,
    environment: Vec<(&'static str, String)>,
    count: u64,
    _certificates: Certificates,
}

impl Stage {
    /// As many nodes as `COMPAT_NODES` says, one if it says nothing.
    #[must_use]
    pub fn start(settings: Settings<'_>) -> Self {
        Self::with_nodes(env_number("COMPAT_NODES", 1), settings)
    }

    /// One node, or three.
    ///
    /// # Panics
    /// With another number, and when a node does not get ready.
    #[must_use]
    pub fn with_nodes(count: u64, settings: Settings<'_>) -> Self {
        assert!(matches!(count, 1 | 3), "one node or three, not {count}");
        let certificates = Certificates::new();
        certificates.client("client");
        certificates.client("nobody");
        certificates.stranger("stranger");
        let mut all = certificates.settings("ssl_options");
        all.extend(
            settings
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        let all = all
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        let tls_ports: Vec<String> = (0..count).map(|_| free_port().to_string()).collect();
        let address = |port: &String| vec![("listeners.ssl.1", format!("127.0.0.1:{port}"))];
        if count == 1 || foreign_url().is_some() {
            let own = address(&tls_ports[0]);
            let own = own.iter().map(|(key, value)| (*key, value.as_str()));
            let broker = Broker::start_with(&all.chain(own).collect::<Vec<_>>());
            let (management, metrics) = (broker.management_url(), broker.metrics_url());
            let url = broker.url().to_owned();
            let nodes = Nodes::One(Box::new(broker));
            return Self::new(
                nodes,
                1,
                &url,
                [management, metrics, tls_ports[0].clone()],
                certificates,
            );
        }
        let mut cluster = TestCluster::new(&Shape {
            settings: all.map(|(key, value)| (key, value.to_owned())).collect(),
            own: tls_ports.iter().map(address).collect(),
            ..Shape::default()
        });
        cluster.start_all();
        cluster.settled();
        let leader = eventually(Duration::from_secs(60), || cluster.leader(0));
        let client = (leader + 1) % cluster.len();
        let (url, host) = (cluster.url(client), cluster.net().host(client));
        let management = format!("http://{host}:15672");
        let metrics = format!("http://{host}:15692/metrics");
        let places = [management, metrics, tls_ports[client].clone()];
        let nodes = Nodes::Three { cluster, client };
        Self::new(nodes, 3, &url, places, certificates)
    }

    fn new(
        nodes: Nodes,
        count: u64,
        url: &str,
        [management, metrics, tls_port]: [String; 3],
        certificates: Certificates,
    ) -> Self {
        let nodes = Arc::new(Mutex::new(nodes));
        let ours = foreign_url().is_none();
        let if_ours = |text: String| if ours { text } else { String::new() };
        let control = ours.then(|| Control::new(Arc::clone(&nodes)));
        let address = control.as_ref().map(|control| control.address.to_string());
        let place = url.rsplit('@').next().unwrap_or(url);
        let place = place.split('/').next().unwrap_or(place);
        let (host, port) = place.split_once(':').unwrap_or((place, "5672"));
        let environment = vec![
            ("BROKER_URL", url.to_owned()),
            ("BROKER_HOST", host.to_owned()),
            ("BROKER_PORT", port.to_owned()),
            ("BROKER_TLS_PORT", if_ours(tls_port)),
            (
                "BROKER_CERTIFICATES",
                if_ours(certificates.folder().display().to_string()),
            ),
            ("BROKER_MANAGEMENT_URL", management),
            ("BROKER_METRICS_URL", metrics),
            ("BROKER_CONTROL", address.unwrap_or_default()),
            ("BROKER_NODES", count.to_string()),
            ("BROKER_IS_OURS", if ours { "1" } else { "" }.to_owned()),
        ];
        Self {
            nodes,
            control,
            environment,
            count,
            _certificates: certificates,
        }
    }

    /// How many nodes there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The AMQP URL of the client's node.
    #[must_use]
    pub fn url(&self) -> &str {
        let url = self
            .environment
            .iter()
            .find(|(key, _)| *key == "BROKER_URL");
        url.map_or("", |(_, url)| url)
    }

    /// Tells a suite where to go.
    pub fn describe(&self, command: &mut Command) {
        for (key, value) in &self.environment {
            command.env(key, value);
        }
    }

    /// Stops the client's node gracefully and starts it again.
    pub fn restart(&self) {
        act(&self.nodes, "restart");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Its thread must let go of the nodes before they are dropped here, so that a failing test shows their logs.
        drop(self.control.take());
    }
}

/// The thread that takes commands from suites in other languages.
struct Control {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    fn new(nodes: Arc<Mutex<Nodes>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let ends = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&ends);
        let serve = move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ending.load(Ordering::Acquire) {
                    return;
                }
                // A suite that goes away in the middle of a command fails by itself.
                drop(answer(&stream, &nodes));
            }
        };
        Self {
            address,
            ends,
            thread: Some(std::thread::spawn(serve)),
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        // Only to wake the thread up.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            // If it panicked, its suite got no answer and has failed.
            drop(thread.join());
        }
    }
}

fn answer(mut stream: &TcpStream, nodes: &Mutex<Nodes>) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let known = act(nodes, line.trim());
    stream.write_all(if known { b"ok\n" } else { b"unknown\n" })
}

fn act(nodes: &Mutex<Nodes>, command: &str) -> bool {
    let mut nodes = nodes.lock().unwrap_or_else(PoisonError::into_inner);
    match (command, &mut *nodes) {
        ("restart", Nodes::One(broker)) => {
            broker.stop();
            broker.restart();
        }
        ("kill", Nodes::One(broker)) => broker.restart(),
        ("restart", Nodes::Three { cluster, client }) => {
            cluster.terminate(*client);
            cluster.wait_end(*client);
            cluster.start_all();
        }
        ("kill", Nodes::Three { cluster, client }) => {
            cluster.kill(*client);
            cluster.start_all();
        }
        _ => return false,
    }
    true
}
