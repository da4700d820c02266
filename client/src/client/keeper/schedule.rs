//! When the next try to renew is. Pure: time and chance come from outside, the numbers are [`Renewal`]'s.

use std::time::{Duration, SystemTime};

use lineside_certs::{Identity, Renewal};

/// Shortest time between one certificate and the next: an authority that gives certificates without time in them is not
/// asked without end.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// What decides of when a certificate is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    renewal: Renewal,
    /// Which authority signed it, and which one signs now.
    generation: u32,
    issuing: u32,
}

impl Certificate {
    pub(super) fn of(identity: &Identity) -> Self {
        let (generation, issuing) = (identity.holder().generation, identity.trust().issuing());
        Self { renewal: identity.renewal(), generation, issuing }
    }
}

/// When to renew one certificate: chance places it once, and it stays so.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Schedule(Option<(Certificate, SystemTime)>);

impl Schedule {
    /// When to renew. `chance`, from 0 to 1, is used when the certificate, or who signs new ones, is not as before.
    pub(super) fn due(&mut self, certificate: Certificate, now: SystemTime, chance: f64) -> SystemTime {
        let known = self.0;
        if let Some((_, due)) = known.filter(|(known, _)| *known == certificate) {
            return due;
        }
        let mut due = certificate.renewal.due_at(chance);
        if certificate.generation < certificate.issuing {
            due = due.min(now + certificate.renewal.rotation_after(chance));
        }
        if known.is_some() {
            due = due.max(now + PAUSE_MIN);
        }
        self.0 = Some((certificate, due));
        due
    }

    /// A try failed; gives the time of the next one.
    pub(super) fn failed(&mut self, certificate: Certificate, now: SystemTime, chance: f64) -> SystemTime {
        let due = now + certificate.renewal.retry_after(chance);
        self.0 = Some((certificate, due));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn day(n: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000 + DAY.mul_f64(n)
    }

    fn between(from: f64, to: f64) -> Certificate {
        let renewal = Renewal { not_before: day(from), not_after: day(to) };
        Certificate { renewal, generation: 1, issuing: 1 }
    }

    #[test]
    fn a_certificate_is_due_before_half_of_its_time_and_stays_so() {
        for chance in [0.0, 0.5, 0.999] {
            let mut schedule = Schedule::default();
            let due = schedule.due(between(0.0, 30.0), day(0.0), chance);
            assert!(day(12.0) <= due && due <= day(15.0));
            assert_eq!(schedule.due(between(0.0, 30.0), day(3.0), 0.7), due);
        }
    }

    #[test]
    fn a_renewed_certificate_has_a_time_of_its_own() {
        let mut schedule = Schedule::default();
        schedule.due(between(0.0, 30.0), day(0.0), 0.5);
        assert!(day(25.0) <= schedule.due(between(13.0, 43.0), day(13.0), 0.5));
    }

    #[test]
    fn what_is_overdue_at_the_start_is_renewed_at_once_and_never_twice_within_a_second() {
        let mut schedule = Schedule::default();
        assert!(schedule.due(between(0.0, 0.0), day(1.0), 0.5) <= day(1.0));
        assert_eq!(schedule.due(between(0.5, 0.5), day(1.0), 0.5), day(1.0) + PAUSE_MIN);
    }

    #[test]
    fn after_a_rotation_it_is_due_within_minutes_and_the_next_list_does_not_put_it_off() {
        let mut schedule = Schedule::default();
        schedule.due(between(0.0, 30.0), day(0.0), 0.5);
        let rotated = Certificate { issuing: 2, ..between(0.0, 30.0) };
        let due = schedule.due(rotated, day(2.0), 0.999);
        assert!(day(2.0) <= due && due <= day(2.0) + Duration::from_secs(600));
        assert_eq!(schedule.due(rotated, day(2.5), 0.1), due);
    }

    #[test]
    fn a_failed_try_puts_the_next_one_off() {
        let mut schedule = Schedule::default();
        let due = schedule.failed(between(0.0, 30.0), day(13.0), 0.5);
        assert!(day(13.05) < due && due < day(13.2), "two hours or so");
        assert_eq!(schedule.due(between(0.0, 30.0), day(13.01), 0.0), due);
    }
}
