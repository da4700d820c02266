//! What all shards of one door have together: settings, keys, limits and counters.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use lineside_certs::Clock;
use lineside_client::{CallError, InferCall, InferReply};
use lineside_wire::{ApiKey, Executed, Fault, FaultCode};
use tokio::time::Instant;

use crate::{
    Check, Cluster, GatewayConfig,
    body::{Reserved, Room},
    errors::call_fault,
    gate::{Caller, Cost, KeyRing, Who},
    limit::{Allowances, Client, ClientKey, Crowded, Limiter, Shares, TooSoon, machine_at},
    metrics::{Metrics, Outcome},
    settings::Settings,
};

/// Time beyond a call's deadline in which the pool's own answer, which knows more, may still come.
const GRACE: Duration = Duration::from_millis(250);

/// When to come again while the door's places are taken: most requests take less, so that some are free by then.
const CROWDED_RETRY_MS: u64 = 500;

/// How much later than they must clients are told to come at most, as a share of their wait: those who were refused at
/// once do not come back at once.
const SPREAD: f64 = 0.5;

/// Waits beyond this are not stretched further.
const SPREAD_MAX: Duration = Duration::from_secs(10);

/// Settings, keys, limits and counters of one door: over all its shards, HTTP and QUIC together.
pub struct Shared {
    /// What was set at the start. What can change since then is in [`Shared::settings`].
    pub(crate) config: GatewayConfig,
    settings: ArcSwap<Settings>,
    /// One reload after the other: each carries over the counts of the one before.
    reloading: Mutex<()>,
    pub(crate) keys: ArcSwap<KeyRing>,
    /// Tries with keys that are not valid.
    pub(crate) failed_keys: Limiter,
    /// This process's own secret, under which names of outsiders are counted.
    pub(crate) names: RandomState,
    /// By which keys end: not before this software was built.
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) bodies: Arc<Room>,
    in_flight: Shares,
    connections: AtomicUsize,
    /// Connections by address: as many entries as there are connections, at most. Taken when one comes or goes.
    by_address: Mutex<HashMap<u128, usize>>,
    leaving: AtomicBool,
}

impl Shared {
    /// The limits that `config` sets, with every counter at zero.
    #[must_use]
    pub fn new(config: GatewayConfig) -> Arc<Self> {
        Self::by_clock(config, Clock::system())
    }

