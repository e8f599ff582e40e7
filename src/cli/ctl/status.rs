//! `status`, `cluster_status` and `report`: many facts in one answer.

use std::io::IsTerminal;

use serde_json::{Map, Value, json};

use super::call::Call;
use super::client::at;
use super::inspect::{
    Listener, alarms_of, decimals, in_unit, listeners, memory, own_name, shown_alarm,
};
use super::output::{Failure, Output};
use super::spec::{BOTH, Spec, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        BOTH,
        "status",
        "",
        "unit=",
        "Shows what the node is and how it is",
        status,
    ),
    spec(
        BOTH,
        "cluster_status",
        "",
        "",
        "Shows the nodes of the cluster",
        cluster_status,
    ),
    spec(
        BOTH,
        "report",
        "",
        "",
        "Shows everything, for people who help",
        report,
    ),
];

/// Sections of a report for people.
#[derive(Default)]
struct Page(String);

impl Page {
    fn section(&mut self, title: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        // Scripts look for these lines; only a person gets them in bold.
        let line = match std::io::stdout().is_terminal() {
            true => format!("\x1b[1m{title}\x1b[0m\n\n"),
            false => format!("{title}\n\n"),
        };
        self.0 += &line;
    }

    fn fact(&mut self, name: &str, value: impl std::fmt::Display) {
        self.0 += &format!("{name}: {value}\n");
    }

