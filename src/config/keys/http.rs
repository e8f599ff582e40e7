//! The management API's and Prometheus's listeners.
//!
//! As in RabbitMQ, a TLS listener that is named replaces the plain one, unless that is named too.

use super::super::value::{self, Expected};
use super::network::{MANAGEMENT as M, PROMETHEUS as P};
use super::{Key, ignored, set};

/// A body is held in memory while it is read.
const BODY_CEILING_BYTES: u64 = 1 << 30;

const HTTP_API: &str = "the management API is served without this choice";

fn ip(v: &str) -> Result<std::net::IpAddr, Expected> {
    v.parse().map_err(|_| "an IP address".to_owned())
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
            d.config.prometheus_per_object = value::switch(v)?;
            Ok(None)
        },
    ),
];

/// What is left of both prefixes; after every exact key.
pub(super) const REST: [Key; 4] = [
    ignored("management.*", HTTP_API),
    ignored("management_agent.*", HTTP_API),
    ignored("prometheus.*", "metrics are served without this choice"),
    ignored("ssl_options.*", "rustls has no such choice"),
];
