//! The house rules a compiler does not check: who may import whom, who may name what, how long a file may be.

use std::fs;
use std::path::{Path, PathBuf};

/// Floors from the ground; each may import itself, those listed, and nothing else of ours.
const FLOORS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("amqp", &["base"]),
    ("session", &["base", "amqp"]),
    ("model", &["base", "amqp"]),
    ("log", &["base"]),
    ("raft", &["base", "model", "log", "rt"]),
    ("cluster", &["base", "model", "log", "raft", "rt"]),
    (
        "broker",
        &["base", "amqp", "session", "model", "cluster", "rt"],
    ),
    (
        "shovel",
        &["base", "amqp", "model", "cluster", "broker", "rt"],
    ),
    (
        "http",
        &["base", "amqp", "model", "cluster", "broker", "shovel", "rt"],
    ),
];

/// Words that may stand only in the folders named.
const WORDS: &[(&str, &[&str])] = &[
    ("openraft::", &["raft"]),
    (
        "tokio::",
        &[
            "raft",
            "cluster",
            "broker",
            "shovel",
            "http",
            "rt.rs",
            "node.rs",
            "doors.rs",
            "operator.rs",
            "main.rs",
            "process.rs",
        ],
    ),
    ("SystemTime::", &["base/clock.rs", "telemetry.rs"]),
    (
        "async fn",
        &[
            "raft",
            "cluster",
            "broker",
            "shovel",
            "http",
            "rt.rs",
            "node.rs",
            "doors.rs",
            "operator.rs",
            "main.rs",
            "process.rs",
        ],
    ),
    // A replica owns its two tasks and joins them at shutdown.
    ("tokio::spawn(", &["rt.rs", "raft/group.rs"]),
];

const LINES_MAX: usize = 600;
const LINE_WIDTH_MAX: usize = 140;

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                out.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.sort();
    let read = |path: PathBuf| {
        let name = path
            .strip_prefix(&root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        (name, fs::read_to_string(&path).unwrap())
    };
    files.into_iter().map(read).collect()
}

/// The code of a file without its test module and comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

fn is_test(name: &str) -> bool {
    name.contains("test") || name == "tidy.rs"
}

#[test]
fn a_floor_imports_only_floors_below_it() {
    let mut faults = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name)) {
        let floor = name.split('/').next().unwrap_or_default();
        let Some((_, below)) = FLOORS.iter().find(|(known, _)| *known == floor) else {
            continue;
        };
        for line in code(text) {
            for part in line.split("crate::").skip(1) {
                let end = part
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(part.len());
                let target = &part[..end];
                let known = FLOORS.iter().any(|(known, _)| *known == target) || target == "rt";
                if known && target != floor && !below.contains(&target) {
                    faults.push(format!("{name}: {}", line.trim()));
                }
            }
        }
    }
    assert!(
        faults.is_empty(),
        "imports that look up or sideways:\n{}",
        faults.join("\n")
    );
}

#[test]
fn a_word_stands_only_where_it_belongs() {
    let mut faults = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name)) {
        for line in code(text) {
            for (word, places) in WORDS {
                if line.contains(word) && !places.iter().any(|place| name.starts_with(place)) {
                    faults.push(format!("{name}: {}", line.trim()));
                }
            }
        }
    }
    assert!(
        faults.is_empty(),
        "words out of place:\n{}",
        faults.join("\n")
    );
}

#[test]
fn no_file_grows_into_a_hall() {
    let mut faults = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > LINES_MAX && !is_test(&name) {
            faults.push(format!("{name}: {lines} lines"));
        }
        if let Some(line) = text
            .lines()
            .find(|line| line.chars().count() > LINE_WIDTH_MAX && !is_test(&name))
        {
            faults.push(format!(
                "{name}: line too wide: {}",
                &line.trim()[..40.min(line.trim().len())]
            ));
        }
        if !text.starts_with("//!") && !is_test(&name) {
            faults.push(format!("{name}: no module head"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_format_on_disk_has_its_row_in_the_docs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_to_string(root.join("docs/formats.md")).unwrap();
    for named in docs
        .split('`')
        .filter(|part| part.starts_with("src/") && part.ends_with(".rs"))
    {
        assert!(
            root.join(named).exists(),
            "docs/formats.md names {named}, which is not there"
        );
    }
}

#[test]
fn the_image_is_built_of_what_its_context_has() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let context = fs::read_to_string(root.join(".dockerignore")).unwrap();
    let recipe = fs::read_to_string(root.join("docker/Dockerfile")).unwrap();
    let copied: Vec<&str> = recipe
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .flat_map(str::split_whitespace)
        .filter_map(|word| word.strip_prefix("docker/"))
        .collect();
    assert!(!copied.is_empty());
    for file in copied {
        let let_in = format!("!docker/{file}");
        assert!(
            context.lines().any(|line| line == let_in),
            ".dockerignore keeps out docker/{file}"
        );
        assert!(
            root.join("docker").join(file).is_file(),
            "docker/{file} is not there"
        );
    }
}
