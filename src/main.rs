//! The broker's binary: read the command line, start the node, wait for a signal.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use leveret::cluster::Leaving;
use leveret::config::Loaded;
use leveret::node::{Running, Settings};
use leveret::{operator, probe, telemetry};
use tokio::signal::unix::{SignalKind, signal};

use cli::{Cli, Command, ConfigCommand};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Config {
            command: ConfigCommand::Check { file },
        }) => {
            let mut out = String::new();
            let usable = cli::check(&cli.options, file, &mut out).unwrap_or(false);
            let shown = std::io::stdout().write_all(out.as_bytes()).is_ok();
            if usable && shown {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Some(Command::Cluster { node, command }) => match cli.options.load() {
            Ok(loaded) => {
                let json = command.json();
                match operator::ask(&loaded.config, node, &command.ask(), json) {
                    Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
                        Ok(()) => ExitCode::SUCCESS,
                        Err(_) => ExitCode::FAILURE,
                    },
                    Err(why) => fail(&why),
                }
            }
            Err(problems) => fail(&problems),
        },
        Some(Command::Check) => match cli.options.load() {
            Ok(loaded) => match probe::probe(&loaded.config.listeners) {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => fail(&why),
            },
            Err(problems) => fail(&problems),
        },
        None | Some(Command::Serve) => match cli.options.load() {
            Ok(loaded) => start(loaded),
            Err(problems) => fail(&problems),
        },
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn start(loaded: Loaded) -> ExitCode {
    if let Err(error) = telemetry::start(&loaded.config) {
        return fail(&error);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(loaded)),
        Err(error) => fail(&error),
    }
}

/// Whatever had begun is as after a crash: nothing was acknowledged that is not on disk.
fn stopped_early() -> ExitCode {
    tracing::info!("asked to stop before the start was complete");
    ExitCode::SUCCESS
}

async fn serve(loaded: Loaded) -> ExitCode {
    for file in &loaded.files {
        tracing::info!(file = %file.display(), "configuration read");
    }
    for note in &loaded.notes {
        tracing::info!(key = %note.key, at = %note.place, "{}", note.why);
    }
    let signals = signal(SignalKind::terminate())
        .and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    loop {
        // A node may wait for its peers for long.
        let started = tokio::select! {
            started = Running::start(Settings::from(&loaded.config)) => started,
            _ = terminate.recv() => return stopped_early(),
            _ = interrupt.recv() => return stopped_early(),
        };
        let running = match started {
            Ok(running) => running,
            Err(error) => {
                tracing::error!(%error, "the node cannot start");
                return fail(&error);
            }
        };
        tracing::info!("Server startup complete");
        let leaving = tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            leaving = running.leaving() => Some(leaving),
        };
        match leaving {
            None => tracing::info!("the node is asked to stop"),
            Some(Leaving::Joins) => tracing::info!("the node leaves its cluster to join another"),
            Some(Leaving::Removed) => {
                tracing::error!("the node can serve no longer as a member");
            }
        }
        running.stop().await;
        tracing::info!("successfully stopped");
        match leaving {
            None => return ExitCode::SUCCESS,
            Some(Leaving::Removed) => return ExitCode::FAILURE,
            Some(Leaving::Joins) => {}
        }
    }
}
