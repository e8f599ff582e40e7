//! Figures of the whole cluster: what other nodes show of themselves is asked for, and this node answers them.
//!
//! Need: any node answers for all. Shape: a question is a JSON object with `what`; [`told`] is the one match over them, run
//! here for this node's share and, through `cluster::ask_figures`, on the others. Lists that have pages are asked for in
//! two steps: keys of all rows, then the rows of the page. Bounds: two seconds per step, [`ROWS_AT_ONCE`] rows per
//! question. A node that does not answer is named in the answer's `x-leveret-silent-nodes` and shown as down in `/nodes`.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::error::ApiError;
use super::history::Ranges;
use super::{Answer, Api, Context, Reply, channels, connections, exchanges, list, nodes, overview};
use super::{figures, health, shovels, vhosts};
use crate::base::{NodeId, SessionId};

/// Rows one question asks for.
const ROWS_AT_ONCE: usize = 2_000;

/// Which connections, channels or consumers are meant.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// In this vhost.
    pub vhost: Option<String>,
    /// Of this user.
    pub user: Option<String>,
    /// Of this name.
    pub name: Option<String>,
}

impl Filter {
    fn to_json(&self) -> Value {
        json!({"vhost": self.vhost, "user": self.user, "name": self.name})
    }

    fn from_json(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Self {
            vhost: text("vhost"),
            user: text("user"),
            name: text("name"),
        }
    }
}

/// A connection, or a channel of one (`number` is 0 for the connection).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its vhost.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// The node it is on.
    pub node: NodeId,
    /// Its session.
    pub session: SessionId,
    /// Channel number.
    pub number: u16,
    /// Whose it is.
    pub user: String,
}

impl Key {
    fn to_json(&self) -> Value {
        json!([
            self.vhost,
            self.name,
            self.session.0,
            self.number,
            self.user
        ])
    }

    fn from_json(value: &Value, node: NodeId) -> Option<Self> {
        let text = |at: usize| Some(value.get(at)?.as_str()?.to_owned());
        Some(Self {
            vhost: text(0)?,
            name: text(1)?,
            node,
            session: SessionId(value.get(2)?.as_u64()?),
            number: u16::try_from(value.get(3)?.as_u64()?).ok()?,
            user: text(4)?,
        })
    }
}

/// Answers other nodes from now on.
pub fn serve(api: &Arc<Api>) {
    let api = Arc::downgrade(api);
    let cluster = api
        .upgrade()
        .map(|api: Arc<Api>| Arc::clone(&api.node.cluster));
    let Some(cluster) = cluster else { return };
    cluster.figures.answer(move |question: Bytes| {
        let api: Weak<Api> = Weak::clone(&api);
        Box::pin(async move {
            let question = serde_json::from_slice(&question).unwrap_or(Value::Null);
            let answer = match api.upgrade() {
                Some(api) => told(&api, &question).await,
                None => Value::Null,
            };
            answer.to_string().into()
        })
    });
}

/// This node's share of an answer.
async fn told(api: &Arc<Api>, question: &Value) -> Value {
    let filter = Filter::from_json(&question["filter"]);
    let ranges = Ranges::from_json(&question["ranges"]);
    let rows = question["rows"].as_array();
    match (question["what"].as_str().unwrap_or_default(), rows) {
        ("connections", None) => keys(&connections::keys(api, &filter)),
        ("channels", None) => keys(&channels::keys(api, &filter)),
        ("connections", Some(rows)) => connections::rows(api, &wanted(rows), ranges).into(),
        ("channels", Some(rows)) => {
            let detailed = question["detailed"] == true;
            let rows = channels::rows(api, &wanted(rows), ranges, detailed).await;
            rows.into()
        }
        ("consumers", _) => channels::consumers(api, &filter, question["queue"].as_u64())
            .await
            .into(),
        ("close", _) => {
            let session = question["session"].as_u64().map(SessionId);
            let reason = question["reason"].as_str().unwrap_or_default();
            json!(session.is_some_and(|session| connections::close_here(api, session, reason)))
        }
        ("node", _) => nodes::own(api, question["memory"] == true, ranges),
        ("overview", _) => overview::own(api, ranges),
        ("vhosts", _) => vhosts::own(api, question["vhost"].as_str(), ranges),
        ("exchanges", Some(rows)) => exchanges::own(api, rows, ranges),
        ("queues", Some(rows)) => figures::own(api, rows, ranges),
        ("attempts", _) => overview::own_attempts(api, question["reset"] == true),
        ("alarms", _) => health::own_alarms(api).into(),
        ("sets", _) => health::own_sets(api).into(),
        ("shovels", _) => shovels::own(api),
        ("restart shovel", _) => shovels::restart(api, question),
        _ => Value::Null,
    }
}

fn keys(keys: &[Key]) -> Value {
    keys.iter().map(Key::to_json).collect()
}

fn wanted(rows: &[Value]) -> Vec<(SessionId, u16)> {
    let row = |row: &Value| {
        let session = SessionId(row.get(0)?.as_u64()?);
        Some((session, u16::try_from(row.get(1)?.as_u64()?).ok()?))
    };
    rows.iter().filter_map(row).collect()
}

