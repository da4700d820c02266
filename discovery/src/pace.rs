//! How eagerly members watch each other, and which combinations make sense.

use std::{num::NonZeroU8, time::Duration};

/// Shortest timeout that is taken: below it a single late timer is a failed probe.
const TIMEOUT_MIN: Duration = Duration::from_millis(10);

/// How eagerly members watch each other: a heartbeat's interval, timeout and retries, as SWIM has them.
///
/// | here | in SWIM | what a larger one costs |
/// |---|---|---|
/// | [`interval`](Pace::interval) | probe period: each member asks one other whether it is there | a dead member is asked later |
/// | [`timeout`](Pace::timeout) | probe round trip: after it, three others are asked to ask | less time for those |
/// | [`retries`](Pace::retries) | for so many intervals a member that did not answer is only suspected, and can object | a dead member is believed in longer |
///
/// A member that dies is suspected after one to two intervals, and down [`Pace::down_after`] later. A heartbeat that asks
/// one peer over and over would call the same `interval`, `timeout` and `retries` its own; here everybody watches, so
/// that the packets of a member do not grow with the cluster, and a suspect is asked by others and may answer itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two probes of one member.
    pub interval: Duration,
    /// How long an answer may take: at most half of the interval, which leaves the indirect probes their time.
    pub timeout: Duration,
    /// Intervals that a suspect has to object, before it counts as down.
    pub retries: NonZeroU8,
}

/// Why a pace cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaceError {
    /// Others are asked for the rest of the interval, and their answer takes two ways.
    #[error(
        "a probe's timeout of {timeout:?} is more than half of the interval of {interval:?}: others that are asked to ask, \
         too, would have no time to answer, and members that live would be suspected"
    )]
    TimeoutTooLong {
        /// The timeout.
        timeout: Duration,
        /// The interval.
        interval: Duration,
    },
    /// No network and no scheduler is that punctual.
    #[error(
        "a probe's timeout of {timeout:?} is too short: {TIMEOUT_MIN:?} at least, or every late packet is an alarm"
    )]
    TimeoutTooShort {
        /// The timeout.
        timeout: Duration,
    },
}

impl Pace {
    /// Any LAN.
    pub const LAN: Self = Self {
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        retries: NonZeroU8::new(4).expect("4 is not 0"),
    };

    /// Dedicated wired machines.
    pub const FAST: Self = Self {
        interval: Duration::from_millis(500),
        timeout: Duration::from_millis(150),
        retries: NonZeroU8::new(5).expect("5 is not 0"),
    };

    /// How long a suspect has to object, while the members that suspect it are well themselves.
    #[must_use]
    pub fn down_after(self) -> Duration {
        self.interval.saturating_mul(u32::from(self.retries.get()))
    }

    /// Checks that the times fit together.
    ///
    /// # Errors
    /// They do not; the error says which and why.
    pub fn check(self) -> Result<(), PaceError> {
        let Self { interval, timeout, .. } = self;
        if interval < timeout.saturating_mul(2) {
            return Err(PaceError::TimeoutTooLong { timeout, interval });
        }
        if timeout < TIMEOUT_MIN {
            return Err(PaceError::TimeoutTooShort { timeout });
        }
        Ok(())
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::LAN
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_presets_can_be_kept() {
        for pace in [Pace::LAN, Pace::FAST, Pace::default()] {
            assert_eq!(pace.check(), Ok(()));
        }
    }

    #[test]
    fn a_timeout_of_more_than_half_the_interval_is_refused_and_says_so() {
        let half = Pace { timeout: Duration::from_millis(501), ..Pace::LAN };
        let error = half.check().unwrap_err();
        assert!(error.to_string().contains("more than half of the interval"), "{error}");
        let none = Pace { timeout: Duration::from_millis(9), ..Pace::LAN };
        assert!(matches!(none.check(), Err(PaceError::TimeoutTooShort { .. })));
    }

    proptest! {
        #[test]
        fn whatever_passes_is_what_foca_demands(interval in 0..100_000_u64, timeout in 0..100_000_u64, retries in 1..=u8::MAX) {
            let pace = Pace {
                interval: Duration::from_millis(interval),
                timeout: Duration::from_millis(timeout),
                retries: NonZeroU8::new(retries).unwrap(),
            };
            if pace.check().is_ok() {
                prop_assert!(pace.timeout < pace.interval && pace.interval <= pace.down_after());
            }
        }
    }
}
