use super::*;
use std::collections::BTreeMap;

struct Case {
    folder: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let none = folder.path().join("none");
        fs::create_dir(&none).unwrap();
        let files = none.display().to_string();
        let env = BTreeMap::from([("RABBITMQ_CONFIG_FILES".to_owned(), files)]);
        Self { folder, env }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn load(&self, text: &str) -> Result<Loaded, Problems> {
        let path = self.folder.path().join("x.conf");
        fs::write(&path, text).unwrap();
        self.load_from(Some(path))
    }

    fn load_from(&self, file: Option<PathBuf>) -> Result<Loaded, Problems> {
        let env = |name: &str| self.env.get(name).cloned();
        load(&Sources {
            file,
            data_dir: None,
            listen: Vec::new(),
            prometheus: None,
            log_level: None,
            env: &env,
        })
    }
}

fn listeners(config: &Config) -> Vec<String> {
    config.listeners.iter().map(ToString::to_string).collect()
}

#[test]
fn what_the_images_and_operators_write_is_accepted() {
    let text = "
        loopback_users.guest = false
        log.console = true
        management_agent.disable_metrics_collector = true
        management.tcp.port = 15672
        queue_master_locator = min-masters
        disk_free_limit.absolute = 2GB
        cluster_partition_handling = pause_minority
        cluster_formation.peer_discovery_backend = rabbit_peer_discovery_k8s
        cluster_formation.k8s.host = kubernetes.default
        cluster_formation.target_cluster_size_hint = 3
        cluster_name = blue
        auth_mechanisms.1 = PLAIN
        auth_mechanisms.2 = AMQPLAIN
        total_memory_available_override_value = 1717986919
        listeners.ssl = none
    ";
    let loaded = Case::new().load(text).unwrap();
    let config = &loaded.config;
    assert!(config.loopback_users.is_empty());
    assert_eq!(
        config.disk_free_limit,
        super::super::Threshold::Absolute(2_000_000_000)
    );
    assert_eq!(config.cluster_name.as_deref(), Some("blue"));
    assert_eq!(config.total_memory_bytes, Some(1_717_986_919));
    let noted: Vec<_> = loaded.notes.iter().map(|n| n.key.as_str()).collect();
    assert!(
        noted.contains(&"management_agent.disable_metrics_collector")
            && noted.contains(&"queue_master_locator")
    );
    assert!(!noted.contains(&"cluster_name"));
}

#[test]
fn a_wrong_line_names_key_line_and_expectation() {
    let cases = [
        (
            "heartbeat = soon",
            "x.conf:1: `heartbeat` expects a whole number",
        ),
        (
            "\nhartbeat = 1",
            "x.conf:2: unknown key `hartbeat`; did you mean `heartbeat`?",
        ),
        (
            "frame_max = 100",
            "`frame_max` expects 0, or bytes from 4096",
        ),
        (
            "max_message_size = 1GiB",
            "`max_message_size` expects a size of 1 to 536870912",
        ),
        ("max_message_size = 0", "`max_message_size` expects"),
        ("listeners.ssl.default = 5671", "`ssl_options.certfile`"),
        ("management.ssl.port = 1", "`management.ssl.certfile`"),
        (
            "listeners.ssl.1 = 1\nssl_options.certfile = x",
            "`ssl_options.keyfile`",
        ),
        (
            "listeners.ssl.1 = 1\nssl_options.certfile = x\nssl_options.keyfile = x\nssl_options.verify = verify_peer",
            "`ssl_options.cacertfile`",
        ),
        ("ssl_options.verify = maybe", "verify_none, verify_peer"),
        (
            "ssl_options.versions.1 = tlsv1",
            "at least one of the versions",
        ),
        ("ssl_options.versions.1 = sslv3", "tlsv1.2 or tlsv1.3"),
        ("ssl_options.ciphers.1 = AES128-SHA", "at least one cipher"),
        ("ssl_options.crl_check = true", "revocation lists"),
        ("proxy_protocol = 1", "true or false"),
        ("management.listener.ssl = true", "management.ssl.port"),
        ("ssl_cert_login_from = serial", "common_name"),
        ("definitions.https.url = https://x", "from files only"),
        (
            "definitions.import_backend = https",
            "not fetched over HTTPS",
        ),
        (
            "auth_backends.1 = ldap",
            "`auth_backends.1` expects internal",
        ),
        (
            "auth_mechanisms.1 = RABBIT-CR-DEMO",
            "at least one mechanism",
        ),
        (
            "auth_mechanisms.1 = ANONYMOUS\nanonymous_login_user = none",
            "at least one mechanism",
        ),
        ("default_permissions.read = '('", "a regular expression"),
        ("vm_memory_high_watermark.relative = 2", "at most 1"),
        ("leveret.segment_size = 1", "`leveret.segment_size` expects"),
        ("default_queue_type = lazy", "classic, quorum, stream"),
    ];
    for (text, want) in cases {
        let problems = Case::new().load(text).unwrap_err().to_string();
        assert!(problems.contains(want), "{text}: {problems}");
    }
}

