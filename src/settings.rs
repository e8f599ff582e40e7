//! From the configuration to what a node is started with.

use crate::amqp::{AMQPValue, FieldTable, LongString};
use crate::base::Millis;
use crate::broker::alarm::total_memory_bytes;
use crate::broker::listener::Entry;
use crate::broker::{Access, ObjectLimits};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Patience;
use crate::config::{Config, Loaded, Threshold};
use crate::doors::TlsFiles;
use crate::http::control::About;
use crate::http::{ApiOptions, Names};
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
            cluster_id: String::new(),
            version: own("version"),
            product: own("product"),
            default_queue_type: config.default_queue_type.clone(),
            cluster_tags: config.tags[0].clone(),
            node_tags: config.tags[1].clone(),
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
            api: ApiOptions {
                body_bytes_max: usize::try_from(config.management_body_max).unwrap_or(usize::MAX),
                passwords: config.passwords.clone(),
                vhosts_max: config.vhosts_max,
                vhost_defaults: config.vhost_defaults.clone(),
                front: config.front.clone(),
                config_files: Vec::new(),
                log_files: Vec::new(),
                target_size: config.cluster.target_size,
            },
            shovels_predeclared: config.shovels_predeclared,
            metrics_options: config.prometheus_options.clone(),
            definitions: config.definitions.clone(),
            default_user: config.default_user.clone(),
            default_pass: config.default_pass.clone(),
            default_tags: config.default_user_tags.clone(),
            default_permissions: config.default_permissions.clone(),
            default_vhost: config.default_vhost.clone(),
            default_queue_type: config.default_queue_type.clone(),
            access: access(config, session),
            objects: ObjectLimits {
                channels: config.objects.channels_per_node,
                queues: config.objects.queues,
                exchanges: config.objects.exchanges,
                relaxed_redeclaration: config.objects.relaxed_redeclaration,
            },
            queue_defaults: QueueDefaults {
                consumer_timeout: Millis(config.consumer_timeout_ms),
                quorum_delivery_limit: Some(QUORUM_DELIVERY_LIMIT),
                count_every_return: config.objects.count_every_return,
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
            cluster_name: config.cluster_name.clone(),
            names,
        }
    }
}

impl From<&Loaded> for Settings {
    fn from(loaded: &Loaded) -> Self {
        let mut settings = Self::from(&loaded.config);
        settings.api.config_files.clone_from(&loaded.files);
        settings.api.log_files = log_files(&loaded.config);
        settings
    }
}

/// What the node says of itself before it serves. No secret is in it.
#[must_use]
pub fn about(loaded: &Loaded) -> About {
    let config = &loaded.config;
    let names = Settings::from(config).names;
    let addresses = |all: &[SocketAddr]| all.iter().map(ToString::to_string).collect::<Value>();
    let watermark = match config.memory_high_watermark {
        Threshold::Relative(part) => json!({"relative": part}),
        Threshold::Absolute(bytes) => json!({"absolute": bytes}),
    };
    let environment = json!({
        "auth_mechanisms": config.auth_mechanisms,
        "channel_max": config.channel_max,
        "cluster_name": config.cluster_name.as_ref().unwrap_or(&config.node_name),
        "consumer_timeout": config.consumer_timeout_ms,
        "data_dir": config.data_dir,
        "default_queue_type": config.default_queue_type,
        "default_user": config.default_user,
        "default_user_tags": config.default_user_tags,
        "default_vhost": config.default_vhost,
        "frame_max": config.frame_max,
        "handshake_timeout": config.handshake_timeout_ms,
        "heartbeat": config.heartbeat_s,
        "loopback_users": config.loopback_users,
        "max_message_size": config.max_message_size,
        "tcp_listeners": addresses(&config.listeners),
        "vm_memory_high_watermark": watermark,
    });
    let variables = std::env::vars().filter(|(name, _)| name.starts_with("RABBITMQ_"));
    let shown = variables.map(|(name, value)| {
        let secret = ["PASS", "COOKIE", "SECRET"];
        let hidden = secret.iter().any(|word| name.contains(word));
        (
            name,
            Value::from(if hidden { "(hidden)" } else { value.as_str() }),
        )
    });
    About {
        node: config.node_name.clone(),
        data_dir: config.data_dir.clone(),
        config_files: loaded.files.clone(),
        log_files: log_files(config),
        version: names.version,
        product: names.product,
        memory_high_watermark: watermark.clone(),
        environment,
        variables: Value::Object(shown.collect()),
    }
}

/// Where the log goes, as RabbitMQ's commands say it.
fn log_files(config: &Config) -> Vec<String> {
    let console = config.log_console.then(|| "<stdout>".to_owned());
    let file = config.log_file.as_ref();
    let file = file.map(|file| file.path.display().to_string());
    console.into_iter().chain(file).collect()
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
        frame_max_initial: config.frame_max_initial,
        heartbeat_s: config.heartbeat_s,
        max_message_size: config.max_message_size,
        consumer_max_per_channel: config.consumer_max_per_channel,
        stamps: config.stamps,
        node_name: config.node_name.clone(),
        handshake_timeout: Millis(config.handshake_timeout_ms),
        ..SessionConfig::default()
    };
    let own = [
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
