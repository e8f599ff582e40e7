//! The simulated cluster, `sim/`, is a workspace of its own: what it needs of its dependencies must not get into the binary
//! that all other suites test. Its short form is run from here: a fixed set of seeds, and one seed twice.
//!
//! It is built into this workspace's target folder, where most of its dependencies are already.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::path::Path;

use compat_tests::{cargo, suite_dir, target_dir, workspace_dir};

#[test]
fn the_simulated_cluster_is_sound_for_its_fixed_seeds() {
    let output = cargo()
        .args(["test", "--release", "--locked", "--target-dir"])
        .arg(target_dir())
        .current_dir(suite_dir().join("sim"))
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "the simulation failed, see above for the seeds"
    );
    assert!(text.contains("2 passed"), "the simulation ran no seed");
}

/// Names and versions in the lock file of a workspace.
fn locked(workspace: &Path) -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(workspace.join("Cargo.lock")).unwrap();
    let word = |line: Option<&str>| Some(line?.split('"').nth(1)?.to_owned());
    let packages = text.split("[[package]]").skip(1).map(|package| {
        let mut lines = package.lines().skip(1);
        (word(lines.next()).unwrap(), word(lines.next()).unwrap())
    });
    packages.collect()
}

#[test]
fn what_is_simulated_is_built_of_the_versions_that_are_shipped() {
    let (shipped, simulated) = (locked(&workspace_dir()), locked(&suite_dir().join("sim")));
    let names: BTreeSet<_> = shipped.iter().map(|(name, _)| name).collect();
    let differ: Vec<_> = simulated
        .difference(&shipped)
        .filter(|(name, _)| names.contains(name))
        .collect();
    assert!(differ.is_empty(), "in sim/Cargo.lock only: {differ:?}");
    assert!(simulated.intersection(&shipped).count() > 200);
}
