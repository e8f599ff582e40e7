//! The command line. What it says wins over the environment and over files.

mod cluster;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
pub use cluster::ClusterCommand;
use leveret::config::{Loaded, LogLevel, Problems, Sources, load, value};

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

/// Subcommands of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print each problem of a file, and each key that is accepted without effect
    Check {
        /// The file
        file: PathBuf,
    },
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

/// `config check`: the report goes to `out`; whether the file can be used is answered.
///
/// # Errors
/// `out` cannot be written.
pub fn check(
    options: &Options,
    file: PathBuf,
    out: &mut dyn fmt::Write,
) -> Result<bool, fmt::Error> {
    match options.load_in(Some(file), &|name| std::env::var(name).ok()) {
        Ok(loaded) => {
            for note in &loaded.notes {
                writeln!(
                    out,
                    "{}: `{}` has no effect: {}",
                    note.place, note.key, note.why
                )?;
            }
            writeln!(out, "the configuration can be used")?;
            Ok(true)
        }
        Err(problems) => {
            writeln!(out, "{problems}")?;
            Ok(false)
        }
    }
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
        assert_eq!(config.prometheus, Some("127.0.0.1:2".parse().unwrap()));
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
                "management.tcp.port = 1",
                true,
                "`management.tcp.port` has no effect",
            ),
            ("hartbeat = 1", false, "did you mean `heartbeat`?"),
        ] {
            std::fs::write(&file, text).unwrap();
            let mut out = String::new();
            assert_eq!(
                check(&Options::default(), file.clone(), &mut out),
                Ok(usable)
            );
            assert!(out.contains(want), "{out}");
        }
    }
}
