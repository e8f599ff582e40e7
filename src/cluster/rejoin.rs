//! A node that leaves its cluster by command: to join another one, or for good.
//!
//! Need: `rabbitmqctl join_cluster` and `reset`, of a node that does not serve, and `leveret cluster join`, of one that
//! does, are the same to every other node. Shape: the wish to join is a file in the data folder, `join`: the address of a
//! member, and the token of the folder that leaves. The next start finds it: what the folder has is removed, it gets
//! another token, and the node asks to be taken in until it is. The file goes when the node is a member.
//! Invariants: nothing is removed but from the folder that the file names; a crash at any point is repeated from there. A
//! node with queues, or with other members, does not leave for another cluster: what it has would be lost to its clients.
//! A node is taken out by the others before its data goes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::peer::Links;
use super::peer::control::{Ask, Told};
use super::start::Cluster;
use crate::model::topology::Formation;

/// A member gets this long to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_millis(300);

/// Why a node ends although nobody stopped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The cluster has taken it out, or its place.
    Removed,
    /// It joins another cluster: it is to start again.
    Joins,
}

/// What a node was when it last served, by which it is decided whether it may leave; by default one without a past.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Names its data folder; 0: there is none yet.
    pub token: u64,
    /// Its cluster.
    pub cluster: u64,
    /// Addresses of the other members.
    pub others: Vec<String>,
    /// Queues of the cluster.
    pub queues: u64,
}

/// A wish that is not fulfilled yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejoin {
    /// A member of the cluster to join.
    pub member: String,
    /// Token of the data folder that leaves.
    pub leaves: u64,
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("join")
}