/// Asks other nodes (all, or those in `only`); the answers of those that gave one.
pub async fn others(
    context: &Context,
    question: &Value,
    only: Option<&[NodeId]>,
) -> Vec<(NodeId, String, Value)> {
    let cluster = &context.node().cluster;
    let asked = cluster.ask_figures(question.to_string().into(), only).await;
    let mut answers = Vec::new();
    for told in asked {
        let answer = told
            .answer
            .and_then(|answer| serde_json::from_slice(&answer).ok());
        match answer {
            Some(answer) => answers.push((told.node, told.name, answer)),
            None => {
                context.silent.lock().insert(told.name);
            }
        }
    }
    answers
}

/// The answers of all nodes, this one's first.
pub async fn all(context: &Context, question: &Value) -> Vec<(NodeId, String, Value)> {
    let own = told(&context.api, question).await;
    let node = context.node().cluster.node();
    let mut answers = vec![(node, context.api.names.node.clone(), own)];
    answers.extend(others(context, question, None).await);
    answers
}

/// What the user may see of connections and channels: their own, or all.
pub fn visible(context: &Context, vhost: Option<String>) -> Filter {
    let own = (!context.who.is_monitor()).then(|| context.who.name.clone());
    Filter {
        vhost,
        user: own,
        name: None,
    }
}

/// Keys of connections or channels in the cluster.
pub async fn keys_of(context: &Context, what: &str, filter: &Filter) -> Vec<Key> {
    let own = match what {
        "connections" => connections::keys(&context.api, filter),
        _ => channels::keys(&context.api, filter),
    };
    if filter.name.is_some() && !own.is_empty() {
        return own;
    }
    let question = json!({"what": what, "filter": filter.to_json()});
    let mut keys = own;
    for (node, _, answer) in others(context, &question, None).await {
        let rows = answer.as_array().into_iter().flatten();
        keys.extend(rows.filter_map(|row| Key::from_json(row, node)));
    }
    keys
}

/// The rows of these keys, in their order; what has gone meanwhile is left out.
pub async fn rows_of(context: &Context, what: &str, keys: &[Key], detailed: bool) -> Vec<Value> {
    let ranges = context.ranges;
    let own = context.node().cluster.node();
    let mut rows: Vec<Option<Value>> = vec![None; keys.len()];
    let mut by_node: Vec<(NodeId, Vec<usize>)> = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        match by_node
            .iter_mut()
            .find(|(node, some)| *node == key.node && some.len() < ROWS_AT_ONCE)
        {
            Some((_, some)) => some.push(at),
            None => by_node.push((key.node, vec![at])),
        }
    }
    let asked = by_node.into_iter().map(|(node, some)| async move {
        let wanted = some.iter().map(|at| (keys[*at].session, keys[*at].number));
        let wanted: Vec<(SessionId, u16)> = wanted.collect();
        if node == own {
            let rows = match what {
                "connections" => connections::rows(&context.api, &wanted, ranges),
                _ => channels::rows(&context.api, &wanted, ranges, detailed).await,
            };
            return (some, rows);
        }
        let wanted = wanted
            .iter()
            .map(|(session, number)| json!([session.0, number]));
        let question = json!({
            "what": what,
            "rows": wanted.collect::<Vec<_>>(),
            "detailed": detailed,
            "ranges": ranges.to_json(),
        });
        let mut answers = others(context, &question, Some(&[node])).await;
        let rows = match answers.pop() {
            Some((_, _, Value::Array(rows))) => rows,
            _ => Vec::new(),
        };
        (some, rows)
    });
    for (some, found) in join_all(asked).await {
        for (at, row) in some.into_iter().zip(found) {
            rows[at] = Some(row).filter(|row| !row.is_null());
        }
    }
    rows.into_iter().flatten().collect()
}

/// A list of connections or channels.
pub async fn listed(context: &Context, what: &str, vhost: Option<&str>) -> Answer {
    let filter = visible(context, context.wanted_vhost(vhost));
    let keys = keys_of(context, what, &filter).await;
    let name: fn(&Key) -> (&str, &str) = |key| (&key.vhost, &key.name);
    let chosen = list::choose(&context.request, keys, name)?;
    let rows = rows_of(context, what, &chosen.rows, false).await;
    Ok(Reply::Json(chosen.rest.finish(&context.request, rows)?))
}

/// The one connection or channel of a name, if the user may see it.
///
/// # Errors
/// 404; 401 for somebody else's.
pub async fn named(context: &Context, what: &str, name: &str) -> Result<Key, ApiError> {
    let filter = Filter {
        name: Some(name.to_owned()),
        ..Filter::default()
    };
    let key = keys_of(context, what, &filter).await.into_iter().next();
    let key = key.ok_or_else(ApiError::not_found)?;
    match context.who.is_monitor() || key.user == context.who.name {
        true => Ok(key),
        false => Err(ApiError::not_authorised(
            "User not authorised to access object",
        )),
    }
}
