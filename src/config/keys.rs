//! The table of keys: what each means, its unit, its default, and what is done with it.
//!
//! In a pattern `$n` stands for one segment of the caller's choice, a last `*` for one or more. The first pattern that
//! matches decides, so an exact key stands before the pattern that would also take it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::value::{self, Expected};
use super::{ANY, Config, LogFormat, MANAGEMENT_PORT, PROMETHEUS_PORT, Threshold};
use super::{bounds, cluster};

/// A configuration while its sources are read.
#[derive(Debug)]
pub struct Draft {
    /// What is known so far.
    pub config: Config,
    listeners: BTreeMap<String, String>,
    no_listeners: bool,
    mechanisms: BTreeMap<(u64, String), Option<String>>,
    prometheus: (Option<u16>, Option<std::net::IpAddr>),
    management: (Option<u16>, Option<std::net::IpAddr>),
    tags_named: bool,
    pub(super) cluster: cluster::Written,
    /// Where a listener that names only a port listens.
    pub node_ip: std::net::IpAddr,
    /// Port used when no listener is named.
    pub node_port: u16,
}

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
    /// What it does.
    pub effect: Effect,
}

pub(super) const fn set(
    pattern: &'static str,
    unit: &'static str,
    default: &'static str,
    f: Setter,
) -> Key {
    Key {
        pattern,
        unit,
        default,
        effect: Effect::Set(f),
    }
}
pub(super) const fn ignored(pattern: &'static str, why: &'static str) -> Key {
    Key {
        pattern,
        unit: "any",
        default: "",
        effect: Effect::Ignored(why),
    }
}
const fn refused(pattern: &'static str, why: &'static str) -> Key {
    Key {
        pattern,
        unit: "none",
        default: "",
        effect: Effect::Refused(why),
    }
}

const ERLANG: &str = "it tunes Erlang or RabbitMQ's own storage; there is nothing to tune here";
const HTTP_API: &str = "the management API is served without this choice";
const NO_TLS: &str = "TLS is not served yet";
const NO_PROTOCOL: &str = "only AMQP 0-9-1 is served";
const NO_DEFINITIONS: &str = "definitions are not imported yet";
const NO_FILE: &str = "log lines go to standard output only";
const LATER: &str = "not served yet";

/// Every key.
pub fn all() -> impl Iterator<Item = &'static Key> {
    bounds::KEYS.iter().chain(KEYS).chain(cluster::KEYS)
}

