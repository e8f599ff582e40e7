//! What is done to queues and connections, and what `rabbitmq-queues` and `rabbitmq-streams` ask.

use serde_json::{Value, json};

use super::accounts::check_vhost;
use super::call::{Call, refused};
use super::client::at;
use super::listing::connections;
use super::output::{Failure, Output, Rows, exit};
use super::spec::{CTL, DIAG, QUEUES, STREAMS, Spec, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        CTL,
        "purge_queue",
        "queue",
        "",
        "Removes all messages of a queue that are ready",
        purge_queue,
    ),
    spec(
        CTL,
        "delete_queue",
        "queue",
        "if-empty if-unused force",
        "Deletes a queue",
        delete_queue,
    ),
    spec(
        CTL,
        "close_connection",
        "connection_pid reason",
        "",
        "Closes a connection, named by its pid or name",
        close_connection,
    ),
    spec(
        CTL,
        "close_all_connections",
        "reason",
        "global per-connection-delay= limit=",
        "Closes all connections of a vhost, or with --global of the node",
        close_all_connections,
    ),
    spec(
        CTL,
        "close_all_user_connections",
        "username reason",
        "",
        "Closes all connections of a user",
        close_all_user_connections,
    ),
    spec(
        QUEUES | DIAG,
        "quorum_status",
        "queue",
        "",
        "Shows the replicas of a queue",
        quorum_status,
    ),
    spec(
        QUEUES,
        "rebalance",
        "type",
        "vhost-pattern= queue-pattern=",
        "Accepted; the controller keeps leaders where they should be",
        rebalance,
    ),
    spec(
        QUEUES,
        "grow",
        "member selector",
        "vhost-pattern= queue-pattern= errors-only membership=",
        "Refused: replicas are placed by broker set",
        placed,
    ),
    spec(
        QUEUES,
        "transfer_leadership",
        "queue member",
        "",
        "Refused: replicas are placed by broker set",
        placed,
    ),
    spec(
        QUEUES,
        "shrink",
        "member",
        "errors-only",
        "Refused: see `leveret cluster forget`",
        placed,
    ),
    spec(
        QUEUES,
        "add_member",
        "queue member",
        "membership=",
        "Refused: replicas are placed by broker set",
        placed,
    ),
    spec(
        QUEUES,
        "delete_member",
        "queue member",
        "",
        "Refused: replicas are placed by broker set",
        placed,
    ),
    spec(
        QUEUES,
        "peek",
        "queue position",
        "",
        "Shows a message of a queue without taking it",
        peek,
    ),
    spec(
        STREAMS | DIAG | QUEUES,
        "stream_status",
        "stream",
        "tracking",
        "Shows the replicas of a stream",
        quorum_status,
    ),
    spec(
        STREAMS,
        "add_replica",
        "stream member",
        "",
        "Refused: replicas are placed by broker set",
        placed,
    ),
    spec(
        STREAMS,
        "delete_replica",
        "stream member",
        "",
        "Refused: replicas are placed by broker set",
        placed,
    ),
];

fn purge_queue(call: &Call) -> Result<Output, Failure> {
    let (vhost, queue) = (call.vhost(), call.arg("queue"));
    call.banner(format!("Purging queue '{queue}' in vhost '{vhost}' ..."));
    let reply = call.ask("DELETE", &at(&["queues", vhost, queue, "contents"]), None)?;
    match reply.status {
        404 => Err(Failure::error(exit::UNAVAILABLE, "not_found")),
        _ if reply.is_good() => Ok(Output::Nothing),
        _ => Err(refused(&reply)),
    }
}

fn delete_queue(call: &Call) -> Result<Output, Failure> {
    let (vhost, queue) = (call.vhost(), call.arg("queue"));
    let (empty, unused) = (call.is_set("if-empty"), call.is_set("if-unused"));
    let condition = match (empty, unused) {
        (true, true) => "if queue is empty and unused ",
        (true, false) => "if queue is empty ",
        (false, true) => "if queue is unused ",
        (false, false) => "",
    };
    call.banner(format!(
        "Deleting queue '{queue}' on vhost '{vhost}' {condition}..."
    ));
    let path = at(&["queues", vhost, queue]);
    let known = call.find(&path)?;
    let known = known.ok_or_else(|| Failure::error(exit::USAGE, "Queue not found"))?;
    let query = format!("{path}?if-empty={empty}&if-unused={unused}");
    let reply = call.ask("DELETE", &query, None)?;
    if reply.is_good() {
        let messages = known["messages"].as_u64().unwrap_or_default();
        let text = format!("Queue was successfully deleted with {messages} ready messages");
        let value = json!({"message": text});
        return Ok(Output::Told(text, value));
    }
    Err(refused(&reply))
}

/// Closes connections by name and counts those that were there.
fn close(call: &Call, names: &[String], reason: &str) -> Result<usize, Failure> {
    let mut closed = 0;
    for name in names {
        let path = at(&["connections", name]);
        let asked = call.client.ask_why("DELETE", &path, b"", Some(reason));
        // One that went meanwhile is closed.
        closed += usize::from(asked.is_ok_and(|reply| reply.is_good()));
    }
    Ok(closed)
}

