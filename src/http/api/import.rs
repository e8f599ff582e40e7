//! Definitions read in: a document of this broker or of RabbitMQ 3.8 to 4.x.
//!
//! Need: importing twice changes nothing, and what older brokers wrote is taken. Shape: parts in the order they lean on
//! each other, the rows of one [`AT_ONCE`] at a time; what is wrong ends it, named. What was there and differs is replaced
//! where it is set (users, policies) and kept where it is declared, as in RabbitMQ. Mirroring keys (`ha-*`) are dropped.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::{HeaderMap, Method};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::auth::Who;
use super::definitions::wrong;
use super::error::ApiError;
use super::history::Ranges;
use super::request::{Body, Request};
use super::{Answer, Api, Context, Reply, json as values, permissions, policies, users, vhosts};
use crate::broker::Direct;
use crate::model::topology::{
    Destination, PolicyScope, SettingsCommand, Topology, TopologyCommand,
};

/// Rows under way at a time.
const AT_ONCE: usize = 64;

pub async fn answer(context: &Context, vhost: Option<&str>) -> Answer {
    let kind = context.request.header("content-type").unwrap_or_default();
    if !kind.starts_with("multipart/form-data") {
        context.request.says_json()?;
        apply(context, &context.request.object()?, vhost).await?;
        return Ok(Reply::Done);
    }
    let form = form(context, kind)?;
    let file = form.get("file").copied();
    let file = file.ok_or_else(|| ApiError::bad_request("malformed form"))?;
    let document = match serde_json::from_str(file.trim_start_matches('\u{feff}')) {
        Ok(Value::Object(object)) => Body(object),
        _ => return Err(ApiError::bad_request("not_json")),
    };
    apply(context, &document, vhost).await?;
    // A page that sent the form says where it wants to be then.
    Ok(match form.get("redirect") {
        Some(place) => Reply::See((*place).to_owned()),
        None => Reply::Done,
    })
}

/// The parts of a form by their names.
fn form<'a>(context: &'a Context, kind: &str) -> Result<HashMap<&'a str, &'a str>, ApiError> {
    let bad = || ApiError::bad_request("malformed form");
    let boundary = kind.split("boundary=").nth(1).ok_or_else(bad)?;
    let boundary = boundary.split(';').next().unwrap_or_default();
    let boundary = boundary.trim_matches('"');
    let text = std::str::from_utf8(&context.request.body).map_err(|_| bad())?;
    let mut parts = HashMap::new();
    for part in text.split(&format!("--{boundary}")) {
        let Some((head, content)) = part.split_once("\r\n\r\n") else {
            continue;
        };
        let name = head
            .split(" name=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        parts.extend(name.map(|name| (name, content.trim_end())));
    }
    Ok(parts)
}

/// The files to import for a path: itself, or what of a folder ends in `.json`, in order.
///
/// # Errors
/// The folder cannot be read, or holds none.
pub fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|ending| ending == "json") {
            files.push(file);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(io::Error::other("the folder holds no .json file")),
        false => Ok(files),
    }
}

/// Imports a document that nobody sent, before clients may come.
///
/// # Errors
/// What of it is wrong; what stands before that is imported.
pub async fn at_start(api: &Arc<Api>, document: &[u8]) -> Result<(), String> {
    let context = Context {
        api: Arc::clone(api),
        request: Request {
            method: Method::POST,
            path: vec!["definitions".to_owned()],
            query: HashMap::new(),
            headers: HeaderMap::new(),
            body: document.to_vec(),
        },
        who: Who::default(),
        peer: Ipv4Addr::LOCALHOST.into(),
        ranges: Ranges::default(),
        silent: Mutex::default(),
    };
    let read = context.request.object();
    let said = |error: ApiError| error.reason.as_str().unwrap_or_default().to_owned();
    let document = read.map_err(said)?;
    apply(&context, &document, None).await.map_err(said)
}

type Row = Body;

fn rows(document: &Body, key: &str) -> Result<Vec<Row>, ApiError> {
    let list = match document.get(key) {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(ApiError::bad_request(format!("{key} must be a list"))),
    };
    let row = |value: &Value| match value {
        Value::Object(object) => Ok(Body(object.clone())),
        _ => Err(ApiError::bad_request(format!(
            "{key} must be a list of objects"
        ))),
    };
    list.iter().map(row).collect()
}

fn text(row: &Row, key: &str) -> Result<String, ApiError> {
    row.need(&[key])?;
    Ok(row.text(key)?.unwrap_or_default())
}

