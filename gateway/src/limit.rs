//! How much one client may ask. Pure but for the clock that governor is given.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    net::IpAddr,
    num::NonZeroU32,
    sync::Mutex,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};
use http::HeaderValue;
use lineside_wire::{Fault, FaultCode, NodeId};

use crate::errors::whole_seconds;

/// Clients remembered at one time; further ones share one bucket until old ones are forgotten. About 5 MB.
const CLIENTS_MAX: usize = 100_000;

/// Parts of the memory with a lock each, so that shards rarely meet.
const PARTS: usize = 16;

/// How often clients that have their full quota again are forgotten.
pub(crate) const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Who is charged for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClientKey {
    /// The holder of an API key, by the key's hash under this process's own secret.
    Key(u64),
    /// An address; IPv6 by its /64, which is what one machine gets.
    Address(u128),
    /// A peer over QUIC, by its certificate.
    Peer(NodeId),
}

/// What a client has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Requests that it may send at once now.
    pub(crate) remaining: u32,
    /// Whole seconds until it may send more than that.
    pub(crate) more_in_seconds: u64,
}

/// A request that comes too soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooSoon {
    /// How long the client should wait.
    pub(crate) wait: Duration,
}

/// Limits each client to a rate with a burst.
pub(crate) struct Limiter<C: Clock = DefaultClock> {
    limiter: RateLimiter<ClientKey, Clients, C, StateInformationMiddleware>,
    quota: Quota,
    rate: NonZeroU32,
    /// `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-10.
    policy: HeaderValue,
    hasher: RandomState,
    clock: C,
}

impl Limiter {
    pub(crate) fn new(rate: NonZeroU32, burst: Option<NonZeroU32>) -> Self {
        Self::with_clock(rate, burst, CLIENTS_MAX, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limiter<C> {
    fn with_clock(rate: NonZeroU32, burst: Option<NonZeroU32>, clients_max: usize, clock: C) -> Self {
        let quota = Quota::per_second(rate).allow_burst(burst.unwrap_or(rate));
        let limiter = RateLimiter::new(quota, Clients::new(clients_max), clock.clone());
        let burst = quota.burst_size().get();
        let policy = format!("\"client\";q={burst};w={}", burst.div_ceil(rate.get()));
        let policy = HeaderValue::try_from(policy).expect("digits and quotes are legal");
        Self { limiter, quota, rate, policy, hasher: RandomState::new(), clock }
    }

    /// Who sends a request with this key from this address.
    pub(crate) fn client(&self, key: Option<&[u8]>, address: IpAddr) -> ClientKey {
        match (key, address.to_canonical()) {
            (Some(key), _) => ClientKey::Key(self.hasher.hash_one(key)),
            (None, IpAddr::V4(address)) => ClientKey::Address(u128::from(address.to_bits())),
            (None, IpAddr::V6(address)) => ClientKey::Address(address.to_bits() >> 64 << 64),
        }
    }

    /// Charges one request.
    pub(crate) fn charge(&self, client: ClientKey) -> Result<Allowance, TooSoon> {
        match self.limiter.check_key(&client) {
            Ok(snapshot) => {
                let remaining = snapshot.remaining_burst_capacity();
                let full = remaining == self.quota.burst_size().get();
                let more_in = if full { Duration::ZERO } else { self.quota.replenish_interval() };
                Ok(Allowance { remaining, more_in_seconds: whole_seconds(more_in) })
            }
            Err(refused) => Err(TooSoon { wait: refused.wait_time_from(self.clock.now()) }),
        }
    }

    /// Forgets clients that have their full quota again.
    pub(crate) fn forget_idle(&self) {
        self.limiter.retain_recent();
    }

    /// The limit itself, for the answer's head.
    pub(crate) const fn policy(&self) -> &HeaderValue {
        &self.policy
    }

    /// The fault for a request that comes too soon. Says which limit, and what to do.
    pub(crate) fn fault(&self, too_soon: TooSoon) -> Fault {
        let text = format!(
            "too many requests from this client: the limit \"client\" allows {} a second and {} at once; \
             wait, or send more rows in one request",
            self.rate,
            self.quota.burst_size()
        );
        // Rounded up: who comes a fraction of a millisecond early is refused again.
        let wait = too_soon.wait.as_nanos().div_ceil(1_000_000);
        let wait = u64::try_from(wait).unwrap_or(u64::MAX);
        Fault::new(FaultCode::RateLimited, text).retry_after_ms(wait)
    }
}

/// `RateLimit` of the same draft.
pub(crate) fn ratelimit(remaining: u32, more_in_seconds: u64) -> String {
    format!("\"client\";r={remaining};t={more_in_seconds}")
}

/// The state of each client: a bounded map. Who finds no place shares one bucket with the others who found none.
struct Clients {
    parts: Vec<Mutex<HashMap<ClientKey, Nanos>>>,
    part_max: usize,
    shared: Mutex<Option<Nanos>>,
    hasher: RandomState,
}

impl Clients {
    fn new(clients_max: usize) -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            part_max: clients_max.div_ceil(PARTS),
            shared: Mutex::default(),
            hasher: RandomState::new(),
        }
    }
}

/// A lock that outlives a panic of its holder: every state in here is valid.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl StateStore for Clients {
    type Key = ClientKey;

