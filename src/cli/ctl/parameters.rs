//! Policies, operator policies, parameters, the cluster's name, feature flags.

use serde_json::{Value, json};

use super::accounts::check_vhost;
use super::call::{Call, refused};
use super::client::at;
use super::listing::columns;
use super::output::{Failure, Output, Rows, exit};
use super::spec::{BOTH, CTL, Spec, spec};

const POLICY: &str = "name pattern definition";
const POLICY_OPTIONS: &str = "priority= apply-to=";

pub static COMMANDS: &[Spec] = &[
    spec(
        CTL,
        "set_policy",
        POLICY,
        POLICY_OPTIONS,
        "Sets or updates a policy",
        set_policy,
    ),
    spec(
        CTL,
        "clear_policy",
        "name",
        "",
        "Removes a policy",
        clear_policy,
    ),
    spec(
        BOTH,
        "list_policies",
        "",
        "",
        "Lists policies of a vhost",
        list_policies,
    ),
    spec(
        CTL,
        "set_operator_policy",
        POLICY,
        POLICY_OPTIONS,
        "Sets an operator policy, which bounds users' policies",
        set_operator_policy,
    ),
    spec(
        CTL,
        "clear_operator_policy",
        "name",
        "",
        "Removes an operator policy",
        clear_operator_policy,
    ),
    spec(
        BOTH,
        "list_operator_policies",
        "",
        "",
        "Lists operator policies of a vhost",
        list_operator_policies,
    ),
    spec(
        BOTH,
        "list_policies_that_match",
        "name",
        "object-type=",
        "Lists the policies that match a queue or exchange",
        list_policies_that_match,
    ),
    spec(
        CTL,
        "set_parameter",
        "component name value",
        "",
        "Sets a parameter of a vhost",
        set_parameter,
    ),
    spec(
        CTL,
        "clear_parameter",
        "component name",
        "",
        "Removes a parameter",
        clear_parameter,
    ),
    spec(
        BOTH,
        "list_parameters",
        "",
        "",
        "Lists parameters of a vhost",
        list_parameters,
    ),
    spec(
        CTL,
        "set_global_parameter",
        "name value",
        "",
        "Sets a parameter of the cluster",
        set_global_parameter,
    ),
    spec(
        CTL,
        "clear_global_parameter",
        "name",
        "",
        "Removes a parameter of the cluster",
        clear_global_parameter,
    ),
    spec(
        BOTH,
        "list_global_parameters",
        "",
        "",
        "Lists parameters of the cluster",
        list_global_parameters,
    ),
    spec(
        CTL,
        "set_cluster_name",
        "name",
        "",
        "Names the cluster",
        set_cluster_name,
    ),
    spec(
        BOTH,
        "list_feature_flags",
        "column*",
        "detailed",
        "Lists feature flags",
        list_feature_flags,
    ),
    spec(
        CTL,
        "enable_feature_flag",
        "feature_flag",
        "opt-in experimental",
        "Enables a feature flag, or all; all are",
        enable_feature_flag,
    ),
    spec(
        BOTH,
        "list_deprecated_features",
        "column*",
        "used",
        "Lists features that will go",
        list_deprecated_features,
    ),
];

/// The words and paths of a kind of policy.
struct Kind {
    path: &'static str,
    title: &'static str,
    titles: &'static str,
}

const USER: Kind = Kind {
    path: "policies",
    title: "policy",
    titles: "policies",
};
const OPERATOR: Kind = Kind {
    path: "operator-policies",
    title: "operator policy",
    titles: "operator policy overrides",
};

fn json_of(text: &str) -> Result<Value, Failure> {
    let parsed = serde_json::from_str(text);
    parsed.map_err(|error| {
        let text = format!("JSON decoding error. Reason: {error}");
        Failure::error(exit::UNAVAILABLE, text)
    })
}

