//! The node's control socket: what its operator asks and tells from beside it, without an account.
//!
//! Need: the command line under RabbitMQ's names works before the node has formed a cluster, without a password, and from
//! nobody else's account. Shape: a Unix socket in the data folder that only its owner (and root) may open; HTTP/1, so
//! `/api/…` is the management API with an operator's rights, and `/control/…` what that API does not have. What the node
//! must do to itself (stop, start again, be reset) is a [`Wish`] to whoever runs it. Invariants: the socket is made only by
//! the holder of the data folder's lock; nothing that is told here reaches the log with a secret.
//! Limits: bodies as the API's; [`ANSWER_LIMIT`] for a wish.
//! Not here: what commands are called and how their results look.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request as HttpRequest, Response, StatusCode, header};
use futures_util::{Stream, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

use super::api::{self, Api};
use super::tail::{LINES_MAX, Tail};
use crate::cluster::peer::control::Ask;
use crate::rt::Supervisor;

/// The socket's name in the data folder.
pub const SOCKET: &str = "control.sock";
/// Longest path a Unix socket can have, with its closing zero.
const SOCKET_PATH_MAX: usize = 107;
/// To stop may take as long as the longest graceful stop.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
const BODY_BYTES_MAX: usize = 1 << 20;
const WISHES_MAX: usize = 16;

/// What the operator wants of the process itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// End the process.
    Stop,
    /// Stop serving; the process stays.
    StopApp,
    /// Serve again.
    StartApp,
    /// Forget everything; only while it does not serve.
    Reset,
    /// Join this node's cluster at the next start; only while it does not serve.
    Join(String),
    /// Log from this level on.
    LogLevel(String),
    /// Begin a new log file.
    RotateLogs,
    /// Block publishers from this much memory on, `relative 0.4` or `absolute 1GB`; until the next start.
    MemoryHighWatermark(String),
    /// Block publishers when less than this much disk is free, in the same form.
    DiskFreeLimit(String),
}

/// A [`Verb`], and where its result goes.
#[derive(Debug)]
pub struct Wish {
    /// What.
    pub verb: Verb,
    /// Done, or why not.
    pub told: oneshot::Sender<Result<(), String>>,
}

/// What can be said of the node before it serves.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Its name.
    pub node: String,
    /// Its folder.
    pub data_dir: PathBuf,
    /// The files its configuration came from.
    pub config_files: Vec<PathBuf>,
    /// Where its log goes.
    pub log_files: Vec<String>,
    /// RabbitMQ's version it stands for.
    pub version: String,
    /// What it is.
    pub product: String,
    /// How much memory it may use, as configured.
    pub memory_high_watermark: Value,
    /// Its configuration, without secrets.
    pub environment: Value,
    /// The variables of its environment that configure it, without secrets.
    pub variables: Value,
}

/// How far the node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It starts.
    Booting,
    /// It serves.
    Running,
    /// It was told to stop serving.
    Stopped,
    /// It is about to end.
    Stopping,
}

impl Phase {
    const fn name(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Stopping => "stopping",
        }
    }
}

struct Shared {
    about: Mutex<About>,
    state: Mutex<(Phase, Option<Arc<Api>>)>,
    wishes: mpsc::Sender<Wish>,
    supervisor: Supervisor,
    bound: Mutex<Option<PathBuf>>,
    tail: Arc<Tail>,
}

/// See the module's head.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

impl Control {
    /// The control of a node, and the wishes that come over it.
    #[must_use]
    pub fn new(about: About, tail: Arc<Tail>) -> (Self, mpsc::Receiver<Wish>) {
        let (wishes, received) = mpsc::channel(WISHES_MAX);
        let shared = Shared {
            about: Mutex::new(about),
            state: Mutex::new((Phase::Booting, None)),
            wishes,
            supervisor: Supervisor::default(),
            bound: Mutex::new(None),
            tail,
        };
        (Self(Arc::new(shared)), received)
    }

