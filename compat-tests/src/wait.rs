//! Waiting for a fact.
//!
//! Need: what a broker does is asynchronous; a fixed pause is either too short or wasted.
//! Shape: ask, and ask again a little later, until the answer is there or the deadline has passed.
//! Limits: the pause between two questions is 10 ms; it decides how soon a test goes on, never whether it passes.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);

/// Asks `fact` until it answers `Some`, and returns the answer.
///
/// # Panics
/// When `deadline` has passed first.
pub fn eventually<T>(deadline: Duration, mut fact: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = fact() {
            return answer;
        }
        assert!(Instant::now() < end, "not true within {deadline:?}");
        std::thread::sleep(PAUSE);
    }
}

/// [`eventually`] for a question that is itself asynchronous. The pause yields the thread for 10 ms.
///
/// # Panics
/// When `deadline` has passed first.
pub async fn eventually_async<T, F: Future<Output = Option<T>>>(
    deadline: Duration,
    mut fact: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = fact().await {
            return answer;
        }
        assert!(Instant::now() < end, "not true within {deadline:?}");
        std::thread::sleep(PAUSE);
    }
}
