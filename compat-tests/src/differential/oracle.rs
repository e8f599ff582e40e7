//! A RabbitMQ of our own.
//!
//! Need: an oracle without an installation that others use, and without touching theirs.
//! Shape: `COMPAT_DIFFERENTIAL_URL` names one that runs; otherwise the one installed here (Debian's paths), or the one in
//! `RABBITMQ_ROOT`, a folder with another Debian in it, is started on ports, folders and a port mapper of its own.
//! Limits: one node; a folder is entered by `chroot`, for which one must be root.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::client::{Address, Client};
use crate::{eventually, free_port};

const SERVER: &str = "usr/lib/rabbitmq/bin/rabbitmq-server";
const READY_WITHIN: Duration = Duration::from_secs(180);

/// An oracle, and the virtual hosts that programs may use at the same time.
pub struct Oracle {
    addresses: Vec<Address>,
    processes: Vec<Child>,
    folder: Option<tempfile::TempDir>,
}

impl Oracle {
    /// The oracle that the environment asks for, with so many virtual hosts.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(vhosts: usize) -> Result<Self, String> {
        if let Ok(url) = std::env::var("COMPAT_DIFFERENTIAL_URL") {
            return Ok(Self {
                addresses: addresses(&url)?,
                processes: Vec::new(),
                folder: None,
            });
        }
        let root = PathBuf::from(std::env::var("RABBITMQ_ROOT").unwrap_or_else(|_| "/".into()));
        if root.join(SERVER).exists() {
            Self::start(&root, vhosts)
        } else {
            Err(format!(
                "no COMPAT_DIFFERENTIAL_URL, and no {}",
                root.join(SERVER).display()
            ))
        }
    }

    /// Where each virtual host is.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    fn start(root: &Path, vhosts: usize) -> Result<Self, String> {
        let folder = tempfile::Builder::new()
            .prefix("oracle")
            .tempdir_in(root.join("tmp"))
            .map_err(|error| error.to_string())?;
        let inside = Path::new("/tmp").join(folder.path().file_name().expect("a name"));
        let ports = [free_port(), free_port(), free_port()];
        let names: Vec<String> = (0..vhosts).map(|number| format!("d{number}")).collect();
        write_files(folder.path(), &inside, ports[0], &names).map_err(|error| error.to_string())?;
        let run = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(if root == Path::new("/") {
                "env"
            } else {
                "chroot"
            });
            if root != Path::new("/") {
                command.arg(root).arg("env");
            }
            command
                .args(environment(&inside, ports))
                .arg(program)
                .args(arguments);
            let log = std::fs::File::create(folder.path().join("log"))
                .map_err(|error| error.to_string())?;
            command
                .stdin(Stdio::null())
                .stdout(log)
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| error.to_string())
        };
        // The mapper is a child of ours, or it would be left behind.
        let mapper = run("epmd", &["-port", &ports[1].to_string()])?;
        let mut oracle = Self {
            addresses: names
                .iter()
                .map(|name| address(&format!("127.0.0.1:{}", ports[0]), name))
                .collect(),
            processes: vec![mapper],
            folder: None,
        };
        eventually(READY_WITHIN, || {
            TcpStream::connect(("127.0.0.1", ports[1])).ok()
        });
        oracle.processes.push(run(&format!("/{SERVER}"), &[])?);
        oracle.folder = Some(folder);
        eventually(READY_WITHIN, || Client::open(&oracle.addresses[0]).ok());
        Ok(oracle)
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // The node ends by a signal; the shell script it was started by has become the node.
        for child in self.processes.iter_mut().rev() {
            let ended = Command::new("kill").arg(child.id().to_string()).status();
            drop(ended);
            drop(child.wait());
        }
        if std::thread::panicking()
            && let Some(folder) = &self.folder
        {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            println!("---- log of the oracle ----\n{log}---- end of log ----");
        }
    }
}

fn environment(inside: &Path, ports: [u16; 3]) -> Vec<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let inside = inside.display();
    vec![
        format!("HOME={inside}"),
        "LANG=C.UTF-8".into(),
        format!("PATH={path}:/usr/sbin:/sbin:/usr/bin:/bin"),
        format!("ERL_EPMD_PORT={}", ports[1]),
        format!("RABBITMQ_NODENAME=oracle{}@localhost", std::process::id()),
        format!("RABBITMQ_NODE_PORT={}", ports[0]),
        "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1".into(),
        format!("RABBITMQ_DIST_PORT={}", ports[2]),
        format!("RABBITMQ_MNESIA_BASE={inside}/data"),
        format!("RABBITMQ_LOG_BASE={inside}"),
        format!("RABBITMQ_CONFIG_FILE={inside}/oracle"),
        format!("RABBITMQ_ENABLED_PLUGINS_FILE={inside}/plugins"),
        "RABBITMQ_ENABLED_PLUGINS=NONE".into(),
    ]
}

fn write_files(folder: &Path, inside: &Path, port: u16, vhosts: &[String]) -> std::io::Result<()> {
    let list =
        |row: &dyn Fn(&String) -> String| vhosts.iter().map(row).collect::<Vec<_>>().join(",");
    let definitions = format!(
        r#"{{"vhosts":[{}],"users":[{{"name":"guest","password":"guest","tags":"administrator"}}],"permissions":[{}]}}"#,
        list(&|name| format!(r#"{{"name":"{name}"}}"#)),
        list(&|name| format!(
            r#"{{"user":"guest","vhost":"{name}","configure":".*","write":".*","read":".*"}}"#
        )),
    );
    std::fs::write(folder.join("definitions.json"), definitions)?;
    std::fs::write(
        folder.join("oracle.conf"),
        format!(
            "listeners.tcp.default = 127.0.0.1:{port}\nload_definitions = {}\nlog.console = true\nlog.console.level = warning\n",
            inside.join("definitions.json").display()
        ),
    )
}

fn address(socket: &str, vhost: &str) -> Address {
    Address {
        socket: socket.to_owned(),
        user: "guest".into(),
        password: "guest".into(),
        vhost: vhost.to_owned(),
    }
}

/// `amqp://user:password@host:port/vhost,vhost…`: each virtual host runs one program at a time.
fn addresses(url: &str) -> Result<Vec<Address>, String> {
    let bad = || format!("not amqp://user:password@host:port/vhost,…: {url}");
    let rest = url.strip_prefix("amqp://").ok_or_else(bad)?;
    let (login, rest) = rest.split_once('@').ok_or_else(bad)?;
    let (user, password) = login.split_once(':').ok_or_else(bad)?;
    let (socket, vhosts) = rest.split_once('/').ok_or_else(bad)?;
    Ok(vhosts
        .split(',')
        .map(|vhost| Address {
            socket: socket.into(),
            user: user.into(),
            password: password.into(),
            vhost: vhost.replace("%2f", "/"),
        })
        .collect())
}
