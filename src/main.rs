//! The broker's binary: read the command line, start the node, wait for a signal.

mod cli;
mod process;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use leveret::config::{Config, Loaded, document};
use leveret::http::Tail;
use leveret::{operator, probe, telemetry};

use cli::{Cli, Command, ConfigCommand, Options, ctl};

fn main() -> ExitCode {
    if let Some(code) = as_tool() {
        return code;
    }
    let cli = Cli::parse();
    if let Some((tool, args)) = cli.command.as_ref().and_then(Command::tool) {
        return run_tool(tool, args, &cli.options);
    }
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
            Ok(loaded) => match probe::probe(&doors(&loaded.config)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => fail(&why),
            },
            Err(problems) => fail(&problems),
        },
        Some(Command::Completions { shell, tool }) => shown(&cli::completions(shell, &tool)),
        Some(Command::Man { folder }) => match cli::manuals(&folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(&why),
        },
        _ => match cli.options.load() {
            Ok(loaded) => start(&cli.options, loaded),
            Err(problems) => fail(&problems),
        },
    }
}

/// The program under one of RabbitMQ's names.
fn as_tool() -> Option<ExitCode> {
    let args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let name = args.first()?.rsplit('/').next()?;
    let options = Options::default();
    if name == "rabbitmq-server" {
        // Its one option, -detached, is for those who start it by hand.
        return Some(match options.load() {
            Ok(loaded) => start(&options, loaded),
            Err(problems) => fail(&problems),
        });
    }
    let tool = ctl::Tool::named(name)?;
    Some(run_tool(tool, args, &options))
}

fn run_tool(tool: ctl::Tool, args: Vec<String>, options: &Options) -> ExitCode {
    ctl::run(tool, args, || {
        let loaded = options.load().map_err(|problems| problems.to_string())?;
        Ok(loaded.config)
    })
}

fn shown(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
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
    let tail = Arc::new(Tail::default());
    if let Err(error) = telemetry::start(&loaded.config, Arc::clone(&tail)) {
        return fail(&error);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(process::serve(options, loaded, tail)),
        Err(error) => fail(&error),
    }
}
