//! The command line. What it says wins over the environment and over files.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use leveret::base::SetId;
use leveret::broker::tls;
use leveret::cluster::peer::control::Ask;
use leveret::config::{Config, Loaded, LogLevel, Problems, Sources, load, value};

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
    /// Look at configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

/// Subcommands of `cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Nodes, sets, leaders, how far each replica is, queues that move
    Status,
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
    /// As the question that is sent.
    #[must_use]
    pub fn ask(self) -> Ask {
        match self {
            Self::Status => Ask::Status,
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

/// Certificates and keys that are named and cannot be served.
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
    wrong
        .map(|(what, error)| format!("{what}: {error}"))
        .collect()
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
                "management.path_prefix = /x",
                true,
                "x.conf:1: `management.path_prefix` has no effect",
            ),
            (
                "listeners.ssl.1 = 1\nssl_options.certfile = /nowhere/c\nssl_options.keyfile = /nowhere/k",
                false,
                "ssl_options: /nowhere/c",
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