    /// The same with another clock than the system's: keys end by it. A member gives its own, which is never before the
    /// last time that it knew, so that a board that starts in 1970 does not take a key whose time is over.
    #[must_use]
    pub fn by_clock(config: GatewayConfig, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            settings: ArcSwap::from_pointee(Settings::new(&config, None)),
            reloading: Mutex::default(),
            keys: ArcSwap::default(),
            failed_keys: Limiter::of_failed_keys(),
            names: RandomState::new(),
            clock,
            metrics: Metrics::default(),
            bodies: Room::new(config.bodies_bytes_max),
            in_flight: Shares::of(config.in_flight_max),
            connections: AtomicUsize::new(0),
            by_address: Mutex::default(),
            leaving: AtomicBool::new(false),
            config,
        })
    }

    /// Puts other keys in force, at once and for every connection, those that are open too. A key that has a limit of its
    /// own keeps its count while that limit stays the same.
    ///
    /// Whoever runs a door gives it the keys of the trust list at its start, and again whenever another list is in force:
    /// `shared.set_keys(trust.keys().to_vec())`, with [`Trust::keys`](lineside_certs::Trust::keys). Until then no key is
    /// valid. A list that is taken in time makes a revocation reach every door within five seconds.
    pub fn set_keys(&self, keys: Vec<ApiKey>) {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let next = KeyRing::new(keys, &self.keys.load());
        self.keys.store(Arc::new(next));
    }

    /// The settings that are in force now.
    pub(crate) fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Puts those settings of `config` in force that can change while the door is open: `rate`, `burst`, `bytes_rate`,
    /// `model_rate`, `x_ratelimit`, `keys`, `model_control`, `trusted_proxies`, `compression`, `deadline_default`,
    /// `deadline_max`, `affinity_by_client`, `drain_max`. Counts of the limits go on where a limit has not changed, and begin anew where it has.
    ///
    /// # Errors
    /// They cannot work; nothing has changed then.
    pub fn reload(&self, config: &GatewayConfig) -> Result<(), String> {
        config.check()?;
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Settings::new(config, Some(&self.settings.load()));
        self.settings.store(Arc::new(next));
        Ok(())
    }

    /// Charges what something costs to its caller, and writes down in `left` what came of it. Names of models that the
    /// cluster does not have share one quota.
    ///
    /// # Errors
    /// It comes too soon, by the limit that is named.
    pub(crate) fn charge<C: Cluster>(
        &self,
        cluster: &C,
        caller: &Caller,
        cost: Cost<'_>,
        left: &mut Allowances,
    ) -> Result<(), TooSoon> {
        let settings = self.settings();
        let keys;
        let own = match &caller.who {
            Who::Key(key) => {
                keys = self.keys.load();
                keys.limit_of(key)
            }
            Who::Anonymous | Who::Certificate(_) => None,
        };
        let known = |name: &str| cluster.models().iter().any(|model| model.name.as_str() == name);
        let model = |name: &str, has: &dyn Fn(ClientKey) -> bool| {
            let key = ClientKey::Model(self.names.hash_one(name));
            if has(key) || known(name) { key } else { ClientKey::OtherModels }
        };
        let charged = settings.limits.charge(caller.charged, own, cost, model, left);
        charged.map_err(|too_soon| {
            self.metrics.limited(too_soon.limit);
            too_soon.spread(rand::random())
        })
    }

    /// Forgets clients that have their full quotas again.
    pub(crate) fn forget_idle(&self) {
        self.settings().limits.forget_idle();
        self.keys.load().forget_idle();
        self.failed_keys.forget_idle();
    }

    /// From now on this door says that it is not ready, and refuses inferences over QUIC, whose clients then go
    /// elsewhere. HTTP is answered as long as there is a server. The server does this itself at its shutdown.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Whether the door takes new work.
    pub(crate) fn ready<C: Cluster>(&self, cluster: &C) -> Result<(), String> {
        self.stays().and_then(|()| cluster.ready())
    }

    /// The same, check by check; whether it leaves comes first.
    pub(crate) fn checks<C: Cluster>(&self, cluster: &C) -> Vec<Check> {
        let mut checks = vec![Check::new("not-draining", self.stays())];
        checks.extend(cluster.checks());
        checks
    }

    fn stays(&self) -> Result<(), String> {
        match self.is_leaving() {
            true => Err("this gateway is leaving".to_owned()),
            false => Ok(()),
        }
    }

    /// A place for one request of this client, or "busy" at once.
    pub(crate) fn enter(&self, client: ClientKey) -> Result<Place<'_>, Fault> {
        let client = self.sharer(client);
        self.in_flight.enter(client).map_err(|crowded| self.crowded(crowded))?;
        self.metrics.in_flight.inc();
        Ok(Place(self, client))
    }

    /// Says "busy" to a request whose body would be read in vain. It takes no place yet: a slow body holds up nobody.
    pub(crate) fn has_room(&self, client: ClientKey) -> Result<(), Fault> {
        self.in_flight.has_room(self.sharer(client)).map_err(|crowded| self.crowded(crowded))
    }

    /// Whose share of the places a client's requests have. For a name answers the address that it comes from.
    fn sharer(&self, client: ClientKey) -> Client {
        let account = match client {
            ClientKey::Name { address, .. } => ClientKey::Address(address),
            known => known,
        };
        Client::of(self.names.hash_one(client), self.names.hash_one(account))
    }

    fn crowded(&self, crowded: Crowded) -> Fault {
        self.metrics.crowded(crowded);
        let max = self.config.in_flight_max;
        let text = match crowded {
            Crowded::Full => {
                format!(
                    "the gateway works on {max} requests, as many as it may (in_flight_max); try again shortly"
                )
            }
            Crowded::Share(own) => format!(
                "the gateway works on {own} requests of yours, and leaves the rest of its {max} places (in_flight_max) to \
                 other clients; wait for answers before you send more"
            ),
        };
        Fault::new(FaultCode::Busy, text).retry_after_ms(spread(CROWDED_RETRY_MS, rand::random()))
    }

    /// A place for one connection from this address.
    ///
    /// # Errors
    /// There is none; the text says which setting allows no more.
    pub(crate) fn connect(self: &Arc<Self>, from: IpAddr) -> Result<Connection, &'static str> {
        let from = machine_at(from);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = by_address.get(&from).copied().unwrap_or_default();
        if self.config.connections_per_address_max <= of_address {
            return Err("your address has as many connections as it may (connections_per_address_max)");
        }
        if !take(&self.connections, self.config.connections_max) {
            return Err("the gateway has as many connections as it may (connections_max)");
        }
        by_address.insert(from, of_address + 1);
        self.metrics.connections.inc();
        Ok(Connection { shared: Arc::clone(self), from })
    }

    fn disconnect(&self, from: u128) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.dec();
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&from);
            }
        }
    }

    /// Asks the cluster, and counts what became of it. The answer's bytes have their room.
    pub(crate) async fn infer<C: Cluster>(
        &self,
        cluster: &C,
        call: InferCall,
    ) -> Result<(InferReply, Reserved), (CallError, Fault)> {
        let model = call.params.model.clone();
        let (deadline, begun) = (call.deadline, Instant::now());
        let _pending = self.metrics.pending(&model);
        // The pool keeps the deadline; this only makes sure that no defect there can hold a client for ever.
        let answer = tokio::time::timeout_at(deadline + GRACE, cluster.infer(call)).await;
        let answer = answer.unwrap_or(Err(CallError::Late { attempts: 0, executed: Executed::Maybe }));
        match answer {
            Ok(reply) => {
                let (node, attempts) = (reply.report.node, reply.report.attempts);
                let room = self.bodies.reserve(reply.payload.len()).map_err(has_run);
                let outcome = match &room {
                    Ok(_) => Outcome::Answered(&reply.report, begun.elapsed()),
                    Err(fault) => Outcome::Failed(fault.code, attempts),
                };
                self.metrics.inferred(Some(&model), outcome);
                match room {
                    Ok(room) => Ok((reply, room)),
                    Err(fault) => Err((CallError::Refused { node, fault: fault.clone(), attempts }, fault)),
                }
            }
            Err(error) => {
                let mut fault = call_fault(&error, || cluster.models());
                // Those who were told to wait together do not come back together.
                fault.retry_after_ms = fault.retry_after_ms.map(|wait| spread(wait, rand::random()));
                let outcome = Outcome::Failed(fault.code, error.attempts());
                self.metrics.inferred(is_known(&error).then_some(&model), outcome);
                tracing::debug!(%model, code = fault.code.name(), %error, "an inference failed");
                Err((error, fault))
            }
        }
    }

    /// When a change must be answered of what nodes serve. A large model takes longer to load than a caller waits for an
    /// inference: without a time of its own, a change has as much as the door gives anybody.
    pub(crate) fn change_deadline(&self, arrived: Instant, timeout: Option<Duration>) -> Instant {
        self.deadline(arrived, timeout.or(Some(Duration::MAX)))
    }

    /// When a request must be answered that came at `arrived` and names `timeout`.
    pub(crate) fn deadline(&self, arrived: Instant, timeout: Option<Duration>) -> Instant {
        let settings = self.settings();
        arrived + timeout.unwrap_or(settings.deadline_default).min(settings.deadline_max)
    }
}

