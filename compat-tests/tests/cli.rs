//! RabbitMQ's command line tools, called by their names against a real broker: output byte for byte where scripts read it,
//! exit codes, and what the commands do. The texts were taken from RabbitMQ's own tools.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use compat_tests::{Broker, Certificates, binary, eventually, free_port, skipped_on_foreign};
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};

const NAMES: [&str; 6] = [
    "rabbitmqctl",
    "rabbitmq-diagnostics",
    "rabbitmq-queues",
    "rabbitmq-streams",
    "rabbitmq-plugins",
    "rabbitmq-upgrade",
];

/// A broker, and links to its binary under RabbitMQ's names.
struct Tools {
    broker: Broker,
    links: compat_tests::TempDir,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Tools {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(settings: &[(&str, &str)]) -> Self {
        let links = tempfile::tempdir().unwrap();
        for name in NAMES {
            symlink(binary(), links.path().join(name)).unwrap();
        }
        Self {
            broker: Broker::start_with(settings),
            links,
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.broker.data_dir().join("data")
    }

    /// Runs `tool arguments…`; arguments are separated by spaces, `~` in one stands for a space, `''` for an empty one.
    fn run(&self, line: &str) -> Ran {
        let mut words = line.split(' ');
        let tool = words.next().unwrap();
        let words = words.map(|word| match word {
            "''" => String::new(),
            word => word.replace('~', " "),
        });
        let output = Command::new(self.links.path().join(tool))
            .args(words)
            .env("RABBITMQ_MNESIA_DIR", self.data_dir())
            .env(
                "RABBITMQ_CONFIG_FILE",
                self.broker.data_dir().join("test.conf"),
            )
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs what must succeed with these bytes on standard output.
    fn says(&self, line: &str, want: &str) {
        let ran = self.run(line);
        assert_eq!((ran.code, &*ran.out), (0, want), "{line}: {}", ran.err);
    }

    /// Runs what must succeed, and returns what it says.
    fn ok(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, 0, "{line}: {ran:?}");
        ran.out
    }

    /// Runs what must fail with this code; its standard error holds these words.
    fn fails(&self, line: &str, code: i32, words: &str) {
        let ran = self.run(line);
        assert_eq!(ran.code, code, "{line}: {ran:?}");
        assert!(ran.err.contains(words), "{line}: {ran:?}");
    }

    fn node(&self) -> String {
        self.ok("rabbitmqctl eval node().").trim().to_owned()
    }
}

#[test]
fn users_tags_passwords_and_permissions_as_with_rabbitmqctl() {
    if skipped_on_foreign("the command line") {
        return;
    }
    let tools = Tools::start();
    tools.says(
        "rabbitmqctl add_user u1 p1",
        "Adding user \"u1\" ...\nDone. Don't forget to grant the user permissions to some virtual hosts! \
         See 'rabbitmqctl help set_permissions' to learn more.\n",
    );
    tools.says("rabbitmqctl -q add_user u2 p2", "");
    tools.fails(
        "rabbitmqctl add_user u1 p1",
        70,
        "Error:\nUser \"u1\" already exists\n",
    );
    tools.fails("rabbitmqctl add_user", 64, "username");
    tools.says(
        "rabbitmqctl set_user_tags u1 management policymaker",
        "Setting tags for user \"u1\" to [management, policymaker] ...\n",
    );
    let rows = "guest\t[administrator]\nu1\t[management, policymaker]\nu2\t[]\n";
    tools.says(
        "rabbitmqctl list_users",
        &format!("Listing users ...\nuser\ttags\n{rows}"),
    );
    tools.says("rabbitmqctl -q list_users", &format!("user\ttags\n{rows}"));
    tools.says("rabbitmqctl -q list_users --no-table-headers", rows);
    tools.says("rabbitmqctl -s list_users", rows);
    tools.says(
        "rabbitmqctl list_users --formatter json",
        "[\n{\"user\":\"guest\",\"tags\":[\"administrator\"]}\n\
         ,{\"user\":\"u1\",\"tags\":[\"management\",\"policymaker\"]}\n,{\"user\":\"u2\",\"tags\":[]}\n]\n",
    );
    for line in [
        "delete_user nobody",
        "change_password nobody x",
        "set_user_tags nobody x",
    ] {
        let line = format!("rabbitmqctl {line}");
        tools.fails(&line, 67, "Error:\nUser \"nobody\" does not exist\n");
    }
    tools.says(
        "rabbitmqctl authenticate_user u1 p1",
        "Authenticating user \"u1\" ...\nSuccess\n",
    );
    tools.ok("rabbitmqctl change_password u1 other");
    tools.fails(
        "rabbitmqctl authenticate_user u1 p1",
        65,
        "failed to authenticate user \"u1\"",
    );
    tools.ok("rabbitmqctl authenticate_user u1 other");
    tools.ok("rabbitmqctl clear_password u1");
    tools.fails(
        "rabbitmqctl authenticate_user u1 other",
        65,
        "invalid credentials",
    );
    let tags = tools.ok("rabbitmqctl -q list_users");
    assert!(
        tags.contains("u1\t[management, policymaker]"),
        "a new password leaves the tags: {tags}"
    );

    tools.ok("rabbitmqctl add_vhost v1 --description d1 --tags t1,t2 --default-queue-type quorum");
    tools.says("rabbitmqctl add_vhost v1", "Adding vhost \"v1\" ...\n");
    tools.says(
        "rabbitmqctl list_vhosts",
        "Listing vhosts ...\nname\n/\nv1\n",
    );
    tools.says(
        "rabbitmqctl -q list_vhosts name description tags default_queue_type tracing",
        "name\tdescription\ttags\tdefault_queue_type\ttracing\n\
         /\t\t[]\tclassic\tfalse\nv1\td1\t[t1, t2]\tquorum\tfalse\n",
    );
    tools.fails(
        "rabbitmqctl list_vhosts bogus",
        64,
        "Info key(s) bogus are not supported",
    );
    tools.says(
        "rabbitmqctl set_permissions -p v1 u1 ^a '' .*",
        "Setting permissions for user \"u1\" in vhost \"v1\" ...\n",
    );
    tools.says(
        "rabbitmqctl list_permissions -p v1",
        "Listing permissions for vhost \"v1\" ...\nuser\tconfigure\twrite\tread\nu1\t^a\t\t.*\n",
    );
    tools.says(
        "rabbitmqctl -q list_user_permissions u1",
        "vhost\tconfigure\twrite\tread\nv1\t^a\t\t.*\n",
    );
    tools.fails(
        "rabbitmqctl list_permissions -p no",
        65,
        "Virtual host 'no' does not exist",
    );
    tools.fails(
        "rabbitmqctl set_permissions -p v1 nobody a b c",
        67,
        "does not exist",
    );
    tools.fails(
        "rabbitmqctl set_permissions -p v1 u1 ( b c",
        69,
        "invalid regular expression",
    );
    tools.ok("rabbitmqctl set_topic_permissions -p v1 u1 amq.topic ^a ^b");
    tools.says(
        "rabbitmqctl -s list_topic_permissions -p v1",
        "u1\tamq.topic\t^a\t^b\n",
    );
    tools.ok("rabbitmqctl clear_topic_permissions -p v1 u1");
    tools.ok("rabbitmqctl clear_permissions -p v1 u1");
    tools.says("rabbitmqctl -s list_permissions -p v1", "");
    tools.says("rabbitmqctl delete_vhost v1", "Deleting vhost \"v1\" ...\n");
    tools.fails(
        "rabbitmqctl delete_vhost v1",
        65,
        "Virtual host 'v1' does not exist",
    );
    tools.says("rabbitmqctl delete_user u2", "Deleting user \"u2\" ...\n");
}

#[test]
fn policies_limits_parameters_and_definitions_as_with_rabbitmqctl() {
    if skipped_on_foreign("the command line") {
        return;
    }
    let tools = Tools::start();
    tools.says(
        "rabbitmqctl set_policy pol ^q {\"max-length\":5} --priority 3 --apply-to queues",
        "Setting policy \"pol\" for pattern \"^q\" to \"{\"max-length\":5}\" with priority \"3\" for vhost \"/\" ...\n",
    );
    tools.says(
        "rabbitmqctl list_policies",
        "Listing policies for vhost \"/\" ...\nvhost\tname\tpattern\tapply-to\tdefinition\tpriority\n\
         /\tpol\t^q\tqueues\t{\"max-length\":5}\t3\n",
    );
    tools.says(
        "rabbitmqctl list_policies --formatter json",
        "[\n{\"vhost\":\"/\",\"name\":\"pol\",\"pattern\":\"^q\",\"apply-to\":\"queues\",\
         \"definition\":\"{\\\"max-length\\\":5}\",\"priority\":3}\n]\n",
    );
    tools.fails("rabbitmqctl set_policy p ^q no", 69, "JSON decoding error");
    tools.fails(
        "rabbitmqctl set_policy p ^q {\"bogus\":5}",
        69,
        "Validation failed",
    );
    tools.ok("rabbitmqctl set_operator_policy op ^q {\"max-length\":50}");
    tools.says(
        "rabbitmqctl -s list_operator_policies",
        "/\top\t^q\tall\t{\"max-length\":50}\t0\n",
    );
    tools.ok("rabbitmqctl clear_operator_policy op");
    tools.fails(
        "rabbitmqctl clear_policy nopol",
        69,
        "Error:\nParameter does not exist\n",
    );

    tools.ok("rabbitmqctl set_vhost_limits -p / {\"max-connections\":5}");
    tools.says(
        "rabbitmqctl list_vhost_limits",
        "Listing limits for vhost \"/\" ...\n{\"max-connections\":5}\n",
    );
    tools.ok("rabbitmqctl clear_vhost_limits");
    tools.says("rabbitmqctl list_vhost_limits --formatter json", "[]\n");
    tools.ok("rabbitmqctl set_user_limits guest {\"max-channels\":7}");
    tools.says(
        "rabbitmqctl -q list_user_limits --user guest",
        "{\"max-channels\":7}\n",
    );
    tools.ok("rabbitmqctl clear_user_limits guest all");
    tools.says("rabbitmqctl -q list_user_limits --user guest", "{}\n");
    tools.fails(
        "rabbitmqctl set_user_limits guest {\"bogus\":7}",
        65,
        "Unrecognised terms",
    );

    tools.ok("rabbitmqctl set_global_parameter gp {\"a\":1}");
    let globals = tools.ok("rabbitmqctl -q list_global_parameters");
    assert!(
        globals.starts_with("name\tvalue\n") && globals.contains("gp\t{\"a\":1}\n"),
        "{globals}"
    );
    tools.ok("rabbitmqctl set_cluster_name named");
    let status = tools.ok("rabbitmqctl cluster_status");
    assert!(status.contains("Cluster name: named\n"), "{status}");

    let file = tools.links.path().join("definitions.json");
    let file = file.to_str().unwrap();
    tools.says(
        &format!("rabbitmqctl export_definitions {file}"),
        &format!("Exporting definitions in JSON to a file at \"{file}\" ...\n"),
    );
    tools.ok("rabbitmqctl clear_policy pol");
    tools.ok(&format!("rabbitmqctl import_definitions {file}"));
    let policies = tools.ok("rabbitmqctl -s list_policies");
    assert!(policies.contains("pol\t^q"), "imported again: {policies}");
    let whole = tools.ok("rabbitmqctl export_definitions -");
    assert!(
        whole.starts_with('{') && whole.ends_with('}') && whole.contains("\"pol\""),
        "{whole}"
    );
    tools.fails("rabbitmqctl import_definitions /nowhere", 65, "/nowhere");
}

async fn publishing(broker: &Broker) -> Connection {
    let connection = Connection::connect(broker.url(), ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(10));
    let durable = QueueDeclareOptions::durable();
    channel
        .queue_declare("q1".into(), durable, arguments)
        .await
        .unwrap();
    let none = FieldTable::default();
    channel
        .queue_declare("q2".into(), durable, none.clone())
        .await
        .unwrap();
    let bind = QueueBindOptions::default();
    channel
        .queue_bind("q1".into(), "amq.topic".into(), "a.*".into(), bind, none)
        .await
        .unwrap();
    for _ in 0..3 {
        let publish = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        let published = channel.basic_publish("".into(), "q1".into(), publish, b"x", properties);
        published.await.unwrap();
    }
    connection
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_bindings_connections_and_consumers_are_listed_and_acted_on() {
    if skipped_on_foreign("the command line") {
        return;
    }
    let tools = Tools::start();
    tools.says(
        "rabbitmqctl list_queues",
        "Timeout: 60.0 seconds ...\nListing queues for vhost / ...\n",
    );
    let connection = publishing(&tools.broker).await;
    eventually(Duration::from_secs(20), || {
        let out = tools.ok("rabbitmqctl -q list_queues");
        (out == "name\tmessages\nq1\t3\nq2\t0\n").then_some(())
    });
    tools.says(
        "rabbitmqctl -s list_queues name arguments policy durable state",
        "q1\t[{\"x-max-length\",10},{\"x-queue-type\",\"classic\"}]\t\ttrue\trunning\n\
         q2\t[{\"x-queue-type\",\"classic\"}]\t\ttrue\trunning\n",
    );
    tools.says(
        "rabbitmqctl list_queues name arguments --formatter json",
        "[\n{\"name\":\"q1\",\"arguments\":{\"x-max-length\":10,\"x-queue-type\":\"classic\"}}\n\
         ,{\"name\":\"q2\",\"arguments\":{\"x-queue-type\":\"classic\"}}\n]\n",
    );
    tools.says(
        "rabbitmqctl list_queues name messages consumers --formatter csv",
        "\"name\",\"messages\",\"consumers\"\n\"q1\",3,0\n\"q2\",0,0\n",
    );
    tools.fails(
        "rabbitmqctl list_queues bogus",
        64,
        "Info key(s) bogus are not supported",
    );
    let bindings = tools.ok("rabbitmqctl -q list_bindings");
    let header =
        "source_name\tsource_kind\tdestination_name\tdestination_kind\trouting_key\targuments\n";
    assert!(bindings.starts_with(header), "{bindings}");
    assert!(
        bindings.contains("amq.topic\texchange\tq1\tqueue\ta.*\t[]\n"),
        "{bindings}"
    );
    let exchanges = tools.ok("rabbitmqctl -q list_exchanges");
    assert!(exchanges.contains("\namq.topic\ttopic\n"), "{exchanges}");

    let channel = connection.create_channel().await.unwrap();
    let consume = BasicConsumeOptions::default();
    let none = FieldTable::default();
    let consumer = channel
        .basic_consume("q2".into(), "ct1".into(), consume, none)
        .await
        .unwrap();
    let consumers = eventually(Duration::from_secs(20), || {
        let out = tools.ok("rabbitmqctl -q list_consumers");
        out.contains("ct1").then_some(out)
    });
    let header =
        "queue_name\tchannel_pid\tconsumer_tag\tack_required\tprefetch_count\tactive\targuments\n";
    assert!(
        consumers.starts_with(&format!("{header}q2\t<")),
        "{consumers}"
    );
    assert!(
        consumers.ends_with(">\tct1\ttrue\t0\ttrue\t[]\n"),
        "{consumers}"
    );
    let connections = tools.ok("rabbitmqctl -s list_connections");
    assert!(
        connections.starts_with("guest\t127.0.0.1\t"),
        "{connections}"
    );
    assert!(connections.ends_with("\trunning\n"), "{connections}");
    // A channel that was dropped here may be open there for a moment yet.
    eventually(Duration::from_secs(20), || {
        let channels = tools.ok("rabbitmqctl -s list_channels user");
        (channels == "guest\n").then_some(())
    });

    tools.says(
        "rabbitmqctl purge_queue q1",
        "Purging queue 'q1' in vhost '/' ...\n",
    );
    tools.says("rabbitmqctl -s list_queues name messages", "q1\t0\nq2\t0\n");
    tools.fails("rabbitmqctl purge_queue nq", 69, "Error:\nnot_found\n");
    tools.fails("rabbitmqctl delete_queue q2 --if-unused", 69, "in use");
    tools.ok("rabbitmqctl delete_queue q1");
    tools.fails(
        "rabbitmqctl delete_queue q1",
        64,
        "Error:\nQueue not found\n",
    );

    let pid = tools.ok("rabbitmqctl -s list_connections pid");
    tools.ok(&format!("rabbitmqctl close_connection {} bye", pid.trim()));
    eventually(Duration::from_secs(20), || {
        (!connection.status().connected()).then_some(())
    });
    tools.fails("rabbitmqctl close_connection <1.2.3> bye", 69, "<1.2.3>");
    tools.says(
        "rabbitmqctl close_all_connections bye",
        "Closing all connections in vhost /, reason: bye...\nClosed 0 connections\n",
    );
    drop(consumer);
}

#[test]
fn probes_ask_for_health_and_get_exit_codes() {
    if skipped_on_foreign("the command line") {
        return;
    }
    let mut tools = Tools::start();
    let node = tools.node();
    let mode = fs::metadata(tools.data_dir().join("control.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(
        mode & 0o777,
        0o600,
        "only the broker's account may use the commands"
    );
    for line in [
        "rabbitmqctl -q ping",
        "rabbitmq-diagnostics ping -q",
        "rabbitmq-diagnostics -s ping",
    ] {
        tools.says(line, "Ping succeeded\n");
    }
    tools.says(
        "rabbitmq-diagnostics ping --formatter json",
        "{\"message\":\"Ping succeeded\"}\n",
    );
    tools.says(
        "rabbitmq-diagnostics check_running",
        &format!("Checking if RabbitMQ is running on node {node} ...\nRabbitMQ on node {node} is fully booted and running\n"),
    );
    tools.says(
        "rabbitmq-diagnostics -q check_local_alarms",
        &format!("Node {node} reported no local alarms\n"),
    );
    tools.says(
        "rabbitmq-diagnostics check_alarms --formatter json",
        "{\"result\":\"ok\"}\n",
    );
    tools.says(
        "rabbitmq-diagnostics -q check_virtual_hosts",
        &format!("Node {node} reported all vhosts as running\n"),
    );
    let connected = tools.ok("rabbitmq-diagnostics -q check_port_connectivity");
    assert!(
        connected.starts_with("Successfully connected to ports "),
        "{connected}"
    );
    let port = tools.broker.amqp_port();
    tools.says(
        &format!("rabbitmq-diagnostics -q check_port_listener {port}"),
        &format!("A listener for port {port} is running on node {node}.\n"),
    );
    tools.fails(
        "rabbitmq-diagnostics -q check_port_listener 1",
        69,
        "No listener for port 1 is active",
    );
    tools.says(
        "rabbitmq-diagnostics -q check_protocol_listener amqp",
        &format!("A listener for protocol amqp is running on node {node}.\n"),
    );
    tools.fails(
        "rabbitmq-diagnostics check_protocol_listener mqtt",
        69,
        "No listener for protocol mqtt",
    );
    let listeners = tools.ok("rabbitmq-diagnostics -s listeners");
    let line = format!("Interface: 127.0.0.1, port: {port}, protocol: amqp, purpose: AMQP 0-9-1\n");
    assert!(listeners.contains(&line), "{listeners}");
    let status = tools.ok("rabbitmqctl status");
    assert!(status.contains("\nRabbitMQ version: 4."), "{status}");
    let status = tools.ok("rabbitmqctl status --formatter json");
    for key in [
        "\"rabbitmq_version\":\"4.",
        "\"alarms\":[]",
        "\"virtual_host_count\":1",
        "\"erlang_version\"",
    ] {
        assert!(status.contains(key), "{key} in {status}");
    }
    let cluster = tools.ok("rabbitmqctl cluster_status --formatter json");
    assert!(
        cluster.contains(&format!("\"running_nodes\":[\"{node}\"]")),
        "{cluster}"
    );
    let cluster = tools.ok("rabbitmqctl cluster_status");
    assert!(
        cluster.contains(&format!("Running Nodes\n\n{node}\n")),
        "{cluster}"
    );
    tools.ok("rabbitmqctl await_startup");
    tools.ok("rabbitmqctl await_online_nodes 1");
    tools.fails("rabbitmqctl await_online_nodes 2 -t 1", 75, "timed out");
    tools.ok("rabbitmq-queues check_if_node_is_quorum_critical");
    tools.ok("rabbitmq-upgrade await_online_quorum_plus_one -t 5");
    tools.ok("rabbitmqctl enable_feature_flag all");
    tools.says(
        "rabbitmqctl eval rabbit_nodes:reached_target_cluster_size().",
        "true\n",
    );
    tools.fails(
        "rabbitmqctl eval os:cmd(\"id\").",
        64,
        "not written in Erlang",
    );
    tools.ok("rabbitmq-plugins enable rabbitmq_management --offline");
    tools.fails("rabbitmq-plugins enable nope", 70, "plugins_not_found");
    tools.ok("rabbitmq-plugins -q is_enabled rabbitmq_management");
    let minimal = tools.ok("rabbitmq-plugins list -m -q");
    assert!(
        minimal.lines().any(|name| name == "rabbitmq_prometheus"),
        "{minimal}"
    );
    let answer = tools.run("rabbitmqctl bogus");
    assert_eq!(answer.code, 64, "{answer:?}");
    tools.fails(
        "rabbitmqctl list_user",
        64,
        "Command 'list_user' not found. \nDid you mean 'list_users'? \n",
    );
    tools.fails(
        "rabbitmqctl -n nope@localhost list_users",
        69,
        "nope@localhost",
    );
    tools.ok(&format!("rabbitmqctl -n {node} list_users"));
    tools.fails(
        "rabbitmqctl -n nope@localhost status",
        69,
        "unable to perform an operation on node 'nope@localhost'",
    );

    // A node that stands still is waited for as long as was said.
    tools.broker.signal("STOP");
    tools.fails(
        "rabbitmqctl list_users -t 1",
        75,
        "timed out. Timeout value used: 1000",
    );
    tools.broker.signal("CONT");
    tools.ok("rabbitmqctl list_users");

    tools.broker.kill_dash_nine();
    tools.fails(
        "rabbitmqctl list_users",
        69,
        "unable to perform an operation on node",
    );
    tools.fails(
        "rabbitmq-diagnostics ping",
        69,
        "Failed to connect and authenticate to",
    );
    tools.fails(
        "rabbitmq-diagnostics -q check_running",
        69,
        "Target node is not running",
    );
    tools.broker.restart();
    tools.ok("rabbitmq-diagnostics check_running");
}

#[test]
fn a_node_is_stopped_started_reset_and_drained() {
    if skipped_on_foreign("the command line") {
        return;
    }
    let mut tools = Tools::start();
    let node = tools.node();
    let connects = |tools: &Tools| {
        std::net::TcpStream::connect(("127.0.0.1", tools.broker.amqp_port())).is_ok()
    };
    tools.ok("rabbitmq-upgrade drain");
    eventually(Duration::from_secs(20), || {
        (!connects(&tools)).then_some(())
    });
    let nodes = tools.ok("rabbitmqctl status");
    assert!(nodes.contains("Is under maintenance?: true\n"), "{nodes}");
    tools.ok("rabbitmq-upgrade revive");
    eventually(Duration::from_secs(20), || connects(&tools).then_some(()));

    tools.ok("rabbitmqctl add_user kept p");
    tools.fails("rabbitmqctl reset", 69, "stop_app");
    tools.says(
        "rabbitmqctl stop_app",
        &format!("Stopping rabbit application on node {node} ...\n"),
    );
    tools.fails(
        "rabbitmqctl list_users",
        64,
        "requires the 'rabbit' app to be running",
    );
    tools.fails(
        "rabbitmq-diagnostics check_running",
        69,
        "is not running or has not fully booted yet",
    );
    tools.ok("rabbitmq-diagnostics ping");
    assert!(!connects(&tools));
    tools.says(
        "rabbitmqctl start_app",
        &format!("Starting node {node} ...\n"),
    );
    assert!(tools.ok("rabbitmqctl -s list_users").contains("kept"));
    assert!(connects(&tools));
    tools.ok("rabbitmqctl stop_app");
    tools.ok("rabbitmqctl reset");
    tools.ok("rabbitmqctl start_app");
    tools.says("rabbitmqctl -s list_users", "guest\t[administrator]\n");

    tools.fails(
        "rabbitmqctl set_vm_memory_high_watermark 2",
        65,
        "between 0.0 and 1.0",
    );
    tools.fails(
        "rabbitmqctl set_vm_memory_high_watermark absolute",
        64,
        "not enough",
    );
    tools.fails(
        "rabbitmqctl set_vm_memory_high_watermark absolute 1ZB",
        65,
        "units",
    );
    tools.fails("rabbitmqctl set_disk_free_limit 1GB 2", 64, "too many");
    tools.says(
        "rabbitmqctl set_vm_memory_high_watermark 0",
        &format!("Setting memory threshold on {node} to 0 ...\n"),
    );
    let alarmed = |word: &str| {
        eventually(Duration::from_secs(10), || {
            let text = tools.ok("rabbitmq-diagnostics alarms");
            text.contains(word).then_some(())
        });
    };
    alarmed("Memory alarm on node");
    tools.says(
        "rabbitmqctl set_vm_memory_high_watermark absolute 3GiB",
        &format!("Setting memory threshold on {node} to 3221225472 bytes ...\n"),
    );
    alarmed("no alarms");
    let status = tools.ok("rabbitmqctl status --formatter json");
    assert!(status.contains("\"absolute\":3221225472"), "{status}");
    tools.ok("rabbitmqctl -q set_disk_free_limit mem_relative 1000000");
    alarmed("Free disk space alarm on node");
    tools.says(
        "rabbitmqctl set_disk_free_limit 50MB",
        &format!("Setting disk free limit on {node} to 50000000 bytes ...\n"),
    );
    alarmed("no alarms");

    tools.ok("rabbitmqctl set_log_level debug");
    tools.fails("rabbitmqctl set_log_level loud", 64, "loud");
    let out = tools.ok("rabbitmqctl shutdown");
    assert!(out.ends_with("successfully shut down\n"), "{out}");
    assert!(tools.broker.wait_end().success());
    tools.fails("rabbitmqctl stop", 69, "Target node is not running");
}

#[test]
fn the_log_goes_to_its_file_too_is_rotated_and_is_read_by_commands() {
    if skipped_on_foreign("the command line") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("logs");
    let tools = Tools::start_with(&[
        ("log.dir", dir.to_str().unwrap()),
        ("log.file", "rabbit.log"),
        ("log.file.rotation.count", "2"),
    ]);
    let file = dir.join("rabbit.log");
    let read = |path: &std::path::Path| fs::read_to_string(path).unwrap();
    assert!(read(&file).contains("Server startup complete"));
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o640
    );
    let place = file.to_str().unwrap();
    tools.says(
        "rabbitmq-diagnostics -q log_location",
        &format!("<stdout>\n{place}\n"),
    );
    let status = tools.ok("rabbitmqctl status --formatter json");
    assert!(status.contains(place), "{status}");
    let tail = tools.ok("rabbitmq-diagnostics -q log_tail -N 1");
    assert_eq!(tail.lines().count(), 1, "{tail}");
    assert!(
        tools
            .ok("rabbitmq-diagnostics log_tail")
            .contains("Server startup complete")
    );
    tools.fails("rabbitmq-diagnostics log_tail --number x", 64, "--number");

    // Its file is another after a rotation, and what logrotate moved away is left alone.
    tools.ok("rabbitmqctl rotate_logs");
    assert_eq!(read(&file), "");
    assert!(read(&dir.join("rabbit.log.0")).contains("Server startup complete"));
    let away = dir.join("moved-by-somebody");
    fs::rename(&file, &away).unwrap();
    tools.broker.signal("HUP");
    eventually(Duration::from_secs(20), || file.exists().then_some(()));
    eventually(Duration::from_secs(20), || {
        read(&file)
            .contains("the configuration was read again")
            .then_some(())
    });

    // A stream begins with what comes after it is asked for, and ends by itself. Nobody knows when it has begun, so what
    // it is to show is said until it is over.
    let mut stream = Command::new(tools.links.path().join("rabbitmq-diagnostics"))
        .args(["-q", "log_tail_stream", "-d", "2"])
        .env("RABBITMQ_MNESIA_DIR", tools.data_dir())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    while stream.try_wait().unwrap().is_none() {
        tools.ok("rabbitmqctl set_disk_free_limit 50MB");
    }
    let shown = stream.wait_with_output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("disk free limit set to"), "{shown}");
    assert!(!shown.contains("Server startup complete"), "{shown}");
}

#[test]
fn certificates_and_sizes_of_messages_are_shown() {
    if skipped_on_foreign("the command line") {
        return;
    }
    let tools = Tools::start();
    let none = tools.ok("rabbitmq-diagnostics -q certificates");
    assert!(none.contains("has no TLS-enabled listeners"), "{none}");
    let sizes = tools.ok("rabbitmq-diagnostics -q message_size_stats");
    let header = "Message Size\tCount\tPercentage\n0B to 100B\t0\t0.0%\n100B to 1KB\t0\t0.0%\n";
    assert!(
        sizes.starts_with(header) && sizes.ends_with("above 100MB\t0\t0.0%\n"),
        "{sizes}"
    );
    for line in [
        "rabbitmq-diagnostics report",
        "rabbitmq-diagnostics metadata_store_status",
        "rabbitmqctl check_if_any_deprecated_features_are_used",
    ] {
        tools.ok(line);
    }
    drop(tools);

    let certificates = Certificates::new();
    let port = free_port();
    let mut settings = certificates.settings("ssl_options");
    settings.push(("listeners.ssl.default".to_owned(), port.to_string()));
    let settings: Vec<(&str, &str)> = settings.iter().map(|(a, b)| (&**a, &**b)).collect();
    let tools = Tools::start_with(&settings);
    let shown = tools.ok("rabbitmq-diagnostics -q certificates");
    let file = certificates.path("server.pem").display().to_string();
    for words in [
        &format!("port: {port}, protocol: amqp/ssl\n certfile: {file}\n  subject: "),
        "serial number: ",
        "validity: ",
    ] {
        assert!(shown.contains(words), "{words} in {shown}");
    }
    tools.ok("rabbitmq-diagnostics check_certificate_expiration --within 2 --unit weeks");
    tools.fails(
        "rabbitmq-diagnostics -q check_certificate_expiration --within 5000 --unit years",
        69,
        "Certificates expiring",
    );
}

/// Commands that scripts run: the line, and words of its answer.
const SCRIPTED: &[(&str, &str)] = &[
    (
        "rabbitmqctl add_user ph kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR --pre-hashed-password",
        "Done.",
    ),
    ("rabbitmqctl authenticate_user ph test12", "Success"),
    ("rabbitmqctl -q add_vhost w", ""),
    (
        "rabbitmqctl update_vhost_metadata w --description d --tags a,b --default-queue-type quorum",
        "Updating",
    ),
    (
        "rabbitmqctl -s list_vhosts name description tags default_queue_type cluster_state",
        "w\td\t[a, b]\tquorum\t[{rabbit@",
    ),
    ("rabbitmqctl set_permissions -p w ph .* .* .*", ""),
    (
        "rabbitmqctl set_topic_permissions -p w ph amq.topic a b",
        "",
    ),
    (
        "rabbitmqctl -q list_user_topic_permissions ph",
        "vhost\texchange\twrite\tread\nw\tamq.topic\ta\tb\n",
    ),
    (
        "rabbitmqctl set_parameter federation-upstream u1 {\"uri\":\"amqp://x\"}",
        "",
    ),
    (
        "rabbitmqctl -q list_parameters",
        "component\tname\tvalue\nfederation-upstream\tu1\t{\"uri\":\"amqp://x\"}\n",
    ),
    ("rabbitmqctl clear_parameter federation-upstream u1", ""),
    ("rabbitmqctl set_global_parameter g 1", ""),
    ("rabbitmqctl clear_global_parameter g", ""),
    ("rabbitmqctl version", "4."),
    ("rabbitmq-diagnostics -q server_version", "4."),
    (
        "rabbitmq-diagnostics is_running",
        "is fully booted and running",
    ),
    (
        "rabbitmq-diagnostics is_booting",
        "is fully booted (check with is_running)",
    ),
    (
        "rabbitmq-diagnostics memory_breakdown --unit MB",
        "other_proc: ",
    ),
    (
        "rabbitmq-diagnostics environment",
        "[{rabbit,\n     [{auth_mechanisms,",
    ),
    ("rabbitmq-diagnostics cluster_status", "Running Nodes"),
    (
        "rabbitmqctl list_feature_flags name state stability",
        "stream_queue\tenabled\trequired\n",
    ),
    (
        "rabbitmqctl list_deprecated_features",
        "global_qos\tpermitted_by_default\n",
    ),
    (
        r#"rabbitmqctl set_parameter shovel s {"src-uri":"amqp://","dest-uri":"amqp://","src-queue":"a","dest-queue":"b"}"#,
        "Setting runtime parameter \"s\" for component \"shovel\"",
    ),
    ("rabbitmqctl shovel_status", "source_protocol"),
    (
        "rabbitmqctl delete_shovel s",
        "Deleting shovel s in vhost /",
    ),
    ("rabbitmq-plugins list -E -m", "rabbitmq_management\n"),
    ("rabbitmq-plugins list", "[E*] rabbitmq_prometheus "),
    ("rabbitmq-plugins directories -s", "Enabled plugins file: "),
    (
        "rabbitmq-plugins set rabbitmq_management rabbitmq_prometheus",
        "rabbitmq_prometheus\n",
    ),
    (
        "rabbitmq-plugins disable rabbitmq_management --offline",
        "rabbitmq_management\n",
    ),
    (
        "rabbitmq-queues rebalance all",
        "Re-balancing leaders of all queues",
    ),
    (
        "rabbitmq-queues rebalance quorum --vhost-pattern x --queue-pattern y",
        "quorum queues",
    ),
    (
        "rabbitmq-upgrade post_upgrade",
        "Executing post upgrade tasks",
    ),
    (
        "rabbitmq-upgrade await_online_synchronized_mirror -t 3",
        "3 seconds",
    ),
    (
        "rabbitmq-upgrade await_online_quorum_plus_one -t 3",
        "does not apply",
    ),
    (
        "rabbitmq-queues check_if_node_is_mirror_sync_critical",
        "does not apply",
    ),
    (
        "rabbitmqctl close_all_user_connections nobody bye",
        "Closing all connections of user nobody",
    ),
    ("rabbitmqctl trace_on", "Trace enabled for vhost /"),
    ("rabbitmqctl trace_off", "Trace disabled for vhost /"),
    ("rabbitmqctl force_gc", ""),
    ("rabbitmqctl suspend_listeners", "Will suspend"),
    ("rabbitmqctl resume_listeners", "Will resume"),
    (
        "rabbitmqctl list_unresponsive_queues",
        "Listing unresponsive queues",
    ),
    (
        "rabbitmqctl enable_vhost_deletion_protection w",
        "Protecting virtual host 'w'",
    ),
    (
        "rabbitmqctl disable_vhost_deletion_protection w",
        "Removing deletion protection",
    ),
    ("rabbitmqctl delete_vhost w", "Deleting vhost"),
    ("rabbitmqctl wait --pid 1 -t 9", "Waiting for pid 1"),
    (
        "rabbitmq-diagnostics -q cipher_suites",
        "ECDHE-RSA-AES256-GCM-SHA384\n",
    ),
    (
        "rabbitmq-diagnostics cipher_suites --format erlang",
        "[{cipher,<<\"aes_256_gcm\">>},{key_exchange,<<\"ecdhe_rsa\">>},{mac,<<\"aead\">>}",
    ),
    ("rabbitmq-diagnostics -q tls_versions", "tlsv1.3\ntlsv1.2\n"),
    (
        "rabbitmq-diagnostics resolve_hostname localhost --address-family ipv4",
        "127.0.0.1\n",
    ),
    ("rabbitmqctl list_ciphers", "[aes_128_cbc, aes_256_cbc]\n"),
    ("rabbitmqctl list_hashes", "[sha256, sha512]\n"),
    // As RabbitMQ 4.0.5's own tool wrote it.
    (
        "rabbitmqctl -q decode {encrypted,<<\"DGRTWzyKa17fwzBxHbFaVh/5gbUh+jcnv5Nt2OM968hyOkir+0+2368RU7OiyDwJ\">>} pw",
        "<<\"hello\">>\n",
    ),
];

#[test]
fn what_scripts_run_succeeds_and_says_what_they_look_for() {
    if skipped_on_foreign("the command line") {
        return;
    }
    let tools = Tools::start();
    for (line, words) in SCRIPTED {
        let said = tools.ok(line);
        assert!(said.contains(words), "{line}: {said}");
    }
    let sealed = tools.ok("rabbitmqctl -q encrypt_conf_value open~sesame pw --cipher aes_256_cbc");
    let sealed = sealed.trim();
    assert!(sealed.starts_with("encrypted:"), "{sealed}");
    let open = format!("rabbitmqctl -q decrypt_conf_value {sealed} pw --cipher aes_256_cbc");
    tools.says(&open, "open sesame\n");
    tools.fails(
        &format!("rabbitmqctl decrypt_conf_value {sealed} no"),
        69,
        "Failed to decrypt",
    );
    tools.fails(
        "rabbitmqctl encode x pw --hash md5",
        64,
        "hash is not supported",
    );
    for line in [
        "grow rabbit@b all",
        "shrink rabbit@b",
        "add_member q rabbit@b",
        "delete_member q rabbit@b",
        "transfer_leadership q rabbit@b",
    ] {
        let line = format!("rabbitmq-queues {line}");
        tools.fails(&line, 70, "replicas of their broker set");
    }
    tools.fails("rabbitmqctl force_boot", 70, "never serves without");
    tools.fails(
        "rabbitmq-diagnostics cipher_suites --format iana",
        64,
        "openssl, erlang or map",
    );
}
