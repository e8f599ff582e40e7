//! Health checks: success or 69, in words that probes look for.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::call::Call;
use super::inspect::{alarms_of, listeners, own_name, shown_alarm};
use super::output::{Failure, Output, exit};
use super::spec::{BOTH, DIAG, QUEUES, Spec, UPGRADE, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        BOTH,
        "ping",
        "",
        "",
        "Checks that the node's process answers",
        ping,
    ),
    spec(
        DIAG,
        "check_running",
        "",
        "",
        "Checks that the node serves",
        check_running,
    ),
    spec(
        DIAG,
        "is_running",
        "",
        "",
        "Says whether the node serves",
        is_running,
    ),
    spec(
        DIAG,
        "is_booting",
        "",
        "",
        "Says whether the node starts",
        is_booting,
    ),
    spec(
        DIAG,
        "check_local_alarms",
        "",
        "",
        "Checks that the node has no resource alarms",
        check_local_alarms,
    ),
    spec(
        DIAG,
        "check_alarms",
        "",
        "",
        "Checks that no node has resource alarms",
        check_alarms,
    ),
    spec(
        DIAG,
        "check_virtual_hosts",
        "",
        "",
        "Checks that all vhosts are served",
        check_virtual_hosts,
    ),
    spec(
        DIAG,
        "check_port_connectivity",
        "",
        "address=",
        "Connects to each of the node's ports",
        check_port_connectivity,
    ),
    spec(
        DIAG,
        "check_port_listener",
        "port",
        "",
        "Checks that the node listens on a port",
        check_port_listener,
    ),
    spec(
        DIAG,
        "check_protocol_listener",
        "protocol",
        "",
        "Checks that the node speaks a protocol",
        check_protocol_listener,
    ),
    spec(
        DIAG,
        "check_certificate_expiration",
        "",
        "within= unit=",
        "Checks that no certificate ends soon",
        check_certificate_expiration,
    ),
    spec(
        BOTH,
        "check_if_any_deprecated_features_are_used",
        "",
        "",
        "Checks that no feature that will go is used",
        check_deprecated,
    ),
    spec(
        DIAG | QUEUES,
        "check_if_cluster_has_classic_queue_mirroring_policy",
        "",
        "",
        "Checks that no policy mirrors queues",
        check_mirroring_policy,
    ),
    spec(
        DIAG | QUEUES | UPGRADE,
        "check_if_node_is_quorum_critical",
        "",
        "",
        "Checks that nothing loses its majority without the node",
        check_quorum_critical,
    ),
    spec(
        DIAG | QUEUES | UPGRADE,
        "check_if_node_is_mirror_sync_critical",
        "",
        "",
        "Accepted; there are no mirrors",
        check_mirror_critical,
    ),
    spec(
        DIAG | QUEUES,
        "check_if_new_quorum_queue_replicas_have_finished_initial_sync",
        "",
        "",
        "Accepted; a replica counts once it has everything",
        check_initial_sync,
    ),
    spec(
        BOTH,
        "node_health_check",
        "",
        "",
        "Runs the checks above",
        node_health_check,
    ),
    spec(
        BOTH,
        "metadata_store_status",
        "",
        "",
        "Says whether the topology has a leader",
        metadata_store_status,
    ),
];

/// Longest wait for one port.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

fn check(good: bool, text: String, value: Value) -> Result<Output, Failure> {
    if good {
        return Ok(Output::Both(text, value));
    }
    let mut failure = Failure::error(exit::UNAVAILABLE, text);
    failure.json = Some(value);
    Err(failure)
}

fn ping(call: &Call) -> Result<Output, Failure> {
    let node = call.node();
    call.banner(format!(
        "Will ping {node}. This only checks if the OS process is running and answers its command line. Timeout: {} ms.",
        call.seconds() * 1000
    ));
    let answers = call.check_node().and_then(|()| call.about().map(drop));
    match answers {
        Ok(()) => Ok(Output::Text("Ping succeeded".to_owned())),
        Err(failure) if failure.code == exit::UNAVAILABLE => {
            let why = failure.text.lines().last().unwrap_or_default().to_owned();
            let limit = call.seconds() * 1000;
            Err(Failure::error(
                exit::UNAVAILABLE,
                format!("Failed to connect and authenticate to {node} in {limit} ms: {why}"),
            ))
        }
        Err(failure) => Err(failure),
    }
}

