//! A real Prometheus scrapes brokers and answers what RabbitMQ's dashboards ask. Skipped, and said so, where there is no
//! `prometheus` to run; three nodes with `COMPAT_PROMETHEUS_NODES=3`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::process::Command;

use compat_tests::cluster::{Shape, TestCluster};
use compat_tests::suite::{have, python};
use compat_tests::{Broker, suite_dir};

fn dashboards_have_data(amqp: &str, metrics: &[String]) {
    let Some(python) = python("python") else {
        return;
    };
    let mut asked = Command::new(python);
    asked
        .arg(suite_dir().join("clients/python/dashboards.py"))
        .arg(amqp)
        .args(metrics)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = asked.output().expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "queries without data, see above");
}

#[test]
fn every_query_of_the_dashboards_has_data_in_a_real_prometheus() {
    if !have("dashboards", &["prometheus", "--version"]) {
        return;
    }
    if std::env::var("COMPAT_PROMETHEUS_NODES").as_deref() == Ok("3") {
        let mut nodes = TestCluster::new(&Shape::default());
        nodes.start_all();
        let host = |node: usize| {
            let url = nodes.url(node);
            let authority = url.rsplit_once('@').expect("user").1;
            authority.split(':').next().expect("host").to_owned()
        };
        let metrics: Vec<String> = (0..3)
            .map(|node| format!("http://{}:15692/metrics", host(node)))
            .collect();
        dashboards_have_data(&nodes.url(0), &metrics);
        return;
    }
    let broker = Broker::start();
    let metrics = broker.metrics_url();
    let metrics = metrics.trim_end_matches("/metrics");
    dashboards_have_data(broker.url(), &[format!("{metrics}/metrics")]);
}
