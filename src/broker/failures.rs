//! Failed logins by source, forgotten one by one as time passes.
//!
//! Need: guessing passwords is slow, from whichever door. Limits: [`SOURCES_MAX`] sources are remembered; past it the one
//! that failed longest ago is forgotten.

use std::net::IpAddr;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::base::Millis;

/// A failure is forgotten after this long.
const FORGIVEN_AFTER: Millis = Millis(1_000);
const SOURCES_MAX: usize = 4_096;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<IpAddr, (u32, Millis)>>);

fn left((count, since): (u32, Millis), now: Millis) -> u32 {
    let forgiven = now.since(since).0 / FORGIVEN_AFTER.0;
    count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
}

impl Failures {
    /// How many of a source's failures are not forgotten.
    #[must_use]
    pub fn count(&self, source: IpAddr, now: Millis) -> u32 {
        let mut sources = self.0.lock();
        let count = sources.get(&source).map_or(0, |entry| left(*entry, now));
        if count == 0 {
            sources.remove(&source);
        }
        count
    }

    /// One more.
    pub fn failed(&self, source: IpAddr, now: Millis) {
        let mut sources = self.0.lock();
        if sources.len() >= SOURCES_MAX && !sources.contains_key(&source) {
            let oldest = sources.iter().min_by_key(|(_, (_, since))| *since);
            if let Some(oldest) = oldest.map(|(source, _)| *source) {
                sources.remove(&oldest);
            }
        }
        let entry = sources.entry(source).or_insert((0, now));
        *entry = (left(*entry, now) + 1, now);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn failures_add_up_and_are_forgotten_one_a_second() {
        let failures = Failures::default();
        let source: IpAddr = "203.0.113.7".parse().unwrap();
        for _ in 0..5 {
            failures.failed(source, Millis(10_000));
        }
        for (at, want) in [
            (10_000, 5),
            (10_999, 5),
            (11_000, 4),
            (14_500, 1),
            (15_000, 0),
        ] {
            assert_eq!(failures.count(source, Millis(at)), want, "at {at}");
        }
        assert_eq!(failures.count("::1".parse().unwrap(), Millis(10_000)), 0);
    }

    #[test]
    fn only_so_many_sources_are_remembered_and_the_oldest_goes() {
        let failures = Failures::default();
        let source = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(n));
        for n in 0..=u32::try_from(SOURCES_MAX).unwrap() {
            failures.failed(source(n), Millis(u64::from(n) / 100));
        }
        assert_eq!(failures.0.lock().len(), SOURCES_MAX);
        let last = source(u32::try_from(SOURCES_MAX).unwrap());
        assert_eq!(failures.count(last, Millis(41)), 1);
    }
}
