//! The bytes of [`SettingsCommand`] and of what it sets.
//!
//! Shape: a tag byte, then the fields in order; what may be absent has a flag before it. Invariant: decoding never
//! panics and never reserves by an announced length.

use bytes::BufMut;

use super::command::{CodecError, get_texts, put_texts};
use super::password::Hashing;
use super::pattern::Pattern;
use super::policy::{ApplyTo, Policy, PolicyScope};
use super::settings::{LimitKind, SettingsCommand, VhostSettings};
use super::table::{get_table, get_value, put_table, put_value};
use crate::base::coding::{Reader, Writer};

fn put_text(out: &mut impl BufMut, text: &str) {
    out.put_blob(text.as_bytes());
}

pub(super) fn put_maybe<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl Fn(&mut Vec<u8>, &T)) {
    out.put_flag(value.is_some());
    if let Some(value) = value {
        put(out, value);
    }
}

pub(super) fn get_maybe<'a, T>(
    reader: &mut Reader<'a>,
    get: impl Fn(&mut Reader<'a>) -> Result<T, CodecError>,
) -> Result<Option<T>, CodecError> {
    match reader.flag()? {
        true => get(reader).map(Some),
        false => Ok(None),
    }
}

pub(super) fn put_int(out: &mut Vec<u8>, value: &i64) {
    out.put_i64_le(*value);
}

pub(super) fn get_int(reader: &mut Reader<'_>) -> Result<i64, CodecError> {
    Ok(reader.i64()?)
}

fn get_text(reader: &mut Reader<'_>) -> Result<String, CodecError> {
    Ok(reader.text()?)
}

fn scope_byte(scope: PolicyScope) -> u8 {
    match scope {
        PolicyScope::User => 0,
        PolicyScope::Operator => 1,
    }
}

fn get_scope(reader: &mut Reader<'_>) -> Result<PolicyScope, CodecError> {
    match reader.u8()? {
        0 => Ok(PolicyScope::User),
        1 => Ok(PolicyScope::Operator),
        other => Err(CodecError::UnknownTag(other)),
    }
}

fn limit_byte(limit: LimitKind) -> u8 {
    match limit {
        LimitKind::Connections => 0,
        LimitKind::Queues => 1,
        LimitKind::Channels => 2,
    }
}

fn get_limit(reader: &mut Reader<'_>) -> Result<LimitKind, CodecError> {
    match reader.u8()? {
        0 => Ok(LimitKind::Connections),
        1 => Ok(LimitKind::Queues),
        2 => Ok(LimitKind::Channels),
        other => Err(CodecError::UnknownTag(other)),
    }
}

impl Policy {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for text in [&self.vhost, &self.name, self.pattern.source()] {
            put_text(out, text);
        }
        put_text(out, self.apply_to.name());
        put_int(out, &self.priority);
        put_table(out, &self.definition);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            vhost: reader.text()?,
            name: reader.text()?,
            pattern: Pattern::new(reader.text()?),
            apply_to: ApplyTo::from_name(&reader.text()?).map_err(|_| CodecError::Inconsistent)?,
            priority: reader.i64()?,
            definition: get_table(reader)?,
        })
    }
}