fn names(rows: &[Value], is: impl Fn(&Value) -> bool) -> Vec<String> {
    let rows = rows.iter().filter(|row| is(row));
    let names = rows.filter_map(|row| row["name"].as_str());
    names.map(str::to_owned).collect()
}

fn close_connection(call: &Call) -> Result<Output, Failure> {
    let (pid, reason) = (call.arg("connection_pid"), call.arg("reason"));
    call.banner(format!("Closing connection {pid}, reason: {reason}..."));
    let rows = connections(call)?;
    let chosen = names(&rows, |row| row["pid"] == pid || row["name"] == pid);
    match close(call, &chosen, reason)? {
        0 => Err(Failure::error(
            exit::UNAVAILABLE,
            format!("no connection {pid}"),
        )),
        _ => Ok(Output::Nothing),
    }
}

fn close_all_connections(call: &Call) -> Result<Output, Failure> {
    let (vhost, reason) = (call.vhost(), call.arg("reason"));
    let global = call.is_set("global");
    match global {
        true => call.banner(format!(
            "Closing all connections to node {} (across all vhosts), reason: {reason}...",
            call.node()
        )),
        false => call.banner(format!(
            "Closing all connections in vhost {vhost}, reason: {reason}..."
        )),
    }
    let rows = connections(call)?;
    let mut chosen = names(&rows, |row| global || row["vhost"] == vhost);
    let limit = call
        .maybe("limit")
        .and_then(|text| text.parse::<usize>().ok());
    if let Some(limit) = limit.filter(|limit| *limit > 0) {
        chosen.truncate(limit);
    }
    let closed = close(call, &chosen, reason)?;
    Ok(Output::Text(format!("Closed {closed} connections")))
}

fn close_all_user_connections(call: &Call) -> Result<Output, Failure> {
    let (user, reason) = (call.arg("username"), call.arg("reason"));
    call.banner(format!(
        "Closing all connections of user {user}, reason: {reason}..."
    ));
    let rows = connections(call)?;
    let chosen = names(&rows, |row| row["user"] == user);
    close(call, &chosen, reason)?;
    Ok(Output::Nothing)
}

fn quorum_status(call: &Call) -> Result<Output, Failure> {
    let (vhost, queue) = (
        call.vhost(),
        call.maybe("queue").unwrap_or_else(|| call.arg("stream")),
    );
    let kind = match call.name {
        "stream_status" => "stream",
        _ => "quorum queue",
    };
    call.banner(format!(
        "Status of {kind} {queue} on node {} ...",
        call.node()
    ));
    check_vhost(call, vhost)?;
    let row = call.find(&at(&["queues", vhost, queue]))?;
    let row = row.ok_or_else(|| Failure::error(exit::UNAVAILABLE, "not_found"))?;
    if row["type"] == "classic" {
        return Err(Failure::error(
            exit::UNAVAILABLE,
            "Cannot get quorum status of a classic queue",
        ));
    }
    let none = Vec::new();
    let members = row["members"].as_array().unwrap_or(&none);
    let rows = members.iter().map(|member| {
        json!({
            "Node Name": member,
            "Raft State": if *member == row["leader"] { "leader" } else { "follower" },
            "Membership": "voter",
        })
    });
    let columns = ["Node Name", "Raft State", "Membership"];
    Ok(Output::Rows(Rows::of(&columns, &rows.collect::<Vec<_>>())))
}

fn rebalance(call: &Call) -> Result<Output, Failure> {
    let kind = call.arg("type");
    if !matches!(kind, "all" | "classic" | "quorum" | "stream") {
        return Err(Failure::usage(format!(
            "type {kind} is not supported. Try one of all, classic, quorum, stream."
        )));
    }
    call.banner(format!("Re-balancing leaders of {kind} queues..."));
    call.change("POST", "/api/rebalance/queues", Some(&json!({})))?;
    let rows: [Value; 0] = [];
    let columns = ["Node name", "Number of quorum queue leaders"];
    Ok(Output::Rows(Rows::of(&columns, &rows)))
}

fn placed(_: &Call) -> Result<Output, Failure> {
    Err(Failure::error(
        exit::SOFTWARE,
        "queues share the replicas of their broker set here: see `leveret cluster status`, `move`, `spread`, `drain` and `forget`",
    ))
}

fn peek(call: &Call) -> Result<Output, Failure> {
    let (vhost, queue) = (call.vhost(), call.arg("queue"));
    let position: usize = call
        .arg("position")
        .parse()
        .ok()
        .filter(|position| (1..=1000).contains(position))
        .ok_or_else(|| Failure::usage("position must be a number from 1 to 1000"))?;
    call.banner(format!(
        "Peeking at queue {queue} at position {position} ..."
    ));
    let body = json!({"count": position, "ackmode": "ack_requeue_true", "encoding": "auto", "truncate": 50_000});
    let reply = call.ask("POST", &at(&["queues", vhost, queue, "get"]), Some(&body))?;
    if !reply.is_good() {
        return Err(refused(&reply));
    }
    let messages = reply
        .value
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    match messages.get(position - 1) {
        Some(message) => Ok(Output::Json(message.clone())),
        None => Err(Failure::error(
            exit::DATA,
            format!("no message at position {position}"),
        )),
    }
}
