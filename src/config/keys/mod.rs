//! The table of keys: what each means, its unit, its default, and what is done with it.
//!
//! In a pattern `$n` stands for one segment of the caller's choice, a last `*` for one or more. The first pattern that
//! matches decides, so an exact key stands before the pattern that would also take it. Shape: one file of rows for each
//! subject; [`super::draft`] is what they write to. docs/configuration.md is made from these rows.

mod accepted;
pub(super) mod defaults;
mod http;
mod limits;
pub(super) mod logs;
pub(super) mod network;
mod objects;
mod own;
pub(super) mod users;

use super::cluster;
use super::draft::Draft;
use super::value::Expected;

/// Whether a value was taken fully (`None`), or accepted with a remark.
pub type Remark = Option<&'static str>;
type Setter = fn(&mut Draft, &str, &str) -> Result<Remark, Expected>;

/// What is done with a key.
#[derive(Clone, Copy)]
pub enum Effect {
    /// Taken.
    Set(Setter),
    /// Accepted, so that files written for RabbitMQ start; has no effect, for this reason.
    Ignored(&'static str),
    /// A start without it would not be what was asked for.
    Refused(&'static str),
}

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Key {
    /// Pattern.
    pub pattern: &'static str,
    /// Unit or form of the value.
    pub unit: &'static str,
    /// Default, as it would be written.
    pub default: &'static str,
    /// What it decides, in a few words.
    pub about: &'static str,
    /// What it does.
    pub effect: Effect,
    /// A changed value is taken at SIGHUP, without a restart.
    pub live: bool,
}

impl Key {
    /// This key's changes are taken at SIGHUP.
    pub(super) const fn live(self) -> Self {
        Self { live: true, ..self }
    }
}

pub(super) const fn set(
    pattern: &'static str,
    unit: &'static str,
    default: &'static str,
    about: &'static str,
    f: Setter,
) -> Key {
    Key {
        pattern,
        unit,
        default,
        about,
        effect: Effect::Set(f),
        live: false,
    }
}

pub(super) const fn ignored(pattern: &'static str, why: &'static str) -> Key {
    Key {
        pattern,
        unit: "any",
        default: "",
        about: "",
        effect: Effect::Ignored(why),
        live: false,
    }
}

const fn refused(pattern: &'static str, why: &'static str) -> Key {
    Key {
        pattern,
        unit: "none",
        default: "",
        about: "",
        effect: Effect::Refused(why),
        live: false,
    }
}

/// A subject and its rows.
pub type Chapter = (&'static str, &'static [Key]);

/// Every key by subject, in the order in which patterns are tried.
pub static CHAPTERS: [Chapter; 14] = [
    ("AMQP listeners", network::KEYS),
    ("TLS for AMQP", network::AMQP_TLS),
    ("Users and logins", users::KEYS),
    ("New vhosts", defaults::KEYS),
    ("Limits", limits::KEYS),
    ("Queues and exchanges", objects::KEYS),
    ("Management API", http::MANAGEMENT),
    ("TLS for the management API", network::MANAGEMENT_TLS),
    ("Prometheus", http::PROMETHEUS),
    ("TLS for Prometheus", network::PROMETHEUS_TLS),
    ("Logs", logs::KEYS),
    ("Peers", cluster::KEYS),
    ("Keys of this broker's own, and definitions", own::KEYS),
    ("Other keys of RabbitMQ", accepted::KEYS),
];

/// Every key.
pub fn all() -> impl Iterator<Item = &'static Key> {
    CHAPTERS.iter().flat_map(|(_, rows)| rows.iter())
}

/// Text that is not empty.
pub(super) fn text(field: &mut String, value: &str) -> Result<Remark, Expected> {
    if value.is_empty() {
        return Err("something that is not empty".to_owned());
    }
    value.clone_into(field);
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn the_written_defaults_are_the_defaults() {
        let mut draft = Draft::new("rabbit@localhost".to_owned());
        let mut set = 0;
        for row in all() {
            // Where a listener would be if it were asked for; saying so asks for it.
            let asks = row.pattern.ends_with(".ssl.port") || row.pattern.ends_with(".ssl.ip");
            let plain = !row.pattern.contains('$') && !row.default.contains(' ') && !asks;
            if let (Effect::Set(f), true) = (row.effect, plain && !row.default.is_empty()) {
                f(&mut draft, "", row.default).unwrap_or_else(|e| panic!("{}: {e}", row.pattern));
                set += 1;
            }
        }
        assert!(set > 25);
        assert_eq!(draft.finish().unwrap(), Config::default());
    }

    #[test]
    fn every_key_that_is_taken_says_what_it_decides() {
        for row in all() {
            let taken = matches!(row.effect, Effect::Set(_));
            assert_eq!(taken, !row.about.is_empty(), "{}", row.pattern);
        }
    }
}
