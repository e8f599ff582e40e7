//! What environment variables say, RabbitMQ's names.
//!
//! They win over files. `rabbitmq-env.conf` holds the same names without `RABBITMQ_`, one assignment a line as a shell
//! would read it; it is not run, so anything but a plain value is refused. [`VARIABLES`] is what docs/configuration.md shows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::draft::Draft;
use super::file::{ConfigError, Place};
use super::source::Note;
use super::{Config, LogFormat, value};

/// Reads a variable.
pub type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Names and what each decides.
pub static VARIABLES: &[(&str, &str)] = &[
    (
        "RABBITMQ_CONFIG_FILE",
        "the configuration file, with or without `.conf`; default `/etc/rabbitmq/rabbitmq.conf`",
    ),
    (
        "RABBITMQ_CONFIG_FILES",
        "folder of more files; default `/etc/rabbitmq/conf.d`",
    ),
    (
        "RABBITMQ_CONF_ENV_FILE",
        "file of these variables without their prefix; default `/etc/rabbitmq/rabbitmq-env.conf`",
    ),
    (
        "RABBITMQ_ADVANCED_CONFIG_FILE",
        "not read (Erlang terms); that there is one is logged",
    ),
    (
        "RABBITMQ_ENABLED_PLUGINS",
        "as the file of that name, separated by commas",
    ),
    (
        "RABBITMQ_ENABLED_PLUGINS_FILE",
        "list of plugins, default `/etc/rabbitmq/enabled_plugins`; if there is one, `rabbitmq_management` and \
         `rabbitmq_prometheus` are served only if they are in it",
    ),
    (
        "RABBITMQ_NODENAME",
        "name of the node; default `rabbit@` and the host's name",
    ),
    ("RABBITMQ_USE_LONGNAME", "`true`: the host's name in full"),
    (
        "RABBITMQ_NODE_IP_ADDRESS",
        "where listeners listen that name only a port",
    ),
    (
        "RABBITMQ_NODE_PORT",
        "AMQP's port when no listener is configured",
    ),
    (
        "RABBITMQ_DIST_PORT",
        "port for peers; default AMQP's and 20000",
    ),
    (
        "RABBITMQ_ERLANG_COOKIE",
        "what all nodes share, as `leveret.cluster.secret`",
    ),
    ("RABBITMQ_DEFAULT_USER", "as `default_user`"),
    ("RABBITMQ_DEFAULT_PASS", "as `default_pass`"),
    ("RABBITMQ_DEFAULT_VHOST", "as `default_vhost`"),
    ("RABBITMQ_MNESIA_DIR", "folder of all state"),
    (
        "RABBITMQ_MNESIA_BASE",
        "the folder above it; the state is in its `leveret`",
    ),
    (
        "RABBITMQ_LOG",
        "levels and form: `debug`, `connection=debug`, `+json`, `-json`",
    ),
    ("RABBITMQ_LOG_BASE", "as `log.dir`"),
    (
        "RABBITMQ_LOGS",
        "`-`: standard output only; else the file, as `log.file`",
    ),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC",
        "set by systemd: readiness and signs of life are sent",
    ),
];

/// RabbitMQ's images refuse these at the start; so a secret given this way is never passed over in silence.
const REMOVED: [&str; 15] = [
    "RABBITMQ_DEFAULT_USER_FILE",
    "RABBITMQ_DEFAULT_PASS_FILE",
    "RABBITMQ_VM_MEMORY_HIGH_WATERMARK",
    "RABBITMQ_SSL_CACERTFILE",
    "RABBITMQ_SSL_CERTFILE",
    "RABBITMQ_SSL_KEYFILE",
    "RABBITMQ_SSL_DEPTH",
    "RABBITMQ_SSL_FAIL_IF_NO_PEER_CERT",
    "RABBITMQ_SSL_VERIFY",
    "RABBITMQ_MANAGEMENT_SSL_CACERTFILE",
    "RABBITMQ_MANAGEMENT_SSL_CERTFILE",
    "RABBITMQ_MANAGEMENT_SSL_KEYFILE",
    "RABBITMQ_MANAGEMENT_SSL_DEPTH",
    "RABBITMQ_MANAGEMENT_SSL_FAIL_IF_NO_PEER_CERT",
    "RABBITMQ_MANAGEMENT_SSL_VERIFY",
];

const ENV_FILE: &str = "/etc/rabbitmq/rabbitmq-env.conf";
const PLUGINS_FILE: &str = "/etc/rabbitmq/enabled_plugins";
const ADVANCED_FILE: &str = "/etc/rabbitmq/advanced.config";
const ADVANCED: &str =
    "Erlang terms are not read; what it sets must be set by keys of rabbitmq.conf";

/// What is wrong with a variable.
struct Wrong<'a>(&'a mut Vec<ConfigError>);

impl Wrong<'_> {
    fn add(&mut self, name: &str, expected: &str) {
        let (name, expected) = (name.to_owned(), expected.to_owned());
        self.0.push(ConfigError::Environment { name, expected });
    }
}

