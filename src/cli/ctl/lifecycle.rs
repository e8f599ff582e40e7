//! Start, stop, wait, join, leave, maintenance.

use std::time::Duration;

use leveret::config::value;
use serde_json::json;

use super::call::{Call, refused};
use super::checks::is_alone;
use super::output::{Failure, Output, exit};
use super::spec::{BOTH, CTL, DIAG, Spec, UPGRADE, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        CTL,
        "stop",
        "pidfile?",
        "idempotent",
        "Stops the node and waits for its end",
        stop,
    ),
    spec(
        CTL,
        "shutdown",
        "",
        "wait no-wait",
        "Stops the node and waits for its end",
        stop,
    ),
    spec(
        CTL,
        "stop_app",
        "",
        "",
        "Stops serving; the process stays",
        stop_app,
    ),
    spec(CTL, "start_app", "", "", "Serves again", start_app),
    spec(
        CTL,
        "reset",
        "",
        "",
        "Forgets everything the node has; after stop_app",
        reset,
    ),
    spec(CTL, "force_reset", "", "", "The same", reset),
    spec(
        CTL,
        "join_cluster",
        "member",
        "disc ram",
        "Joins this node's cluster at the next start_app; after stop_app and reset",
        join_cluster,
    ),
    spec(
        CTL,
        "forget_cluster_node",
        "member",
        "offline",
        "Takes a node out of the cluster",
        forget_cluster_node,
    ),
    spec(
        CTL,
        "force_boot",
        "",
        "",
        "Refused: a majority is never assumed",
        force_boot,
    ),
    spec(
        CTL,
        "change_cluster_node_type",
        "type",
        "",
        "Accepted; every node keeps its data on disk",
        change_type,
    ),
    spec(
        BOTH,
        "await_startup",
        "",
        "",
        "Waits until the node serves",
        await_startup,
    ),
    spec(
        CTL,
        "await_online_nodes",
        "count",
        "",
        "Waits until so many nodes are there",
        await_online_nodes,
    ),
    spec(
        CTL,
        "wait",
        "pidfile?",
        "pid=",
        "Waits until the node serves",
        wait,
    ),
    spec(
        CTL,
        "set_log_level",
        "log_level",
        "",
        "Logs from this level on",
        set_log_level,
    ),
    spec(
        CTL,
        "force_gc",
        "",
        "",
        "Accepted; there is nothing to collect",
        accepted,
    ),
    spec(CTL, "hipe_compile", "directory?", "", "Accepted", accepted),
    spec(
        CTL,
        "set_vm_memory_high_watermark",
        "fraction value?",
        "",
        "Blocks publishers from this part of memory on, or from `absolute` bytes",
        set_memory_high_watermark,
    ),
    spec(
        CTL,
        "set_disk_free_limit",
        "limit value?",
        "",
        "Blocks publishers when fewer bytes are free, or `mem_relative` times the memory",
        set_disk_free_limit,
    ),
    spec(
        CTL,
        "sync_queue",
        "queue",
        "",
        "Accepted; there are no mirrors",
        accepted,
    ),
    spec(
        CTL,
        "cancel_sync_queue",
        "queue",
        "",
        "Accepted; there are no mirrors",
        accepted,
    ),
    spec(
        UPGRADE,
        "drain",
        "",
        "",
        "Puts the node into maintenance: no clients, no leaderships",
        drain,
    ),
    spec(UPGRADE, "revive", "", "", "Ends maintenance", revive),
    spec(
        UPGRADE,
        "post_upgrade",
        "",
        "",
        "Accepted; nothing is left to do",
        post_upgrade,
    ),
    spec(
        UPGRADE,
        "await_online_quorum_plus_one",
        "",
        "",
        "Waits until nothing loses its majority without the node",
        await_quorum,
    ),
    spec(
        UPGRADE,
        "await_online_synchronized_mirror",
        "",
        "",
        "Accepted; there are no mirrors",
        await_mirror,
    ),
    spec(
        CTL | DIAG,
        "suspend_listeners",
        "",
        "",
        "Takes no more clients; those that are there stay",
        suspend_listeners,
    ),
    spec(
        CTL | DIAG,
        "resume_listeners",
        "",
        "",
        "Takes clients again",
        resume_listeners,
    ),
];

