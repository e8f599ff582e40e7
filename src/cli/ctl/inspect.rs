//! What a node is and has: listeners, alarms, memory, versions, its environment.

use serde_json::{Map, Value, json};

use super::call::{Call, refused};
use super::client::at;
use super::erlang;
use super::output::{Failure, Output, Rows, exit};
use super::spec::{BOTH, CTL, DIAG, EVERY, Spec, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        EVERY,
        "version",
        "",
        "",
        "Shows the version these tools stand for",
        version,
    ),
    spec(
        DIAG,
        "server_version",
        "",
        "",
        "Shows the node's version",
        server_version,
    ),
    spec(
        DIAG,
        "erlang_version",
        "",
        "details offline",
        "Shows what stands in the place of Erlang's version",
        erlang_version,
    ),
    spec(
        DIAG,
        "listeners",
        "",
        "",
        "Lists where the node listens",
        list_listeners,
    ),
    spec(DIAG, "alarms", "", "", "Lists resource alarms", alarms),
    spec(
        DIAG,
        "memory_breakdown",
        "",
        "unit=",
        "Shows where memory goes",
        memory_breakdown,
    ),
    spec(
        BOTH,
        "environment",
        "",
        "",
        "Shows the configuration the node runs with, without secrets",
        environment,
    ),
    spec(
        DIAG,
        "os_env",
        "",
        "",
        "Shows the variables of the environment that configure the node",
        os_env,
    ),
    spec(
        DIAG,
        "discover_peers",
        "",
        "",
        "Lists the nodes the node was told of",
        discover_peers,
    ),
    spec(
        DIAG,
        "resolve_hostname",
        "hostname",
        "address-family=",
        "Resolves a name as the node would",
        resolve_hostname,
    ),
    spec(
        CTL,
        "eval",
        "expression",
        "",
        "Answers a few Erlang expressions that scripts use, and refuses others",
        eval,
    ),
];

/// A place where the node listens.
pub struct Listener {
    /// The address.
    pub ip: String,
    /// The port.
    pub port: u16,
    /// In RabbitMQ's words.
    pub protocol: String,
}

impl Listener {
    fn interface(&self) -> String {
        match self.ip.contains(':') {
            true => format!("[{}]", self.ip),
            false => self.ip.clone(),
        }
    }

    fn purpose(&self) -> &'static str {
        match self.protocol.as_str() {
            "amqp" => "AMQP 0-9-1",
            "amqp/ssl" => "AMQP 0-9-1 over TLS",
            "http" => "HTTP API",
            "https" => "HTTP API over TLS (HTTPS)",
            "http/prometheus" => "Prometheus exporter API over HTTP",
            "https/prometheus" => "Prometheus exporter API over TLS (HTTPS)",
            "clustering" => "inter-node communication",
            _ => "",
        }
    }

    /// As a line for people.
    pub fn line(&self) -> String {
        format!(
            "Interface: {}, port: {}, protocol: {}, purpose: {}",
            self.interface(),
            self.port,
            self.protocol,
            self.purpose()
        )
    }

    /// For programs.
    pub fn json(&self, node: &str) -> Value {
        json!({
            "interface": self.interface(),
            "node": node,
            "port": self.port,
            "protocol": self.protocol,
            "purpose": self.purpose(),
        })
    }
}

