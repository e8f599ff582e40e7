//! Limits of vhosts and users.

use serde_json::{Value, json};

use super::accounts::check_vhost;
use super::call::{Call, no_user};
use super::client::at;
use super::output::{Failure, Output, Rows, exit};
use super::spec::{BOTH, CTL, Spec, spec};

pub static COMMANDS: &[Spec] = &[
    spec(
        CTL,
        "set_vhost_limits",
        "definition",
        "",
        "Sets limits of a vhost",
        set_vhost_limits,
    ),
    spec(
        CTL,
        "clear_vhost_limits",
        "",
        "",
        "Takes the limits of a vhost",
        clear_vhost_limits,
    ),
    spec(
        BOTH,
        "list_vhost_limits",
        "",
        "global",
        "Lists limits of a vhost, or of all with --global",
        list_vhost_limits,
    ),
    spec(
        CTL,
        "set_user_limits",
        "username definition",
        "",
        "Sets limits of a user",
        set_user_limits,
    ),
    spec(
        CTL,
        "clear_user_limits",
        "username limit_type",
        "",
        "Takes a limit of a user, or all",
        clear_user_limits,
    ),
    spec(
        BOTH,
        "list_user_limits",
        "",
        "user= global",
        "Lists limits of a user, or of all with --global",
        list_user_limits,
    ),
];

const OF_VHOSTS: [&str; 2] = ["max-connections", "max-queues"];
const OF_USERS: [&str; 2] = ["max-connections", "max-channels"];

/// The limits a definition names; all are looked at before any is set.
fn limits(text: &str, known: &[&str]) -> Result<Vec<(String, i64)>, Failure> {
    let wrong = |why: String| Failure::error(exit::DATA, why);
    let value: Value = serde_json::from_str(text)
        .map_err(|error| wrong(format!("JSON decoding error. Reason: {error}")))?;
    let Value::Object(map) = value else {
        return Err(wrong("limits must be a JSON object".to_owned()));
    };
    let mut limits = Vec::new();
    for (name, value) in map {
        let number = value.as_i64().filter(|_| known.contains(&name.as_str()));
        let number = number.ok_or_else(|| {
            wrong(format!(
                "Validation failed\n\nUnrecognised terms [{{<<\"{name}\">>,{value}}}] in limits\n"
            ))
        })?;
        limits.push((name, number));
    }
    Ok(limits)
}

fn set_vhost_limits(call: &Call) -> Result<Output, Failure> {
    let (vhost, text) = (call.vhost(), call.arg("definition"));
    call.banner(format!(
        "Setting vhost limits to \"{text}\" for vhost \"{vhost}\" ..."
    ));
    check_vhost(call, vhost)?;
    for (name, value) in limits(text, &OF_VHOSTS)? {
        call.put(
            &at(&["vhost-limits", vhost, &name]),
            &json!({"value": value}),
        )?;
    }
    Ok(Output::Nothing)
}

fn clear_vhost_limits(call: &Call) -> Result<Output, Failure> {
    let vhost = call.vhost();
    call.banner(format!("Clearing vhost \"{vhost}\" limits ..."));
    check_vhost(call, vhost)?;
    for name in OF_VHOSTS {
        call.change("DELETE", &at(&["vhost-limits", vhost, name]), None)?;
    }
    Ok(Output::Nothing)
}

/// Limits of one, as a line; of all, as a table.
fn shown(rows: &[Value], kind: &str, name: Option<&str>) -> Output {
    let Some(name) = name else {
        let rows = rows
            .iter()
            .map(|row| json!({kind: row[kind], "limits": row["value"].to_string()}));
        return Output::Rows(Rows::of(&[kind, "limits"], &rows.collect::<Vec<_>>()));
    };
    let own = rows.iter().find(|row| row[kind] == name);
    let limits = own.map_or_else(|| json!({}), |row| row["value"].clone());
    Output::Both(limits.to_string(), limits)
}

fn list_vhost_limits(call: &Call) -> Result<Output, Failure> {
    let vhost = call.vhost();
    let one = (!call.is_set("global")).then_some(vhost);
    match one {
        Some(_) => call.banner(format!("Listing limits for vhost \"{vhost}\" ...")),
        None => call.banner("Listing limits for all vhosts ..."),
    }
    if one.is_some() {
        check_vhost(call, vhost)?;
    }
    let rows = call.list("/api/vhost-limits")?;
    let none = one.is_some_and(|vhost| !rows.iter().any(|row| row["vhost"] == vhost));
    match none {
        // RabbitMQ writes an empty line here, and an empty list for programs.
        true => Ok(Output::Both(String::new(), json!([]))),
        false => Ok(shown(&rows, "vhost", one)),
    }
}

fn check_user(call: &Call, name: &str) -> Result<(), Failure> {
    match call.find(&at(&["users", name]))? {
        Some(_) => Ok(()),
        None => Err(no_user(name)),
    }
}

fn set_user_limits(call: &Call) -> Result<Output, Failure> {
    let (name, text) = (call.arg("username"), call.arg("definition"));
    call.banner(format!(
        "Setting user limits to \"{text}\" for user \"{name}\" ..."
    ));
    check_user(call, name)?;
    for (limit, value) in limits(text, &OF_USERS)? {
        call.put(
            &at(&["user-limits", name, &limit]),
            &json!({"value": value}),
        )?;
    }
    Ok(Output::Nothing)
}

fn clear_user_limits(call: &Call) -> Result<Output, Failure> {
    let (name, wanted) = (call.arg("username"), call.arg("limit_type"));
    call.banner(format!(
        "Clearing \"{wanted}\" limit for user \"{name}\" ..."
    ));
    check_user(call, name)?;
    let all = wanted == "all";
    if !all && !OF_USERS.contains(&wanted) {
        let text =
            format!("Validation failed\n\nUnrecognised terms [<<\"{wanted}\">>] in limits\n");
        return Err(Failure::error(exit::DATA, text));
    }
    for limit in OF_USERS.into_iter().filter(|limit| all || *limit == wanted) {
        call.change("DELETE", &at(&["user-limits", name, limit]), None)?;
    }
    Ok(Output::Nothing)
}

fn list_user_limits(call: &Call) -> Result<Output, Failure> {
    let name = call.maybe("user").unwrap_or("guest");
    let one = (!call.is_set("global")).then_some(name);
    match one {
        Some(_) => call.banner(format!("Listing limits for user \"{name}\" ...")),
        None => call.banner("Listing limits for all users ..."),
    }
    if one.is_some() {
        check_user(call, name)?;
    }
    let rows = call.list("/api/user-limits")?;
    Ok(shown(&rows, "user", one))
}
