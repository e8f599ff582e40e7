//! What operators configure of the management API, the metrics and the log, and what they are told of certificates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::web::{get, plain, send};
use compat_tests::cluster::{Shape, TestCluster};
use compat_tests::{Broker, Certificates, eventually, free_port, skipped_on_foreign};
use lapin::{Connection, ConnectionProperties};
use serde_json::{Value, json};

const GUEST: Option<&str> = Some("guest:guest");

fn port(url: &str) -> u16 {
    let address = url.split('/').nth(2).unwrap();
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// A connection to the management API.
fn api(broker: &Broker) -> TcpStream {
    plain(port(&broker.management_url()))
}

fn scrapes(broker: &Broker) -> TcpStream {
    plain(port(&broker.metrics_url()))
}

fn asked(broker: &Broker, path: &str) -> Value {
    let (status, body) = get(api(broker), &format!("/api/{path}"), GUEST);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// The whole answer, headers in small letters.
fn answered(mut stream: TcpStream, request: &str) -> String {
    let request = request.replace('\n', "\r\n") + "\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.to_lowercase()
}

#[test]
fn metrics_are_where_and_for_whom_they_are_configured() {
    if skipped_on_foreign("a broker's own configuration") {
        return;
    }
    let broker = Broker::start_with(&[
        ("prometheus.authentication.enabled", "true"),
        ("prometheus.path", "/watch/me/"),
    ]);
    let user = json!({"password": "p", "tags": "management"}).to_string();
    assert_eq!(
        send(api(&broker), "PUT", "/api/users/plain", GUEST, &user).0,
        201
    );
    for path in ["", "/per-object", "/detailed", "/memory-breakdown"] {
        let path = format!("/watch/me{path}");
        assert_eq!(get(scrapes(&broker), &path, None).0, 401, "{path}");
        assert_eq!(
            get(scrapes(&broker), &path, Some("guest:no")).0,
            401,
            "{path}"
        );
        // Who may manage may not watch.
        let (status, said) = get(scrapes(&broker), &path, Some("plain:p"));
        assert!(
            status == 401 && said.contains("Not monitor user"),
            "{path}: {said}"
        );
        let (status, said) = get(scrapes(&broker), &path, GUEST);
        assert!(
            status == 200 && said.contains("rabbitmq_identity_info{"),
            "{path}: {said}"
        );
    }
    let challenge = answered(scrapes(&broker), "GET /watch/me HTTP/1.1\nHost: x");
    assert!(
        challenge.contains("www-authenticate: basic realm=\"rabbitmq prometheus\""),
        "{challenge}"
    );
    assert_eq!(get(scrapes(&broker), "/metrics", GUEST).0, 404);
}

#[test]
fn the_api_has_the_prefix_headers_and_restrictions_that_are_configured() {
    if skipped_on_foreign("a broker's own configuration") {
        return;
    }
    let broker = Broker::start_with(&[
        ("management.path_prefix", "/broker/one"),
        ("management.login_session_timeout", "30"),
        ("management.cors.allow_origins.1", "https://ops.example"),
        ("management.cors.max_age", "120"),
        ("management.csp.policy", "default-src 'self'"),
        ("management.hsts.policy", "max-age=31536000"),
        ("management.headers.frame_options", "DENY"),
        ("management.headers.content_type_options", "nosniff"),
        ("management.disable_stats", "true"),
        (
            "management.restrictions.operator_policy_changes.disabled",
            "true",
        ),
    ]);
    assert_eq!(get(api(&broker), "/api/overview", GUEST).0, 404);
    assert_eq!(get(api(&broker), "/broker/oneapi/overview", GUEST).0, 404);
    let ask = |path: &str| {
        let (status, body) = get(api(&broker), &format!("/broker/one/api/{path}"), GUEST);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    assert_eq!(ask("whoami")["login_session_timeout"], 30);
    let overview = ask("overview");
    assert!(
        overview.get("message_stats").is_none() && overview["disable_stats"] == true,
        "{overview}"
    );
    assert_eq!(overview["is_op_policy_updating_enabled"], false);
    assert_eq!(overview["contexts"][0]["path"], "/broker/one");
    let (status, said) = get(api(&broker), "/broker/one/api/consumers", GUEST);
    assert!(
        status == 400 && said.contains("Stats in management UI are disabled"),
        "{said}"
    );
    let policy = json!({"pattern": "x", "definition": {"max-length": 1}}).to_string();
    for (kind, want) in [("operator-policies", 405), ("policies", 201)] {
        let path = format!("/broker/one/api/{kind}/%2F/p");
        assert_eq!(
            send(api(&broker), "PUT", &path, GUEST, &policy).0,
            want,
            "{kind}"
        );
    }

    let from = |origin: &str, method: &str| {
        let request = format!(
            "{method} /broker/one/api/whoami HTTP/1.1\nHost: x\nOrigin: {origin}\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\n\
             Access-Control-Request-Headers: authorization"
        );
        answered(api(&broker), &request)
    };
    let friend = from("https://ops.example", "GET");
    for line in [
        "access-control-allow-origin: https://ops.example",
        "access-control-allow-credentials: true",
        "strict-transport-security: max-age=31536000",
        "x-frame-options: deny",
        "x-content-type-options: nosniff",
        "content-security-policy: default-src 'self'",
    ] {
        assert!(friend.contains(line), "{line} in {friend}");
    }
    assert!(!friend.contains("script-src"), "{friend}");
    let before = from("https://ops.example", "OPTIONS");
    for line in [
        "access-control-allow-methods: head, get, options",
        "access-control-allow-headers: authorization",
        "access-control-max-age: 120",
    ] {
        assert!(before.contains(line), "{line} in {before}");
    }
    assert!(!from("https://evil.example", "GET").contains("access-control"));
}

#[test]
fn nobody_comes_in_by_a_password_where_that_is_turned_off() {
    if skipped_on_foreign("a broker's own configuration") {
        return;
    }
    let broker = Broker::start_with(&[("management.disable_basic_auth", "true")]);
    assert_eq!(get(api(&broker), "/api/whoami", GUEST).0, 401);
    let form = "username=guest&password=guest";
    assert_eq!(send(api(&broker), "POST", "/api/login", None, form).0, 401);
    assert_eq!(
        get(api(&broker), "/api/health/checks/is-in-service", None).0,
        200
    );
}

#[test]
fn tags_files_and_the_size_a_cluster_should_have_are_told() {
    if skipped_on_foreign("a broker's own configuration") {
        return;
    }
    let broker = Broker::start_with(&[
        ("cluster_tags.region", "north"),
        ("node_tags.rack", "7"),
        ("cluster_formation.target_cluster_size_hint", "3"),
    ]);
    let overview = asked(&broker, "overview");
    assert_eq!(overview["cluster_tags"], json!({"region": "north"}));
    assert_eq!(overview["node_tags"], json!({"rack": "7"}));
    let node = asked(&broker, "nodes")[0].clone();
    let files = node["config_files"].to_string();
    assert!(files.contains("test.conf"), "{files}");
    // Asked without credentials by whoever waits for a start.
    let (status, said) = get(
        api(&broker),
        "/api/health/checks/reached-target-cluster-size",
        None,
    );
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &said["status"]), (503, &json!("failed")), "{said}");
    assert_eq!(
        (&said["online"], &said["target"]),
        (&json!(1), &json!(3)),
        "{said}"
    );
}

#[test]
fn certificates_that_end_soon_fail_the_check_with_their_listener_and_file() {
    if skipped_on_foreign("TLS of a broker's own") {
        return;
    }
    let certificates = Certificates::new();
    let amqp = free_port();
    let mut settings = certificates.settings("ssl_options");
    settings.push(("listeners.ssl.default".to_owned(), amqp.to_string()));
    let settings: Vec<(&str, &str)> = settings.iter().map(|(a, b)| (&**a, &**b)).collect();
    let broker = Broker::start_with(&settings);
    let path = "/api/health/checks/certificate-expiration";
    assert_eq!(get(api(&broker), &format!("{path}/1/days"), GUEST).0, 200);
    // Longer than any certificate of the tests is good for.
    let (status, said) = get(api(&broker), &format!("{path}/5000/years"), GUEST);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &said["status"]), (503, &json!("failed")), "{said}");
    let expired = said["expired"].as_array().unwrap();
    let [one] = &expired[..] else {
        panic!("{said}")
    };
    assert_eq!(
        (&one["protocol"], &one["port"]),
        (&json!("amqp/ssl"), &json!(amqp)),
        "{said}"
    );
    let file = certificates.path("server.pem").display().to_string();
    assert_eq!(one["certfile"], json!(file), "{said}");
    for key in ["certfile_expires_on", "cacertfile_expires_on"] {
        let ends = one[key].as_array().unwrap();
        assert!(
            ends.len() == 1 && ends[0].as_str().unwrap().len() == 19,
            "{key}: {said}"
        );
    }
}

