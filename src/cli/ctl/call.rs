//! One call of a command: its arguments, the node it is about, and how it speaks.

use std::cell::OnceCell;
use std::io::Write;
use std::time::Duration;

use clap::ArgMatches;
use leveret::config::Config;
use serde_json::Value;

use super::client::{Client, Reply, Silence};
use super::output::{Failure, Format, Manner, exit};
use super::spec::Tool;

/// What every command takes.
#[derive(Clone, Debug)]
pub struct Global {
    /// `-n`; the configured node if it is not said.
    pub node: Option<String>,
    /// `-p`.
    pub vhost: String,
    /// `-t`.
    pub timeout: Option<u64>,
    /// `-t infinity`.
    pub endless: bool,
    /// `-q`: no word before.
    pub quiet: bool,
    /// How results are shown.
    pub manner: Manner,
    /// `--dry-run`.
    pub dry_run: bool,
}

/// See the module's head.
pub struct Call {
    /// The tool that was called.
    pub tool: Tool,
    /// The command.
    pub name: &'static str,
    /// What every command takes.
    pub global: Global,
    /// What the node of this machine is configured with.
    pub config: Config,
    /// Its control socket.
    pub client: Client,
    /// What this command takes.
    pub matches: ArgMatches,
    /// What the node says of itself.
    pub about: OnceCell<Value>,
    /// The node it is about is known to be a member.
    pub member: OnceCell<()>,
}

/// Seconds a command waits when it is not told.
pub const TIMEOUT_S: u64 = 60;

impl Call {
    /// An argument that may be missing.
    pub fn maybe(&self, name: &str) -> Option<&str> {
        let value = self.matches.try_get_one::<String>(name);
        value.ok().flatten().map(String::as_str)
    }

    /// An argument that the definition of the command makes certain.
    pub fn arg(&self, name: &str) -> &str {
        self.maybe(name).unwrap_or_default()
    }

    /// All of an argument that may be there many times.
    pub fn many(&self, name: &str) -> Vec<&str> {
        let values = self.matches.try_get_many::<String>(name).ok().flatten();
        values.unwrap_or_default().map(String::as_str).collect()
    }

    /// Whether a switch was given.
    pub fn is_set(&self, name: &str) -> bool {
        let value = self.matches.try_get_one::<bool>(name);
        value.ok().flatten().copied().unwrap_or(false)
    }

    /// The vhost.
    pub fn vhost(&self) -> &str {
        &self.global.vhost
    }

    /// The node the command is about.
    pub fn node(&self) -> &str {
        let own = || self.config.node_name.as_str();
        self.global.node.as_deref().unwrap_or_else(own)
    }

    /// Seconds to wait, for banners.
    pub fn seconds(&self) -> u64 {
        self.global.timeout.unwrap_or(TIMEOUT_S)
    }

    /// Says what is about to be done, unless nobody wants to know.
    pub fn banner(&self, text: impl AsRef<str>) {
        let manner = self.global.manner;
        if self.global.quiet || manner.silent || manner.format.is_machine() {
            return;
        }
        // Who does not read it does not miss it.
        drop(writeln!(std::io::stdout(), "{}", text.as_ref()));
    }

    /// A banner with the timeout above it.
    pub fn banner_with_timeout(&self, text: impl AsRef<str>) {
        self.banner(format!(
            "Timeout: {}.0 seconds ...\n{}",
            self.seconds(),
            text.as_ref()
        ));
    }

    /// A program reads the result.
    pub fn is_json(&self) -> bool {
        matches!(self.global.manner.format, Format::Json | Format::JsonStream)
    }

