//! Where the binary is, and how it comes to be there.
//!
//! Need: the tests run the release binary that people run, not a library.
//! Shape: `LEVERET_BIN` names it, or one `cargo build --release` per process makes it current.
//! Invariants: the same target folder and the same selection of packages as `cargo test --release --workspace`, hence the same
//! features, so that nothing is compiled twice.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder of this suite.
#[must_use]
pub fn suite_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The root of the workspace.
///
/// # Panics
/// When the suite's folder has no parent, which a checkout cannot have.
#[must_use]
pub fn workspace_dir() -> PathBuf {
    suite_dir()
        .parent()
        .expect("the suite lies in a workspace")
        .to_path_buf()
}

/// Cargo, without what the cargo that runs this test told it of its package: that would be another environment to build
/// scripts that look (ring's), and half the dependencies would be built anew.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let told = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ];
        let name = name.to_string_lossy().into_owned();
        if told.iter().any(|told| name.starts_with(told)) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// The release binary, built at most once per process.
///
/// # Panics
/// When it does not build.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Ok(path) = std::env::var("LEVERET_BIN") {
            return PathBuf::from(path);
        }
        let target = target_dir();
        let status = cargo()
            .args([
                "test",
                "--quiet",
                "--release",
                "--workspace",
                "--no-run",
                // This test of the broker's own package is why its binary is built.
                "--test",
                "binary",
            ])
            .arg("--target-dir")
            .arg(&target)
            .current_dir(workspace_dir())
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the release binary does not build");
        target.join("release").join("leveret")
    })
}

/// The target folder of the running test.
///
/// # Panics
/// When the test does not lie in one.
#[must_use]
pub fn target_dir() -> PathBuf {
    // `TARGET/PROFILE/deps/NAME-HASH`: three folders up.
    let test = std::env::current_exe().expect("a running test has a path");
    test.ancestors()
        .nth(3)
        .expect("a test lies in a target folder")
        .to_path_buf()
}
