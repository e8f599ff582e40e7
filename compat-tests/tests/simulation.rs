//! The simulated cluster, `sim/`, is a workspace of its own: it is built with a flag of tokio's that nothing else has.
//! Its short form is run from here, with `COMPAT_SIMULATION=1`: a fixed set of seeds, and one seed twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::process::Command;

use compat_tests::suite_dir;

#[test]
fn the_simulated_cluster_is_sound_for_its_fixed_seeds() {
    if std::env::var_os("COMPAT_SIMULATION").is_none() {
        println!(
            "skipped: COMPAT_SIMULATION=1 runs it, and compiles the cluster once more for that"
        );
        return;
    }
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    // From its own folder: the flag is in the configuration there.
    let output = Command::new(cargo)
        .arg("test")
        .current_dir(suite_dir().join("sim"))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
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