#[test]
fn a_key_press_stops_no_broker() {
    if skipped_on_foreign("signals") {
        return;
    }
    let mut broker = Broker::start();
    for name in ["TSTP", "WINCH"] {
        broker.signal(name);
        assert_eq!(asked(&broker, "whoami")["name"], "guest", "after {name}");
    }
    broker.stop();
}

/// What people and their log collectors look for, as RabbitMQ writes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connections_life_is_in_the_log_in_rabbitmqs_words() {
    if skipped_on_foreign("the log") {
        return;
    }
    let broker = Broker::start();
    let named = ConnectionProperties::default().with_connection_name("hare-1".into());
    let connection = Connection::connect(broker.url(), named).await.unwrap();
    connection.close(200, "bye".into()).await.unwrap();
    let wrong = broker.url().replace("guest:guest", "guest:secret-word");
    assert!(
        Connection::connect(&wrong, ConnectionProperties::default())
            .await
            .is_err()
    );
    let words = [
        "has a client-provided name: hare-1",
        "user 'guest' authenticated and granted access to vhost '/'",
        "closing AMQP connection (",
        "PLAIN login refused: user 'guest' - invalid credentials",
    ];
    let log = eventually(Duration::from_secs(20), || {
        let log = broker.log();
        words.iter().all(|words| log.contains(words)).then_some(log)
    });
    assert!(!log.contains("secret-word"), "{log}");
    for line in log
        .lines()
        .filter(|line| line.contains("AMQP") || line.contains("login"))
    {
        let (stamp, rest) = line.split_at(32);
        assert!(
            stamp.starts_with("20") && stamp.ends_with("+00:00"),
            "{line}"
        );
        assert!(rest.starts_with(" [") && rest.contains("] <0."), "{line}");
    }
}

