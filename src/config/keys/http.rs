//! The management API's and Prometheus's listeners.
//!
//! As in RabbitMQ, a TLS listener that is named replaces the plain one, unless that is named too.

use axum::http::{HeaderName, HeaderValue};

use super::super::value::{self, Expected};
use super::network::{MANAGEMENT as M, PROMETHEUS as P};
use super::{Key, Remark, ignored, set};
use crate::config::draft::Draft;

/// A body is held in memory while it is read.
const BODY_CEILING_BYTES: u64 = 1 << 30;

const HTTP_API: &str = "the management API is served without this choice";
const SUMS: &str = "sums cost the same with any number of queues; RabbitMQ ignores it since 4.0";

fn ip(v: &str) -> Result<std::net::IpAddr, Expected> {
    v.parse().map_err(|_| "an IP address".to_owned())
}

/// A path without its last `/`; the root is empty.
fn path(v: &str) -> Result<String, Expected> {
    let path = v.trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
    let good = path.is_empty() || path.starts_with('/');
    match good && path.chars().all(plain) && !path.contains("//") {
        true => Ok(path.to_owned()),
        false => Err("a path that begins with `/`".to_owned()),
    }
}

fn answers_with(d: &mut Draft, name: &'static str, v: &str) -> Result<Remark, Expected> {
    let value = HeaderValue::from_str(v).map_err(|_| "what a header may hold".to_owned())?;
    let headers = &mut d.config.front.headers;
    headers.retain(|(other, _)| other != name);
    headers.push((HeaderName::from_static(name), value));
    Ok(None)
}

pub(super) static MANAGEMENT: &[Key] = &[
    set(
        "management.tcp.port",
        "port",
        "15672",
        "port of the management API",
        |d, _, v| {
            d.web[M].plain.0 = Some(value::number_u16(v)?);
            Ok(None)
        },
    ),
    set(
        "management.tcp.ip",
        "ip",
        "::",
        "its address; `::` is every address, of IPv4 too",
        |d, _, v| {
            d.web[M].plain.1 = Some(ip(v)?);
            Ok(None)
        },
    ),
    set(
        "management.listener.port",
        "port",
        "15672",
        "an older name of `management.tcp.port`",
        |d, _, v| {
            d.web[M].plain.0 = Some(value::number_u16(v)?);
            Ok(None)
        },
    ),
    set(
        "management.listener.ip",
        "ip",
        "::",
        "an older name of `management.tcp.ip`",
        |d, _, v| {
            d.web[M].plain.1 = Some(ip(v)?);
            Ok(None)
        },
    ),
    set(
        "management.listener.ssl",
        "false",
        "false",
        "TLS has keys of its own, `management.ssl.*`",
        |_, _, v| match value::switch(v)? {
            false => Ok(None),
            true => Err(
                "false; `management.ssl.port` and its certificate are the keys for TLS".to_owned(),
            ),
        },
    ),
    set(
        "management.ssl.port",
        "port",
        "15671",
        "port of the management API under TLS; served if any key of its TLS is set",
        |d, _, v| {
            d.web[M].tls.0 = Some(value::number_u16(v)?);
            Ok(None)
        },
    ),
    set("management.ssl.ip", "ip", "::", "its address", |d, _, v| {
        d.web[M].tls.1 = Some(ip(v)?);
        Ok(None)
    }),
    set(
        "management.http.max_body_size",
        "bytes",
        "10000000",
        "largest body of a request",
        |d, _, v| {
            d.config.management_body_max = value::bytes_within(v, 1, BODY_CEILING_BYTES)?;
            Ok(None)
        },
    ),
    set(
        "management.path_prefix",
        "path",
        "",
        "what stands before `/api`",
        |d, _, v| {
            d.config.front.prefix = path(v)?;
            Ok(None)
        },
    ),
    set(
        "management.login_session_timeout",
        "minutes",
        "",
        "how long a user interface keeps a login",
        |d, _, v| {
            d.config.front.session_minutes = Some(value::number_u32(v, 1)?);
            Ok(None)
        },
    ),
    set(
        "management.cors.allow_origins",
        "none",
        "none",
        "no page of another origin may ask",
        |d, _, v| {
            value::one_of(v, &["none"])?;
            d.config.front.origins.clear();
            Ok(None)
        },
    ),
    set(
        "management.cors.allow_origins.$n",
        "origin, or *",
        "",
        "an origin whose pages may ask, with credentials",
        |d, _, v| {
            d.config.front.origins.push(v.to_owned());
            Ok(None)
        },
    ),
    set(
        "management.cors.max_age",
        "s",
        "",
        "how long a browser may remember which origins may",
        |d, _, v| {
            d.config.front.origins_max_age_s = Some(value::number_u32(v, 0)?);
            Ok(None)
        },
    ),
    set(
        "management.csp.policy",
        "text",
        "",
        "`Content-Security-Policy`, in place of the usual one",
        |d, _, v| answers_with(d, "content-security-policy", v),
    ),
    set(
        "management.hsts.policy",
        "text",
        "",
        "`Strict-Transport-Security`",
        |d, _, v| answers_with(d, "strict-transport-security", v),
    ),
    set(
        "management.headers.$name",
        "text",
        "",
        "`X-Content-Type-Options`, `X-XSS-Protection`, `X-Frame-Options`, by `content_type_options`, `xss_protection`, \
         `frame_options`",
        |d, name, v| match name {
            "content_type_options" => answers_with(d, "x-content-type-options", v),
            "xss_protection" => answers_with(d, "x-xss-protection", v),
            "frame_options" => answers_with(d, "x-frame-options", v),
            _ => Err("content_type_options, xss_protection or frame_options".to_owned()),
        },
    ),
    set(
        "management.disable_basic_auth",
        "switch",
        "false",
        "nobody is let in by HTTP Basic; there is no other way in yet but for the checks that need none",
        |d, _, v| {
            d.config.front.without_basic = value::switch(v)?;
            Ok(None)
        },
    ),
    set(
        "management.disable_stats",
        "switch",
        "false",
        "lists are as with `disable_stats=true`",
        |d, _, v| {
            d.config.front.without_stats = value::switch(v)?;
            Ok(None)
        },
    ),
    set(
        "management.enable_queue_totals",
        "switch",
        "false",
        "and of queues as with `enable_queue_totals=true`",
        |d, _, v| {
            d.config.front.queue_totals = value::switch(v)?;
            Ok(None)
        },
    ),
    set(
        "management.restrictions.operator_policy_changes.disabled",
        "switch",
        "false",
        "operator policies may only be looked at (405)",
        |d, _, v| {
            d.config.front.operator_policies_fixed = value::switch(v)?;
            Ok(None)
        },
    ),
    set(
        "management.load_definitions",
        "file",
        "",
        "an older name of `load_definitions`",
        |d, _, v| {
            d.config.definitions = Some(v.into());
            Ok(None)
        },
    ),
];