/// The variables of `rabbitmq-env.conf`, with their prefix.
pub(super) fn env_file(env: &Env<'_>, problems: &mut Vec<ConfigError>) -> BTreeMap<String, String> {
    let named = env("RABBITMQ_CONF_ENV_FILE");
    let path = PathBuf::from(named.as_deref().unwrap_or(ENV_FILE));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(_) if named.is_none() => return BTreeMap::new(),
        Err(error) => {
            problems.push(ConfigError::Read { path, error });
            return BTreeMap::new();
        }
    };
    let source: Arc<str> = Arc::from(path.display().to_string());
    let mut found = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        match plain(line) {
            Ok(None) => {}
            Ok(Some((name, value))) => {
                let name = name.strip_prefix("RABBITMQ_").unwrap_or(&name);
                found.insert(format!("RABBITMQ_{name}"), value);
            }
            Err(why) => problems.push(ConfigError::Syntax {
                place: Place {
                    source: Arc::clone(&source),
                    line: at + 1,
                },
                why: why.to_owned(),
            }),
        }
    }
    found
}

fn plain(line: &str) -> Result<Option<(String, String)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = line.strip_prefix("export ").unwrap_or(line).trim();
    let (name, value) = line.split_once('=').ok_or("expected `NAME=value`")?;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err("expected `NAME=value`");
    }
    let quoted = |mark: char| value.len() > 1 && value.starts_with(mark) && value.ends_with(mark);
    let (bare, literal) = match (quoted('\''), quoted('"')) {
        (true, _) => (&value[1..value.len() - 1], true),
        (_, true) => (&value[1..value.len() - 1], false),
        _ => (value, false),
    };
    let runs = !literal && bare.contains(['$', '`', '\\']);
    let several = bare == value && bare.contains([' ', ';', '"', '\'']);
    match runs || several {
        true => Err("only a plain value is read; this file is not run by a shell"),
        false => Ok(Some((name.to_owned(), bare.to_owned()))),
    }
}

/// Takes what the environment says over what files said.
pub(super) fn apply(
    draft: &mut Draft,
    env: &Env<'_>,
    notes: &mut Vec<Note>,
    problems: &mut Vec<ConfigError>,
) {
    let mut wrong = Wrong(problems);
    for name in REMOVED {
        if env(name).is_some() {
            wrong.add(name, "to be unset; use a configuration file instead");
        }
    }
    let texts: [(&str, fn(&mut Config) -> &mut String); 3] = [
        ("RABBITMQ_DEFAULT_USER", |c| &mut c.default_user),
        ("RABBITMQ_DEFAULT_PASS", |c| &mut c.default_pass),
        ("RABBITMQ_DEFAULT_VHOST", |c| &mut c.default_vhost),
    ];
    for (name, field) in texts {
        match env(name) {
            Some(text) if text.is_empty() => wrong.add(name, "something that is not empty"),
            Some(text) => *field(&mut draft.config) = text,
            None => {}
        }
    }
    addresses(draft, env, &mut wrong);
    if let Some(secret) = env("RABBITMQ_ERLANG_COOKIE").filter(|secret| !secret.is_empty()) {
        draft.cluster.config.secret = secret;
    }
    if let Some(dir) = env("RABBITMQ_MNESIA_DIR") {
        draft.config.data_dir = dir.into();
    } else if let Some(base) = env("RABBITMQ_MNESIA_BASE") {
        // Not named after the host, as RabbitMQ's is: a new host name must not hide the data.
        draft.config.data_dir = Path::new(&base).join("leveret");
    }
    if let Some(words) = env("RABBITMQ_LOG") {
        logs(draft, &words, &mut wrong);
    }
    if let Some(folder) = env("RABBITMQ_LOG_BASE") {
        draft.log.folder = folder.into();
    }
    match env("RABBITMQ_LOGS").as_deref() {
        None | Some("") => {}
        Some("-") => draft.log.name = None,
        Some(place) => draft.log.name = Some(place.into()),
    }
    let advanced = env("RABBITMQ_ADVANCED_CONFIG_FILE");
    if Path::new(advanced.as_deref().unwrap_or(ADVANCED_FILE)).exists() {
        notes.push(note("advanced.config", ADVANCED));
    }
    plugins(draft, env, notes, &mut wrong);
}

fn note(key: &str, why: &'static str) -> Note {
    Note {
        place: Place {
            source: "environment".into(),
            line: 0,
        },
        key: key.to_owned(),
        why,
    }
}

