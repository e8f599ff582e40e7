//! What there may be of channels, queues and exchanges, how queues are compared and their returns counted, and what is
//! written into messages.

use super::super::value;
use super::{Key, set};

pub(super) static KEYS: &[Key] = &[
    set(
        "channel_max_per_node",
        "count, or infinity",
        "infinity",
        "channels of the node",
        |d, _, v| {
            d.config.objects.channels_per_node = value::limit(v)?;
            Ok(None)
        },
    ),
    set(
        "cluster_queue_limit",
        "count, or infinity",
        "infinity",
        "queues of the cluster",
        |d, _, v| {
            d.config.objects.queues = value::limit(v)?;
            Ok(None)
        },
    ),
    set(
        "cluster_exchange_limit",
        "count, or infinity",
        "infinity",
        "exchanges of the cluster, those that every vhost has included",
        |d, _, v| {
            d.config.objects.exchanges = value::limit(v)?;
            Ok(None)
        },
    ),
    set(
        "quorum_queue.property_equivalence.relaxed_checks_on_redeclaration",
        "switch",
        "false",
        "whether a quorum queue that is there may be declared as a classic one with the same limits",
        |d, _, v| {
            d.config.objects.relaxed_redeclaration = value::switch(v)?;
            Ok(None)
        },
    ),
    set(
        "leveret.count_every_return",
        "switch",
        "false",
        "whether every return of a message counts towards its delivery limit, as before RabbitMQ 4.3",
        |d, _, v| {
            d.config.objects.count_every_return = value::switch(v)?;
            Ok(None)
        },
    ),
    set(
        "message_interceptors.incoming.set_header_timestamp.overwrite",
        "switch",
        "",
        "published messages get the time in `timestamp` and in the header `timestamp_in_ms`: in place of what the publisher \
         set (true), or where it set none (false); without the key they do not",
        |d, _, v| {
            d.config.stamps.received = Some(value::switch(v)?);
            Ok(None)
        },
    )
    .live(),
    set(
        "message_interceptors.incoming.set_header_routing_node.overwrite",
        "switch",
        "",
        "published messages get the name of the node in the header `x-routed-by`; as above",
        |d, _, v| {
            d.config.stamps.routed_by = Some(value::switch(v)?);
            Ok(None)
        },
    )
    .live(),
    set(
        "message_interceptors.outgoing.timestamp.enabled",
        "switch",
        "false",
        "whether messages get the time they are sent to a client in the header `x-opt-rabbitmq-sent-time`",
        |d, _, v| {
            d.config.stamps.sent = value::switch(v)?;
            Ok(None)
        },
    )
    .live(),
    set(
        "shovel.topology.predeclared",
        "switch",
        "false",
        "whether a shovel's queues must be there, where its definition does not say; otherwise it makes them",
        |d, _, v| {
            d.config.shovels_predeclared = value::switch(v)?;
            Ok(None)
        },
    ),
];
