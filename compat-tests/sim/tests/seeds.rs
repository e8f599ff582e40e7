//! The short form: a fixed set of seeds, and one seed twice.

use std::process::Command;

/// The last line of a run of one seed.
fn run(seed: u64) -> (bool, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_leveret-sim"))
        .env("SIM_SEED", seed.to_string())
        .env("SIM_SECONDS", "10")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    (ran.status.success(), format!("{told}{text}"))
}

/// The hash of all that happened, and how many messages were confirmed.
fn trace(line: &str) -> (String, u64) {
    let word_after = |key: &str| line.split(key).nth(1)?.split([' ', ',']).next();
    let confirmed = word_after("confirmed: ").and_then(|word| word.parse().ok());
    (word_after("trace ").unwrap().to_owned(), confirmed.unwrap())
}

#[test]
fn nothing_confirmed_is_lost_whatever_the_seed_breaks() {
    let mut all = 0;
    for seed in 1..=20 {
        let (sound, text) = run(seed);
        assert!(sound, "seed {seed}: {text}");
        all += trace(&text).1;
    }
    assert!(
        all > 20_000,
        "the seeds hardly did anything: {all} confirmed"
    );
}

#[test]
fn one_seed_run_twice_gives_the_same_trace_and_another_seed_another() {
    let (one, again, other) = (trace(&run(7).1), trace(&run(7).1), trace(&run(8).1));
    assert_eq!(one, again);
    assert_ne!(one, other);
}