#[test]
fn all_problems_are_reported_and_no_password_among_them() {
    let text = "nonsense = 1\nheartbeat = x\ndefault_pass = hunter2\nlog.console = maybe";
    let problems = Case::new().load(text).unwrap_err();
    assert_eq!(problems.0.len(), 3);
    assert!(!problems.to_string().contains("hunter2"));
}

#[test]
fn listeners_come_from_the_file_then_the_environment() {
    let cases: [(&str, &[(&str, &str)], &[&str]); 6] = [
        ("", &[], &["[::]:5672"]),
        ("", &[("RABBITMQ_NODE_PORT", "7000")], &["[::]:7000"]),
        (
            "listeners.tcp.default = 1",
            &[("RABBITMQ_NODE_PORT", "7000")],
            &["[::]:1"],
        ),
        (
            "listeners.tcp.default = 1",
            &[("RABBITMQ_NODE_IP_ADDRESS", "::1")],
            &["[::1]:1"],
        ),
        (
            "listeners.tcp.1 = 1\nlisteners.tcp.2 = [::1]:2",
            &[],
            &["[::]:1", "[::1]:2"],
        ),
        ("listeners.tcp = none", &[], &[]),
    ];
    for (text, env, want) in cases {
        let case = env
            .iter()
            .fold(Case::new(), |case, (name, value)| case.env(name, value));
        assert_eq!(
            listeners(&case.load(text).unwrap().config),
            want,
            "{text} {env:?}"
        );
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    let case = Case::new()
        .env("RABBITMQ_DEFAULT_USER", "u")
        .env("RABBITMQ_DEFAULT_PASS", "p")
        .env("RABBITMQ_DEFAULT_VHOST", "v")
        .env("RABBITMQ_NODENAME", "rabbit@a")
        .env("RABBITMQ_MNESIA_BASE", "/base");
    let config = case.load("default_user = other").unwrap().config;
    let names = (config.default_user.as_str(), config.default_pass.as_str());
    assert_eq!(names, ("u", "p"));
    assert_eq!(config.default_vhost, "v");
    assert_eq!(config.node_name, "rabbit@a");
    assert_eq!(config.cluster_name, None);
    assert_eq!(config.data_dir, Path::new("/base/leveret"));
}

#[test]
fn a_wrong_environment_is_an_error_by_name() {
    let cases = [
        ("RABBITMQ_NODE_PORT", "many"),
        ("RABBITMQ_NODE_IP_ADDRESS", "host"),
        ("RABBITMQ_DEFAULT_USER", ""),
        ("RABBITMQ_DEFAULT_PASS_FILE", "/run/secret"),
    ];
    for (name, value) in cases {
        let problems = Case::new()
            .env(name, value)
            .load("")
            .unwrap_err()
            .to_string();
        assert!(problems.contains(name), "{problems}");
    }
}

#[test]
fn files_of_the_folder_come_after_the_file_in_order_and_the_last_wins() {
    let mut case = Case::new();
    let folder = case.folder.path().join("conf.d");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("20.conf"), "heartbeat = 20").unwrap();
    fs::write(folder.join("10.conf"), "heartbeat = 10\nchannel_max = 10").unwrap();
    fs::write(folder.join("30.txt"), "heartbeat = 30").unwrap();
    for form in [
        folder.display().to_string(),
        format!("{}/*.conf", folder.display()),
    ] {
        case = case.env("RABBITMQ_CONFIG_FILES", &form);
        let loaded = case
            .load("heartbeat = 1\nchannel_max = 1\nframe_max = 8192")
            .unwrap();
        let config = loaded.config;
        assert_eq!(
            (config.heartbeat_s, config.channel_max, config.frame_max),
            (20, 10, 8192)
        );
        assert_eq!(loaded.files.len(), 3);
    }
}