fn phase(call: &Call) -> Result<String, Failure> {
    call.check_node()?;
    let phase = call.about()?["state"].as_str().unwrap_or_default();
    Ok(phase.to_owned())
}

fn running_text(node: &str, running: bool) -> String {
    match running {
        true => format!("RabbitMQ on node {node} is fully booted and running"),
        false => format!(
            "RabbitMQ on node {node} is not running or has not fully booted yet (check with is_booting)"
        ),
    }
}

fn check_running(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Checking if RabbitMQ is running on node {} ...",
        call.node()
    ));
    let running = phase(call)? == "running";
    let text = running_text(call.node(), running);
    let value = match running {
        true => json!({"message": text}),
        false => json!({"result": "error", "message": text}),
    };
    check(running, text, value)
}

fn is_running(call: &Call) -> Result<Output, Failure> {
    call.banner(format!("Asking node {} for its status ...", call.node()));
    let running = phase(call)? == "running";
    let text = running_text(call.node(), running);
    let value = json!({"result": running, "message": text});
    Ok(Output::Both(text, value))
}

fn is_booting(call: &Call) -> Result<Output, Failure> {
    let node = call.node();
    call.banner(format!("Asking node {node} for its boot status ..."));
    let booting = phase(call)? == "booting";
    let text = match booting {
        true => format!("RabbitMQ on node {node} is booting"),
        false => format!(
            "RabbitMQ on node {node} is fully booted (check with is_running), stopped or has not started booting yet"
        ),
    };
    let value = json!({"result": booting, "message": text});
    Ok(Output::Both(text, value))
}

fn alarms_checked(call: &Call, local: bool) -> Result<Output, Failure> {
    let node = call.node();
    call.banner(format!(
        "Asking node {node} to report any local resource alarms ..."
    ));
    call.check_node()?;
    let own = local.then(|| own_name(call)).transpose()?;
    let raised = alarms_of(call, own.as_deref())?;
    if raised.is_empty() {
        let text = match local {
            true => format!("Node {node} reported no local alarms"),
            false => format!("Node {node} reported no alarms, local or clusterwide"),
        };
        return check(true, text, json!({"result": "ok"}));
    }
    let kind = if local { "local alarms" } else { "alarms" };
    let lines: Vec<String> = raised.iter().map(shown_alarm).collect();
    let text = format!(
        "Node {node} reported the following {kind}:\n\n{}",
        lines.join("\n")
    );
    let value = json!({"result": "error", "alarms": lines, "message": format!("Node {node} reported {kind}")});
    check(false, text, value)
}

fn check_local_alarms(call: &Call) -> Result<Output, Failure> {
    alarms_checked(call, true)
}

fn check_alarms(call: &Call) -> Result<Output, Failure> {
    alarms_checked(call, false)
}

/// A check of the management API.
fn by_api(call: &Call, path: &str, good: String, bad: &str) -> Result<Output, Failure> {
    let reply = call.ask("GET", &format!("/api/health/checks/{path}"), None)?;
    match reply.is_good() {
        true => check(true, good, json!({"result": "ok"})),
        false => {
            let mut value = reply.value.clone();
            value["result"] = json!("error");
            check(false, format!("{bad}: {}", reply.reason()), value)
        }
    }
}

fn check_virtual_hosts(call: &Call) -> Result<Output, Failure> {
    let node = call.node();
    call.banner(format!(
        "Checking if all vhosts are running on node {node} ..."
    ));
    call.check_node()?;
    let good = format!("Node {node} reported all vhosts as running");
    by_api(call, "virtual-hosts", good, "Some virtual hosts are down")
}

fn near(text: &str, port: u16) -> Option<SocketAddr> {
    Some(leveret::probe::near(SocketAddr::new(
        text.parse().ok()?,
        port,
    )))
}

