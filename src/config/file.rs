//! Lines of a `key = value` file, and what can be wrong with a configuration.
//!
//! One assignment per line; `#` starts a comment unless inside `'…'`; `$(NAME)` is replaced from the environment before
//! anything else. A value in quotes is taken as it stands; in quotes a backslash keeps the next quote.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Where an assignment stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// File, or what else said it.
    pub source: Arc<str>,
    /// Line, from 1; 0: there are none.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.source),
            line => write!(f, "{}:{line}", self.source),
        }
    }
}

/// One thing wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or folder that was named cannot be read.
    #[error("cannot read {path}: {error}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Not `key = value`.
    #[error("{place}: {why}")]
    Syntax {
        /// Where.
        place: Place,
        /// What is wrong.
        why: String,
    },
    /// A key that does not exist.
    #[error("{place}: unknown key `{key}`{}", suggest(suggestion.as_deref()))]
    UnknownKey {
        /// Where.
        place: Place,
        /// The key as written.
        key: String,
        /// A key it may have meant.
        suggestion: Option<String>,
    },
    /// A value the key does not take. The value itself is not repeated: it may be a secret.
    #[error("{place}: `{key}` expects {expected}")]
    BadValue {
        /// Where.
        place: Place,
        /// Which key.
        key: String,
        /// What it takes.
        expected: String,
    },
    /// A key that asks for something this broker does not do, and that must not be passed over in silence.
    #[error("{place}: `{key}` cannot be honoured: {why}")]
    Refused {
        /// Where.
        place: Place,
        /// Which key.
        key: String,
        /// Why not.
        why: &'static str,
    },
    /// An environment variable with a value it does not take.
    #[error("environment variable {name}: expects {expected}")]
    Environment {
        /// Which.
        name: String,
        /// What it takes.
        expected: String,
    },
}

fn suggest(suggestion: Option<&str>) -> String {
    suggestion
        .map(|s| format!("; did you mean `{s}`?"))
        .unwrap_or_default()
}

/// Everything wrong with the configuration, one per line when shown.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems(pub Vec<ConfigError>);

/// One line that assigns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Key as written.
    pub key: String,
    /// Value without quotes.
    pub value: String,
    /// Where.
    pub place: Place,
}

/// Reads a file's text. Wrong lines go to `problems`, the others are answered.
pub fn assignments(
    source: &str,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<ConfigError>,
) -> Vec<Assignment> {
    let source: Arc<str> = Arc::from(source);
    let mut found = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (at, line) in text.lines().enumerate() {
        let place = Place {
            source: Arc::clone(&source),
            line: at + 1,
        };
        match assignment(line, env) {
            Ok(Some((key, value))) => found.push(Assignment { key, value, place }),
            Ok(None) => {}
            Err(why) => problems.push(ConfigError::Syntax { place, why }),
        }
    }
    found
}

fn assignment(
    line: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<(String, String)>, String> {
    if line.trim_start().starts_with('#') || line.trim().is_empty() {
        return Ok(None);
    }
    let line = interpolated(line, env)?;
    let Some((key, rest)) = line.split_once('=') else {
        return Err("expected `key = value`".to_owned());
    };
    let key = key.trim();
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '#' || c == '\'') {
        return Err(format!("`{key}` is not a key; expected `key = value`"));
    }
    let value = bare(rest.trim())?;
    Ok(Some((key.to_owned(), value)))
}

/// The value without its quotes and without the comment behind it.
fn bare(rest: &str) -> Result<String, String> {
    let Some(quoted) = rest.strip_prefix('\'') else {
        let value = rest.split('#').next().unwrap_or_default().trim();
        return if value.is_empty() {
            Err("a value is missing; write '' for an empty one".to_owned())
        } else {
            Ok(value.to_owned())
        };
    };
    let mut value = String::new();
    let mut rest = quoted.chars();
    loop {
        match rest.next() {
            None => return Err("the closing ' is missing".to_owned()),
            Some('\'') => break,
            Some('\\') if rest.as_str().starts_with(['\'', '\\']) => value.extend(rest.next()),
            Some(c) => value.push(c),
        }
    }
    let after = rest.as_str().trim_start();
    if after.is_empty() || after.starts_with('#') {
        return Ok(value);
    }
    Err("text after the closing '".to_owned())
}

fn interpolated(line: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("$(") {
        out.push_str(before);
        let Some((name, after)) = after.split_once(')') else {
            return Err("`$(` without its `)`".to_owned());
        };
        match env(name) {
            Some(value) => out.push_str(&value),
            None => return Err(format!("environment variable {name} is not set")),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        (name == "PASS").then(|| "s3cret".to_owned())
    }

    #[test]
    fn a_line_is_an_assignment_a_comment_or_an_error() {
        let cases: &[(&str, Result<Option<(&str, &str)>, &str>)] = &[
            ("", Ok(None)),
            ("   ## text = no", Ok(None)),
            ("a.b = c", Ok(Some(("a.b", "c")))),
            ("a=b=c", Ok(Some(("a", "b=c")))),
            ("  a  =  two words  # comment", Ok(Some(("a", "two words")))),
            ("a = '#no comment ' # yes", Ok(Some(("a", "#no comment ")))),
            ("a = ''", Ok(Some(("a", "")))),
            (r"a = 'it\'s'", Ok(Some(("a", "it's")))),
            (r"a = '\d+'", Ok(Some(("a", r"\d+")))),
            ("a = x$(PASS)y", Ok(Some(("a", "xs3crety")))),
            ("# $(MISSING)", Ok(None)),
            ("a = $(MISSING)", Err("MISSING is not set")),
            ("a = $(PASS", Err("without its")),
            ("a = 'open", Err("closing ' is missing")),
            ("a = 'x' y", Err("text after")),
            ("a =", Err("missing")),
            ("a = # nothing", Err("missing")),
            ("just words", Err("key = value")),
            ("two words = 1", Err("not a key")),
            ("= 1", Err("not a key")),
        ];
        for (line, want) in cases {
            let got = assignment(line, &env);
            match (want, got) {
                (Ok(want), Ok(got)) => {
                    let got = got.as_ref().map(|(k, v)| (k.as_str(), v.as_str()));
                    assert_eq!(got, *want, "{line}");
                }
                (Err(want), Err(got)) => assert!(got.contains(want), "{line}: {got}"),
                (want, got) => panic!("{line}: wanted {want:?}, got {got:?}"),
            }
        }
    }

    #[test]
    fn a_wrong_line_is_told_with_its_place_and_the_others_are_read() {
        let mut problems = Vec::new();
        let read = assignments(
            "x.conf",
            "\u{feff}a = 1\nwrong\nb = 2\n",
            &env,
            &mut problems,
        );
        let keys: Vec<_> = read
            .iter()
            .map(|a| (a.key.as_str(), a.place.line))
            .collect();
        assert_eq!(keys, [("a", 1), ("b", 3)]);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].to_string(), "x.conf:2: expected `key = value`");
    }
}
