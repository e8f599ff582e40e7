//! The process that serves: start, signals, and what its operator tells it over the control socket.
//!
//! | told | does |
//! | --- | --- |
//! | SIGTERM, SIGINT, `stop` | ends |
//! | SIGTSTP, SIGWINCH | nothing |
//! | SIGHUP | reads the configuration again and takes over what can change |
//! | `stop_app` | stops serving and waits to be told more; the control socket stays |
//! | `start_app` | serves again, with what it was told meanwhile |
//! | `reset` | lets the others take it out, then forgets its data |
//! | `join` | joins another node's cluster at the next start |
//! | `log_level` | logs from another level on |
//! | `rotate_logs` | begins a new log file |

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use leveret::cluster::{Leaving, Standing};
use leveret::config::{Loaded, value};
use leveret::http::Tail;
use leveret::http::control::{Control, Phase, Verb, Wish};
use leveret::identity::Folder;
use leveret::node::{self, Running, Settings};
use leveret::systemd::Systemd;
use leveret::telemetry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::cli::Options;
use super::fail;

/// How often systemd hears that a start goes on.
const START_SIGN: Duration = Duration::from_secs(10);
/// What is being answered gets this long when the process ends.
const CONTROL_LIMIT: Duration = Duration::from_secs(5);

/// A killed process may hold the data folder until the system has taken it apart.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// The others get this long to take this node out, replicas of its sets included.
const LEAVE_LIMIT: Duration = Duration::from_secs(90);

/// What the process is asked from outside.
struct Ears {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    wishes: mpsc::Receiver<Wish>,
}

/// What it is to do.
enum Told {
    End,
    Reload,
    Wish(Wish),
}

/// As with RabbitMQ neither a key press nor a window that changes its size stops a broker.
const PASSED_OVER: [i32; 2] = [libc::SIGTSTP, libc::SIGWINCH];

impl Ears {
    fn new(wishes: mpsc::Receiver<Wish>) -> std::io::Result<Self> {
        for number in PASSED_OVER {
            // Once asked for, a signal does nothing by itself as long as the process runs.
            drop(signal(SignalKind::from_raw(number))?);
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            wishes,
        })
    }

    async fn hear(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
            _ = self.hangup.recv() => {
                // Whatever the node is at: who moved the file away waits for another.
                if let Err(error) = telemetry::rotate(true) {
                    tracing::error!(%error, "the log file cannot be opened anew");
                }
                Told::Reload
            }
            wish = self.wishes.recv() => wish.map_or(Told::End, Told::Wish),
        }
    }
}

/// Whoever wished may have given up.
fn tell(wish: Wish, result: Result<(), String>) {
    drop(wish.told.send(result));
}

/// How serving ended.
enum Ended {
    Process(ExitCode),
    /// The operator stopped it and may start it again.
    App,
    /// It starts again, as a member of another cluster.
    Joins,
}

/// A `reset` that waits for the others.
struct Reset {
    wish: Wish,
    left: Pin<Box<dyn Future<Output = Result<(), String>>>>,
}

/// The process, between its start and its end.
struct Process<'a> {
    options: &'a Options,
    loaded: Loaded,
    /// Held to the end, also while the node does not serve.
    folder: Arc<Folder>,
    /// What the next start begins with.
    settings: Settings,
    control: Control,
    ears: Ears,
    systemd: Systemd,
    /// What the node was when it last served.
    standing: Standing,
}

/// Runs the node until its end.
pub async fn serve(options: &Options, loaded: Loaded, tail: Arc<Tail>) -> ExitCode {
    for file in &loaded.files {
        tracing::info!(file = %file.display(), "configuration read");
    }
    for note in &loaded.notes {
        tracing::info!(key = %note.key, at = %note.place, "{}", note.why);
    }
    let (control, wishes) = Control::new(leveret::about(&loaded), tail);
    let ears = match Ears::new(wishes) {
        Ok(ears) => ears,
        Err(error) => return fail(&error),
    };
    let settings = Settings::from(&loaded);
    let folder = match Folder::take(&settings.data_dir, LOCK_PATIENCE) {
        Ok(folder) => folder,
        Err(error) => {
            tracing::error!(%error, "the node cannot start");
            return fail(&error);
        }
    };
    let mut process = Process {
        options,
        folder,
        settings,
        loaded,
        control,
        ears,
        systemd: Systemd::new(&|name| std::env::var(name).ok(), std::process::id()),
        standing: Standing::default(),
    };
    let code = process.run().await;
    process.control.stop(CONTROL_LIMIT).await;
    code
}

