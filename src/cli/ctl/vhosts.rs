//! Vhosts.

use serde_json::{Value, json};

use super::accounts::check_vhost;
use super::call::{Call, no_vhost, refused};
use super::client::at;
use super::listing::columns;
use super::output::{Failure, Output, Rows};
use super::spec::{BOTH, CTL, Spec, spec};

const OPTIONS: &str = "description= tags= default-queue-type= protected-from-deletion=";

pub static COMMANDS: &[Spec] = &[
    spec(
        CTL,
        "add_vhost",
        "vhost_name",
        OPTIONS,
        "Creates a vhost",
        add_vhost,
    ),
    spec(
        CTL,
        "delete_vhost",
        "vhost_name",
        "",
        "Deletes a vhost with all that is in it",
        delete_vhost,
    ),
    spec(
        CTL,
        "update_vhost_metadata",
        "vhost_name",
        OPTIONS,
        "Changes what is said of a vhost",
        update_vhost_metadata,
    ),
    spec(
        CTL,
        "set_vhost_tags",
        "vhost_name tag*",
        "",
        "Sets a vhost's tags",
        set_vhost_tags,
    ),
    spec(
        CTL,
        "enable_vhost_deletion_protection",
        "vhost_name",
        "",
        "Lets nobody delete a vhost",
        protect,
    ),
    spec(
        CTL,
        "disable_vhost_deletion_protection",
        "vhost_name",
        "",
        "Lets a vhost be deleted again",
        unprotect,
    ),
    spec(
        CTL,
        "restart_vhost",
        "",
        "",
        "Accepted; vhosts here are never down",
        restart_vhost,
    ),
    spec(
        CTL,
        "trace_on",
        "",
        "",
        "Turns the vhost's tracing on",
        trace_on,
    ),
    spec(
        CTL,
        "trace_off",
        "",
        "",
        "Turns the vhost's tracing off",
        trace_off,
    ),
    spec(
        BOTH,
        "list_vhosts",
        "column*",
        "",
        "Lists vhosts",
        list_vhosts,
    ),
];

const COLUMNS: [&str; 9] = [
    "name",
    "description",
    "tags",
    "default_queue_type",
    "protected_from_deletion",
    "tracing",
    "cluster_state",
    "metadata",
    "protected",
];

/// What the options say, as a body of PUT.
fn metadata(call: &Call) -> Value {
    let mut body = json!({});
    if let Some(text) = call.maybe("description") {
        body["description"] = json!(text);
    }
    if let Some(tags) = call.maybe("tags") {
        let tags = tags.split(',').map(str::trim);
        body["tags"] = tags.filter(|tag| !tag.is_empty()).collect();
    }
    if let Some(kind) = call.maybe("default-queue-type") {
        body["default_queue_type"] = json!(kind);
    }
    if let Some(flag) = call.maybe("protected-from-deletion") {
        body["protected_from_deletion"] = json!(flag);
    }
    body
}

fn add_vhost(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("vhost_name");
    call.banner(format!("Adding vhost \"{name}\" ..."));
    // One that is there stays as it is, as in RabbitMQ.
    if call.find(&at(&["vhosts", name]))?.is_none() {
        call.put(&at(&["vhosts", name]), &metadata(call))?;
    }
    Ok(Output::Nothing)
}

fn delete_vhost(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("vhost_name");
    call.banner(format!("Deleting vhost \"{name}\" ..."));
    let reply = call.ask("DELETE", &at(&["vhosts", name]), None)?;
    match reply.status {
        404 => Err(no_vhost(name)),
        _ if reply.is_good() => Ok(Output::Nothing),
        _ => Err(refused(&reply)),
    }
}

fn update(call: &Call, name: &str, body: &Value) -> Result<Output, Failure> {
    check_vhost(call, name)?;
    call.put(&at(&["vhosts", name]), body)?;
    Ok(Output::Nothing)
}

fn update_vhost_metadata(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("vhost_name");
    let body = metadata(call);
    if body.as_object().is_none_or(serde_json::Map::is_empty) {
        return Err(Failure::usage(
            "not enough arguments. Say at least one of --description, --tags, --default-queue-type, --protected-from-deletion.",
        ));
    }
    call.banner(format!("Updating metadata of vhost \"{name}\" ..."));
    update(call, name, &body)
}

fn set_vhost_tags(call: &Call) -> Result<Output, Failure> {
    let (name, tags) = (call.arg("vhost_name"), call.many("tag"));
    let shown = tags.join(", ");
    call.banner(format!(
        "Setting tags for virtual host \"{name}\" to [{shown}] ..."
    ));
    update(call, name, &json!({"tags": tags}))
}

fn protection(call: &Call, method: &str) -> Result<Output, Failure> {
    let name = call.arg("vhost_name");
    check_vhost(call, name)?;
    let path = at(&["vhosts", name, "deletion", "protection"]);
    call.change(method, &path, None)?;
    Ok(Output::Nothing)
}

fn protect(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("vhost_name");
    call.banner(format!("Protecting virtual host '{name}' from deletion..."));
    protection(call, "POST")
}

fn unprotect(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("vhost_name");
    call.banner(format!(
        "Removing deletion protection from virtual host '{name}'..."
    ));
    protection(call, "DELETE")
}

fn restart_vhost(call: &Call) -> Result<Output, Failure> {
    let (vhost, node) = (call.vhost(), call.node());
    call.banner(format!(
        "Trying to restart vhost '{vhost}' on node '{node}' ..."
    ));
    check_vhost(call, vhost)?;
    Ok(Output::Text(format!(
        "Vhost '{vhost}' is already running on node '{node}'"
    )))
}

fn trace(call: &Call, on: bool) -> Result<Output, Failure> {
    let vhost = call.vhost();
    let (doing, done) = match on {
        true => ("Starting", "enabled"),
        false => ("Stopping", "disabled"),
    };
    call.banner(format!("{doing} tracing for vhost \"{vhost}\" ..."));
    update(call, vhost, &json!({"tracing": on}))?;
    Ok(Output::Text(format!("Trace {done} for vhost {vhost}")))
}

fn trace_on(call: &Call) -> Result<Output, Failure> {
    trace(call, true)
}

fn trace_off(call: &Call) -> Result<Output, Failure> {
    trace(call, false)
}

fn list_vhosts(call: &Call) -> Result<Output, Failure> {
    let wanted = columns(call, &COLUMNS, &["name"])?;
    call.banner("Listing vhosts ...");
    let rows = call.list("/api/vhosts?disable_stats=true")?;
    Ok(Output::Rows(Rows::of(&wanted, &rows)))
}