#[test]
fn a_named_file_that_is_not_there_is_an_error_and_the_ending_may_be_left_out() {
    let case = Case::new();
    let missing = case.folder.path().join("missing");
    assert!(matches!(
        case.load_from(Some(missing)).unwrap_err().0[..],
        [ConfigError::Read { .. }]
    ));
    let stem = case.folder.path().join("y");
    fs::write(stem.with_extension("conf"), "heartbeat = 7").unwrap();
    let case = case.env("RABBITMQ_CONFIG_FILE", &stem.display().to_string());
    assert_eq!(case.load_from(None).unwrap().config.heartbeat_s, 7);
}

#[test]
fn an_http_listener_under_tls_replaces_the_plain_one_unless_that_is_named_too() {
    let tls = "management.ssl.certfile = c\nmanagement.ssl.keyfile = k\n";
    let cases = [
        (String::new(), [Some("[::]:15672"), None]),
        (tls.to_owned(), [None, Some("[::]:15671")]),
        (
            format!("{tls}management.ssl.port = 1\nmanagement.ssl.ip = ::1"),
            [None, Some("[::1]:1")],
        ),
        (
            format!("{tls}management.tcp.port = 2"),
            [Some("[::]:2"), Some("[::]:15671")],
        ),
    ];
    for (text, want) in cases {
        let config = Case::new().load(&text).unwrap().config;
        let got = config.management.map(|at| at.map(|at| at.to_string()));
        assert_eq!(got.each_ref().map(Option::as_deref), want, "{text}");
    }
}

#[test]
fn what_is_said_of_tls_and_logins_is_kept() {
    use crate::broker::tls::{AlternativeName, NameFrom, TlsVersion};
    let text = "
        listeners.ssl.default = 5671
        ssl_options.cacertfile = /ca
        ssl_options.certfile = /cert
        ssl_options.keyfile = /key
        ssl_options.password = s3cret
        ssl_options.verify = verify_peer
        ssl_options.fail_if_no_peer_cert = true
        ssl_options.depth = 2
        ssl_options.versions.1 = tlsv1.3
        ssl_options.versions.2 = tlsv1.1
        ssl_options.honor_cipher_order = true
        ssl_cert_login_from = subject_alternative_name
        ssl_cert_login_san_type = email
        ssl_cert_login_san_index = 1
        auth_mechanisms.1 = EXTERNAL
        auth_mechanisms.2 = PLAIN
        anonymous_login_user = visitor
        anonymous_login_pass = pw
        proxy_protocol = true
    ";
    let loaded = Case::new().load(text).unwrap();
    let (config, tls) = (&loaded.config, &loaded.config.tls);
    assert_eq!(config.tls_listeners, ["[::]:5671".parse().unwrap()]);
    assert_eq!(tls.authorities.as_deref(), Some(Path::new("/ca")));
    assert_eq!(tls.password.as_deref(), Some("s3cret"));
    assert!(tls.verify && tls.require && tls.server_order);
    assert_eq!(
        (tls.depth, &tls.versions[..]),
        (Some(2), &[TlsVersion::V13][..])
    );
    assert_eq!(
        config.name_from,
        NameFrom::AlternativeName(AlternativeName::Email, 1)
    );
    assert_eq!(config.auth_mechanisms, ["EXTERNAL", "PLAIN"]);
    assert_eq!(
        config.anonymous,
        Some(("visitor".to_owned(), "pw".to_owned()))
    );
    assert!(config.proxy_protocol);
    let noted: Vec<_> = loaded.notes.iter().map(|n| n.key.as_str()).collect();
    assert_eq!(noted, ["ssl_options.versions.2"]);
}