/// Longest wait for a process that was told to end.
const END_LIMIT: Duration = Duration::from_secs(90);

fn is_alive(pid: u64) -> bool {
    // A process that ended and was not collected yet has no memory any more.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ") && !status.contains("State:\tX"))
}

fn stop(call: &Call) -> Result<Output, Failure> {
    let node = call.node();
    if call.is_set("idempotent") && !call.client.is_there() {
        return Ok(Output::Text(format!("Node {node} is no longer running")));
    }
    let shutdown = call.name == "shutdown";
    if !shutdown {
        call.banner(format!("Stopping and halting node {node} ..."));
    }
    call.check_node()?;
    let pid = call.about()?["pid"].as_u64().unwrap_or_default();
    if shutdown {
        call.banner(format!(
            "Shutting down RabbitMQ node {node} running at PID {pid}"
        ));
    }
    call.wish("stop", "")?;
    if call.is_set("no-wait") {
        return Ok(Output::Nothing);
    }
    if shutdown {
        call.banner(format!("Waiting for PID {pid} to terminate"));
    }
    let limit = call.global.timeout.map_or(END_LIMIT, Duration::from_secs);
    match call.wait_until(limit, || Ok(!is_alive(pid)))? {
        true if shutdown => Ok(Output::Text(format!(
            "RabbitMQ node {node} running at PID {pid} successfully shut down"
        ))),
        true => Ok(Output::Nothing),
        false => Err(Failure::error(
            exit::TEMPORARY,
            format!("process {pid} has not ended yet"),
        )),
    }
}

fn stop_app(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Stopping rabbit application on node {} ...",
        call.node()
    ));
    call.check_node()?;
    call.wish("stop_app", "")?;
    Ok(Output::Nothing)
}

fn start_app(call: &Call) -> Result<Output, Failure> {
    call.banner(format!("Starting node {} ...", call.node()));
    call.check_node()?;
    call.wish("start_app", "")?;
    Ok(Output::Nothing)
}

fn reset(call: &Call) -> Result<Output, Failure> {
    let how = if call.name == "reset" {
        "Resetting"
    } else {
        "Forcefully resetting"
    };
    call.banner(format!("{how} node {} ...", call.node()));
    call.check_node()?;
    call.wish("reset", "")?;
    Ok(Output::Nothing)
}

fn join_cluster(call: &Call) -> Result<Output, Failure> {
    let (node, target) = (call.node(), call.arg("member"));
    call.banner(format!("Clustering node {node} with {target}"));
    call.check_node()?;
    call.wish("join", target)?;
    Ok(Output::Nothing)
}

fn forget_cluster_node(call: &Call) -> Result<Output, Failure> {
    let gone = call.arg("member");
    if call.is_set("offline") {
        return Err(Failure::error(
            exit::SOFTWARE,
            "a member that runs takes nodes out: leave out --offline",
        ));
    }
    call.banner(format!("Removing node {gone} from the cluster"));
    call.change(
        "POST",
        "/control/members/forget",
        Some(&json!({"node": gone})),
    )?;
    Ok(Output::Nothing)
}

fn force_boot(_: &Call) -> Result<Output, Failure> {
    Err(Failure::error(
        exit::SOFTWARE,
        "a node starts without its peers, and serves once a majority is there; it never serves without one",
    ))
}

fn change_type(call: &Call) -> Result<Output, Failure> {
    match call.arg("type") {
        "disc" | "disk" => Ok(Output::Nothing),
        _ => Err(Failure::error(
            exit::SOFTWARE,
            "every node keeps its data on disk",
        )),
    }
}

