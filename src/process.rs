//! The process that serves: start, signals, and what its operator tells it over the control socket.
//!
//! | told | does |
//! | --- | --- |
//! | SIGTERM, SIGINT, `stop` | ends |
//! | `stop_app` | stops serving and waits to be told more; the control socket stays |
//! | `start_app` | serves again, with what it was told meanwhile |
//! | `reset` | forgets its data, if it is not a member of a cluster with others |
//! | `join` | joins another node's cluster at the next start |

use std::process::ExitCode;
use std::time::Duration;

use leveret::config::Loaded;
use leveret::http::control::{Control, Phase, Verb, Wish};
use leveret::identity;
use leveret::node::{Running, Settings};
use leveret::telemetry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::fail;

/// What is being answered gets this long when the process ends.
const CONTROL_LIMIT: Duration = Duration::from_secs(5);

/// The ways to end a process from outside, and what it is told.
struct Ears {
    terminate: Signal,
    interrupt: Signal,
    wishes: mpsc::Receiver<Wish>,
}

/// What the process is to do.
enum Told {
    End,
    Wish(Wish),
}

impl Ears {
    async fn hear(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
            wish = self.wishes.recv() => wish.map_or(Told::End, Told::Wish),
        }
    }
}

/// Whoever wished may have given up.
fn tell(wish: Wish, result: Result<(), String>) {
    drop(wish.told.send(result));
}

/// Runs the node until its end.
pub async fn serve(loaded: Loaded) -> ExitCode {
    for file in &loaded.files {
        tracing::info!(file = %file.display(), "configuration read");
    }
    for note in &loaded.notes {
        tracing::info!(key = %note.key, at = %note.place, "{}", note.why);
    }
    let settings = Settings::from(&loaded.config);
    let (control, wishes) = Control::new(leveret::about(&loaded));
    let signals = signal(SignalKind::terminate())
        .and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let mut ears = match signals {
        Ok((terminate, interrupt)) => Ears {
            terminate,
            interrupt,
            wishes,
        },
        Err(error) => return fail(&error),
    };
    let code = run(settings, &control, &mut ears).await;
    control.stop(CONTROL_LIMIT).await;
    code
}

/// How serving ended.
enum Ended {
    Process(ExitCode),
    /// The operator stopped it and may start it again; whether no other node counts on it.
    App(bool),
}

async fn run(mut settings: Settings, control: &Control, ears: &mut Ears) -> ExitCode {
    let mut starter = None;
    loop {
        let alone = match serve_once(settings.clone(), control, ears, starter.take()).await {
            Ended::Process(code) => return code,
            Ended::App(alone) => alone,
        };
        starter = stopped(&mut settings, control, ears, alone).await;
        if starter.is_none() {
            return ExitCode::SUCCESS;
        }
    }
}

/// Serves until told otherwise. `starter` is whoever asked for the start.
async fn serve_once(
    settings: Settings,
    control: &Control,
    ears: &mut Ears,
    starter: Option<Wish>,
) -> Ended {
    control.enter(Phase::Booting);
    // A node may wait for its peers for long.
    let mut starting = std::pin::pin!(Running::start(settings, control.clone()));
    let started = loop {
        let told = tokio::select! {
            started = &mut starting => break started,
            told = ears.hear() => told,
        };
        // Whatever had begun is as after a crash: nothing was acknowledged that is not on disk.
        match told {
            Told::End => {
                tracing::info!("asked to stop before the start was complete");
                return Ended::Process(ExitCode::SUCCESS);
            }
            Told::Wish(wish) if wish.verb == Verb::Stop => {
                tell(wish, Ok(()));
                return Ended::Process(ExitCode::SUCCESS);
            }
            Told::Wish(wish) => other(wish, "the node is starting"),
        }
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
    if let Some(starter) = starter {
        tell(starter, Ok(()));
    }
    let (removed, wish) = serving(&running, ears).await;
    if removed {
        tracing::error!("the node can serve no longer as a member");
    } else {
        tracing::info!("the node is asked to stop");
    }
    let app = wish.as_ref().is_some_and(|wish| wish.verb == Verb::StopApp);
    control.enter(if app { Phase::Stopped } else { Phase::Stopping });
    let alone = running.is_alone();
    running.stop().await;
    tracing::info!("successfully stopped");
    if let Some(wish) = wish {
        tell(wish, Ok(()));
    }
    match (app, removed) {
        (true, _) => Ended::App(alone),
        (false, true) => Ended::Process(ExitCode::FAILURE),
        (false, false) => Ended::Process(ExitCode::SUCCESS),
    }
}

/// Waits for the end of serving: whether the cluster has taken the node out, and who wished for it.
async fn serving(running: &Running, ears: &mut Ears) -> (bool, Option<Wish>) {
    loop {
        let told = tokio::select! {
            told = ears.hear() => told,
            () = running.removed() => return (true, None),
        };
        match told {
            Told::End => return (false, None),
            Told::Wish(wish) => match wish.verb {
                Verb::Stop | Verb::StopApp => return (false, Some(wish)),
                Verb::StartApp => tell(wish, Ok(())),
                _ => other(
                    wish,
                    "this needs a node that does not serve: stop it with 'rabbitmqctl stop_app'",
                ),
            },
        }
    }
}

/// A wish that is the same in every phase, or is refused.
fn other(wish: Wish, why: &str) {
    let result = match &wish.verb {
        Verb::LogLevel(level) => telemetry::set_level(level).map_err(|error| error.to_string()),
        _ => Err(why.to_owned()),
    };
    tell(wish, result);
}

/// Waits to be told to serve again, and by whom; `None`: to end.
async fn stopped(
    settings: &mut Settings,
    control: &Control,
    ears: &mut Ears,
    alone: bool,
) -> Option<Wish> {
    control.enter(Phase::Stopped);
    loop {
        let wish = match ears.hear().await {
            Told::End => return None,
            Told::Wish(wish) => wish,
        };
        match &wish.verb {
            Verb::StartApp => return Some(wish),
            Verb::Stop => {
                tell(wish, Ok(()));
                return None;
            }
            Verb::StopApp => tell(wish, Ok(())),
            Verb::Reset if !alone => {
                let why = "other nodes count on this one: let one of them take it out first with \
                           'rabbitmqctl forget_cluster_node', while it serves";
                tell(wish, Err(why.to_owned()));
            }
            Verb::Reset => {
                let result = identity::forget(&settings.data_dir);
                if result.is_ok() {
                    tracing::warn!("the node's data is gone: it was told to reset");
                }
                tell(wish, result.map_err(|error| error.to_string()));
            }
            Verb::Join(node) => {
                let result = settings.cluster.join_node(node);
                tell(wish, result);
            }
            Verb::LogLevel(_) => other(wish, ""),
        }
    }
}
