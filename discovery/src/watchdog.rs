//! Tells a thread that is stuck from one that was not let run. Pure: takes `now`.
//!
//! The gossip thread turns at least once a second. One that does not for [`STUCK_AFTER`] holds its member in a cluster
//! that it no longer follows, and only a restart helps. But when the whole process was paused, or the machine slept,
//! nobody turned, the watchdog neither: so only time counts in which the watchdog itself was awake.

use std::time::Duration;

use tokio::time::Instant;

/// Without a turn for so long the thread is stuck: five of its longest sleeps.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How much of the time between two looks counts: whoever looks later than this was not awake.
const AWAKE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Watchdog {
    turns: u64,
    looked: Instant,
    still_for: Duration,
}

impl Watchdog {
    pub(crate) const fn new(turns: u64, now: Instant) -> Self {
        Self { turns, looked: now, still_for: Duration::ZERO }
    }

    /// Takes in how often the thread has turned. True when it is stuck.
    pub(crate) fn look(&mut self, turns: u64, now: Instant) -> bool {
        let awake = now.saturating_duration_since(self.looked).min(AWAKE_MAX);
        self.looked = now;
        if self.turns == turns {
            self.still_for = self.still_for.saturating_add(awake);
        } else {
            (self.turns, self.still_for) = (turns, Duration::ZERO);
        }
        STUCK_AFTER <= self.still_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_turns_is_well_and_one_that_does_not_is_stuck_in_time() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(7, start);
        for look in 1..100 {
            assert!(!watchdog.look(7 + u64::from(look), start + LOOK_EVERY * look), "it turns");
        }
        let last = start + LOOK_EVERY * 99;
        let stuck = (1..100).find(|look| watchdog.look(106, last + LOOK_EVERY * *look)).unwrap();
        assert_eq!(LOOK_EVERY * stuck, STUCK_AFTER);
    }

    #[test]
    fn a_pause_of_the_whole_process_is_nobodys_fault() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(7, start);
        let hours = Duration::from_secs(3600);
        assert!(!watchdog.look(7, start + hours), "nobody was awake");
        assert!(!watchdog.look(7, start + hours + LOOK_EVERY), "it has had no time yet");
        assert!(!watchdog.look(8, start + hours + LOOK_EVERY * 2));
        assert!(!watchdog.look(8, start + 2 * hours));
    }
}
