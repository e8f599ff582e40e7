//! pika and aio-pika against one broker: pytest does the asking, this makes its environment and reads its verdict.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::Command;

use compat_tests::{Broker, Certificates, foreign_url, free_port, suite_dir};

#[test]
fn every_python_client_test_passes() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: there is no python3 here");
        return;
    }
    let tests = suite_dir().join("clients/python");
    let python = environment(&tests);
    let certificates = certificates();
    let tls_port = free_port().to_string();
    let mut settings = certificates.settings("ssl_options");
    for (key, value) in [
        ("max_message_size", "16777216"),
        ("listeners.ssl.default", &tls_port),
        ("ssl_options.verify", "verify_peer"),
        ("ssl_options.fail_if_no_peer_cert", "false"),
        ("ssl_cert_login_from", "common_name"),
        ("auth_mechanisms.1", "PLAIN"),
        ("auth_mechanisms.2", "AMQPLAIN"),
        ("auth_mechanisms.3", "EXTERNAL"),
        ("auth_mechanisms.4", "ANONYMOUS"),
    ] {
        settings.push((key.to_owned(), value.to_owned()));
    }
    let settings = settings
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let broker = Broker::start_with(&settings.collect::<Vec<_>>());
    let mut pytest = Command::new(python);
    pytest
        .args(["-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"])
        .current_dir(&tests)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("BROKER_URL", broker.url())
        .env("BROKER_TLS_PORT", tls_port)
        .env("BROKER_CERTIFICATES", certificates.folder())
        .env(
            "BROKER_IS_OURS",
            if foreign_url().is_none() { "1" } else { "" },
        )
        .env("BROKER_METRICS_URL", broker.metrics_url())
        .env("BROKER_MANAGEMENT_URL", broker.management_url());
    let output = pytest.output().expect("pytest runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "pytest found failures, see above");
    assert!(text.contains(" passed"), "pytest ran no test");
}

/// What the tests of TLS show and are shown.
fn certificates() -> Certificates {
    let made = Certificates::new();
    made.client("client");
    made.client("nobody");
    made.stranger("stranger");
    made
}

/// The suite's own virtual environment, made again whenever the locked requirements change.
fn environment(tests: &Path) -> PathBuf {
    let venv = suite_dir().join(".venv");
    let python = venv.join("bin/python");
    let lock = tests.join("requirements.txt");
    let wanted = std::fs::read_to_string(&lock).expect("the locked requirements");
    let stamp = venv.join("installed.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&venv));
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
        ])
        .arg(&lock));
    std::fs::write(stamp, wanted).expect("the stamp is written");
    python
}

fn run(command: &mut Command) {
    let status = command.status().expect("the command starts");
    assert!(status.success(), "{command:?} failed");
}
