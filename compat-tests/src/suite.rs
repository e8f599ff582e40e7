//! Suites of clients in other languages: what they need, how they are run, what they found.
//!
//! Need: a suite installs its client by itself, from a lock file, and where that cannot be it says why and is skipped.
//! Shape: [`have`] and [`apt`] ask for tools; [`once`] runs an install step again only after its lock file changed;
//! [`play`] runs the suite on a [`Stage`] and reads its verdict in one of the [`Format`]s.
//! Invariants: a suite that ran no test has failed; a suite that hangs is ended with all that it started; reasons for skipping and
//! one line per suite go to standard error, past the capture of the test harness.
//! Limits: 20 minutes for a suite.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Stage, eventually, suite_dir};

const SUITE_WITHIN: Duration = Duration::from_secs(1200);

/// One install at a time: package managers lock, or tread on each other.
static INSTALLING: Mutex<()> = Mutex::new(());

/// How a suite says what became of its tests.
#[derive(Clone, Copy, Debug)]
pub enum Format {
    /// Lines `ok …`, `not ok …`, `ok … # SKIP reason`: the Test Anything Protocol, as `node --test` speaks it too.
    Tap,
    /// The closing line of pytest.
    Pytest,
    /// `go test -v`.
    Go,
    /// The closing line of Maven's Surefire.
    Surefire,
    /// `test result:` lines of cargo.
    Cargo,
}

/// What became of the tests of a suite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that passed.
    pub passed: u64,
    /// Those that did not.
    pub failed: u64,
    /// Those that did not run.
    pub skipped: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Writes a line that is seen also when the test passes.
pub fn say(line: &str) {
    // Nobody to tell if even standard error is gone.
    drop(writeln!(std::io::stderr(), "compat: {line}"));
}

/// Whether the command can be run; if not, says that `client` is skipped for it.
#[must_use]
pub fn have(client: &str, command: &[&str]) -> bool {
    let found = succeeds(Command::new(command[0]).args(&command[1..]));
    if !found {
        say(&format!(
            "{client}: skipped, `{}` does not run here",
            command.join(" ")
        ));
    }
    found
}

/// Whether `probe` succeeds, if need be after Debian's packages were installed; if not, says that `client` is skipped.
#[must_use]
pub fn apt(client: &str, packages: &[&str], probe: &[&str]) -> bool {
    let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let there = || succeeds(Command::new(probe[0]).args(&probe[1..]));
    if there() {
        return true;
    }
    let root = || {
        let id = Command::new("id").arg("-u").output();
        id.is_ok_and(|id| id.stdout.trim_ascii() == b"0")
    };
    let apt_get = |words: &[&str]| {
        let mut command = if root() {
            Command::new("apt-get")
        } else {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", "apt-get"]);
            sudo
        };
        command.env("DEBIAN_FRONTEND", "noninteractive");
        succeeds(
            command
                .args(["-o", "DPkg::Lock::Timeout=300", "-qq"])
                .args(words),
        )
    };
    let install = [&["install", "-y", "--no-install-recommends"], packages].concat();
    // Without package lists, or with old ones, the first try finds nothing.
    let installed = apt_get(&install) || (apt_get(&["update"]) && apt_get(&install));
    let found = installed && there();
    if !found {
        let packages = packages.join(" ");
        say(&format!(
            "{client}: skipped, {packages} cannot be installed with apt-get here"
        ));
    }
    found
}

