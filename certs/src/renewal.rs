//! When a certificate is renewed, and when people hear that it was not. Pure: chance and time come from
//! outside.
//!
//! ```text
//!  begins ──────────── 40 % ── 50 % ─────────────── 75 % ──── 90 % ── ends
//!                        └ renewed ┘   tried again   warning   error
//! ```

use std::time::{Duration, SystemTime};

/// The part of the validity after which renewal can begin. With two weeks, the authority may be off for one.
const EARLIEST: f64 = 0.4;
/// The part of the validity after which it has begun at the latest. Between the two chance decides: machines
/// that were enrolled in one afternoon do not all ask in one minute.
const LATEST: f64 = 0.5;

/// A try that failed is repeated this often in a validity: every hour of two weeks.
const TRIES: u32 = 336;
/// How far two tries' distance differs from that, either way.
const RETRY_SPREAD: f64 = 0.1;
/// Shortest time between two tries, however short certificates live.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// After a rotation of the authority renewals are spread over this part of the validity,
const ROTATION_SHARE: u32 = 10;
/// and over no longer than this: a person waits for it.
const ROTATION_MAX: Duration = Duration::from_secs(600);

/// The part that is left when people are warned.
const WARN_LEFT: f64 = 0.25;
/// The part that is left when somebody must act.
const ERROR_LEFT: f64 = 0.1;

/// When to renew a certificate. Pure.
///
/// `jitter` is a random number from 0 to 1; others are taken for the nearer of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// How near a certificate's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Alarm {
    /// Far.
    None,
    /// Less than a quarter of the validity is left: it should have been renewed long ago.
    Warn,
    /// Less than a tenth is left: a person must act.
    Error,
    /// It has ended: peers refuse it.
    Expired,
}

impl Renewal {
    /// From begin to end.
    #[must_use]
    pub fn validity(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// When to renew: after 40 to 50 % of the validity. Ask once for a certificate and keep to it.
    #[must_use]
    pub fn due_at(&self, jitter: f64) -> SystemTime {
        self.after(EARLIEST + (LATEST - EARLIEST) * within(jitter))
    }

    /// How long to wait after a try that failed.
    #[must_use]
    pub fn retry_after(&self, jitter: f64) -> Duration {
        let spread = 1.0 - RETRY_SPREAD + 2.0 * RETRY_SPREAD * within(jitter);
        (self.validity() / TRIES).mul_f64(spread).max(RETRY_MIN)
    }

    /// How long to wait, at most, with renewing a certificate of an authority that signs no longer.
    #[must_use]
    pub fn rotation_after(&self, jitter: f64) -> Duration {
        (self.validity() / ROTATION_SHARE).min(ROTATION_MAX).mul_f64(within(jitter))
    }

    /// How near the end is.
    #[must_use]
    pub fn alarm(&self, now: SystemTime) -> Alarm {
        if self.not_after <= now {
            Alarm::Expired
        } else if self.after(1.0 - ERROR_LEFT) < now {
            Alarm::Error
        } else if self.after(1.0 - WARN_LEFT) < now {
            Alarm::Warn
        } else {
            Alarm::None
        }
    }

    fn after(&self, share: f64) -> SystemTime {
        self.not_before + self.validity().mul_f64(share)
    }
}

fn within(jitter: f64) -> f64 {
    // Not `clamp`: what is no number would come through it.
    if 0.0 <= jitter { jitter.min(1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::since_1970;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn of(validity: Duration) -> Renewal {
        let not_before = since_1970(1_800_000_000);
        Renewal { not_before, not_after: not_before + validity }
    }

    /// The two differ by less than a second: parts of a day are no whole numbers for a machine.
    fn about(left: Duration, right: Duration) -> bool {
        left.abs_diff(right) < Duration::from_secs(1)
    }

    #[test]
    fn renewal_begins_after_four_to_five_tenths() {
        let renewal = of(14 * DAY);
        let after = |jitter| renewal.due_at(jitter).duration_since(renewal.not_before).unwrap();
        assert!(about(after(0.0), 14 * DAY * 4 / 10) && about(after(1.0), 7 * DAY));
        assert!(about(after(0.5), 14 * DAY * 45 / 100));
        assert_eq!((after(-3.0), after(f64::NAN), after(7.0)), (after(0.0), after(0.0), after(1.0)));
    }

    #[test]
    fn the_authority_may_be_off_for_a_week() {
        let renewal = of(14 * DAY);
        let left = renewal.not_after.duration_since(renewal.due_at(1.0)).unwrap();
        assert!(about(left, 7 * DAY), "{left:?}");
    }

    #[test]
    fn a_failed_try_is_repeated_after_about_an_hour() {
        let renewal = of(14 * DAY);
        assert!(about(renewal.retry_after(0.5), HOUR));
        assert!(
            about(renewal.retry_after(0.0), HOUR * 9 / 10) && about(renewal.retry_after(1.0), HOUR * 11 / 10)
        );
        // Certificates of a test, that live for seconds.
        assert_eq!(of(20 * RETRY_MIN).retry_after(0.0), RETRY_MIN);
        assert_eq!(of(Duration::ZERO).retry_after(0.0), RETRY_MIN);
    }

    #[test]
    fn after_a_rotation_nobody_waits_longer_than_ten_minutes() {
        assert_eq!(of(14 * DAY).rotation_after(1.0), ROTATION_MAX);
        assert_eq!(of(14 * DAY).rotation_after(0.0), Duration::ZERO);
        assert!(about(of(HOUR).rotation_after(1.0), HOUR / 10));
    }

    #[test]
    fn people_hear_of_an_end_that_comes_near() {
        let renewal = of(100 * HOUR);
        let after = |hours| renewal.alarm(renewal.not_before + hours * HOUR);
        assert_eq!([0, 50, 74].map(after), [Alarm::None; 3]);
        assert_eq!([76, 89].map(after), [Alarm::Warn; 2]);
        assert_eq!([91, 99].map(after), [Alarm::Error; 2]);
        assert_eq!([100, 1000].map(after), [Alarm::Expired; 2]);
        assert!(Alarm::None < Alarm::Warn && Alarm::Error < Alarm::Expired);
        // A certificate that ends before it begins is over, and nothing panics.
        let nonsense = Renewal { not_before: renewal.not_after, not_after: renewal.not_before };
        assert_eq!(nonsense.alarm(renewal.not_after), Alarm::Expired);
        assert_eq!(nonsense.due_at(0.5), nonsense.not_before);
    }
}
