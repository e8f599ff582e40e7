//! Users, tags, passwords, permissions, topic permissions.

use std::io::Read;

use leveret::model::topology::hash_password as hash;
use serde_json::{Value, json};

use super::call::{Call, no_user, no_vhost, refused};
use super::client::at;
use super::output::{Failure, Output, Rows, exit};
use super::spec::{BOTH, CTL, Spec, spec};

/// Longest password read from standard input, bytes.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

pub static COMMANDS: &[Spec] = &[
    spec(
        CTL,
        "add_user",
        "username password?",
        "pre-hashed-password",
        "Creates a user, without permissions in any vhost",
        add_user,
    ),
    spec(
        CTL,
        "delete_user",
        "username",
        "",
        "Removes a user",
        delete_user,
    ),
    spec(
        CTL,
        "change_password",
        "username password?",
        "",
        "Changes a user's password",
        change_password,
    ),
    spec(
        CTL,
        "clear_password",
        "username",
        "",
        "Removes a user's password, so that nobody logs in with one",
        clear_password,
    ),
    spec(
        CTL,
        "authenticate_user",
        "username password?",
        "",
        "Checks a user's password",
        authenticate_user,
    ),
    spec(
        CTL,
        "hash_password",
        "password?",
        "",
        "Hashes a password as add_user --pre-hashed-password takes it",
        hash_password,
    ),
    spec(
        CTL,
        "set_user_tags",
        "username tag*",
        "",
        "Sets a user's tags in place of those it has",
        set_user_tags,
    ),
    spec(
        BOTH,
        "list_users",
        "",
        "",
        "Lists users and their tags",
        list_users,
    ),
    spec(
        CTL,
        "set_permissions",
        "username configure write read",
        "",
        "Sets a user's permissions in a vhost",
        set_permissions,
    ),
    spec(
        CTL,
        "set_permissions_globally",
        "username configure write read",
        "",
        "Sets a user's permissions in every vhost",
        set_permissions_globally,
    ),
    spec(
        CTL,
        "clear_permissions",
        "username",
        "",
        "Takes a user's permissions in a vhost",
        clear_permissions,
    ),
    spec(
        BOTH,
        "list_permissions",
        "",
        "",
        "Lists permissions in a vhost",
        list_permissions,
    ),
    spec(
        BOTH,
        "list_user_permissions",
        "username",
        "",
        "Lists a user's permissions in all vhosts",
        list_user_permissions,
    ),
    spec(
        CTL,
        "set_topic_permissions",
        "username exchange write read",
        "",
        "Sets a user's permissions on a topic exchange",
        set_topic_permissions,
    ),
    spec(
        CTL,
        "clear_topic_permissions",
        "username exchange?",
        "",
        "Takes a user's permissions on topic exchanges",
        clear_topic_permissions,
    ),
    spec(
        BOTH,
        "list_topic_permissions",
        "",
        "",
        "Lists topic permissions in a vhost",
        list_topic_permissions,
    ),
    spec(
        BOTH,
        "list_user_topic_permissions",
        "username",
        "",
        "Lists a user's topic permissions in all vhosts",
        list_user_topic_permissions,
    ),
];

const ADDED: &str = "Done. Don't forget to grant the user permissions to some virtual hosts! \
                     See 'rabbitmqctl help set_permissions' to learn more.";

/// A password that was given, or comes on standard input.
fn password(call: &Call) -> Result<String, Failure> {
    if let Some(password) = call.maybe("password") {
        return Ok(password.to_owned());
    }
    let mut text = String::new();
    let read = std::io::stdin()
        .take(PASSWORD_BYTES_MAX)
        .read_to_string(&mut text);
    let text = text.lines().next().unwrap_or_default();
    match read {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Failure::usage(
            "not enough arguments. A password is neither given nor on standard input.",
        )),
    }
}

fn user(call: &Call, name: &str) -> Result<Value, Failure> {
    call.find(&at(&["users", name]))?
        .ok_or_else(|| no_user(name))
}

