//! The virtual environment of the Python clients.

use std::path::{Path, PathBuf};
use std::process::Command;

use compat_tests::suite_dir;

/// The suite's own virtual environment, made again whenever the locked requirements change.
pub fn environment(tests: &Path) -> PathBuf {
    let venv = suite_dir().join(".venv");
    let python = venv.join("bin/python");
    let lock = tests.join("requirements.txt");
    let wanted = std::fs::read_to_string(&lock).expect("the locked requirements");
    let stamp = venv.join("installed.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&venv));
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
        ])
        .arg(&lock));
    std::fs::write(stamp, wanted).expect("the stamp is written");
    python
}

fn run(command: &mut Command) {
    let status = command.status().expect("the command starts");
    assert!(status.success(), "{command:?} failed");
}
