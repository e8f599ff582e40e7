//! What new vhosts are given: limits, operator policies, users.
//!
//! Parts of one rule are lines of their own, joined by the id in their keys; a pattern that is not named fits every name.

use std::collections::BTreeMap;

use super::super::draft::Draft;
use super::super::value::{self, Expected};
use super::{Key, Remark, ignored, set, text};
use crate::http::{DefaultLimits, DefaultPolicy, DefaultUser, VhostDefaults};
use crate::model::topology::{ApplyTo, Pattern};

/// Rules while their lines are read, by id: numbers in their order, then words in theirs.
#[derive(Debug, Default)]
pub(in crate::config) struct Rules {
    limits: BTreeMap<(u64, String), DefaultLimits>,
    policies: BTreeMap<(u64, String), DefaultPolicy>,
    users: BTreeMap<(u64, String), DefaultUser>,
}

impl Rules {
    /// The rules in their order.
    pub(in crate::config) fn finish(self) -> VhostDefaults {
        VhostDefaults {
            limits: self.limits.into_values().collect(),
            policies: self.policies.into_values().collect(),
            users: self.users.into_values().collect(),
        }
    }
}

const EVERY: &str = ".*";
const IN_MEMORY: &str = "bodies are on disk and in a cache of fixed size";
const MIRRORS: &str = "every durable queue is replicated the same way";

fn id(name: &str) -> (u64, String) {
    (name.parse().unwrap_or(u64::MAX), name.to_owned())
}

fn every() -> Pattern {
    Pattern::new(EVERY.to_owned())
}

fn limits<'d>(d: &'d mut Draft, name: &str) -> &'d mut DefaultLimits {
    let new = || DefaultLimits {
        vhosts: every(),
        ..DefaultLimits::default()
    };
    d.rules.limits.entry(id(name)).or_insert_with(new)
}

fn policy<'d>(d: &'d mut Draft, name: &str) -> &'d mut DefaultPolicy {
    let new = || DefaultPolicy {
        name: name.to_owned(),
        vhosts: every(),
        queues: every(),
        ..DefaultPolicy::default()
    };
    d.rules.policies.entry(id(name)).or_insert_with(new)
}

fn user<'d>(d: &'d mut Draft, name: &str) -> &'d mut DefaultUser {
    let new = || DefaultUser {
        name: name.to_owned(),
        vhosts: every(),
        permissions: [EVERY, EVERY, EVERY].map(str::to_owned),
        ..DefaultUser::default()
    };
    d.rules.users.entry(id(name)).or_insert_with(new)
}

fn regex(value: &str) -> Result<String, Expected> {
    Pattern::check(value).map_err(|_| "a regular expression".to_owned())?;
    Ok(value.to_owned())
}

fn pattern(field: &mut Pattern, value: &str) -> Result<Remark, Expected> {
    *field = Pattern::new(regex(value)?);
    Ok(None)
}

/// A key of the policy's definition; the last value counts.
fn define(d: &mut Draft, name: &str, key: &'static str, value: u64) -> Result<Remark, Expected> {
    let value = i64::try_from(value).map_err(|_| "a smaller number".to_owned())?;
    let definition = &mut policy(d, name).definition;
    definition.retain(|(known, _)| *known != key);
    definition.push((key, value));
    Ok(None)
}

fn count(v: &str) -> Result<u64, Expected> {
    value::number(v, 1, u64::from(u32::MAX))
}