fn serves(call: &Call) -> Result<bool, Failure> {
    match call.client.ask("GET", "/control/node", b"") {
        Ok(reply) => Ok(reply.value["state"] == "running"),
        Err(super::client::Silence::Forbidden) => call.about().map(|_| false),
        // Not there yet.
        Err(_) => Ok(false),
    }
}

fn awaited(call: &Call, seconds: u64) -> Result<Output, Failure> {
    let limit = Duration::from_secs(call.global.timeout.unwrap_or(seconds));
    match call.wait_until(limit, || serves(call))? {
        true => Ok(Output::Nothing),
        false => Err(Failure::new(
            exit::TEMPORARY,
            format!(
                "Error: operation {} on node {} timed out. Timeout value used: {}",
                call.name,
                call.node(),
                limit.as_millis()
            ),
        )),
    }
}

const STARTUP_S: u64 = 300;

fn await_startup(call: &Call) -> Result<Output, Failure> {
    awaited(call, STARTUP_S)
}

fn wait(call: &Call) -> Result<Output, Failure> {
    let seconds = call.global.timeout.unwrap_or(10);
    if let Some(pid) = call.maybe("pid") {
        call.banner(format!("Waiting for pid {pid} ..."));
    } else if let Some(file) = call.maybe("pidfile") {
        call.banner(format!("Waiting for pid file '{file}' to appear"));
        // The file is the script's own; that the node answers is what it is about.
    }
    awaited(call, seconds)
}

fn await_online_nodes(call: &Call) -> Result<Output, Failure> {
    let count: usize = call
        .arg("count")
        .parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| Failure::usage("count must be a positive number"))?;
    let seconds = call.global.timeout.unwrap_or(STARTUP_S);
    call.banner(format!(
        "Will wait for at least {count} nodes to join the cluster of {}. Timeout: {seconds} seconds.",
        call.node()
    ));
    call.about()?;
    let online = || {
        let Ok(nodes) = call.list("/api/nodes") else {
            return Ok(false);
        };
        Ok(nodes.iter().filter(|row| row["running"] == true).count() >= count)
    };
    match call.wait_until(Duration::from_secs(seconds), online)? {
        true => Ok(Output::Nothing),
        false => Err(Failure::error(
            exit::TEMPORARY,
            format!(
                "Error: operation await_online_nodes on node {} timed out",
                call.node()
            ),
        )),
    }
}

fn set_log_level(call: &Call) -> Result<Output, Failure> {
    let level = call.arg("log_level");
    call.banner(format!("Setting log level to \"{level}\" ..."));
    if !matches!(
        level,
        "debug" | "info" | "notice" | "warning" | "error" | "critical" | "none"
    ) {
        return Err(Failure::usage(format!(
            "level {level} is not supported. Try one of debug, info, notice, warning, error, critical, none"
        )));
    }
    call.check_node()?;
    call.wish("log_level", level)?;
    Ok(Output::Nothing)
}

fn accepted(call: &Call) -> Result<Output, Failure> {
    // There must be a node to accept it.
    call.about()?;
    Ok(Output::Nothing)
}

fn set_memory_high_watermark(call: &Call) -> Result<Output, Failure> {
    let (fraction, value) = (call.arg("fraction"), call.maybe("value"));
    let (wish, shown) = match (fraction, value) {
        ("absolute", None) => return Err(Failure::usage("not enough arguments.")),
        ("absolute", Some(size)) => {
            let bytes = value::bytes(size).map_err(|_| bad_argument(": Invalid units"))?;
            (format!("absolute {bytes}"), format!("{bytes} bytes"))
        }
        (_, Some(_)) => return Err(Failure::usage("too many arguments.")),
        (fraction, None) => {
            let part: f64 = fraction.parse().map_err(|_| bad_argument(""))?;
            if !(0.0..=1.0).contains(&part) {
                let why = ": The threshold should be a fraction between 0.0 and 1.0";
                return Err(bad_argument(why));
            }
            (format!("relative {part}"), part.to_string())
        }
    };
    call.check_node()?;
    call.banner(format!(
        "Setting memory threshold on {} to {shown} ...",
        call.node()
    ));
    call.wish("memory_high_watermark", &wish)?;
    Ok(Output::Nothing)
}