/// The name of the node that answers here.
///
/// # Errors
/// It is not there.
pub fn own_name(call: &Call) -> Result<String, Failure> {
    Ok(call.about()?["node"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// Where the node that answers listens.
///
/// # Errors
/// It is not there.
pub fn listeners(call: &Call) -> Result<Vec<Listener>, Failure> {
    let overview = call.get("/api/overview?disable_stats=true")?;
    let own = own_name(call)?;
    let rows = overview["listeners"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let rows = rows.iter().filter(|row| row["node"] == *own);
    Ok(rows
        .map(|row| Listener {
            ip: row["ip_address"].as_str().unwrap_or_default().to_owned(),
            port: row["port"]
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(0),
            protocol: row["protocol"].as_str().unwrap_or_default().to_owned(),
        })
        .collect())
}

/// Raised alarms of one node or of all: node and resource.
///
/// # Errors
/// The node is not there.
pub fn alarms_of(call: &Call, node: Option<&str>) -> Result<Vec<(String, String)>, Failure> {
    let mut raised = Vec::new();
    for row in call.list("/api/nodes")? {
        let name = row["name"].as_str().unwrap_or_default();
        if node.is_some_and(|node| node != name) {
            continue;
        }
        for (key, resource) in [("mem_alarm", "memory"), ("disk_free_alarm", "disk")] {
            if row[key] == true {
                raised.push((name.to_owned(), resource.to_owned()));
            }
        }
    }
    Ok(raised)
}

/// An alarm in words.
pub fn shown_alarm((node, resource): &(String, String)) -> String {
    match resource.as_str() {
        "disk" => format!("Free disk space alarm on node {node}"),
        _ => format!("Memory alarm on node {node}"),
    }
}

fn version(call: &Call) -> Result<Output, Failure> {
    // Of the tools, so the node need not be there; it knows better if it is configured to say another.
    let version = match call.client.is_there() {
        true => call.about()?["version"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        false => leveret::node::Settings::from(&call.config).names.version,
    };
    Ok(Output::Text(version))
}

fn server_version(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Asking node {} for its RabbitMQ version...",
        call.node()
    ));
    call.check_node()?;
    let version = call.about()?["version"].clone();
    let text = version.as_str().unwrap_or_default().to_owned();
    Ok(Output::Both(
        text,
        json!({"result": "ok", "value": version}),
    ))
}

fn erlang_version(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Asking node {} for its Erlang/OTP version...",
        call.node()
    ));
    let overview = call.get("/api/overview?disable_stats=true")?;
    let key = if call.is_set("details") {
        "erlang_full_version"
    } else {
        "erlang_version"
    };
    let text = overview[key].as_str().unwrap_or_default().to_owned();
    Ok(Output::Both(
        text.clone(),
        json!({"result": "ok", "value": text}),
    ))
}

fn list_listeners(call: &Call) -> Result<Output, Failure> {
    let node = call.node();
    call.banner(format!(
        "Asking node {node} to report its protocol listeners ..."
    ));
    call.check_node()?;
    let listeners = listeners(call)?;
    let lines: Vec<String> = listeners.iter().map(Listener::line).collect();
    let all: Value = listeners
        .iter()
        .map(|listener| listener.json(node))
        .collect();
    let value = json!({"result": "ok", "node": node, "listeners": all});
    Ok(Output::Both(lines.join("\n"), value))
}

fn alarms(call: &Call) -> Result<Output, Failure> {
    let node = call.node();
    call.banner(format!(
        "Asking node {node} to report any known resource alarms ..."
    ));
    let raised = alarms_of(call, None)?;
    let shown: Vec<Value> = raised
        .iter()
        .map(|(node, resource)| json!({"node": node, "resource": resource}))
        .collect();
    let text = match raised.is_empty() {
        true => format!("Node {node} reported no alarms, local or clusterwide"),
        false => raised
            .iter()
            .map(shown_alarm)
            .collect::<Vec<_>>()
            .join("\n"),
    };
    let value = json!({"result": "ok", "node": node, "alarms": shown, "global": shown});
    Ok(Output::Both(text, value))
}

/// At most so many places after the point, and at least one.
pub fn decimals(number: f64, places: usize) -> String {
    let text = format!("{number:.places$}");
    let text = text.trim_end_matches('0');
    match text.ends_with('.') {
        true => format!("{text}0"),
        false => text.to_owned(),
    }
}

/// Parts of the node's memory, the largest first, and their sum.
///
/// # Errors
/// The node is not there.
pub fn memory(call: &Call) -> Result<(Vec<(String, u64)>, Value), Failure> {
    let own = own_name(call)?;
    let answer = call.get(&at(&["nodes", &own, "memory"]))?;
    let all = answer["memory"].as_object().cloned().unwrap_or_default();
    let parts = all
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)));
    let mut parts: Vec<(String, u64)> = parts.collect();
    parts.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
    Ok((parts, Value::Object(all)))
}

/// A number of bytes in a unit.
#[allow(clippy::cast_precision_loss)]
pub fn in_unit(bytes: u64, unit: &str) -> Option<f64> {
    let size = match unit.to_lowercase().as_str() {
        "bytes" => return Some(bytes as f64),
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return None,
    };
    Some(bytes as f64 / size)
}

#[allow(clippy::cast_precision_loss)]
fn memory_breakdown(call: &Call) -> Result<Output, Failure> {
    let unit = call.maybe("unit").unwrap_or("gb").to_lowercase();
    if in_unit(0, &unit).is_none() {
        return Err(Failure::usage(format!(
            "unit '{unit}' is not supported. Please use one of: bytes, mb, gb"
        )));
    }
    call.banner(format!(
        "Reporting memory breakdown on node {}...",
        call.node()
    ));
    call.check_node()?;
    let (parts, _) = memory(call)?;
    let total: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    let percent = |bytes: u64| 100.0 * bytes as f64 / total.max(1) as f64;
    let mut text = String::new();
    let mut value = Map::new();
    for (name, bytes) in &parts {
        let size = in_unit(*bytes, &unit).unwrap_or_default();
        let share = decimals(percent(*bytes), 2);
        text += &format!("{name}: {} {unit} ({share}%)\n", decimals(size, 4));
        let share: f64 = share.parse().unwrap_or_default();
        value.insert(name.clone(), json!({"bytes": bytes, "percentage": share}));
    }
    Ok(Output::Both(text, Value::Object(value)))
}

fn environment(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Application environment of node {} ...",
        call.node()
    ));
    call.check_node()?;
    let settings = call.about()?["environment"].clone();
    let text = erlang::environment("rabbit", &settings);
    Ok(Output::Both(text, json!({"rabbit": settings})))
}

