//! Plugins: what RabbitMQ has as plugins is part of this program or is not there. Enabling one that is there succeeds, so
//! images and operators that do so go on; one that is not there is refused.

use serde_json::{Value, json};

use super::call::Call;
use super::inspect::own_name;
use super::output::{Failure, Output, exit};
use super::spec::{PLUGINS, Spec, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        PLUGINS,
        "list",
        "pattern?",
        "minimal verbose enabled implicitly-enabled",
        "Lists plugins",
        list,
    ),
    spec(
        PLUGINS,
        "enable",
        "plugin*",
        "all online offline",
        "Accepted for what is built in",
        enable,
    ),
    spec(
        PLUGINS,
        "disable",
        "plugin*",
        "all online offline",
        "Accepted; what is built in stays, and is switched by its listeners",
        disable,
    ),
    spec(
        PLUGINS,
        "set",
        "plugin*",
        "online offline",
        "Accepted for what is built in",
        enable,
    ),
    spec(
        PLUGINS,
        "is_enabled",
        "plugin+",
        "online offline",
        "Checks that plugins are enabled",
        is_enabled,
    ),
    spec(
        PLUGINS,
        "directories",
        "",
        "online offline",
        "Shows where RabbitMQ would keep plugins",
        directories,
    ),
];

/// What is built in, under the names of RabbitMQ's plugins.
const BUILT_IN: [&str; 10] = [
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_delayed_message_exchange",
    "rabbitmq_management",
    "rabbitmq_management_agent",
    "rabbitmq_prometheus",
    "rabbitmq_random_exchange",
    "rabbitmq_shovel",
    "rabbitmq_shovel_management",
    "rabbitmq_shovel_prometheus",
    "rabbitmq_web_dispatch",
];

/// Found by discovery or configuration in RabbitMQ; asking for them changes nothing here.
const HARMLESS: [&str; 6] = [
    "rabbitmq_peer_discovery_common",
    "rabbitmq_peer_discovery_k8s",
    "rabbitmq_peer_discovery_aws",
    "rabbitmq_peer_discovery_consul",
    "rabbitmq_peer_discovery_etcd",
    "rabbitmq_sharding",
];

fn version(call: &Call) -> String {
    let own = || leveret::node::Settings::from(&call.config).names.version;
    match call.client.is_there() {
        true => call
            .about()
            .ok()
            .and_then(|about| about["version"].as_str().map(str::to_owned))
            .unwrap_or_else(own),
        false => own(),
    }
}

fn list(call: &Call) -> Result<Output, Failure> {
    let pattern = call.maybe("pattern").unwrap_or(".*");
    call.banner(format!("Listing plugins with pattern \"{pattern}\" ..."));
    let wanted =
        regex::Regex::new(pattern).map_err(|error| Failure::usage(format!("pattern: {error}")))?;
    let (running, version) = (call.client.is_there(), version(call));
    let names: Vec<&str> = BUILT_IN
        .into_iter()
        .filter(|name| wanted.is_match(name))
        .collect();
    // With both there is nothing implicit to show.
    let implicit_only = call.is_set("implicitly-enabled") && !call.is_set("enabled");
    let names = if implicit_only { Vec::new() } else { names };
    let shown: Vec<Value> = names
        .iter()
        .map(|name| {
            json!({
                "name": name,
                "version": version,
                "running_version": if running { json!(version) } else { Value::Null },
                "enabled": "enabled",
                "running": running,
            })
        })
        .collect();
    let format = if call.is_set("minimal") {
        "minimal"
    } else {
        "normal"
    };
    let value = json!({"status": if running { "running" } else { "node_down" }, "format": format, "plugins": shown});
    if call.is_set("minimal") {
        return Ok(Output::Both(names.join("\n"), value));
    }
    let status = match running {
        true => format!("* = running on {}", call.node()),
        false => "[failed to contact the node - status not shown]".to_owned(),
    };
    let mut text = format!(
        " Configured: E = explicitly enabled; e = implicitly enabled\n | Status: {status}\n |/\n"
    );
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mark = if running { '*' } else { ' ' };
    for name in &names {
        text += &format!("[E{mark}] {name:<width$} {version}\n");
    }
    Ok(Output::Both(text, value))
}

/// Refuses plugins that are neither built in nor harmless.
fn check(names: &[&str]) -> Result<(), Failure> {
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !BUILT_IN.contains(name) && !HARMLESS.contains(name))
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::error(
            exit::SOFTWARE,
            format!("{{:plugins_not_found, [:{}]}}", missing.join(", :")),
        )),
    }
}

fn enable(call: &Call) -> Result<Output, Failure> {
    let names = call.many("plugin");
    let all = call.is_set("all");
    if names.is_empty() && !all && call.name != "set" {
        return Err(Failure::usage("not enough arguments."));
    }
    let node = call.node();
    let shown = if all {
        BUILT_IN.join("\n")
    } else {
        names.join("\n")
    };
    call.banner(format!("Enabling plugins on node {node}:\n{shown}"));
    check(&names)?;
    let lines: Vec<String> = BUILT_IN.iter().map(|name| format!("  {name}")).collect();
    let text = format!(
        "The following plugins have been configured:\n{}\nApplying plugin configuration to {node}...\nPlugin configuration unchanged.",
        lines.join("\n")
    );
    let value =
        json!({"mode": "online", "started": [], "stopped": [], "enabled": [], "set": BUILT_IN});
    Ok(Output::Both(text, value))
}

fn disable(call: &Call) -> Result<Output, Failure> {
    let names = call.many("plugin");
    call.banner(format!(
        "Disabling plugins on node {}:\n{}",
        call.node(),
        names.join("\n")
    ));
    check(&names)?;
    let text = "Plugin configuration unchanged: what is built in is switched off by its listeners."
        .to_owned();
    Ok(Output::Both(
        text,
        json!({"mode": "online", "disabled": [], "set": BUILT_IN}),
    ))
}

fn is_enabled(call: &Call) -> Result<Output, Failure> {
    let names = call.many("plugin");
    let node = call.node();
    call.banner(format!(
        "Asking node {node} if plugins {} are enabled...",
        names.join(", ")
    ));
    let off: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !BUILT_IN.contains(name))
        .collect();
    if !off.is_empty() {
        let verb = if off.len() == 1 { "is" } else { "are" };
        let text = format!(
            "Plugin {} {verb} not enabled on node {node}. Enabled plugins and dependencies: {}",
            off.join(", "),
            BUILT_IN.join(", ")
        );
        return Err(Failure::error(exit::UNAVAILABLE, text));
    }
    if !call.is_set("offline") {
        own_name(call)?;
    }
    let verb = if names.len() == 1 {
        "Plugin"
    } else {
        "Plugins"
    };
    let is = if names.len() == 1 { "is" } else { "are" };
    Ok(Output::Text(format!(
        "{verb} {} {is} enabled on node {node}",
        names.join(", ")
    )))
}

fn directories(call: &Call) -> Result<Output, Failure> {
    call.banner(format!(
        "Listing plugin directories used by node {}",
        call.node()
    ));
    Ok(Output::Text(
        "Plugin archives directory: (none: plugins are built in)\n\
         Plugin expansion directory: (none)\nEnabled plugins file: /etc/rabbitmq/enabled_plugins"
            .to_owned(),
    ))
}