fn check_port_connectivity(call: &Call) -> Result<Output, Failure> {
    let node = call.node();
    call.banner(format!(
        "Testing TCP connections to all active listeners on node {node} ..."
    ));
    call.check_node()?;
    let listeners = listeners(call)?;
    let mut failed = Vec::new();
    for listener in &listeners {
        let address = call.maybe("address").unwrap_or(&listener.ip);
        let connected = near(address, listener.port)
            .is_some_and(|at| TcpStream::connect_timeout(&at, CONNECT_LIMIT).is_ok());
        if !connected {
            failed.push(listener);
        }
    }
    let mut ports: Vec<u16> = listeners.iter().map(|listener| listener.port).collect();
    ports.sort_unstable();
    ports.dedup();
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let shown = |all: &[&super::inspect::Listener]| -> Value {
        all.iter().map(|listener| listener.json(node)).collect()
    };
    if failed.is_empty() {
        let all: Vec<_> = listeners.iter().collect();
        let text = format!(
            "Successfully connected to ports {} on node {node}.",
            ports.join(", ")
        );
        return check(
            true,
            text,
            json!({"result": "ok", "node": node, "listeners": shown(&all)}),
        );
    }
    let lines: Vec<String> = failed.iter().map(|listener| listener.line()).collect();
    let text = format!(
        "Connection to ports of the following listeners on node {node} failed: \n{}",
        lines.join("\n")
    );
    check(
        false,
        text,
        json!({"result": "error", "node": node, "failures": shown(&failed)}),
    )
}

fn check_port_listener(call: &Call) -> Result<Output, Failure> {
    let (node, port) = (call.node(), call.arg("port"));
    let number: u16 = port
        .parse()
        .map_err(|_| Failure::usage("port must be a number from 1 to 65535"))?;
    call.banner(format!(
        "Asking node {node} if there's an active listener on port {port} ..."
    ));
    call.check_node()?;
    let listeners = listeners(call)?;
    if listeners.iter().any(|listener| listener.port == number) {
        let text = format!("A listener for port {port} is running on node {node}.");
        return check(
            true,
            text,
            json!({"result": "ok", "node": node, "port": port}),
        );
    }
    let mut ports: Vec<u16> = listeners.iter().map(|listener| listener.port).collect();
    ports.sort_unstable();
    let shown: Vec<String> = ports.iter().map(u16::to_string).collect();
    let all: Value = listeners
        .iter()
        .map(|listener| listener.json(node))
        .collect();
    let mut failure = Failure::new(
        exit::UNAVAILABLE,
        format!(
            "No listener for port {port} is active on node {node}. Found listeners that use the following ports: {}",
            shown.join(", ")
        ),
    );
    failure.json =
        Some(json!({"result": "error", "missing": port, "ports": ports, "listeners": all}));
    Err(failure)
}

fn check_protocol_listener(call: &Call) -> Result<Output, Failure> {
    let (node, protocol) = (call.node(), call.arg("protocol"));
    call.banner(format!(
        "Asking node {node} if there's an active listener for protocol {protocol} ..."
    ));
    call.check_node()?;
    let path = super::client::at(&["health", "checks", "protocol-listener", protocol]);
    if call.ask("GET", &path, None)?.is_good() {
        let text = format!("A listener for protocol {protocol} is running on node {node}.");
        return check(
            true,
            text,
            json!({"result": "ok", "node": node, "protocol": protocol}),
        );
    }
    let listeners = listeners(call)?;
    let mut protocols: Vec<&str> = listeners.iter().map(|one| one.protocol.as_str()).collect();
    protocols.sort_unstable();
    protocols.dedup();
    let all: Value = listeners
        .iter()
        .map(|listener| listener.json(node))
        .collect();
    let text = format!(
        "No listener for protocol {protocol} is active on node {node}. Found listeners for the following protocols: {}",
        protocols.join(", ")
    );
    let value =
        json!({"result": "error", "missing": protocol, "protocols": protocols, "listeners": all});
    check(false, text, value)
}

fn check_certificate_expiration(call: &Call) -> Result<Output, Failure> {
    let (node, unit) = (call.node(), call.maybe("unit").unwrap_or("weeks"));
    let within = call.maybe("within").unwrap_or("4");
    if within.parse::<u64>().is_err() || !matches!(unit, "days" | "weeks" | "months" | "years") {
        return Err(Failure::usage(
            "--within is a number, --unit is days, weeks, months or years",
        ));
    }
    call.banner(format!(
        "Checking certificate expiration on node {node} ..."
    ));
    call.check_node()?;
    let good = format!("No certificates are expiring within {within} {unit}.");
    let path = format!("certificate-expiration/{within}/{unit}");
    by_api(call, &path, good, "Certificates expire")
}

