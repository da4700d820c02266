//! What a client is told of its limits: in the answer's head, and in words when it comes too soon.

use std::{fmt::Write as _, time::Duration};

use governor::Quota;
use http::{HeaderMap, HeaderName, HeaderValue};
use lineside_wire::{Fault, FaultCode};

use super::Limit;
use crate::errors::{Refusal, whole_seconds};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// What older clients and proxies look for: of one limit only.
const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// How much later than they must clients are told to come at most, as a share of their wait: those who were refused at
/// once do not come back at once.
const SPREAD: f64 = 0.2;

impl Limit {
    /// Its name, in headers, bodies and messages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ClientBytes => "client-bytes",
            Self::Model => "model",
            Self::FailedKeys => "failed-keys",
        }
    }
}

/// What is left of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(super) limit: Limit,
    /// What can come at once.
    burst: u32,
    /// Whole seconds in which that is full again.
    window: u64,
    /// What can come at once now.
    pub(super) remaining: u32,
    /// Whole seconds until more than that can.
    pub(super) more_in_seconds: u64,
}

impl Left {
    pub(super) fn new(limit: Limit, quota: Quota, remaining: u32, debt: Duration) -> Self {
        let burst = quota.burst_size().get();
        let more_in = if remaining == burst { Duration::ZERO } else { quota.replenish_interval() + debt };
        Self { limit, burst, window: window(quota), remaining, more_in_seconds: whole_seconds(more_in) }
    }

    pub(super) fn all(limit: Limit, quota: Quota) -> Self {
        Self::new(limit, quota, quota.burst_size().get(), Duration::ZERO)
    }
}

/// A burst's time, in whole seconds.
fn window(quota: Quota) -> u64 {
    whole_seconds(quota.replenish_interval().saturating_mul(quota.burst_size().get()))
}

/// A request that comes too soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooSoon {
    pub(crate) limit: Limit,
    quota: Quota,
    /// How long the client must wait.
    pub(super) wait: Duration,
    /// How long it is told to.
    pub(super) told: Duration,
}

impl TooSoon {
    pub(super) const fn new(limit: Limit, quota: Quota, wait: Duration) -> Self {
        Self { limit, quota, wait, told: wait }
    }

    /// The same, told to come somewhat later; `chance` is from 0 to 1.
    pub(crate) fn spread(self, chance: f64) -> Self {
        Self { told: self.wait + self.wait.mul_f64(SPREAD * chance.clamp(0.0, 1.0)), ..self }
    }

    /// Says which limit, and what to do.
    fn message(&self) -> String {
        let (name, burst) = (self.limit.name(), self.quota.burst_size());
        let per_second = 1e9 / self.quota.replenish_interval().as_nanos().max(1) as f64;
        let rate = per_second.round();
        match self.limit {
            Limit::Client => format!(
                "too many requests from this client: the limit \"{name}\" allows {rate} a second and {burst} at once; \
                 wait, or send more rows in one request"
            ),
            Limit::ClientBytes => format!(
                "too many bytes from this client: the limit \"{name}\" allows {rate} bytes a second; wait, or send \
                 smaller requests (binary tensors are shorter than JSON)"
            ),
            Limit::Model => format!(
                "too many inferences of this model by all clients together: the limit \"{name}\" allows {rate} a \
                 second; wait, or send more rows in one request"
            ),
            Limit::FailedKeys => format!(
                "too many API keys from this address that are not valid: the limit \"{name}\" allows {burst} a minute; \
                 `lineside keys list` shows the valid ones, on the machine with the authority's key"
            ),
        }
    }
}

impl From<TooSoon> for Fault {
    fn from(too_soon: TooSoon) -> Self {
        // Rounded up: who comes a fraction of a millisecond early is refused again.
        let wait = too_soon.told.as_nanos().div_ceil(1_000_000);
        let wait = u64::try_from(wait).unwrap_or(u64::MAX);
        Self::new(FaultCode::RateLimited, too_soon.message()).retry_after_ms(wait)
    }
}

impl From<TooSoon> for Refusal {
    fn from(too_soon: TooSoon) -> Self {
        let mut refusal = Self::from(Fault::from(too_soon));
        refusal.limit = Some(too_soon.limit.name());
        refusal
    }
}

/// What is left of each limit that a request was charged to, in the order of the charges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowances([Option<Left>; 4]);

impl Allowances {
    /// Writes down what came of a charge. A later one of the same limit takes the place of the one before.
    pub(crate) fn note(&mut self, charged: Result<Left, TooSoon>) -> Result<(), TooSoon> {
        let left = match charged {
            Ok(left) => left,
            Err(TooSoon { limit, quota, wait, .. }) => {
                let more_in_seconds = whole_seconds(wait);
                Left { remaining: 0, more_in_seconds, ..Left::all(limit, quota) }
            }
        };
        if let Some(place) =
            self.0.iter_mut().find(|place| place.is_none_or(|there| there.limit == left.limit))
        {
            *place = Some(left);
        }
        charged.map(drop)
    }

    /// Writes the headers: two lists of draft-ietf-httpapi-ratelimit-headers-10, with an item for each limit; with `x`
    /// also the older three, of the limit of which the smallest share is left.
    pub(crate) fn write(&self, headers: &mut HeaderMap, x: bool) {
        let (mut policies, mut lefts) = (String::new(), String::new());
        for left in self.0.iter().flatten() {
            let Left { limit, burst, window, remaining, more_in_seconds } = *left;
            let (name, comma) = (limit.name(), if policies.is_empty() { "" } else { ", " });
            let unit = match limit {
                Limit::ClientBytes => ";qu=\"content-bytes\"",
                Limit::Client | Limit::Model | Limit::FailedKeys => "",
            };
            let _never_fails = write!(policies, "{comma}\"{name}\";q={burst};w={window}{unit}");
            let _never_fails = write!(lefts, "{comma}\"{name}\";r={remaining};t={more_in_seconds}");
        }
        if policies.is_empty() {
            return;
        }
        let value = |text: String| HeaderValue::try_from(text).expect("digits, names and quotes are legal");
        headers.insert(RATELIMIT_POLICY, value(policies));
        headers.insert(RATELIMIT, value(lefts));
        let share =
            |left: &&Left| u64::from(left.remaining) * u64::from(u32::MAX) / u64::from(left.burst.max(1));
        if let Some(tightest) = self.0.iter().flatten().min_by_key(share).filter(|_| x) {
            headers.insert(X_LIMIT, tightest.burst.into());
            headers.insert(X_REMAINING, tightest.remaining.into());
            headers.insert(X_RESET, tightest.more_in_seconds.into());
        }
    }
}
