//! What a command is: its name, whose it is, what it takes, and what runs it.

use clap::{Arg, ArgAction};

use super::call::Call;
use super::output::{Failure, Output};

/// The names this program answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `rabbitmqctl`
    Ctl,
    /// `rabbitmq-diagnostics`
    Diagnostics,
    /// `rabbitmq-queues`
    Queues,
    /// `rabbitmq-streams`
    Streams,
    /// `rabbitmq-plugins`
    Plugins,
    /// `rabbitmq-upgrade`
    Upgrade,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Ctl,
        Self::Diagnostics,
        Self::Queues,
        Self::Streams,
        Self::Plugins,
        Self::Upgrade,
    ];

    /// As it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ctl => "rabbitmqctl",
            Self::Diagnostics => "rabbitmq-diagnostics",
            Self::Queues => "rabbitmq-queues",
            Self::Streams => "rabbitmq-streams",
            Self::Plugins => "rabbitmq-plugins",
            Self::Upgrade => "rabbitmq-upgrade",
        }
    }

    /// The tool a program of this name is.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }

    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// `rabbitmqctl` alone.
pub const CTL: u8 = Tool::Ctl.bit();
/// `rabbitmq-diagnostics` alone.
pub const DIAG: u8 = Tool::Diagnostics.bit();
/// Both.
pub const BOTH: u8 = CTL | DIAG;
/// `rabbitmq-queues`.
pub const QUEUES: u8 = Tool::Queues.bit();
/// `rabbitmq-streams`.
pub const STREAMS: u8 = Tool::Streams.bit();
/// `rabbitmq-plugins`.
pub const PLUGINS: u8 = Tool::Plugins.bit();
/// `rabbitmq-upgrade`.
pub const UPGRADE: u8 = Tool::Upgrade.bit();
/// Every tool.
pub const EVERY: u8 = CTL | DIAG | QUEUES | STREAMS | PLUGINS | UPGRADE;

/// What a command does.
pub type Run = fn(&Call) -> Result<Output, Failure>;

/// A command.
pub struct Spec {
    /// Its name.
    pub name: &'static str,
    /// The tools that have it.
    pub tools: u8,
    /// What it takes, under names that no option of every command has: `a` must be there, `a?` may be, `a*` any number, `a+` at least one.
    pub args: &'static str,
    /// Its options: `name` is a switch, `name=` takes a value, both separated by spaces.
    pub options: &'static str,
    /// One line.
    pub about: &'static str,
    /// What it does.
    pub run: Run,
}

/// A row of a table of commands.
pub const fn spec(
    tools: u8,
    name: &'static str,
    args: &'static str,
    options: &'static str,
    about: &'static str,
    run: Run,
) -> Spec {
    Spec {
        name,
        tools,
        args,
        options,
        about,
        run,
    }
}

impl Spec {
    /// Whether a tool has it.
    pub const fn is_of(&self, tool: Tool) -> bool {
        self.tools & tool.bit() != 0
    }

    /// As clap knows it.
    pub fn command(&self) -> clap::Command {
        let mut command = clap::Command::new(self.name).about(self.about);
        for (at, word) in self.args.split_whitespace().enumerate() {
            command = command.arg(positional(word, at + 1));
        }
        for word in self.options.split_whitespace() {
            command = command.arg(option(word));
        }
        command
    }
}

fn positional(word: &'static str, index: usize) -> Arg {
    let name = word.trim_end_matches(['?', '*', '+']);
    let arg = Arg::new(name).index(index).allow_hyphen_values(false);
    match &word[name.len()..] {
        "?" => arg,
        "*" => arg.num_args(0..).action(ArgAction::Append),
        "+" => arg.required(true).num_args(1..).action(ArgAction::Append),
        _ => arg.required(true),
    }
}

fn option(word: &'static str) -> Arg {
    let (name, takes) = match word.strip_suffix('=') {
        Some(name) => (name, true),
        None => (word, false),
    };
    let arg = Arg::new(name).long(name);
    let arg = match name {
        "minimal" => arg.short('m'),
        "enabled" => arg.short('E'),
        "implicitly-enabled" => arg.short('e'),
        "verbose" => arg.short('v'),
        "number" => arg.short('N'),
        "duration" => arg.short('d'),
        _ => arg,
    };
    // RabbitMQ's tools take `--apply-to` and `--apply_to` alike.
    let arg = match name.contains('-') {
        true => arg.alias(name.replace('-', "_")),
        false => arg,
    };
    match takes {
        true => arg.action(ArgAction::Set).allow_hyphen_values(true),
        false => arg.action(ArgAction::SetTrue),
    }
}
