//! Stock clients of other languages against one node, or with `COMPAT_NODES=3` against a follower of three.
//!
//! Each suite is a folder of `compat-tests/clients` with its own lock file; a test here gets the tools, installs the client and
//! lets the suite play on a stage of its own. Which client, which version, how many tests: docs/compatibility.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::process::Command;

use compat_tests::suite::{Format, apt, folder, have, installed, once, play, pytest};
use compat_tests::{Settings, Stage};

/// Suites send bodies of 16 MiB: what RabbitMQ takes by default, and no byte more.
const SETTINGS: Settings<'static> = &[("max_message_size", "16777216")];

fn words(line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().expect("a command"));
    command.args(words);
    command
}

#[test]
fn go_amqp091_go() {
    let suite = "amqp091-go";
    if !have(suite, &["go", "version"]) {
        return;
    }
    // Compiles the tests as well, so that the stage does not wait for it.
    let build = words("go test -run ^$ ./...");
    once(suite, &["go.sum"], &folder(suite), &mut [build]);
    let stage = Stage::start(SETTINGS);
    play(
        &stage,
        suite,
        Format::Go,
        words("go test -v -count=1 -timeout 15m ./..."),
    );
}

fn node(suite: &str) {
    // Its test runner speaks TAP from 20 on.
    if !have(suite, &["npm", "--version"])
        || !have(
            suite,
            &[
                "node",
                "-e",
                "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)",
            ],
        )
    {
        return;
    }
    let install = words("npm ci --ignore-scripts --no-audit --no-fund --silent");
    let made = folder(suite).join("node_modules");
    once(suite, &["package-lock.json"], &made, &mut [install]);
    let stage = Stage::start(SETTINGS);
    play(
        &stage,
        suite,
        Format::Tap,
        words("node --test-force-exit --test-reporter=tap client.test.mjs"),
    );
}

#[test]
fn node_amqplib() {
    node("amqplib");
}

#[test]
fn node_amqp_connection_manager() {
    node("amqp-connection-manager");
}

#[test]
fn node_cloudamqp_amqp_client() {
    node("cloudamqp-amqp-client");
}

fn maven(suite: &str) {
    if !have(suite, &["java", "-version"]) || !have(suite, &["mvn", "-version"]) {
        return;
    }
    // Runs the tests of no class, so that every plugin and provider is there for the run without network.
    let resolve = words("mvn -B -ntp -q test -Dtest=None -Dsurefire.failIfNoSpecifiedTests=false");
    let made = folder(suite).join("target/test-classes");
    once(suite, &["pom.xml"], &made, &mut [resolve]);
    let stage = Stage::start(SETTINGS);
    play(&stage, suite, Format::Surefire, words("mvn -B -o test"));
}

#[test]
fn java_amqp_client() {
    maven("amqp-client");
}

#[test]
fn java_spring_rabbit() {
    maven("spring-rabbit");
}

#[test]
fn python_kombu() {
    pytest(&Stage::start(SETTINGS), "kombu", &[]);
}

#[test]
fn python_amqpstorm() {
    pytest(&Stage::start(SETTINGS), "amqpstorm", &[]);
}

/// A real worker in each way to set Celery up; see `app.py`.
#[test]
fn python_celery() {
    let stage = Stage::start(SETTINGS);
    for mode in ["file", "rpc", "quorum"] {
        pytest(&stage, "celery", &[("COMPAT_MODE", mode)]);
    }
}

#[test]
fn php_amqplib() {
    let suite = "php-amqplib";
    let probe = [
        "php",
        "-r",
        "require 'PhpAmqpLib/autoload.php'; pcntl_alarm(0);",
    ];
    if !apt(suite, &["php-cli", "php-amqplib"], &probe) {
        return;
    }
    let stage = Stage::start(SETTINGS);
    play(&stage, suite, Format::Tap, words("php client.php"));
}

#[test]
fn ruby_bunny() {
    let suite = "bunny";
    if !apt(
        suite,
        &["ruby", "ruby-bunny"],
        &["ruby", "-e", "require 'bunny'"],
    ) {
        return;
    }
    let stage = Stage::start(SETTINGS);
    play(&stage, suite, Format::Tap, words("ruby client.rb"));
}

#[test]
fn c_rabbitmq_c() {
    let suite = "rabbitmq-c";
    let tools = "test -e /usr/include/amqp.h -o -e /usr/include/rabbitmq-c/amqp.h && cc --version && amqp-publish -?";
    let packages = ["gcc", "libc6-dev", "librabbitmq-dev", "amqp-tools"];
    if !apt(suite, &packages, &["sh", "-c", tools]) {
        return;
    }
    let binary = installed(suite).join("client");
    let mut compile = words("cc -std=c11 -O1 -Wall -Wextra -Werror client.c -o");
    compile.arg(&binary).arg("-lrabbitmq");
    once(suite, &["client.c"], &binary, &mut [compile]);
    let stage = Stage::start(SETTINGS);
    play(&stage, suite, Format::Tap, Command::new(&binary));
    play(&stage, suite, Format::Tap, words("sh tools.sh"));
}
