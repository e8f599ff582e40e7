//! One broker process.
//!
//! Need: start, ask, kill, start again on the same data and the same ports.
//! Shape: [`Broker`] owns the child, its data folder and its captured log.
//! Invariants: ready means that the process said so; a dropped broker is a dead process; a failing test shows the log.
//! Limits: 120 s to get ready, 60 s to stop.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{build, eventually, foreign_url};

const READY_LINE: &str = "Server startup complete";
const READY_WITHIN: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Lines for the configuration file beyond ports and user, each `(key, value)`.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

/// A process that ended before it was ready.
#[derive(Clone, Debug)]
pub struct Refused {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard error.
    pub stderr: String,
}

/// A broker for tests: ours, or the one that `COMPAT_AMQP_URL` names.
pub struct Broker {
    url: String,
    data: tempfile::TempDir,
    amqp_port: u16,
    metrics_port: u16,
    management_port: u16,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    log: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    startup: Duration,
}

impl Broker {
    /// Starts a broker with the default settings, or takes the foreign one.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a broker with more lines in its configuration.
    ///
    /// # Panics
    /// When the process ends or stays silent instead of getting ready.
    #[must_use]
    pub fn start_with(settings: Settings<'_>) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut broker = Self::prepared(data, settings);
        if foreign_url().is_none() {
            broker.launch();
        }
        broker
    }

    /// Starts a broker of ours with environment variables.
    ///
    /// # Panics
    /// As [`Self::start_with`].
    #[must_use]
    pub fn start_in(environment: &[(&str, &str)], settings: Settings<'_>) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut broker = Self::prepared(data, settings);
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        broker.environment = environment.iter().map(owned).collect();
        broker.launch();
        broker
    }

    /// Starts a broker of ours in a folder of the test's making; what it keeps is in `data` of that folder.
    ///
    /// # Errors
    /// [`Refused`] when the process ends instead of getting ready.
    pub fn attempt(folder: tempfile::TempDir, settings: Settings<'_>) -> Result<Self, Refused> {
        let mut broker = Self::prepared(folder, settings);
        broker.try_launch().map(|()| broker)
    }

    fn prepared(data: tempfile::TempDir, settings: Settings<'_>) -> Self {
        let (amqp_port, metrics_port) = (free_port(), free_port());
        let foreign = foreign_url();
        let broker = Self {
            url: foreign
                .clone()
                .unwrap_or_else(|| format!("amqp://guest:guest@127.0.0.1:{amqp_port}/%2f")),
            data,
            amqp_port,
            metrics_port,
            management_port: free_port(),
            environment: Vec::new(),
            child: None,
            log: Arc::default(),
            stderr: Arc::default(),
            startup: Duration::ZERO,
        };
        if foreign.is_none() {
            broker.write_config(settings);
        }
        broker
    }

    /// The AMQP URL, with user, password and vhost.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where a client of ours connects to a broker of ours.
    #[must_use]
    pub const fn amqp_port(&self) -> u16 {
        self.amqp_port
    }