/// Waits for what every node is asked.
///
/// # Errors
/// Those of `asked`; or it is late, and those nodes that were told go on.
pub(crate) async fn in_time<T>(
    deadline: Instant,
    asked: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    // The cluster keeps the deadline; this only makes sure that no defect there can hold a caller for ever.
    tokio::time::timeout_at(deadline + GRACE, asked).await.unwrap_or_else(|_| {
        let text = "the time for the call ran out before every node had answered; those that were told go on";
        Err(Fault::new(FaultCode::DeadlineExceededRunning, text))
    })
}

/// The shorter of two limits that a client may have named.
pub(crate) fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The fault of a door that has no room for an answer: the model has run all the same.
pub(crate) fn has_run(fault: Fault) -> Fault {
    Fault { executed: Executed::Yes, ..fault }
}

/// Whether a failure shows that the cluster has the model. A name that it does not have never becomes a label.
fn is_known(error: &CallError) -> bool {
    match error {
        CallError::UnknownModel { .. } | CallError::UnknownVersion { .. } => false,
        CallError::NoNode { .. } | CallError::AllBusy { .. } | CallError::Lost { .. } => true,
        CallError::Late { attempts, .. } => 0 < *attempts,
        CallError::Refused { fault, .. } => fault.code != FaultCode::ModelNotFound,
    }
}

fn take(taken: &AtomicUsize, max: usize) -> bool {
    let add = |count: usize| (count < max).then_some(count + 1);
    taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
}

/// Somewhat later than this, by chance from 0 to 1: at most as much as [`SPREAD`] says.
fn spread(wait_ms: u64, chance: f64) -> u64 {
    let wait = Duration::from_millis(wait_ms);
    let told = wait + wait.min(SPREAD_MAX).mul_f64(SPREAD * chance.clamp(0.0, 1.0));
    u64::try_from(told.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// One request's place, free again when dropped.
pub(crate) struct Place<'a>(&'a Shared, Client);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.in_flight.leave(self.1);
        self.0.metrics.in_flight.dec();
    }
}

/// One connection's place, free again when dropped.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    from: u128,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.disconnect(self.from);
    }
}