fn succeeds(command: &mut Command) -> bool {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Where a suite is.
#[must_use]
pub fn folder(suite: &str) -> PathBuf {
    suite_dir().join("clients").join(suite)
}

/// A folder for what a suite installs; git does not see it.
#[must_use]
pub fn installed(suite: &str) -> PathBuf {
    let folder = suite_dir().join(".installed").join(suite);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Runs the commands of an install, unless they have succeeded with the same lock files, and what they made is still there.
///
/// # Panics
/// When one of them fails.
pub fn once(suite: &str, locks: &[&str], makes: &Path, commands: &mut [Command]) {
    let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let stamp = installed(suite).join("stamp.txt");
    let wanted: String = locks
        .iter()
        .map(|lock| std::fs::read_to_string(folder(suite).join(lock)).expect("a lock file"))
        .collect();
    let done = std::fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == wanted);
    if done && makes.exists() {
        return;
    }
    let begin = Instant::now();
    for command in commands {
        let command = command.current_dir(folder(suite)).stdin(Stdio::null());
        let output = command.output().expect("the command starts");
        let text = String::from_utf8_lossy(&output.stderr);
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{command:?} failed:\n{out}{text}");
    }
    std::fs::write(stamp, wanted).expect("the stamp is written");
    say(&format!(
        "{suite}: installed in {} s",
        begin.elapsed().as_secs()
    ));
}

/// The interpreter of a virtual environment with what `requirements.txt` of the suite locks; `None` where there is no Python.
#[must_use]
pub fn python(suite: &str) -> Option<PathBuf> {
    if !have(suite, &["python3", "-c", "import venv, ensurepip"]) {
        return None;
    }
    let venv = installed(suite).join("venv");
    let python = venv.join("bin/python");
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&venv);
    let mut install = Command::new(&python);
    install
        .args("-m pip install --quiet --disable-pip-version-check -r requirements.txt".split(' '));
    once(suite, &["requirements.txt"], &python, &mut [make, install]);
    Some(python)
}

/// Runs pytest over the suite, with more in its environment.
pub fn pytest(stage: &Stage, suite: &str, environment: &[(&str, &str)]) {
    let Some(python) = python(suite) else { return };
    let mut command = Command::new(python);
    command
        .args("-m pytest -q -rs --tb=short -p no:cacheprovider".split(' '))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(environment.iter().copied());
    play(stage, suite, Format::Pytest, command);
}

/// Runs a suite in its folder and asserts that it ran tests and all passed.
///
/// # Panics
/// When one failed, when none ran, or when time is up.
pub fn play(stage: &Stage, suite: &str, format: Format, mut command: Command) {
    stage.describe(&mut command);
    command.current_dir(folder(suite));
    let begin = Instant::now();
    let (good, text) = run(&installed(suite), command);
    let counts = format.read(&text);
    println!("{text}");
    let nodes = if stage.count() == 1 {
        "one node"
    } else {
        "three nodes"
    };
    say(&format!(
        "{suite}, {nodes}: {counts}, {:.1} s",
        begin.elapsed().as_secs_f64()
    ));
    for line in format.skips(&text) {
        say(&format!("{suite}, {nodes}: {line}"));
    }
    assert!(
        good && counts.failed == 0,
        "{suite} found failures, see above"
    );
    assert!(counts.passed > 0, "{suite} ran no test");
}

/// Runs the command to its end; whether that was a good one, and all that it wrote.
///
/// # Panics
/// When time is up.
#[must_use]
pub fn run(scratch: &Path, mut command: Command) -> (bool, String) {
    let path = scratch.join(format!("output-{}.txt", std::process::id()));
    let output = File::create(&path).expect("a file for the output");
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a second handle"))
        .stderr(output)
        .process_group(0);
    let child = command.spawn().expect("the suite starts");
    let mut group = Group(child);
    let status = eventually(SUITE_WITHIN, || group.0.try_wait().expect("wait"));
    let text = std::fs::read(&path).expect("the output");
    drop(std::fs::remove_file(path));
    let text = String::from_utf8_lossy(&text).into_owned();
    (status.success(), text)
}

/// Ends the processes of a suite with the test, also one that fails.
struct Group(std::process::Child);

impl Drop for Group {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let mut kill = Command::new("kill");
        // Mostly nobody is left to be ended, and kill says so.
        let _ended = succeeds(kill.args(["-KILL", "--", &group]));
        drop(self.0.wait());
    }
}