    fn lines<T: AsRef<str>>(&mut self, lines: &[T]) {
        if lines.is_empty() {
            self.0 += "(none)\n";
        }
        for line in lines {
            self.0 += line.as_ref();
            self.0.push('\n');
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .map(|all| all.iter().map(text).collect())
        .unwrap_or_default()
}

/// No tags are an empty list, as RabbitMQ's tools write it.
fn tags(tags: &Value) -> Value {
    match tags.as_object() {
        Some(some) if !some.is_empty() => tags.clone(),
        _ => json!([]),
    }
}

/// Everything `status` knows, under the names RabbitMQ gives it.
fn facts(call: &Call) -> Result<(Value, Vec<Listener>), Failure> {
    let own = own_name(call)?;
    let overview = call.get("/api/overview?disable_stats=true")?;
    let node = call.get(&at(&["nodes", &own]))?;
    let vhosts = call
        .list("/api/vhosts?disable_stats=true&columns=name")?
        .len();
    let (_, memory) = memory(call)?;
    let listeners = listeners(call)?;
    let about = call.about()?;
    let alarms: Vec<String> = alarms_of(call, Some(&own))?
        .iter()
        .map(shown_alarm)
        .collect();
    let uptime = node["uptime"].as_u64().unwrap_or_default() / 1000;
    let places: Value = listeners
        .iter()
        .map(|listener| listener.json(&own))
        .collect();
    let facts = json!({
        "os": "Linux",
        "pid": about["pid"],
        "product_name": overview["product_name"],
        "product_version": overview["product_version"],
        "rabbitmq_version": overview["rabbitmq_version"],
        "erlang_version": overview["erlang_full_version"],
        "crypto_lib_version": "rustls",
        "release_series_support_status": "supported",
        "uptime": uptime,
        "is_under_maintenance": node["being_drained"],
        "processes": {"limit": node["proc_total"], "used": node["proc_used"]},
        "run_queue": node["run_queue"],
        "net_ticktime": node["net_ticktime"],
        "vm_memory_calculation_strategy": "rss",
        "vm_memory_high_watermark_setting": about["memory_high_watermark"],
        "vm_memory_high_watermark_limit": node["mem_limit"],
        "disk_free_limit": node["disk_free_limit"],
        "disk_free": node["disk_free"],
        "file_descriptors": {
            "total_limit": node["fd_total"],
            "total_used": node["fd_used"],
            "sockets_limit": node["sockets_total"],
            "sockets_used": node["sockets_used"],
        },
        "alarms": alarms,
        "tags": tags(&overview["node_tags"]),
        "listeners": places,
        "memory": memory,
        "data_directory": about["data_dir"],
        "raft_data_directory": about["data_dir"],
        "config_files": about["config_files"],
        "log_files": about["log_files"],
        "active_plugins": node["enabled_plugins"],
        "enabled_plugin_file": "/etc/rabbitmq/enabled_plugins",
        "totals": {
            "connection_count": overview["object_totals"]["connections"],
            "queue_count": overview["object_totals"]["queues"],
            "virtual_host_count": vhosts,
        },
    });
    Ok((facts, listeners))
}

fn status(call: &Call) -> Result<Output, Failure> {
    let unit = call.maybe("unit").unwrap_or("gb").to_lowercase();
    if in_unit(0, &unit).is_none() {
        return Err(Failure::usage(format!(
            "unit '{unit}' is not supported. Please use one of: bytes, mb, gb"
        )));
    }
    call.banner(format!("Status of node {} ...", call.node()));
    call.check_node()?;
    let (facts, listeners) = facts(call)?;
    let own = own_name(call)?;
    let mut page = Page::default();
    runtime(&mut page, &facts, &own);
    folders(&mut page, &facts);
    page.section("Alarms");
    page.lines(&texts(&facts["alarms"]));
    resources(&mut page, &facts, &unit);
    page.section("Totals");
    let totals = &facts["totals"];
    page.fact("Connection count", &totals["connection_count"]);
    page.fact("Queue count", &totals["queue_count"]);
    page.fact("Virtual host count", &totals["virtual_host_count"]);
    page.section("Listeners");
    page.lines(&listeners.iter().map(Listener::line).collect::<Vec<_>>());
    Ok(Output::Both(page.0, facts))
}

fn runtime(page: &mut Page, facts: &Value, own: &str) {
    page.section("Runtime");
    page.fact("OS PID", &facts["pid"]);
    page.fact("OS", text(&facts["os"]));
    page.fact("Uptime (seconds)", &facts["uptime"]);
    page.fact("Is under maintenance?", &facts["is_under_maintenance"]);
    page.fact("RabbitMQ version", text(&facts["rabbitmq_version"]));
    page.fact("RabbitMQ release series support status", "supported");
    page.fact(
        "Product",
        format!(
            "{} {}",
            text(&facts["product_name"]),
            text(&facts["product_version"])
        ),
    );
    page.fact("Node name", own);
    page.fact("Erlang configuration", text(&facts["erlang_version"]));
    page.fact("Crypto library", text(&facts["crypto_lib_version"]));
    let processes = &facts["processes"];
    page.fact(
        "Erlang processes",
        format!("{} used, {} limit", processes["used"], processes["limit"]),
    );
    page.fact("Scheduler run queue", &facts["run_queue"]);
    page.fact(
        "Cluster heartbeat timeout (net_ticktime)",
        &facts["net_ticktime"],
    );
}

fn folders(page: &mut Page, facts: &Value) {
    page.section("Plugins");
    page.fact("Enabled plugin file", text(&facts["enabled_plugin_file"]));
    page.0 += "Enabled plugins:\n\n";
    for name in texts(&facts["active_plugins"]) {
        page.0 += &format!(" * {name}\n");
    }
    page.section("Data directory");
    page.fact("Node data directory", text(&facts["data_directory"]));
    page.fact("Raft data directory", text(&facts["raft_data_directory"]));
    for (title, key) in [
        ("Config files", "config_files"),
        ("Log file(s)", "log_files"),
    ] {
        page.section(title);
        let files: Vec<String> = texts(&facts[key])
            .iter()
            .map(|name| format!(" * {name}"))
            .collect();
        page.lines(&files);
    }
}

fn sized(value: &Value, unit: &str) -> String {
    let size = in_unit(value.as_u64().unwrap_or_default(), unit);
    format!("{} {unit}", decimals(size.unwrap_or_default(), 4))
}

#[allow(clippy::cast_precision_loss)]
fn resources(page: &mut Page, facts: &Value, unit: &str) {
    page.section("Memory");
    let memory = &facts["memory"];
    page.fact("Total memory used", sized(&memory["total"]["rss"], unit));
    page.fact("Calculation strategy", "rss");
    let setting = &facts["vm_memory_high_watermark_setting"];
    let limit = sized(&facts["vm_memory_high_watermark_limit"], unit);
    let setting = match &setting["relative"] {
        Value::Null => limit,
        part => format!("{part} of available memory, computed to: {limit}"),
    };
    page.fact("Memory high watermark setting", setting);
    page.0.push('\n');
    let none = Map::new();
    let parts = memory.as_object().unwrap_or(&none).iter();
    let mut parts: Vec<(&String, u64)> = parts
        .filter_map(|(name, value)| Some((name, value.as_u64()?)))
        .collect();
    parts.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
    let total: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    for (name, bytes) in parts {
        let share = decimals(100.0 * bytes as f64 / total.max(1) as f64, 2);
        page.fact(name, format!("{} ({share} %)", sized(&json!(bytes), unit)));
    }
    page.section("File Descriptors");
    let files = &facts["file_descriptors"];
    page.fact(
        "Total",
        format!("{}, limit: {}", files["total_used"], files["total_limit"]),
    );
    page.section("Free Disk Space");
    page.fact(
        "Low free disk space watermark",
        sized(&facts["disk_free_limit"], unit),
    );
    page.fact("Free disk space", sized(&facts["disk_free"], unit));
}

fn kept(row: &Value) -> &'static str {
    match row["being_drained"] == true {
        true => "marked for maintenance",
        false => "not under maintenance",
    }
}

fn name(row: &Value) -> String {
    text(&row["name"])
}

/// Everything `cluster_status` knows, under the names RabbitMQ gives it.
fn cluster_facts(call: &Call, nodes: &[Value], places: &[Listener]) -> Result<Value, Failure> {
    let overview = call.get("/api/overview?disable_stats=true")?;
    let own = own_name(call)?;
    let running = nodes.iter().filter(|row| row["running"] == true);
    let running: Vec<String> = running.map(name).collect();
    let version = json!({
        "rabbitmq_name": "RabbitMQ",
        "rabbitmq_version": overview["rabbitmq_version"],
        "erlang_version": overview["erlang_version"],
    });
    let versions = running.iter().map(|node| (node.clone(), version.clone()));
    let maintenance = nodes.iter().map(|row| (name(row), json!(kept(row))));
    let cores = nodes
        .iter()
        .map(|row| (name(row), row["processors"].clone()))
        .filter(|(_, cores)| cores.is_number());
    let alarms = alarms_of(call, None)?;
    let alarm = |(node, resource): &(String, String)| json!({"node": node, "resource": resource});
    let flag = |row: &Value| {
        json!({
            "name": row["name"],
            "state": row["state"],
            "stability": row["stability"],
            "provided_by": "rabbit",
            "desc": "",
            "doc_url": "",
        })
    };
    let flags = call.list("/api/feature-flags")?;
    let listening: Value = places.iter().map(|place| place.json(&own)).collect();
    Ok(json!({
        "cluster_name": overview["cluster_name"],
        "cluster_tags": tags(&overview["cluster_tags"]),
        "disk_nodes": nodes.iter().map(name).collect::<Vec<_>>(),
        "ram_nodes": [],
        "running_nodes": running,
        "alarms": alarms.iter().map(alarm).collect::<Value>(),
        "maintenance_status": maintenance.collect::<Map<_, _>>(),
        "partitions": {},
        "listeners": {own: listening},
        "versions": versions.collect::<Map<_, _>>(),
        "cpu_cores": cores.collect::<Map<_, _>>(),
        "feature_flags": flags.iter().map(flag).collect::<Value>(),
    }))
}

fn cluster_status(call: &Call) -> Result<Output, Failure> {
    call.banner(format!("Cluster status of node {} ...", call.node()));
    let nodes = call.list("/api/nodes")?;
    let places = listeners(call)?;
    let facts = cluster_facts(call, &nodes, &places)?;
    let own = own_name(call)?;
    let alarms = alarms_of(call, None)?;
    let mut page = Page::default();
    page.section("Basics");
    page.fact("Cluster name", text(&facts["cluster_name"]));
    let none = Map::new();
    let cores = facts["cpu_cores"].as_object().unwrap_or(&none).values();
    let cores: u64 = cores.filter_map(Value::as_u64).sum();
    page.fact("Total CPU cores available cluster-wide", cores);
    page.section("Disk Nodes");
    page.lines(&texts(&facts["disk_nodes"]));
    page.section("Running Nodes");
    page.lines(&texts(&facts["running_nodes"]));
    page.section("Versions");
    let versions = facts["versions"].as_object().unwrap_or(&none).iter();
    let versions = versions.map(|(node, of)| {
        let (version, runtime) = (text(&of["rabbitmq_version"]), text(&of["erlang_version"]));
        format!("{node}: RabbitMQ {version} on Erlang {runtime}")
    });
    page.lines(&versions.collect::<Vec<_>>());
    page.section("Maintenance status");
    let lines = nodes.iter();
    let lines = lines.map(|row| format!("Node: {}, status: {}", name(row), kept(row)));
    page.lines(&lines.collect::<Vec<_>>());
    page.section("Alarms");
    page.lines(&alarms.iter().map(shown_alarm).collect::<Vec<_>>());
    page.section("Network Partitions");
    page.lines::<&str>(&[]);
    page.section("Listeners");
    let lines = places.iter();
    let lines = lines.map(|place| format!("Node: {own}, {}", place.line().replacen('I', "i", 1)));
    page.lines(&lines.collect::<Vec<_>>());
    page.section("Feature flags");
    let flags = facts["feature_flags"].as_array().into_iter().flatten();
    let flags = flags.map(|row| {
        format!(
            "Flag: {}, state: {}",
            text(&row["name"]),
            text(&row["state"])
        )
    });
    page.lines(&flags.collect::<Vec<_>>());
    Ok(Output::Both(page.0, facts))
}

/// The commands whose answers make up a report.
const REPORTED: [&str; 9] = [
    "status",
    "cluster_status",
    "list_vhosts",
    "list_users",
    "list_connections",
    "list_channels",
    "list_exchanges",
    "list_queues",
    "list_policies",
];

fn report(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Reporting server status of node {} ...\n",
        call.node()
    ));
    call.check_node()?;
    let mut out = String::new();
    for name in REPORTED {
        let Some(spec) = super::table::find(call.tool, name) else {
            continue;
        };
        out += &format!("== {name}\n");
        out += &match (spec.run)(call) {
            Ok(output) => super::output::shown(&output, call.global.manner),
            Err(failure) => failure.text + "\n",
        };
        out.push('\n');
    }
    Ok(Output::Text(out))
}
