//! The last log lines, for who asks from beside the node, and those to come.
//!
//! Limits: [`LINES_MAX`] lines and [`BYTES_MAX`] bytes are kept; one who watches and falls [`WATCHED_MAX`] lines behind misses
//! some, and nobody waits for them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;

/// Lines kept.
pub const LINES_MAX: usize = 2_000;
const BYTES_MAX: usize = 1 << 20;
const WATCHED_MAX: usize = 1_024;

/// See the module's head.
#[derive(Debug)]
pub struct Tail {
    kept: Mutex<(VecDeque<Arc<str>>, usize)>,
    watched: broadcast::Sender<Arc<str>>,
}

impl Default for Tail {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            watched: broadcast::channel(WATCHED_MAX).0,
        }
    }
}

impl Tail {
    /// One more event: its lines, each with its end.
    pub fn add(&self, text: &str) {
        let text: Arc<str> = text.into();
        let mut kept = self.kept.lock();
        let (lines, bytes) = &mut *kept;
        *bytes += text.len();
        lines.push_back(Arc::clone(&text));
        while lines.len() > LINES_MAX || *bytes > BYTES_MAX {
            let Some(gone) = lines.pop_front() else { break };
            *bytes -= gone.len();
        }
        drop(kept);
        // Mostly nobody watches.
        drop(self.watched.send(text));
    }

    /// The last so many lines, the oldest first.
    #[must_use]
    pub fn last(&self, count: usize) -> String {
        let kept = self.kept.lock();
        let skipped = kept.0.len().saturating_sub(count);
        kept.0.iter().skip(skipped).map(|line| &**line).collect()
    }

    /// What comes from now on.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Arc<str>> {
        self.watched.subscribe()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_last_lines_stay_and_their_bytes_are_bounded() {
        let tail = Tail::default();
        for at in 0..LINES_MAX + 5 {
            tail.add(&format!("{at}\n"));
        }
        assert_eq!(
            tail.last(2),
            format!("{}\n{}\n", LINES_MAX + 3, LINES_MAX + 4)
        );
        assert!(tail.last(usize::MAX).starts_with("5\n"));
        let long = "x".repeat(BYTES_MAX / 2);
        for _ in 0..3 {
            tail.add(&long);
        }
        assert_eq!(tail.last(usize::MAX).len(), BYTES_MAX);
    }

    #[test]
    fn one_who_watches_hears_what_comes_and_may_fall_behind() {
        let tail = Tail::default();
        tail.add("before\n");
        let mut watch = tail.watch();
        tail.add("after\n");
        assert_eq!(&*watch.try_recv().unwrap(), "after\n");
        for at in 0..=WATCHED_MAX {
            tail.add(&at.to_string());
        }
        let missed = broadcast::error::TryRecvError::Lagged(1);
        assert_eq!(watch.try_recv().unwrap_err(), missed);
        assert_eq!(&*watch.try_recv().unwrap(), "1");
    }
}
