//! CPU seconds of processes, from /proc/PID/stat.

/// The system's clock ticks per second, as Linux shows them to every program.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of these processes, in seconds; a process that is gone counts as 0.
pub fn of(pids: &[u32]) -> f64 {
    pids.iter()
        .filter_map(|pid| ticks(&format!("/proc/{pid}/stat")))
        .sum::<f64>()
        / TICKS_PER_SECOND
}

/// User and system time of this process, in seconds.
pub fn own() -> f64 {
    ticks("/proc/self/stat").unwrap_or(0.0) / TICKS_PER_SECOND
}

/// Fields 14 and 15, counted behind the command's closing parenthesis.
fn ticks(path: &str) -> Option<f64> {
    let stat = std::fs::read_to_string(path).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}
