//! The sources in their order: files, folder, environment, command line.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::file::{Assignment, ConfigError, Place, Problems, assignments};
use super::draft::Draft;
use super::keys::Effect;
use super::lookup::{find, nearest};
use super::{Config, LogLevel, value};

const FILE: &str = "/etc/rabbitmq/rabbitmq.conf";
const FOLDER: &str = "/etc/rabbitmq/conf.d";
/// RabbitMQ's images refuse these at the start; so a secret given this way is never passed over in silence.
const REMOVED: [&str; 3] = [
    "RABBITMQ_DEFAULT_USER_FILE",
    "RABBITMQ_DEFAULT_PASS_FILE",
    "RABBITMQ_VM_MEMORY_HIGH_WATERMARK",
];

/// What the command line says, and the environment.
pub struct Sources<'a> {
    /// `--config`; must exist. Without it `RABBITMQ_CONFIG_FILE`, or `/etc/rabbitmq/rabbitmq.conf` if it exists.
    pub file: Option<PathBuf>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--listen`; if any, the only listeners.
    pub listen: Vec<SocketAddr>,
    /// `--prometheus`.
    pub prometheus: Option<SocketAddr>,
    /// `--log-level`.
    pub log_level: Option<LogLevel>,
    /// Environment variables.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// A key that was accepted and has no effect, or not the full one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where.
    pub place: Place,
    /// Which key.
    pub key: String,
    /// Why.
    pub why: &'static str,
}

/// A configuration and what is to be said about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Keys without effect.
    pub notes: Vec<Note>,
    /// Files read, in order.
    pub files: Vec<PathBuf>,
}

/// Reads and checks all sources.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let mut notes = Vec::new();
    let env = sources.env;
    let mut draft = Draft::new(env("RABBITMQ_NODENAME").unwrap_or_else(|| node_name(env)));
    let files = files(sources, &mut problems);
    for path in &files {
        match fs::read_to_string(path) {
            Ok(text) => {
                let found = assignments(&path.display().to_string(), &text, env, &mut problems);
                assign(&mut draft, found, &mut notes, &mut problems);
            }
            Err(error) => problems.push(ConfigError::Read {
                path: path.clone(),
                error,
            }),
        }
    }
    environment(&mut draft, env, &mut problems);
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let mut config = match draft.finish() {
        Ok(config) => config,
        Err((key, expected)) => {
            let place = Place {
                source: "configuration".into(),
                line: 0,
            };
            let key = key.to_owned();
            return Err(Problems(vec![ConfigError::BadValue {
                place,
                key,
                expected,
            }]));
        }
    };
    if let Some(dir) = &sources.data_dir {
        config.data_dir.clone_from(dir);
    }
    if !sources.listen.is_empty() {
        config.listeners.clone_from(&sources.listen);
    }
    if let Some(address) = sources.prometheus {
        config.prometheus[0] = Some(address);
    }
    config.log_level = sources.log_level.unwrap_or(config.log_level);
    Ok(Loaded {
        config,
        notes,
        files,
    })
}

fn node_name(env: &dyn Fn(&str) -> Option<String>) -> String {
    let host = env("HOSTNAME").or_else(|| fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let host = host.unwrap_or_default();
    let short = host.trim().split('.').next().unwrap_or_default();
    format!(
        "rabbit@{}",
        if short.is_empty() { "localhost" } else { short }
    )
}

fn files(sources: &Sources<'_>, problems: &mut Vec<ConfigError>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Some(path) = &sources.file {
        files.push(path.clone());
    } else if let Some(path) = (sources.env)("RABBITMQ_CONFIG_FILE") {
        let path = PathBuf::from(path);
        let with = PathBuf::from(format!("{}.conf", path.display()));
        files.push(if !path.exists() && with.exists() {
            with
        } else {
            path
        });
    } else if Path::new(FILE).exists() {
        files.push(PathBuf::from(FILE));
    }
    let named = (sources.env)("RABBITMQ_CONFIG_FILES");
    // A file named on the command line stands alone, unless a folder is named as well.
    let folder = match &named {
        Some(folder) => PathBuf::from(folder.trim_end_matches("*.conf")),
        None if sources.file.is_some() => return files,
        None => PathBuf::from(FOLDER),
    };
    match folder_files(&folder) {
        Ok(mut more) => files.append(&mut more),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => problems.push(ConfigError::Read {
            path: folder,
            error,
        }),
    }
    files
}

fn folder_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "conf") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Puts assignments into the draft.
fn assign(
    draft: &mut Draft,
    found: Vec<Assignment>,
    notes: &mut Vec<Note>,
    problems: &mut Vec<ConfigError>,
) {
    for Assignment { key, value, place } in found {
        let Some((row, name)) = find(&key) else {
            let suggestion = nearest(&key);
            problems.push(ConfigError::UnknownKey {
                place,
                key,
                suggestion,
            });
            continue;
        };
        match row.effect {
            Effect::Set(f) => match f(draft, name, &value) {
                Ok(None) => {}
                Ok(Some(why)) => notes.push(Note { place, key, why }),
                Err(expected) => problems.push(ConfigError::BadValue {
                    place,
                    key,
                    expected,
                }),
            },
            Effect::Ignored(why) => notes.push(Note { place, key, why }),
            Effect::Refused(why) => problems.push(ConfigError::Refused { place, key, why }),
        }
    }
}

fn environment(
    draft: &mut Draft,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<ConfigError>,
) {
    let mut wrong = |name: &str, expected: &str| {
        let (name, expected) = (name.to_owned(), expected.to_owned());
        problems.push(ConfigError::Environment { name, expected });
    };
    for name in REMOVED {
        if env(name).is_some() {
            wrong(name, "to be unset; use a configuration file instead");
        }
    }
    let texts: [(&str, fn(&mut Config) -> &mut String); 3] = [
        ("RABBITMQ_DEFAULT_USER", |c| &mut c.default_user),
        ("RABBITMQ_DEFAULT_PASS", |c| &mut c.default_pass),
        ("RABBITMQ_DEFAULT_VHOST", |c| &mut c.default_vhost),
    ];
    for (name, field) in texts {
        match env(name) {
            Some(text) if text.is_empty() => wrong(name, "something that is not empty"),
            Some(text) => *field(&mut draft.config) = text,
            None => {}
        }
    }
    if let Some(port) = env("RABBITMQ_NODE_PORT") {
        match value::number_u16(&port) {
            Ok(port) => draft.node_port = port,
            Err(expected) => wrong("RABBITMQ_NODE_PORT", &expected),
        }
    }
    if let Some(ip) = env("RABBITMQ_NODE_IP_ADDRESS").filter(|ip| !ip.is_empty()) {
        match ip.parse() {
            Ok(ip) => draft.node_ip = ip,
            Err(_) => wrong("RABBITMQ_NODE_IP_ADDRESS", "an IP address"),
        }
    }
    if let Some(port) = env("RABBITMQ_DIST_PORT") {
        match value::number_u16(&port) {
            Ok(port) => draft.cluster.port = Some(port),
            Err(expected) => wrong("RABBITMQ_DIST_PORT", &expected),
        }
    }
    if let Some(secret) = env("RABBITMQ_ERLANG_COOKIE").filter(|secret| !secret.is_empty()) {
        draft.cluster.config.secret = secret;
    }
    if let Some(dir) = env("RABBITMQ_MNESIA_DIR") {
        draft.config.data_dir = dir.into();
    } else if let Some(base) = env("RABBITMQ_MNESIA_BASE") {
        // Not named after the host, as RabbitMQ's is: a new host name must not hide the data.
        draft.config.data_dir = Path::new(&base).join("leveret");
    }
}

#[cfg(test)]
#[path = "test.rs"]
mod tests;
