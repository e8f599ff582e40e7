//! Says what a start waits for, if that takes long.
//!
//! Need: a node that waits for others tells its operator nothing, and one that waits for what never comes looks the same.
//! Shape: [`tell`] is put around whatever may take long. Quick waits are silent.
//! Not here: whether to give up; a node waits until it is stopped.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::outbox::Outbox;
use crate::raft::Group;

/// Silence before the first line, and the longest between two.
const FIRST: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(40);

/// Completes with `wait`. Past [`FIRST`] a warning says what is waited for, by `what`, and again in doubling times.
pub async fn tell<T>(what: impl Fn() -> String, wait: impl Future<Output = T>) -> T {
    tell_after(FIRST, what, wait).await
}

async fn tell_after<T>(
    first: Duration,
    what: impl Fn() -> String,
    wait: impl Future<Output = T>,
) -> T {
    let mut wait = pin!(wait);
    let (begin, mut pause, mut told) = (Instant::now(), first, false);
    loop {
        if let Ok(done) = timeout(pause, &mut wait).await {
            if told {
                tracing::info!(seconds = begin.elapsed().as_secs(), "the start goes on");
            }
            return done;
        }
        let (seconds, what) = (begin.elapsed().as_secs(), what());
        tracing::warn!(seconds, "the start waits: {what}");
        told = true;
        pause = (pause * 2).min(SELDOM);
    }
}

/// Where a set stands whose leader's answer is waited for.
pub fn set_state<R>(group: Option<&Group>, outbox: &Outbox<R>) -> String {
    let (set, (bytes, flights)) = (outbox.set(), outbox.depth());
    let pipe = format!("{flights} batches on their way, {bytes} bytes to send");
    match group {
        Some(group) => format!("set {set}: {}; {pipe}", group_state(group)),
        None => format!("set {set}: elsewhere; {pipe}"),
    }
}

/// Where a replica stands.
pub fn group_state(group: &Group) -> String {
    let metrics = group.metrics();
    let index = |index: Option<u64>| index.unwrap_or(0);
    let leader = match metrics.leader {
        Some(node) => format!("node {node} leads"),
        None => "nobody leads".to_owned(),
    };
    format!(
        "{leader} in term {}, applied {}, committed {}, log up to {}",
        metrics.term,
        index(metrics.applied),
        index(metrics.committed),
        index(metrics.last_log),
    )
}

#[cfg(test)]
mod test {
    use super::*;
    use std::cell::Cell;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn a_long_wait_is_told_again_and_again_and_a_short_one_not() {
        let (told, thrice) = (Cell::new(0), Notify::new());
        let what = || {
            told.set(told.get() + 1);
            if told.get() == 3 {
                thrice.notify_one();
            }
            "a test".to_owned()
        };
        let long = tell_after(Duration::from_millis(1), what, thrice.notified());
        long.await;
        assert_eq!(told.get(), 3);
        assert_eq!(tell(what, std::future::ready(7)).await, 7);
        assert_eq!(told.get(), 3);
    }
}
