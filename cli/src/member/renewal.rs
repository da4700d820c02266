//! When this member's certificate is renewed next, and when people are told that it was not. Pure.
//!
//! How much of a certificate's life goes by until then is [`Renewal`]'s to say; here is what happened so far.

use std::time::{Duration, SystemTime};

use lineside_certs::{Alarm, Renewal};
use rand::{RngExt, rngs::StdRng};

/// When the authority's key is there again, those that waited for it renew within this.
const FOUND_WITHIN_MAX: Duration = Duration::from_secs(60);

/// When to renew one certificate.
#[derive(Debug)]
pub(super) struct Plan {
    life: Renewal,
    due: SystemTime,
    /// The generation for which `due` was moved forward already.
    issuing: u32,
    told: Alarm,
}

impl Plan {
    /// For a certificate that the authority of `generation` signed, while that of `issuing` signs new ones.
    pub(super) fn new(
        life: Renewal,
        generation: u32,
        issuing: u32,
        now: SystemTime,
        rng: &mut StdRng,
    ) -> Self {
        let due = life.due_at(rng.random());
        let mut plan = Self { life, due, issuing: generation, told: Alarm::None };
        plan.issues(issuing, now, rng);
        plan
    }

    /// The authority of this generation signs now: a certificate of one before it is renewed soon.
    pub(super) fn issues(&mut self, issuing: u32, now: SystemTime, rng: &mut StdRng) {
        if self.issuing < issuing {
            self.issuing = issuing;
            self.due = self.due.min(now + self.life.rotation_after(rng.random()));
        }
    }

    /// Whether to try now.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.due <= now
    }

    /// When to try next.
    pub(super) const fn due(&self) -> SystemTime {
        self.due
    }

    /// A try failed.
    pub(super) fn failed(&mut self, now: SystemTime, rng: &mut StdRng) {
        self.due = now + self.life.retry_after(rng.random());
    }

    /// Somebody with the authority's key is there, after a try that found nobody: it is not left to wait for an hour. Not
    /// at once either, because the whole cluster has waited.
    pub(super) fn found(&mut self, now: SystemTime, rng: &mut StdRng) {
        let within = self.life.retry_after(0.0).min(FOUND_WITHIN_MAX);
        self.due = self.due.min(now + within.mul_f64(rng.random()));
    }

    /// How near the end is, when it is nearer than was told before.
    pub(super) fn alarm(&mut self, now: SystemTime) -> Option<Alarm> {
        let alarm = self.life.alarm(now);
        let nearer = self.told < alarm;
        self.told = self.told.max(alarm);
        nearer.then_some(alarm)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn day(n: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000 + DAY.mul_f64(n)
    }

    /// Two weeks, of the first generation.
    fn plan(rng: &mut StdRng) -> Plan {
        let life = Renewal { not_before: day(0.0), not_after: day(14.0) };
        Plan::new(life, 1, 1, day(0.0), rng)
    }

    fn rng() -> StdRng {
        StdRng::seed_from_u64(3)
    }

    #[test]
    fn a_cluster_that_was_made_in_one_afternoon_does_not_renew_in_one_minute() {
        let mut rng = rng();
        let dues: Vec<_> = (0..50).map(|_| plan(&mut rng).due()).collect();
        assert!(dues.iter().all(|due| (day(5.5)..day(7.1)).contains(due)), "{dues:?}");
        assert!(DAY < dues.iter().max().unwrap().duration_since(*dues.iter().min().unwrap()).unwrap());
    }

    #[test]
    fn a_failed_renewal_waits_for_its_next_try() {
        let (mut rng, now) = (rng(), day(7.1));
        let mut plan = plan(&mut rng);
        assert!(plan.is_due(now));
        plan.failed(now, &mut rng);
        assert!(!plan.is_due(now) && plan.is_due(now + DAY / 12));
    }

    #[test]
    fn those_who_waited_for_the_authority_renew_within_a_minute_of_its_return() {
        let (mut rng, now) = (rng(), day(7.1));
        let mut plan = plan(&mut rng);
        plan.failed(now, &mut rng);
        plan.found(now, &mut rng);
        assert!(plan.is_due(now + FOUND_WITHIN_MAX));
    }

    #[test]
    fn a_rotation_brings_renewal_forward_once() {
        let mut rng = rng();
        let mut plan = plan(&mut rng);
        plan.issues(2, day(1.0), &mut rng);
        let due = plan.due();
        assert!((day(1.0)..day(1.1)).contains(&due), "{due:?}");
        plan.issues(2, day(1.01), &mut rng);
        assert_eq!(plan.due(), due);
        let late = Plan::new(plan.life, 1, 2, day(2.0), &mut rng);
        assert!(late.due() < day(2.1), "it learns of the rotation at its start");
        let renewed = Plan::new(plan.life, 2, 2, day(1.0), &mut rng);
        assert!(day(5.0) < renewed.due());
    }

    #[test]
    fn people_are_told_of_each_step_towards_the_end_once() {
        let mut plan = plan(&mut rng());
        let told: Vec<_> = (0..60).filter_map(|n| plan.alarm(day(f64::from(n) / 4.0))).collect();
        assert_eq!(told, [Alarm::Warn, Alarm::Error, Alarm::Expired]);
    }
}
