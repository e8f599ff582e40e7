//! RabbitMQ's own client crate for its HTTP API against one node and against three: what it decodes strictly is there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::time::Duration;

use compat_tests::cluster::{Shape, TestCluster};
use compat_tests::{Broker, eventually};
use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use rabbitmq_http_client::blocking_api::Client;
use rabbitmq_http_client::commons::{
    PaginationParams, PolicyTarget, SupportedProtocol, UserLimitTarget, VirtualHostLimitTarget,
};
use rabbitmq_http_client::password_hashing::base64_encoded_salted_password_hash_sha256;
use rabbitmq_http_client::requests::{
    EnforcedLimitParams, ExchangeParams, GlobalRuntimeParameterDefinition, Permissions,
    PolicyParams, QueueParams, TopicPermissions, UserParams, VirtualHostParams,
};
use serde_json::{Map, json};

type Api = Client<String, String, String>;

const WITHIN: Duration = Duration::from_secs(20);

fn client(url: &str) -> Api {
    Client::new(format!("{url}/api"), "guest".to_owned(), "guest".to_owned())
}

fn people(api: &Api) {
    let hash = base64_encoded_salted_password_hash_sha256(&[1, 2, 3, 4], "secret");
    api.create_user(&UserParams::new("hare", &hash, "management"))
        .unwrap();
    assert_eq!(api.get_user("hare").unwrap().name, "hare");
    assert!(
        api.list_users_without_permissions()
            .unwrap()
            .iter()
            .any(|user| user.name == "hare")
    );
    api.declare_permissions(&Permissions::full_access("hare", "/"))
        .unwrap();
    assert_eq!(api.get_permissions("/", "hare").unwrap().configure, ".*");
    api.declare_topic_permissions(&TopicPermissions {
        user: "hare",
        vhost: "/",
        exchange: "amq.topic",
        read: "^a",
        write: "^b",
    })
    .unwrap();
    assert_eq!(api.list_topic_permissions_of("hare").unwrap().len(), 1);
    api.clear_topic_permissions("/", "hare", false).unwrap();
    let limit = EnforcedLimitParams::new(UserLimitTarget::MaxChannels, 40);
    api.set_user_limit("hare", limit).unwrap();
    assert_eq!(api.list_user_limits("hare").unwrap().len(), 1);
    api.clear_user_limit("hare", UserLimitTarget::MaxChannels)
        .unwrap();
    api.clear_permissions("/", "hare", false).unwrap();
    assert_eq!(api.list_permissions_of("hare").unwrap().len(), 0);
    api.delete_users(vec!["hare"]).unwrap();
    api.delete_user("hare", true).unwrap();
    assert!(api.delete_user("hare", false).is_err());
    assert_eq!(api.current_user().unwrap().name, "guest");
}

fn vhosts(api: &Api) {
    api.create_vhost(&VirtualHostParams::named("warren").with_description("deep"))
        .unwrap();
    assert_eq!(api.get_vhost("warren").unwrap().name, "warren");
    let limit = EnforcedLimitParams::new(VirtualHostLimitTarget::MaxQueues, 7);
    api.set_vhost_limit("warren", limit).unwrap();
    assert_eq!(api.list_vhost_limits("warren").unwrap().len(), 1);
    api.clear_vhost_limit("warren", VirtualHostLimitTarget::MaxQueues)
        .unwrap();
    api.enable_vhost_deletion_protection("warren").unwrap();
    assert!(
        api.delete_vhost("warren", false).is_err(),
        "it is protected"
    );
    api.disable_vhost_deletion_protection("warren").unwrap();
    assert!(api.list_vhosts().unwrap().len() >= 2);
    api.delete_vhost("warren", false).unwrap();
}