    /// Listens in the data folder, whose lock the caller holds. Once; later calls do nothing.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen(&self) -> io::Result<()> {
        let mut bound = self.0.bound.lock();
        if bound.is_some() {
            return Ok(());
        }
        let path = self.0.about.lock().data_dir.join(SOCKET);
        let listener = bind(&path)?;
        *bound = Some(path);
        let app = Router::new()
            .fallback(handle)
            .with_state(Arc::clone(&self.0));
        let supervisor = self.0.supervisor.clone();
        self.0.supervisor.spawn("control", async move {
            let stopping = async move { supervisor.stopping().await };
            let served = axum::serve(listener, app).with_graceful_shutdown(stopping);
            if let Err(error) = served.await {
                tracing::error!(%error, "the control socket ended");
            }
        });
        Ok(())
    }

    /// The node serves from now on, and this answers for it.
    pub fn serves(&self, api: Arc<Api>) {
        *self.0.state.lock() = (Phase::Running, Some(api));
    }

    /// What is said of the node from now on.
    pub fn describe(&self, about: About) {
        *self.0.about.lock() = about;
    }

    /// The node is in another phase, in which there is nothing to ask.
    pub fn enter(&self, phase: Phase) {
        *self.0.state.lock() = (phase, None);
    }

    /// Ends, after what is being answered.
    pub async fn stop(&self, limit: Duration) {
        self.enter(Phase::Stopping);
        if let Some(path) = self.0.bound.lock().take() {
            // The next start makes it anew; a stale one only refuses.
            drop(std::fs::remove_file(path));
        }
        self.0.supervisor.stop(limit).await;
    }
}

/// A path of any length: a long one is reached through its folder's descriptor.
fn short(path: &Path) -> io::Result<(PathBuf, Option<std::fs::File>)> {
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok((path.to_owned(), None));
    }
    let (folder, name) = (path.parent(), path.file_name());
    let (Some(folder), Some(name)) = (folder, name) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = std::fs::File::open(folder)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&folder);
    let short = Path::new("/proc/self/fd").join(fd.to_string()).join(name);
    Ok((short, Some(folder)))
}

/// Connects to a control socket.
///
/// # Errors
/// What the system says.
pub fn connect(path: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let (short, _folder) = short(path)?;
    std::os::unix::net::UnixStream::connect(short)
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    // What a killed process left behind; the lock says that nobody serves it.
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let (short, _folder) = short(path)?;
    // Nobody may connect before the permissions are right: a socket that does not listen yet refuses.
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(&short)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    let listener: std::os::unix::net::UnixListener = socket.into();
    UnixListener::from_std(listener)
}

fn answered(status: StatusCode, value: &Value) -> Response<Body> {
    let builder = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json");
    builder
        .body(Body::from(value.to_string()))
        .unwrap_or_default()
}

fn failed(status: StatusCode, error: &str, reason: &str) -> Response<Body> {
    answered(status, &json!({"error": error, "reason": reason}))
}

async fn handle(State(shared): State<Arc<Shared>>, request: HttpRequest<Body>) -> Response<Body> {
    // A client that leaves must not take a half-done request with it.
    let supervisor = shared.supervisor.clone();
    let answer = supervisor.spawn("control request", answer(shared, request));
    answer.await.unwrap_or_else(|_| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        failed(status, "internal", "the request was not completed")
    })
}

async fn answer(shared: Arc<Shared>, request: HttpRequest<Body>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if path == "/control/node" {
        return answered(StatusCode::OK, &shared.shown());
    }
    if path == "/control/log" {
        let query = request.uri().query().unwrap_or_default();
        return shared.log(query);
    }
    if let Some(verb) = path.strip_prefix("/control/wish/") {
        let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await;
        let body = body.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        return shared.wish(verb, body.unwrap_or_default()).await;
    }
    let (phase, api) = {
        let state = shared.state.lock();
        (state.0, state.1.clone())
    };
    match api {
        Some(api) if path == "/control/authenticate" && request.method() == Method::POST => {
            let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await;
            let body = body.unwrap_or_default();
            let given: Value = serde_json::from_slice(&body).unwrap_or_default();
            let text = |key: &str| given[key].as_str().unwrap_or_default();
            match api::authenticates(&api, text("user"), text("password")) {
                true => answered(StatusCode::OK, &json!({"status": "ok"})),
                false => failed(StatusCode::UNAUTHORIZED, "refused", "wrong credentials"),
            }
        }
        Some(api) if path == "/control/members/forget" => {
            let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await;
            let given: Value =
                serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
            let node = given["node"].as_str().unwrap_or_default().to_owned();
            told(api::tell_cluster(&api, Ask::Forget { node }).await)
        }
        Some(api) if path == "/control/certificates" => {
            answered(StatusCode::OK, &api::certificates_of(&api))
        }
        Some(api) if path == "/control/message_sizes" => {
            answered(StatusCode::OK, &api::message_sizes(&api))
        }
        Some(api) => match path.strip_prefix("/control/maintenance/") {
            Some(word) => {
                // Read to its end: a connection that closes on unread bytes is a broken pipe to its writer.
                drop(axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await);
                told(api::maintain(&api, word).await)
            }
            None => api::answer_operator(api, request).await,
        },
        None => failed(
            StatusCode::SERVICE_UNAVAILABLE,
            phase.name(),
            "the node does not serve",
        ),
    }
}

