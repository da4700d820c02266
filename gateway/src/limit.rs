//! How much one client may ask, and all of them of one model. Pure but for the clock that governor is given.
//!
//! | limit | counts | by |
//! |---|---|---|
//! | `client` | requests and entries of batches | API key, certificate, name that nobody vouches for, else address |
//! | `client-bytes` | bytes of bodies | the same |
//! | `model` | inferences | model, of all clients together |
//! | `failed-keys` | API keys that were not valid | address |
//!
//! They are asked in this order, and none takes back what it let through: a request that its model's limit refuses has
//! cost its client one, and one that its client's limit refuses costs the model, which is everybody's, nothing.
//!
//! Nobody vouches for a name, so an address brings only so many that have a quota of their own ([`NAMES_PER_ADDRESS`]);
//! further ones share the quota of the address. Whoever invents names gets that many quotas and one, and no more. Keys of
//! the cluster are vouched for, and have their quota wherever they come from.

mod clients;
mod shares;
mod told;

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
};
use lineside_wire::NodeId;

use crate::gate::Cost;
use clients::Clients;
pub(crate) use shares::{Client, Crowded, Shares};
pub(crate) use told::{Allowances, Left, TooSoon};

/// Clients remembered at one time; further ones share one bucket until old ones are forgotten. About 5 MB.
const CLIENTS_MAX: usize = 100_000;

/// Names of one address that have a quota of their own: the programs on one machine, or the machines behind one router.
/// More lets one machine take more.
pub(crate) const NAMES_PER_ADDRESS: u32 = 16;

/// How often clients that have their full quota again are forgotten.
pub(crate) const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Keys that are not valid, by address and minute: a program with an old key tries it more often than that, and need not
/// be heard each time.
const FAILED_KEYS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

/// Longest that one large request holds its client back: a rate that is far too low shuts nobody out for a day.
const DEBT_MAX: Duration = Duration::from_secs(10 * 60);

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Client,
    ClientBytes,
    Model,
    FailedKeys,
}

/// Who is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClientKey {
    /// A name that nobody vouches for, by its hash under this process's own secret, and where it is.
    Name { name: u64, address: u128 },
    /// An address, as [`machine_at`] tells it.
    Address(u128),
    /// A peer over QUIC or HTTPS, by its certificate.
    Peer(NodeId),
    /// An API key of the cluster, by its id.
    Key([u8; 8]),
    /// A model that the cluster has, by the hash of its name.
    Model(u64),
    /// All names that no model has.
    OtherModels,
}

/// Limits each client to a rate with a burst.
pub(crate) struct Limiter<C: Clock = DefaultClock> {
    limit: Limit,
    limiter: RateLimiter<ClientKey, Clients, C, StateInformationMiddleware>,
    clients: Clients,
    quota: Quota,
    clock: C,
}

impl<C: Clock> std::fmt::Debug for Limiter<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter")
            .field("limit", &self.limit)
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

impl Limiter {
    /// One with a rate a second; without a burst, a second's worth can come at once.
    pub(crate) fn new(limit: Limit, rate: NonZeroU32, burst: Option<NonZeroU32>) -> Self {
        Self::with_clock(limit, quota(rate, burst), CLIENTS_MAX, DefaultClock::default())
    }

    /// The one for keys that are not valid.
    pub(crate) fn of_failed_keys() -> Self {
        let quota = Quota::per_minute(FAILED_KEYS_PER_MINUTE);
        Self::with_clock(Limit::FailedKeys, quota, CLIENTS_MAX, DefaultClock::default())
    }
}

/// What a rate and a burst allow.
fn quota(rate: NonZeroU32, burst: Option<NonZeroU32>) -> Quota {
    Quota::per_second(rate).allow_burst(burst.unwrap_or(rate))
}

impl<C: Clock + Clone> Limiter<C> {
    fn with_clock(limit: Limit, quota: Quota, clients_max: usize, clock: C) -> Self {
        let clients = Clients::new(clients_max);
        let limiter = RateLimiter::new(quota, clients.clone(), clock.clone());
        Self { limit, limiter, clients, quota, clock }
    }