fn topology(api: &Api) {
    api.declare_queue("/", &QueueParams::new_quorum_queue("hq", None))
        .unwrap();
    api.declare_queue("/", &QueueParams::new_durable_classic_queue("hc", None))
        .unwrap();
    api.declare_exchange("/", &ExchangeParams::durable_topic("hx", None))
        .unwrap();
    api.bind_queue("/", "hq", "hx", Some("a.#"), None).unwrap();
    assert_eq!(api.get_exchange_info("/", "hx").unwrap().name, "hx");
    assert_eq!(api.list_queue_bindings("/", "hq").unwrap().len(), 2);
    assert_eq!(
        api.list_exchange_bindings_with_source("/", "hx")
            .unwrap()
            .len(),
        1
    );
    let routed = api
        .publish_message("/", "hx", "a.b", "body", Map::new())
        .unwrap();
    assert!(routed.routed);
    let messages = api.get_messages("/", "hq", 1, "ack_requeue_true").unwrap();
    assert_eq!(messages[0].payload, "body");
    eventually(WITHIN, || {
        (api.get_queue_info("/", "hq").unwrap().message_count == 1).then_some(())
    });
    let policy = PolicyParams::new(
        "/",
        "short",
        "^h",
        json!({"max-length": 10}).as_object().unwrap().clone(),
    );
    api.declare_policy(&policy.apply_to(PolicyTarget::Queues))
        .unwrap();
    assert_eq!(api.get_policy("/", "short").unwrap().name, "short");
    assert_eq!(
        api.list_policies_for_target("/", PolicyTarget::Queues)
            .unwrap()
            .len(),
        1
    );
    eventually(WITHIN, || {
        (api.get_queue_info("/", "hq").unwrap().policy.as_deref() == Some("short")).then_some(())
    });
    let pages = PaginationParams::first_page(1);
    assert_eq!(api.list_queues_paged(&pages).unwrap().len(), 1);
    assert!(api.list_queues_with_details().unwrap().len() >= 2);
    assert!(
        api.list_quorum_queues()
            .unwrap()
            .iter()
            .any(|queue| queue.name == "hq")
    );
    api.purge_queue("/", "hq").unwrap();
    api.delete_policy("/", "short", false).unwrap();
    api.delete_exchange("/", "hx", false).unwrap();
    api.delete_queue("/", "hq", false).unwrap();
    api.delete_queue("/", "hc", false).unwrap();
    api.delete_queue("/", "hc", true).unwrap();
}

fn cluster(api: &Api, nodes: usize) {
    let overview = api.overview().unwrap();
    assert!(overview.object_totals.exchanges > 0);
    let listed = api.list_nodes().unwrap();
    assert_eq!(listed.len(), nodes);
    for node in &listed {
        assert_eq!(api.get_node_info(&node.name).unwrap().name, node.name);
        api.get_node_memory_footprint(&node.name).unwrap();
    }
    api.set_cluster_name("hares").unwrap();
    assert_eq!(api.get_cluster_name().unwrap().name, "hares");
    assert!(!api.list_feature_flags().unwrap().0.is_empty());
    api.list_all_deprecated_features().unwrap();
    api.health_check_cluster_wide_alarms().unwrap();
    api.health_check_local_alarms().unwrap();
    api.health_check_protocol_listener(SupportedProtocol::AMQP)
        .unwrap();
    assert!(
        api.health_check_port_listener(1).is_err(),
        "nobody listens there"
    );
    api.rebalance_queue_leaders().unwrap();
    assert!(
        !api.auth_attempts_statistics(&listed[0].name)
            .unwrap()
            .is_empty()
    );
    api.list_stream_connections().unwrap();
    api.list_shovels().unwrap();
    api.list_federation_links().unwrap();
    api.upsert_global_runtime_parameter(&GlobalRuntimeParameterDefinition {
        name: "burrow",
        value: json!({"depth": 3}).as_object().unwrap().clone(),
    })
    .unwrap();
    api.get_global_runtime_parameter("burrow").unwrap();
    api.clear_global_runtime_parameter("burrow").unwrap();
    let whole = api.export_cluster_wide_definitions_as_string().unwrap();
    let whole = serde_json::from_str(&whole).unwrap();
    api.import_cluster_wide_definitions(whole).unwrap();
    api.export_cluster_wide_definitions_as_data().unwrap();
    let part = api.export_vhost_definitions_as_string("/").unwrap();
    api.import_vhost_definitions("/", serde_json::from_str(&part).unwrap())
        .unwrap();
}

