//! The short form: a fixed set of seeds, and one seed twice.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const SEEDS: u64 = 20;
/// A seed takes seconds; one that takes this long is stuck.
const SEED_LIMIT: Duration = Duration::from_secs(300);

/// The last line of a run of one seed. What it complains of goes to standard error.
fn run(seed: u64) -> (bool, String) {
    let mut ran = Command::new(env!("CARGO_BIN_EXE_leveret-sim"))
        .env("SIM_SEED", seed.to_string())
        .env("SIM_SECONDS", "10")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = ran.stdout.take().unwrap();
    let (tx, ended) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut line = String::new();
        told.read_to_string(&mut line).unwrap();
        // Nobody listens once the limit has passed.
        tx.send(()).ok();
        line
    });
    if ended.recv_timeout(SEED_LIMIT).is_err() {
        ran.kill().unwrap();
        eprintln!("seed {seed} is stuck");
    }
    let sound = ran.wait().unwrap().success();
    (sound, reader.join().unwrap())
}

/// The hash of all that happened, and how many messages were confirmed.
fn trace(line: &str) -> (String, u64) {
    let word_after = |key: &str| line.split(key).nth(1)?.split([' ', ',']).next();
    let confirmed = word_after("confirmed: ").and_then(|word| word.parse().ok());
    (word_after("trace ").unwrap().to_owned(), confirmed.unwrap())
}

#[test]
fn nothing_confirmed_is_lost_whatever_the_seed_breaks() {
    let (next, all) = (AtomicU64::new(1), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > SEEDS {
                return;
            }
            let (sound, line) = run(seed);
            assert!(sound, "seed {seed}: {line}");
            print!("{line}");
            all.fetch_add(trace(&line).1, Ordering::Relaxed);
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // A panic of any of them is one of the scope.
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    let all = all.into_inner();
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
