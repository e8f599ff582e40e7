//! The sources in their order: files, folder, environment, command line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::draft::Draft;
use super::environment::{self, Env};
use super::file::{Assignment, ConfigError, Place, Problems, assignments};
use super::keys::Effect;
use super::lookup::{find, nearest};
use super::value::Expected;
use super::{Config, LogLevel};

const FILE: &str = "/etc/rabbitmq/rabbitmq.conf";
const FOLDER: &str = "/etc/rabbitmq/conf.d";
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
    /// What they say, key by key.
    pub assigned: Assigned,
}

/// Keys and their values as files say them; not shown, for there are secrets among them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Assigned(BTreeMap<String, String>);

impl std::fmt::Debug for Assigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl Assigned {
    /// The keys that say something else in `new`, and whether that is taken without a restart.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Vec<(String, bool)> {
        let keys: BTreeSet<&String> = self.0.keys().chain(new.0.keys()).collect();
        let changed = keys
            .into_iter()
            .filter(|key| self.0.get(*key) != new.0.get(*key));
        let live = |key: &str| find(key).is_some_and(|(row, _)| row.live);
        changed.map(|key| (key.clone(), live(key))).collect()
    }
}

/// Reads and checks all sources.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let mut notes = Vec::new();
    let named = environment::env_file(sources.env, &mut problems);
    let env = |name: &str| (sources.env)(name).or_else(|| named.get(name).cloned());
    let env: &Env<'_> = &env;
    let mut assigned = Assigned::default();
    let mut draft = Draft::new(env("RABBITMQ_NODENAME").unwrap_or_else(|| node_name(env)));
    let files = files(sources, env, &mut problems);
    let mut said = Vec::new();
    for path in &files {
        match fs::read_to_string(path) {
            Ok(text) => {
                let found = assignments(&path.display().to_string(), &text, env, &mut problems);
                for one in &found {
                    assigned.0.insert(one.key.clone(), one.value.clone());
                }
                said.extend(found);
            }
            Err(error) => problems.push(ConfigError::Read {
                path: path.clone(),
                error,
            }),
        }
    }
    // What values are decrypted with may stand behind them.
    let (decoder, said) = said
        .into_iter()
        .partition(|one: &Assignment| one.key.starts_with("config_entry_decoder."));
    assign(&mut draft, decoder, &mut notes, &mut problems);
    assign(&mut draft, said, &mut notes, &mut problems);
    environment::apply(&mut draft, env, &mut notes, &mut problems);
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
        assigned,
    })
}

fn node_name(env: &dyn Fn(&str) -> Option<String>) -> String {
    let host = env("HOSTNAME").or_else(|| fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let host = host.unwrap_or_default();
    let long = env("RABBITMQ_USE_LONGNAME").is_some_and(|word| word == "true");
    let host = host.trim();
    let short = match long {
        true => host,
        false => host.split('.').next().unwrap_or_default(),
    };
    format!(
        "rabbit@{}",
        if short.is_empty() { "localhost" } else { short }
    )
}

fn files(sources: &Sources<'_>, env: &Env<'_>, problems: &mut Vec<ConfigError>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Some(path) = &sources.file {
        files.push(path.clone());
    } else if let Some(path) = env("RABBITMQ_CONFIG_FILE") {
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
    let named = env("RABBITMQ_CONFIG_FILES");
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
        let value = match decrypted(draft, value) {
            Ok(value) => value,
            Err(expected) => {
                problems.push(ConfigError::BadValue {
                    place,
                    key,
                    expected,
                });
                continue;
            }
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

/// A value as it is meant; an encrypted one is `encrypted:` and base64.
fn decrypted(draft: &Draft, value: String) -> Result<String, Expected> {
    let Some(text) = value.strip_prefix("encrypted:") else {
        return Ok(value);
    };
    if draft.passphrase.text.is_empty() {
        let expected =
            "a plain value, or `config_entry_decoder.passphrase` beside an encrypted one";
        return Err(expected.to_owned());
    }
    let term = draft.passphrase.decrypt(text);
    let plain = term.and_then(|term| term.plain());
    plain.ok_or_else(|| "what `config_entry_decoder.passphrase` decrypts".to_owned())
}

#[cfg(test)]
#[path = "test.rs"]
mod tests;