/// Every key but those about peers.
static KEYS: &[Key] = &[
    set("listeners.tcp", "none", "", |d, _, v| {
        value::one_of(v, &["none"])?;
        d.no_listeners = true;
        Ok(None)
    }),
    set(
        "listeners.tcp.$n",
        "port, or ip:port",
        "5672",
        |d, name, v| {
            value::address(v, ANY)?;
            d.listeners.insert(name.to_owned(), v.to_owned());
            Ok(None)
        },
    ),
    set("listeners.ssl", "none", "none", |_, _, v| {
        value::one_of(v, &["none"])
            .map(|_| None)
            .map_err(|_| "none: TLS is not served yet".into())
    }),
    refused("listeners.ssl.$n", NO_TLS),
    ignored("ssl_options.*", NO_TLS),
    ignored("ssl_handshake_timeout", NO_TLS),
    ignored("ssl_cert_login_from", NO_TLS),
    ignored("ssl_cert_login_san_type", NO_TLS),
    ignored("ssl_cert_login_san_index", NO_TLS),
    ignored("num_acceptors.*", ERLANG),
    ignored(
        "tcp_listen_options.*",
        "the broker chooses its socket options itself",
    ),
    set("proxy_protocol", "switch", "false", |_, _, v| {
        if value::switch(v)? {
            Err("false: the PROXY protocol is not spoken yet".into())
        } else {
            Ok(None)
        }
    }),
    ignored("reverse_dns_lookups", LATER),
    set("handshake_timeout", "ms", "10000", |d, _, v| {
        d.config.handshake_timeout_ms = value::number(v, 1, u64::from(u32::MAX))?;
        Ok(None)
    }),
    set("default_user", "name", "guest", |d, _, v| {
        text(&mut d.config.default_user, v)
    }),
    set("default_pass", "password", "guest", |d, _, v| {
        text(&mut d.config.default_pass, v)
    }),
    set("default_vhost", "name", "/", |d, _, v| {
        text(&mut d.config.default_vhost, v)
    }),
    set(
        "default_user_tags.$tag",
        "switch",
        "administrator = true",
        |d, tag, v| {
            let on = value::switch(v)?;
            // The first tag named replaces the default ones.
            if !std::mem::replace(&mut d.tags_named, true) {
                d.config.default_user_tags.clear();
            }
            member(&mut d.config.default_user_tags, tag, on)
        },
    ),
    set("default_permissions.configure", "regex", ".*", |d, _, v| {
        pattern(&mut d.config.default_permissions[0], v)
    }),
    set("default_permissions.write", "regex", ".*", |d, _, v| {
        pattern(&mut d.config.default_permissions[1], v)
    }),
    set("default_permissions.read", "regex", ".*", |d, _, v| {
        pattern(&mut d.config.default_permissions[2], v)
    }),
    ignored("default_users.*", LATER),
    ignored("default_limits.*", LATER),
    ignored("default_policies.*", LATER),
    set("loopback_users", "none", "", |d, _, v| {
        value::one_of(v, &["none"])?;
        d.config.loopback_users.clear();
        Ok(None)
    }),
    set(
        "loopback_users.$user",
        "switch",
        "guest = true",
        |d, user, v| member(&mut d.config.loopback_users, user, value::switch(v)?),
    ),
    ignored("anonymous_login_user", "ANONYMOUS is not offered"),
    ignored("anonymous_login_pass", "ANONYMOUS is not offered"),
    set(
        "auth_mechanisms.$n",
        "SASL mechanism",
        "PLAIN, AMQPLAIN",
        mechanism,
    ),
    set("auth_backends.$n", "backend", "internal", backend),
    refused(
        "auth_backends.$n.*",
        "logins are checked against the broker's own users only",
    ),
    ignored(
        "password_hashing_module",
        "passwords are hashed with salted SHA-256",
    ),
    refused("credential_validator.*", "passwords are not validated yet"),
    set("heartbeat", "s", "60", |d, _, v| {
        d.config.heartbeat_s = value::number_u16(v)?;
        Ok(None)
    }),
    set("frame_max", "bytes", "131072", |d, _, v| {
        let n = value::number_u32(v, 0)?;
        if (1..4096).contains(&n) {
            return Err("0, or bytes from 4096".to_owned());
        }
        d.config.frame_max = n;
        Ok(None)
    }),
    ignored(
        "initial_frame_max",
        "frames before connection.tune have a bound of their own",
    ),
    set("channel_max", "count", "2047", channel_max),
    set("max_channels_per_connection", "count", "2047", channel_max),
    ignored("session_max_per_connection", NO_PROTOCOL),
    ignored("link_max_per_session", NO_PROTOCOL),
    set(
        "consumer_max_per_channel",
        "count, or infinity",
        "infinity",
        |d, _, v| {
            d.config.consumer_max_per_channel = value::limit(v)?;
            Ok(None)
        },
    ),
    set(
        "max_connections",
        "count, or infinity",
        "infinity",
        max_connections,
    ),
    set(
        "connection_max",
        "count, or infinity",
        "infinity",
        max_connections,
    ),
    ignored("vhost_max", LATER),
    set("max_message_size", "bytes", "16777216", |d, _, v| {
        let most = crate::base::limits::BODY_SIZE_CEILING_BYTES;
        d.config.max_message_size = value::bytes_within(v, 1, most)?;
        Ok(None)
    }),
    set("consumer_timeout", "ms", "1800000", |d, _, v| {
        d.config.consumer_timeout_ms = value::number(v, 1, u64::from(u32::MAX))?;
        Ok(None)
    }),
    set("consumer_disconnected_timeout", "ms", "60000", |d, _, v| {
        d.config.consumer_disconnected_timeout_ms = value::number(v, 1, u64::from(u32::MAX))?;
        Ok(None)
    }),
    set(
        "vm_memory_high_watermark.relative",
        "part of memory",
        "0.6",
        |d, _, v| {
            d.config.memory_high_watermark = value::part(v, 1.0)?;
            Ok(None)
        },
    ),
    set(
        "vm_memory_high_watermark.absolute",
        "bytes",
        "",
        |d, _, v| {
            d.config.memory_high_watermark = Threshold::Absolute(value::bytes(v)?);
            Ok(None)
        },
    ),
    set(
        "total_memory_available_override_value",
        "bytes",
        "",
        |d, _, v| {
            d.config.total_memory_bytes = Some(value::bytes_within(v, 1, u64::MAX)?);
            Ok(None)
        },
    ),
    ignored("vm_memory_high_watermark_paging_ratio", ERLANG),
    ignored(
        "vm_memory_calculation_strategy",
        "resident memory is what counts",
    ),
    ignored(
        "memory_monitor_interval",
        "the broker chooses its interval itself",
    ),
    set("disk_free_limit.absolute", "bytes", "50MB", |d, _, v| {
        d.config.disk_free_limit = Threshold::Absolute(value::bytes(v)?);
        Ok(None)
    }),
    set("disk_free_limit.relative", "times memory", "", |d, _, v| {
        d.config.disk_free_limit = value::part(v, 100.0)?;
        Ok(None)
    }),
    set(
        "default_queue_type",
        "classic, quorum, stream",
        "classic",
        |d, _, v| {
            d.config.default_queue_type = value::one_of(v, &["classic", "quorum", "stream"])?;
            Ok(None)
        },
    ),
    ignored("queue_leader_locator", "the broker places queues itself"),
    ignored("queue_master_locator", "the broker places queues itself"),
    ignored(
        "quorum_queue.*",
        "every durable queue is replicated the same way",
    ),
    ignored(
        "raft.*",
        "the log has keys of its own: leveret.segment_size",
    ),
    ignored("classic_queue.*", ERLANG),
    ignored("queue_index_embed_msgs_below", ERLANG),
    ignored("msg_store_file_size_limit", ERLANG),
    ignored("msg_store_credit_disc_bound.*", ERLANG),
    ignored("mirroring_sync_batch_size", ERLANG),
    ignored("mirroring_sync_max_throughput", ERLANG),
    ignored("mirroring_flow_control", ERLANG),
    ignored("delegate_count", ERLANG),
    ignored("background_gc_enabled", ERLANG),
    ignored("background_gc_target_interval", ERLANG),
    ignored("hipe_compile", ERLANG),
    ignored("mnesia_table_loading_retry_timeout", ERLANG),
    ignored("mnesia_table_loading_retry_limit", ERLANG),
    ignored("net_ticktime", ERLANG),
    ignored("distribution.*", ERLANG),
    ignored("sysmon_handler.*", ERLANG),
    ignored("erlang.*", ERLANG),
    ignored("collect_statistics", ERLANG),
    ignored("collect_statistics_interval", ERLANG),
    set("cluster_name", "name", "the node's name", |d, _, v| {
        text(&mut d.config.cluster_name, v)
    }),
    ignored("cluster_tags.*", LATER),
    ignored("node_tags.*", LATER),
    ignored(
        "cluster_partition_handling",
        "a minority never serves, as with quorum queues",
    ),
    ignored("cluster_keepalive_interval", ERLANG),
    refused("management.load_definitions", NO_DEFINITIONS),
    set("management.tcp.port", "port", "15672", |d, _, v| {
        d.management.0 = Some(value::number_u16(v)?);
        Ok(None)
    }),
    set("management.tcp.ip", "ip", "0.0.0.0", |d, _, v| {
        d.management.1 = Some(v.parse().map_err(|_| "an IP address".to_owned())?);
        Ok(None)
    }),
    ignored("management.*", HTTP_API),
    ignored("management_agent.*", HTTP_API),
    set("prometheus.tcp.port", "port", "15692", |d, _, v| {
        d.prometheus.0 = Some(value::number_u16(v)?);
        Ok(None)
    }),
    set("prometheus.tcp.ip", "ip", "0.0.0.0", |d, _, v| {
        d.prometheus.1 = Some(v.parse().map_err(|_| "an IP address".to_owned())?);
        Ok(None)
    }),
    ignored(
        "prometheus.*",
        "metrics are served at /metrics, without these choices",
    ),
    refused("load_definitions", NO_DEFINITIONS),
    refused("definitions.*", NO_DEFINITIONS),
    set("log.console", "switch", "true", |_, _, v| {
        Ok((!value::switch(v)?).then_some(NO_FILE))
    }),
    set("log.console.level", "level", "info", |d, _, v| level(d, v)),
    set(
        "log.console.formatter",
        "plaintext, json",
        "plaintext",
        |d, _, v| {
            let name = value::one_of(v, &["plaintext", "json"])?;
            d.config.log_format = if name == "json" {
                LogFormat::Json
            } else {
                LogFormat::Plain
            };
            Ok(None)
        },
    ),
    ignored("log.console.*", "lines have one form"),
    ignored("log.file", NO_FILE),
    ignored("log.file.*", NO_FILE),
    ignored("log.dir", NO_FILE),
    ignored("log.exchange", LATER),
    ignored("log.exchange.*", LATER),
    ignored("log.syslog", NO_FILE),
    ignored("log.syslog.*", NO_FILE),
    ignored("log.journald", NO_FILE),
    ignored("log.journald.*", NO_FILE),
    set("log.default.level", "level", "info", |d, _, v| level(d, v)),
    set("log.$category.level", "level", "", |d, category, v| {
        let level = value::level(v)?;
        d.config.log_categories.retain(|(name, _)| name != category);
        d.config.log_categories.push((category.to_owned(), level));
        Ok(None)
    }),
    ignored(
        "deprecated_features.permit.*",
        "it names a feature of RabbitMQ",
    ),
    ignored(
        "auth_oauth2.*",
        "logins are checked against the broker's own users only",
    ),
    ignored(
        "auth_ldap.*",
        "logins are checked against the broker's own users only",
    ),
    ignored(
        "auth_http.*",
        "logins are checked against the broker's own users only",
    ),
    ignored(
        "auth_cache.*",
        "logins are checked against the broker's own users only",
    ),
    refused("mqtt.listeners.*", NO_PROTOCOL),
    refused("stomp.listeners.*", NO_PROTOCOL),
    refused("stream.listeners.*", NO_PROTOCOL),
    ignored("mqtt.*", NO_PROTOCOL),
    ignored("stomp.*", NO_PROTOCOL),
    ignored("stream.*", NO_PROTOCOL),
    ignored("web_mqtt.*", NO_PROTOCOL),
    ignored("web_stomp.*", NO_PROTOCOL),
    set("leveret.data_dir", "folder", "./data", |d, _, v| {
        d.config.data_dir = v.into();
        Ok(None)
    }),
    set("leveret.product", "name", "", |d, _, v| {
        d.config.product = Some(v.to_owned());
        Ok(None)
    }),
    set("leveret.version", "version", "", |d, _, v| {
        d.config.version = Some(v.to_owned());
        Ok(None)
    }),
    set("leveret.segment_size", "bytes", "64MiB", |d, _, v| {
        d.config.segment_bytes = value::bytes_within(v, 1 << 20, 1 << 30)?;
        Ok(None)
    }),
    set("leveret.snapshot_every", "bytes", "256MiB", |d, _, v| {
        d.config.snapshot_every_bytes = value::bytes_within(v, 1 << 20, u64::MAX)?;
        Ok(None)
    }),
];

