//! Users, what is made in an empty store, and how clients log in.

use super::super::draft::Draft;
use super::super::value::{self, Expected};
use super::{Key, Remark, ignored, refused, set, text};
use crate::broker::tls::{AlternativeName, NameFrom};
use crate::model::topology::Hashing;

const OWN_USERS: &str = "logins are checked against the broker's own users only";

pub(super) static KEYS: &[Key] = &[
    set(
        "default_user",
        "name",
        "guest",
        "first user, made in an empty store",
        |d, _, v| text(&mut d.config.default_user, v),
    ),
    set(
        "default_pass",
        "password",
        "guest",
        "its password",
        |d, _, v| text(&mut d.config.default_pass, v),
    ),
    set(
        "default_vhost",
        "name",
        "/",
        "first vhost, made in an empty store",
        |d, _, v| text(&mut d.config.default_vhost, v),
    ),
    set(
        "default_user_tags.$tag",
        "switch",
        "administrator = true",
        "the first user's tags; the first one named replaces the default",
        |d, tag, v| {
            let on = value::switch(v)?;
            if !std::mem::replace(&mut d.tags_named, true) {
                d.config.default_user_tags.clear();
            }
            member(&mut d.config.default_user_tags, tag, on)
        },
    ),
    set(
        "default_permissions.configure",
        "regex",
        ".*",
        "what the first user may configure",
        |d, _, v| pattern(&mut d.config.default_permissions[0], v),
    ),
    set(
        "default_permissions.write",
        "regex",
        ".*",
        "what it may write to",
        |d, _, v| pattern(&mut d.config.default_permissions[1], v),
    ),
    set(
        "default_permissions.read",
        "regex",
        ".*",
        "what it may read from",
        |d, _, v| pattern(&mut d.config.default_permissions[2], v),
    ),
    set(
        "loopback_users",
        "none",
        "",
        "every user may log in from anywhere",
        |d, _, v| {
            value::one_of(v, &["none"])?;
            d.config.loopback_users.clear();
            Ok(None)
        },
    )
    .live(),
    set(
        "loopback_users.$user",
        "switch",
        "guest = true",
        "whether a user may log in over loopback only",
        |d, user, v| member(&mut d.config.loopback_users, user, value::switch(v)?),
    )
    .live(),
    set(
        "auth_mechanisms.$n",
        "PLAIN, AMQPLAIN, ANONYMOUS, EXTERNAL",
        "PLAIN, AMQPLAIN, ANONYMOUS",
        "SASL mechanisms offered, in order; EXTERNAL only under TLS",
        mechanism,
    )
    .live(),
    set(
        "anonymous_login_user",
        "name, or none",
        "guest",
        "whom ANONYMOUS logs in as; none: it is not offered",
        |d, _, v| anonymous(&mut d.anonymous.0, v),
    )
    .live(),
    set(
        "anonymous_login_pass",
        "password, or none",
        "guest",
        "that user's password, checked as any other",
        |d, _, v| anonymous(&mut d.anonymous.1, v),
    )
    .live(),
    set(
        "ssl_cert_login_from",
        "distinguished_name, common_name, subject_alternative_name",
        "distinguished_name",
        "what of a client certificate names the user of EXTERNAL",
        |d, _, v| {
            let words = [
                "distinguished_name",
                "common_name",
                "subject_alternative_name",
                "subject_alt_name",
            ];
            d.name_from.0 = value::one_of(v, &words)?;
            Ok(None)
        },
    )
    .live(),
    set(
        "ssl_cert_login_san_type",
        "dns, ip, email, uri, other_name",
        "dns",
        "which kind of alternative name",
        |d, _, v| {
            d.name_from.1 = match v {
                "dns" => AlternativeName::Dns,
                "ip" => AlternativeName::Ip,
                "email" => AlternativeName::Email,
                "uri" => AlternativeName::Uri,
                "other_name" => AlternativeName::Other,
                _ => return Err("dns, ip, email, uri or other_name".to_owned()),
            };
            Ok(None)
        },
    )
    .live(),
    set(
        "ssl_cert_login_san_index",
        "count",
        "0",
        "which of them",
        |d, _, v| {
            d.name_from.2 = value::number_u16(v)?.into();
            Ok(None)
        },
    )
    .live(),
    set(
        "auth_backends.$n",
        "internal",
        "internal",
        "who checks logins: the broker's own users only",
        |_, _, v| {
            value::one_of(v, &["internal", "rabbit_auth_backend_internal"])
                .map(|_| None)
                .map_err(|_| "internal: the other backends are not served yet".to_owned())
        },
    ),
    refused("auth_backends.$n.*", OWN_USERS),
    ignored("auth_oauth2.*", OWN_USERS),
    ignored("auth_ldap.*", OWN_USERS),
    ignored("auth_http.*", OWN_USERS),
    ignored("auth_cache.*", OWN_USERS),
    set(
        "password_hashing_module",
        "rabbit_password_hashing_sha256, rabbit_password_hashing_sha512",
        "rabbit_password_hashing_sha256",
        "how passwords set by the API and the commands are hashed; hashes of the other kind, and of MD5, keep working",
        |d, _, v| match Hashing::from_name(v) {
            Some(hashing) if hashing != Hashing::Md5 => {
                d.config.passwords.hashing = hashing;
                Ok(None)
            }
            _ => Err("rabbit_password_hashing_sha256 or rabbit_password_hashing_sha512".to_owned()),
        },
    ),
    set(
        "credential_validator.validation_backend",
        "rabbit_credential_validator_accept_everything, …_min_password_length, …_password_regexp",
        "rabbit_credential_validator_accept_everything",
        "what passwords set by the API and the commands must be like",
        |d, _, v| {
            let name = v.trim_start_matches("rabbit_credential_validator_");
            let known = [
                "accept_everything",
                "min_password_length",
                "password_regexp",
            ];
            d.validator.0 = value::one_of(name, &known)?;
            Ok(None)
        },
    ),
    set(
        "credential_validator.min_length",
        "bytes",
        "1",
        "for min_password_length: how long at least",
        |d, _, v| {
            d.validator.1 = value::number(v, 1, 65_535)?;
            Ok(None)
        },
    ),
    set(
        "credential_validator.regexp",
        "regex",
        "",
        "for password_regexp: what must be found in it",
        |d, _, v| {
            fancy_regex::Regex::new(v).map_err(|_| "a regular expression".to_owned())?;
            v.clone_into(&mut d.validator.2);
            Ok(None)
        },
    ),
    refused("credential_validator.*", "there is no such choice here"),
];