impl SettingsCommand {
    fn tag(&self) -> u8 {
        match self {
            Self::PutUser { .. } => 1,
            Self::SetTopicPermissions { .. } => 2,
            Self::ClearTopicPermissions { .. } => 3,
            Self::SetUserLimit { .. } => 4,
            Self::PutVhost { .. } => 5,
            Self::SetVhostLimit { .. } => 6,
            Self::PutPolicy { .. } => 7,
            Self::DeletePolicy { .. } => 8,
            Self::PutParameter { .. } => 9,
            Self::DeleteParameter { .. } => 10,
            Self::PutGlobal { .. } => 11,
            Self::DeleteGlobal { .. } => 12,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.tag());
        match self {
            Self::PutUser {
                name,
                password_hash,
                hashing,
                tags,
            } => {
                for text in [name, password_hash, hashing.name()] {
                    put_text(out, text);
                }
                put_texts(out, tags);
            }
            Self::SetTopicPermissions {
                user,
                vhost,
                exchange,
                write,
                read,
            } => {
                for text in [user, vhost, exchange, write, read] {
                    put_text(out, text);
                }
            }
            Self::ClearTopicPermissions {
                user,
                vhost,
                exchange,
            } => {
                put_text(out, user);
                put_text(out, vhost);
                put_maybe(out, exchange.as_ref(), |out, text| put_text(out, text));
            }
            Self::SetUserLimit { user, limit, value }
            | Self::SetVhostLimit {
                vhost: user,
                limit,
                value,
            } => {
                put_text(out, user);
                out.put_u8(limit_byte(*limit));
                put_maybe(out, value.as_ref(), put_int);
            }
            Self::PutVhost {
                name,
                description,
                tags,
                default_queue_type,
                tracing,
                protected,
            } => {
                put_text(out, name);
                put_maybe(out, description.as_ref(), |out, text| put_text(out, text));
                put_maybe(out, tags.as_ref(), |out, tags| put_texts(out, tags));
                let kind = default_queue_type.as_ref();
                put_maybe(out, kind, |out, text| put_text(out, text));
                put_maybe(out, tracing.as_ref(), |out, flag| out.put_flag(*flag));
                put_maybe(out, protected.as_ref(), |out, flag| out.put_flag(*flag));
            }
            Self::PutPolicy { scope, policy } => {
                out.put_u8(scope_byte(*scope));
                policy.encode(out);
            }
            Self::DeletePolicy { scope, vhost, name } => {
                out.put_u8(scope_byte(*scope));
                put_text(out, vhost);
                put_text(out, name);
            }
            Self::PutParameter {
                component,
                vhost,
                name,
                value,
            } => {
                for text in [component, vhost, name] {
                    put_text(out, text);
                }
                put_value(out, value);
            }
            Self::DeleteParameter {
                component,
                vhost,
                name,
            } => {
                for text in [component, vhost, name] {
                    put_text(out, text);
                }
            }
            Self::PutGlobal { name, value } => {
                put_text(out, name);
                put_value(out, value);
            }
            Self::DeleteGlobal { name } => put_text(out, name),
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match reader.u8()? {
            1 => Self::PutUser {
                name: reader.text()?,
                password_hash: reader.text()?,
                hashing: Hashing::from_name(&reader.text()?).ok_or(CodecError::Inconsistent)?,
                tags: get_texts(reader)?,
            },
            2 => Self::SetTopicPermissions {
                user: reader.text()?,
                vhost: reader.text()?,
                exchange: reader.text()?,
                write: reader.text()?,
                read: reader.text()?,
            },
            3 => Self::ClearTopicPermissions {
                user: reader.text()?,
                vhost: reader.text()?,
                exchange: get_maybe(reader, get_text)?,
            },
            4 => Self::SetUserLimit {
                user: reader.text()?,
                limit: get_limit(reader)?,
                value: get_maybe(reader, get_int)?,
            },
            5 => Self::PutVhost {
                name: reader.text()?,
                description: get_maybe(reader, get_text)?,
                tags: get_maybe(reader, get_texts)?,
                default_queue_type: get_maybe(reader, get_text)?,
                tracing: get_maybe(reader, |reader| Ok(reader.flag()?))?,
                protected: get_maybe(reader, |reader| Ok(reader.flag()?))?,
            },
            6 => Self::SetVhostLimit {
                vhost: reader.text()?,
                limit: get_limit(reader)?,
                value: get_maybe(reader, get_int)?,
            },
            7 => Self::PutPolicy {
                scope: get_scope(reader)?,
                policy: Policy::decode(reader)?,
            },
            8 => Self::DeletePolicy {
                scope: get_scope(reader)?,
                vhost: reader.text()?,
                name: reader.text()?,
            },
            9 => Self::PutParameter {
                component: reader.text()?,
                vhost: reader.text()?,
                name: reader.text()?,
                value: get_value(reader)?,
            },
            10 => Self::DeleteParameter {
                component: reader.text()?,
                vhost: reader.text()?,
                name: reader.text()?,
            },
            11 => Self::PutGlobal {
                name: reader.text()?,
                value: get_value(reader)?,
            },
            12 => Self::DeleteGlobal {
                name: reader.text()?,
            },
            other => return Err(CodecError::UnknownTag(other)),
        })
    }
}

impl VhostSettings {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_text(out, &self.description);
        put_texts(out, &self.tags);
        put_text(out, &self.default_queue_type);
        out.put_flag(self.tracing);
        out.put_flag(self.protected);
        put_maybe(out, self.max_connections.as_ref(), put_int);
        put_maybe(out, self.max_queues.as_ref(), put_int);
        out.put_varint(self.born);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            description: reader.text()?,
            tags: get_texts(reader)?,
            default_queue_type: reader.text()?,
            tracing: reader.flag()?,
            protected: reader.flag()?,
            max_connections: get_maybe(reader, get_int)?,
            max_queues: get_maybe(reader, get_int)?,
            born: reader.varint()?,
        })
    }
}
