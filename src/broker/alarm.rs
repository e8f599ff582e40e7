//! Memory and disk alarms: while one is raised, connections that publish are not read, and are told so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::rt::Supervisor;

/// Which resources are short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarm {
    /// Resident memory is above its watermark.
    pub memory: bool,
    /// Free disk space is below its limit.
    pub disk: bool,
}

impl Alarm {
    /// What connection.blocked says.
    #[must_use]
    pub fn reason(self) -> Option<&'static str> {
        match (self.memory, self.disk) {
            (false, false) => None,
            (true, false) => Some("low on memory"),
            (false, true) => Some("low on disk"),
            (true, true) => Some("low on memory & disk"),
        }
    }
}

/// When to raise an alarm. Clones share the figures, which may change while the node runs.
#[derive(Clone, Debug)]
pub struct Limits {
    memory_bytes: Arc<AtomicU64>,
    disk_free_bytes: Arc<AtomicU64>,
    /// The data folder.
    pub data_dir: PathBuf,
}

impl Limits {
    /// Resident memory and free space on the data folder's disk, bytes.
    #[must_use]
    pub fn new(memory_bytes: u64, disk_free_bytes: u64, data_dir: PathBuf) -> Self {
        Self {
            memory_bytes: Arc::new(AtomicU64::new(memory_bytes)),
            disk_free_bytes: Arc::new(AtomicU64::new(disk_free_bytes)),
            data_dir,
        }
    }

    /// Resident memory, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Relaxed)
    }

    /// Free disk space, bytes.
    #[must_use]
    pub fn disk_free_bytes(&self) -> u64 {
        self.disk_free_bytes.load(Ordering::Relaxed)
    }

    /// Sets the memory limit, from the next measurement on.
    pub fn set_memory_bytes(&self, bytes: u64) {
        self.memory_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Sets the disk limit, from the next measurement on.
    pub fn set_disk_free_bytes(&self, bytes: u64) {
        self.disk_free_bytes.store(bytes, Ordering::Relaxed);
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, bytes.
    pub memory_bytes: u64,
    /// Free disk space, bytes.
    pub disk_free_bytes: u64,
}

const MEASURE_EVERY: Duration = Duration::from_millis(1_000);

/// The alarms for a usage.
#[must_use]
pub fn judge(usage: Usage, limits: &Limits) -> Alarm {
    Alarm {
        memory: usage.memory_bytes > limits.memory_bytes(),
        disk: usage.disk_free_bytes < limits.disk_free_bytes(),
    }
}

/// Measures until the node stops.
pub async fn watch(limits: Limits, tx: watch::Sender<Alarm>, supervisor: Supervisor) {
    let mut every = tokio::time::interval(MEASURE_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = supervisor.stopping() => return,
        }
        let usage = measure(&limits.data_dir);
        let alarm = judge(usage, &limits);
        tx.send_if_modified(|current| {
            let changed = *current != alarm;
            if changed {
                tell(*current, alarm, usage);
                *current = alarm;
            }
            changed
        });
    }
}

fn tell(before: Alarm, now: Alarm, usage: Usage) {
    let (memory, disk) = (usage.memory_bytes, usage.disk_free_bytes);
    if now.memory != before.memory {
        let state = if now.memory { "set" } else { "cleared" };
        tracing::warn!(memory, "memory resource limit alarm {state}");
    }
    if now.disk != before.disk {
        let state = if now.disk { "set" } else { "cleared" };
        tracing::warn!(disk_free = disk, "disk resource limit alarm {state}");
    }
}

/// Resident memory and free disk space. What cannot be read counts as plenty.
#[must_use]
pub fn measure(data_dir: &Path) -> Usage {
    Usage {
        memory_bytes: resident_bytes().unwrap_or(0),
        disk_free_bytes: fs4::available_space(data_dir).unwrap_or(u64::MAX),
    }
}

/// The process's resident set, from /proc.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Memory the process may have: the machine's, or its control group's if that is less.
#[must_use]
pub fn total_memory_bytes() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|info| {
            let line = info
                .lines()
                .find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.trim()
                .strip_suffix("kB")?
                .trim()
                .parse::<u64>()
                .ok()
                .map(|kib| kib * 1024)
        });
    let group = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .iter()
    .find_map(|path| {
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    });
    let machine = machine.unwrap_or(1 << 30);
    group.map_or(machine, |group| group.min(machine))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_alarm_names_what_is_short() {
        let limits = Limits::new(100, 50, PathBuf::from("."));
        let rows = [
            (100, 50, None),
            (101, 50, Some("low on memory")),
            (0, 49, Some("low on disk")),
            (101, 49, Some("low on memory & disk")),
        ];
        for (memory_bytes, disk_free_bytes, reason) in rows {
            let usage = Usage {
                memory_bytes,
                disk_free_bytes,
            };
            assert_eq!(judge(usage, &limits).reason(), reason, "{usage:?}");
        }
    }

    #[test]
    fn this_process_has_a_size() {
        assert!(resident_bytes().unwrap() > 1_000_000);
        assert!(total_memory_bytes() > 100_000_000);
    }
}
