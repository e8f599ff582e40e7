//! pika and aio-pika: pytest does the asking, this makes its environment and reads its verdict.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use compat_tests::suite::pytest;
use compat_tests::{Settings, Stage};

const SETTINGS: Settings<'static> = &[
    ("max_message_size", "16777216"),
    ("ssl_options.verify", "verify_peer"),
    ("ssl_options.fail_if_no_peer_cert", "false"),
    ("ssl_cert_login_from", "common_name"),
    ("auth_mechanisms.1", "PLAIN"),
    ("auth_mechanisms.2", "AMQPLAIN"),
    ("auth_mechanisms.3", "EXTERNAL"),
    ("auth_mechanisms.4", "ANONYMOUS"),
];

#[test]
fn every_python_client_test_passes() {
    pytest(&Stage::start(SETTINGS), "python", &[]);
}