fn os_env(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Listing RabbitMQ-specific environment variables defined on node {}...",
        call.node()
    ));
    call.check_node()?;
    let variables = call.about()?["variables"].clone();
    let rows = variables.as_object().cloned().unwrap_or_default();
    let rows: Vec<Value> = rows
        .into_iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    Ok(Output::Rows(Rows::of(&["name", "value"], &rows)))
}

fn discover_peers(call: &Call) -> Result<Output, Failure> {
    call.banner(format!("Discovering peers of node {} ...", call.node()));
    let nodes = call.list("/api/nodes?columns=name")?;
    let names: Vec<&str> = nodes
        .iter()
        .filter_map(|row| row["name"].as_str())
        .collect();
    Ok(Output::Text(names.join("\n")))
}

fn resolve_hostname(call: &Call) -> Result<Output, Failure> {
    use std::net::ToSocketAddrs;
    let name = call.arg("hostname");
    let family = call.maybe("address-family").unwrap_or("any");
    if !matches!(family, "any" | "ipv4" | "ipv6") {
        return Err(Failure::usage("--address-family is ipv4 or ipv6"));
    }
    let failed =
        |error: std::io::Error| Failure::error(exit::UNAVAILABLE, format!("{name}: {error}"));
    let found = (name, 0).to_socket_addrs().map_err(failed)?;
    let found = found.filter(|at| family == "any" || at.is_ipv4() == (family == "ipv4"));
    let mut found: Vec<String> = found.map(|at| at.ip().to_string()).collect();
    found.dedup();
    Ok(Output::Text(found.join("\n")))
}

/// The expressions that provisioning scripts and probes send.
fn eval(call: &Call) -> Result<Output, Failure> {
    let expression = call.arg("expression").trim().trim_end_matches('.');
    let said = |text: &str| Ok(Output::Text(text.to_owned()));
    match expression {
        "node()" => said(&own_name(call)?),
        "rabbit_nodes:reached_target_cluster_size()" => {
            let path = "/api/health/checks/reached-target-cluster-size";
            said(if call.ask("GET", path, None)?.is_good() {
                "true"
            } else {
                "false"
            })
        }
        "rabbit:is_running()" => said(&(call.about()?["state"] == "running").to_string()),
        _ => match login(expression) {
            Some((user, password)) => {
                let body = json!({"user": user, "password": password});
                let reply = call.ask("POST", "/control/authenticate", Some(&body))?;
                match reply.status {
                    200 => said(&format!("{{ok,{{user,<<\"{user}\">>}}}}")),
                    401 => said(&format!(
                        "{{refused,<<\"{user}\">>,\"invalid credentials\",[]}}"
                    )),
                    _ => Err(refused(&reply)),
                }
            }
            None => Err(Failure::usage(
                "this node is not written in Erlang and evaluates none of it. `rabbitmqctl help` lists the commands; \
                 what a script needs to read is in --formatter json or in the management API.",
            )),
        },
    }
}

/// User and password in Puppet's check of a login: two Erlang strings, each made a binary.
fn login(expression: &str) -> Option<(String, String)> {
    let rest = expression.strip_prefix("rabbit_access_control:check_user_pass_login(")?;
    let (user, rest) = binary(rest)?;
    let (password, rest) = binary(rest.strip_prefix(',')?.trim_start())?;
    (rest == ")").then_some((user, password))
}

/// The text of `<<"…">>` or `list_to_binary("…")`, and what follows it.
fn binary(expression: &str) -> Option<(String, &str)> {
    let (rest, closing) = match expression.strip_prefix("<<\"") {
        Some(rest) => (rest, "\">>"),
        None => (expression.strip_prefix("list_to_binary(\"")?, "\")"),
    };
    let mut text = String::new();
    let mut characters = rest.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, rest.get(at..)?.strip_prefix(closing)?)),
            '\\' => text.push(characters.next()?.1),
            _ => text.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_no_needless_zeros() {
        for (number, places, want) in [
            (0.128_34, 4, "0.1283"),
            (0.0, 4, "0.0"),
            (0.018, 4, "0.018"),
            (62.66, 2, "62.66"),
            (10.0, 2, "10.0"),
        ] {
            assert_eq!(decimals(number, places), want);
        }
    }

    #[test]
    fn a_login_is_read_from_the_expression_puppet_sends() {
        for (arguments, want) in [
            (
                r#"list_to_binary("u"), list_to_binary("p, \"w")"#,
                Some("p, \"w"),
            ),
            (r#"<<"u">>, <<"p\\w">>"#, Some("p\\w")),
            (r#"list_to_binary("u"), list_to_binary("p "w")"#, None),
            (r#"list_to_binary("u"), list_to_binary("p"), 1"#, None),
            (r#"list_to_binary("u")"#, None),
        ] {
            let expression = format!("rabbit_access_control:check_user_pass_login({arguments})");
            let want = want.map(|password| ("u".to_owned(), password.to_owned()));
            assert_eq!(login(&expression), want, "{arguments}");
        }
        assert_eq!(login("os:cmd(\"id\")"), None);
    }
}
