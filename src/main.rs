//! The broker's binary: read the command line, start the node, wait for a signal.

mod cli;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use leveret::config::{Config, Loaded, document};
use leveret::node::{Running, Settings};
use leveret::systemd::Systemd;
use leveret::{operator, probe, telemetry};
use tokio::signal::unix::{Signal, SignalKind, signal};

use cli::{Cli, Command, ConfigCommand, Options};

/// How often systemd hears that a start goes on.
const START_SIGN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Config { command }) => {
            let (text, good) = match command {
                ConfigCommand::Check { file } => cli::check(&cli.options, file),
                ConfigCommand::Docs => (document::markdown(), true),
            };
            let shown = std::io::stdout().write_all(text.as_bytes()).is_ok();
            match good && shown {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Some(Command::Cluster { node, command }) => match cli.options.load() {
            Ok(loaded) => match operator::ask(&loaded.config, node, &command.ask()) {
                Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(_) => ExitCode::FAILURE,
                },
                Err(why) => fail(&why),
            },
            Err(problems) => fail(&problems),
        },
        Some(Command::Check) => match cli.options.load() {
            Ok(loaded) => match probe::probe(&doors(&loaded.config)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => fail(&why),
            },
            Err(problems) => fail(&problems),
        },
        None | Some(Command::Serve) => match cli.options.load() {
            Ok(loaded) => start(&cli.options, loaded),
            Err(problems) => fail(&problems),
        },
    }
}

/// Where the node of this configuration takes clients.
fn doors(config: &Config) -> probe::Doors<'_> {
    probe::Doors {
        plain: &config.listeners,
        tls: &config.tls_listeners,
        proxy: config.proxy_protocol,
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn start(options: &Options, loaded: Loaded) -> ExitCode {
    if let Err(error) = telemetry::start(&loaded.config) {
        return fail(&error);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(options, loaded)),
        Err(error) => fail(&error),
    }
}

/// Whatever had begun is as after a crash: nothing was acknowledged that is not on disk.
fn stopped_early() -> ExitCode {
    tracing::info!("asked to stop before the start was complete");
    ExitCode::SUCCESS
}

/// What the process is asked from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn tell(loaded: &Loaded) {
    for file in &loaded.files {
        tracing::info!(file = %file.display(), "configuration read");
    }
    for note in &loaded.notes {
        tracing::info!(key = %note.key, at = %note.place, "{}", note.why);
    }
}

async fn serve(options: &Options, mut loaded: Loaded) -> ExitCode {
    tell(&loaded);
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    let systemd = Systemd::new(&|name| std::env::var(name).ok(), std::process::id());
    // A node may wait for its peers for long.
    let started = {
        let mut starting = std::pin::pin!(Running::start(Settings::from(&loaded.config)));
        loop {
            systemd.starting();
            tokio::select! {
                started = &mut starting => break started,
                () = either(&mut signals.terminate, &mut signals.interrupt) => return stopped_early(),
                () = tokio::time::sleep(START_SIGN) => {}
            }
        }
    };
    let running = match started {
        Ok(running) => running,
        Err(error) => {
            tracing::error!(%error, "the node cannot start");
            return fail(&error);
        }
    };
    tracing::info!("Server startup complete");
    systemd.ready();
    let removed = loop {
        tokio::select! {
            () = either(&mut signals.terminate, &mut signals.interrupt) => break false,
            () = running.removed() => break true,
            _ = signals.hangup.recv() => {
                systemd.reloading();
                reload(options, &mut loaded, &running);
                systemd.ready();
            }
            () = life_sign(&systemd, &running) => systemd.alive(),
        }
    };
    systemd.stopping();
    if removed {
        tracing::error!("the node can serve no longer as a member");
    } else {
        tracing::info!("the node is asked to stop");
    }
    running.stop().await;
    tracing::info!("successfully stopped");
    match removed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// Completes when a sign of life is due and the node is alive; never for a node that is not, or that nobody watches.
async fn life_sign(systemd: &Systemd, running: &Running) {
    let Some(every) = systemd.watchdog() else {
        return std::future::pending().await;
    };
    tokio::time::sleep(every).await;
    running.answers().await;
}

/// Reads the configuration again and takes over what can change.
fn reload(options: &Options, loaded: &mut Loaded, running: &Running) {
    let new = match options.load() {
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
    running.reload(&Settings::from(&new.config));
    for (key, live) in loaded.assigned.changes(&new.assigned) {
        match live {
            true => tracing::info!(key, "changed"),
            false => tracing::warn!(key, "changed in the configuration: it needs a restart"),
        }
    }
    *loaded = new;
    tracing::info!("the configuration was read again");
}
