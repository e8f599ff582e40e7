//! The binary as cargo builds it for tests of its own package.
//!
//! Need: `cargo test --workspace` builds a package's binaries only for a package with a test like this one. The suites beside it
//! run that binary; without this file each would have the broker compiled again, with other features of its dependencies.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

#[test]
fn the_binary_tells_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_leveret"))
        .arg("--version")
        .output()
        .expect("the binary runs");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("a version is text");
    assert_eq!(
        text.trim(),
        format!("leveret {}", env!("CARGO_PKG_VERSION"))
    );
}