/// The next line; what was missed is said.
async fn heard(lines: &mut broadcast::Receiver<Arc<str>>) -> Option<String> {
    match lines.recv().await {
        Ok(line) => Some(line.to_string()),
        Err(broadcast::error::RecvError::Lagged(missed)) => {
            Some(format!("({missed} lines were missed)\n"))
        }
        Err(broadcast::error::RecvError::Closed) => None,
    }
}

fn told(result: Result<(), String>) -> Response<Body> {
    match result {
        Ok(()) => answered(StatusCode::OK, &json!({"status": "ok"})),
        Err(why) => failed(StatusCode::CONFLICT, "refused", &why),
    }
}

impl Shared {
    fn shown(&self) -> Value {
        let about = self.about.lock();
        json!({
            "node": about.node,
            "state": self.state.lock().0.name(),
            "pid": std::process::id(),
            "data_dir": about.data_dir,
            "config_files": about.config_files,
            "log_files": about.log_files,
            "version": about.version,
            "product": about.product,
            "memory_high_watermark": about.memory_high_watermark,
            "environment": about.environment,
            "variables": about.variables,
            "product_version": env!("CARGO_PKG_VERSION"),
        })
    }

    /// The last lines (`lines=N`), or those to come, for `seconds=N` or until whoever reads goes away.
    fn log(&self, query: &str) -> Response<Body> {
        let number = |name: &str| {
            let mut pairs = api::pairs(query);
            let found = pairs.find(|(key, _)| key == name);
            found.and_then(|(_, value)| value.parse::<u64>().ok())
        };
        let body = match number("lines") {
            Some(count) => Body::from(self.tail.last(usize::try_from(count).unwrap_or(LINES_MAX))),
            None => Body::from_stream(self.coming(number("seconds"))),
        };
        let builder = Response::builder().header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
        builder.body(body).unwrap_or_default()
    }

    fn coming(
        &self,
        seconds: Option<u64>,
    ) -> impl Stream<Item = Result<String, Infallible>> + use<> {
        let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let state = (self.tail.watch(), self.supervisor.clone());
        stream::unfold(state, move |(mut lines, supervisor)| async move {
            let over = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let line = tokio::select! {
                line = heard(&mut lines) => line?,
                () = over => return None,
                () = supervisor.stopping() => return None,
            };
            Some((Ok(line), (lines, supervisor)))
        })
    }

    async fn wish(&self, verb: &str, body: String) -> Response<Body> {
        let verb = match verb {
            "stop" => Verb::Stop,
            "stop_app" => Verb::StopApp,
            "start_app" => Verb::StartApp,
            "reset" => Verb::Reset,
            "join" => Verb::Join(body),
            "log_level" => Verb::LogLevel(body),
            "rotate_logs" => Verb::RotateLogs,
            "memory_high_watermark" => Verb::MemoryHighWatermark(body),
            "disk_free_limit" => Verb::DiskFreeLimit(body),
            _ => return failed(StatusCode::NOT_FOUND, "not_found", "no such verb"),
        };
        let (tell, result) = oneshot::channel();
        let wish = Wish { verb, told: tell };
        if self.wishes.try_send(wish).is_err() {
            let reason = "the node is busy with what it was told before";
            return failed(StatusCode::SERVICE_UNAVAILABLE, "busy", reason);
        }
        match tokio::time::timeout(ANSWER_LIMIT, result).await {
            Ok(Ok(result)) => told(result),
            _ => failed(StatusCode::SERVICE_UNAVAILABLE, "busy", "no answer in time"),
        }
    }
}
