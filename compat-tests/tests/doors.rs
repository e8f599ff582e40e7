//! What stands at the door: TLS of every listener and its reload, the PROXY protocol, definitions read at the start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use common::raw::Raw;
use common::web::{get, plain, secured, send};
use compat_tests::{
    Broker, Certificates, TempDir, eventually, free_port, skipped_on_foreign, suite_dir,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn started(settings: &[(String, String)]) -> Broker {
    let settings: Vec<_> = settings
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    Broker::start_with(&settings)
}

fn refused(settings: &[(&str, &str)]) -> String {
    let folder = TempDir::new().expect("a temporary folder");
    match Broker::attempt(folder, settings) {
        Ok(_) => panic!("started with {settings:?}"),
        Err(refused) => refused.stderr,
    }
}

fn management(broker: &Broker) -> u16 {
    let url = broker.management_url();
    url.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn every_listener_serves_tls_and_takes_new_certificates_at_a_signal() {
    if skipped_on_foreign("TLS of a broker's own") {
        return;
    }
    let mut certificates = Certificates::new();
    let [amqp, api, metrics] = [free_port(), free_port(), free_port()];
    let mut settings = Vec::new();
    for prefix in ["ssl_options", "management.ssl", "prometheus.ssl"] {
        settings.extend(certificates.settings(prefix));
    }
    for (key, port) in [
        ("listeners.ssl.default", amqp),
        ("management.ssl.port", api),
        ("prometheus.ssl.port", metrics),
    ] {
        settings.push((key.to_owned(), port.to_string()));
    }
    let mut broker = started(&settings);
    assert!(
        broker
            .log()
            .contains(&format!("started TLS (SSL) listener on [::]:{amqp}"))
    );
    let old = certificates.path("old.pem");
    std::fs::copy(certificates.path("ca.pem"), &old).unwrap();

    let (status, body) = get(
        secured(api, &old).unwrap(),
        "/api/overview",
        Some("guest:guest"),
    );
    assert_eq!(status, 200);
    assert!(
        body.contains("\"amqp/ssl\"") && body.contains("\"https\""),
        "{body}"
    );
    let (status, body) = get(secured(metrics, &old).unwrap(), "/metrics", None);
    assert!(status == 200 && body.contains("rabbitmq_identity_info"));
    let mut stays = secured(amqp, &old).unwrap();

    certificates.replace();
    broker.signal("HUP");
    let new = certificates.path("ca.pem");
    for port in [amqp, api, metrics] {
        eventually(PATIENCE, || secured(port, &new).ok().map(drop));
        assert!(
            secured(port, &old).is_err(),
            "the old certificate is still served"
        );
    }
    // A connection that was open goes on under the old one.
    stays.write_all(b"AMQP\0\0\x09\x01").unwrap();
    let mut start = [0; 11];
    stays.read_exact(&mut start).unwrap();
    assert_eq!(start[7..], [0, 10, 0, 10]);

    // Half a file changes nothing.
    std::fs::write(certificates.path("server.pem"), "-----BEGIN CERT").unwrap();
    broker.signal("HUP");
    eventually(PATIENCE, || {
        broker
            .log()
            .contains("ssl_options stays as it was")
            .then_some(())
    });
    drop(secured(amqp, &new).unwrap());
    broker.stop();
}

#[test]
fn a_certificate_that_cannot_be_served_ends_the_start_with_its_key_and_file() {
    if skipped_on_foreign("a refused start") {
        return;
    }
    let said = refused(&[("listeners.ssl.default", "1")]);
    assert!(said.contains("ssl_options.certfile"), "{said}");
    let said = refused(&[
        ("listeners.ssl.default", "1"),
        ("ssl_options.certfile", "/nowhere/cert.pem"),
        ("ssl_options.keyfile", "/nowhere/key.pem"),
    ]);
    assert!(said.contains("/nowhere/cert.pem"), "{said}");
}

/// Version 2 of the protocol, from 203.0.113.9:4321 to 192.0.2.1:5672.
const BINARY: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\xc0\x00\x02\x01\x10\xe1\x16\x28";

#[test]
fn behind_a_balancer_clients_are_who_it_says_they_are() {
    if skipped_on_foreign("the PROXY protocol") {
        return;
    }
    let settings = [
        ("proxy_protocol", "true"),
        ("loopback_users", "none"),
        ("handshake_timeout", "3000"),
    ];
    let mut broker = Broker::start_with(&settings);
    let through = |header: &[u8]| {
        let mut socket = TcpStream::connect(("127.0.0.1", broker.amqp_port())).unwrap();
        socket.write_all(header).unwrap();
        Raw::over(socket, false)
    };
    let line = through(b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 5672\r\n");
    let six = through(b"PROXY TCP6 2001:db8::7 ::1 56325 5672\r\n");
    let binary = through(BINARY);
    let itself = through(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    let (status, rows) = get(
        plain(management(&broker)),
        "/api/connections?columns=name,peer_host",
        Some("guest:guest"),
    );
    assert_eq!(status, 200);
    for name in [
        "203.0.113.7:56324 -> 192.0.2.1:5672",
        "[2001:db8::7]:56325 -> [::1]:5672",
        "203.0.113.9:4321 -> 192.0.2.1:5672",
        "\"peer_host\":\"127.0.0.1\"",
    ] {
        assert!(rows.contains(name), "{name} is not in {rows}");
    }
    drop((line, six, binary, itself));

    for header in [
        &b"AMQP\0\0\x09\x01"[..],
        b"PROXY TCP4 x y 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x99\0\0",
        b"PROXY ",
    ] {
        let mut socket = plain(broker.amqp_port());
        socket.write_all(header).unwrap();
        let mut answer = Vec::new();
        // Closed, or reset because something was not read; without a word.
        drop(socket.read_to_end(&mut answer));
        assert!(answer.is_empty(), "{header:?} was answered");
    }
    broker.stop();
}

#[test]
fn under_tls_the_proxy_header_comes_before_the_handshake() {
    if skipped_on_foreign("the PROXY protocol") {
        return;
    }
    let certificates = Certificates::new();
    let port = free_port();
    let mut settings = certificates.settings("ssl_options");
    settings.push(("listeners.ssl.default".to_owned(), port.to_string()));
    settings.push(("proxy_protocol".to_owned(), "true".to_owned()));
    settings.push(("handshake_timeout".to_owned(), "3000".to_owned()));
    let broker = started(&settings);
    assert!(secured(port, &certificates.path("ca.pem")).is_err());
    let python = "import socket,ssl,sys\n\
        raw=socket.create_connection(('127.0.0.1',int(sys.argv[1])),20)\n\
        raw.sendall(b'PROXY TCP4 203.0.113.7 192.0.2.1 56324 5672\\r\\n')\n\
        tls=ssl.create_default_context(cafile=sys.argv[2]).wrap_socket(raw,server_hostname='localhost')\n\
        tls.sendall(b'AMQP\\0\\0\\x09\\x01')\n\
        got=b''\n\
        while len(got)<11: got+=tls.recv(100)\n\
        sys.exit(0 if got[7:11]==bytes([0,10,0,10]) else 1)\n";
    let ran = std::process::Command::new("python3")
        .args(["-c", python, &port.to_string()])
        .arg(certificates.path("ca.pem"))
        .status();
    match ran {
        Ok(status) => assert!(status.success(), "{}", broker.log()),
        Err(_) => println!("skipped: there is no python3 here"),
    }
}

fn fixtures() -> std::path::PathBuf {
    suite_dir().join("tests/fixtures")
}

/// All definitions a broker holds, as its own administrator reads them.
fn held(broker: &Broker) -> String {
    let (status, body) = get(
        plain(management(broker)),
        "/api/definitions",
        Some("admin:secret-of-admin"),
    );
    assert_eq!(status, 200, "{body}");
    body
}

fn loading(path: &Path) -> Vec<(String, String)> {
    vec![("load_definitions".to_owned(), path.display().to_string())]
}

#[test]
fn definitions_of_older_and_newer_rabbitmqs_are_imported_at_the_start_and_again_without_change() {
    if skipped_on_foreign("a start with definitions") {
        return;
    }
    for version in ["3.12.14", "3.13.7", "4.1.4"] {
        let mut broker = started(&loading(
            &fixtures().join(format!("rabbitmq-{version}.json")),
        ));
        let before = held(&broker);
        for part in [
            "\"name\":\"orders.eu\"",
            "\"routing_key\":\"eu.#\"",
            "\"name\":\"cert-only\"",
            "\"max-connections\":10",
            "\"operator_policy\"",
            "\"delivery-limit\":5",
            "\"federation-upstream\"",
            "\"alternate-exchange\":\"orders.lost\"",
            "\"x-match\":\"all\"",
            "\"exchange\":\"orders.topic\"",
        ] {
            assert!(
                before.contains(part),
                "{version}: {part} is not in {before}"
            );
        }
        assert!(!before.contains("ha-mode"), "{version}");
        assert!(
            !before.contains("\"name\":\"guest\""),
            "a default user was made"
        );
        let (status, _) = get(
            plain(management(&broker)),
            "/api/whoami",
            Some("guest:guest"),
        );
        assert_eq!(status, 401);
        broker.stop();
        broker.restart();
        assert_eq!(
            held(&broker),
            before,
            "{version}: the second import changed something"
        );
        broker.stop();
    }
}

#[test]
fn a_folder_of_definitions_is_imported_in_order_and_a_wrong_file_ends_the_start() {
    if skipped_on_foreign("a start with definitions") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let all = std::fs::read_to_string(fixtures().join("rabbitmq-4.1.4.json")).unwrap();
    write("10-all.json", &format!("\u{feff}{all}"));
    write(
        "20-more.json",
        r#"{"queues":[{"name":"more","vhost":"orders","durable":true,"auto_delete":false,"arguments":{}}]}"#,
    );
    write("30-not.txt", "not read");
    let settings = [
        (
            "definitions.import_backend".to_owned(),
            "local_filesystem".to_owned(),
        ),
        (
            "definitions.local.path".to_owned(),
            folder.path().display().to_string(),
        ),
    ];
    let mut broker = started(&settings);
    assert!(held(&broker).contains("\"name\":\"more\""));
    broker.stop();

    for (text, want) in [
        ("{", "not_json"),
        (
            r#"{"queues":[{"name":"q","durable":true,"arguments":{}}]}"#,
            "vhost",
        ),
        (
            r#"{"queues":[{"name":"q","vhost":"nowhere","durable":true,"auto_delete":false,"arguments":{}}]}"#,
            "queue q",
        ),
    ] {
        let file = folder.path().join("wrong.json");
        std::fs::write(&file, text).unwrap();
        let said = refused(&[("load_definitions", &file.display().to_string())]);
        assert!(
            said.contains("wrong.json") && said.contains(want),
            "{text}: {said}"
        );
    }
    let said = refused(&[("load_definitions", "/nowhere/d.json")]);
    assert!(said.contains("/nowhere/d.json"), "{said}");
}

#[test]
fn a_signal_takes_over_what_can_change_names_what_cannot_and_refuses_what_is_wrong() {
    if skipped_on_foreign("a reload") {
        return;
    }
    let mut broker = Broker::start_with(&[("disk_free_limit.absolute", "1MB")]);
    let limit = |broker: &Broker, bytes: u64| {
        let (status, body) = get(plain(management(broker)), "/api/nodes", Some("guest:guest"));
        status == 200 && body.contains(&format!("\"disk_free_limit\":{bytes},"))
    };
    let said = |broker: &Broker, text: &str| {
        eventually(PATIENCE, || broker.log().contains(text).then_some(()));
    };
    assert!(limit(&broker, 1_000_000));
    broker.reconfigure(&[
        ("disk_free_limit.absolute", "2MB"),
        ("log.console.level", "debug"),
        ("leveret.segment_size", "32MiB"),
    ]);
    broker.signal("HUP");
    said(&broker, "the configuration was read again");
    assert!(limit(&broker, 2_000_000));
    let log = broker.log();
    let restart = log.lines().find(|line| line.contains("it needs a restart"));
    assert!(
        restart.is_some_and(|line| line.contains("leveret.segment_size")),
        "{log}"
    );
    assert!(!log.contains("[debug]"));
    drop(Raw::connect(broker.amqp_port(), false));
    said(&broker, "[debug] <0.0.0> accepting AMQP connection");

    broker.reconfigure(&[("disk_free_limit.absolute", "3MB"), ("hartbeat", "1")]);
    broker.signal("HUP");
    said(&broker, "did you mean `heartbeat`?");
    said(&broker, "the configuration stays as it was");
    assert!(limit(&broker, 2_000_000));
    broker.stop();
}

#[test]
fn systemd_hears_that_the_node_is_ready_alive_reloading_and_stopping() {
    if skipped_on_foreign("readiness") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let path = path.display().to_string();
    let environment = [
        ("NOTIFY_SOCKET", path.as_str()),
        ("WATCHDOG_USEC", "200000"),
    ];
    let mut broker = Broker::start_in(&environment, &[]);
    let until = |word: &str| {
        let mut buffer = [0; 512];
        loop {
            let count = socket.recv(&mut buffer).expect("a message in time");
            if String::from_utf8_lossy(&buffer[..count]).contains(word) {
                return;
            }
        }
    };
    for word in [
        "EXTEND_TIMEOUT_USEC=",
        "READY=1",
        "WATCHDOG=1",
        "WATCHDOG=1",
    ] {
        until(word);
    }
    broker.signal("HUP");
    until("RELOADING=1");
    until("READY=1");
    broker.terminate();
    until("STOPPING=1");
    assert!(broker.wait_end().success());
}

/// What is configured for new vhosts; every third key is of another kind.
const NEW_VHOSTS: [(&str, &str); 9] = [
    ("default_limits.vhosts.1.pattern", "^dev"),
    ("default_limits.vhosts.1.max_queues", "7"),
    ("default_limits.vhosts.2.max_connections", "9"),
    ("default_policies.operator.short.vhost_pattern", "^dev|^/$"),
    ("default_policies.operator.short.queue_pattern", "^tmp"),
    ("default_policies.operator.short.message_ttl", "1m"),
    ("default_users.app.vhost_pattern", "^dev"),
    ("default_users.app.password", "first"),
    ("default_users.app.tags", "management"),
];

#[test]
fn new_vhosts_have_what_is_configured_for_them_and_old_ones_keep_what_they_have() {
    if skipped_on_foreign("what new vhosts are given") {
        return;
    }
    let mut broker = Broker::start_with(&NEW_VHOSTS);
    let api = |broker: &Broker, method: &str, path: &str, body: &str| {
        let path = format!("/api/{path}");
        send(
            plain(management(broker)),
            method,
            &path,
            Some("guest:guest"),
            body,
        )
    };
    let json = |broker: &Broker, path: &str| -> serde_json::Value {
        let (status, body) = api(broker, "GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    };
    // The first vhost is a new one too.
    assert_eq!(
        json(&broker, "vhost-limits/%2F")[0]["value"],
        serde_json::json!({"max-connections": 9})
    );
    assert_eq!(json(&broker, "operator-policies/%2F")[0]["name"], "short");
    assert_eq!(api(&broker, "GET", "users/app", "").0, 404);

    assert_eq!(api(&broker, "PUT", "vhosts/dev1", "{}").0, 201);
    assert_eq!(
        json(&broker, "vhost-limits/dev1")[0]["value"],
        serde_json::json!({"max-queues": 7})
    );
    let policy = &json(&broker, "operator-policies/dev1")[0];
    assert_eq!(
        (&policy["pattern"], &policy["definition"]["message-ttl"]),
        (&"^tmp".into(), &60_000.into())
    );
    let rights = json(&broker, "permissions/dev1/app");
    assert_eq!(
        (&rights["configure"], &rights["read"]),
        (&".*".into(), &".*".into())
    );
    let whoami = |login: &str| get(plain(management(&broker)), "/api/whoami", Some(login)).0;
    assert_eq!((whoami("app:first"), whoami("app:second")), (200, 401));

    // A user that is there keeps its password, also through an import, whose own limits count.
    let changed = r#"{"password": "second", "tags": "management"}"#;
    assert_eq!(api(&broker, "PUT", "users/app", changed).0, 204);
    let document =
        r#"{"vhosts": [{"name": "dev2", "limits": {"max-queues": 3}}, {"name": "other"}]}"#;
    assert_eq!(api(&broker, "POST", "definitions", document).0, 204);
    assert_eq!((whoami("app:first"), whoami("app:second")), (401, 200));
    assert_eq!(
        json(&broker, "vhost-limits/dev2")[0]["value"],
        serde_json::json!({"max-queues": 3})
    );
    assert_eq!(api(&broker, "GET", "permissions/dev2/app", "").0, 200);
    assert_eq!(api(&broker, "GET", "permissions/other/app", "").0, 404);
    assert_eq!(
        json(&broker, "operator-policies/other"),
        serde_json::json!([])
    );

    // What an operator took away does not come back: not by writing the vhost again, not by a start.
    assert_eq!(
        api(&broker, "DELETE", "vhost-limits/dev1/max-queues", "").0,
        204
    );
    assert_eq!(
        api(&broker, "DELETE", "vhost-limits/%2F/max-connections", "").0,
        204
    );
    assert_eq!(api(&broker, "PUT", "vhosts/dev1", "{}").0, 204);
    broker.stop();
    broker.restart();
    for vhost in ["dev1", "%2F"] {
        let limits = json(&broker, &format!("vhost-limits/{vhost}"));
        assert_eq!(limits, serde_json::json!([]), "{vhost}");
    }
    broker.stop();
}

#[test]
fn bodies_are_as_long_as_configured_and_metrics_have_the_objects_that_are_asked_for() {
    if skipped_on_foreign("a broker's own configuration") {
        return;
    }
    let mut broker = Broker::start_with(&[
        ("management.http.max_body_size", "2kB"),
        ("prometheus.return_per_object_metrics", "true"),
    ]);
    let put = |length: usize| {
        let empty = r#"{"durable": true, "more": ""}"#;
        let more = "x".repeat(length - empty.len());
        let body = format!(r#"{{"durable": true, "more": "{more}"}}"#);
        assert_eq!(body.len(), length);
        let to = plain(management(&broker));
        send(
            to,
            "PUT",
            "/api/queues/%2F/long",
            Some("guest:guest"),
            &body,
        )
    };
    let (status, said) = put(2001);
    assert!(
        status == 400 && said.contains("Exceeded HTTP request body size limit"),
        "{said}"
    );
    assert_eq!(put(2000).0, 201);
    let metrics = broker.metrics();
    assert!(
        metrics.contains("rabbitmq_endpoint=\"per-object\""),
        "{metrics}"
    );
    assert_eq!(metrics.matches("rabbitmq_identity_info{").count(), 1);
    assert!(
        metrics.contains("rabbitmq_queue_messages{vhost=\"/\",queue=\"long\"} 0"),
        "{metrics}"
    );
    broker.stop();
}