impl Process<'_> {
    async fn run(&mut self) -> ExitCode {
        let mut starter = None;
        loop {
            match self.serve_once(starter.take()).await {
                Ended::Process(code) => return code,
                Ended::Joins => continue,
                Ended::App => {}
            }
            starter = self.stopped().await;
            if starter.is_none() {
                return ExitCode::SUCCESS;
            }
        }
    }

    /// Serves until told otherwise. `starter` is whoever asked for the start.
    async fn serve_once(&mut self, starter: Option<Wish>) -> Ended {
        self.control.enter(Phase::Booting);
        let started = match self.start().await {
            Ok(started) => started,
            Err(code) => return Ended::Process(code),
        };
        let running = match started {
            Ok(running) => running,
            Err(error) => {
                tracing::error!(%error, "the node cannot start");
                if let Some(starter) = starter {
                    tell(starter, Err(error.to_string()));
                }
                return Ended::Process(fail(&error));
            }
        };
        tracing::info!("Server startup complete");
        self.systemd.ready();
        if let Some(starter) = starter {
            tell(starter, Ok(()));
        }
        let (leaving, wish) = self.serving(&running).await;
        let app = wish.as_ref().is_some_and(|wish| wish.verb == Verb::StopApp);
        match leaving {
            None => tracing::info!("the node is asked to stop"),
            Some(Leaving::Joins) => tracing::info!("the node leaves its cluster to join another"),
            Some(Leaving::Removed) => tracing::error!("the node can serve no longer as a member"),
        }
        if !app && leaving != Some(Leaving::Joins) {
            self.systemd.stopping();
        }
        let phase = if app { Phase::Stopped } else { Phase::Stopping };
        self.control.enter(phase);
        self.standing = running.standing();
        running.stop().await;
        tracing::info!("successfully stopped");
        if let Some(wish) = wish {
            tell(wish, Ok(()));
        }
        match leaving {
            Some(Leaving::Joins) => Ended::Joins,
            Some(Leaving::Removed) => Ended::Process(ExitCode::FAILURE),
            None if app => Ended::App,
            None => Ended::Process(ExitCode::SUCCESS),
        }
    }

    /// Starts the node, unless the process is to end before that is done.
    async fn start(&mut self) -> Result<Result<Running, leveret::node::NodeError>, ExitCode> {
        // A node may wait for its peers for long.
        let folder = Arc::clone(&self.folder);
        let starting = Running::start(self.settings.clone(), self.control.clone(), folder);
        let mut starting = std::pin::pin!(starting);
        loop {
            self.systemd.starting();
            let told = tokio::select! {
                started = &mut starting => return Ok(started),
                told = self.ears.hear() => told,
                () = tokio::time::sleep(START_SIGN) => continue,
            };
            // Whatever had begun is as after a crash: nothing was acknowledged that is not on disk.
            match told {
                Told::End => {
                    tracing::info!("asked to stop before the start was complete");
                    return Err(ExitCode::SUCCESS);
                }
                Told::Reload => tracing::warn!("the node starts; its configuration is as it was"),
                Told::Wish(wish) if wish.verb == Verb::Stop => {
                    tell(wish, Ok(()));
                    return Err(ExitCode::SUCCESS);
                }
                Told::Wish(wish) => self.other(wish, "the node is starting"),
            }
        }
    }

    /// Waits for the end of serving: whether and why the node leaves its cluster, and who wished for the end.
    async fn serving(&mut self, running: &Running) -> (Option<Leaving>, Option<Wish>) {
        loop {
            let told = tokio::select! {
                told = self.ears.hear() => told,
                leaving = running.leaving() => return (Some(leaving), None),
                () = life_sign(&self.systemd, Some(running)) => {
                    self.systemd.alive();
                    continue;
                }
            };
            match told {
                Told::End => return (None, None),
                Told::Reload => {
                    self.systemd.reloading();
                    self.reload(running);
                    self.systemd.ready();
                }
                Told::Wish(wish) => match wish.verb {
                    Verb::Stop | Verb::StopApp => return (None, Some(wish)),
                    Verb::StartApp => tell(wish, Ok(())),
                    Verb::MemoryHighWatermark(_) | Verb::DiskFreeLimit(_) => {
                        let result = self.limit(&wish.verb, running);
                        tell(wish, result);
                    }
                    _ => self.other(
                        wish,
                        "this needs a node that does not serve: stop it with 'rabbitmqctl stop_app'",
                    ),
                },
            }
        }
    }

    /// A wish that is the same in every phase, or is refused.
    fn other(&mut self, wish: Wish, why: &str) {
        let result = match &wish.verb {
            Verb::LogLevel(level) => self.log_level(level),
            Verb::RotateLogs => telemetry::rotate(false).map_err(|error| error.to_string()),
            _ => Err(why.to_owned()),
        };
        tell(wish, result);
    }

    /// Takes over a watermark, until the process ends or its configuration is read again.
    fn limit(&mut self, verb: &Verb, running: &Running) -> Result<(), String> {
        let config = &mut self.loaded.config;
        match verb {
            Verb::MemoryHighWatermark(given) => {
                config.memory_high_watermark = value::threshold(given, 1.0)?;
                tracing::info!("memory high watermark set to {given}");
            }
            Verb::DiskFreeLimit(given) => {
                config.disk_free_limit = value::threshold(given, f64::MAX)?;
                tracing::info!("disk free limit set to {given}");
            }
            _ => return Err("no watermark".to_owned()),
        }
        let Settings {
            memory_limit_bytes,
            disk_free_limit_bytes,
            ..
        } = Settings::from(&*config);
        self.settings.memory_limit_bytes = memory_limit_bytes;
        self.settings.disk_free_limit_bytes = disk_free_limit_bytes;
        running.limit(memory_limit_bytes, disk_free_limit_bytes);
        self.control.describe(leveret::about(&self.loaded));
        Ok(())
    }

    fn log_level(&mut self, level: &str) -> Result<(), String> {
        self.loaded.config.log_level = value::level(level)?;
        telemetry::relevel(&self.loaded.config).map_err(|error| error.to_string())
    }

    /// Waits to be told to serve again, and by whom; `None`: to end.
    async fn stopped(&mut self) -> Option<Wish> {
        self.control.enter(Phase::Stopped);
        let mut reset: Option<Reset> = None;
        loop {
            let told = tokio::select! {
                told = self.ears.hear() => told,
                () = life_sign(&self.systemd, None) => {
                    self.systemd.alive();
                    continue;
                }
                left = left(&mut reset) => {
                    let result = left.and_then(|()| self.forget());
                    if let Some(Reset { wish, .. }) = reset.take() {
                        tell(wish, result);
                    }
                    continue;
                }
            };
            let wish = match told {
                Told::End => return None,
                Told::Reload => {
                    tracing::warn!("the node does not serve; its configuration is as it was");
                    continue;
                }
                Told::Wish(wish) => wish,
            };
            match &wish.verb {
                Verb::Stop => {
                    tell(wish, Ok(()));
                    return None;
                }
                Verb::StopApp => tell(wish, Ok(())),
                Verb::LogLevel(_) | Verb::RotateLogs => self.other(wish, ""),
                Verb::MemoryHighWatermark(_) | Verb::DiskFreeLimit(_) => {
                    self.other(wish, "the node does not serve");
                }
                _ if reset.is_some() => self.other(wish, "the node is leaving its cluster"),
                Verb::StartApp => return Some(wish),
                Verb::Reset => reset = Some(self.reset(wish)),
                Verb::Join(member) => {
                    let result = node::join(&self.settings, &self.standing, member).await;
                    tell(wish, result);
                }
            }
        }
    }

    fn reset(&self, wish: Wish) -> Reset {
        let (settings, standing) = (self.settings.clone(), self.standing.clone());
        let left = async move {
            match standing.others.is_empty() {
                true => Ok(()),
                false => node::leave(&settings, &standing, LEAVE_LIMIT).await,
            }
        };
        Reset {
            wish,
            left: Box::pin(left),
        }
    }

    fn forget(&mut self) -> Result<(), String> {
        self.folder.forget().map_err(|error| error.to_string())?;
        self.standing = Standing::default();
        tracing::warn!("the node's data is gone: it was told to reset");
        Ok(())
    }

    /// Reads the configuration again and takes over what can change.
    fn reload(&mut self, running: &Running) {
        let new = match self.options.load() {
            Ok(new) => new,
            Err(problems) => {
                for problem in &problems.0 {
                    tracing::error!("{problem}");
                }
                tracing::error!("the configuration stays as it was");
                return;
            }
        };
        if let Err(error) = telemetry::relevel(&new.config) {
            tracing::error!(%error, "log levels stay as they were");
        }
        self.settings = Settings {
            data_dir: self.folder.path().to_owned(),
            ..Settings::from(&new)
        };
        running.reload(&self.settings);
        for (key, live) in self.loaded.assigned.changes(&new.assigned) {
            match live {
                true => tracing::info!(key, "changed"),
                false => tracing::warn!(key, "changed in the configuration: it needs a restart"),
            }
        }
        self.loaded = new;
        self.control.describe(leveret::about(&self.loaded));
        tracing::info!("the configuration was read again");
    }
}

/// Completes when the others have taken the node out that is to be reset; never if none is.
async fn left(reset: &mut Option<Reset>) -> Result<(), String> {
    match reset {
        Some(reset) => reset.left.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Completes when a sign of life is due and the node, if one is to serve, is alive; never for a node that is not, or that
/// nobody watches.
async fn life_sign(systemd: &Systemd, running: Option<&Running>) {
    let Some(every) = systemd.watchdog() else {
        return std::future::pending().await;
    };
    tokio::time::sleep(every).await;
    if let Some(running) = running {
        running.answers().await;
    }
}