fn set(call: &Call, kind: &Kind, title: &str) -> Result<Output, Failure> {
    let (vhost, name) = (call.vhost(), call.arg("name"));
    let (pattern, definition) = (call.arg("pattern"), call.arg("definition"));
    let priority = call.maybe("priority").unwrap_or("0");
    call.banner(format!(
        "Setting {title} \"{name}\" for pattern \"{pattern}\" to \"{definition}\" with priority \"{priority}\" for vhost \"{vhost}\" ..."
    ));
    let number: i64 = priority.parse().map_err(|_| {
        Failure::usage(format!(
            "Invalid options for this command:\n--priority : {priority}"
        ))
    })?;
    check_vhost(call, vhost)?;
    let body = json!({
        "pattern": pattern,
        "definition": json_of(definition)?,
        "priority": number,
        "apply-to": call.maybe("apply-to").unwrap_or("all"),
    });
    call.put(&at(&[kind.path, vhost, name]), &body)?;
    Ok(Output::Nothing)
}

fn set_policy(call: &Call) -> Result<Output, Failure> {
    set(call, &USER, "policy")
}

fn set_operator_policy(call: &Call) -> Result<Output, Failure> {
    set(call, &OPERATOR, "operator policy override")
}

/// Deletes what must have been there.
fn cleared(call: &Call, path: &str) -> Result<Output, Failure> {
    let reply = call.ask("DELETE", path, None)?;
    match reply.status {
        404 => Err(Failure::error(
            exit::UNAVAILABLE,
            "Parameter does not exist",
        )),
        _ if reply.is_good() => Ok(Output::Nothing),
        _ => Err(refused(&reply)),
    }
}

fn clear(call: &Call, kind: &Kind) -> Result<Output, Failure> {
    let (vhost, name, title) = (call.vhost(), call.arg("name"), kind.title);
    call.banner(format!(
        "Clearing {title} \"{name}\" on vhost \"{vhost}\" ..."
    ));
    check_vhost(call, vhost)?;
    cleared(call, &at(&[kind.path, vhost, name]))
}

fn clear_policy(call: &Call) -> Result<Output, Failure> {
    clear(call, &USER)
}

fn clear_operator_policy(call: &Call) -> Result<Output, Failure> {
    clear(call, &OPERATOR)
}

const POLICY_COLUMNS: [&str; 6] = [
    "vhost",
    "name",
    "pattern",
    "apply-to",
    "definition",
    "priority",
];

/// RabbitMQ writes a definition as the text it was set with.
fn as_text(mut rows: Vec<Value>, key: &str) -> Vec<Value> {
    for row in &mut rows {
        row[key] = Value::from(row[key].to_string());
    }
    rows
}

fn list(call: &Call, kind: &Kind) -> Result<Output, Failure> {
    let vhost = call.vhost();
    call.banner(format!("Listing {} for vhost \"{vhost}\" ...", kind.titles));
    check_vhost(call, vhost)?;
    let rows = as_text(call.list(&at(&[kind.path, vhost]))?, "definition");
    Ok(Output::Rows(Rows::of(&POLICY_COLUMNS, &rows)))
}

fn list_policies(call: &Call) -> Result<Output, Failure> {
    list(call, &USER)
}

fn list_operator_policies(call: &Call) -> Result<Output, Failure> {
    list(call, &OPERATOR)
}

fn list_policies_that_match(call: &Call) -> Result<Output, Failure> {
    let (vhost, name) = (call.vhost(), call.arg("name"));
    call.banner(format!(
        "Listing policies that match queue '{name}' in vhost '{vhost}' ..."
    ));
    check_vhost(call, vhost)?;
    let kind = match call.maybe("object-type") {
        Some("exchange") => "exchanges",
        _ => "queues",
    };
    let object = call.find(&at(&[kind, vhost, name]))?;
    let object =
        object.ok_or_else(|| Failure::error(exit::DATA, format!("no such object: {name}")))?;
    let policies = as_text(call.list(&at(&["policies", vhost]))?, "definition");
    let matching: Vec<Value> = policies
        .into_iter()
        .filter(|policy| policy["name"] == object["policy"])
        .collect();
    Ok(Output::Rows(Rows::of(&POLICY_COLUMNS, &matching)))
}

