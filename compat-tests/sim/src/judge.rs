//! What must hold, looked at while a run goes on and at its end.

use std::collections::BTreeMap;

use leveret::base::SetId;

use crate::world::{NODES, World};

/// What was seen so far of terms and states.
#[derive(Default)]
pub struct Judge {
    leaders: BTreeMap<(SetId, u64), usize>,
    digests: BTreeMap<(SetId, u64), (usize, u64)>,
}

impl Judge {
    /// One leader per term that takes proposals.
    pub fn leaders(&mut self, world: &World) {
        for at in 0..NODES {
            let Some(cluster) = world.with(|state| state.nodes[at].cluster.upgrade()) else {
                continue;
            };
            for (set, handle) in cluster.sets() {
                let Some(group) = handle.group() else {
                    continue;
                };
                let now = *group.leadership().borrow();
                if !now.leading {
                    continue;
                }
                let first = *self.leaders.entry((set, now.term)).or_insert_with(|| {
                    world.with(|state| state.counts.leaders += 1);
                    world.note(&format!("n{} leads set {set} in term {}", at + 1, now.term));
                    at
                });
                if first != at {
                    let text = format!(
                        "n{} and n{} lead set {set} in term {}",
                        first + 1,
                        at + 1,
                        now.term
                    );
                    world.violation(text);
                }
            }
        }
    }

    /// Equal states at equal indexes.
    pub fn states(&mut self, world: &World) {
        for at in 0..NODES {
            let Some(cluster) = world.with(|state| state.nodes[at].cluster.upgrade()) else {
                continue;
            };
            for (set, handle) in cluster.sets().filter(|(set, _)| !set.is_local()) {
                let seen = handle.with(|replica| {
                    let machine = replica.machine();
                    (machine.applied_index(), machine.digest())
                });
                let Some((index, digest)) = seen else {
                    continue;
                };
                let (first, before) = *self.digests.entry((set, index)).or_insert((at, digest));
                if first != at {
                    world.with(|state| state.counts.compared += 1);
                }
                if before != digest {
                    let text = format!(
                        "n{} and n{} differ in set {set} at {index}",
                        first + 1,
                        at + 1
                    );
                    world.violation(text);
                }
            }
        }
    }

    /// Whether nothing is left to do: all run, all was heard of, all confirmed was delivered, nothing is queued.
    pub fn drained(&self, world: &World) -> Result<(), String> {
        for at in 0..NODES {
            let (cluster, busy) =
                world.with(|state| (state.nodes[at].cluster.upgrade(), state.busy[at]));
            let cluster = cluster.ok_or_else(|| format!("n{} does not serve", at + 1))?;
            if busy {
                return Err(format!("n{} waits for confirms", at + 1));
            }
            for (set, handle) in cluster.sets().filter(|(set, _)| !set.is_local()) {
                let totals = handle.with(|replica| replica.machine().totals());
                if let Some(totals) = totals.filter(|one| one.ready + one.unsettled > 0) {
                    let (ready, unsettled) = (totals.ready, totals.unsettled);
                    return Err(format!(
                        "n{} set {set}: {ready} ready, {unsettled} leased",
                        at + 1
                    ));
                }
            }
        }
        Ok(())
    }

    /// Confirmed messages that nobody ever got.
    pub fn lost(&self, world: &World) {
        let lost: Vec<_> = world.with(|state| {
            let some = state.history.iter();
            let some = some.filter(|(_, fate)| fate.confirmed && fate.deliveries == 0);
            some.map(|(id, _)| *id).collect()
        });
        for id in lost {
            world.violation(format!("{id:?} was confirmed and is lost"));
        }
    }
}
