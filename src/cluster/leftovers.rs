//! Folders of replicas that this node holds no longer.
//!
//! Need: a replica that was given away stays on disk when the node starts without it. Shape: the folders are found at the
//! start; each is removed once the set's leader says that its group does without this node, so that a copy others may
//! still need is never the one that goes. Looked at by the task that also takes replicas in, so that none is removed
//! while it comes back.
//! Not here: a replica that runs and is no member any more: it serves its clients until the node stops.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::peer::control::{Ask, Told};
use super::start::Cluster;
use crate::base::SetId;

const ASK_EVERY: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    sets: BTreeSet<SetId>,
    asked: Option<Instant>,
}

impl Leftovers {
    /// The folders in `sets` of which no replica runs.
    pub(super) fn find(cluster: &Cluster) -> Self {
        let mut sets = BTreeSet::new();
        let folder = cluster.options.data_dir.join("sets");
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Self::default();
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            let set = number.map(SetId).filter(|set| *set != SetId::TOPOLOGY);
            sets.extend(set.filter(|set| !cluster.runs(*set)));
        }
        Self { sets, asked: None }
    }
}

impl Cluster {
    fn runs(&self, set: SetId) -> bool {
        let handle = self.table.get(set);
        handle.is_some_and(|handle| handle.any_group().is_some())
    }

    /// Removes the folders nobody needs any more, one look in a while.
    pub(super) async fn sweep(&self, leftovers: &mut Leftovers) {
        leftovers.sets.retain(|set| !self.runs(*set));
        let lately = leftovers.asked.is_some_and(|at| at.elapsed() < ASK_EVERY);
        if leftovers.sets.is_empty() || lately {
            return;
        }
        leftovers.asked = Some(Instant::now());
        for set in leftovers.sets.clone() {
            if !self.does_without_this_node(set).await {
                continue;
            }
            let folder = self.options.set_dir(set);
            match remove(folder.clone()).await {
                Ok(()) => {
                    tracing::info!(%set, folder = %folder.display(), "the folder of a replica that was given away is removed");
                    leftovers.sets.remove(&set);
                }
                Err(error) => {
                    tracing::warn!(%set, folder = %folder.display(), %error, "a folder cannot be removed");
                }
            }
        }
    }

    /// Whether the leader of `set` counts this node neither as a voter nor as a learner.
    async fn does_without_this_node(&self, set: SetId) -> bool {
        let own = self.pipe.node;
        let members = self.topology.read(|topology| {
            let record = topology.set(set)?;
            (!record.members.contains(&own)).then(|| record.members.clone())
        });
        for node in members.unwrap_or_default() {
            let Some(address) = self.options.links.address(node) else {
                continue;
            };
            let asked = self.options.links.control(&address, Ask::Report.encode());
            let answer = tokio::time::timeout(ANSWER_LIMIT, asked).await;
            let Ok(Ok(bytes)) = answer else { continue };
            let Ok(Told::Text(report)) = Told::decode(&bytes) else {
                continue;
            };
            if let Some(group) = led_group(&report, set) {
                return !group.contains(&own.0);
            }
        }
        false
    }
}

/// The members of `set`, if a node that reports so leads it.
fn led_group(report: &str, set: SetId) -> Option<Vec<u64>> {
    let set = set.to_string();
    report.lines().find_map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let leads = fields.first() == Some(&"replica")
            && fields.get(1) == Some(&set.as_str())
            && fields.get(3) == Some(&"leader");
        let members = fields.get(8).filter(|_| leads)?;
        let ids = members.split(',').map(str::parse);
        ids.collect::<Result<Vec<u64>, _>>().ok()
    })
}

async fn remove(folder: PathBuf) -> std::io::Result<()> {
    let removing = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder));
    removing.await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_a_leaders_report_says_who_belongs_to_a_set() {
        let report = "replica\t1\t2\tfollower\t3\t10\t10\t9\t1,2,3\nreplica\t12\t2\tleader\t3\t10\t10\t9\t2,4\n";
        assert_eq!(led_group(report, SetId(1)), None);
        assert_eq!(led_group(report, SetId(2)), None);
        assert_eq!(led_group(report, SetId(12)), Some(vec![2, 4]));
    }
}
