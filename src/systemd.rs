//! Talks to systemd, if that started the process: ready, reloading, stopping, still alive (sd_notify's protocol).
//!
//! One datagram a message to the socket in `NOTIFY_SOCKET`; without it everything here does nothing. What cannot be sent
//! is not tried again: systemd acts on silence by itself.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a start may go on after each sign of it.
const START_GRACE: Duration = Duration::from_secs(60);

/// See the module's head.
#[derive(Debug)]
pub struct Systemd {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Systemd {
    /// As the environment says.
    #[must_use]
    pub fn new(env: &dyn Fn(&str) -> Option<String>, pid: u32) -> Self {
        let socket = env("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&name),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        let meant = env("WATCHDOG_PID").is_none_or(|id| id == pid.to_string());
        let every = env("WATCHDOG_USEC").and_then(|text| text.parse().ok());
        let every = every.filter(|every| *every > 0 && meant && socket.is_some());
        Self {
            socket,
            watchdog: every.map(Duration::from_micros),
        }
    }

    /// How often a sign of life is due: twice in the time systemd waits for one.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.map(|wait| wait / 2)
    }

    fn say(&self, text: &str) {
        let Some((socket, address)) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            tracing::debug!(%error, "systemd cannot be told");
        }
    }

    /// The start goes on; it may take longer than the unit allows.
    pub fn starting(&self) {
        let grace = START_GRACE.as_micros();
        self.say(&format!(
            "STATUS=Startup in progress\nEXTEND_TIMEOUT_USEC={grace}"
        ));
    }

    /// Clients may come.
    pub fn ready(&self) {
        self.say("READY=1\nSTATUS=Serving");
    }

    /// Configuration is read again; [`Self::ready`] ends it.
    pub fn reloading(&self) {
        let now = monotonic_microseconds();
        self.say(&format!(
            "RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=Reloading"
        ));
    }

    /// The stop has begun.
    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=Stopping");
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }
}

/// The clock systemd compares with, from /proc: since the machine's start.
fn monotonic_microseconds() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split_whitespace().next().unwrap_or_default();
    let (whole, part) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let whole: u64 = whole.parse().unwrap_or_default();
    let hundredths: u64 = part.parse().unwrap_or_default();
    whole * 1_000_000 + hundredths * 10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn what_is_said_arrives_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let abstract_name = format!("leveret-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, name) in [
            (by_path, path.display().to_string()),
            (by_name, format!("@{abstract_name}")),
        ] {
            let env = |key: &str| (key == "NOTIFY_SOCKET").then(|| name.clone());
            let systemd = Systemd::new(&env, 1);
            systemd.ready();
            assert_eq!(heard(&socket), "READY=1\nSTATUS=Serving");
            systemd.reloading();
            assert!(heard(&socket).starts_with("RELOADING=1\nMONOTONIC_USEC="));
            systemd.alive();
            assert_eq!(heard(&socket), "WATCHDOG=1");
        }
    }

    #[test]
    fn signs_of_life_are_due_twice_in_the_time_waited_for_one_and_only_for_this_process() {
        for (usec, pid, want) in [
            (Some("30000000"), None, Some(15)),
            (Some("30000000"), Some("7"), Some(15)),
            (Some("30000000"), Some("8"), None),
            (Some("0"), None, None),
            (Some("x"), None, None),
            (None, None, None),
        ] {
            let env = |key: &str| match key {
                "NOTIFY_SOCKET" => Some("/nowhere".to_owned()),
                "WATCHDOG_USEC" => usec.map(str::to_owned),
                "WATCHDOG_PID" => pid.map(str::to_owned),
                _ => None,
            };
            let due = Systemd::new(&env, 7).watchdog();
            assert_eq!(due, want.map(Duration::from_secs), "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn without_systemd_nothing_happens() {
        let systemd = Systemd::new(&|_| None, 1);
        systemd.ready();
        assert_eq!(systemd.watchdog(), None);
    }
}
