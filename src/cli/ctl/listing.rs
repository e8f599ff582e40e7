//! Queues, exchanges, bindings, connections, channels, consumers: the columns that are asked for.

use serde_json::{Value, json};

use super::accounts::check_vhost;
use super::call::Call;
use super::client::at;
use super::output::{Failure, Output, Rows};
use super::spec::{BOTH, Spec, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        BOTH,
        "list_queues",
        "column*",
        "online offline local",
        "Lists queues of a vhost",
        list,
    ),
    spec(
        BOTH,
        "list_unresponsive_queues",
        "column*",
        "all local queue-timeout=",
        "Lists queues that give no answer",
        list,
    ),
    spec(
        BOTH,
        "list_exchanges",
        "column*",
        "",
        "Lists exchanges of a vhost",
        list,
    ),
    spec(
        BOTH,
        "list_bindings",
        "column*",
        "",
        "Lists bindings of a vhost",
        list,
    ),
    spec(
        BOTH,
        "list_connections",
        "column*",
        "",
        "Lists client connections",
        list,
    ),
    spec(BOTH, "list_channels", "column*", "", "Lists channels", list),
    spec(
        BOTH,
        "list_consumers",
        "column*",
        "",
        "Lists consumers of a vhost",
        list,
    ),
    spec(
        BOTH,
        "list_node_auth_attempt_stats",
        "",
        "by-source",
        "Counts logins",
        list_auth_attempts,
    ),
];

/// The columns that are asked for, or those of the command.
///
/// # Errors
/// One is not known.
pub fn columns<'a>(
    call: &'a Call,
    known: &[&'static str],
    own: &[&'static str],
) -> Result<Vec<&'a str>, Failure> {
    let wanted = call.many("column");
    // They may be one argument with commas.
    let wanted = wanted.iter().flat_map(|text| text.split(','));
    let wanted: Vec<&str> = wanted
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    if wanted.is_empty() {
        return Ok(own.to_vec());
    }
    let strange: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|name| !known.contains(name))
        .collect();
    match strange.is_empty() {
        true => Ok(wanted),
        false => Err(Failure::usage(format!(
            "Info key(s) {} are not supported\n\nKnown keys: {}",
            strange.join(","),
            known.join(", ")
        ))),
    }
}

/// What a queue can be asked without its statistics.
const QUEUE_CHEAP: [&str; 19] = [
    "name",
    "durable",
    "auto_delete",
    "arguments",
    "policy",
    "operator_policy",
    "effective_policy_definition",
    "exclusive",
    "messages_ready",
    "messages_unacknowledged",
    "messages",
    "state",
    "type",
    "leader",
    "members",
    "online",
    "pid",
    "owner_pid",
    "exclusive_consumer_pid",
];

const QUEUE_DEAR: [&str; 28] = [
    "consumers",
    "slave_pids",
    "synchronised_slave_pids",
    "mirror_pids",
    "synchronised_mirror_pids",
    "exclusive_consumer_tag",
    "single_active_consumer_tag",
    "single_active_consumer_pid",
    "messages_ready_ram",
    "messages_unacknowledged_ram",
    "messages_ram",
    "messages_persistent",
    "messages_paged_out",
    "message_bytes",
    "message_bytes_ready",
    "message_bytes_unacknowledged",
    "message_bytes_ram",
    "message_bytes_persistent",
    "message_bytes_paged_out",
    "head_message_timestamp",
    "disk_reads",
    "disk_writes",
    "consumer_utilisation",
    "consumer_capacity",
    "memory",
    "segments",
    "storage_version",
    "reductions",
];

fn queue_rows(call: &Call, wanted: &[&str]) -> Result<Vec<Value>, Failure> {
    let cheap = wanted.iter().all(|name| QUEUE_CHEAP.contains(name));
    let query = match cheap {
        true => "?disable_stats=true&enable_queue_totals=true",
        false => "",
    };
    let mut rows = call.list(&(at(&["queues", call.vhost()]) + query))?;
    for row in &mut rows {
        let home = row["leader"].as_str().or(row["node"].as_str());
        row["pid"] = json!(format!("<{}.0.0.0>", home.unwrap_or_default()));
        // RabbitMQ has them of every kind of queue.
        for name in ["disk_reads", "disk_writes", "segments"] {
            row[name] = json!(0);
        }
    }
    Ok(rows)
}