#[test]
fn rules_for_new_vhosts_are_put_together_by_their_ids() {
    let text = "
        default_limits.vhosts.10.max_queues = 9
        default_limits.vhosts.2.pattern = ^dev
        default_limits.vhosts.2.max_connections = 5
        default_policies.operator.short.vhost_pattern = ^dev
        default_policies.operator.short.queue_pattern = ^tmp
        default_policies.operator.short.apply_to = classic_queues
        default_policies.operator.short.message_ttl = 1h
        default_policies.operator.short.max_length = 7
        default_policies.operator.short.max_length = 8
        default_policies.operator.short.max_in_memory_length = 5
        default_users.app.password = s3cret
        default_users.app.tags = monitoring, management
        default_users.app.write = ^app
    ";
    let loaded = Case::new().load(text).unwrap();
    let rules = &loaded.config.vhost_defaults;
    let [dev, rest] = &rules.limits[..] else {
        panic!("{rules:?}")
    };
    assert!(dev.vhosts.search("dev1") && !dev.vhosts.search("prod"));
    assert_eq!((dev.max_connections, dev.max_queues), (Some(5), None));
    assert!(rest.vhosts.search("prod"));
    assert_eq!((rest.max_connections, rest.max_queues), (None, Some(9)));
    let [short] = &rules.policies[..] else {
        panic!("{rules:?}")
    };
    assert_eq!(
        (short.name.as_str(), short.queues.source()),
        ("short", "^tmp")
    );
    assert_eq!(short.apply_to.name(), "classic_queues");
    let want = [("message-ttl", 3_600_000), ("max-length", 8)];
    assert_eq!(short.definition, want);
    let [app] = &rules.users[..] else {
        panic!("{rules:?}")
    };
    assert_eq!(app.password.as_deref(), Some("s3cret"));
    assert_eq!(app.permissions, [".*", "^app", ".*"]);
    assert_eq!(app.tags, ["monitoring", "management"]);
    let noted: Vec<_> = loaded.notes.iter().map(|n| n.key.as_str()).collect();
    assert_eq!(
        noted,
        ["default_policies.operator.short.max_in_memory_length"]
    );
    for wrong in [
        "default_limits.vhosts.1.pattern = '('",
        "default_limits.vhosts.1.max_queues = 0",
        "default_policies.operator.p.expires = 0",
        "default_policies.operator.p.apply_to = exchanges",
        "default_users.app.read = '['",
        "management.http.max_body_size = 0",
    ] {
        Case::new().load(wrong).unwrap_err();
    }
}

#[test]
fn the_env_file_stands_below_the_environment() {
    let case = Case::new();
    let file = case.folder.path().join("env.conf");
    fs::write(&file, "NODENAME=rabbit@a\nNODE_PORT=7\n").unwrap();
    let case = case
        .env("RABBITMQ_CONF_ENV_FILE", &file.display().to_string())
        .env("RABBITMQ_NODE_PORT", "8");
    let config = case.load("").unwrap().config;
    assert_eq!(config.node_name, "rabbit@a");
    assert_eq!(listeners(&config), ["[::]:8"]);
    fs::write(&file, "\nNODENAME=$(hostname)\n").unwrap();
    let problems = case.load("").unwrap_err().to_string();
    assert!(
        problems.contains("env.conf:2: only a plain value"),
        "{problems}"
    );
}

#[test]
fn a_list_of_plugins_decides_what_is_served_over_http() {
    for (list, management, prometheus) in [
        (None, true, true),
        (
            Some("[rabbitmq_management,rabbitmq_prometheus]."),
            true,
            true,
        ),
        (Some("[rabbitmq_prometheus]."), false, true),
        (Some("rabbitmq_management"), true, false),
        (Some("[]."), false, false),
        (Some("ALL"), true, true),
    ] {
        let case = match list {
            Some(list) => Case::new().env("RABBITMQ_ENABLED_PLUGINS", list),
            None => Case::new(),
        };
        let config = case.load("").unwrap().config;
        let served = (
            config.management[0].is_some(),
            config.prometheus[0].is_some(),
        );
        assert_eq!(served, (management, prometheus), "{list:?}");
    }
    let case = Case::new().env("RABBITMQ_ENABLED_PLUGINS", "[a b]");
    assert!(
        case.load("")
            .unwrap_err()
            .to_string()
            .contains("enabled_plugins")
    );
    let case = Case::new().env(
        "RABBITMQ_ENABLED_PLUGINS",
        "[rabbitmq_management,rabbitmq_prometheus,mine].",
    );
    let notes = case.load("").unwrap().notes;
    assert_eq!(notes[0].key, "mine");
    assert_eq!(notes[0].place.to_string(), "environment");
}