fn set_parameter(call: &Call) -> Result<Output, Failure> {
    let (vhost, component) = (call.vhost(), call.arg("component"));
    let (name, value) = (call.arg("name"), call.arg("value"));
    call.banner(format!(
        "Setting runtime parameter \"{name}\" for component \"{component}\" to \"{value}\" in vhost \"{vhost}\" ..."
    ));
    check_vhost(call, vhost)?;
    let body = json!({"value": json_of(value)?});
    call.put(&at(&["parameters", component, vhost, name]), &body)?;
    Ok(Output::Nothing)
}

fn clear_parameter(call: &Call) -> Result<Output, Failure> {
    let (vhost, component, name) = (call.vhost(), call.arg("component"), call.arg("name"));
    call.banner(format!(
        "Clearing runtime parameter \"{name}\" for component \"{component}\" on vhost \"{vhost}\" ..."
    ));
    check_vhost(call, vhost)?;
    cleared(call, &at(&["parameters", component, vhost, name]))
}

fn list_parameters(call: &Call) -> Result<Output, Failure> {
    let vhost = call.vhost();
    call.banner(format!(
        "Listing runtime parameters for vhost \"{vhost}\" ..."
    ));
    check_vhost(call, vhost)?;
    let mut rows = as_text(call.list("/api/parameters")?, "value");
    rows.retain(|row| row["vhost"] == vhost);
    Ok(Output::Rows(Rows::of(
        &["component", "name", "value"],
        &rows,
    )))
}

fn set_global_parameter(call: &Call) -> Result<Output, Failure> {
    let (name, value) = (call.arg("name"), call.arg("value"));
    call.banner(format!(
        "Setting global runtime parameter \"{name}\" to \"{value}\" ..."
    ));
    let body = json!({"value": json_of(value)?});
    call.put(&at(&["global-parameters", name]), &body)?;
    Ok(Output::Nothing)
}

fn clear_global_parameter(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("name");
    call.banner(format!("Clearing global runtime parameter \"{name}\" ..."));
    cleared(call, &at(&["global-parameters", name]))
}

fn list_global_parameters(call: &Call) -> Result<Output, Failure> {
    call.banner("Listing global runtime parameters ...");
    let rows = as_text(call.list("/api/global-parameters")?, "value");
    Ok(Output::Rows(Rows::of(&["name", "value"], &rows)))
}

fn set_cluster_name(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("name");
    call.banner(format!("Setting cluster name to {name} ..."));
    call.put("/api/cluster-name", &json!({"name": name}))?;
    Ok(Output::Nothing)
}

const FLAG_COLUMNS: [&str; 6] = [
    "name",
    "state",
    "stability",
    "provided_by",
    "desc",
    "doc_url",
];

fn list_feature_flags(call: &Call) -> Result<Output, Failure> {
    let wanted = columns(call, &FLAG_COLUMNS, &["name", "state"])?;
    call.banner("Listing feature flags ...");
    let mut rows = call.list("/api/feature-flags")?;
    rows.sort_by_key(|row| row["name"].as_str().unwrap_or_default().to_owned());
    Ok(Output::Rows(Rows::of(&wanted, &rows)))
}

fn enable_feature_flag(call: &Call) -> Result<Output, Failure> {
    let name = call.arg("feature_flag");
    if name == "all" {
        call.banner("Enabling all feature flags ...");
        // They are; but the node must be there to say so.
        call.list("/api/feature-flags")?;
        return Ok(Output::Nothing);
    }
    call.banner(format!("Enabling feature flag \"{name}\" ..."));
    let reply = call.ask(
        "PUT",
        &at(&["feature-flags", name, "enable"]),
        Some(&json!({})),
    )?;
    match reply.is_good() {
        true => Ok(Output::Nothing),
        false => Err(Failure::error(
            exit::USAGE,
            format!("Feature flag '{name}' is not supported"),
        )),
    }
}

fn list_deprecated_features(call: &Call) -> Result<Output, Failure> {
    let known = [
        "name",
        "deprecation_phase",
        "provided_by",
        "desc",
        "doc_url",
    ];
    let wanted = columns(call, &known, &["name", "deprecation_phase"])?;
    call.banner("Listing deprecated features ...");
    let path = match call.is_set("used") {
        true => "/api/deprecated-features/used",
        false => "/api/deprecated-features",
    };
    Ok(Output::Rows(Rows::of(&wanted, &call.list(path)?)))
}
