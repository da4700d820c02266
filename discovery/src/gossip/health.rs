//! How well this member itself does, and how much longer it therefore waits before it declares others dead.
//!
//! A member that is slow itself takes others for slow: their answers lie in its own queue. So before it believes that
//! somebody is dead it looks at itself. Two signs count, neither of which a member that is well can produce:
//!
//! * its own timers came late ([`LAG_MAX`]): it was paused, or its machine is overloaded;
//! * probes of two different members failed one after the other: it is likelier that we are cut off than that both
//!   died in the same moment.
//!
//! Each raises the level by one, at most once per interval; two intervals without a sign lower it: probes are an interval
//! apart, and one that fails must find the level that the one before left. A suspect then has
//! `interval * retries * (1 + level)` to object. Pure: takes `now`, and the same calls give the same levels.
//!
//! Beside that, a pause is nobody else's fault: deadlines of suspects are moved by as much as we were away
//! ([`super::Gossip::wake`]), because what they said meanwhile is still in our queue.

use std::{collections::VecDeque, time::Duration};

use lineside_wire::NodeId;
use tokio::time::Instant;

/// Timers that are later than this are a sign: a thread that is scheduled at all does better by far.
pub(crate) const LAG_MAX: Duration = Duration::from_millis(250);

/// The highest level. Five times as long is what an overloaded machine needs; more would hide the dead.
pub(crate) const LEVEL_MAX: u8 = 4;

/// Intervals without a sign that lower the level.
const CALM: u32 = 2;

/// Failed probes that are remembered: one per interval is made, and only those of the last two count.
const FAILED_MAX: usize = 8;

#[derive(Debug)]
pub(crate) struct Health {
    interval: Duration,
    level: u8,
    /// When the level was last raised.
    raised: Option<Instant>,
    /// When the level falls, unless there is another sign before.
    calm_at: Option<Instant>,
    /// The last probes that failed, and when that was known.
    failed: VecDeque<(Instant, NodeId)>,
}

impl Health {
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, level: 0, raised: None, calm_at: None, failed: VecDeque::new() }
    }

    /// 0 is well, [`LEVEL_MAX`] is very slow.
    pub(crate) const fn level(&self) -> u8 {
        self.level
    }

    /// Takes in by how much our own timers came late.
    pub(crate) fn lagged(&mut self, lag: Duration, now: Instant) {
        if LAG_MAX < lag {
            self.sign(now);
        }
    }

    /// Takes in that a member did not answer a probe, neither directly nor through others.
    pub(crate) fn probe_failed(&mut self, node: NodeId, now: Instant) {
        // One probe is made per interval: two in a row are one interval apart, and a little.
        let window = self.interval.mul_f64(1.5);
        self.failed.retain(|(at, _)| now.saturating_duration_since(*at) <= window);
        if self.failed.iter().any(|(_, other)| *other != node) {
            self.sign(now);
        }
        if self.failed.len() == FAILED_MAX {
            self.failed.pop_front();
        }
        self.failed.push_back((now, node));
    }

    /// Lets time pass: it lowers the level.
    pub(crate) fn pass(&mut self, now: Instant) {
        while let Some(calm_at) = self.calm_at.filter(|at| *at <= now) {
            self.level = self.level.saturating_sub(1);
            self.calm_at = (self.level != 0).then(|| calm_at + CALM * self.interval);
        }
    }

    /// When [`Self::pass`] is wanted.
    pub(crate) const fn next_wake(&self) -> Option<Instant> {
        self.calm_at
    }

    fn sign(&mut self, now: Instant) {
        self.calm_at = Some(now + CALM * self.interval);
        if self.raised.is_none_or(|raised| raised + self.interval <= now) {
            self.raised = Some(now);
            self.level = (self.level + 1).min(LEVEL_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 16])
    }

    #[test]
    fn a_late_timer_makes_us_patient_and_a_calm_while_takes_it_back() {
        let (mut health, now) = (Health::new(INTERVAL), Instant::now());
        health.lagged(LAG_MAX, now);
        assert_eq!(health.level(), 0, "a little late is nothing");
        health.lagged(2 * LAG_MAX, now);
        assert_eq!((health.level(), health.next_wake()), (1, Some(now + CALM * INTERVAL)));
        health.pass(now + CALM * INTERVAL - Duration::from_millis(1));
        assert_eq!(health.level(), 1);
        health.pass(now + CALM * INTERVAL);
        assert_eq!((health.level(), health.next_wake()), (0, None));
    }

    #[test]
    fn one_silent_member_says_nothing_of_us_and_two_in_a_row_do() {
        let (mut health, now) = (Health::new(INTERVAL), Instant::now());
        for period in 0..4 {
            health.probe_failed(node(2), now + INTERVAL * period);
        }
        assert_eq!(health.level(), 0, "one dead member, probed again and again");
        health.probe_failed(node(3), now + INTERVAL * 4);
        assert_eq!(health.level(), 1);
        let mut health = Health::new(INTERVAL);
        health.probe_failed(node(2), now);
        health.probe_failed(node(3), now + INTERVAL * 3);
        assert_eq!(health.level(), 0, "they did not fail together");
    }

    #[test]
    fn a_machine_that_stays_slow_reaches_the_highest_level_and_no_more() {
        let (mut health, now) = (Health::new(INTERVAL), Instant::now());
        for tenth in 0..200 {
            let now = now + INTERVAL / 10 * tenth;
            health.lagged(Duration::from_secs(1), now);
            health.pass(now);
        }
        assert_eq!(health.level(), LEVEL_MAX);
    }

    #[derive(Clone, Debug)]
    enum Sign {
        Lag(u64),
        Failed(u8),
        Pass,
    }

    fn signs() -> impl Strategy<Value = Vec<(u64, Sign)>> {
        let sign = prop_oneof![
            (0..2_000_u64).prop_map(Sign::Lag),
            (1..5_u8).prop_map(Sign::Failed),
            Just(Sign::Pass)
        ];
        prop::collection::vec((0..3_000_u64, sign), 0..200)
    }

    proptest! {
        #[test]
        fn the_level_is_bounded_rises_step_by_step_and_always_comes_back(signs in signs()) {
            let (mut health, mut now) = (Health::new(INTERVAL), Instant::now());
            let mut raised: Option<Instant> = None;
            for (after, sign) in signs {
                now += Duration::from_millis(after);
                health.pass(now);
                let before = health.level();
                match sign {
                    Sign::Lag(ms) => health.lagged(Duration::from_millis(ms), now),
                    Sign::Failed(n) => health.probe_failed(node(n), now),
                    Sign::Pass => {}
                }
                prop_assert!(health.level() <= LEVEL_MAX && health.level() <= before + 1);
                prop_assert!(health.failed.len() <= FAILED_MAX);
                prop_assert_eq!(health.level() != 0, health.next_wake().is_some());
                if before < health.level() {
                    prop_assert!(raised.is_none_or(|raised| raised + INTERVAL <= now));
                    raised = Some(now);
                }
            }
            health.pass(now + CALM * INTERVAL * u32::from(LEVEL_MAX));
            prop_assert_eq!(health.level(), 0);
        }
    }
}