struct Import<'a> {
    context: &'a Context,
    vhost: Option<&'a str>,
    /// Hashes without the name of an algorithm are MD5, as before 3.6.
    old_hashes: bool,
}

type Step = for<'a> fn(&'a Import<'a>, String, Row) -> BoxFuture<'a, Result<(), ApiError>>;

/// A part of the document: its key, what names a row of it, what a row is called, what is done with it.
struct Part {
    key: &'static str,
    naming: &'static str,
    called: &'static str,
    step: Step,
}

const fn part(key: &'static str, naming: &'static str, called: &'static str, step: Step) -> Part {
    Part {
        key,
        naming,
        called,
        step,
    }
}

/// What only a document of the whole cluster has, before and after exchanges.
static PEOPLE: [Part; 2] = [
    part("users", "name", "user", |import, name, row| {
        Box::pin(async move { import.user(&name, &row).await })
    }),
    part("vhosts", "name", "vhost", |import, name, row| {
        Box::pin(async move { import.vhost(&name, &row).await })
    }),
];
static PERMISSIONS: [Part; 1] = [part(
    "permissions",
    "user",
    "permissions of",
    |import, name, row| Box::pin(async move { import.rights("permissions", &name, &row).await }),
)];
static EXCHANGES: [Part; 1] = [part(
    "exchanges",
    "name",
    "exchange",
    |import, name, row| Box::pin(async move { import.exchange(name, &row).await }),
)];
static MORE: [Part; 2] = [
    part(
        "topic_permissions",
        "user",
        "topic permissions of",
        |import, name, row| {
            Box::pin(async move { import.rights("topic_permissions", &name, &row).await })
        },
    ),
    part(
        "global_parameters",
        "name",
        "global parameter",
        |import, name, row| {
            Box::pin(async move {
                let value = values::to_amqp(row.get("value").unwrap_or(&Value::Null))?;
                import.set(SettingsCommand::PutGlobal { name, value }).await
            })
        },
    ),
];
static REST: [Part; 4] = [
    part("policies", "name", "policy", |import, name, row| {
        Box::pin(async move { import.policy(PolicyScope::User, &name, &row).await })
    }),
    part("parameters", "name", "parameter", |import, name, row| {
        Box::pin(async move { import.parameter(&name, &row).await })
    }),
    part("queues", "name", "queue", |import, name, row| {
        Box::pin(async move { import.queue(name, &row).await })
    }),
    part("bindings", "source", "binding of", |import, name, row| {
        Box::pin(async move { import.binding(name, &row).await })
    }),
];

async fn apply(context: &Context, document: &Body, vhost: Option<&str>) -> Result<(), ApiError> {
    let import = Import {
        context,
        vhost,
        old_hashes: before_3_6(document),
    };
    if vhost.is_none() {
        import.parts(document, &PEOPLE).await?;
    }
    import.check_queue_limits(document)?;
    if vhost.is_none() {
        import.parts(document, &PERMISSIONS).await?;
    }
    import.parts(document, &EXCHANGES).await?;
    if vhost.is_none() {
        import.parts(document, &MORE).await?;
    }
    import.parts(document, &REST).await
}

/// By the version of the broker that wrote the document.
fn before_3_6(document: &Body) -> bool {
    let version = ["rabbitmq_version", "rabbit_version"];
    let version = version.iter().find_map(|key| document.get(key)?.as_str());
    let mut numbers = version.unwrap_or("4.0").split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (3, 6),
        _ => false,
    }
}