pub(super) fn text(field: &mut String, value: &str) -> Result<Remark, Expected> {
    if value.is_empty() {
        return Err("something that is not empty".to_owned());
    }
    value.clone_into(field);
    Ok(None)
}

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

fn level(d: &mut Draft, v: &str) -> Result<Remark, Expected> {
    d.config.log_level = value::level(v)?;
    Ok(None)
}

fn channel_max(d: &mut Draft, _: &str, v: &str) -> Result<Remark, Expected> {
    d.config.channel_max = value::number_u16(v)?;
    Ok(None)
}

fn max_connections(d: &mut Draft, _: &str, v: &str) -> Result<Remark, Expected> {
    d.config.max_connections = value::limit(v)?;
    Ok(None)
}

fn mechanism(d: &mut Draft, name: &str, v: &str) -> Result<Remark, Expected> {
    let order = name.parse().unwrap_or(u64::MAX);
    let offered = match v {
        "PLAIN" | "AMQPLAIN" => Some(v.to_owned()),
        "ANONYMOUS" | "EXTERNAL" | "RABBIT-CR-DEMO" => None,
        _ => return Err("PLAIN or AMQPLAIN".to_owned()),
    };
    let remark = offered
        .is_none()
        .then_some("this mechanism is not offered yet");
    d.mechanisms.insert((order, name.to_owned()), offered);
    Ok(remark)
}

