//! What a person is shown of a peer.

use std::time::Duration;

/// Why a peer rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rest {
    /// A call broke, or could not be sent.
    Broken,
    /// Several calls in a row failed.
    Errors,
    /// Too large a share of its calls failed, while others did better.
    SuccessRate,
    /// It took much longer than its peers, and longer than it says itself.
    Latency,
    /// It said that it is leaving.
    Leaving,
}

impl Rest {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Broken, Self::Errors, Self::SuccessRate, Self::Latency, Self::Leaving];

    /// Its name in member lists and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Errors => "errors",
            Self::SuccessRate => "success_rate",
            Self::Latency => "latency",
            Self::Leaving => "leaving",
        }
    }

    /// Whether the peer answers, and was only found to be worse than others. Such a one still helps where most rest, and
    /// keeps its sessions, which would be lost elsewhere.
    pub(super) const fn is_judged(self) -> bool {
        matches!(self, Self::Errors | Self::SuccessRate | Self::Latency)
    }
}

/// What a member list shows of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStatistics {
    /// Own calls in flight to it.
    pub in_flight: u32,
    /// 95th percentile of its answers, lately.
    pub p95: Option<Duration>,
    /// Calls to it that have ended.
    pub calls: u64,
    /// Of these, those that broke, failed or came too late.
    pub failures: u64,
    /// Its part of the calls that ended in the last ten seconds, in percent.
    pub share: u8,
    /// How long ago it last answered a call, in whatever way; `None`: it never did.
    pub heard_ago: Option<Duration>,
    /// How much longer it is barred.
    pub barred_for: Option<Duration>,
    /// Why it rests: it is barred, or the one call that it may show itself with has not been answered yet.
    pub rests: Option<Rest>,
    /// How often it was barred, by reason, in the order of [`Rest::ALL`].
    pub ejections: [u64; Rest::ALL.len()],
    /// What it gets of its share while it starts slowly, in percent; `None` when it gets all of it.
    pub slow_start: Option<u8>,
}

/// When so many peers rested that bars were set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Panic {
    /// Whether it was so in the last seconds.
    pub is_on: bool,
    /// Calls that were given to a peer that way.
    pub leases: u64,
}
