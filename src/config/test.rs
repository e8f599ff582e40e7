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
    assert_eq!(config.cluster_name, "blue");
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
        ("listeners.ssl.default = 5671", "TLS is not served yet"),
        ("load_definitions = /d.json", "definitions are not imported"),
        (
            "auth_backends.1 = ldap",
            "`auth_backends.1` expects internal",
        ),
        ("auth_mechanisms.1 = EXTERNAL", "at least one of PLAIN"),
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
        ("", &[], &["0.0.0.0:5672"]),
        ("", &[("RABBITMQ_NODE_PORT", "7000")], &["0.0.0.0:7000"]),
        (
            "listeners.tcp.default = 1",
            &[("RABBITMQ_NODE_PORT", "7000")],
            &["0.0.0.0:1"],
        ),
        (
            "listeners.tcp.default = 1",
            &[("RABBITMQ_NODE_IP_ADDRESS", "::1")],
            &["[::1]:1"],
        ),
        (
            "listeners.tcp.1 = 1\nlisteners.tcp.2 = [::1]:2",
            &[],
            &["0.0.0.0:1", "[::1]:2"],
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
    assert_eq!(
        (config.node_name.as_str(), config.cluster_name.as_str()),
        ("rabbit@a", "rabbit@a")
    );
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
