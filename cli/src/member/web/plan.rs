//! When to ask the cluster's authority for a certificate for HTTPS. Pure, but for the lines that tell of it.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use lineside_certs::{Renewal, WebName};
use tokio::time::Instant;

/// Between a try that failed and the next: it doubles up to the longest. Whoever starts the machine with the key does not
/// wait long, and a day of tries is little work for it.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// How long a certificate that was just issued is kept even if it is to be renewed already: a door whose clock is days
/// ahead must not ask for one after the other. A quarter of its life, at most this.
const REST_MAX: Duration = Duration::from_secs(3600);

/// How long a member that has just started waits to see one with the authority's key, before that is told.
const START_GRACE: Duration = Duration::from_secs(10);

/// What is known of the present certificate and of the tries for the next.
#[derive(Debug)]
pub(super) struct Plan {
    present: Option<Present>,
    /// The names of the try that runs, or was the last.
    asked: BTreeSet<WebName>,
    not_before: Instant,
    again_after: Duration,
    started: Instant,
    /// That there is none, or no new one, was told.
    told: bool,
}

#[derive(Debug)]
struct Present {
    /// What was asked for, which may be more than what was given.
    names: BTreeSet<WebName>,
    due: SystemTime,
    /// Not renewed for its age before.
    rests_until: Instant,
    /// Whether it leads to the authority that signs now.
    is_current: bool,
}

impl Plan {
    /// Begins with the certificate that was kept, if any.
    pub(super) fn new(kept: Option<(BTreeSet<WebName>, Renewal)>, jitter: f64, at: Instant) -> Self {
        let present = kept.map(|(names, life)| Present {
            names,
            due: life.due_at(jitter),
            rests_until: at,
            is_current: true,
        });
        Self {
            present,
            asked: BTreeSet::new(),
            not_before: at,
            again_after: AGAIN_FIRST,
            started: at,
            told: false,
        }
    }

    /// Whether to ask now for a certificate with these names: there is none, it is half over, names have changed, or the
    /// authority has.
    pub(super) fn is_due(&self, names: &BTreeSet<WebName>, now: SystemTime, at: Instant) -> bool {
        let is_young = |present: &Present| now < present.due || at < present.rests_until;
        let is_good = |present: &Present| is_young(present) && present.is_current && present.names == *names;
        self.not_before <= at && !names.is_empty() && !self.present.as_ref().is_some_and(is_good)
    }

    /// Another trust list is in force, under which the present certificate is good or not.
    pub(super) fn judged(&mut self, is_current: bool) {
        if let Some(present) = &mut self.present {
            present.is_current = is_current;
        }
    }

    /// A try begins.
    pub(super) fn asked(&mut self, names: BTreeSet<WebName>) {
        self.asked = names;
    }

    /// It brought a certificate. Gives the names that were asked for and are not in it.
    pub(super) fn issued(
        &mut self,
        names: &[WebName],
        life: Renewal,
        jitter: f64,
        at: Instant,
    ) -> Vec<WebName> {
        let missing = self.asked.iter().filter(|name| !names.contains(name)).cloned().collect();
        let (names, due) = (std::mem::take(&mut self.asked), life.due_at(jitter));
        let rests_until = at + REST_MAX.min(life.validity() / 4);
        self.present = Some(Present { names, due, rests_until, is_current: true });
        (self.again_after, self.told) = (AGAIN_FIRST, false);
        missing
    }

    /// It failed, or there was nobody to ask: this is tried again. True when people are to be told.
    pub(super) fn failed(&mut self, at: Instant) -> bool {
        self.not_before = at + self.again_after;
        self.again_after = AGAIN_MAX.min(2 * self.again_after);
        let in_grace = at < self.started + START_GRACE;
        !in_grace && !std::mem::replace(&mut self.told, true)
    }

    /// Whether there is one at all.
    pub(super) const fn has_one(&self) -> bool {
        self.present.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn names(texts: &[&str]) -> BTreeSet<WebName> {
        texts.iter().map(|text| text.parse().expect("a name")).collect()
    }

    fn day(n: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + n * DAY
    }

    /// One of two weeks.
    fn life() -> Renewal {
        Renewal { not_before: day(100), not_after: day(114) }
    }

    #[test]
    fn one_is_asked_for_at_the_start_and_again_before_half_of_its_life_is_over() {
        let (at, wanted) = (Instant::now(), names(&["press.local", "10.0.0.7"]));
        let mut plan = Plan::new(None, 1.0, at);
        assert!(plan.is_due(&wanted, day(100), at) && !plan.has_one());
        plan.asked(wanted.clone());
        let given: Vec<_> = wanted.iter().cloned().collect();
        assert_eq!(plan.issued(&given, life(), 1.0, at), []);
        assert!(!plan.is_due(&wanted, day(106), at) && plan.is_due(&wanted, day(107), at + REST_MAX));
    }

    #[test]
    fn a_door_whose_clock_is_days_ahead_does_not_ask_for_one_after_the_other() {
        let (at, wanted) = (Instant::now(), names(&["press.local"]));
        let mut plan = Plan::new(None, 1.0, at);
        plan.asked(wanted.clone());
        plan.issued(&wanted.iter().cloned().collect::<Vec<_>>(), life(), 1.0, at);
        assert!(
            !plan.is_due(&wanted, day(110), at + REST_MAX / 2)
                && plan.is_due(&wanted, day(110), at + REST_MAX)
        );
        assert!(plan.is_due(&names(&["weld.local"]), day(110), at), "another name is another reason");
    }

    #[test]
    fn what_was_kept_is_good_after_a_restart() {
        let (at, wanted) = (Instant::now(), names(&["press.local"]));
        let plan = Plan::new(Some((wanted.clone(), life())), 0.0, at);
        assert!(plan.has_one() && !plan.is_due(&wanted, day(104), at));
    }

    #[test]
    fn another_address_or_another_authority_is_a_reason_for_another_one() {
        let (at, wanted) = (Instant::now(), names(&["10.0.0.7"]));
        let mut plan = Plan::new(Some((wanted.clone(), life())), 0.0, at);
        assert!(plan.is_due(&names(&["10.0.0.8"]), day(101), at));
        plan.judged(false);
        assert!(plan.is_due(&wanted, day(101), at));
    }

    #[test]
    fn names_that_were_left_out_are_told_and_not_asked_for_without_end() {
        let (at, wanted) = (Instant::now(), names(&["press.local", "10.0.0.7"]));
        let mut plan = Plan::new(None, 0.0, at);
        plan.asked(wanted.clone());
        let given: Vec<_> = names(&["10.0.0.7"]).into_iter().collect();
        let missing = plan.issued(&given, life(), 0.0, at);
        assert_eq!(missing, names(&["press.local"]).into_iter().collect::<Vec<_>>());
        assert!(!plan.is_due(&wanted, day(101), at));
    }

    #[test]
    fn a_try_that_failed_is_repeated_later_and_later_and_told_once() {
        let (start, wanted) = (Instant::now(), names(&["press.local"]));
        let mut plan = Plan::new(None, 0.0, start);
        let (mut at, mut told) = (start, 0);
        for _ in 0..10 {
            told += u32::from(plan.failed(at));
            assert!(!plan.is_due(&wanted, day(101), at));
            while !plan.is_due(&wanted, day(101), at) {
                at += AGAIN_FIRST;
            }
        }
        assert_eq!(told, 1);
        let waited = at - start;
        assert!(4 * AGAIN_MAX < waited && waited < 8 * AGAIN_MAX, "{waited:?}");
    }
}