fn backend(_: &mut Draft, _: &str, v: &str) -> Result<Remark, Expected> {
    value::one_of(v, &["internal", "rabbit_auth_backend_internal"])
        .map(|_| None)
        .map_err(|_| "internal: the other backends are not served yet".to_owned())
}

impl Draft {
    /// The defaults, for a node of this name.
    #[must_use]
    pub fn new(node_name: String) -> Self {
        Self {
            config: Config {
                cluster_name: node_name.clone(),
                node_name,
                ..Config::default()
            },
            listeners: BTreeMap::new(),
            no_listeners: false,
            mechanisms: BTreeMap::new(),
            prometheus: (None, None),
            management: (None, None),
            tags_named: false,
            cluster: cluster::Written::default(),
            node_ip: ANY,
            node_port: super::AMQP_PORT,
        }
    }

    /// The configuration; the listeners, mechanisms and peers named put together.
    ///
    /// # Errors
    /// A key and what it should have been: no mechanism is left to offer, or peers are named without a secret.
    pub fn finish(mut self) -> Result<Config, (&'static str, Expected)> {
        let (ip, port) = (self.node_ip, self.node_port);
        let cluster = self.cluster.finish(&self.config.node_name, ip, port);
        self.config.cluster = cluster.map_err(|expected| ("leveret.cluster.secret", expected))?;
        self.config.listeners = if self.listeners.is_empty() && !self.no_listeners {
            vec![SocketAddr::new(ip, port)]
        } else {
            let named = self.listeners.values();
            let mut all: Vec<_> = named.filter_map(|v| value::address(v, ip).ok()).collect();
            all.dedup();
            all
        };
        let (port, ip) = self.prometheus;
        let (port, ip) = (port.unwrap_or(PROMETHEUS_PORT), ip.unwrap_or(ANY));
        self.config.prometheus = Some(SocketAddr::new(ip, port));
        let (port, ip) = self.management;
        let (port, ip) = (port.unwrap_or(MANAGEMENT_PORT), ip.unwrap_or(ANY));
        self.config.management = Some(SocketAddr::new(ip, port));
        if !self.mechanisms.is_empty() {
            self.config.auth_mechanisms = self.mechanisms.into_values().flatten().collect();
        }
        if self.config.auth_mechanisms.is_empty() {
            let expected = "at least one of PLAIN and AMQPLAIN".to_owned();
            return Err(("auth_mechanisms", expected));
        }
        Ok(self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_defaults_are_the_defaults() {
        let mut draft = Draft::new("rabbit@localhost".to_owned());
        let mut set = 0;
        for row in all() {
            let plain = !row.pattern.contains('$') && !row.default.contains(' ');
            if let (Effect::Set(f), true) = (row.effect, plain && !row.default.is_empty()) {
                f(&mut draft, "", row.default).unwrap_or_else(|e| panic!("{}: {e}", row.pattern));
                set += 1;
            }
        }
        assert!(set > 15);
        assert_eq!(draft.finish().unwrap(), Config::default());
    }
}