fn check_deprecated(call: &Call) -> Result<Output, Failure> {
    call.banner("Checking if any deprecated features are used ...");
    let used = call.list("/api/deprecated-features/used")?;
    let names = used.iter().filter_map(|row| row["name"].as_str());
    let names = names.collect::<Vec<_>>().join("\n");
    let text = match used.is_empty() {
        true => "Cluster reported no deprecated features in use".to_owned(),
        false => format!("Cluster reported the following deprecated features in use:\n{names}"),
    };
    check(
        used.is_empty(),
        text,
        json!({"result": if used.is_empty() { "ok" } else { "error" }, "deprecated_features": used}),
    )
}

fn check_mirroring_policy(call: &Call) -> Result<Output, Failure> {
    call.banner("Checking if cluster has any classic queue mirroring policy ...");
    let mut mirroring = call.list("/api/policies")?;
    mirroring.extend(call.list("/api/operator-policies")?);
    mirroring.retain(|policy| {
        let keys = ["ha-mode", "ha-params", "ha-sync-mode"];
        keys.iter()
            .any(|key| policy["definition"].get(key).is_some())
    });
    match mirroring.is_empty() {
        true => check(
            true,
            "Cluster reported no policies that enable classic queue mirroring".to_owned(),
            json!({"result": "ok"}),
        ),
        false => {
            let text =
                "Cluster reported some policies that enable classic queue mirroring".to_owned();
            check(
                false,
                text,
                json!({"result": "error", "policies": mirroring}),
            )
        }
    }
}

/// Whether the cluster is this node alone.
pub fn is_alone(call: &Call) -> Result<bool, Failure> {
    Ok(call.list("/api/nodes?columns=name")?.len() < 2)
}

fn check_quorum_critical(call: &Call) -> Result<Output, Failure> {
    let node = call.node();
    call.banner(format!(
        "Checking if node {node} is critical for quorum of any quorum queues ..."
    ));
    call.check_node()?;
    if is_alone(call)? {
        let text = format!(
            "Node {node} seems to be the only one in a single node cluster, the check does not apply"
        );
        return check(
            true,
            text,
            json!({"result": "ok", "message": "single node cluster"}),
        );
    }
    let good = format!("Node {node} reported no quorum queues with minimum quorum");
    by_api(
        call,
        "node-is-quorum-critical",
        good,
        "Some queues would lose their majority",
    )
}

fn check_mirror_critical(call: &Call) -> Result<Output, Failure> {
    let node = call.node();
    call.banner(format!(
        "Checking if node {node} is critical for data safety of any classic mirrored queues ..."
    ));
    call.check_node()?;
    let text = match is_alone(call)? {
        true => format!(
            "Node {node} seems to be the only one in a single node cluster, the check does not apply"
        ),
        false => format!(
            "Node {node} reported no classic mirrored queues without online synchronised mirrors"
        ),
    };
    check(true, text, json!({"result": "ok"}))
}

fn check_initial_sync(call: &Call) -> Result<Output, Failure> {
    let node = call.node();
    call.banner(format!(
        "Checking if node {node} runs any quorum queues that have non-voter replicas ..."
    ));
    call.check_node()?;
    let text = format!("Node {node} reported no queues with promotable replicas");
    call.about()?;
    check(true, text, json!({"result": "ok"}))
}

fn node_health_check(call: &Call) -> Result<Output, Failure> {
    call.banner_with_timeout(format!("Checking health of node {} ...", call.node()));
    let running = phase(call)? == "running";
    if !running {
        return check(
            false,
            running_text(call.node(), false),
            json!({"result": "error"}),
        );
    }
    alarms_checked(call, true)?;
    check(
        true,
        "Health check passed".to_owned(),
        json!({"result": "ok"}),
    )
}

fn metadata_store_status(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Status of metadata store on node {} ...",
        call.node()
    ));
    let good = "The topology has a leader".to_owned();
    by_api(
        call,
        "metadata-store/initialized",
        good,
        "The topology has no leader",
    )
}

#[cfg(test)]
mod test {
    use super::near;

    #[test]
    fn a_listener_of_every_interface_is_reached_where_there_is_no_ipv6() {
        let at = |text: &str| near(text, 5672).unwrap().to_string();
        assert_eq!(at("::"), "127.0.0.1:5672");
        assert_eq!(at("0.0.0.0"), "127.0.0.1:5672");
        assert_eq!(at("10.1.2.3"), "10.1.2.3:5672");
        assert_eq!(near("somewhere", 5672), None);
    }
}
