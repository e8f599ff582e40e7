//! Where nodes are, and the links between them.
//!
//! | flavour | a node's address | links can be cut | needs |
//! | --- | --- | --- | --- |
//! | loopback | 127.a.b.n | no | nothing |
//! | namespaces | 10.a.b.n in its own network namespace, a bridge between them and the host | yes | root, iproute2 |
//!
//! A link is cut in one direction by a neighbour entry in the sender's namespace that names a hardware address nobody
//! has: packets vanish without a word to the sender, as in a broken network. The host's way to each node is its own link and stays.

use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Nobody has it (locally administered).
const NOWHERE: &str = "02:00:00:00:00:01";
/// Held by a cluster while it uses a block of loopback addresses.
const CLAIM_PORT: u16 = 25_999;
const DEVICE: &str = "eth0";
const BRIDGE: &str = "bridge";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// See the module's head.
pub struct Net {
    block: (u8, u8),
    namespaces: Vec<String>,
    /// The namespace of the bridge: the host's packet filter may drop what passes over a bridge of its own.
    hub: Option<String>,
    /// Links that are cut, from and to.
    cuts: Vec<(usize, usize)>,
    _claim: Option<TcpListener>,
}

/// Differs between processes, and between calls in one.
fn draw() -> (u8, u8) {
    let number = std::process::id().wrapping_mul(31) + NEXT.fetch_add(1, Ordering::Relaxed);
    let byte = |value: u32| u8::try_from(value % 250).expect("below 250");
    (1 + byte(number / 250), byte(number))
}

impl Net {
    /// A block of loopback addresses that no other cluster of this machine uses.
    ///
    /// # Panics
    /// When every block is taken.
    #[must_use]
    pub fn loopback(nodes: usize) -> Self {
        assert!(nodes < 200, "one byte of address per node");
        for _ in 0..1000 {
            let (a, b) = draw();
            let claim = TcpListener::bind((std::net::Ipv4Addr::new(127, a, b, 254), CLAIM_PORT));
            if let Ok(claim) = claim {
                return Self {
                    block: (a, b),
                    namespaces: Vec::new(),
                    hub: None,
                    cuts: Vec::new(),
                    _claim: Some(claim),
                };
            }
        }
        panic!("no block of loopback addresses is free");
    }

    /// A namespace per node; `None`, with the reason printed, where they cannot be made.
    #[must_use]
    pub fn namespaces(nodes: usize) -> Option<Self> {
        let (a, b) = draw();
        let tag = format!("{}x{b}", std::process::id() % 1_000_000);
        let host_end = format!("lb{tag}");
        let mut net = Self {
            block: (a, b),
            namespaces: Vec::new(),
            hub: None,
            cuts: Vec::new(),
            _claim: None,
        };
        let made = net.make(nodes, &tag, &host_end);
        match made {
            Ok(()) => Some(net),
            Err(why) => {
                println!("skipped: network namespaces cannot be made here: {why}");
                None
            }
        }
    }

    fn make(&mut self, nodes: usize, tag: &str, host_end: &str) -> Result<(), String> {
        let (a, b) = self.block;
        let hub = format!("lv{tag}hub");
        ip(&["netns", "add", &hub])?;
        self.hub = Some(hub.clone());
        ip(&["-n", &hub, "link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", BRIDGE, "up"])?;
        let to_hub = ["type", "veth", "peer", "name", "host", "netns", &hub];
        ip(&[&["link", "add", host_end], &to_hub[..]].concat())?;
        let address = format!("10.{a}.{b}.254/24");
        ip(&["addr", "add", &address, "dev", host_end])?;
        ip(&["link", "set", host_end, "up"])?;
        ip(&["-n", &hub, "link", "set", "host", "master", BRIDGE, "up"])?;
        for node in 0..nodes {
            let space = format!("lv{tag}n{node}");
            let port = format!("port{node}");
            ip(&["netns", "add", &space])?;
            self.namespaces.push(space.clone());
            let to_node = ["type", "veth", "peer", "name", DEVICE, "netns", &space];
            ip(&[&["-n", &hub, "link", "add", &port], &to_node[..]].concat())?;
            ip(&["-n", &hub, "link", "set", &port, "master", BRIDGE, "up"])?;
            let address = format!("{}/24", self.host(node));
            ip(&["-n", &space, "addr", "add", &address, "dev", DEVICE])?;
            ip(&["-n", &space, "link", "set", DEVICE, "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    /// The address of a node.
    #[must_use]
    pub fn host(&self, node: usize) -> String {
        let (a, b) = self.block;
        let first = if self.hub.is_some() { 10 } else { 127 };
        format!("{first}.{a}.{b}.{}", node + 1)
    }

    /// From their next start on, the nodes find each other's addresses under `name`; only with namespaces.
    ///
    /// # Errors
    /// What the file system says.
    pub fn name_all(&self, name: &str) -> std::io::Result<()> {
        let lines = (0..self.namespaces.len()).map(|node| format!("{} {name}\n", self.host(node)));
        let hosts = lines.collect::<String>();
        for space in &self.namespaces {
            let folder = etc(space);
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join("hosts"), &hosts)?;
        }
        Ok(())
    }

    /// What a node's command line begins with.
    pub(super) fn command(&self, node: usize) -> Vec<String> {
        let space = self.namespaces.get(node);
        let words = |space: &String| ["ip", "netns", "exec", space].map(str::to_owned).to_vec();
        space.map(words).unwrap_or_default()
    }

    /// From now on nothing that `from` sends reaches `to`.
    ///
    /// # Panics
    /// Without namespaces.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        let (space, to_host) = (self.namespaces[from].clone(), self.host(to));
        let entry = ["lladdr", NOWHERE, "dev", DEVICE, "nud", "permanent"];
        let mut words = vec!["-n", &space, "neigh", "replace", &to_host];
        words.extend(entry);
        ip(&words).expect("a link is cut");
        self.cuts.push((from, to));
    }

    /// Nothing passes between the two.
    pub fn cut(&mut self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Nothing passes between a node and all others.
    pub fn isolate(&mut self, node: usize) {
        for other in (0..self.namespaces.len()).filter(|other| *other != node) {
            self.cut(node, other);
        }
    }

    /// All links work again.
    pub fn heal(&mut self) {
        for (from, to) in std::mem::take(&mut self.cuts) {
            let (space, to) = (&self.namespaces[from], self.host(to));
            let gone = ip(&["-n", space, "neigh", "del", &to, "dev", DEVICE]);
            // The same link may have been cut twice: the second removal finds nothing.
            drop(gone);
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for space in &self.namespaces {
            // Mostly there is none.
            drop(std::fs::remove_dir_all(etc(space)));
            // Its end of the link goes with it, and with that the other end.
            drop(ip(&["netns", "del", space]));
        }
        if let Some(hub) = &self.hub {
            drop(ip(&["netns", "del", hub]));
        }
    }
}

/// Files here stand for those of `/etc` in the namespace.
fn etc(space: &str) -> std::path::PathBuf {
    std::path::Path::new("/etc/netns").join(space)
}

fn ip(words: &[&str]) -> Result<(), String> {
    let out = Command::new("ip")
        .args(words)
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    if out.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&out.stderr);
    Err(format!("ip {}: {}", words.join(" "), why.trim()))
}
