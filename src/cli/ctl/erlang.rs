//! Values as Erlang would write them, for columns and for `--formatter erlang`.

use serde_json::{Map, Value};

/// Columns that hold an AMQP table, which RabbitMQ writes as a list of pairs.
const TABLES: [&str; 3] = ["arguments", "client_properties", "server_properties"];

/// Whether a column of this name holds a table.
pub fn is_table(column: &Value) -> bool {
    column.as_str().is_some_and(|name| TABLES.contains(&name))
}

/// A field of a line: text as it is, lists in brackets, tables as pairs. No field can forge another or a line.
pub fn field(column: &str, value: &Value) -> String {
    match value {
        Value::Object(map) if TABLES.contains(&column) => pairs(map),
        Value::String(text) if column == "protocol" && text == "AMQP 0-9-1" => "{0,9,1}".to_owned(),
        value => plain(value),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escaped(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let items = map.iter();
            let items: Vec<String> = items
                .map(|(key, value)| format!("{{{}, {}}}", escaped(key), plain(value)))
                .collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// Control characters as octal escapes.
fn escaped(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            c if c.is_control() => out += &format!("\\{:03o}", u32::from(c)),
            c => out.push(c),
        }
    }
    out
}

fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped(&text))
}

/// `[{"x-max-length",10}]`
fn pairs(map: &Map<String, Value>) -> String {
    let pairs = map.iter();
    let pairs: Vec<String> = pairs
        .map(|(key, value)| format!("{{{},{}}}", quoted(key), typed(value)))
        .collect();
    format!("[{}]", pairs.join(","))
}

fn typed(value: &Value) -> String {
    match value {
        Value::Null => "undefined".to_owned(),
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(typed).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(map) => pairs(map),
        other => other.to_string(),
    }
}

fn is_atom(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_lowercase())
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '@')
}

fn atom(text: &str) -> String {
    match is_atom(text) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
    }
}

/// A term: text is a binary, an object a list of pairs.
pub fn term(value: &Value) -> String {
    match value {
        Value::Null => "undefined".to_owned(),
        Value::String(text) => format!("<<{}>>", quoted(text)),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(term).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(map) => {
            let pairs = map.iter();
            let pairs: Vec<String> = pairs
                .map(|(key, value)| format!("{{{},{}}}", atom(key), term(value)))
                .collect();
            format!("[{}]", pairs.join(","))
        }
        other => other.to_string(),
    }
}

/// Rows as a list of lists of pairs.
pub fn list(columns: &[String], rows: &[Vec<Value>]) -> String {
    let rows = rows.iter().map(|row| {
        let pairs = columns.iter().zip(row);
        let pairs = pairs.map(|(name, value)| format!("{{{},{}}}", atom(name), term(value)));
        format!("[{}]", pairs.collect::<Vec<_>>().join(","))
    });
    format!("[{}]\n", rows.collect::<Vec<_>>().join(",\n "))
}

/// An application's environment as Erlang prints one.
pub fn environment(application: &str, settings: &Value) -> String {
    let none = Map::new();
    let pairs = settings.as_object().unwrap_or(&none).iter();
    let pairs: Vec<String> = pairs
        .map(|(key, value)| format!("{{{},{}}}", atom(key), term(value)))
        .collect();
    format!("[{{{application},\n     [{}]}}]", pairs.join(",\n      "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_is_written_as_rabbitmq_writes_it() {
        for (column, value, want) in [
            ("name", json!("q 1"), "q 1"),
            ("durable", json!(true), "true"),
            ("messages", json!(3), "3"),
            ("policy", json!(""), ""),
            ("tags", json!([]), "[]"),
            ("tags", json!(["a", "b"]), "[a, b]"),
            (
                "cluster_state",
                json!({"r@h": "running"}),
                "[{r@h, running}]",
            ),
            ("arguments", json!({}), "[]"),
            (
                "arguments",
                json!({"x-max-length": 10, "x-dead-letter-exchange": "d\"x"}),
                r#"[{"x-dead-letter-exchange","d\"x"},{"x-max-length",10}]"#,
            ),
            ("name", json!("a\tb\n"), "a\\011b\\012"),
        ] {
            assert_eq!(field(column, &value), want, "{column} {value}");
        }
    }

    #[test]
    fn a_term_has_binaries_and_atoms() {
        let value = json!({"user": "u", "Tags": ["a"], "n": 1});
        assert_eq!(
            term(&value),
            "[{'Tags',[<<\"a\">>]},{n,1},{user,<<\"u\">>}]"
        );
    }
}
