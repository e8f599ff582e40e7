//! The commands people script, under RabbitMQ's names.
//!
//! Need: scripts, probes and configuration management that call `rabbitmqctl` and its siblings go on as they are. Shape:
//! [`Tool`] is the name the program was called by (a link to it, or `leveret ctl`, `leveret diagnostics`, …); [`table`] lists the
//! commands, each a [`Spec`] and a function from a [`Call`] to an [`Output`]; what a command asks of the node goes over
//! the control socket, to the same resources that the management API serves. Invariants: standard output holds results and
//! nothing else once a machine's format is asked for; errors go to standard error; exit codes are RabbitMQ's.
//! Limits: a command is about the node of this machine, and no password is asked because only its account may open the socket.
//! Not here: `rabbitmqadmin`, which talks HTTP and works as it is.

mod call;
mod client;
mod erlang;
mod output;
mod spec;
mod table;

mod accounts;
mod checks;
mod definitions;
mod encryption;
mod inspect;
mod lifecycle;
mod limits;
mod listing;
mod observe;
mod parameters;
mod plugins;
mod queues;
mod shovels;
mod status;
mod tls;
mod vhosts;

#[cfg(test)]
mod output_test;
#[cfg(test)]
mod test;

use std::cell::OnceCell;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches};
use leveret::config::Config;

use call::{Call, Global};
use client::Client;
use output::{Failure, Format, Manner, exit};

pub use spec::Tool;

/// As clap knows a tool: its options, and each command it has.
pub fn command(tool: Tool) -> clap::Command {
    let value = |name: &'static str| {
        Arg::new(name)
            .long(name)
            .global(true)
            .action(ArgAction::Set)
    };
    let flag = |name: &'static str| {
        Arg::new(name)
            .long(name)
            .global(true)
            .action(ArgAction::SetTrue)
    };
    let options = [
        value("node")
            .short('n')
            .help("The node to ask [default: the one configured here]"),
        value("vhost").short('p').help("The vhost [default: /]"),
        value("timeout")
            .short('t')
            .help("Seconds to wait for the node"),
        value("formatter").help("table, csv, json, json_stream, pretty_table or erlang"),
        value("printer").hide(true),
        value("file").hide(true),
        value("erlang-cookie").hide(true),
        flag("quiet")
            .short('q')
            .help("No line that says what is done"),
        flag("silent")
            .short('s')
            .help("Neither that, nor column names, nor words of success"),
        flag("no-table-headers").help("No column names"),
        flag("longnames")
            .short('l')
            .help("Accepted; names are taken as they are"),
        flag("dry-run").help("Look at the arguments only"),
    ];
    let mut command = clap::Command::new(tool.name())
        .version(env!("CARGO_PKG_VERSION"))
        .about("Operates a node of Leveret as RabbitMQ's tool of this name does")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_version_flag(true)
        .next_help_heading("Options of every command")
        .args(options);
    for spec in table::all().filter(|spec| spec.is_of(tool)) {
        command = command.subcommand(spec.command());
    }
    command
}

/// Runs a tool with its arguments, the first of them its name.
pub fn run(
    tool: Tool,
    args: Vec<String>,
    config: impl FnOnce() -> Result<Config, String>,
) -> ExitCode {
    let outcome = match command(tool).try_get_matches_from(args) {
        Ok(matches) => perform(tool, &matches, config),
        Err(error) => return misused(&error),
    };
    match outcome {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(exit::SOFTWARE),
        },
        Err(failure) => {
            eprintln!("{}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}

/// Help goes to standard output and is success; everything else is wrong usage.
fn misused(error: &clap::Error) -> ExitCode {
    use clap::error::ContextKind::{InvalidSubcommand as Given, SuggestedSubcommand};
    use clap::error::ContextValue::{String as One, Strings as Many};
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion, InvalidSubcommand};
    if error.kind() == InvalidSubcommand {
        if let Some(One(name)) = error.get(Given) {
            eprintln!("\nCommand '{name}' not found. ");
        }
        let nearest = match error.get(SuggestedSubcommand) {
            Some(One(name)) => Some(name),
            // The nearest comes last.
            Some(Many(names)) => names.last(),
            _ => None,
        };
        match nearest {
            Some(name) => eprintln!("Did you mean '{name}'? "),
            None => eprintln!("`help` lists the commands."),
        }
        return ExitCode::from(exit::USAGE);
    }
    // If nobody reads it there is nobody to tell.
    drop(error.print());
    match error.kind() {
        DisplayHelp | DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(exit::USAGE),
    }
}

fn perform(
    tool: Tool,
    matches: &ArgMatches,
    config: impl FnOnce() -> Result<Config, String>,
) -> Result<String, Failure> {
    let Some((name, own)) = matches.subcommand() else {
        return Err(Failure::usage("a command is missing"));
    };
    let spec = table::find(tool, name);
    let spec = spec.ok_or_else(|| Failure::usage(format!("Command '{name}' not found.")))?;
    let global = global(own)?;
    let manner = global.manner;
    let config = config().map_err(|why| Failure::new(exit::CONFIG, why))?;
    let limit = patience(spec.name, &global).map(Duration::from_secs);
    let call = Call {
        tool,
        name: spec.name,
        client: Client::new(&config.data_dir, limit),
        config,
        global,
        matches: own.clone(),
        about: OnceCell::new(),
        member: OnceCell::new(),
    };
    if call.global.dry_run {
        return Ok(String::new());
    }
    match (spec.run)(&call) {
        Ok(output) => Ok(output::shown(&output, manner)),
        Err(mut failure) => {
            if let Some(json) = failure.json.take().filter(|_| call.is_json()) {
                failure.text = json.to_string();
            }
            Err(failure)
        }
    }
}

/// Seconds a command waits for the node. Those that only ask wait for a minute, as RabbitMQ's do; what takes its time has it.
fn patience(name: &str, global: &Global) -> Option<u64> {
    const ASKING: [&str; 9] = [
        "ping",
        "status",
        "cluster_status",
        "environment",
        "alarms",
        "listeners",
        "memory_breakdown",
        "node_health_check",
        "server_version",
    ];
    let asks = ["list_", "check_", "is_"]
        .iter()
        .any(|start| name.starts_with(start));
    match global.timeout {
        None if (asks || ASKING.contains(&name)) && !global.endless => Some(call::TIMEOUT_S),
        given => given,
    }
}

fn global(matches: &ArgMatches) -> Result<Global, Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let timeout = match text("timeout").as_deref() {
        None | Some("infinity") => None,
        Some(seconds) => {
            let number = seconds.parse::<f64>().ok();
            let number = number.filter(|number| number.is_finite() && *number >= 0.0);
            let wrong = || {
                Failure::usage(format!(
                    "Invalid options for this command:\n--timeout : {seconds}"
                ))
            };
            // Parts of a second count as a whole one: nobody waits for nothing.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some(number.ok_or_else(wrong)?.ceil().max(1.0) as u64)
        }
    };
    let silent = matches.get_flag("silent");
    Ok(Global {
        node: text("node"),
        vhost: text("vhost").unwrap_or_else(|| "/".to_owned()),
        timeout,
        endless: text("timeout").as_deref() == Some("infinity"),
        quiet: matches.get_flag("quiet"),
        manner: Manner {
            format: Format::named(&text("formatter").unwrap_or_default()),
            headers: !silent && !matches.get_flag("no-table-headers"),
            silent: silent || matches.get_flag("quiet"),
        },
        dry_run: matches.get_flag("dry-run"),
    })
}