impl Format {
    fn read(self, text: &str) -> Counts {
        let count = |begin: &str| {
            let lines = text.lines().filter(|line| line.starts_with(begin));
            lines.count() as u64
        };
        match self {
            Self::Tap => {
                let skipped = self.skips(text).len() as u64;
                Counts {
                    passed: count("ok ") - skipped,
                    failed: count("not ok "),
                    skipped,
                }
            }
            Self::Go => Counts {
                passed: count("--- PASS"),
                failed: count("--- FAIL"),
                skipped: count("--- SKIP"),
            },
            Self::Pytest => {
                let closing = |line: &&str| line.contains(" in ") && line.contains(" passed");
                let line = text.lines().rfind(closing).unwrap_or_default();
                Counts {
                    passed: before(line, "passed"),
                    failed: before(line, "failed") + before(line, "error") + before(line, "errors"),
                    skipped: before(line, "skipped") + before(line, "xfailed"),
                }
            }
            Self::Surefire => {
                let total = text.lines().rfind(|line| line.contains("Tests run:"));
                let line = total.unwrap_or_default();
                let (run, skipped) = (after(line, "run:"), after(line, "Skipped:"));
                let failed = after(line, "Failures:") + after(line, "Errors:");
                Counts {
                    passed: run - failed - skipped,
                    failed,
                    skipped,
                }
            }
            Self::Cargo => {
                let mut sum = Counts::default();
                for line in text.lines().filter(|line| line.starts_with("test result:")) {
                    sum.passed += before(line, "passed");
                    sum.failed += before(line, "failed");
                    sum.skipped += before(line, "ignored");
                }
                sum
            }
        }
    }

    fn skips(self, text: &str) -> Vec<&str> {
        let is_skip = |line: &&str| match self {
            Self::Tap => line.starts_with("ok ") && line.contains("# SKIP"),
            Self::Go => line.starts_with("--- SKIP"),
            Self::Pytest => line.starts_with("SKIPPED"),
            Self::Surefire => line.contains("[WARNING]") && line.contains("Skipped:"),
            Self::Cargo => line.ends_with("... ignored"),
        };
        text.lines().filter(is_skip).collect()
    }
}

/// The number in front of a word.
fn before(line: &str, word: &str) -> u64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let clean = |text: &str| text.trim_end_matches([',', ';', '.']).to_owned();
    let pair = words.windows(2).find(|pair| clean(pair[1]) == word);
    pair.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

/// The number behind a word.
fn after(line: &str, word: &str) -> u64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let pair = words.windows(2).find(|pair| pair[0] == word);
    let number = pair.map(|pair| pair[1].trim_end_matches(','));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_is_read() {
        let rows = [
            (
                Format::Tap,
                "TAP version 13\nok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP no c\n",
                [1, 1, 1],
            ),
            (
                Format::Pytest,
                "1 passed nothing\n== 2 failed, 3 passed, 4 skipped, 1 error in 2.1s ==",
                [3, 3, 4],
            ),
            (Format::Pytest, "no tests ran in 0.01s", [0, 0, 0]),
            (
                Format::Go,
                "=== RUN TestA\n--- PASS: TestA (0.0s)\n--- SKIP: TestB\n--- FAIL: TestC",
                [1, 1, 1],
            ),
            (
                Format::Surefire,
                "[INFO] Tests run: 9, Failures: 1, Errors: 2, Skipped: 3\n[INFO] done",
                [3, 3, 3],
            ),
            (
                Format::Cargo,
                "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured\ntest result: FAILED. 1 passed; 1 failed;",
                [4, 1, 1],
            ),
        ];
        for (format, text, [passed, failed, skipped]) in rows {
            let wanted = Counts {
                passed,
                failed,
                skipped,
            };
            assert_eq!(format.read(text), wanted, "{text}");
        }
    }
}