#[test]
fn the_environment_sets_levels_and_form_of_the_log() {
    use super::super::LogFormat;
    let case = Case::new().env(
        "RABBITMQ_LOG",
        "debug,+json,connection=error,-color,+single_line",
    );
    let config = case
        .load("log.console.level = warning\nlog.connection.level = info")
        .unwrap()
        .config;
    assert_eq!(config.log_level, LogLevel::Debug);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(
        config.log_categories,
        [("connection".to_owned(), LogLevel::Error)]
    );
    let wrong = Case::new()
        .env("RABBITMQ_LOG", "loud")
        .load("")
        .unwrap_err();
    assert!(wrong.to_string().contains("RABBITMQ_LOG"));
}

#[test]
fn what_changed_between_two_readings_is_known_by_key_and_whether_it_is_live() {
    let case = Case::new();
    let before = case
        .load("heartbeat = 1\nleveret.segment_size = 1MiB\ndefault_pass = a\nframe_max = 8192")
        .unwrap();
    let after = case
        .load(
            "heartbeat = 2\nleveret.segment_size = 2MiB\nssl_options.keyfile = k\nframe_max = 8192",
        )
        .unwrap();
    let changes = before.assigned.changes(&after.assigned);
    let changes: Vec<_> = changes
        .iter()
        .map(|(key, live)| (key.as_str(), *live))
        .collect();
    let want = [
        ("default_pass", false),
        ("heartbeat", true),
        ("leveret.segment_size", false),
        ("ssl_options.keyfile", true),
    ];
    assert_eq!(changes, want);
    assert!(!format!("{:?}", before.assigned).contains('1'));
}

#[test]
fn encrypted_values_are_read_with_their_passphrase_wherever_it_stands() {
    // Made by `rabbitmqctl encrypt_conf_value hello pw` of RabbitMQ 4.0.5.
    let line =
        "default_pass = encrypted:z3m3O+tBIl5/52vwBoCFKPhueaaFM3P1N9WC3fwiDpKjbYH4UgCMXAwctMYfz2+C";
    let case = Case::new().env("PHRASE", "pw");
    let loaded = case.load(&format!(
        "{line}\nconfig_entry_decoder.passphrase = $(PHRASE)"
    ));
    assert_eq!(loaded.unwrap().config.default_pass, "hello");
    for (more, words) in [
        ("", "`config_entry_decoder.passphrase` beside"),
        ("config_entry_decoder.passphrase = no", "decrypts"),
        (
            "config_entry_decoder.passphrase = pw\nconfig_entry_decoder.iterations = 2",
            "decrypts",
        ),
    ] {
        let problems = case
            .load(&format!("{line}\n{more}"))
            .unwrap_err()
            .to_string();
        assert!(
            problems.contains("`default_pass`") && problems.contains(words),
            "{problems}"
        );
    }
}

#[test]
fn the_log_file_is_named_by_its_keys_or_the_environment() {
    let path = |case: &Case, text: &str| {
        let config = case.load(text).unwrap().config;
        let path = config.log_file.map(|file| file.path.display().to_string());
        (path, config.log_console)
    };
    let some = |path: &str| Some(path.to_owned());
    let plain = Case::new();
    assert_eq!(
        path(&plain, "log.console = false"),
        (None, true),
        "lines go somewhere"
    );
    assert_eq!(
        path(&plain, "log.file = r.log"),
        (some("/var/log/rabbitmq/r.log"), true)
    );
    let quiet = "log.dir = /d\nlog.file = r.log\nlog.console = false";
    assert_eq!(path(&plain, quiet), (some("/d/r.log"), false));
    assert_eq!(
        path(&plain, "log.file = /e/r.log\nlog.dir = /d"),
        (some("/e/r.log"), true)
    );
    assert_eq!(
        path(&plain, "log.file = r.log\nlog.file = false"),
        (None, true)
    );
    let console = Case::new().env("RABBITMQ_LOGS", "-");
    assert_eq!(path(&console, quiet), (None, true));
    let named = Case::new()
        .env("RABBITMQ_LOGS", "n.log")
        .env("RABBITMQ_LOG_BASE", "/base");
    assert_eq!(path(&named, ""), (some("/base/n.log"), true));
    let loaded =
        plain.load("log.file = r.log\nlog.file.rotation.size = 10MB\nlog.file.rotation.count = 2");
    let file = loaded.unwrap().config.log_file.unwrap();
    assert_eq!((file.size_max, file.kept), (Some(10_000_000), 2));
}

