//! `leveret cluster …`: what an operator asks or tells a running cluster.

use clap::Subcommand;
use leveret::base::SetId;
use leveret::cluster::peer::control::Ask;

/// Subcommands of `cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Nodes, sets, leaders, how far each replica is, queues that move
    Status {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Let a node that is alone leave its own cluster, which must be without queues, and join another's
    Join {
        /// The listener for peers of any member, host:port
        member: String,
    },
    /// Let a node give its replicas and leaderships to others
    Drain {
        /// Its name, rabbit@host
        name: String,
    },
    /// Let a drained node take its share again
    Undrain {
        /// Its name, rabbit@host
        name: String,
    },
    /// Take a node out: what it holds goes to others, then it is no member any more; it need not be running
    #[command(visible_alias = "leave")]
    Forget {
        /// Its name, rabbit@host
        name: String,
    },
    /// Move a queue to another set
    Move {
        /// Its name
        queue: String,
        /// The set
        set: u32,
        /// Its vhost
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// Spread a queue over several sets; over one: gather it there
    Spread {
        /// Its name
        queue: String,
        /// How many
        sets: u32,
        /// Its vhost
        #[arg(long, default_value = "/")]
        vhost: String,
    },
}

impl ClusterCommand {
    /// Whether the answer is wanted for programs.
    #[must_use]
    pub const fn json(&self) -> bool {
        matches!(self, Self::Status { json: true })
    }

    /// As the question that is sent.
    #[must_use]
    pub fn ask(self) -> Ask {
        match self {
            Self::Status { .. } => Ask::Status,
            Self::Join { member } => Ask::JoinOther { member },
            Self::Drain { name } => Ask::Drain {
                node: name,
                drain: true,
            },
            Self::Undrain { name } => Ask::Drain {
                node: name,
                drain: false,
            },
            Self::Forget { name } => Ask::Forget { node: name },
            Self::Move { queue, set, vhost } => Ask::Place {
                vhost,
                queue,
                sets: vec![SetId(set)],
                parts: 1,
            },
            Self::Spread { queue, sets, vhost } => Ask::Place {
                vhost,
                queue,
                sets: Vec::new(),
                parts: sets,
            },
        }
    }
}
