//! A deterministic simulation of a cluster: three nodes in one thread, one seed, virtual time.
//!
//! Each node runs the real cluster floor (topology, broker sets, pipes, controller), real Raft groups and real logs,
//! over tonic on turmoil's network and over a disk in memory. Clients publish with confirms and consume; faults come by
//! the seed; then all is healed, and everything confirmed must be delivered within a bound of time.
//!
//! `SIM_SEED=n` runs one seed; otherwise `SIM_SEEDS` seeds (20) from `SIM_FIRST` (1) on, each in a process of its own, as
//! the dice of the whole process belong to the seed. `SIM_SECONDS` of faults (20); `SIM_TRACE=1` tells every event, and
//! `SIM_LOG=leveret=debug` what the nodes log; `SIM_KEEP` bytes of log are kept behind a snapshot instead of what the
//! seed says. A panic, in whichever task, ends the run and fails it.
//! Not here: AMQP sessions, TLS, more than three nodes, compatibility of versions.

mod client;
mod disk;
mod faults;
mod judge;
mod net;
mod node;
mod world;

use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use leveret::base::Millis;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::faults::Faults;
use crate::judge::Judge;
use crate::node::Shape;
use crate::world::{NODES, World};

const TICK: Duration = Duration::from_millis(1);
/// Longest time from healing until everything is delivered.
const LIVELY: Duration = Duration::from_secs(90);

static WORLD: OnceLock<World> = OnceLock::new();

fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok().and_then(|text| text.parse().ok());
    set.unwrap_or(default)
}

fn wall() -> Millis {
    WORLD.get().map_or(Millis(0), node::wall)
}

fn main() -> ExitCode {
    match std::env::var("SIM_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
    {
        Some(seed) => one(seed),
        None => many(number("SIM_FIRST", 1), number("SIM_SEEDS", 20)),
    }
}

/// Runs seeds one after the other, each in its own process.
fn many(first: u64, count: u64) -> ExitCode {
    let Ok(own) = std::env::current_exe() else {
        return ExitCode::FAILURE;
    };
    let mut failed = Vec::new();
    for seed in first..first + count {
        let ran = std::process::Command::new(&own)
            .env("SIM_SEED", seed.to_string())
            .status();
        if !ran.is_ok_and(|status| status.success()) {
            eprintln!("seed {seed} failed; again: SIM_SEED={seed} SIM_TRACE=1 cargo run");
            failed.push(seed);
        }
    }
    eprintln!("{count} seeds from {first}, failed: {failed:?}");
    match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// The time of the simulation, for the nodes' log.
struct Simulated;

impl FormatTime for Simulated {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        write!(out, "{:>10.3}", now.as_secs_f64())
    }
}

fn one(seed: u64) -> ExitCode {
    // A runtime would go on without the task that panicked.
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("seed {seed}: {panic}");
        std::process::exit(101);
    }));
    if let Ok(filter) = std::env::var("SIM_LOG") {
        // On a thread of its own and before the dice are set, so that a run with a log is the same run.
        let begin = std::thread::spawn(move || {
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_timer(Simulated)
                .with_ansi(false)
                .with_writer(std::io::stderr)
                .init();
        });
        begin.join().expect("a filter that can be read");
    }
    mad_turmoil::rand::set_rng(rand_of_process::SeedableRng::seed_from_u64(seed));
    let _clocks = mad_turmoil::time::SimClocksGuard::init();
    let world = WORLD.get_or_init(|| World::new(seed)).clone();
    if leveret::base::SIMULATED.set(wall).is_err()
        || leveret::cluster::peer::wire::DIAL.set(net::dial).is_err()
    {
        return ExitCode::FAILURE;
    }
    let faulty = Duration::from_secs(number("SIM_SECONDS", 20));
    let begun = uptime();
    run(&world, faulty);
    let took = uptime() - begun;
    let (violations, counts, now) =
        world.with(|state| (state.violations.clone(), state.counts, state.now));
    for violation in violations.iter().take(10) {
        eprintln!("seed {seed}: {violation}");
    }
    println!(
        "seed {seed} trace {:016x} simulated {:.1} s in {took:.1} s {counts:?} violations {}",
        world.trace(),
        now.as_secs_f64(),
        violations.len(),
    );
    match violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// The process's clocks are simulated; this one is not.
fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let first = text.split(' ').next().and_then(|word| word.parse().ok());
    first.unwrap_or(0.0)
}

fn run(world: &World, faulty: Duration) {
    let mut dice = StdRng::seed_from_u64(world.seed);
    let shape = Shape {
        direct: rand::Rng::random(&mut dice),
        segment_bytes: 64 << 10,
        snapshot_every_bytes: [64 << 10, 256 << 10][world.roll(0..2) as usize],
        keep_log_bytes: number(
            "SIM_KEEP",
            [0, 64 << 10, 1 << 20][world.roll(0..3) as usize],
        ),
    };
    let mut sim = turmoil::Builder::new()
        .rng_seed(world.seed)
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(1 << 20))
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(Duration::from_millis(5))
        .tcp_capacity(1 << 16)
        .ephemeral_ports(1024..=25_000)
        .enable_random_order()
        .build();
    for at in 0..NODES {
        let world = world.clone();
        sim.host(format!("n{}", at + 1), move || {
            node::live(world.clone(), at, shape)
        });
    }
    let (mut judge, mut faults) = (Judge::default(), Faults::new(world));
    let mut steps = 0_u64;
    let mut healed = false;
    loop {
        if let Err(error) = sim.step() {
            world.violation(format!("a node ended with {error}"));
            return;
        }
        steps += 1;
        let now = sim.elapsed();
        world.with(|state| state.now = now);
        faults.step(&mut sim);
        judge.leaders(world);
        if steps.is_multiple_of(200) {
            judge.states(world);
        }
        if !healed && now >= faulty {
            healed = true;
            world.with(|state| state.publishing = false);
            faults.heal(&mut sim);
        }
        if !healed && steps.is_multiple_of(100) {
            faults.perhaps(&mut sim);
        }
        if healed && steps.is_multiple_of(100) {
            match judge.drained(world) {
                Ok(()) => break,
                Err(left) if now > faulty + LIVELY => {
                    world.violation(format!("not drained: {left}"));
                    break;
                }
                Err(_) => {}
            }
        }
    }
    judge.states(world);
    judge.lost(world);
}
