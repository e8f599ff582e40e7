//! What goes wrong, by the seed: when, to whom, for how long.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use turmoil::Sim;

use crate::world::{NODES, World};

/// What ends a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mend {
    Start(usize),
    Repair(usize, usize),
    Release(usize, usize),
    Latency,
    Disk(usize),
}

/// Faults under way.
pub struct Faults {
    world: World,
    mends: BTreeMap<(Duration, u64), Mend>,
    count: u64,
    down: [bool; NODES],
    /// Of 1000 tenths of a second, those with a fault.
    rate: u64,
}

fn host(at: usize) -> String {
    format!("n{}", at + 1)
}

impl Faults {
    pub fn new(world: &World) -> Self {
        let rate = [10, 30, 60, 120][world.roll(0..4) as usize];
        Self {
            world: world.clone(),
            mends: BTreeMap::new(),
            count: 0,
            down: [false; NODES],
            rate,
        }
    }

    fn later(&mut self, after_ms: u64, mend: Mend) {
        self.count += 1;
        let at = self.world.with(|state| state.now) + Duration::from_millis(after_ms);
        self.mends.insert((at, self.count), mend);
    }

    /// Ends nodes that must stop, or whose power went; ends faults whose time has come.
    pub fn step(&mut self, sim: &mut Sim<'_>) {
        for at in 0..NODES {
            let ended = self.world.with(|state| {
                let node = &state.nodes[at];
                node.fatal.is_some() || node.disk.is_off()
            });
            if ended && !self.down[at] {
                let after = self.world.roll(200..3000);
                self.crash(sim, at, after);
            }
        }
        let now = self.world.with(|state| state.now);
        while let Some((key, mend)) = self
            .mends
            .first_key_value()
            .map(|(key, mend)| (*key, *mend))
        {
            if key.0 > now {
                break;
            }
            self.mends.remove(&key);
            self.mend(sim, mend);
        }
    }

    fn crash(&mut self, sim: &mut Sim<'_>, at: usize, down_ms: u64) {
        self.world.note(&format!("n{} is down", at + 1));
        self.world.with(|state| {
            state.counts.crashes += 1;
            let node = &mut state.nodes[at];
            node.dead.store(true, Ordering::Release);
            node.cluster = std::sync::Weak::new();
            state.busy[at] = false;
        });
        sim.crash(host(at));
        self.world.with(|state| {
            let node = &mut state.nodes[at];
            node.disk = node.disk.crash();
            node.fatal = None;
            node.stalled_until = Duration::ZERO;
        });
        self.down[at] = true;
        self.later(down_ms, Mend::Start(at));
    }

    fn mend(&mut self, sim: &mut Sim<'_>, mend: Mend) {
        self.world.note(&format!("{mend:?}"));
        match mend {
            Mend::Start(at) => {
                self.down[at] = false;
                sim.bounce(host(at));
            }
            Mend::Repair(a, b) => {
                sim.repair_oneway(host(a), host(b));
            }
            Mend::Release(a, b) => sim.release(host(a), host(b)),
            Mend::Latency => sim.set_max_message_latency(Duration::from_millis(5)),
            Mend::Disk(at) => self.world.with(|state| state.nodes[at].disk.mend()),
        }
    }

    /// Perhaps begins a fault; called every tenth of a second.
    pub fn perhaps(&mut self, sim: &mut Sim<'_>) {
        if self.world.roll(0..1000) >= self.rate {
            return;
        }
        let at = self.world.roll(0..NODES as u64) as usize;
        let other = (at + 1 + self.world.roll(0..NODES as u64 - 1) as usize) % NODES;
        let span = self.world.roll(300..8000);
        let kind = self.world.roll(0..16);
        self.world.note(&format!(
            "fault {kind} n{} n{} {span} ms",
            at + 1,
            other + 1
        ));
        self.world.with(|state| state.counts.faults += 1);
        let up = !self.down[at];
        match kind {
            0 | 1 if up => self.crash(sim, at, span),
            2 => {
                for at in 0..NODES {
                    if !self.down[at] {
                        self.crash(sim, at, span + at as u64 * 100);
                    }
                }
            }
            3 | 4 if up => {
                let after = self.world.roll(0..60);
                self.world
                    .with(|state| state.nodes[at].disk.power_off_after(after));
            }
            5 => {
                for other in (0..NODES).filter(|other| *other != at) {
                    self.cut(sim, at, other, span);
                    self.cut(sim, other, at, span);
                }
            }
            6 => {
                self.cut(sim, at, other, span);
                self.cut(sim, other, at, span);
            }
            7 | 8 => self.cut(sim, at, other, span),
            9 => {
                sim.hold(host(at), host(other));
                self.later(span, Mend::Release(at, other));
            }
            10 => {
                let most = self.world.roll(20..400);
                sim.set_max_message_latency(Duration::from_millis(most));
                self.later(span, Mend::Latency);
            }
            11 => self.world.with(|state| {
                let until = state.now + Duration::from_millis(span);
                state.nodes[at].stalled_until = until;
            }),
            12 if up => {
                let after = self.world.roll(0..20);
                self.world
                    .with(|state| state.nodes[at].disk.fill_after(after));
                self.later(span, Mend::Disk(at));
            }
            13 if up => {
                let after = self.world.roll(0..20);
                self.world
                    .with(|state| state.nodes[at].disk.fail_syncs_after(after));
                self.later(span, Mend::Disk(at));
            }
            14 if up => {
                let after = self.world.roll(0..5);
                self.world.with(|state| {
                    if state.nodes[at].started {
                        state.nodes[at].disk.flip_read_after(after);
                    }
                });
            }
            15 => {
                let skew = self.world.roll(0..1_200_000) as i64 - 600_000;
                self.world.with(|state| state.nodes[at].skew = skew);
            }
            _ => {}
        }
    }

    fn cut(&mut self, sim: &mut Sim<'_>, from: usize, to: usize, span: u64) {
        sim.partition_oneway(host(from), host(to));
        self.later(span, Mend::Repair(from, to));
    }

    /// Ends every fault; the clocks stay wrong.
    pub fn heal(&mut self, sim: &mut Sim<'_>) {
        self.world.note("healing");
        let mends: Vec<Mend> = std::mem::take(&mut self.mends).into_values().collect();
        for mend in mends {
            self.mend(sim, mend);
        }
        for at in 0..NODES {
            self.world.with(|state| {
                state.nodes[at].disk.mend();
                state.nodes[at].stalled_until = Duration::ZERO;
            });
        }
    }
}
