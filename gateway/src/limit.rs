//! How much one client may ask. Pure but for the clock that governor is given.
//!
//! Nobody vouches for a key, so an address brings only so many that have a quota of their own ([`KEYS_PER_ADDRESS`]);
//! further ones share the quota of the address. Whoever invents keys gets that many quotas and one, and no more.

mod clients;

use std::{
    collections::hash_map::RandomState, hash::BuildHasher, net::IpAddr, num::NonZeroU32, time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
};
use http::HeaderValue;
use lineside_wire::{Fault, FaultCode, NodeId};

use crate::errors::whole_seconds;
use clients::Clients;

/// Clients remembered at one time; further ones share one bucket until old ones are forgotten. About 5 MB.
const CLIENTS_MAX: usize = 100_000;

/// Keys of one address that have a quota of their own: the programs on one machine, or the machines behind one router.
/// More lets one machine take more.
pub(crate) const KEYS_PER_ADDRESS: u32 = 16;

/// How often clients that have their full quota again are forgotten.
pub(crate) const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Who is charged for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClientKey {
    /// The holder of an API key, by the key's hash under this process's own secret, and where it is.
    Key { key: u64, address: u128 },
    /// An address, as [`machine_at`] tells it.
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
        let address = machine_at(address);
        match key {
            Some(key) => ClientKey::Key { key: self.hasher.hash_one(key), address },
            None => ClientKey::Address(address),
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

/// What tells machines apart: an address, IPv6 by its /64, which is what one machine gets.
pub(crate) fn machine_at(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

/// `RateLimit` of the same draft.
pub(crate) fn ratelimit(remaining: u32, more_in_seconds: u64) -> String {
    format!("\"client\";r={remaining};t={more_in_seconds}")
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
    fn who_invents_keys_gets_a_bounded_share_and_nobody_else_pays() {
        let (limiter, clock) = limiter(1, 5, 100_000);
        let invented = |i: u32| limiter.client(Some(&i.to_le_bytes()), address("10.0.0.1"));
        let flood = |from: u32| (from..from + 2_000).filter(|i| limiter.charge(invented(*i)).is_ok()).count();
        // Each key once: so many have a quota of their own, the others share that of the address.
        assert_eq!(flood(0), KEYS_PER_ADDRESS as usize + 5);
        assert_eq!(limiter.limiter.len(), KEYS_PER_ADDRESS as usize + 1);
        let nameless = limiter.client(None, address("10.0.0.1"));
        assert!(limiter.charge(nameless).is_err());
        // Keys that came before, and keys of other machines, are served on.
        assert!(limiter.charge(invented(0)).is_ok());
        assert!(limiter.charge(limiter.client(Some(b"press"), address("10.0.0.2"))).is_ok());

        // In the long run it has that many rates, however often it changes its keys.
        let mut served = 0;
        for minute in 1..=10 {
            clock.advance(FORGET_EVERY);
            limiter.forget_idle();
            served += flood(minute * 10_000);
        }
        let rates = 10 * FORGET_EVERY.as_secs() as usize * (KEYS_PER_ADDRESS as usize + 1);
        assert!(served <= rates, "{served} were served, but {rates} is the most");
        clock.advance(FORGET_EVERY);
        limiter.forget_idle();
        assert_eq!(limiter.limiter.len(), 0);
    }

    #[test]
    fn a_known_key_keeps_its_quota_wherever_it_comes_from() {
        let (limiter, _) = limiter(1, 2, 100);
        assert!(limiter.charge(limiter.client(Some(b"press"), address("10.0.0.1"))).is_ok());
        assert!(limiter.charge(limiter.client(Some(b"press"), address("10.0.0.2"))).is_ok());
        assert!(limiter.charge(limiter.client(Some(b"press"), address("10.0.0.3"))).is_err());
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
        let (limiter, clock) = limiter(1, 5, clients::PARTS);
        let old = limiter.client(Some(b"old"), address("10.0.0.1"));
        assert!(limiter.charge(old).is_ok());
        let names: Vec<_> = (0..2_000_u32)
            .map(|i| limiter.client(None, std::net::Ipv4Addr::from_bits(i << 8).into()))
            .collect();
        let taken = names.iter().filter(|name| limiter.charge(**name).is_ok()).count();
        assert!(taken <= clients::PARTS + 5, "{taken} of the flood came through");
        assert!(limiter.limiter.len() <= clients::PARTS);
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
