//! Looks whether this member is alive, and tells its supervisor.
//!
//! Runs on the network's thread, so that a sign of life proves that this thread takes turns; that the gossip thread does
//! is read from what it last did. A member that stands still in either is no member. When gossip hangs, this ends the
//! member in order, calls and all; when the network's thread hangs, only systemd's watchdog can.

use std::{sync::Arc, time::Duration};

use lineside_discovery::Discovery;
use tokio::time::sleep;

use super::{defects, known::Known, notify::Supervisor, own::Own};

/// How often it looks where nobody wants a sign of life.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// And at most: a watchdog of milliseconds is somebody's mistake.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(100);

/// Signs of life within the time in which one is wanted: three may come late, or be lost.
const SIGNS: u32 = 4;

/// The gossip thread takes a turn each second, whatever happens. After this the door is not ready; discovery itself
/// decides whether it hangs, or was only not let run.
const GOSSIP_QUIET_AFTER: Duration = Duration::from_secs(5);

/// How much longer the supervisor is asked to wait for a member that still loads: several looks.
const START_AGAIN_WITHIN: Duration = Duration::from_secs(30);

/// What is looked at, and who is told.
pub(super) struct Pulse {
    pub(super) supervisor: Arc<Supervisor>,
    pub(super) own: Arc<Own>,
    pub(super) discovery: Discovery,
    pub(super) known: Arc<Known>,
}

impl Pulse {
    /// Runs until it is aborted, or gossip hangs.
    pub(super) async fn beat(self) -> &'static str {
        tokio::select! {
            () = self.discovery.stuck() => "the gossip thread",
            () = self.tell() => "the pulse",
        }
    }

    async fn tell(&self) {
        let every = every(self.supervisor.watchdog());
        let (mut is_ready, mut status) = (false, String::new());
        loop {
            let gossips = self.discovery.last_turn() < GOSSIP_QUIET_AFTER;
            self.own.set_gossips(gossips);
            if self.own.is_loaded() {
                is_ready = is_ready || self.supervisor.ready();
            } else {
                self.supervisor.starting(START_AGAIN_WITHIN);
            }
            if gossips {
                self.supervisor.alive();
            }
            let next = self.status(gossips);
            if next != status {
                self.supervisor.status(&next);
                status = next;
            }
            sleep(every).await;
        }
    }

    fn status(&self, gossips: bool) -> String {
        let now = self.known.roster().status();
        let own = self.own.state();
        let what = match (gossips, self.own.is_loaded(), own.cordoned) {
            _ if own.draining => "Leaving: what runs is finished",
            (false, ..) => "Stuck: the gossip thread stands still",
            (true, false, _) => "Starting: models are being loaded",
            (true, true, true) => "Cordoned: takes no new work",
            (true, true, false) => "Takes part",
        };
        let defects = match defects::count() {
            0 => String::new(),
            count => format!(", {count} defects: see the log"),
        };
        format!(
            "{what}. Cluster {}: {} members alive, {} of {} models ready{defects}",
            now.cluster.short(),
            now.alive,
            now.models_ready,
            now.models
        )
    }
}

/// Between two looks.
fn every(watchdog: Option<Duration>) -> Duration {
    watchdog.map_or(LOOK_EVERY, |within| (within / SIGNS).clamp(LOOK_EVERY_MIN, LOOK_EVERY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_come_well_within_the_time_that_is_set() {
        assert_eq!(every(None), LOOK_EVERY);
        assert_eq!(every(Some(Duration::from_secs(60))), LOOK_EVERY);
        assert_eq!(every(Some(Duration::from_secs(2))), Duration::from_millis(500));
        assert_eq!(every(Some(Duration::from_micros(1))), LOOK_EVERY_MIN);
    }
}
