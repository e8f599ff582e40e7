//! What a node says as it goes: its log, the sizes of messages it got.

use std::io::Write;

use serde_json::{Value, json};

use super::call::{Call, refused};
use super::inspect::decimals;
use super::output::{Failure, Output, Rows, exit};
use super::spec::{CTL, DIAG, Spec, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        DIAG,
        "log_location",
        "",
        "all",
        "Shows where the node logs",
        log_location,
    ),
    spec(
        DIAG,
        "log_tail",
        "",
        "number=",
        "Shows the last lines of the node's log",
        log_tail,
    ),
    spec(
        DIAG,
        "log_tail_stream",
        "",
        "duration=",
        "Shows the node's log as it comes, for so many seconds",
        log_tail_stream,
    ),
    spec(
        CTL,
        "rotate_logs",
        "",
        "",
        "Begins a new log file",
        rotate_logs,
    ),
    spec(
        DIAG,
        "message_size_stats",
        "",
        "",
        "Counts messages that came in by their size",
        message_size_stats,
    ),
];

/// Lines of a tail, as RabbitMQ's tool shows.
const LINES: u32 = 50;

fn log_location(call: &Call) -> Result<Output, Failure> {
    call.banner(format!("Log file location(s) on node {} ...", call.node()));
    call.check_node()?;
    let files = call.about()?["log_files"].as_array().cloned();
    let files = files.unwrap_or_default();
    let shown = files.iter().filter_map(Value::as_str).collect::<Vec<_>>();
    Ok(Output::Text(shown.join("\n")))
}

fn number(call: &Call, option: &str) -> Result<Option<u32>, Failure> {
    let given = call.maybe(option).filter(|given| *given != "infinity");
    let number = given.map(str::parse).transpose();
    number.map_err(|_| Failure::usage(format!("--{option} must be a whole number")))
}

/// Copies lines of the log to standard output.
fn lines(call: &Call, path: &str) -> Result<Output, Failure> {
    call.check_node()?;
    let mut out = std::io::stdout().lock();
    let copied = call.client.copy(path, &mut out);
    copied.map_err(|silence| call.silence(&silence))?;
    // Who went away has seen enough.
    drop(out.flush());
    Ok(Output::Nothing)
}

fn log_tail(call: &Call) -> Result<Output, Failure> {
    let count = number(call, "number")?.unwrap_or(LINES);
    call.banner(format!(
        "Last {count} log lines on node {} ...",
        call.node()
    ));
    lines(call, &format!("/control/log?lines={count}"))
}

fn log_tail_stream(call: &Call) -> Result<Output, Failure> {
    let seconds = number(call, "duration")?;
    call.banner(match seconds {
        Some(seconds) => format!(
            "Streaming logs from node {} for {seconds} seconds ...",
            call.node()
        ),
        None => format!("Streaming logs from node {} ...", call.node()),
    });
    let limit = seconds.map_or_else(String::new, |seconds| format!("?seconds={seconds}"));
    lines(call, &format!("/control/log{limit}"))
}

fn rotate_logs(call: &Call) -> Result<Output, Failure> {
    call.banner(format!("Rotating logs for node {} ...", call.node()));
    call.check_node()?;
    call.wish("rotate_logs", "")?;
    Ok(Output::Nothing)
}

#[allow(clippy::cast_precision_loss)]
fn message_size_stats(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Gathering message size statistics of node {} ...",
        call.node()
    ));
    call.check_node()?;
    let reply = call.ask("GET", "/control/message_sizes", None)?;
    let classes = match &reply.value {
        Value::Array(classes) if reply.is_good() => classes,
        _ if reply.is_good() => {
            return Err(Failure::error(exit::SOFTWARE, "the answer is no list"));
        }
        _ => return Err(refused(&reply)),
    };
    let count = |class: &Value| class["count"].as_u64().unwrap_or_default();
    let total = classes.iter().map(count).sum::<u64>().max(1);
    let mut below = "0B".to_owned();
    let rows: Vec<Value> = classes
        .iter()
        .map(|class| {
            let range = match class["up_to"].as_u64().map(size) {
                Some(bound) => {
                    let range = format!("{below} to {bound}");
                    below = bound;
                    range
                }
                None => format!("above {below}"),
            };
            let share = decimals(100.0 * count(class) as f64 / total as f64, 2);
            json!({"Message Size": range, "Count": count(class), "Percentage": format!("{share}%")})
        })
        .collect();
    let columns = ["Message Size", "Count", "Percentage"];
    Ok(Output::Rows(Rows::of(&columns, &rows)))
}

/// A bound as people write it: powers of ten.
fn size(bytes: u64) -> String {
    match bytes {
        1_000_000.. => format!("{}MB", bytes / 1_000_000),
        1_000.. => format!("{}KB", bytes / 1_000),
        _ => format!("{bytes}B"),
    }
}
