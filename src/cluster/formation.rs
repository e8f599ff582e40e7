//! How a node becomes a member: it finds a cluster and joins it, or forms one with the peers it was told of, once.
//!
//! | found | done |
//! | --- | --- |
//! | no peers named | a cluster of its own |
//! | a peer that belongs to a cluster which lists this data folder | it is a member already |
//! | a peer that belongs to a cluster | it asks to be taken in |
//! | every peer named, none in a cluster, all told of the same peers | a cluster of all of them |
//! | the same, but by a name that stands for other nodes at one of them | ask again, and look the name up again |
//! | anything else | ask again |
//!
//! Invariants: a cluster is formed only by nodes that all saw each other before any had formed it, so each computes the
//! same members and the same cluster id from what all said. A node that lost its data folder has another token, so it is
//! taken in as a new member and never counts as the one that voted before.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::peer::control::{Ask, Told};
use super::peer::{Hub, Links};
use crate::base::{Digest, NodeId};
use crate::model::topology::{Formation, NodeRecord, NodeState};
use crate::rt::Supervisor;

const ASK_EVERY: Duration = Duration::from_millis(200);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A node that looks for its cluster.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Where its peers reach it.
    pub address: String,
    /// Names its data folder.
    pub token: u64,
    /// Addresses of those it forms a cluster with, itself among them; without itself it only joins.
    pub peers: Vec<String>,
    /// A name, `host:port`, that stands for these addresses instead and may come to stand for others.
    pub dns: Option<String>,
}

/// What a node must never forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Its id.
    pub node: NodeId,
    /// The cluster as it was when it became a member.
    pub formation: Formation,
}

/// Why a node is no member.
#[derive(Debug, thiserror::Error)]
pub enum FormationError {
    /// A member said no.
    #[error("the cluster does not take this node in: {0}")]
    Refused(String),
    /// The peers were told of others.
    #[error(
        "{peer} was told to form a cluster with {theirs:?}, this node with {ours:?}: \
         the lists must be the same"
    )]
    OtherPeers {
        /// Whose list differs.
        peer: String,
        /// Its list.
        theirs: Vec<String>,
        /// Ours.
        ours: Vec<String>,
    },
    /// Two of the peers have one name.
    #[error("two nodes are called {0}")]
    SameName(String),
    /// The node was stopped first.
    #[error("the node stops")]
    Stopping,
}

/// What one peer said.
struct Heard {
    address: String,
    name: String,
    token: u64,
    peers: Vec<String>,
    formed: Option<Formation>,
}

/// A cluster of one.
#[must_use]
pub fn alone(candidate: &Candidate, cluster: u64) -> Membership {
    let formation = Formation {
        cluster,
        nodes: vec![record(
            1,
            candidate.name.clone(),
            candidate.address.clone(),
            candidate.token,
        )],
    };
    Membership {
        node: NodeId(1),
        formation,
    }
}

fn record(id: u64, name: String, address: String, token: u64) -> NodeRecord {
    NodeRecord {
        id: NodeId(id),
        name,
        address,
        token,
        incarnation: 0,
        state: NodeState::Active,
    }
}

/// Asks the peers until this node is a member.
///
/// # Errors
/// [`FormationError`].
pub async fn find(
    mut candidate: Candidate,
    links: &Links,
    hub: &Hub,
    supervisor: &Supervisor,
) -> Result<Membership, FormationError> {
    candidate.peers.sort();
    candidate.peers.dedup();
    let formed: Arc<Mutex<Option<Formation>>> = Arc::default();
    let known: Arc<Mutex<Vec<String>>> = Arc::new(Mutex::new(candidate.peers.clone()));
    answer_hello(
        hub,
        candidate.clone(),
        Arc::clone(&known),
        Arc::clone(&formed),
    );
    let mut told = Instant::now();
    let mut silent = HashMap::new();
    loop {
        if let Some(name) = &candidate.dns {
            candidate.peers = look_up(name, &mut silent).await;
            known.lock().clone_from(&candidate.peers);
        }
        let heard = ask_all(links, &candidate.peers, &mut silent).await;
        if let Some(membership) = join(&candidate, links, &heard).await? {
            return Ok(membership);
        }
        if let Some(membership) = form(&candidate, &heard)? {
            *formed.lock() = Some(membership.formation.clone());
            return Ok(membership);
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let here: Vec<&str> = heard.iter().map(|one| one.address.as_str()).collect();
            tracing::info!(peers = ?candidate.peers, ?here, "waiting for peers to be in a cluster with");
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_EVERY) => {}
            () = supervisor.stopping() => return Err(FormationError::Stopping),
        }
    }
}