fn set_disk_free_limit(call: &Call) -> Result<Output, Failure> {
    let (limit, value) = (call.arg("limit"), call.maybe("value"));
    let (wish, shown) = match (limit, value) {
        ("mem_relative", None) => return Err(Failure::usage("not enough arguments.")),
        ("mem_relative", Some(times)) => {
            let times: f64 = times.parse().map_err(|_| bad_argument(""))?;
            if !(times.is_finite() && times >= 0.0) {
                return Err(bad_argument(""));
            }
            let shown = format!("{times} times the total RAM");
            (format!("relative {times}"), shown)
        }
        (_, Some(_)) => return Err(Failure::usage("too many arguments.")),
        (size, None) => {
            let bytes = value::bytes(size).map_err(|_| bad_argument(""))?;
            (format!("absolute {bytes}"), format!("{bytes} bytes"))
        }
    };
    call.check_node()?;
    call.banner(format!(
        "Setting disk free limit on {} to {shown} ...",
        call.node()
    ));
    call.wish("disk_free_limit", &wish)?;
    Ok(Output::Nothing)
}

fn bad_argument(why: &str) -> Failure {
    let text = format!("Error (argument validation): Bad argument{why}");
    Failure::new(exit::DATA, text)
}

fn maintenance(call: &Call, word: &str) -> Result<Output, Failure> {
    call.check_node()?;
    let reply = call.ask(
        "POST",
        &format!("/control/maintenance/{word}"),
        Some(&json!({})),
    )?;
    match reply.is_good() {
        true => Ok(Output::Nothing),
        false => Err(refused(&reply)),
    }
}

fn drain(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Will put node {} into maintenance mode. The node will no longer serve any client traffic!",
        call.node()
    ));
    maintenance(call, "drain")
}

fn revive(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Will put node {} back into regular operating mode. The node will again serve client traffic and host primary queue replicas.",
        call.node()
    ));
    maintenance(call, "revive")
}

fn suspend_listeners(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Will suspend client connection listeners on node {} ...",
        call.node()
    ));
    maintenance(call, "suspend")
}

fn resume_listeners(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Will resume client connection listeners on node {} ...",
        call.node()
    ));
    maintenance(call, "revive")
}

fn post_upgrade(call: &Call) -> Result<Output, Failure> {
    call.banner("Executing post upgrade tasks...\nRebalancing queue leaders...\n");
    call.change("POST", "/api/rebalance/queues", Some(&json!({})))?;
    Ok(Output::Nothing)
}

fn await_quorum(call: &Call) -> Result<Output, Failure> {
    let seconds = call.global.timeout.unwrap_or(120);
    call.banner(format!(
        "Will wait for a quorum + 1 of nodes to be online for all quorum queues for {seconds} seconds..."
    ));
    if is_alone(call)? {
        return Ok(Output::Text("Target node seems to be the only one in a single node cluster, the command does not apply".to_owned()));
    }
    let path = "/api/health/checks/node-is-quorum-critical";
    let safe = || Ok(call.ask("GET", path, None)?.is_good());
    match call.wait_until(Duration::from_secs(seconds), safe)? {
        true => Ok(Output::Nothing),
        false => Err(Failure::error(
            exit::UNAVAILABLE,
            "there are queues that would lose their majority without this node, or their state is not known",
        )),
    }
}

fn await_mirror(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Will wait for a synchronised mirror be online for all classic mirrored queues for {} seconds...",
        call.global.timeout.unwrap_or(120)
    ));
    call.about()?;
    Ok(Output::Nothing)
}