pub(super) static KEYS: &[Key] = &[
    set(
        "default_limits.vhosts.$id.pattern",
        "regex",
        EVERY,
        "which new vhosts have the limits of this id; the first id that fits counts",
        |d, id, v| pattern(&mut limits(d, id).vhosts, v),
    ),
    set(
        "default_limits.vhosts.$id.max_connections",
        "count",
        "",
        "their connections",
        |d, id, v| {
            limits(d, id).max_connections = Some(value::number_u32(v, 1)?);
            Ok(None)
        },
    ),
    set(
        "default_limits.vhosts.$id.max_queues",
        "count",
        "",
        "their queues",
        |d, id, v| {
            limits(d, id).max_queues = Some(value::number_u32(v, 1)?);
            Ok(None)
        },
    ),
    set(
        "default_policies.operator.$id.vhost_pattern",
        "regex",
        EVERY,
        "which new vhosts have an operator policy of this name",
        |d, id, v| pattern(&mut policy(d, id).vhosts, v),
    ),
    set(
        "default_policies.operator.$id.queue_pattern",
        "regex",
        EVERY,
        "which of their queues it is for",
        |d, id, v| pattern(&mut policy(d, id).queues, v),
    ),
    set(
        "default_policies.operator.$id.apply_to",
        "all, queues, classic_queues, quorum_queues, streams",
        "all",
        "what kind of them",
        |d, id, v| {
            let known = ApplyTo::from_name(v).ok();
            let known = known.filter(|kind| *kind != ApplyTo::Exchanges);
            let words = "all, queues, classic_queues, quorum_queues or streams";
            policy(d, id).apply_to = known.ok_or_else(|| words.to_owned())?;
            Ok(None)
        },
    ),
    set(
        "default_policies.operator.$id.expires",
        "duration",
        "",
        "its `expires`",
        |d, id, v| define(d, id, "expires", value::duration_ms(v, 1)?),
    ),
    set(
        "default_policies.operator.$id.message_ttl",
        "duration",
        "",
        "its `message-ttl`",
        |d, id, v| define(d, id, "message-ttl", value::duration_ms(v, 0)?),
    ),
    set(
        "default_policies.operator.$id.max_length",
        "count",
        "",
        "its `max-length`",
        |d, id, v| define(d, id, "max-length", count(v)?),
    ),
    set(
        "default_policies.operator.$id.max_length_bytes",
        "bytes",
        "",
        "its `max-length-bytes`",
        |d, id, v| {
            define(
                d,
                id,
                "max-length-bytes",
                value::bytes_within(v, 1, 1 << 62)?,
            )
        },
    ),
    set(
        "default_policies.operator.$id.delivery_limit",
        "count",
        "",
        "its `delivery-limit`",
        |d, id, v| define(d, id, "delivery-limit", count(v)?),
    ),
    ignored(
        "default_policies.operator.$id.max_in_memory_length",
        IN_MEMORY,
    ),
    ignored(
        "default_policies.operator.$id.max_in_memory_bytes",
        IN_MEMORY,
    ),
    ignored("default_policies.operator.$id.classic_queues.*", MIRRORS),
    set(
        "default_users.$name.vhost_pattern",
        "regex",
        EVERY,
        "in which new vhosts this user has permissions; it is made if there is none",
        |d, name, v| pattern(&mut user(d, name).vhosts, v),
    ),
    set(
        "default_users.$name.password",
        "password",
        "",
        "its password, if it is made; without one it cannot log in by password",
        |d, name, v| text(user(d, name).password.get_or_insert_default(), v),
    ),
    set(
        "default_users.$name.configure",
        "regex",
        EVERY,
        "what it may configure there",
        |d, name, v| {
            user(d, name).permissions[0] = regex(v)?;
            Ok(None)
        },
    ),
    set(
        "default_users.$name.write",
        "regex",
        EVERY,
        "what it may write to",
        |d, name, v| {
            user(d, name).permissions[1] = regex(v)?;
            Ok(None)
        },
    ),
    set(
        "default_users.$name.read",
        "regex",
        EVERY,
        "what it may read from",
        |d, name, v| {
            user(d, name).permissions[2] = regex(v)?;
            Ok(None)
        },
    ),
    set(
        "default_users.$name.tags",
        "words, with commas between",
        "",
        "its tags, if it is made",
        |d, name, v| {
            let words = v.split(',').map(str::trim).filter(|word| !word.is_empty());
            user(d, name).tags = words.map(str::to_owned).collect();
            Ok(None)
        },
    ),
];
