//! What a node says of its sets, read from `/metrics`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// One replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetView {
    /// Whether the node says that it leads the set.
    pub leading: bool,
    /// The node's id of the leader it knows of; 0 if it knows of none.
    pub leader: u64,
    /// The replica's term.
    pub term: u64,
    /// The last entry it has applied.
    pub applied: u64,
    /// The last entry that it has forgotten.
    pub purged: u64,
}

/// The replicas of a node by set; 0 is the topology.
pub type Sets = BTreeMap<u32, SetView>;

pub(super) fn sets(host: &str) -> Option<Sets> {
    let text = metrics(host).ok()?;
    let mut sets = Sets::new();
    for line in text.lines() {
        let Some((name, set, value)) = gauge(line) else {
            continue;
        };
        let take: fn(&mut SetView, u64) = match name {
            "leveret_set_leading" => |view, value| view.leading = value == 1,
            "leveret_set_leader" => |view, value| view.leader = value,
            "leveret_set_term" => |view, value| view.term = value,
            "leveret_set_applied" => |view, value| view.applied = value,
            "leveret_log_purged_index" => |view, value| view.purged = value,
            _ => continue,
        };
        take(sets.entry(set).or_default(), value);
    }
    Some(sets)
}

/// `name{set="1"} 2` as its three parts.
fn gauge(line: &str) -> Option<(&str, u32, u64)> {
    let (name, rest) = line.split_once("{set=\"")?;
    let (set, rest) = rest.split_once("\"}")?;
    Some((name, set.parse().ok()?, rest.trim().parse().ok()?))
}

fn metrics(host: &str) -> std::io::Result<String> {
    let address: SocketAddr = format!("{host}:15692")
        .parse()
        .map_err(std::io::Error::other)?;
    let mut socket = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}
