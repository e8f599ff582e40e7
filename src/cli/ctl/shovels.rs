//! Shovels: how they are, their start anew, their end.

use serde_json::Value;

use super::call::{Call, refused};
use super::client::at;
use super::output::{Failure, Output, Rows, exit};
use super::spec::{CTL, Spec, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        CTL,
        "shovel_status",
        "",
        "",
        "Lists the shovels of all vhosts and how they are",
        shovel_status,
    ),
    spec(
        CTL,
        "restart_shovel",
        "name",
        "",
        "Ends a shovel and starts it again",
        restart_shovel,
    ),
    spec(
        CTL,
        "delete_shovel",
        "name",
        "",
        "Deletes a shovel",
        delete_shovel,
    ),
];

/// The tool's columns, and the fields of the API's rows.
const COLUMNS: [(&str, &str); 19] = [
    ("name", "name"),
    ("vhost", "vhost"),
    ("type", "type"),
    ("state", "state"),
    ("node", "node"),
    ("last_changed", "timestamp"),
    ("source", "src_uri"),
    ("source_protocol", "src_protocol"),
    ("source_queue", "src_queue"),
    ("source_exchange", "src_exchange"),
    ("source_exchange_key", "src_exchange_key"),
    ("destination", "dest_uri"),
    ("destination_protocol", "dest_protocol"),
    ("destination_queue", "dest_queue"),
    ("destination_exchange", "dest_exchange"),
    ("destination_exchange_key", "dest_exchange_key"),
    ("remaining", "remaining"),
    ("forwarded", "forwarded"),
    ("termination_reason", "reason"),
];

fn shovel_status(call: &Call) -> Result<Output, Failure> {
    call.banner(format!("Shovel status on node {}", call.node()));
    let rows = call.list("/api/shovels")?;
    let renamed: Vec<Value> = rows
        .iter()
        .map(|row| {
            let fields = COLUMNS.iter();
            let fields = fields.map(|(column, field)| ((*column).to_owned(), row[field].clone()));
            Value::Object(fields.collect())
        })
        .collect();
    let columns = COLUMNS.map(|(column, _)| column);
    Ok(Output::Rows(Rows::of(&columns, &renamed)))
}

/// Tells the API to do something with a shovel that must be there.
fn told(call: &Call, path: &str) -> Result<Output, Failure> {
    let reply = call.ask("DELETE", path, None)?;
    match reply.status {
        404 => Err(Failure::error(
            exit::DATA,
            format!(
                "Shovel with the given name was not found on the target node '{}' and / or virtual host '{}'",
                call.node(),
                call.vhost()
            ),
        )),
        _ if reply.is_good() => Ok(Output::Nothing),
        _ => Err(refused(&reply)),
    }
}

fn restart_shovel(call: &Call) -> Result<Output, Failure> {
    let (vhost, name) = (call.vhost(), call.arg("name"));
    call.banner(format!(
        "Restarting dynamic Shovel {name} in vhost {vhost} ..."
    ));
    told(call, &at(&["shovels", "vhost", vhost, name, "restart"]))
}

fn delete_shovel(call: &Call) -> Result<Output, Failure> {
    let (vhost, name) = (call.vhost(), call.arg("name"));
    call.banner(format!("Deleting shovel {name} in vhost {vhost}"));
    told(call, &at(&["shovels", "vhost", vhost, name]))
}