impl Import<'_> {
    async fn parts(&self, document: &Body, parts: &[Part]) -> Result<(), ApiError> {
        for part in parts {
            let mut named = Vec::new();
            for row in rows(document, part.key)? {
                named.push((text(&row, part.naming)?, row));
            }
            // Many go into one entry of the topology's log.
            let steps = stream::iter(named).map(|(name, row)| {
                let what = format!("{} {name}", part.called);
                let step = (part.step)(self, name, row);
                async move { step.await.map_err(|error| wrong(&what, &error)) }
            });
            let mut steps = steps.buffered(AT_ONCE);
            while let Some(done) = steps.next().await {
                done?;
            }
        }
        Ok(())
    }

    /// Nothing is declared where not everything fits.
    fn check_queue_limits(&self, document: &Body) -> Result<(), ApiError> {
        let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in rows(document, "queues")? {
            let name = text(&row, "name")?;
            if name.starts_with("amq.") {
                // It will be passed over.
                continue;
            }
            wanted.entry(self.vhost_of(&row)?).or_default().push(name);
        }
        let topology = &self.context.node().cluster.topology;
        topology.read(|topology| {
            for (vhost, names) in &wanted {
                let settings = topology.vhost_settings(vhost);
                let limit = settings.and_then(|settings| settings.max_queues);
                let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
                    continue;
                };
                let there = topology.queues().filter(|queue| *queue.vhost == **vhost);
                let new = names
                    .iter()
                    .filter(|name| topology.queue(vhost, name).is_none());
                if there.count() + new.count() > limit {
                    let reason =
                        format!("queue limit in vhost '{vhost}' ({limit}) would be exceeded");
                    return Err(ApiError::bad_request(reason));
                }
            }
            Ok(())
        })
    }

    fn exists(&self, row: &Row, is: impl Fn(&Topology, &str) -> bool) -> Result<bool, ApiError> {
        let vhost = self.vhost_of(row)?;
        let topology = &self.context.node().cluster.topology;
        Ok(topology.read(|topology| is(topology, &vhost)))
    }

    async fn set(&self, command: SettingsCommand) -> Result<(), ApiError> {
        self.context
            .change(TopologyCommand::Settings(command))
            .await
    }

    fn vhost_of(&self, row: &Row) -> Result<String, ApiError> {
        match self.vhost {
            Some(vhost) => Ok(vhost.to_owned()),
            None => text(row, "vhost"),
        }
    }

    /// The broker itself: what is in a document was allowed where it comes from.
    fn direct(&self, row: &Row) -> Result<Direct, ApiError> {
        Ok(Direct::new(self.context.node(), "", &self.vhost_of(row)?))
    }

    async fn user(&self, name: &str, row: &Row) -> Result<(), ApiError> {
        let mut row = Body(row.0.clone());
        // A user without a password is written with an empty hash.
        if row
            .text("password_hash")?
            .is_some_and(|hash| hash.is_empty())
        {
            row.0.remove("password_hash");
        }
        if self.old_hashes && !row.0.contains_key("hashing_algorithm") {
            row.0.insert("hashing_algorithm".to_owned(), json!("md5"));
        }
        let rules = &self.context.api.options.passwords;
        self.set(users::command(rules, name, &row)?).await?;
        for limit in users::set_limits(name, &row)? {
            self.set(limit).await?;
        }
        Ok(())
    }

    async fn vhost(&self, name: &str, row: &Row) -> Result<(), ApiError> {
        let empty = Map::new();
        let metadata = row.get("metadata").and_then(Value::as_object);
        let metadata = Body(metadata.unwrap_or(&empty).clone());
        let kind = row.text("default_queue_type")?;
        let kind = vhosts::checked_type(kind.or(metadata.text("default_queue_type")?))?;
        let description = row.text("description")?;
        let command = SettingsCommand::PutVhost {
            name: name.to_owned(),
            description: description.or(metadata.text("description")?),
            tags: row.words("tags")?.or(metadata.words("tags")?),
            default_queue_type: kind,
            tracing: None,
            protected: None,
        };
        vhosts::check_room(self.context, name)?;
        let existed = self.context.has_vhost(name);
        self.set(command).await?;
        if !existed {
            let defaults = &self.context.api.options.vhost_defaults;
            defaults.give(self.context.node(), name).await?;
        }
        if let Some(limits) = row.get("limits") {
            self.limits(name, limits).await?;
        }
        Ok(())
    }

    /// Written as an object, or as a list of pairs, as `rabbitmqctl export_definitions` does.
    async fn limits(&self, vhost: &str, limits: &Value) -> Result<(), ApiError> {
        let object = match limits {
            Value::Array(list) => list
                .iter()
                .filter_map(|row| match row {
                    Value::Array(pair) => Some((pair.first()?.as_str()?, pair.get(1)?)),
                    row => Some((row["name"].as_str()?, &row["value"])),
                })
                .map(|(name, value)| (name.to_owned(), value.clone()))
                .collect(),
            other => other.clone(),
        };
        for command in policies::parameter_commands("vhost-limits", vhost, "limits", &object)? {
            self.set(command).await?;
        }
        Ok(())
    }

    async fn rights(&self, key: &str, user: &str, row: &Row) -> Result<(), ApiError> {
        let vhost = text(row, "vhost")?;
        let command = match key {
            "permissions" => permissions::command(self.context, user, &vhost, row)?,
            _ => {
                let command = permissions::topic_command(self.context, user, &vhost, row)?;
                TopologyCommand::Settings(command)
            }
        };
        self.context.change(command).await
    }

    async fn parameter(&self, name: &str, row: &Row) -> Result<(), ApiError> {
        let component = text(row, "component")?;
        let vhost = self.vhost_of(row)?;
        let known = policies::COMPONENTS.contains(&component.as_str());
        if !known && component != "operator_policy" {
            tracing::warn!(
                component,
                name,
                "a parameter of what is not served here is left out"
            );
            return Ok(());
        }
        let value = row.get("value").cloned().unwrap_or(Value::Null);
        if component == "operator_policy" {
            let value = Body(value.as_object().cloned().unwrap_or_default());
            return self
                .policy_in(PolicyScope::Operator, &vhost, name, &value)
                .await;
        }
        for command in policies::parameter_commands(&component, &vhost, name, &value)? {
            self.set(command).await?;
        }
        Ok(())
    }

    async fn policy(&self, scope: PolicyScope, name: &str, row: &Row) -> Result<(), ApiError> {
        let vhost = self.vhost_of(row)?;
        self.policy_in(scope, &vhost, name, row).await
    }

    async fn policy_in(
        &self,
        scope: PolicyScope,
        vhost: &str,
        name: &str,
        row: &Row,
    ) -> Result<(), ApiError> {
        let mut row = Body(row.0.clone());
        if let Some(definition) = row.0.get_mut("definition").and_then(Value::as_object_mut) {
            let before = definition.len();
            definition.retain(|key, _| !key.starts_with("ha-"));
            if definition.len() < before {
                tracing::warn!(
                    policy = name,
                    "mirroring keys are dropped: every durable queue is replicated"
                );
            }
            if definition.is_empty() && before > 0 {
                return Ok(());
            }
        }
        let policy = policies::policy(vhost, name, &row)?;
        let set = SettingsCommand::PutPolicy { scope, policy };
        self.set(set).await.map_err(policies::framed)
    }

    /// One that is there stays as it is, also if it differs.
    async fn queue(&self, name: String, row: &Row) -> Result<(), ApiError> {
        if name.starts_with("amq.") {
            tracing::warn!(name, "a queue of the broker's own names is left out");
            return Ok(());
        }
        if self.exists(row, |topology, vhost| {
            topology.queue(vhost, &name).is_some()
        })? {
            return Ok(());
        }
        let mut arguments = row.0.get("arguments").cloned().unwrap_or_else(|| json!({}));
        if let (Some(arguments), Some(kind)) = (arguments.as_object_mut(), row.text("type")?) {
            arguments
                .entry("x-queue-type")
                .or_insert_with(|| json!(kind));
        }
        let mut holder = Map::new();
        holder.insert("arguments".to_owned(), arguments);
        let arguments = Body(holder).table("arguments")?;
        let (durable, auto_delete) = (row.flag("durable")?, row.flag("auto_delete")?);
        let direct = self.direct(row)?;
        direct
            .import_queue(name, durable, auto_delete, arguments)
            .await?;
        Ok(())
    }

    async fn exchange(&self, name: String, row: &Row) -> Result<(), ApiError> {
        if name.is_empty() || name.starts_with("amq.") {
            return Ok(());
        }
        if self.exists(row, |topology, vhost| {
            topology.exchange(vhost, &name).is_some()
        })? {
            return Ok(());
        }
        let flags = [
            row.flag("durable")?,
            row.flag("auto_delete")?,
            row.flag("internal")?,
        ];
        let arguments = row.table("arguments")?;
        let kind = text(row, "type")?;
        let direct = self.direct(row)?;
        direct.import_exchange(name, kind, flags, arguments).await?;
        Ok(())
    }

    async fn binding(&self, source: String, row: &Row) -> Result<(), ApiError> {
        if source.is_empty() {
            return Ok(());
        }
        let name = text(row, "destination")?;
        let destination = match text(row, "destination_type")?.as_str() {
            "exchange" => Destination::Exchange(name),
            _ => Destination::Queue(name),
        };
        let routing_key = row.text("routing_key")?.unwrap_or_default();
        let arguments = row.table("arguments")?;
        let direct = self.direct(row)?;
        direct
            .import_binding(source, destination, routing_key, arguments)
            .await?;
        Ok(())
    }
}