fn addresses(draft: &mut Draft, env: &Env<'_>, wrong: &mut Wrong<'_>) {
    if let Some(port) = env("RABBITMQ_NODE_PORT") {
        match value::number_u16(&port) {
            Ok(port) => draft.node_port = port,
            Err(expected) => wrong.add("RABBITMQ_NODE_PORT", &expected),
        }
    }
    if let Some(ip) = env("RABBITMQ_NODE_IP_ADDRESS").filter(|ip| !ip.is_empty()) {
        match ip.parse() {
            Ok(ip) => draft.node_ip = ip,
            Err(_) => wrong.add("RABBITMQ_NODE_IP_ADDRESS", "an IP address"),
        }
    }
    if let Some(port) = env("RABBITMQ_DIST_PORT") {
        match value::number_u16(&port) {
            Ok(port) => draft.cluster.port = Some(port),
            Err(expected) => wrong.add("RABBITMQ_DIST_PORT", &expected),
        }
    }
}

/// `debug,+json,connection=debug`; colours and the like are passed over.
fn logs(draft: &mut Draft, words: &str, wrong: &mut Wrong<'_>) {
    for word in words
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        match (word, word.split_once('=')) {
            ("+json", _) => draft.config.log_format = LogFormat::Json,
            ("-json", _) => draft.config.log_format = LogFormat::Plain,
            (_, Some((category, level))) => match value::level(level) {
                Ok(level) => {
                    let categories = &mut draft.config.log_categories;
                    categories.retain(|(name, _)| name != category);
                    categories.push((category.to_owned(), level));
                }
                Err(expected) => wrong.add("RABBITMQ_LOG", &expected),
            },
            (flag, None) if flag.starts_with(['+', '-']) => {}
            (level, None) => match value::level(level) {
                Ok(level) => draft.config.log_level = level,
                Err(expected) => wrong.add("RABBITMQ_LOG", &expected),
            },
        }
    }
}

/// A list of plugins, if there is one, decides what is served over HTTP.
fn plugins(draft: &mut Draft, env: &Env<'_>, notes: &mut Vec<Note>, wrong: &mut Wrong<'_>) {
    let listed = env("RABBITMQ_ENABLED_PLUGINS").filter(|list| !list.is_empty());
    let list = match listed {
        Some(list) if list == "ALL" => return,
        Some(list) => list,
        None => {
            let named = env("RABBITMQ_ENABLED_PLUGINS_FILE");
            let path = named.as_deref().unwrap_or(PLUGINS_FILE);
            match std::fs::read_to_string(path) {
                Ok(text) => text,
                Err(_) => return,
            }
        }
    };
    let bare = list.trim().trim_end_matches('.').trim();
    let bare = bare.strip_prefix('[').unwrap_or(bare);
    let bare = bare.strip_suffix(']').unwrap_or(bare);
    let names: Vec<&str> = bare
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    let sound = |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !names.iter().all(sound) {
        return wrong.add(
            "enabled_plugins",
            "a list such as [rabbitmq_management,rabbitmq_prometheus].",
        );
    }
    let served = ["rabbitmq_management", "rabbitmq_prometheus"];
    draft.left_out = served.map(|name| !names.contains(&name));
    for (name, out) in served.iter().zip(draft.left_out) {
        if out {
            notes.push(note(
                name,
                "it is not among the enabled plugins, so it is not served",
            ));
        }
    }
    for name in names.iter().filter(|name| !KNOWN.contains(*name)) {
        notes.push(note(name, "there is no such plugin here"));
    }
}

/// Plugins whose work is done here in any case, or as the list says.
const KNOWN: [&str; 12] = [
    "rabbitmq_management",
    "rabbitmq_management_agent",
    "rabbitmq_web_dispatch",
    "rabbitmq_prometheus",
    "rabbitmq_auth_mechanism_ssl",
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_delayed_message_exchange",
    "rabbitmq_random_exchange",
    "rabbitmq_peer_discovery_common",
    "rabbitmq_shovel",
    "rabbitmq_shovel_management",
    "rabbitmq_shovel_prometheus",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_env_file_is_a_plain_assignment_or_an_error() {
        let cases: &[(&str, Result<Option<(&str, &str)>, ()>)] = &[
            ("", Ok(None)),
            ("# NODENAME=x", Ok(None)),
            ("NODENAME=rabbit@a", Ok(Some(("NODENAME", "rabbit@a")))),
            ("export NODE_PORT=1", Ok(Some(("NODE_PORT", "1")))),
            (
                "RABBITMQ_NODENAME='a b'",
                Ok(Some(("RABBITMQ_NODENAME", "a b"))),
            ),
            ("A=\"b c\"", Ok(Some(("A", "b c")))),
            ("A='$x'", Ok(Some(("A", "$x")))),
            ("A=", Ok(Some(("A", "")))),
            ("A=$HOME", Err(())),
            ("A=\"$(rm)\"", Err(())),
            ("A=b; rm", Err(())),
            ("if true", Err(())),
            ("a-b=c", Err(())),
        ];
        for (line, want) in cases {
            let got = plain(line).map_err(|_| ());
            let got = got
                .as_ref()
                .map(|found| found.as_ref().map(|(n, v)| (n.as_str(), v.as_str())));
            assert_eq!(got, want.as_ref().copied(), "{line}");
        }
    }
}
