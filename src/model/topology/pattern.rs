//! A regular expression as RabbitMQ's users write them: searched, not anchored, with lookaround.
//!
//! Shape: compiled once, on first use. Invariants: one that does not compile, or needs more than [`STEPS_MAX`] steps,
//! matches nothing, and so on every replica. Not here: what an empty pattern means, which differs.

use std::sync::OnceLock;

use fancy_regex::{Regex, RegexBuilder};

/// Steps a match may go back before it is given up.
const STEPS_MAX: usize = 100_000;

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Pattern {
    source: String,
    regex: OnceLock<Option<Regex>>,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Pattern {
    /// Not compiled yet, and maybe not compilable.
    #[must_use]
    pub fn new(source: String) -> Self {
        Self {
            source,
            regex: OnceLock::new(),
        }
    }

    /// As it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Why it is none.
    ///
    /// # Errors
    /// The compiler's words.
    pub fn check(source: &str) -> Result<(), String> {
        match compile(source) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Whether it is found in `name`.
    #[must_use]
    pub fn search(&self, name: &str) -> bool {
        let regex = self.regex.get_or_init(|| compile(&self.source).ok());
        let found = regex.as_ref().map(|regex| regex.is_match(name));
        matches!(found, Some(Ok(true)))
    }

    /// As [`Self::search`], but an empty pattern matches only the empty name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self.source.is_empty() {
            true => name.is_empty(),
            false => self.search(name),
        }
    }

    /// Whether it names something that differs from user to user.
    pub(super) fn has_variables(&self) -> bool {
        VARIABLES.iter().any(|name| self.source.contains(name))
    }

    /// As [`Self::matches`], with variables replaced by `values`, taken literally.
    pub(super) fn matches_with(&self, values: [&str; 3], name: &str) -> bool {
        if !self.has_variables() {
            return self.matches(name);
        }
        let mut source = self.source.clone();
        for (variable, value) in VARIABLES.iter().zip(values) {
            source = source.replace(variable, &fancy_regex::escape(value));
        }
        Self::new(source).matches(name)
    }
}

/// Replaced in topic permissions.
const VARIABLES: [&str; 3] = ["{username}", "{vhost}", "{client_id}"];

fn compile(source: &str) -> Result<Regex, Box<fancy_regex::Error>> {
    let mut builder = RegexBuilder::new(source);
    builder.backtrack_limit(STEPS_MAX).build().map_err(Box::new)
}