#[test]
fn no_more_vhosts_are_made_than_are_configured() {
    if skipped_on_foreign("a broker's own configuration") {
        return;
    }
    let broker = Broker::start_with(&[("vhost_max", "2")]);
    let put = |name: &str| {
        send(
            api(&broker),
            "PUT",
            &format!("/api/vhosts/{name}"),
            GUEST,
            "",
        )
        .0
    };
    assert_eq!((put("a"), put("a"), put("%2F")), (201, 204, 204));
    let (status, said) = send(api(&broker), "PUT", "/api/vhosts/b", GUEST, "");
    assert!(
        status == 400 && said.contains("vhost limit of 2 is reached"),
        "{said}"
    );
    let more = json!({"vhosts": [{"name": "a"}, {"name": "c"}]}).to_string();
    let (status, said) = send(api(&broker), "POST", "/api/definitions", GUEST, &more);
    assert!(
        status == 400 && said.contains("vhost limit of 2 is reached"),
        "{said}"
    );
    assert_eq!(asked(&broker, "vhosts").as_array().unwrap().len(), 2);
}

/// Three nodes: what is asked of one about another is the other's, and the cluster is complete while all of them run.
#[test]
fn any_node_tells_of_another_and_of_the_size_of_the_cluster() {
    if skipped_on_foreign("a cluster of ours") {
        return;
    }
    let mut cluster = TestCluster::new(&Shape {
        settings: vec![("cluster_formation.target_cluster_size_hint", "3".to_owned())],
        ..Shape::default()
    });
    cluster.start_all();
    let hosts: Vec<String> = (0..3)
        .map(|node| {
            let url = cluster.url(node);
            let authority = url.rsplit_once('@').unwrap().1;
            authority.split(':').next().unwrap().to_owned()
        })
        .collect();
    let web = |node: usize| {
        let stream = TcpStream::connect((&*hosts[node], 15672)).unwrap();
        stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
        stream
    };
    let ask = |node: usize, path: &str| get(web(node), &format!("/api/{path}"), GUEST);
    for _ in 0..3 {
        assert_eq!(ask(2, "whoami").0, 200);
    }
    let names: Vec<String> = (0..3).map(|node| cluster.name(node).to_owned()).collect();
    let attempts = |of: usize| {
        let (status, said) = ask(0, &format!("auth/attempts/{}", names[of]));
        assert_eq!(status, 200, "{said}");
        let rows: Vec<Value> = serde_json::from_str(&said).unwrap();
        let http = rows.iter().find(|row| row["protocol"] == "http").unwrap();
        http["auth_attempts_succeeded"].as_u64().unwrap()
    };
    assert_eq!((attempts(1), attempts(2)), (0, 3));
    let reset = format!("/api/auth/attempts/{}", names[2]);
    assert_eq!(send(web(0), "DELETE", &reset, GUEST, "").0, 204);
    assert_eq!(attempts(2), 0);
    let called: Vec<String> = (0..3).map(|node| ask(node, "cluster-name").1).collect();
    assert!(
        called
            .iter()
            .all(|name| *name == called[0] && name.contains("rabbit@")),
        "{called:?}"
    );
    let size = || ask(0, "health/checks/reached-target-cluster-size");
    assert_eq!(size().0, 200);
    cluster.kill(1);
    let said = eventually(Duration::from_secs(20), || {
        let (status, said) = size();
        (status == 503).then_some(said)
    });
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&said["online"], &said["target"]),
        (&json!(2), &json!(3)),
        "{said}"
    );
}

