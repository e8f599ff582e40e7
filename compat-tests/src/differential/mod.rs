//! The differential test: the same programs on Leveret and on RabbitMQ, everything compared.
//!
//! Need: no list of rules is complete; RabbitMQ itself is the only one that knows all of them.
//! Shape: [`generate`] makes programs from seeds, [`lockstep`] runs one on both brokers and compares after each step,
//! [`side`] is one broker's run, [`known`] says what may differ and why, [`framing`] has fixed programs of broken bytes,
//! [`oracle`] starts a RabbitMQ. [`compare`] does many seeds and shrinks what fails.
//! Invariants: one seed, one program. A difference counts when it shows again in every repetition.
//! Limits: only what a client sees over AMQP 0-9-1; nothing that needs a restart or more than one node.

pub mod alphabet;
pub mod client;
pub mod dice;
pub mod framing;
pub mod generate;
pub mod known;
pub mod lockstep;
pub mod method;
pub mod names;
pub mod observer;
pub mod oracle;
pub mod program;
pub mod side;
pub mod value;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lockstep::{Difference, Pair, differs_always, run, shrunk};
use program::Step;

/// How often a difference must show.
const REPETITIONS: usize = 3;
/// How many programs of one kind of difference are shrunk.
const SHRUNK_PER_KIND: usize = 1;

/// What came of many programs.
#[derive(Default)]
pub struct Report {
    /// Programs that were run.
    pub programs: u64,
    /// Steps of those programs.
    pub steps: u64,
    /// Programs that differed once and not again.
    pub unsteady: Vec<u64>,
    /// Programs whose difference [`known::EXPLAINED`] explains, by what that is.
    pub explained: BTreeMap<&'static str, Vec<u64>>,
    /// Kinds of differences: how many seeds, and the text of a shrunk program.
    pub kinds: BTreeMap<String, (Vec<u64>, String)>,
}

/// Runs the programs of `count` seeds from `first` on, each pair in a thread of its own.
///
/// # Panics
/// When a broker cannot be reached.
#[must_use]
pub fn compare(pairs: &[Pair], first: u64, count: u64) -> Report {
    let next = AtomicU64::new(first);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for pair in pairs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    one(pair, seed, &report);
                }
            });
        }
    });
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn hold(report: &Mutex<Report>) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

fn one(pair: &Pair, seed: u64, report: &Mutex<Report>) {
    let program = generate::program(seed);
    let found = run(pair, &program).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    {
        let mut report = hold(report);
        report.programs += 1;
        report.steps += program.len() as u64;
    }
    let Some(found) = found else { return };
    let many = {
        let mut report = hold(report);
        let entry = report.kinds.get_mut(&found.kind);
        entry.is_some_and(|(seeds, _)| {
            let many = seeds.len() >= SHRUNK_PER_KIND;
            if many {
                seeds.push(seed);
            }
            many
        })
    };
    if many {
        return;
    }
    match examined(pair, &program).unwrap_or_else(|why| panic!("seed {seed}: {why}")) {
        None => {
            println!("seed {seed}: differed once and not again\n{}", found.text);
            hold(report).unsteady.push(seed);
        }
        Some((program, found)) => {
            if let Some(row) = known::explained(&program, &found) {
                let mut report = hold(report);
                report.explained.entry(row.what).or_default().push(seed);
                return;
            }
            let text = format!("{}  differs:\n{}", program::text(&program), found.text);
            println!("seed {seed}: {}\n{text}", found.kind);
            let mut report = hold(report);
            let entry = report.kinds.entry(found.kind).or_insert((Vec::new(), text));
            entry.0.push(seed);
        }
    }
}

/// A program that differs in every repetition, shrunk.
fn examined(pair: &Pair, program: &[Step]) -> Result<Option<(Vec<Step>, Difference)>, String> {
    let Some(found) = differs_always(pair, program, REPETITIONS - 1)? else {
        return Ok(None);
    };
    let (program, found) = shrunk(pair, program, found)?;
    Ok(differs_always(pair, &program, REPETITIONS)?.map(|_| (program, found)))
}

impl std::fmt::Display for Report {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            out,
            "{} programs, {} steps, {} unsteady {:?}, {} kinds of differences",
            self.programs,
            self.steps,
            self.unsteady.len(),
            self.unsteady,
            self.kinds.len()
        )?;
        for (what, seeds) in &self.explained {
            writeln!(out, "explained, {} seeds {seeds:?}: {what}", seeds.len())?;
        }
        for (kind, (seeds, text)) in &self.kinds {
            let shown = &seeds[..seeds.len().min(8)];
            writeln!(out, "\n{} seeds, {shown:?}: {kind}\n{text}", seeds.len())?;
        }
        Ok(())
    }
}
