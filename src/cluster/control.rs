//! Answers to questions about the cluster, by any member: join, status, drain, forget, where queues live.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::{NodeId, SetId};
use crate::model::set::Command;
use crate::model::topology::{
    Formation, MembersCommand, NodeState, Part, PartState, QueueKind, QueueRecord, TopologyCommand,
    TopologyReply,
};

use super::outbox::Refusal;
use super::peer::control::{Ask, Told};
use super::start::Cluster;

/// A node that does not answer within this time is shown as away.
const REPORT_LIMIT: Duration = Duration::from_secs(2);

impl Cluster {
    /// Answers peers and operators from now on.
    pub(super) fn answer_control(self: &Arc<Self>) {
        let cluster = Arc::clone(self);
        self.options
            .hub
            .answer_control(Arc::new(move |bytes: Bytes| {
                let cluster = Arc::clone(&cluster);
                Box::pin(async move {
                    let told = match Ask::decode(&bytes) {
                        Ok(ask) => cluster.told(ask).await,
                        Err(_) => Told::Refused("the question is not known here".to_owned()),
                    };
                    told.encode()
                })
            }));
    }

    /// The answer to a question of a peer or an operator.
    pub async fn told(&self, ask: Ask) -> Told {
        let answered = match ask {
            Ask::Hello => Ok(Told::Hello {
                name: self.options.name.clone(),
                token: self.options.token,
                peers: Vec::new(),
                formed: Some(self.formation()),
            }),
            Ask::Join {
                name,
                address,
                token,
            } => self.take_node(name, address, token).await,
            Ask::Status => Ok(Told::Text(self.status().await)),
            Ask::Report => Ok(Told::Text(self.report())),
            Ask::JoinOther { member } => Ok(self.join_other(member).await),
            Ask::Here { node } => Ok(self.note_presence(node)),
            Ask::Drain { node, drain } => {
                let state = match drain {
                    true => NodeState::Draining,
                    false => NodeState::Active,
                };
                self.set_state(&node, state).await
            }
            Ask::Forget { node } => self.set_state(&node, NodeState::Leaving).await,
            Ask::Place {
                vhost,
                queue,
                sets,
                parts,
            } => self.place_queue(&vhost, &queue, sets, parts).await,
            Ask::Figures(question) => Ok(self.figures.told(question).await),
        };
        answered.unwrap_or_else(|error| Told::Refused(error.to_string()))
    }

    fn formation(&self) -> Formation {
        self.topology.read(|topology| Formation {
            cluster: topology.cluster(),
            nodes: topology.nodes().cloned().collect(),
        })
    }

    async fn change_members(&self, command: MembersCommand) -> Result<TopologyReply, Refusal> {
        self.ask_topology(&TopologyCommand::Members(command)).await
    }

    async fn take_node(&self, name: String, address: String, token: u64) -> Result<Told, Refusal> {
        let command = MembersCommand::AddNode {
            name: name.clone(),
            address,
            token,
        };
        Ok(match self.change_members(command).await? {
            TopologyReply::Node(node) => {
                tracing::info!(name, %node, "a node joins");
                Told::Joined(node, self.formation())
            }
            TopologyReply::Failed(error) => Told::Refused(error.text.to_string()),
            _ => Told::Refused("unexpected".to_owned()),
        })
    }

    async fn set_state(&self, name: &str, state: NodeState) -> Result<Told, Refusal> {
        let node = self.topology.read(|topology| {
            let named = topology.nodes().filter(|node| node.name == name);
            named.map(|node| node.id).last()
        });
        let Some(node) = node else {
            return Ok(Told::Refused(format!("no node is called {name}")));
        };
        Ok(
            match self
                .change_members(MembersCommand::SetState { node, state })
                .await?
            {
                TopologyReply::Failed(error) => Told::Refused(error.text.to_string()),
                _ => Told::Text(format!("node {name} is now {}", state_name(state))),
            },
        )
    }

    /// Lets a queue live in `sets`, or in `count` of the controller's choice. What is elsewhere drains.
    async fn place_queue(
        &self,
        vhost: &str,
        queue: &str,
        sets: Vec<SetId>,
        count: u32,
    ) -> Result<Told, Refusal> {
        let record = self
            .topology
            .read(|topology| topology.queue(vhost, queue).cloned());
        let Some(record) = record else {
            return Ok(Told::Refused(format!(
                "no queue '{queue}' in vhost '{vhost}'"
            )));
        };
        if record.is_local() {
            return Ok(Told::Refused("the queue lives with its node".to_owned()));
        }
        if record.kind == QueueKind::Stream {
            // What it holds stays where it is and keeps its numbers.
            return Ok(Told::Refused("a stream stays in its set".to_owned()));
        }
        let sets = match sets.is_empty() {
            true => self.choose_sets(&record, count.max(1) as usize),
            false => sets,
        };
        let known = self
            .topology
            .read(|topology| sets.iter().all(|set| topology.set(*set).is_some()));
        if !known {
            return Ok(Told::Refused("no such set".to_owned()));
        }
        // The parts exist before anybody is sent there.
        for set in &sets {
            if let Some(handle) = self.set(*set) {
                let config = Box::new(record.config(&self.options.queue_defaults));
                let queue = record.id;
                handle.ask(&Command::Create { queue, config }).await?;
            }
        }
        let active = sets.iter().map(|set| Part {
            set: *set,
            state: PartState::Active,
        });
        let before = record.parts.iter().filter(|part| !sets.contains(&part.set));
        let drains = before.map(|part| Part {
            set: part.set,
            state: PartState::Draining,
        });
        let parts = active.chain(drains).collect();
        let queue = record.id;
        Ok(
            match self
                .change_members(MembersCommand::SetParts { queue, parts })
                .await?
            {
                TopologyReply::Failed(error) => Told::Refused(error.text.to_string()),
                _ => {
                    let sets: Vec<String> = sets.iter().map(SetId::to_string).collect();
                    let title = record.title();
                    Told::Text(format!("{title} lives in {}", sets.join(", ")))
                }
            },
        )
    }

