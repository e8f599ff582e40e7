//! A node that leaves its own cluster, in which it is alone, to join another one, by command.
//!
//! Shape: the wish is a file in the data folder, `join`: the address of a member and the id of the cluster that is left.
//! The node stops, starts again, and finds it: what belongs to the cluster it leaves is removed, and it asks to be taken
//! in under a new token until it is. The file goes when the node is a member.
//! Invariants: nothing is removed but what belongs to the cluster that the file names; a crash at any point is repeated
//! from there. A node with queues, or with other members, does not leave: what it has would be lost to its clients.

use std::io;
use std::path::{Path, PathBuf};

use super::peer::control::{Ask, Told};
use super::start::Cluster;

/// Why a node ends although nobody stopped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The cluster has taken it out, or its place.
    Removed,
    /// It joins another cluster: it is to start again.
    Joins,
}

/// A wish that is not fulfilled yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejoin {
    /// A member of the cluster to join.
    pub member: String,
    /// The cluster that is left.
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

impl Cluster {
    /// Answers [`Ask::JoinOther`].
    pub(super) async fn join_other(&self, member: String) -> Told {
        let (nodes, queues) = self
            .topology
            .read(|topology| (topology.nodes().count(), topology.queue_count()));
        if nodes > 1 {
            return Told::Refused(
                "the node has a cluster with others: drain and forget it there, and start it with an empty data folder"
                    .to_owned(),
            );
        }
        if queues > 0 {
            let text =
                format!("the node has {queues} queues, which would be lost: delete them first");
            return Told::Refused(text);
        }
        let stranger = self.options.links.stranger();
        let theirs = match stranger.control(&member, Ask::Hello.encode()).await {
            Ok(answer) => Told::decode(&answer),
            Err(error) => return Told::Refused(format!("{member}: {error}")),
        };
        let formed = match theirs {
            Ok(Told::Hello { formed, .. }) => formed,
            _ => return Told::Refused(format!("{member} says something else")),
        };
        let Some(formation) = formed else {
            return Told::Refused(format!("{member} belongs to no cluster yet"));
        };
        let leaves = self.topology.read(|topology| topology.cluster());
        if formation.cluster == leaves {
            return Told::Refused(format!("{member} is this node's own cluster"));
        }
        let wish = Rejoin { member, leaves };
        if let Err(error) = wish.write(&self.options.data_dir) {
            return Told::Refused(format!("the wish cannot be kept: {error}"));
        }
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
