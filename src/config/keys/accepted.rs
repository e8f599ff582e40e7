//! Keys of RabbitMQ that images, operators and tutorials write and that have no meaning here, and the few whose meaning
//! could not be passed over.

use super::http::REST;
use super::{Key, ignored, refused};

const ERLANG: &str = "it tunes Erlang or RabbitMQ's own storage; there is nothing to tune here";
const NO_PROTOCOL: &str = "only AMQP 0-9-1 is served";
const NO_PLUGIN: &str = "it configures a plugin that is not served";
const PLACED: &str = "the broker places queues itself";

pub(super) static KEYS: &[Key] = &[
    ignored("vm_memory_high_watermark_paging_ratio", ERLANG),
    ignored("queue_leader_locator", PLACED),
    ignored("queue_master_locator", PLACED),
    ignored(
        "quorum_queue.*",
        "every durable queue is replicated the same way",
    ),
    ignored(
        "raft.*",
        "the log has keys of its own: leveret.segment_size",
    ),
    ignored("classic_queue.*", ERLANG),
    refused("stream.listeners.*", "the stream protocol is not served"),
    ignored("stream.*", "the stream protocol is not served"),
    ignored("queue_index_embed_msgs_below", ERLANG),
    ignored("queue_index_max_journal_entries", ERLANG),
    ignored("msg_store_file_size_limit", ERLANG),
    ignored("msg_store_credit_disc_bound.*", ERLANG),
    ignored("credit_flow_default_credit.*", ERLANG),
    ignored("mirroring_sync_batch_size", ERLANG),
    ignored("mirroring_sync_max_throughput", ERLANG),
    ignored("mirroring_flow_control", ERLANG),
    ignored("delegate_count", ERLANG),
    ignored("background_gc_enabled", ERLANG),
    ignored("background_gc_target_interval", ERLANG),
    ignored("hipe_compile", ERLANG),
    ignored("mnesia_table_loading_retry_timeout", ERLANG),
    ignored("mnesia_table_loading_retry_limit", ERLANG),
    ignored("metadata_store.*", ERLANG),
    ignored("net_ticktime", ERLANG),
    ignored("distribution.*", ERLANG),
    ignored("sysmon_handler.*", ERLANG),
    ignored("erlang.*", ERLANG),
    ignored("collect_statistics", ERLANG),
    ignored("collect_statistics_interval", ERLANG),
    ignored("cluster_keepalive_interval", ERLANG),
    ignored("default_worker_pool_size", ERLANG),
    ignored("message_store_shutdown_timeout", ERLANG),
    ignored("msg_store_shutdown_timeout", ERLANG),
    ignored("socket_writer.gc_threshold", ERLANG),
    ignored("ranch_connection_max", ERLANG),
    ignored(
        "vhost_restart_strategy",
        "a vhost has no process that could end",
    ),
    ignored("motd_file", "the start shows no banner"),
    ignored("product.*", "`leveret.product` is the key for it"),
    ignored("ssl_allow_poodle_attack", "SSL 3 is not served"),
    ignored("ssl_options", "a listener's TLS is what its keys say"),
    ignored("tcp_listen_options", "its sockets are what their keys say"),
    ignored("runtime_parameters.limits.*", "parameters are not counted"),
    ignored(
        "aws.*",
        "peers are found by a list (classic_config) or by DNS only",
    ),
    ignored("event_exchange.*", NO_PLUGIN),
    ignored("tracing.*", NO_PLUGIN),
    refused(
        "trust_store.*",
        "clients' certificates are verified by `ssl_options.cacertfile` alone",
    ),
    refused(
        "message_interceptors.*",
        "of the interceptors only the three stamps are there",
    ),
    ignored(
        "cluster_partition_handling",
        "a minority never serves, as with quorum queues",
    ),
    ignored(
        "cluster_partition_handling.*",
        "a minority never serves, as with quorum queues",
    ),
    ignored(
        "deprecated_features.permit.*",
        "it names a feature of RabbitMQ",
    ),
    refused("mqtt.listeners.*", NO_PROTOCOL),
    refused("stomp.listeners.*", NO_PROTOCOL),
    ignored("mqtt.*", NO_PROTOCOL),
    ignored("stomp.*", NO_PROTOCOL),
    ignored("amqp1_0.*", NO_PROTOCOL),
    ignored("web_mqtt.*", NO_PROTOCOL),
    ignored("web_stomp.*", NO_PROTOCOL),
    REST[0],
    REST[1],
    REST[2],
    REST[3],
];