    fn choose_sets(&self, record: &QueueRecord, count: usize) -> Vec<SetId> {
        let mut load: Vec<(bool, u64, SetId)> = self.topology.read(|topology| {
            let sets = topology.sets();
            sets.map(|set| (!record.lives_in(set.id), topology.queues_in(set.id), set.id))
                .collect()
        });
        // Where it lives already it may stay, then where there are fewest.
        load.sort_unstable();
        load.into_iter().take(count).map(|(.., set)| set).collect()
    }

    /// The members that answer within [`REPORT_LIMIT`], this one included.
    pub async fn answering(&self) -> Vec<NodeId> {
        let nodes: Vec<_> = self
            .topology
            .read(|topology| topology.nodes().cloned().collect());
        let asked = nodes.iter().map(|node| async move {
            if node.id != self.pipe.node {
                let ask = Ask::Hello.encode();
                let ask = self.options.links.control(&node.address, ask);
                tokio::time::timeout(REPORT_LIMIT, ask).await.ok()?.ok()?;
            }
            Some(node.id)
        });
        let answers = futures_util::future::join_all(asked).await;
        answers.into_iter().flatten().collect()
    }

    /// Every node's report, and a line for each that gives none.
    async fn status(&self) -> String {
        let nodes: Vec<_> = self
            .topology
            .read(|topology| topology.nodes().cloned().collect());
        let reports = nodes.iter().map(|node| async move {
            if node.id == self.pipe.node {
                return Some(self.report());
            }
            let ask = self
                .options
                .links
                .control(&node.address, Ask::Report.encode());
            let answer = tokio::time::timeout(REPORT_LIMIT, ask).await.ok()?.ok()?;
            match Told::decode(&answer) {
                Ok(Told::Text(text)) => Some(text),
                _ => None,
            }
        });
        let reports = futures_util::future::join_all(reports).await;
        let mut text = String::new();
        for (node, report) in nodes.iter().zip(&reports) {
            let here = if report.is_some() { "up" } else { "away" };
            let state = state_name(node.state);
            text += &format!(
                "node\t{}\t{}\t{}\t{state}\t{here}\n",
                node.id, node.name, node.address
            );
        }
        self.topology.read(|topology| {
            for set in topology.sets() {
                let members: Vec<String> = set.members.iter().map(NodeId::to_string).collect();
                text += &format!(
                    "set\t{}\t{}\t{}\t{}\n",
                    set.id,
                    members.join(","),
                    set.leader,
                    topology.queues_in(set.id)
                );
            }
            let spread = topology.queues().filter(|queue| queue.parts.len() > 1);
            for queue in spread {
                let parts: Vec<String> = queue
                    .parts
                    .iter()
                    .map(|part| match part.state {
                        PartState::Active => format!("{} active", part.set),
                        PartState::Draining => format!("{} draining", part.set),
                    })
                    .collect();
                text += &format!(
                    "queue\t{}\t{}\t{}\n",
                    queue.vhost,
                    queue.name,
                    parts.join(", ")
                );
            }
        });
        text.extend(reports.into_iter().flatten());
        text
    }

    /// This node's replicas, a line each.
    fn report(&self) -> String {
        let mut text = String::new();
        let sets = self
            .sets()
            .filter_map(|(set, handle)| Some((set, handle.group()?)));
        for (set, group) in [(SetId::TOPOLOGY, &self.topology_group)]
            .into_iter()
            .chain(sets)
        {
            let metrics = group.metrics();
            let role = match (group.is_leader(), metrics.leader) {
                (true, _) => "leader",
                (false, Some(_)) => "follower",
                (false, None) => "no leader",
            };
            let number = |value: Option<u64>| value.unwrap_or(0);
            let members = group.members();
            let all = members.voters.keys().chain(members.learners.keys());
            let all: Vec<String> = all.map(NodeId::to_string).collect();
            text += &format!(
                "replica\t{set}\t{}\t{role}\t{}\t{}\t{}\t{}\t{}\n",
                self.pipe.node,
                metrics.term,
                number(metrics.last_log),
                number(metrics.committed),
                number(metrics.applied),
                all.join(","),
            );
        }
        text
    }
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Active => "active",
        NodeState::Draining => "draining",
        NodeState::Leaving => "leaving",
    }
}