fn queues(call: &Call, wanted: &[&str]) -> Result<Vec<Value>, Failure> {
    let mut rows = queue_rows(call, wanted)?;
    let is_down = |row: &Value| row["state"] == "down";
    if call.is_set("offline") && !call.is_set("online") {
        rows.retain(is_down);
    } else if call.is_set("online") && !call.is_set("offline") {
        rows.retain(|row| !is_down(row));
    }
    if call.is_set("local") {
        let own = call.about()?["node"].clone();
        rows.retain(|row| row["node"] == own);
    }
    Ok(rows)
}

fn unresponsive_queues(call: &Call, wanted: &[&str]) -> Result<Vec<Value>, Failure> {
    let mut rows = queue_rows(call, wanted)?;
    rows.retain(|row| row["state"] == "down");
    Ok(rows)
}

fn bindings(call: &Call, _: &[&str]) -> Result<Vec<Value>, Failure> {
    let mut rows = call.list(&at(&["bindings", call.vhost()]))?;
    for row in &mut rows {
        row["source_name"] = row["source"].clone();
        row["source_kind"] = json!("exchange");
        row["destination_name"] = row["destination"].clone();
        row["destination_kind"] = row["destination_type"].clone();
    }
    Ok(rows)
}

/// What stands in the place of a connection's Erlang process: unique in the cluster, and made of its name, so that a
/// listing and `close_connection` agree. A channel's ends with its number.
pub fn pid(node: &Value, connection: &Value, channel: u64) -> Value {
    let (node, name) = (
        node.as_str().unwrap_or_default(),
        connection.as_str().unwrap_or_default(),
    );
    let port = name
        .split(" -> ")
        .next()
        .and_then(|peer| peer.rsplit(':').next());
    let sum = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    json!(format!(
        "<{node}.{}.{}.{channel}>",
        port.unwrap_or("0"),
        sum & 0xffff_ffff
    ))
}

/// All connections, each with its pid.
pub fn connections(call: &Call) -> Result<Vec<Value>, Failure> {
    let mut rows = call.list("/api/connections")?;
    for row in &mut rows {
        row["pid"] = pid(&row["node"], &row["name"], 0);
    }
    Ok(rows)
}

fn channels(call: &Call, _: &[&str]) -> Result<Vec<Value>, Failure> {
    let mut rows = call.list("/api/channels")?;
    for row in &mut rows {
        let of = row["connection_details"]["name"].clone();
        let number = row["number"].as_u64().unwrap_or_default();
        row["connection"] = pid(&row["node"], &of, 0);
        row["pid"] = pid(&row["node"], &of, number);
    }
    Ok(rows)
}

fn consumers(call: &Call, _: &[&str]) -> Result<Vec<Value>, Failure> {
    let mut rows = call.list(&at(&["consumers", call.vhost()]))?;
    for row in &mut rows {
        row["queue_name"] = row["queue"]["name"].clone();
        let of = &row["channel_details"];
        let number = of["number"].as_u64().unwrap_or_default();
        row["channel_pid"] = pid(&of["node"], &of["connection_name"], number);
    }
    Ok(rows)
}

const CONNECTION: &[&str] = &[
    "pid",
    "name",
    "port",
    "host",
    "peer_port",
    "peer_host",
    "ssl",
    "ssl_protocol",
    "ssl_key_exchange",
    "ssl_cipher",
    "ssl_hash",
    "peer_cert_subject",
    "peer_cert_issuer",
    "peer_cert_validity",
    "state",
    "channels",
    "protocol",
    "auth_mechanism",
    "user",
    "vhost",
    "container_id",
    "timeout",
    "frame_max",
    "channel_max",
    "client_properties",
    "user_provided_name",
    "recv_oct",
    "recv_cnt",
    "send_oct",
    "send_cnt",
    "send_pend",
    "connected_at",
    "node",
    "type",
    "reductions",
    "garbage_collection",
];

