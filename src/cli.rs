//! The command line. What it says wins over the environment and over files.

mod cluster;
pub mod ctl;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
pub use cluster::ClusterCommand;
use leveret::broker::tls;
use leveret::config::{Config, Loaded, LogLevel, Problems, Sources, load, value};
use leveret::http::api::definition_files;

/// A replicated message broker that RabbitMQ clients use unchanged.
#[derive(Debug, Parser)]
#[command(name = "leveret", version)]
pub struct Cli {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of every subcommand.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// Folder of all state [default: ./data]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Configuration in RabbitMQ's `key = value` format
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Listen for AMQP here, in place of what the configuration says; may be repeated
    #[arg(long, global = true, value_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Serve metrics here [default: 0.0.0.0:15692]
    #[arg(long, global = true, value_name = "ADDR:PORT")]
    pub prometheus: Option<SocketAddr>,
    /// Least severe line to log: debug, info, warning, error, none [default: info]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = value::level)]
    pub log_level: Option<LogLevel>,
}

/// What to do; to serve when nothing is said.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the broker (the default)
    Serve,
    /// Ask or tell a running cluster; needs the configuration (or RABBITMQ_ERLANG_COOKIE) of one of its nodes
    Cluster {
        /// The node to ask, host:port of its listener for peers [default: the configured one]
        #[arg(long, global = true, value_name = "HOST:PORT")]
        node: Option<String>,
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Ask the node of this configuration, from its own machine, whether it takes clients; within 5 s, without an account
    Check,
    /// The commands of rabbitmqctl; `leveret ctl help` lists them
    #[command(disable_help_flag = true)]
    Ctl(Words),
    /// The commands of rabbitmq-diagnostics
    #[command(disable_help_flag = true)]
    Diagnostics(Words),
    /// The commands of rabbitmq-queues
    #[command(disable_help_flag = true)]
    Queues(Words),
    /// The commands of rabbitmq-streams
    #[command(disable_help_flag = true)]
    Streams(Words),
    /// The commands of rabbitmq-plugins
    #[command(disable_help_flag = true)]
    Plugins(Words),
    /// The commands of rabbitmq-upgrade
    #[command(disable_help_flag = true)]
    Upgrade(Words),
    /// Print what a shell needs to complete commands
    Completions {
        /// The shell
        shell: clap_complete::Shell,
        /// The program: leveret, or one of RabbitMQ's names it is called by
        #[arg(long, default_value = "leveret")]
        tool: String,
    },
    /// Write manual pages, of this program and of RabbitMQ's names it is called by
    Man {
        /// Where
        folder: PathBuf,
    },
    /// Look at configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

/// What comes after the name of a tool.
#[derive(Debug, Args)]
pub struct Words {
    /// The command, its arguments and options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Command {
    /// The tool that is called, and how.
    pub fn tool(&self) -> Option<(ctl::Tool, Vec<String>)> {
        let (tool, words) = match self {
            Self::Ctl(words) => (ctl::Tool::Ctl, words),
            Self::Diagnostics(words) => (ctl::Tool::Diagnostics, words),
            Self::Queues(words) => (ctl::Tool::Queues, words),
            Self::Streams(words) => (ctl::Tool::Streams, words),
            Self::Plugins(words) => (ctl::Tool::Plugins, words),
            Self::Upgrade(words) => (ctl::Tool::Upgrade, words),
            _ => return None,
        };
        let name = std::iter::once(tool.name().to_owned());
        Some((tool, name.chain(words.words.iter().cloned()).collect()))
    }
}

/// A program's definition by its name; this one's if there is none of that name.
fn definition(name: &str) -> clap::Command {
    ctl::Tool::named(name).map_or_else(<Cli as clap::CommandFactory>::command, ctl::command)
}

/// What a shell needs to complete a program's commands.
pub fn completions(shell: clap_complete::Shell, name: &str) -> String {
    let mut command = definition(name);
    let name = command.get_name().to_owned();
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Writes the manual pages of every program.
///
/// # Errors
/// The folder cannot be written.
pub fn manuals(folder: &std::path::Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let tools = ctl::Tool::ALL.into_iter().map(ctl::Tool::name);
    for name in std::iter::once("leveret").chain(tools) {
        clap_mangen::generate_to(definition(name), folder)?;
    }
    Ok(())
}

/// Subcommands of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print each problem of a file, and each key that is accepted without effect
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print docs/configuration.md: every key and environment variable, as this program knows them
    Docs,
}

impl Options {
    /// The configuration of these options and the process's environment.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Loaded, Problems> {
        self.load_in(self.config.clone(), &|name| std::env::var(name).ok())
    }

    fn load_in(
        &self,
        file: Option<PathBuf>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Loaded, Problems> {
        load(&Sources {
            file,
            data_dir: self.data_dir.clone(),
            listen: self.listen.clone(),
            prometheus: self.prometheus,
            log_level: self.log_level,
            env,
        })
    }
}

/// `config check`: the report, and whether the file can be used.
#[must_use]
pub fn check(options: &Options, file: PathBuf) -> (String, bool) {
    let loaded = match options.load_in(Some(file), &|name| std::env::var(name).ok()) {
        Ok(loaded) => loaded,
        Err(problems) => return (format!("{problems}\n"), false),
    };
    let mut out = String::new();
    for note in &loaded.notes {
        out.push_str(&format!(
            "{}: `{}` has no effect: {}\n",
            note.place, note.key, note.why
        ));
    }
    let unserved = unserved(&loaded.config);
    for error in &unserved {
        out.push_str(&format!("{error}\n"));
    }
    if unserved.is_empty() {
        out.push_str("the configuration can be used\n");
    }
    (out, unserved.is_empty())
}

/// Files that are named and of no use: certificates, keys, definitions.
fn unserved(config: &Config) -> Vec<String> {
    let served = [
        ("ssl_options", !config.tls_listeners.is_empty(), &config.tls),
        (
            "management.ssl",
            config.management[1].is_some(),
            &config.management_tls,
        ),
        (
            "prometheus.ssl",
            config.prometheus[1].is_some(),
            &config.prometheus_tls,
        ),
    ];
    let wrong = served.iter().filter(|(_, served, _)| *served);
    let wrong = wrong.filter_map(|(what, _, options)| Some((what, tls::build(options).err()?)));
    let mut all: Vec<String> = wrong
        .map(|(what, error)| format!("{what}: {error}"))
        .collect();
    if let Some(path) = &config.definitions
        && let Err(error) = definition_files(path)
    {
        all.push(format!("definitions in {}: {error}", path.display()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_win_over_the_environment() {
        let line = "leveret --data-dir d --listen [::1]:1 --prometheus 127.0.0.1:2 serve --log-level debug";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert!(matches!(cli.command, Some(Command::Serve)));
        let env = |name: &str| (name == "RABBITMQ_NODE_PORT").then(|| "9".to_owned());
        let config = cli.options.load_in(None, &env).unwrap().config;
        assert_eq!(config.data_dir, PathBuf::from("d"));
        assert_eq!(config.listeners, ["[::1]:1".parse().unwrap()]);
        assert_eq!(config.prometheus[0], Some("127.0.0.1:2".parse().unwrap()));
        assert_eq!(config.log_level, LogLevel::Debug);
    }

    #[test]
    fn a_level_that_does_not_exist_is_refused() {
        assert!(Cli::try_parse_from(["leveret", "--log-level", "loud"]).is_err());
    }

    #[test]
    fn check_prints_problems_and_keys_without_effect() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.conf");
        for (text, usable, want) in [
            (
                "queue_master_locator = min-masters",
                true,
                "x.conf:1: `queue_master_locator` has no effect",
            ),
            (
                "listeners.ssl.1 = 1\nssl_options.certfile = /nowhere/c\nssl_options.keyfile = /nowhere/k",
                false,
                "ssl_options: /nowhere/c",
            ),
            (
                "load_definitions = /nowhere/d.json",
                false,
                "definitions in /nowhere/d.json",
            ),
            ("hartbeat = 1", false, "did you mean `heartbeat`?"),
        ] {
            std::fs::write(&file, text).unwrap();
            let (out, good) = check(&Options::default(), file.clone());
            assert_eq!(good, usable, "{out}");
            assert!(out.contains(want), "{out}");
        }
    }
}