#[test]
fn shovels_make_no_queues_where_that_is_configured_and_their_definitions_do_not_say_otherwise() {
    if skipped_on_foreign("a broker's own configuration") {
        return;
    }
    let broker = Broker::start_with(&[("shovel.topology.predeclared", "true")]);
    let defined = |name: &str, more: Value| {
        let mut value = json!({
            "src-uri": "amqp://", "dest-uri": "amqp://", "src-queue": name, "dest-queue": name,
        });
        value
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let path = format!("/api/parameters/shovel/%2F/{name}");
        let body = json!({"value": value}).to_string();
        assert_eq!(send(api(&broker), "PUT", &path, GUEST, &body).0, 201);
        eventually(Duration::from_secs(10), || {
            let all = asked(&broker, "shovels");
            let row = all.as_array()?.iter().find(|row| row["name"] == name)?;
            (row["state"] != "starting").then(|| row.clone())
        })
    };
    let row = defined("silent", json!({}));
    assert_eq!(row["reason"], "NOT_FOUND - no queue 'silent' in vhost '/'");
    let says = json!({"src-predeclared": false, "dest-predeclared": false});
    assert_eq!(defined("says", says)["state"], "running");
}

#[test]
fn new_passwords_are_hashed_and_as_long_as_configured() {
    if skipped_on_foreign("a broker's own configuration") {
        return;
    }
    let put = |broker: &Broker, password: &str| {
        let body = json!({"password": password, "tags": "management"}).to_string();
        send(api(broker), "PUT", "/api/users/hare", GUEST, &body)
    };
    let long = Broker::start_with(&[
        ("password_hashing_module", "rabbit_password_hashing_sha512"),
        (
            "credential_validator.validation_backend",
            "rabbit_credential_validator_min_password_length",
        ),
        ("credential_validator.min_length", "8"),
    ]);
    let (status, said) = put(&long, "1234567");
    assert!(
        status == 400 && said.contains("minimum required password length: 8"),
        "{said}"
    );
    assert_eq!(put(&long, "12345678").0, 201);
    assert_eq!(
        asked(&long, "users/hare")["hashing_algorithm"],
        "rabbit_password_hashing_sha512"
    );
    assert_eq!(get(api(&long), "/api/whoami", Some("hare:12345678")).0, 200);
    let like = Broker::start_with(&[
        (
            "credential_validator.validation_backend",
            "rabbit_credential_validator_password_regexp",
        ),
        ("credential_validator.regexp", "^(?=.*[0-9])(?=.*[a-z]).{4}"),
    ]);
    for (password, status) in [("abcde", 400), ("12345", 400), ("a1b2", 201)] {
        assert_eq!(put(&like, password).0, status, "{password}");
    }
}