fn pattern(field: &mut String, value: &str) -> Result<Remark, Expected> {
    regex::Regex::new(value).map_err(|_| "a regular expression".to_owned())?;
    value.clone_into(field);
    Ok(None)
}

fn member(list: &mut Vec<String>, name: &str, on: bool) -> Result<Remark, Expected> {
    list.retain(|other| other != name);
    if on {
        list.push(name.to_owned());
    }
    Ok(None)
}

fn mechanism(d: &mut Draft, name: &str, v: &str) -> Result<Remark, Expected> {
    let order = name.parse().unwrap_or(u64::MAX);
    let offered = match v {
        "PLAIN" | "AMQPLAIN" | "ANONYMOUS" | "EXTERNAL" => Some(v.to_owned()),
        "RABBIT-CR-DEMO" => None,
        _ => return Err("PLAIN, AMQPLAIN, ANONYMOUS or EXTERNAL".to_owned()),
    };
    let remark = offered
        .is_none()
        .then_some("this mechanism is a demonstration of RabbitMQ's, it is not offered");
    d.mechanisms.insert((order, name.to_owned()), offered);
    Ok(remark)
}

fn anonymous(field: &mut Option<String>, value: &str) -> Result<Remark, Expected> {
    *field = (value != "none").then(|| value.to_owned());
    Ok(None)
}

/// The three keys put together.
pub(in crate::config) fn name_from(from: &str, kind: AlternativeName, index: usize) -> NameFrom {
    match from {
        "common_name" => NameFrom::CommonName,
        "subject_alternative_name" | "subject_alt_name" => NameFrom::AlternativeName(kind, index),
        _ => NameFrom::DistinguishedName,
    }
}
