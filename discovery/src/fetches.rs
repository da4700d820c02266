//! Which members to ask for their state, and when. Pure: takes `now` and the random generator.

use std::{collections::BTreeMap, time::Duration};

use lineside_wire::NodeId;
use rand::{RngExt, rngs::StdRng};
use tokio::time::Instant;

/// Questions on their way at once: a cluster that forms must not open all its connections in one instant.
const IN_FLIGHT_MAX: usize = 16;

/// Between two questions to one member: its state may change several times while models load.
const SPACING: Duration = Duration::from_millis(200);

/// The longest wait after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A question that is never answered counts as failed after this.
const ANSWER_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Fetches {
    asked: BTreeMap<NodeId, Asked>,
}

#[derive(Debug)]
struct Asked {
    /// While a question is on its way: when it counts as failed.
    answer_by: Option<Instant>,
    next: Instant,
    failures: u32,
}

impl Fetches {
    /// Whether to ask this member now. `true` counts as asked, until [`Self::answered`].
    pub(crate) fn ask(&mut self, node: NodeId, now: Instant) -> bool {
        let in_flight =
            self.asked.values().filter(|asked| asked.answer_by.is_some_and(|by| now < by)).count();
        let asked = self.asked.entry(node).or_insert(Asked { answer_by: None, next: now, failures: 0 });
        let waits = asked.answer_by.is_some_and(|by| now < by);
        if waits || now < asked.next || IN_FLIGHT_MAX <= in_flight {
            return false;
        }
        asked.answer_by = Some(now + ANSWER_MAX);
        true
    }

    /// Notes an answer, or that none came.
    pub(crate) fn answered(&mut self, node: NodeId, good: bool, now: Instant, rng: &mut StdRng) {
        let Some(asked) = self.asked.get_mut(&node) else { return };
        asked.answer_by = None;
        if good {
            (asked.failures, asked.next) = (0, now + SPACING);
        } else {
            asked.failures = asked.failures.saturating_add(1);
            let wait =
                Duration::from_millis(500).saturating_mul(1 << asked.failures.min(10)).min(BACKOFF_MAX);
            asked.next = now + wait.mul_f64(rng.random_range(0.8..1.2));
        }
    }

    /// Forgets members that are no longer listed.
    pub(crate) fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.asked.retain(|node, _| keep(*node));
    }

    /// When a member that had to wait may be asked.
    pub(crate) fn next_wake(&self, now: Instant) -> Option<Instant> {
        self.asked
            .values()
            .map(|asked| asked.answer_by.unwrap_or(asked.next))
            .filter(|next| now < *next)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 16])
    }

    #[test]
    fn a_member_gets_one_question_at_a_time() {
        let (mut fetches, now) = (Fetches::default(), Instant::now());
        let mut rng = StdRng::seed_from_u64(1);
        assert!(fetches.ask(node(1), now));
        assert!(!fetches.ask(node(1), now));
        assert!(fetches.ask(node(2), now));
        fetches.answered(node(1), true, now, &mut rng);
        assert!(!fetches.ask(node(1), now));
        assert!(fetches.ask(node(1), now + SPACING));
    }

    #[test]
    fn a_silent_member_is_asked_less_and_less() {
        let (mut fetches, mut now) = (Fetches::default(), Instant::now());
        let mut rng = StdRng::seed_from_u64(1);
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert!(fetches.ask(node(1), now));
            fetches.answered(node(1), false, now, &mut rng);
            let next = fetches.next_wake(now).expect("it will be asked again");
            waits.push(next - now);
            now = next;
        }
        assert!(waits[0] < Duration::from_secs(2), "{waits:?}");
        assert!(waits[11] <= BACKOFF_MAX.mul_f64(1.2), "{waits:?}");
        assert!(waits.windows(2).take(5).all(|pair| pair[0] < pair[1]), "{waits:?}");
    }

    #[test]
    fn only_so_many_questions_are_on_their_way() {
        let (mut fetches, now) = (Fetches::default(), Instant::now());
        let asked = (0..100).filter(|n| fetches.ask(node(*n), now)).count();
        assert_eq!(asked, IN_FLIGHT_MAX);
        // Those that never answer do not hold their places for ever.
        assert!(fetches.ask(node(100), now + ANSWER_MAX));
    }
}
