//! What clients may use, what the node may use, and when publishers are stopped.

use super::super::draft::Draft;
use super::super::value::{self, Expected};
use super::super::{Threshold, keys};
use super::{Key, ignored, set};
use keys::Remark;

const NO_PROTOCOL: &str = "only AMQP 0-9-1 is served";

pub(super) static KEYS: &[Key] = &[
    set(
        "heartbeat",
        "s",
        "60",
        "heartbeat offered to clients; 0: none",
        |d, _, v| {
            d.config.heartbeat_s = value::number_u16(v)?;
            Ok(None)
        },
    )
    .live(),
    set(
        "frame_max",
        "bytes",
        "131072",
        "largest frame; 0: no limit",
        |d, _, v| {
            let n = value::number_u32(v, 0)?;
            if (1..4096).contains(&n) {
                return Err("0, or bytes from 4096".to_owned());
            }
            d.config.frame_max = n;
            Ok(None)
        },
    )
    .live(),
    set(
        "initial_frame_max",
        "bytes",
        "8192",
        "largest frame before connection.tune; a long token must fit in one",
        |d, _, v| {
            let n = value::number(v, 4096, 1 << 20)?;
            d.config.frame_max_initial = u32::try_from(n).unwrap_or(u32::MAX);
            Ok(None)
        },
    )
    .live(),
    set(
        "channel_max",
        "count",
        "2047",
        "channels of a connection; 0: no limit",
        channel_max,
    )
    .live(),
    set(
        "max_channels_per_connection",
        "count",
        "2047",
        "another name of `channel_max`",
        channel_max,
    )
    .live(),
    set(
        "consumer_max_per_channel",
        "count, or infinity",
        "infinity",
        "consumers of a channel",
        |d, _, v| {
            d.config.consumer_max_per_channel = value::limit(v)?;
            Ok(None)
        },
    )
    .live(),
    set(
        "max_connections",
        "count, or infinity",
        "infinity",
        "AMQP connections of the node",
        max_connections,
    )
    .live(),
    set(
        "connection_max",
        "count, or infinity",
        "infinity",
        "another name of `max_connections`",
        max_connections,
    )
    .live(),
    set(
        "max_message_size",
        "bytes",
        "16777216",
        "largest body, at most 536870912",
        |d, _, v| {
            let most = crate::base::limits::BODY_SIZE_CEILING_BYTES;
            d.config.max_message_size = value::bytes_within(v, 1, most)?;
            Ok(None)
        },
    )
    .live(),
    set(
        "consumer_timeout",
        "ms",
        "1800000",
        "longest lease of a delivery that has no other",
        |d, _, v| {
            d.config.consumer_timeout_ms = value::number(v, 1, u64::from(u32::MAX))?;
            Ok(None)
        },
    ),
    set(
        "consumer_disconnected_timeout",
        "ms",
        "60000",
        "silence of a node after which its clients' leases end",
        |d, _, v| {
            d.config.consumer_disconnected_timeout_ms = value::number(v, 1, u64::from(u32::MAX))?;
            Ok(None)
        },
    ),
    set(
        "vm_memory_high_watermark.relative",
        "part of memory",
        "0.6",
        "memory at which publishers are blocked",
        |d, _, v| {
            d.config.memory_high_watermark = value::part(v, 1.0)?;
            Ok(None)
        },
    )
    .live(),
    set(
        "vm_memory_high_watermark.absolute",
        "bytes",
        "",
        "the same as a size; of the two the last line counts",
        |d, _, v| {
            d.config.memory_high_watermark = Threshold::Absolute(value::bytes(v)?);
            Ok(None)
        },
    )
    .live(),
    set(
        "total_memory_available_override_value",
        "bytes",
        "",
        "memory the node may count on, in place of what the machine or its control group has",
        |d, _, v| {
            d.config.total_memory_bytes = Some(value::bytes_within(v, 1, u64::MAX)?);
            Ok(None)
        },
    )
    .live(),
    set(
        "disk_free_limit.absolute",
        "bytes",
        "50MB",
        "free disk space below which publishers are blocked",
        |d, _, v| {
            d.config.disk_free_limit = Threshold::Absolute(value::bytes(v)?);
            Ok(None)
        },
    )
    .live(),
    set(
        "disk_free_limit.relative",
        "times memory",
        "",
        "the same as a multiple of memory",
        |d, _, v| {
            d.config.disk_free_limit = value::part(v, 100.0)?;
            Ok(None)
        },
    )
    .live(),
    set(
        "default_queue_type",
        "classic, quorum, stream",
        "classic",
        "type of queues declared without one, in vhosts without one",
        |d, _, v| {
            d.config.default_queue_type = value::one_of(v, &["classic", "quorum", "stream"])?;
            Ok(None)
        },
    ),
    set(
        "vhost_max",
        "count, or infinity",
        "infinity",
        "vhosts of the cluster",
        |d, _, v| {
            d.config.vhosts_max = value::limit(v)?;
            Ok(None)
        },
    ),
    ignored("session_max_per_connection", NO_PROTOCOL),
    ignored("link_max_per_session", NO_PROTOCOL),
    ignored(
        "vm_memory_calculation_strategy",
        "resident memory is what counts",
    ),
    ignored(
        "memory_monitor_interval",
        "memory and disk are measured every second",
    ),
];

fn channel_max(d: &mut Draft, _: &str, v: &str) -> Result<Remark, Expected> {
    d.config.channel_max = value::number_u16(v)?;
    Ok(None)
}

fn max_connections(d: &mut Draft, _: &str, v: &str) -> Result<Remark, Expected> {
    d.config.max_connections = value::limit(v)?;
    Ok(None)
}