#[test]
fn paths_and_headers_of_http_are_checked() {
    let load = |text: &str| Case::new().load(text);
    let config = load("management.path_prefix = /a/\nprometheus.path = /m/")
        .unwrap()
        .config;
    assert_eq!(
        (&*config.front.prefix, &*config.prometheus_options.path),
        ("/a", "/m")
    );
    for (text, words) in [
        ("management.path_prefix = a", "begins with `/`"),
        ("management.path_prefix = /{x}", "begins with `/`"),
        ("prometheus.path = //", ""),
        ("management.headers.nope = x", "frame_options"),
        ("management.cors.allow_origins = *", "none"),
    ] {
        match load(text) {
            Ok(loaded) => assert_eq!(
                (text, &*loaded.config.prometheus_options.path),
                ("prometheus.path = //", "")
            ),
            Err(problems) => assert!(problems.to_string().contains(words), "{text}: {problems}"),
        }
    }
}

#[test]
fn every_key_of_rabbitmq_is_taken_passed_over_or_refused_with_a_reason() {
    // Of each prefix of its schemas one: what is none of ours must not be called unknown.
    let text = "
        aws.prefer_imdsv2 = true
        classic_queue.default_version = 2
        cluster_formation.aws.region = x
        cluster_partition_handling = pause_if_all_down
        cluster_partition_handling.pause_if_all_down.nodes.1 = rabbit@a
        collect_statistics_interval = 5000
        default_worker_pool_size = 4
        erlang.K = true
        event_exchange.vhost = /
        log.connection.file = connection.log
        log.connection.rotation.count = 3
        log.console.formatter.json.field_map = time:ts
        log.exchange = true
        log.file.formatter = json
        log.syslog.ip = 10.0.0.1
        management.rates_mode = basic
        management.sample_retention_policies.global.minute = 5
        management.http_log_dir = /var/log
        message_store_shutdown_timeout = 600000
        motd_file = /etc/motd
        mqtt.vhost = /
        product.name = Rabbit
        prometheus.filter_aggregated_queue_metrics_pattern = ^amq
        prometheus.tcp.idle_timeout = 120000
        quorum_queue.initial_cluster_size = 3
        raft.wal_max_size_bytes = 64000000
        ranch_connection_max = infinity
        runtime_parameters.limits.shovel = 4
        socket_writer.gc_threshold = off
        ssl_allow_poodle_attack = false
        ssl_options = none
        stomp.default_user = x
        stream.initial_credits = 50000
        tcp_listen_options = none
        tracing.dir = /var/log
        vhost_restart_strategy = continue
        web_mqtt.tcp.port = 15675
    ";
    let loaded = Case::new().load(text).unwrap();
    let keys = text.lines().filter(|line| !line.trim().is_empty()).count();
    assert_eq!(
        loaded.notes.len(),
        keys,
        "each is said once: {:?}",
        loaded.notes
    );
    for line in [
        "trust_store.directory = /x",
        "message_interceptors.incoming.none_of_ours = true",
        "auth_backends.1.authn = http",
        "definitions.https.url = https://x",
        "mqtt.listeners.tcp.1 = 1883",
        "stream.listeners.tcp.1 = 5552",
    ] {
        let problems = Case::new().load(line).unwrap_err().to_string();
        assert!(problems.contains("cannot be honoured"), "{problems}");
    }
}
