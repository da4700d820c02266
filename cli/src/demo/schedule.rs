//! When what happens. Pure.

use std::time::Duration;

/// Shortest traffic: below, there is none before, during and after the loss of a node.
pub(crate) const SECONDS_MIN: u64 = 3;
/// Longest traffic: a demo, no endurance test.
pub(crate) const SECONDS_MAX: u64 = 3_600;

/// Traffic that a node gets at least after it is back.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// The course of the traffic, from its first request on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// When a node is killed.
    pub(super) kill_at: Duration,
    /// When it is started again.
    pub(super) restart_at: Duration,
    end_at: Duration,
}

impl Schedule {
    /// The course of traffic of this length: a third with all nodes, a quarter with one less, the rest with all.
    pub(super) fn of(length: Duration) -> Self {
        Self { kill_at: length / 3, restart_at: length / 3 + length / 4, end_at: length }
    }

    /// When the traffic ends, if the node was back at this moment.
    pub(super) fn end_at(&self, back_at: Duration) -> Duration {
        self.end_at.max(back_at + AFTERWARDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_traffic_before_during_and_after_the_loss() {
        for seconds in [SECONDS_MIN, 8, SECONDS_MAX] {
            let length = Duration::from_secs(seconds);
            let Schedule { kill_at, restart_at, .. } = Schedule::of(length);
            assert!(
                Duration::from_millis(500) < kill_at && kill_at + Duration::from_millis(500) < restart_at
            );
            assert!(restart_at + length / 3 < length);
        }
    }

    #[test]
    fn a_node_that_comes_back_late_still_gets_traffic() {
        let schedule = Schedule::of(Duration::from_secs(8));
        assert_eq!(schedule.end_at(Duration::from_secs(5)), Duration::from_secs(8));
        assert_eq!(schedule.end_at(Duration::from_secs(20)), Duration::from_secs(21));
    }
}