/// A connection with a consumer, at `amqp`; what it opened stays open as long as this.
async fn consuming(amqp: &str, queue: &str) -> (Connection, lapin::Channel, lapin::Consumer) {
    let connection = Connection::connect(amqp, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await
        .unwrap();
    channel
        .basic_qos(7, BasicQosOptions::default())
        .await
        .unwrap();
    let options = BasicConsumeOptions::default();
    let consumer =
        channel.basic_consume(queue.into(), "tag".into(), options, FieldTable::default());
    let consumer = consumer.await.unwrap();
    (connection, channel, consumer)
}

/// What a node that is asked shows of a connection, wherever it is.
fn shown(api: &Api, queue: &str) {
    let connections = eventually(WITHIN, || {
        let all = api.list_connections().unwrap();
        (!all.is_empty()).then_some(all)
    });
    let connection = api.get_connection_info(&connections[0].name).unwrap();
    assert_eq!(connection.username, "guest");
    let channels = api.list_channels_on(&connection.name).unwrap();
    assert_eq!(channels.len(), 1);
    assert_eq!(api.get_channel_info(&channels[0].name).unwrap().id, 1);
    assert_eq!(api.list_channels().unwrap().len(), 1);
    let consumers = api.list_consumers().unwrap();
    assert_eq!(consumers[0].consumer_tag, "tag");
    assert_eq!(consumers[0].queue.name, queue);
    assert_eq!(api.list_user_connections("guest").unwrap().len(), 1);
    let overview = api.overview().unwrap();
    assert_eq!(overview.object_totals.connections, 1);
    assert_eq!(overview.object_totals.consumers, 1);
}

#[test]
fn rabbitmqs_own_client_manages_a_node() {
    let broker = Broker::start();
    let api = client(&broker.management_url());
    people(&api);
    vhosts(&api);
    topology(&api);
    cluster(&api, 1);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open = runtime.block_on(consuming(broker.url(), "watched"));
    shown(&api, "watched");
    let name = api.list_connections().unwrap()[0].name.clone();
    api.close_connection(&name, Some("enough"), false).unwrap();
    eventually(WITHIN, || {
        (api.list_connections().unwrap().is_empty()).then_some(())
    });
    drop(open);
}

#[test]
fn any_of_three_nodes_answers_for_all_and_one_that_is_gone_is_shown_as_gone() {
    let mut nodes = TestCluster::new(&Shape::default());
    nodes.start_all();
    let host = |node: usize| {
        let url = nodes.url(node);
        let authority = url.rsplit_once('@').unwrap().1;
        authority.split(':').next().unwrap().to_owned()
    };
    let hosts: Vec<String> = (0..3).map(host).collect();
    let apis: Vec<Api> = hosts
        .iter()
        .map(|host| client(&format!("http://{host}:15672")))
        .collect();
    topology(&apis[1]);
    cluster(&apis[2], 3);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open = runtime.block_on(consuming(&nodes.url(0), "watched"));
    for api in &apis {
        shown(api, "watched");
    }
    let homes: Vec<String> = apis[2]
        .list_connections()
        .unwrap()
        .into_iter()
        .map(|connection| connection.node)
        .collect();
    for api in &apis {
        api.health_check_if_node_is_quorum_critical().unwrap();
    }
    // Node 1 goes; the others say so within their bound, and still answer for themselves.
    nodes.kill(1);
    let asked = std::time::Instant::now();
    let listed = apis[0].list_connections().unwrap();
    assert_eq!(listed[0].node, homes[0]);
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
    let running = eventually(WITHIN, || {
        let rows = raw_nodes(&hosts[0]);
        (rows.matches("\"running\":true").count() == 2).then_some(rows)
    });
    assert!(running.contains("\"running\":false"), "{running}");
    // No set would have a majority without either of them, whoever leads it.
    for api in [&apis[0], &apis[2]] {
        let critical = api.health_check_if_node_is_quorum_critical();
        assert!(critical.is_err(), "{critical:?}");
    }
    // A connection of another node is closed through any.
    apis[2]
        .close_connection(&listed[0].name, None, false)
        .unwrap();
    eventually(WITHIN, || {
        apis[0].list_connections().unwrap().is_empty().then_some(())
    });
    drop(open);
}

/// `/api/nodes`, as text.
fn raw_nodes(host: &str) -> String {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect((host, 15_672)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let request = format!(
        "GET /api/nodes HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}