fn add_user(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("username");
    let hashed = call.is_set("pre-hashed-password");
    let password = password(call)?;
    call.banner(format!("Adding user \"{name}\" ..."));
    if call.find(&at(&["users", name]))?.is_some() {
        let text = format!("User \"{name}\" already exists");
        return Err(Failure::error(exit::SOFTWARE, text));
    }
    let body = match hashed {
        true => json!({"password_hash": password, "tags": ""}),
        false => json!({"password": password, "tags": ""}),
    };
    let reply = call.ask("PUT", &at(&["users", name]), Some(&body))?;
    if !reply.is_good() {
        return Err(Failure::error(exit::DATA, reply.reason()));
    }
    let value = json!({"status": "ok", "node": call.node(), "message": ADDED});
    Ok(Output::Told(ADDED.to_owned(), value))
}

fn delete_user(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("username");
    call.banner(format!("Deleting user \"{name}\" ..."));
    let reply = call.ask("DELETE", &at(&["users", name]), None)?;
    match reply.status {
        404 => Err(no_user(name)),
        _ if reply.is_good() => Ok(Output::Nothing),
        _ => Err(refused(&reply)),
    }
}

/// Changes what a body of PUT says of a user who exists; the rest stays.
fn rewrite(call: &Call, name: &str, key: &str, value: Value) -> Result<Output, Failure> {
    let known = user(call, name)?;
    let mut body = json!({"tags": known["tags"]});
    if !matches!(key, "password" | "password_hash") {
        body["password_hash"] = known["password_hash"].clone();
        body["hashing_algorithm"] = known["hashing_algorithm"].clone();
    }
    body[key] = value;
    call.put(&at(&["users", name]), &body)?;
    Ok(Output::Nothing)
}

fn change_password(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("username");
    let password = password(call)?;
    call.banner(format!("Changing password for user \"{name}\" ..."));
    rewrite(call, name, "password", Value::from(password))
}

fn clear_password(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("username");
    call.banner(format!("Clearing password for user \"{name}\" ..."));
    rewrite(call, name, "password_hash", Value::from(""))
}

fn authenticate_user(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("username");
    let password = password(call)?;
    call.banner(format!("Authenticating user \"{name}\" ..."));
    let body = json!({"user": name, "password": password});
    let reply = call.ask("POST", "/control/authenticate", Some(&body))?;
    match reply.status {
        401 => Err(Failure::error(
            exit::DATA,
            format!(
                "Error: failed to authenticate user \"{name}\"\nuser '{name}' - invalid credentials"
            ),
        )),
        _ if reply.is_good() => Ok(Output::Text("Success".to_owned())),
        _ => Err(refused(&reply)),
    }
}

fn hash_password(call: &Call) -> Result<Output, Failure> {
    let password = password(call)?;
    call.banner("Will hash password ...");
    let hash = hash(call.config.passwords.hashing, rand::random(), &password);
    Ok(Output::Text(hash))
}

fn set_user_tags(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("username");
    let tags = call.many("tag");
    let shown = tags.join(", ");
    call.banner(format!("Setting tags for user \"{name}\" to [{shown}] ..."));
    rewrite(call, name, "tags", json!(tags))
}

fn list_users(call: &Call) -> Result<Output, Failure> {
    call.banner("Listing users ...");
    let mut users = call.list(&at(&["users"]))?;
    for user in &mut users {
        user["user"] = user["name"].clone();
    }
    Ok(Output::Rows(Rows::of(&["user", "tags"], &users)))
}

/// Errors if the vhost is not there.
pub fn check_vhost(call: &Call, name: &str) -> Result<(), Failure> {
    match call.find(&at(&["vhosts", name]))? {
        Some(_) => Ok(()),
        None => Err(no_vhost(name)),
    }
}

fn check_ends(call: &Call, name: &str) -> Result<(), Failure> {
    check_vhost(call, call.vhost())?;
    user(call, name).map(drop)
}

fn rights(call: &Call) -> Value {
    json!({
        "configure": call.arg("configure"),
        "write": call.arg("write"),
        "read": call.arg("read"),
    })
}

