//! One program on two brokers, step by step.
//!
//! Need: what a broker does is asynchronous, so two traces taken alone differ by luck.
//! Shape: a step is sent to both and both are asked until they have shown the same; only if they do not within
//! [`PATIENCE`] is that a difference. Agreement costs no waiting, and the next step meets two brokers in the same state.
//! Limits: a race inside a broker can still differ; [`differs_always`] runs a program again before anyone believes it.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::alphabet::EXCHANGES;
use super::client::Address;
use super::program::{Act, Step};
use super::side::{Side, View};

/// How long two brokers may take to show the same.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Longer than the shortest life of a message in [`super::alphabet`]: what has one is over at both before it is asked about.
const SHORT_LIFE: Duration = Duration::from_millis(40);
const PAUSE: Duration = Duration::from_millis(4);

/// The oracle, and the broker that is tested.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The oracle.
    pub oracle: Address,
    /// The broker that is tested.
    pub ours: Address,
}

/// Where two brokers went apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Index of the step.
    pub step: usize,
    /// What only the oracle showed, and what only ours did.
    pub text: String,
    /// What kind of difference it is: the first lines that differ, without numbers. Equal ones are shown once.
    pub kind: String,
    /// The first line that differs, the oracle's and ours; empty where one shows nothing more.
    pub lines: (String, String),
}

/// Runs a program on both.
///
/// # Errors
/// When a broker cannot be reached, which is no difference but the end of the comparison.
pub fn run(pair: &Pair, program: &[Step]) -> Result<Option<Difference>, String> {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("D{:x}x{number:x}-", std::process::id());
    let mut oracle = Side::new(&pair.oracle, &prefix).map_err(|why| format!("oracle: {why}"))?;
    let mut ours = Side::new(&pair.ours, &prefix).map_err(|why| format!("ours: {why}"))?;
    let mut found = None;
    let short_lived = program.iter().any(Step::is_short_lived);
    for (index, step) in program.iter().enumerate() {
        oracle
            .perform(step)
            .map_err(|why| format!("oracle: {why}"))?;
        ours.perform(step).map_err(|why| format!("ours: {why}"))?;
        if let Act::Wait(ms) = step.act {
            std::thread::sleep(Duration::from_millis(ms));
        } else if short_lived {
            std::thread::sleep(SHORT_LIFE);
        }
        if let Some((theirs, own)) = apart(&mut oracle, &mut ours) {
            found = Some(difference(index, &theirs, &own));
            break;
        }
    }
    let exchanges: Vec<String> = EXCHANGES.iter().map(|name| (*name).to_owned()).collect();
    oracle.clean_up(&exchanges);
    ours.clean_up(&exchanges);
    Ok(found)
}

/// What both show, when they do not come to show the same.
fn apart(oracle: &mut Side, ours: &mut Side) -> Option<(View, View)> {
    let end = Instant::now() + PATIENCE;
    loop {
        oracle.settle();
        ours.settle();
        let (theirs, own) = (oracle.view(), ours.view());
        if theirs == own {
            return None;
        }
        if Instant::now() > end {
            return Some((theirs, own));
        }
        std::thread::sleep(PAUSE);
    }
}

fn difference(step: usize, theirs: &View, own: &View) -> Difference {
    let (mut text, mut kind) = (String::new(), String::new());
    let mut lines = (String::new(), String::new());
    let keys: std::collections::BTreeSet<&String> = theirs.keys().chain(own.keys()).collect();
    for key in keys {
        let empty = Vec::new();
        let (left, right) = (
            theirs.get(key).unwrap_or(&empty),
            own.get(key).unwrap_or(&empty),
        );
        if left == right {
            continue;
        }
        let same = left
            .iter()
            .zip(right)
            .take_while(|(left, right)| left == right)
            .count();
        writeln!(text, "    {key}, after {same} that are equal:").expect("a string grows");
        for (who, lines) in [("oracle", left), ("ours  ", right)] {
            let rest = &lines[same..];
            for line in rest.iter().take(4) {
                writeln!(text, "      {who} {line}").expect("a string grows");
            }
            if rest.is_empty() {
                writeln!(text, "      {who} (nothing)").expect("a string grows");
            }
        }
        let first = |lines: &[String]| {
            lines
                .get(same)
                .map_or_else(|| "nothing".into(), |line| outline(line))
        };
        if kind.is_empty() || !key.starts_with("queue ") {
            kind = format!("{} | {}", first(left), first(right));
            let line = |lines: &[String]| lines.get(same).cloned().unwrap_or_default();
            lines = (line(left), line(right));
        }
    }
    Difference {
        step,
        text,
        kind,
        lines,
    }
}

/// A line without what a seed decides: numbers, and names of the pools.
fn outline(line: &str) -> String {
    let line: String = line
        .chars()
        .filter(|letter| !letter.is_ascii_digit())
        .collect();
    let cut = line.find(" text=").map_or(60, |start| start + 70);
    line.chars().take(cut).collect()
}

/// The difference of a program, when it shows in each of `times` runs.
///
/// # Errors
/// As [`run`].
pub fn differs_always(
    pair: &Pair,
    program: &[Step],
    times: usize,
) -> Result<Option<Difference>, String> {
    let mut last = None;
    for _ in 0..times {
        last = run(pair, program)?;
        if last.is_none() {
            break;
        }
    }
    Ok(last)
}

/// The program without the steps it can do without and still differ, and the difference it then shows.
///
/// # Errors
/// As [`run`].
pub fn shrunk(
    pair: &Pair,
    program: &[Step],
    found: Difference,
) -> Result<(Vec<Step>, Difference), String> {
    let mut program = program[..=found.step].to_vec();
    let mut found = found;
    let mut size = program.len().div_ceil(2);
    while size >= 1 {
        let mut start = 0;
        while start < program.len() && program.len() > 1 {
            let end = (start + size).min(program.len());
            let mut fewer = program.clone();
            fewer.drain(start..end);
            match run(pair, &fewer)? {
                Some(smaller) if smaller.kind == found.kind => {
                    fewer.truncate(smaller.step + 1);
                    program = fewer;
                    found = smaller;
                }
                _ => start = end,
            }
        }
        size /= 2;
    }
    Ok((program, found))
}
