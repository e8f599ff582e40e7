//! What operators do to a cluster, and what its disks and certificates may do to it: damage that peers repair, joining by
//! command, discovery by DNS, TLS between nodes, more nodes than a set has replicas.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{PATIENCE, connect, declared, persistent, put};
use compat_tests::cluster::{Net, Shape, TestCluster};
use compat_tests::{eventually, skipped_on_foreign};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicGetOptions, BasicPublishOptions};
use lapin::types::FieldTable;

const READY_LINE: &str = "Server startup complete";
const MESSAGES: usize = 6000;

fn body(number: usize) -> Vec<u8> {
    let mut body = format!("{number:08} of the members' test ").into_bytes();
    body.resize(1000, b'.');
    body
}

async fn fill(url: &str, queue: &str) {
    let connection = connect(url).await;
    let channel = declared(&connection, queue, FieldTable::default()).await;
    let mut waiting = Vec::new();
    for number in 0..MESSAGES {
        let (options, body) = (BasicPublishOptions::default(), body(number));
        let sent = channel.basic_publish("".into(), queue.into(), options, &body, persistent());
        waiting.push(sent.await.expect("sent"));
    }
    for confirm in waiting {
        assert!(confirm.await.expect("answered").is_ack());
    }
}

async fn take_all(url: &str, queue: &str) {
    let connection = connect(url).await;
    let channel = declared(&connection, queue, FieldTable::default()).await;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consuming = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    let mut deliveries = consuming.await.expect("consuming");
    for number in 0..MESSAGES {
        let delivery = tokio::time::timeout(PATIENCE, deliveries.next()).await;
        let delivery = delivery.unwrap_or_else(|_| panic!("message {number} does not come"));
        assert_eq!(delivery.unwrap().unwrap().data, body(number), "{number}");
    }
}