    /// The address of the metrics, as an HTTP URL.
    #[must_use]
    pub fn metrics_url(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.metrics_port)
    }

    /// The address of the management API, without user and path.
    #[must_use]
    pub fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.management_port)
    }

    /// The folder with all that the broker keeps.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// The last megabyte of what the process wrote to both its outputs.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut().expect("a broker of ours");
        child.try_wait().expect("wait")
    }

    /// The process id. Panics when no process of ours is running.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running broker of ours").id()
    }

    /// How long the last start took, from exec to the ready line.
    #[must_use]
    pub const fn startup(&self) -> Duration {
        self.startup
    }

    /// Resident memory now, bytes, as the kernel counts it (`VmRSS`).
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("a live process");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("VmRSS");
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .expect("a figure")
            .parse()
            .expect("a number");
        kib * 1024
    }

    /// The process ends at once, with no chance to write anything.
    pub fn kill_dash_nine(&mut self) {
        let mut child = self.child.take().expect("a running broker of ours");
        child.kill().expect("SIGKILL");
        child.wait().expect("the dead process is collected");
    }

    /// Starts again on the same data and ports; kills first when still running.
    pub fn restart(&mut self) {
        if self.child.is_some() {
            self.kill_dash_nine();
        }
        self.launch();
    }

    /// Starts again on the same data and ports after the process ended.
    ///
    /// # Errors
    /// [`Refused`] when the process ends instead of getting ready.
    pub fn try_restart(&mut self) -> Result<(), Refused> {
        assert!(
            self.child.is_none() || self.ended().is_some(),
            "the process still runs"
        );
        self.try_launch()
    }

    /// Stops gracefully with SIGTERM.
    ///
    /// # Panics
    /// When the process does not end within a minute, or not with 0.
    pub fn stop(&mut self) {
        self.terminate();
        let status = self.wait_end();
        assert!(status.success(), "a graceful stop ended with {status}");
    }

    /// Sends SIGTERM and returns at once, so a test can watch what clients see. [`Broker::wait_end`] comes next.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal, by its name without SIG.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success(), "SIG{name} was not sent");
    }

    /// Waits for the end of a terminated process.
    pub fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a running broker of ours");
        eventually(STOP_WITHIN, || child.try_wait().expect("wait"))
    }

    /// The text of `/metrics`, by a plain HTTP/1.1 request.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut socket =
            TcpStream::connect(("127.0.0.1", self.metrics_port)).expect("the metrics port listens");
        socket
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("request");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("answer");
        assert!(
            answer.starts_with("HTTP/1.1 200"),
            "metrics answered: {answer}"
        );
        answer
    }

    /// Other settings, from the next start on.
    pub fn reconfigure(&self, settings: Settings<'_>) {
        self.write_config(settings);
    }

    fn write_config(&self, settings: Settings<'_>) {
        let mut text = format!(
            "listeners.tcp.default = 127.0.0.1:{}\nprometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {}\n\
             management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {}\n\
             default_user = guest\ndefault_pass = guest\n",
            self.amqp_port, self.metrics_port, self.management_port
        );
        for (key, value) in settings {
            writeln!(text, "{key} = {value}").expect("a string grows");
        }
        std::fs::write(self.data.path().join("test.conf"), text)
            .expect("the configuration is written");
    }

    fn launch(&mut self) {
        let launched = self.try_launch();
        assert!(
            launched.is_ok(),
            "the broker ended before it was ready: {launched:?}"
        );
    }

    fn try_launch(&mut self) -> Result<(), Refused> {
        let begin = Instant::now();
        let mut child = Command::new(build::binary())
            .arg("--data-dir")
            .arg(self.data.path().join("data"))
            .arg("--config")
            .arg(self.data.path().join("test.conf"))
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the broker's binary starts");
        self.log.lock().expect("log").clear();
        self.stderr.lock().expect("log").clear();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let both = Arc::clone(&self.log);
        capture(out.expect("stdout"), vec![Arc::clone(&both)]);
        let heard = capture(err.expect("stderr"), vec![both, Arc::clone(&self.stderr)]);
        // From here on a panic drops `self`, and with it the process.
        let child = self.child.insert(child);
        let log = Arc::clone(&self.log);
        let ended = eventually(READY_WITHIN, || {
            if log.lock().expect("log").contains(READY_LINE) {
                return Some(None);
            }
            child.try_wait().expect("wait").map(Some)
        });
        self.startup = begin.elapsed();
        let Some(status) = ended else { return Ok(()) };
        heard.join().expect("its last words are read");
        Err(Refused {
            status,
            stderr: self.stderr.lock().expect("log").clone(),
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way it must be collected.
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            let log = self.log.lock().map(|log| log.clone()).unwrap_or_default();
            println!("---- log of the broker ----\n{log}---- end of log ----");
            self.data.disable_cleanup(true);
            println!("its data is kept in {}", self.data.path().display());
        }
    }
}

/// Copies lines into the logs, so the process never blocks on a full pipe. A log keeps the last megabyte.
fn capture(stream: impl Read + Send + 'static, logs: Vec<Arc<Mutex<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            for log in &logs {
                append(&mut log.lock().expect("log"), &line);
            }
        }
    })
}

fn append(log: &mut String, line: &str) {
    if log.len() > 1 << 20 {
        let middle = log.len() / 2;
        let half = log.as_bytes()[..middle]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        log.drain(..half);
    }
    log.push_str(line);
    log.push('\n');
}

/// A port nobody listens on now. Below those the system gives to outgoing connections: one of those could take the
/// port before the broker does.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + begin.wrapping_add(step) % COUNT;
        let port = u16::try_from(port).expect("below 32000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