    fn measure_and_replace<T, F, E>(&self, key: &ClientKey, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let part = &self.parts[(self.hasher.hash_one(key) % PARTS as u64) as usize];
        let mut clients = locked(part);
        if let Some(state) = clients.get_mut(key) {
            let (outcome, next) = measure(Some(*state))?;
            *state = next;
            return Ok(outcome);
        }
        if clients.len() < self.part_max {
            let (outcome, next) = measure(None)?;
            clients.insert(*key, next);
            return Ok(outcome);
        }
        drop(clients);
        let mut shared = locked(&self.shared);
        let (outcome, next) = measure(*shared)?;
        *shared = Some(next);
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<ClientKey> for Clients {
    fn retain_recent(&self, drop_below: Nanos) {
        for part in &self.parts {
            locked(part).retain(|_, state| drop_below < *state);
        }
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|part| locked(part).len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limiter(rate: u32, burst: u32, clients_max: usize) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let number = |n| NonZeroU32::new(n).expect("not zero");
        (Limiter::with_clock(number(rate), Some(number(burst)), clients_max, clock.clone()), clock)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_client_has_its_burst_then_its_rate_and_is_told_how_long_to_wait() {
        let (limiter, clock) = limiter(2, 3, 100);
        let press = limiter.client(Some(b"press"), address("10.0.0.1"));
        let left: Vec<_> = (0..3).map(|_| limiter.charge(press).map(|left| left.remaining)).collect();
        assert_eq!(left, [Ok(2), Ok(1), Ok(0)]);
        assert_eq!(limiter.charge(press), Err(TooSoon { wait: Duration::from_millis(500) }));
        clock.advance(Duration::from_millis(500));
        assert!(limiter.charge(press).is_ok());
        assert!(limiter.charge(press).is_err());
    }

    #[test]
    fn clients_do_not_pay_for_each_other() {
        let (limiter, _) = limiter(1, 1, 100);
        let press = limiter.client(Some(b"press"), address("10.0.0.1"));
        let weld = limiter.client(Some(b"weld"), address("10.0.0.1"));
        let nameless = limiter.client(None, address("10.0.0.1"));
        assert!(limiter.charge(press).is_ok());
        assert!(limiter.charge(press).is_err());
        assert!(limiter.charge(weld).is_ok());
        assert!(limiter.charge(nameless).is_ok());
    }

    #[test]
    fn an_ipv6_machine_cannot_multiply_itself_within_its_network() {
        let (limiter, _) = limiter(1, 1, 100);
        let first = limiter.client(None, address("fd00:1:2:3::1"));
        assert_eq!(first, limiter.client(None, address("fd00:1:2:3:ffff::9")));
        assert_ne!(first, limiter.client(None, address("fd00:1:2:4::1")));
        let mapped = limiter.client(None, address("::ffff:10.0.0.1"));
        assert_eq!(mapped, limiter.client(None, address("10.0.0.1")));
    }

    #[test]
    fn a_flood_of_new_names_shares_one_bucket_and_old_ones_keep_theirs() {
        let (limiter, clock) = limiter(1, 5, PARTS);
        let old = limiter.client(Some(b"old"), address("10.0.0.1"));
        assert!(limiter.charge(old).is_ok());
        let names: Vec<_> =
            (0..2_000_u32).map(|i| limiter.client(Some(&i.to_le_bytes()), address("10.0.0.1"))).collect();
        let taken = names.iter().filter(|name| limiter.charge(**name).is_ok()).count();
        assert!(taken <= PARTS + 5, "{taken} of the flood came through");
        assert!(limiter.limiter.len() <= PARTS);
        assert!(limiter.charge(old).is_ok(), "an old client paid for the flood");

        clock.advance(Duration::from_secs(60));
        limiter.forget_idle();
        assert_eq!(limiter.limiter.len(), 0);
    }

    #[test]
    fn the_policy_is_told_as_the_draft_writes_it() {
        let (limiter, _) = limiter(10, 25, 100);
        assert_eq!(limiter.policy(), &"\"client\";q=25;w=3");
        assert_eq!(ratelimit(4, 1), "\"client\";r=4;t=1");
        let fault = limiter.fault(TooSoon { wait: Duration::from_micros(1_199_001) });
        assert_eq!((fault.code, fault.retry_after_ms), (FaultCode::RateLimited, Some(1_200)));
    }
}
