//! pika and aio-pika: pytest does the asking, this makes its environment and reads its verdict.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use compat_tests::Stage;
use compat_tests::suite::pytest;

#[test]
fn every_python_client_test_passes() {
    let stage = Stage::start(&[("max_message_size", "16777216")]);
    pytest(&stage, "python", &[]);
}
