//! One process of a cluster: its folder, its configuration, its log, and what can be done to it.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::Shape;
use crate::{build, eventually};

const READY_LINE: &str = "Server startup complete";
const READY_WITHIN: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// The wall clock of a process, moved by what a file says: eight bytes, nanoseconds, in the machine's byte order.
const SKEW_SOURCE: &str = include_str!("skew.c");

pub(super) struct Node {
    folder: PathBuf,
    data: PathBuf,
    name: String,
    host: String,
    child: Option<Child>,
    /// Where in the log the present life begins.
    life: u64,
    preload: Option<PathBuf>,
}

impl Node {
    pub(super) fn new(
        folder: PathBuf,
        data: Option<PathBuf>,
        hosts: &[String],
        number: usize,
        shape: &Shape<'_>,
    ) -> Self {
        let host = hosts[number].clone();
        let mut text = format!(
            "listeners.tcp.1 = {host}:5672\nprometheus.tcp.ip = {host}\nprometheus.tcp.port = 15692\n\
             management.tcp.ip = {host}\nmanagement.tcp.port = 15672\n\
             leveret.cluster.listener = {host}:25672\nleveret.cluster.secret = {}\nloopback_users = none\n\
             cluster_formation.peer_discovery_backend = classic_config\n",
            shape.secret
        );
        for (place, host) in (1..).zip(hosts) {
            writeln!(
                text,
                "cluster_formation.classic_config.nodes.{place} = rabbit@{host}"
            )
            .expect("a string grows");
        }
        let own = shape.own.get(number).into_iter().flatten();
        for (key, value) in shape.settings.iter().chain(own) {
            writeln!(text, "{key} = {value}").expect("a string grows");
        }
        std::fs::write(folder.join("conf"), text).expect("the configuration is written");
        File::create(folder.join("log")).expect("a log");
        std::fs::write(folder.join("skew"), 0_i64.to_ne_bytes()).expect("a skew");
        Self {
            data: data.unwrap_or_else(|| folder.join("data")),
            folder,
            name: format!("rabbit@{host}"),
            host,
            child: None,
            life: 0,
            preload: None,
        }
    }

    pub(super) fn spawn(&mut self, prefix: &[String]) {
        assert!(self.child.is_none(), "{} runs already", self.host);
        let mut words = prefix.to_vec();
        words.push(build::binary().display().to_string());
        self.life = std::fs::metadata(self.folder.join("log"))
            .expect("a log")
            .len();
        let log = OpenOptions::new()
            .append(true)
            .open(self.folder.join("log"))
            .expect("the log opens");
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg("--data-dir")
            .arg(&self.data)
            .arg("--config")
            .arg(self.folder.join("conf"))
            .env("RABBITMQ_NODENAME", &self.name)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        if let Some(library) = &self.preload {
            command
                .env("LD_PRELOAD", library)
                .env("SKEW_FILE", self.folder.join("skew"));
        }
        self.child = Some(command.spawn().expect("the broker's binary starts"));
    }

    pub(super) fn operate(
        &self,
        prefix: &[String],
        address: &str,
        words: &[&str],
    ) -> Result<String, String> {
        let mut line = prefix.to_vec();
        line.push(build::binary().display().to_string());
        let out = Command::new(&line[0])
            .args(&line[1..])
            .arg("--config")
            .arg(self.folder.join("conf"))
            .args(["cluster", "--node", address])
            .args(words)
            .env("RABBITMQ_NODENAME", &self.name)
            .output()
            .expect("the binary starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match out.status.success() {
            true => Ok(text(&out.stdout)),
            false => Err(text(&out.stderr)),
        }
    }

    pub(super) fn tool(&self, line: &str) -> Result<String, String> {
        let (tool, words) = line.split_once(' ').unwrap_or((line, ""));
        let out = Command::new(build::binary())
            .arg0(tool)
            .args(words.split_whitespace())
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_MNESIA_DIR", &self.data)
            .env("RABBITMQ_CONFIG_FILE", self.folder.join("conf"))
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match out.status.code() {
            Some(0) => Ok(text(&out.stdout)),
            code => Err(format!("{code:?}: {}", text(&out.stderr))),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn ready(&mut self) {
        let end = eventually(READY_WITHIN, || {
            if self.is_ready() {
                return Some(None);
            }
            let child = self.child.as_mut().expect("a spawned node");
            child.try_wait().expect("wait").map(Some)
        });
        if let Some(status) = end {
            panic!("{} ended with {status} before it was ready", self.host);
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        let log = self.log();
        let from = usize::try_from(self.life).expect("a log of moderate size");
        log.get(from..)
            .is_some_and(|life| life.contains(READY_LINE))
    }

    pub(super) const fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub(super) fn kill(&mut self) {
        let mut child = self.child.take().expect("a running node");
        child.kill().expect("SIGKILL");
        child.wait().expect("the dead process is collected");
    }

    pub(super) fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("a running node");
        let status = Command::new("kill")
            .args([&format!("-{name}"), &child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success(), "SIG{name} was not sent");
    }

    /// Stands still when this returns: the signal is taken by one thread, which tells the others once it runs, and on a busy
    /// machine that may be after several requests.
    pub(super) fn stand_still(&self) {
        self.signal("STOP");
        let child = self.child.as_ref().expect("a running node");
        let tasks = format!("/proc/{}/task", child.id());
        eventually(STOP_WITHIN, || {
            let mut threads = std::fs::read_dir(&tasks).ok()?.flatten();
            let stopped = threads.all(|thread| {
                let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                // The name, which may hold anything, is in parentheses; a thread that has just ended has no line.
                let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
                matches!(state, None | Some(Some('T')))
            });
            stopped.then_some(())
        });
    }

    pub(super) fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a running node");
        eventually(STOP_WITHIN, || child.try_wait().expect("wait"))
    }

    pub(super) fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut().expect("a started node");
        child.try_wait().expect("wait").is_some()
    }

    pub(super) fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way it must be collected.
            drop(child.kill());
            drop(child.wait());
        }
    }

    pub(super) fn preload(&mut self, library: PathBuf) {
        self.preload = Some(library);
    }

    pub(super) fn skew(&self, seconds: i64) {
        let nanos = seconds * 1_000_000_000;
        // The file is mapped by the process: it must be written in place.
        let mut file = OpenOptions::new()
            .write(true)
            .open(self.folder.join("skew"))
            .expect("the skew opens");
        std::io::Write::write_all(&mut file, &nanos.to_ne_bytes()).expect("the clock is moved");
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data
    }

    pub(super) fn set_data_dir(&mut self, folder: PathBuf) {
        assert!(self.child.is_none(), "{} runs", self.host);
        self.data = folder;
    }

    pub(super) fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A library that moves the wall clock of the process that preloads it.
pub(super) fn build_skew(folder: &Path) -> Result<PathBuf, String> {
    let (source, library) = (folder.join("skew.c"), folder.join("skew.so"));
    std::fs::write(&source, SKEW_SOURCE).map_err(|error| error.to_string())?;
    let out = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .output()
        .map_err(|error| format!("cc: {error}"))?;
    if out.status.success() {
        Ok(library)
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}