/// Segments below `folder` that hold the messages from `from` to before `to`, and where each of these begins.
fn holders(folder: &Path, numbers: std::ops::Range<usize>) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    let sets = std::fs::read_dir(folder.join("sets")).expect("sets");
    for set in sets {
        for file in std::fs::read_dir(set.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|one| one != "seg") {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            for number in numbers.clone() {
                let text = &body(number)[..30];
                let at = bytes.windows(30).position(|part| part == text);
                found.extend(at.map(|at| (path.clone(), at)));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_damaged_what_it_acknowledged_has_it_again_from_its_peers() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let mut cluster = TestCluster::new(&Shape {
        settings: vec![
            ("leveret.segment_size", "1MiB".to_owned()),
            // No snapshot but at the stop, which keeps the log.
            ("leveret.snapshot_every", "1GiB".to_owned()),
        ],
        ..Shape::default()
    });
    cluster.start_all();
    cluster.settled();
    fill(&cluster.url(0), "damaged").await;
    cluster.caught_up(PATIENCE);
    cluster.terminate(2);
    cluster.wait_end(2);
    // In different segments, of which none is the newest.
    let mut damaged = 0;
    for number in [100, 2500, 2501, 4000] {
        for (path, at) in holders(cluster.data_dir(2), number..number + 1) {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at + 40] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 4);
    cluster.start_all();
    let log = cluster.log(2);
    assert!(log.contains("a damaged segment was repaired"), "{log}");
    cluster.caught_up(PATIENCE);
    // Nobody else is asked for bodies: the other two are gone, and the node alone reads its own files again.
    cluster.terminate(2);
    cluster.wait_end(2);
    assert_eq!(holders(cluster.data_dir(2), 2500..2502).len(), 2);
    cluster.start_all();
    take_all(&cluster.url(2), "damaged").await;
    assert!(!cluster.log(2).contains("was read from another replica"));
}

fn field<'a>(row: &'a str, rows: &'a str) -> Option<&'a str> {
    rows.lines().find(|line| line.contains(row))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_alone_joins_a_running_cluster_by_command() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let cluster = TestCluster::start();
    let mut lone = TestCluster::new(&Shape {
        nodes: 1,
        ..Shape::default()
    });
    lone.start_all();
    let member = cluster.peer_address(0);
    let connection = connect(&lone.url(0)).await;
    let channel = declared(&connection, "precious", FieldTable::default()).await;
    let refused = lone.operate(0, &["join", &member]).unwrap_err();
    assert!(refused.contains("queues, which would be lost"), "{refused}");
    channel
        .queue_delete(
            "precious".into(),
            lapin::options::QueueDeleteOptions::default(),
        )
        .await
        .expect("deleted");
    let own = lone.peer_address(0);
    let refused = lone.operate(0, &["join", &own]).unwrap_err();
    assert!(refused.contains("own cluster"), "{refused}");
    let told = lone.operate(0, &["join", &member]).unwrap();
    assert!(told.contains("starts again as a member"), "{told}");
    eventually(PATIENCE, || {
        (lone.log(0).matches(READY_LINE).count() == 2).then_some(())
    });
    let status = cluster.operate(0, &["status"]).unwrap();
    let name = own.split(':').next().unwrap();
    let row = field(name, &status).unwrap_or_else(|| panic!("{status}"));
    assert!(row.starts_with("  4 ") && row.contains("up"), "{status}");
    let status = cluster.operate(1, &["status", "--json"]).unwrap();
    assert!(
        status.starts_with('{')
            && status.contains("\"nodes\":[")
            && status.contains("\"here\":\"up\""),
        "{status}"
    );
    let channel = declared(&connect(&lone.url(0)).await, "ours", FieldTable::default()).await;
    assert!(put(&channel, "ours", b"by the new one").await.unwrap());
    let channel = declared(
        &connect(&cluster.url(1)).await,
        "ours",
        FieldTable::default(),
    )
    .await;
    let got = channel
        .basic_get("ours".into(), BasicGetOptions { no_ack: true })
        .await
        .unwrap();
    assert_eq!(got.expect("a message").delivery.data, b"by the new one");
    let refused = cluster.operate(2, &["join", &own]).unwrap_err();
    assert!(refused.contains("a cluster with others"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_of_five_nodes_serves_every_set_also_those_without_a_replica_there() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let mut cluster = TestCluster::new(&Shape {
        nodes: 5,
        ..Shape::default()
    });
    cluster.start_all();
    let sets = cluster.settled();
    assert_eq!(sets.len(), 5);
    for node in 0..5 {
        let held = cluster.sets(node).expect("metrics").len() - 1;
        assert_eq!(held, 3, "node {node} holds replicas of three sets");
    }
    let queues: Vec<String> = (0..10).map(|number| format!("five-{number}")).collect();
    for node in 0..5 {
        let connection = connect(&cluster.url(node)).await;
        for queue in &queues {
            let channel = declared(&connection, queue, FieldTable::default()).await;
            assert!(put(&channel, queue, &[node as u8]).await.unwrap());
        }
    }
    // Each is read through another node than it came by.
    for (at, queue) in queues.iter().enumerate() {
        for sent in 0..5_u8 {
            let node = (at + usize::from(sent)) % 5;
            let channel = connect(&cluster.url(node))
                .await
                .create_channel()
                .await
                .unwrap();
            let got = channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true });
            let got = got.await.unwrap().expect("a message");
            assert_eq!(got.delivery.data, [sent], "{queue} at {node}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_find_each_other_by_a_name_that_stands_for_all_of_them() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let Some(net) = Net::namespaces(3) else {
        return;
    };
    if let Err(why) = net.name_all("cluster.leveret.test") {
        println!("skipped: names cannot be given to the nodes: {why}");
        return;
    }
    let mut cluster = TestCluster::on(
        net,
        &Shape {
            settings: vec![
                ("cluster_formation.peer_discovery_backend", "dns".to_owned()),
                (
                    "cluster_formation.dns.hostname",
                    "cluster.leveret.test".to_owned(),
                ),
            ],
            ..Shape::default()
        },
    );
    cluster.start_all();
    assert_eq!(cluster.settled().len(), 3);
    let channel = declared(
        &connect(&cluster.url(0)).await,
        "dns",
        FieldTable::default(),
    )
    .await;
    assert!(put(&channel, "dns", b"found").await.unwrap());
}

/// Authority, certificate and key for nodes at `hosts`, in `folder`; why not, if they cannot be made.
fn certificates(folder: &Path, hosts: &[String]) -> Result<[PathBuf; 3], String> {
    let openssl = |words: &[&str]| {
        let out = Command::new("openssl")
            .args(words)
            .current_dir(folder)
            .output();
        let out = out.map_err(|error| format!("openssl: {error}"))?;
        match out.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    };
    let names: Vec<String> = hosts.iter().map(|host| format!("IP:{host}")).collect();
    let text = format!(
        "subjectAltName={}\nextendedKeyUsage=serverAuth,clientAuth\n",
        names.join(",")
    );
    std::fs::write(folder.join("ext"), text).map_err(|error| error.to_string())?;
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let own = [
        "req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca",
    ];
    openssl(&[&own[..], &key[..]].concat())?;
    let node = [
        "req", "-keyout", "key.pem", "-out", "csr", "-subj", "/CN=node",
    ];
    openssl(&[&node[..], &key[..]].concat())?;
    let signed = [
        "x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key",
    ];
    let into = ["-CAcreateserial", "-out", "cert.pem", "-extfile", "ext"];
    openssl(&[&signed[..], &into[..]].concat())?;
    Ok(["ca.pem", "cert.pem", "key.pem"].map(|name| folder.join(name)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_certificates_of_one_authority_talk_and_others_are_not_heard() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let (net, folder) = (Net::loopback(3), tempfile::tempdir().unwrap());
    let hosts: Vec<String> = (0..3).map(|node| net.host(node)).collect();
    let files = match certificates(folder.path(), &hosts) {
        Ok(files) => files,
        Err(why) => return println!("skipped: no certificates can be made: {why}"),
    };
    let [ca, certificate, key] = files.map(|path| path.display().to_string());
    let mut cluster = TestCluster::on(
        net,
        &Shape {
            settings: vec![
                ("leveret.cluster.tls.cacertfile", ca),
                ("leveret.cluster.tls.certfile", certificate),
                ("leveret.cluster.tls.keyfile", key),
            ],
            ..Shape::default()
        },
    );
    cluster.start_all();
    cluster.settled();
    let channel = declared(
        &connect(&cluster.url(0)).await,
        "tls",
        FieldTable::default(),
    )
    .await;
    assert!(put(&channel, "tls", b"sealed").await.unwrap());
    let status = cluster.operate(1, &["status"]).unwrap();
    assert_eq!(status.matches(" up").count(), 3, "{status}");
    // The right secret and no certificate.
    let mut plain = TestCluster::new(&Shape {
        nodes: 1,
        settings: vec![("leveret.cluster.join", cluster.peer_address(0))],
        ..Shape::default()
    });
    plain.spawn(0);
    eventually(PATIENCE, || {
        plain
            .log(0)
            .contains("a peer gives no answer")
            .then_some(())
    });
    assert!(!plain.is_ready(0));
}

/// A cluster of one node that listens for peers.
fn lone() -> TestCluster {
    let mut lone = TestCluster::new(&Shape {
        nodes: 1,
        ..Shape::default()
    });
    lone.start_all();
    lone
}

/// The names of the nodes that `rabbitmqctl cluster_status` says run, beside the first node of `cluster`.
fn running(cluster: &TestCluster) -> Vec<String> {
    let status = cluster.tool(0, "rabbitmqctl cluster_status --formatter json");
    let status: serde_json::Value = serde_json::from_str(&status.expect("a status")).unwrap();
    let names = status["running_nodes"].as_array().expect("running nodes");
    let mut names: Vec<String> = names
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_made_and_unmade_with_rabbitmqctl() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let [first, second, third] = [lone(), lone(), lone()];
    let all = || {
        let mut names = [&first, &second, &third].map(|one| one.name(0).to_owned());
        names.sort();
        names
    };
    let ok = |node: &TestCluster, line: &str| {
        let said = node.tool(0, line);
        said.unwrap_or_else(|error| panic!("{line}: {error}"))
    };
    let refused = |node: &TestCluster, line: &str, words: &str| {
        let said = node.tool(0, line).unwrap_err();
        assert!(said.contains(words), "{line}: {said}");
    };
    let member = first.name(0).to_owned();
    let join = format!("rabbitmqctl join_cluster {member}");

    refused(&second, &join, "stop_app");
    ok(&second, "rabbitmqctl add_user own p");
    ok(&second, "rabbitmqctl stop_app");
    // Nobody else may have the folder because the node does not serve.
    let own = format!("{:?}", second.data_dir(0));
    let other = Command::new(compat_tests::binary())
        .args([
            "--data-dir",
            own.trim_matches('"'),
            "--listen",
            "127.0.0.1:0",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(
        !other.status.success() && said.contains("in use by another process"),
        "{said}"
    );
    refused(
        &second,
        "rabbitmqctl join_cluster rabbit@127.0.0.0",
        "127.0.0.0",
    );
    ok(&second, &join);
    ok(&second, "rabbitmqctl start_app");
    ok(&third, "rabbitmqctl stop_app");
    ok(&third, "rabbitmqctl reset");
    ok(&third, &join);
    ok(&third, "rabbitmqctl start_app");
    for node in [&first, &second, &third] {
        eventually(PATIENCE, || (running(node) == all()).then_some(()));
        assert!(!ok(node, "rabbitmqctl -s list_users").contains("own"));
    }
    ok(&first, "rabbitmqctl add_user ours p");
    eventually(PATIENCE, || {
        let users = third.tool(0, "rabbitmqctl -s list_users").ok()?;
        users.contains("ours").then_some(())
    });
    // Replicas have spread: the loss of any one node is survived from here on.
    eventually(PATIENCE, || {
        let status = first.operate(0, &["status"]).ok()?;
        let spread = |set: &str| set.split_whitespace().nth(1) == Some("1,2,3");
        let sets = status
            .split("Broker sets")
            .nth(1)?
            .split("Replicas")
            .next()?;
        let sets: Vec<&str> = sets
            .lines()
            .skip(2)
            .filter(|line| !line.trim().is_empty())
            .collect();
        (sets.len() >= 3 && sets.iter().all(|set| spread(set))).then_some(())
    });
    let channel = declared(&connect(&first.url(0)).await, "kept", FieldTable::default()).await;
    for number in 0..100_u8 {
        assert!(put(&channel, "kept", &[number]).await.unwrap());
    }

    // A node that is drained serves nobody, and is a member all the same.
    ok(
        &second,
        "rabbitmq-upgrade await_online_quorum_plus_one -t 60",
    );
    ok(&second, "rabbitmq-upgrade drain");
    let gone = eventually(PATIENCE, || {
        std::net::TcpStream::connect(format!("{}:5672", second.name(0).split('@').nth(1)?)).err()
    });
    assert_eq!(gone.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(running(&first), all());
    ok(&second, "rabbitmq-upgrade revive");
    eventually(PATIENCE, || {
        std::net::TcpStream::connect(format!("{}:5672", second.name(0).split('@').nth(1)?)).ok()
    });

    // One that is stopped is missed, and back with what it had.
    ok(&third, "rabbitmqctl stop_app");
    eventually(PATIENCE, || (running(&first).len() == 2).then_some(()));
    refused(&third, &join, "a cluster with others");
    ok(&third, "rabbitmqctl start_app");
    eventually(PATIENCE, || (running(&first) == all()).then_some(()));

    // It leaves by itself, and is its own cluster.
    ok(&third, "rabbitmqctl stop_app");
    ok(&third, "rabbitmqctl reset");
    eventually(PATIENCE, || {
        let status = ok(&first, "rabbitmqctl cluster_status");
        (!status.contains(third.name(0))).then_some(())
    });
    ok(&third, "rabbitmqctl start_app");
    assert_eq!(running(&third), [third.name(0)]);
    ok(&third, "rabbitmqctl stop_app");
    ok(&third, &join);
    ok(&third, "rabbitmqctl start_app");
    eventually(PATIENCE, || (running(&first) == all()).then_some(()));

    // It is taken out by another while it does not serve, and can come back.
    eventually(PATIENCE, || {
        let said = second.tool(0, "rabbitmq-upgrade await_online_quorum_plus_one -t 5");
        said.ok()
    });
    ok(&third, "rabbitmqctl stop_app");
    refused(
        &first,
        "rabbitmqctl forget_cluster_node rabbit@nobody",
        "rabbit@nobody",
    );
    let forget = format!("rabbitmqctl forget_cluster_node {}", third.name(0));
    ok(&first, &forget);
    eventually(PATIENCE, || {
        let status = ok(&second, "rabbitmqctl cluster_status");
        (!status.contains(third.name(0))).then_some(())
    });
    ok(&third, "rabbitmqctl reset");
    ok(&third, &join);
    ok(&third, "rabbitmqctl start_app");
    eventually(PATIENCE, || (running(&second) == all()).then_some(()));
    let channel = connect(&third.url(0)).await.create_channel().await.unwrap();
    for number in 0..100_u8 {
        let got = channel.basic_get("kept".into(), BasicGetOptions { no_ack: true });
        let got = got.await.unwrap().expect("a message");
        assert_eq!(got.delivery.data, [number]);
    }
}
