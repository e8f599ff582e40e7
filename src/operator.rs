//! What an operator asks of a running cluster, over the listener for peers: the same secret, the same certificates.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::peer::control::{Ask, Told};
use crate::cluster::peer::{Links, Own, PeerSecurity};
use crate::config::Config;
use crate::model::batch::BufferPool;
use crate::node::peer_tls;

const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Asks `node`, or the one `config` describes, and returns its answer: text for people, or a status as JSON.
///
/// # Errors
/// Why there is none.
pub fn ask(
    config: &Config,
    node: Option<String>,
    question: &Ask,
    json: bool,
) -> Result<String, String> {
    let own = config.cluster.listener.map(|at| at.to_string());
    let address = node.or_else(|| config.cluster.address.clone()).or(own);
    let address = address.ok_or("no listener for peers is configured: say --node host:port")?;
    let tls = peer_tls(&config.cluster.tls).map_err(|error| error.to_string())?;
    let security = PeerSecurity::new(&config.cluster.secret, tls);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let answer = runtime.block_on(async {
        let links = Links::new(Arc::<Own>::default(), security, BufferPool::default());
        let asked = links.control(&address, question.encode());
        match tokio::time::timeout(ANSWER_LIMIT, asked).await {
            Ok(answer) => answer.map_err(|error| format!("{address}: {error}")),
            Err(_) => Err(format!("{address} gives no answer")),
        }
    })?;
    match Told::decode(&answer) {
        Ok(Told::Text(text)) if json => Ok(format!("{}\n", as_json(&text))),
        Ok(Told::Text(text)) if *question == Ask::Status => Ok(table(&text)),
        Ok(Told::Text(text)) => Ok(format!("{text}\n")),
        Ok(Told::Refused(why)) => Err(why),
        _ => Err(format!("{address} says something else")),
    }
}

/// Kinds of lines, their titles, and the names of their fields.
const SECTIONS: [(&str, &str, &[&str]); 4] = [
    ("node", "Nodes", &["id", "name", "address", "state", "here"]),
    (
        "set",
        "Broker sets",
        &["id", "members", "leader should be", "queues"],
    ),
    (
        "replica",
        "Replicas (set 0 is the topology)",
        &[
            "set",
            "node",
            "role",
            "term",
            "last entry",
            "committed",
            "applied",
            "group",
        ],
    ),
    (
        "queue",
        "Queues that move or are spread",
        &["vhost", "name", "parts"],
    ),
];

/// The fields of each line of one kind.
fn rows<'a>(lines: &'a str, kind: &str) -> Vec<Vec<&'a str>> {
    let rows = lines.lines().filter_map(|line| {
        let fields = line.strip_prefix(kind)?.strip_prefix('\t')?;
        Some(fields.split('\t').collect())
    });
    rows.collect()
}

/// One list for each kind of line, of objects with the names of the columns; numbers as numbers, lists of ids as lists.
fn as_json(lines: &str) -> Value {
    let mut all = serde_json::Map::new();
    for (kind, _, names) in SECTIONS {
        let object = |row: &Vec<&str>| {
            let fields = names.iter().zip(row);
            let named = fields.map(|(name, field)| (name.replace(' ', "_"), typed(name, field)));
            Value::Object(named.collect())
        };
        let list = rows(lines, kind).iter().map(object).collect();
        all.insert(format!("{kind}s"), Value::Array(list));
    }
    Value::Object(all)
}

fn typed(name: &str, field: &str) -> Value {
    let number = |text: &str| text.parse::<u64>().map(Value::from);
    match name {
        "members" | "group" => {
            let ids: Result<Vec<Value>, _> = field.split(',').map(number).collect();
            ids.map_or(Value::Null, Value::Array)
        }
        "name" | "vhost" | "address" | "parts" => field.into(),
        _ => number(field).unwrap_or_else(|_| field.into()),
    }
}

fn table(lines: &str) -> String {
    let mut out = String::new();
    for (kind, title, names) in SECTIONS {
        let mut rows = rows(lines, kind);
        if rows.is_empty() {
            continue;
        }
        let number = |row: &Vec<&str>| row[0].parse::<u64>().unwrap_or(u64::MAX);
        rows.sort_by_key(|row| number(row));
        rows.insert(0, names.to_vec());
        out += &format!("{title}\n");
        for row in &rows {
            out += " ";
            for (at, field) in row.iter().enumerate() {
                let width = rows
                    .iter()
                    .filter_map(|row| row.get(at))
                    .map(|text| text.len());
                let width = width.max().unwrap_or(0);
                out += &format!(" {field:<width$} ");
            }
            out = format!("{}\n", out.trim_end());
        }
        out += "\n";
    }
    out
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_status_is_shown_as_tables_with_aligned_columns() {
        let lines = "replica\t1\t2\tleader\t3\t10\t10\t9\nset\t1\t1,2,3\t2\t14\nnode\t1\tn@a\ta:1\tactive\tup\n";
        let shown = table(lines);
        assert!(shown.starts_with(
            "Nodes\n  id  name  address  state   here\n  1   n@a   a:1      active  up\n"
        ));
        assert!(shown.contains("Broker sets\n") && shown.contains("Replicas"));
        assert!(!shown.contains("Queues that move"));
    }
    #[test]
    fn a_status_as_json_has_typed_fields_under_the_names_of_the_columns() {
        let lines = "replica\t1\t2\tleader\t3\t10\t10\t9\t1,2,3\nset\t1\t1,2,3\t2\t14\n\
                     node\t1\t7\ta:1\tactive\tup\nqueue\t/\t12\t1 active, 2 draining\n";
        assert_eq!(
            as_json(lines),
            serde_json::json!({
                "nodes": [{"id": 1, "name": "7", "address": "a:1", "state": "active", "here": "up"}],
                "sets": [{"id": 1, "members": [1, 2, 3], "leader_should_be": 2, "queues": 14}],
                "replicas": [{"set": 1, "node": 2, "role": "leader", "term": 3, "last_entry": 10,
                              "committed": 10, "applied": 9, "group": [1, 2, 3]}],
                "queues": [{"vhost": "/", "name": "12", "parts": "1 active, 2 draining"}],
            })
        );
    }
}