pub(super) static PROMETHEUS: &[Key] = &[
    set(
        "prometheus.tcp.port",
        "port",
        "15692",
        "port of the metrics",
        |d, _, v| {
            d.web[P].plain.0 = Some(value::number_u16(v)?);
            Ok(None)
        },
    ),
    set("prometheus.tcp.ip", "ip", "::", "its address", |d, _, v| {
        d.web[P].plain.1 = Some(ip(v)?);
        Ok(None)
    }),
    set(
        "prometheus.ssl.port",
        "port",
        "15691",
        "port of the metrics under TLS; served if any key of its TLS is set",
        |d, _, v| {
            d.web[P].tls.0 = Some(value::number_u16(v)?);
            Ok(None)
        },
    ),
    set("prometheus.ssl.ip", "ip", "::", "its address", |d, _, v| {
        d.web[P].tls.1 = Some(ip(v)?);
        Ok(None)
    }),
    set(
        "prometheus.return_per_object_metrics",
        "switch",
        "false",
        "whether `/metrics` has a line per queue, channel and connection, as `/metrics/per-object`",
        |d, _, v| {
            d.config.prometheus_options.per_object = value::switch(v)?;
            Ok(None)
        },
    ),
    set(
        "prometheus.path",
        "path",
        "/metrics",
        "where the sums are; `per-object`, `detailed`, `memory-breakdown` are below it",
        |d, _, v| {
            d.config.prometheus_options.path = path(v)?;
            Ok(None)
        },
    ),
    set(
        "prometheus.authentication.enabled",
        "switch",
        "false",
        "only users with the tag `monitoring` may read metrics, by HTTP Basic",
        |d, _, v| {
            d.config.prometheus_options.authenticated = value::switch(v)?;
            Ok(None)
        },
    ),
    ignored("prometheus.filter_aggregated_queue_metrics_pattern", SUMS),
];

/// What is left of both prefixes; after every exact key.
pub(super) const REST: [Key; 4] = [
    ignored("management.*", HTTP_API),
    ignored("management_agent.*", HTTP_API),
    ignored("prometheus.*", "metrics are served without this choice"),
    ignored("ssl_options.*", "rustls has no such choice"),
];