impl Rejoin {
    /// The wish in a data folder.
    ///
    /// # Errors
    /// It cannot be read, or is not one.
    pub fn find(data_dir: &Path) -> io::Result<Option<Self>> {
        let text = match std::fs::read_to_string(path(data_dir)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut lines = text.lines();
        let member = lines.next().map(str::to_owned);
        let leaves = lines
            .next()
            .and_then(|hex| u64::from_str_radix(hex, 16).ok());
        match (member, leaves) {
            (Some(member), Some(leaves)) => Ok(Some(Self { member, leaves })),
            _ => Err(io::Error::other(
                "the wish to join another cluster is damaged",
            )),
        }
    }

    fn write(&self, data_dir: &Path) -> io::Result<()> {
        let (path, aside) = (path(data_dir), data_dir.join("join.new"));
        std::fs::write(&aside, format!("{}\n{:016x}\n", self.member, self.leaves))?;
        std::fs::File::open(&aside)?.sync_all()?;
        std::fs::rename(&aside, &path)?;
        std::fs::File::open(data_dir)?.sync_all()
    }

    /// Removes what the cluster that is left has in the folder; may be repeated.
    ///
    /// # Errors
    /// What the file system says.
    pub fn clear(&self, data_dir: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(data_dir.join("sets")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The node is a member: the wish is fulfilled.
    ///
    /// # Errors
    /// What the file system says.
    pub fn done(data_dir: &Path) -> io::Result<()> {
        match std::fs::remove_file(path(data_dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// What a node says of its cluster.
async fn formation(links: &Links, address: &str) -> Result<Formation, String> {
    let asked = links.control(address, Ask::Hello.encode());
    let told = match tokio::time::timeout(ANSWER_LIMIT, asked).await {
        Ok(Ok(answer)) => Told::decode(&answer),
        Ok(Err(error)) => return Err(format!("{address}: {error}")),
        Err(_) => return Err(format!("{address} gives no answer")),
    };
    match told {
        Ok(Told::Hello { formed, .. }) => {
            formed.ok_or_else(|| format!("{address} belongs to no cluster yet"))
        }
        _ => Err(format!("{address} says something else")),
    }
}

fn lists(formation: &Formation, token: u64) -> bool {
    formation.nodes.iter().any(|node| node.token == token)
}

/// Keeps the wish to join the cluster of `member` for the node's next start. `links` are a stranger's.
///
/// # Errors
/// Why the node may not leave, or will not be taken in.
pub async fn wish(
    links: &Links,
    standing: &Standing,
    data_dir: &Path,
    member: String,
) -> Result<Rejoin, String> {
    if !standing.others.is_empty() {
        let why = "the node has a cluster with others: let it be taken out there first ('rabbitmqctl stop_app', then \
                   'reset', does that)";
        return Err(why.to_owned());
    }
    let queues = standing.queues;
    if queues > 0 {
        return Err(format!(
            "the node has {queues} queues, which would be lost: delete them first"
        ));
    }
    let theirs = formation(links, &member).await?;
    if standing.token != 0 && lists(&theirs, standing.token) {
        return Err(format!("{member} is this node's own cluster"));
    }
    let leaves = standing.token;
    let wish = Rejoin { member, leaves };
    let kept = wish.write(data_dir);
    kept.map_err(|error| format!("the wish cannot be kept: {error}"))?;
    Ok(wish)
}

/// Lets the others take out a node that does not serve, and waits until most of them know it no more. `links` are a
/// stranger's.
///
/// # Errors
/// They have not within `limit`, and why.
pub async fn leave(links: &Links, standing: &Standing, limit: Duration) -> Result<(), String> {
    let end = Instant::now() + limit;
    loop {
        let asked = standing.others.iter().map(|other| formation(links, other));
        let answers = futures_util::future::join_all(asked).await;
        let (mut without, mut with) = (0, None);
        let mut why = "they are about it".to_owned();
        for (address, answer) in standing.others.iter().zip(answers) {
            match answer {
                Ok(theirs) if theirs.cluster != standing.cluster => {}
                Ok(theirs) if lists(&theirs, standing.token) => with = Some(address),
                Ok(_) => without += 1,
                Err(error) => why = error,
            }
        }
        // One of them may be far behind; most are not.
        if without * 2 > standing.others.len() {
            return Ok(());
        }
        if let Some(address) = with {
            let node = standing.name.clone();
            let asked = links.control(address, Ask::Forget { node }.encode());
            match tokio::time::timeout(ANSWER_LIMIT, asked).await {
                Ok(Ok(answer)) => {
                    if let Ok(Told::Refused(refused)) = Told::decode(&answer) {
                        why = refused;
                    }
                }
                Ok(Err(error)) => why = format!("{address}: {error}"),
                Err(_) => why = format!("{address} gives no answer"),
            }
        }
        if Instant::now() >= end {
            return Err(format!(
                "other nodes count on this one, and have not taken it out: {why}"
            ));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

impl Cluster {
    /// What this node is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let options = &self.options;
        self.topology.read(|topology| {
            let others = topology.nodes().filter(|node| node.id != self.pipe.node);
            Standing {
                name: options.name.clone(),
                token: options.token,
                cluster: topology.cluster(),
                others: others.map(|node| node.address.clone()).collect(),
                queues: topology.queue_count(),
            }
        })
    }

    /// Answers [`Ask::JoinOther`].
    pub(super) async fn join_other(&self, member: String) -> Told {
        let links = self.options.links.stranger();
        let kept = wish(&links, &self.standing(), &self.options.data_dir, member).await;
        let wish = match kept {
            Ok(wish) => wish,
            Err(why) => return Told::Refused(why),
        };
        tracing::info!(member = wish.member, "the node joins another cluster");
        self.joins.cancel();
        let (name, member) = (&self.options.name, wish.member);
        Told::Text(format!(
            "{name} starts again as a member of the cluster of {member}"
        ))
    }

    /// Completes when this node is no member of its cluster any more, or is about to join another.
    pub async fn leaving(&self) -> Leaving {
        tokio::select! {
            () = self.removed.cancelled() => Leaving::Removed,
            () = self.joins.cancelled() => Leaving::Joins,
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_wish_outlives_the_process_until_it_is_fulfilled() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Rejoin::find(dir.path()).unwrap(), None);
        let wish = Rejoin {
            member: "a:25672".to_owned(),
            leaves: 0xabc,
        };
        wish.write(dir.path()).unwrap();
        assert_eq!(Rejoin::find(dir.path()).unwrap(), Some(wish.clone()));
        std::fs::create_dir_all(dir.path().join("sets/1")).unwrap();
        wish.clear(dir.path()).unwrap();
        wish.clear(dir.path()).unwrap();
        assert!(!dir.path().join("sets").exists());
        Rejoin::done(dir.path()).unwrap();
        Rejoin::done(dir.path()).unwrap();
        assert_eq!(Rejoin::find(dir.path()).unwrap(), None);
        std::fs::write(dir.path().join("join"), "a:1\n").unwrap();
        Rejoin::find(dir.path()).unwrap_err();
    }
}