    /// Charges so many at once, all or none of them.
    ///
    /// More than fit into the burst are let through when the client has its full quota, and it then waits until it would
    /// have had the rest, too: otherwise what is larger than the burst could never be asked.
    pub(crate) fn charge(&self, client: ClientKey, count: u64) -> Result<Left, TooSoon> {
        let burst = self.quota.burst_size();
        let at_once = u32::try_from(count).unwrap_or(u32::MAX).min(burst.get());
        let Some(at_once) = NonZeroU32::new(at_once) else { return Ok(Left::all(self.limit, self.quota)) };
        let checked = self.limiter.check_key_n(&client, at_once).expect("no more than the burst");
        let snapshot = checked.map_err(|refused| {
            TooSoon::new(self.limit, self.quota, refused.wait_time_from(self.clock.now()))
        })?;
        let interval = self.quota.replenish_interval();
        let beyond = count.saturating_sub(u64::from(burst.get()));
        let debt = u32::try_from(beyond).map_or(DEBT_MAX, |beyond| interval.saturating_mul(beyond));
        let debt = debt.min(DEBT_MAX);
        if !debt.is_zero() {
            self.clients.owe(client, debt);
        }
        Ok(Left::new(self.limit, self.quota, snapshot.remaining_burst_capacity(), debt))
    }

    /// Forgets clients that have their full quota again.
    pub(crate) fn forget_idle(&self) {
        self.limiter.retain_recent();
    }
}

/// The limits of one door. Those whose rates do not change are carried over into the next ones.
pub(crate) struct Limits<C: Clock = DefaultClock> {
    client: Option<Arc<Limiter<C>>>,
    bytes: Option<Arc<Limiter<C>>>,
    model: Option<Arc<Limiter<C>>>,
}

/// The rates that a door is set to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) rate: Option<NonZeroU32>,
    pub(crate) burst: Option<NonZeroU32>,
    pub(crate) bytes_rate: Option<NonZeroU32>,
    pub(crate) model_rate: Option<NonZeroU32>,
}

impl Limits {
    pub(crate) fn new(rates: Rates, before: Option<&Self>) -> Self {
        let made = |limit, rate: Option<NonZeroU32>, burst, before: Option<&Arc<Limiter>>| {
            let rate = rate?;
            match before.filter(|before| before.quota == quota(rate, burst)) {
                Some(same) => Some(Arc::clone(same)),
                None => Some(Arc::new(Limiter::new(limit, rate, burst))),
            }
        };
        let before =
            |which: fn(&Self) -> &Option<Arc<Limiter>>| before.and_then(|before| which(before).as_ref());
        Self {
            client: made(Limit::Client, rates.rate, rates.burst, before(|limits| &limits.client)),
            bytes: made(Limit::ClientBytes, rates.bytes_rate, None, before(|limits| &limits.bytes)),
            model: made(Limit::Model, rates.model_rate, None, before(|limits| &limits.model)),
        }
    }
}

impl<C: Clock + Clone> Limits<C> {
    /// Charges what something costs. `own` is the client's own limit in the place of everybody's. `model` gives who is
    /// charged for a model's name, and can ask which models have a bucket already. What came of each limit is written
    /// down in `left`.
    pub(crate) fn charge(
        &self,
        client: ClientKey,
        own: Option<&Limiter<C>>,
        cost: Cost<'_>,
        model: impl FnOnce(&str, &dyn Fn(ClientKey) -> bool) -> ClientKey,
        left: &mut Allowances,
    ) -> Result<(), TooSoon> {
        if let Some(limiter) = own.or(self.client.as_deref())
            && 0 < cost.calls
        {
            left.note(limiter.charge(client, cost.calls.into()))?;
        }
        if let Some(limiter) = &self.bytes
            && 0 < cost.bytes
        {
            left.note(limiter.charge(client, cost.bytes))?;
        }
        if let (Some(limiter), Some(name)) = (&self.model, cost.model) {
            let key = model(name, &|key| limiter.clients.has(key));
            left.note(limiter.charge(key, 1))?;
        }
        Ok(())
    }

    pub(crate) fn forget_idle(&self) {
        let all = [&self.client, &self.bytes, &self.model];
        all.into_iter().flatten().for_each(|limiter| limiter.forget_idle());
    }
}

/// What tells machines apart: an address, IPv6 by its /64, which is what one machine gets.
pub(crate) fn machine_at(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests;
