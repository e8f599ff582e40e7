//! From the configuration to what a node is started with.

use crate::amqp::{AMQPValue, FieldTable, LongString};
use crate::base::Millis;
use crate::broker::Access;
use crate::broker::alarm::total_memory_bytes;
use crate::broker::listener::Entry;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Patience;
use crate::config::Config;
use crate::doors::TlsFiles;
use crate::http::Names;
use crate::model::topology::QueueDefaults;
use crate::node::Settings;
use crate::session::SessionConfig;

/// Delivery limit of quorum queues (RabbitMQ 4.0 and later).
const QUORUM_DELIVERY_LIMIT: u32 = 20;

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let memory = config.total_memory_bytes.unwrap_or_else(total_memory_bytes);
        let session = session(config);
        let own = |key: &str| word(&session.server_properties, key);
        let names = Names {
            node: config.node_name.clone(),
            cluster: config.cluster_name.clone(),
            version: own("version"),
            product: own("product"),
            default_queue_type: config.default_queue_type.clone(),
        };
        Self {
            data_dir: config.data_dir.clone(),
            listeners: config.listeners.clone(),
            tls_listeners: config.tls_listeners.clone(),
            entry: Entry {
                tls: None,
                proxy: config.proxy_protocol,
                tls_timeout: Duration::from_millis(config.tls_handshake_timeout_ms),
                proxy_timeout: Duration::from_millis(config.handshake_timeout_ms),
                socket: config.socket,
            },
            metrics: config.prometheus,
            management: config.management,
            tls: TlsFiles {
                amqp: config.tls.clone(),
                management: config.management_tls.clone(),
                metrics: config.prometheus_tls.clone(),
            },
            definitions: config.definitions.clone(),
            default_user: config.default_user.clone(),
            default_pass: config.default_pass.clone(),
            default_tags: config.default_user_tags.clone(),
            default_permissions: config.default_permissions.clone(),
            default_vhost: config.default_vhost.clone(),
            default_queue_type: config.default_queue_type.clone(),
            access: access(config, session),
            queue_defaults: QueueDefaults {
                consumer_timeout: Millis(config.consumer_timeout_ms),
                quorum_delivery_limit: Some(QUORUM_DELIVERY_LIMIT),
            },
            memory_limit_bytes: config.memory_high_watermark.bytes(memory),
            disk_free_limit_bytes: config.disk_free_limit.bytes(memory),
            segment_bytes: config.segment_bytes,
            snapshot_every_bytes: config.snapshot_every_bytes,
            patience: Patience {
                leases: Duration::from_millis(config.consumer_disconnected_timeout_ms),
                replicas: Duration::from_secs(config.cluster.replace_after_s),
            },
            cluster: config.cluster.clone(),
            names,
        }
    }
}

fn access(config: &Config, session: SessionConfig) -> Access {
    // A certificate can only be shown under TLS.
    let plain = config
        .auth_mechanisms
        .iter()
        .filter(|name| **name != "EXTERNAL");
    let plain: Vec<&str> = plain.map(String::as_str).collect();
    Access {
        session: Arc::new(SessionConfig {
            mechanisms: plain.join(" "),
            ..session.clone()
        }),
        session_tls: Arc::new(session),
        loopback_users: config.loopback_users.clone(),
        connections_max: config.max_connections,
        anonymous: config.anonymous.clone(),
        name_from: config.name_from,
    }
}

fn session(config: &Config) -> SessionConfig {
    let mut session = SessionConfig {
        mechanisms: config.auth_mechanisms.join(" "),
        channel_max: config.channel_max,
        frame_max: config.frame_max,
        heartbeat_s: config.heartbeat_s,
        max_message_size: config.max_message_size,
        consumer_max_per_channel: config.consumer_max_per_channel,
        handshake_timeout: Millis(config.handshake_timeout_ms),
        ..SessionConfig::default()
    };
    let own = [
        ("cluster_name", Some(&config.cluster_name)),
        ("product", config.product.as_ref()),
        ("version", config.version.as_ref()),
    ];
    for (key, value) in own {
        if let Some(value) = value {
            let value = AMQPValue::LongString(LongString::from(value.as_str()));
            session.server_properties.insert(key.into(), value);
        }
    }
    session
}

fn word(table: &FieldTable, key: &str) -> String {
    match table.inner().get(key) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => String::new(),
    }
}