    /// Asks, and takes any answer of a node that serves.
    ///
    /// # Errors
    /// There is none.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Reply, Failure> {
        self.check_member()?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let reply = self.raw(method, path, body.as_bytes())?;
        let phase = reply.value["error"].as_str().unwrap_or_default();
        if reply.status == 503 && matches!(phase, "booting" | "stopped" | "stopping") {
            return Err(Failure::new(
                exit::USAGE,
                "Error: this command requires the 'rabbit' app to be running on the target node. Start it with 'rabbitmqctl start_app'.",
            ));
        }
        Ok(reply)
    }

    /// Asks, also a node that does not serve.
    ///
    /// # Errors
    /// There is no answer.
    pub fn raw(&self, method: &str, path: &str, body: &[u8]) -> Result<Reply, Failure> {
        let asked = self.client.ask(method, path, body);
        asked.map_err(|silence| self.silence(&silence))
    }

    /// What a silence means to whoever called.
    pub fn silence(&self, silence: &Silence) -> Failure {
        let node = self.node();
        if let Silence::Late = silence {
            let text = format!(
                "Error: operation {} on node {node} timed out. Timeout value used: {}",
                self.name,
                self.seconds() * 1000
            );
            return Failure::new(exit::TEMPORARY, text);
        }
        let socket = self.client.socket().display();
        let found = match silence {
            Silence::Nobody(error) if error.kind() == std::io::ErrorKind::NotFound => {
                format!("there is no control socket {socket}")
            }
            Silence::Nobody(error) => format!("{socket}: {error}"),
            Silence::Forbidden => {
                format!(
                    "{socket}: this account may not open it; only the broker's own and root may"
                )
            }
            Silence::Late | Silence::Strange => format!("{socket}: the answer makes no sense"),
        };
        Failure::new(
            exit::UNAVAILABLE,
            format!(
                "Error: unable to perform an operation on node '{node}'. Please see diagnostics information and suggestions below.\n\n\
                 Most common reasons for this are:\n\n \
                 * Target node is not running\n \
                 * Its data folder is another one: say RABBITMQ_MNESIA_DIR, or use `leveret --data-dir FOLDER ctl ...`\n \
                 * It runs on another machine: commands are answered by the node beside them\n\n\
                 DIAGNOSTICS\n===========\n\n{found}"
            ),
        )
    }

    /// What the node says of itself, whatever it does.
    ///
    /// # Errors
    /// It is not there.
    pub fn about(&self) -> Result<&Value, Failure> {
        if let Some(about) = self.about.get() {
            return Ok(about);
        }
        let reply = self.raw("GET", "/control/node", b"")?;
        Ok(self.about.get_or_init(|| reply.value))
    }

    /// Refuses what is asked of a node that is not the one here.
    ///
    /// # Errors
    /// `-n` names another.
    pub fn check_node(&self) -> Result<(), Failure> {
        let Some(wanted) = &self.global.node else {
            return Ok(());
        };
        let own = self.about()?["node"].as_str().unwrap_or_default();
        // A bare name stands for one on this host.
        let short = own.split('@').next().unwrap_or_default();
        if wanted == own || wanted == short {
            return Ok(());
        }
        let nobody = std::io::Error::other(format!("the node here is {own}, not {wanted}"));
        Err(self.silence(&Silence::Nobody(nobody)))
    }

    /// Refuses what is asked of a node that is no member of the cluster of the one here; once.
    fn check_member(&self) -> Result<(), Failure> {
        let Some(wanted) = &self.global.node else {
            return Ok(());
        };
        if self.member.get().is_some() || self.check_node().is_ok() {
            return Ok(());
        }
        let reply = self.raw("GET", "/api/nodes?columns=name", b"")?;
        let mut nodes = reply.value.as_array().into_iter().flatten();
        if nodes.any(|row| row["name"] == **wanted) {
            self.member.get_or_init(|| ());
            return Ok(());
        }
        self.check_node()
    }

    /// What is there.
    ///
    /// # Errors
    /// With the node's reason.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        let reply = self.ask("GET", path, None)?;
        match reply.is_good() {
            true => Ok(reply.value),
            false => Err(refused(&reply)),
        }
    }

    /// What is there, or nothing.
    ///
    /// # Errors
    /// With the node's reason, but for 404.
    pub fn find(&self, path: &str) -> Result<Option<Value>, Failure> {
        let reply = self.ask("GET", path, None)?;
        match reply.status {
            404 => Ok(None),
            _ if reply.is_good() => Ok(Some(reply.value)),
            _ => Err(refused(&reply)),
        }
    }

    /// A list.
    ///
    /// # Errors
    /// With the node's reason.
    pub fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        match self.get(path)? {
            Value::Array(rows) => Ok(rows),
            _ => Err(Failure::error(exit::SOFTWARE, "the answer is not a list")),
        }
    }

    /// Changes something.
    ///
    /// # Errors
    /// With the node's reason.
    pub fn put(&self, path: &str, body: &Value) -> Result<(), Failure> {
        self.change("PUT", path, Some(body))
    }

    /// Does something.
    ///
    /// # Errors
    /// With the node's reason.
    pub fn change(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(), Failure> {
        let reply = self.ask(method, path, body)?;
        match reply.is_good() {
            true => Ok(()),
            false => Err(refused(&reply)),
        }
    }

    /// Tells the process itself something.
    ///
    /// # Errors
    /// Why it does not.
    pub fn wish(&self, verb: &str, body: &str) -> Result<(), Failure> {
        let reply = self.raw("POST", &format!("/control/wish/{verb}"), body.as_bytes())?;
        match reply.is_good() {
            true => Ok(()),
            false => Err(refused(&reply)),
        }
    }

    /// Waits until something is so, asking again and again.
    ///
    /// # Errors
    /// It is not within the timeout, or asking fails for good.
    pub fn wait_until(
        &self,
        limit: Duration,
        mut is: impl FnMut() -> Result<bool, Failure>,
    ) -> Result<bool, Failure> {
        const PAUSE: Duration = Duration::from_millis(100);
        let until = std::time::Instant::now() + limit;
        loop {
            if is()? {
                return Ok(true);
            }
            if std::time::Instant::now() + PAUSE > until {
                return Ok(false);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// A refusal in RabbitMQ's frame.
pub fn refused(reply: &Reply) -> Failure {
    Failure::error(exit::UNAVAILABLE, reply.reason())
}

/// No such vhost.
pub fn no_vhost(name: &str) -> Failure {
    Failure::new(exit::DATA, format!("Virtual host '{name}' does not exist"))
}

/// No such user.
pub fn no_user(name: &str) -> Failure {
    Failure::error(exit::NO_USER, format!("User \"{name}\" does not exist"))
}