const CHANNEL: &[&str] = &[
    "pid",
    "connection",
    "name",
    "number",
    "user",
    "vhost",
    "transactional",
    "confirm",
    "consumer_count",
    "messages_unacknowledged",
    "messages_uncommitted",
    "acks_uncommitted",
    "messages_unconfirmed",
    "prefetch_count",
    "global_prefetch_count",
    "node",
    "state",
];

/// A list: its command, how it is announced (`{}` stands for the vhost it is of; without, it is of all), the columns that
/// may be asked for, those shown without asking, and its rows, given the columns that are wanted.
struct List {
    command: &'static str,
    title: &'static str,
    known: &'static [&'static [&'static str]],
    own: &'static [&'static str],
    rows: fn(&Call, &[&str]) -> Result<Vec<Value>, Failure>,
}

const LISTS: [List; 7] = [
    List {
        command: "list_queues",
        title: "Listing queues for vhost {} ...",
        known: &[&QUEUE_CHEAP, &QUEUE_DEAR],
        own: &["name", "messages"],
        rows: queues,
    },
    List {
        command: "list_unresponsive_queues",
        title: "Listing unresponsive queues for vhost {} ...",
        known: &[&QUEUE_CHEAP],
        own: &["name"],
        rows: unresponsive_queues,
    },
    List {
        command: "list_exchanges",
        title: "Listing exchanges for vhost {} ...",
        known: &[&[
            "name",
            "type",
            "durable",
            "auto_delete",
            "internal",
            "arguments",
            "policy",
            "user_who_performed_action",
        ]],
        own: &["name", "type"],
        rows: |call, _| call.list(&at(&["exchanges", call.vhost()])),
    },
    List {
        command: "list_bindings",
        title: "Listing bindings for vhost {}...",
        known: &[&BINDING, &["vhost"]],
        own: &BINDING,
        rows: bindings,
    },
    List {
        command: "list_connections",
        title: "Listing connections ...",
        known: &[CONNECTION],
        own: &["user", "peer_host", "peer_port", "state"],
        rows: |call, _| connections(call),
    },
    List {
        command: "list_channels",
        title: "Listing channels ...",
        known: &[CHANNEL],
        own: &["pid", "user", "consumer_count", "messages_unacknowledged"],
        rows: channels,
    },
    List {
        command: "list_consumers",
        title: "Listing consumers in vhost {} ...",
        known: &[&[
            "queue_name",
            "channel_pid",
            "consumer_tag",
            "ack_required",
            "prefetch_count",
            "active",
            "activity_status",
            "arguments",
            "consumer_timeout",
        ]],
        own: &[
            "queue_name",
            "channel_pid",
            "consumer_tag",
            "ack_required",
            "prefetch_count",
            "active",
            "arguments",
        ],
        rows: consumers,
    },
];

const BINDING: [&str; 6] = [
    "source_name",
    "source_kind",
    "destination_name",
    "destination_kind",
    "routing_key",
    "arguments",
];

fn list(call: &Call) -> Result<Output, Failure> {
    let list = LISTS.iter().find(|list| list.command == call.name);
    let list = list.ok_or_else(|| Failure::usage("no such list"))?;
    let wanted = columns(call, &list.known.concat(), list.own)?;
    let title = list.title.replace("{}", call.vhost());
    match list.command {
        "list_queues" => call.banner_with_timeout(title),
        _ => call.banner(title),
    }
    if list.title.contains("{}") {
        check_vhost(call, call.vhost())?;
    }
    let rows = (list.rows)(call, &wanted)?;
    Ok(Output::Rows(Rows::of(&wanted, &rows)))
}

fn list_auth_attempts(call: &Call) -> Result<Output, Failure> {
    call.check_node()?;
    let node = call.node();
    call.banner(format!(
        "Listing authentication attempts for node \"{node}\" ..."
    ));
    let rows = call.list(&at(&["auth", "attempts", node]))?;
    let columns = [
        "protocol",
        "auth_attempts",
        "auth_attempts_failed",
        "auth_attempts_succeeded",
    ];
    Ok(Output::Rows(Rows::of(&columns, &rows)))
}
