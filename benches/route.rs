//! Routing: what one publish costs.

use std::hint::black_box;

use criterion::Criterion;
use leveret::amqp::{FieldTable, RawProperties};
use leveret::base::{Millis, NodeId, SessionId, SetId};
use leveret::model::Meta;
use leveret::model::route::RouteInput;
use leveret::model::topology::{Bind, DeclareQueue, Destination, Topology, TopologyCommand};

const BINDINGS: usize = 1000;

fn topology() -> Topology {
    let mut topology = Topology::new();
    let mut apply = |command| {
        let meta = Meta {
            index: 1,
            now: Millis(0),
        };
        black_box(topology.apply(meta, command));
    };
    apply(TopologyCommand::AddVhost {
        name: "/".into(),
        default_queue_type: String::new(),
    });
    for at in 0..BINDINGS {
        let name = format!("queue-{at}");
        apply(TopologyCommand::DeclareQueue(DeclareQueue {
            vhost: "/".into(),
            name: name.clone(),
            relaxed: false,
            server_named: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: FieldTable::default(),
            session: SessionId(1),
            node: NodeId(1),
            incarnation: 1,
            sets: vec![SetId(1)],
            user: String::new(),
        }));
        let keys = [
            ("amq.direct", name.clone()),
            ("amq.topic", format!("region.{at}.*.#")),
        ];
        for (source, routing_key) in keys {
            apply(TopologyCommand::Bind(Bind {
                vhost: "/".into(),
                source: source.into(),
                destination: Destination::Queue(name.clone()),
                routing_key,
                arguments: FieldTable::default(),
                session: SessionId(1),
            }));
        }
    }
    topology
}

/// One key through the default, a direct and a topic exchange, 1000 queues and bindings each.
pub fn bench(c: &mut Criterion) {
    let topology = topology();
    let properties = RawProperties::default();
    let mut out = Vec::new();
    let cases = [
        ("", "queue-500"),
        ("amq.direct", "queue-500"),
        ("amq.topic", "region.500.a.b"),
    ];
    for (exchange, key) in cases {
        c.bench_function(&format!("route/{exchange}"), |b| {
            b.iter(|| {
                let keys: [&[u8]; 1] = [key.as_bytes()];
                let input = RouteInput {
                    vhost: "/",
                    exchange: exchange.as_bytes(),
                    keys: &keys,
                    properties: &properties,
                    dice: 0,
                };
                assert!(topology.route(black_box(&input), &mut out).is_ok());
                assert_eq!(out.len(), 1);
            });
        });
    }
}
