//! How peers are chosen, and when they rest: what a person may set.

use std::{num::NonZeroU8, time::Duration};

/// How the peer of a call without a session is chosen. A call with an affinity goes by that, under every policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The one that will be done first: work that it has, by how long it takes there. Ties go round.
    #[default]
    LeastLoad,
    /// One after the other.
    RoundRobin,
    /// One after the other, faster ones more often.
    WeightedRoundRobin,
    /// The one with less to do of two that are drawn.
    PowerOfTwo,
    /// By the call's affinity, always the same one. Calls without one go by load.
    Rendezvous,
}

/// How peers are chosen, and when they rest.
#[derive(Clone, Copy, Debug)]
pub struct Balancing {
    /// Who gets a call.
    pub policy: Policy,
    /// Own failed calls in a row that bar a peer which still answers others. A call that breaks bars at once.
    pub eject_failures: NonZeroU8,
    /// A peer that answers a smaller share of its calls well, in percent, is barred while others do better; 0 never bars.
    pub eject_success_percent: u8,
    /// A peer whose 95th percentile is so many times the median of its peers' is barred; 0 never bars.
    pub eject_latency_times: u8,
    /// The bar after a first failed call; it doubles from failure to failure.
    pub bar_min: Duration,
    /// The longest bar. Longer keeps a mended node idle, shorter sends more calls to a broken one.
    pub bar_max: Duration,
    /// For how long a peer that is new, or back, gets less than its share; it grows meanwhile.
    pub slow_start: Duration,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            policy: Policy::LeastLoad,
            eject_failures: const { NonZeroU8::new(3).expect("3 is not 0") },
            eject_success_percent: 80,
            eject_latency_times: 3,
            bar_min: Duration::from_secs(2),
            bar_max: Duration::from_secs(60),
            slow_start: Duration::from_secs(10),
        }
    }
}
