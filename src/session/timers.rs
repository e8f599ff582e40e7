//! What happens by itself: the handshake's end, heartbeats both ways (§3.7), the wait for close-ok.

use crate::base::Millis;

/// Samples in a row without a byte received after which the client is dead.
const MISSED_MAX: u8 = 2;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    SendHeartbeat,
    HandshakeOver,
    ClientDead,
    Close,
}

#[derive(Clone, Copy, Debug)]
struct Beat {
    interval: Millis,
    send_at: Millis,
    sent_at: Millis,
    sample_at: Millis,
    received: bool,
    missed: u8,
}

#[derive(Debug)]
pub(super) struct Timers {
    handshake_at: Option<Millis>,
    close_at: Option<Millis>,
    beat: Option<Beat>,
}

impl Timers {
    pub fn new(handshake_at: Millis) -> Self {
        Self {
            handshake_at: Some(handshake_at),
            close_at: None,
            beat: None,
        }
    }

    pub fn handshake_done(&mut self) {
        self.handshake_at = None;
    }

    /// Begins heartbeats every `interval`; none if it is 0.
    pub fn begin_heartbeats(&mut self, interval: Millis, now: Millis) {
        self.beat = (interval.0 > 0).then(|| Beat {
            interval,
            send_at: now.plus(Millis(interval.0 / 2)),
            sent_at: now,
            sample_at: now.plus(interval),
            received: true,
            missed: 0,
        });
    }

    /// From now on nothing happens but the close, at `at` if given.
    pub fn close(&mut self, at: Option<Millis>) {
        *self = Self {
            handshake_at: None,
            close_at: at,
            beat: None,
        };
    }

    pub fn sent(&mut self, now: Millis) {
        if let Some(beat) = &mut self.beat {
            beat.sent_at = now;
        }
    }

    pub fn received(&mut self) {
        if let Some(beat) = &mut self.beat {
            beat.received = true;
            beat.missed = 0;
        }
    }

    pub fn next(&self) -> Option<Millis> {
        let beat = self.beat.map(|beat| beat.send_at.min(beat.sample_at));
        [self.handshake_at, self.close_at, beat]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next thing due at `now`. `listening` is false while nothing is read, and silence proves nothing.
    pub fn due(&mut self, now: Millis, listening: bool) -> Option<Due> {
        if self.close_at.is_some_and(|at| at <= now) {
            return Some(Due::Close);
        }
        if self.handshake_at.is_some_and(|at| at <= now) {
            return Some(Due::HandshakeOver);
        }
        let beat = self.beat.as_mut()?;
        if beat.sample_at <= now {
            let heard = std::mem::take(&mut beat.received) || !listening;
            beat.missed = if heard { 0 } else { beat.missed + 1 };
            beat.sample_at = now.plus(beat.interval);
            if beat.missed >= MISSED_MAX {
                return Some(Due::ClientDead);
            }
        }
        if beat.send_at <= now {
            let half = Millis(beat.interval.0 / 2);
            let silent_until = beat.sent_at.plus(half);
            if silent_until > now {
                beat.send_at = silent_until;
                return None;
            }
            beat.send_at = now.plus(half);
            return Some(Due::SendHeartbeat);
        }
        None
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn beating() -> Timers {
        let mut timers = Timers::new(Millis(10_000));
        timers.handshake_done();
        timers.begin_heartbeats(Millis(1000), Millis(0));
        timers
    }

    #[test]
    fn a_server_is_never_silent_for_longer_than_half_the_timeout() {
        let mut timers = beating();
        assert_eq!(timers.next(), Some(Millis(500)));
        assert_eq!(timers.due(Millis(500), true), Some(Due::SendHeartbeat));
        timers.sent(Millis(500));
        assert_eq!(timers.due(Millis(1000), true), Some(Due::SendHeartbeat));
        timers.sent(Millis(1001));
        timers.sent(Millis(1400));
        assert_eq!(timers.due(Millis(1500), true), None);
        assert_eq!(timers.next(), Some(Millis(1900)));
        assert_eq!(timers.due(Millis(1900), true), Some(Due::SendHeartbeat));
    }

    #[test]
    fn two_silent_samples_are_death_but_not_while_nothing_is_read() {
        let mut timers = beating();
        for (at, listening, received, dead) in [
            (1000, true, false, false),
            (2000, true, true, false),
            (3000, true, false, false),
            (4000, true, false, false),
            (5000, false, false, false),
            (6000, true, false, false),
            (7000, true, false, true),
        ] {
            timers.sent(Millis(at));
            if at == 4000 {
                timers.received();
            }
            let due = timers.due(Millis(at), listening);
            assert_eq!(due == Some(Due::ClientDead), dead, "at {at}");
            if received {
                timers.received();
            }
        }
    }

    #[test]
    fn an_interval_of_0_never_beats() {
        let mut timers = beating();
        timers.begin_heartbeats(Millis(0), Millis(0));
        assert_eq!(timers.next(), None);
        assert_eq!(timers.due(Millis(1 << 40), true), None);
    }
}