fn set_permissions(call: &Call) -> Result<Output, Failure> {
    let (name, vhost) = (call.arg("username"), call.vhost());
    call.banner(format!(
        "Setting permissions for user \"{name}\" in vhost \"{vhost}\" ..."
    ));
    check_ends(call, name)?;
    call.put(&at(&["permissions", vhost, name]), &rights(call))?;
    Ok(Output::Nothing)
}

fn set_permissions_globally(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("username");
    call.banner(format!(
        "Setting permissions for user \"{name}\" in all virtual hosts ..."
    ));
    user(call, name)?;
    for vhost in call.list(&at(&["vhosts"]))? {
        let vhost = vhost["name"].as_str().unwrap_or_default();
        call.put(&at(&["permissions", vhost, name]), &rights(call))?;
    }
    Ok(Output::Nothing)
}

/// Takes what may not have been there.
fn take(call: &Call, path: &str) -> Result<Output, Failure> {
    let reply = call.ask("DELETE", path, None)?;
    match reply.is_good() || reply.status == 404 {
        true => Ok(Output::Nothing),
        false => Err(refused(&reply)),
    }
}

fn clear_permissions(call: &Call) -> Result<Output, Failure> {
    let (name, vhost) = (call.arg("username"), call.vhost());
    call.banner(format!(
        "Clearing permissions for user \"{name}\" in vhost \"{vhost}\" ..."
    ));
    check_ends(call, name)?;
    take(call, &at(&["permissions", vhost, name]))
}

fn listed(call: &Call, path: &[&str], columns: &[&str]) -> Result<Output, Failure> {
    let rows = call.list(&at(path))?;
    Ok(Output::Rows(Rows::of(columns, &rows)))
}

fn list_permissions(call: &Call) -> Result<Output, Failure> {
    let vhost = call.vhost();
    call.banner(format!("Listing permissions for vhost \"{vhost}\" ..."));
    check_vhost(call, vhost)?;
    let path = ["vhosts", vhost, "permissions"];
    listed(call, &path, &["user", "configure", "write", "read"])
}

fn list_user_permissions(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("username");
    call.banner(format!("Listing permissions for user \"{name}\" ..."));
    user(call, name)?;
    let path = ["users", name, "permissions"];
    listed(call, &path, &["vhost", "configure", "write", "read"])
}

fn set_topic_permissions(call: &Call) -> Result<Output, Failure> {
    let (name, vhost, exchange) = (call.arg("username"), call.vhost(), call.arg("exchange"));
    call.banner(format!(
        "Setting topic permissions on \"{exchange}\" for user \"{name}\" in vhost \"{vhost}\" ..."
    ));
    check_ends(call, name)?;
    let body = json!({"exchange": exchange, "write": call.arg("write"), "read": call.arg("read")});
    call.put(&at(&["topic-permissions", vhost, name]), &body)?;
    Ok(Output::Nothing)
}

fn clear_topic_permissions(call: &Call) -> Result<Output, Failure> {
    let (name, vhost) = (call.arg("username"), call.vhost());
    let on = match call.maybe("exchange") {
        Some(exchange) => format!(" on \"{exchange}\""),
        None => String::new(),
    };
    call.banner(format!(
        "Clearing topic permissions{on} for user \"{name}\" in vhost \"{vhost}\" ..."
    ));
    check_ends(call, name)?;
    let mut path = vec!["topic-permissions", vhost, name];
    path.extend(call.maybe("exchange"));
    take(call, &at(&path))
}

fn list_topic_permissions(call: &Call) -> Result<Output, Failure> {
    let vhost = call.vhost();
    call.banner(format!(
        "Listing topic permissions for vhost \"{vhost}\" ..."
    ));
    check_vhost(call, vhost)?;
    let path = ["vhosts", vhost, "topic-permissions"];
    listed(call, &path, &["user", "exchange", "write", "read"])
}

fn list_user_topic_permissions(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("username");
    call.banner(format!("Listing topic permissions for user \"{name}\" ..."));
    user(call, name)?;
    let path = ["users", name, "topic-permissions"];
    listed(call, &path, &["vhost", "exchange", "write", "read"])
}
