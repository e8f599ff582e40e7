//! pika and aio-pika against one broker: pytest does the asking, this makes its environment and reads its verdict.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use std::process::Command;

use compat_tests::{Broker, foreign_url, suite_dir};

#[test]
fn every_python_client_test_passes() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: there is no python3 here");
        return;
    }
    let tests = suite_dir().join("clients/python");
    let python = common::python::environment(&tests);
    let broker = Broker::start_with(&[("max_message_size", "16777216")]);
    let mut pytest = Command::new(python);
    pytest
        .args(["-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"])
        .current_dir(&tests)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("BROKER_URL", broker.url())
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