/// What a name stands for now. One that cannot be resolved is told, and stands for nobody.
async fn look_up(name: &str, silent: &mut HashMap<String, String>) -> Vec<String> {
    match tokio::net::lookup_host(name).await {
        Ok(found) => {
            silent.remove(name);
            let mut peers: Vec<String> = found.map(|address| address.to_string()).collect();
            peers.sort();
            peers.dedup();
            peers
        }
        Err(error) => {
            let reason = error.to_string();
            if silent.get(name) != Some(&reason) {
                tracing::warn!(name, %error, "peers cannot be looked up");
                silent.insert(name.to_owned(), reason);
            }
            Vec::new()
        }
    }
}

fn answer_hello(
    hub: &Hub,
    candidate: Candidate,
    known: Arc<Mutex<Vec<String>>>,
    formed: Arc<Mutex<Option<Formation>>>,
) {
    hub.answer_control(Arc::new(move |bytes: Bytes| {
        let told = match Ask::decode(&bytes) {
            Ok(Ask::Hello) => Told::Hello {
                name: candidate.name.clone(),
                token: candidate.token,
                peers: known.lock().clone(),
                formed: formed.lock().clone(),
            },
            _ => Told::Refused("the node is not a member of a cluster yet".to_owned()),
        };
        Box::pin(async move { told.encode() })
    }));
}

/// Says why a peer is not heard, once for each reason.
async fn ask_all(
    links: &Links,
    peers: &[String],
    silent: &mut HashMap<String, String>,
) -> Vec<Heard> {
    let asks = peers.iter().map(|address| async move {
        let answer = links.control(address, Ask::Hello.encode());
        let told = match tokio::time::timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(bytes)) => Told::decode(&bytes),
            Ok(Err(error)) => return Err((address, error.to_string())),
            Err(_) => return Err((address, "no answer in time".to_owned())),
        };
        match told {
            Ok(Told::Hello {
                name,
                token,
                peers,
                formed,
            }) => Ok(Heard {
                address: address.clone(),
                name,
                token,
                peers,
                formed,
            }),
            _ => Err((address, "an answer to another question".to_owned())),
        }
    });
    let mut heard = Vec::new();
    for answer in futures_util::future::join_all(asks).await {
        match answer {
            Ok(one) => heard.push(one),
            Err((address, reason)) => {
                if silent.get(address) != Some(&reason) {
                    tracing::info!(address, reason, "a peer gives no answer");
                    silent.insert(address.clone(), reason);
                }
            }
        }
    }
    heard
}

/// Membership in the cluster of a peer that has one.
async fn join(
    candidate: &Candidate,
    links: &Links,
    heard: &[Heard],
) -> Result<Option<Membership>, FormationError> {
    let members = heard.iter().filter(|one| one.token != candidate.token);
    for peer in members {
        let Some(formation) = &peer.formed else {
            continue;
        };
        let mine = formation
            .nodes
            .iter()
            .find(|node| node.token == candidate.token);
        if let Some(mine) = mine {
            return Ok(Some(Membership {
                node: mine.id,
                formation: formation.clone(),
            }));
        }
        let ask = Ask::Join {
            name: candidate.name.clone(),
            address: candidate.address.clone(),
            token: candidate.token,
        };
        let Ok(answer) = links.control(&peer.address, ask.encode()).await else {
            continue;
        };
        match Told::decode(&answer) {
            Ok(Told::Joined(node, formation)) => return Ok(Some(Membership { node, formation })),
            Ok(Told::Refused(why)) => return Err(FormationError::Refused(why)),
            _ => {}
        }
    }
    Ok(None)
}

/// A new cluster, if all are here and none has one.
fn form(candidate: &Candidate, heard: &[Heard]) -> Result<Option<Membership>, FormationError> {
    let own = heard.iter().any(|one| one.token == candidate.token);
    let all = heard.len() == candidate.peers.len();
    if !own || !all || heard.iter().any(|one| one.formed.is_some()) {
        return Ok(None);
    }
    if let Some(other) = heard.iter().find(|one| one.peers != candidate.peers) {
        if candidate.dns.is_some() {
            // The name does not stand for the same nodes everywhere yet.
            return Ok(None);
        }
        return Err(FormationError::OtherPeers {
            peer: other.address.clone(),
            theirs: other.peers.clone(),
            ours: candidate.peers.clone(),
        });
    }
    let mut nodes: Vec<&Heard> = heard.iter().collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = nodes.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(FormationError::SameName(pair[0].name.clone()));
    }
    let mut digest = Digest::default();
    let mut records = Vec::new();
    for (id, node) in (1..).zip(nodes) {
        digest.bytes(node.name.as_bytes());
        digest.bytes(&node.token.to_le_bytes());
        records.push(record(
            id,
            node.name.clone(),
            node.address.clone(),
            node.token,
        ));
    }
    let mine = records.iter().find(|node| node.token == candidate.token);
    Ok(mine.map(|mine| mine.id).map(|node| Membership {
        node,
        formation: Formation {
            cluster: digest.value().max(1),
            nodes: records,
        },
    }))
}
