//! The load: requests at a steady rate by every door, each with numbers of its own, whose answers are checked.
//!
//! A caller knows both gateways. After a broken connection, or an answer that says that it may come again, it goes to
//! the other one while its time lasts, as the documentation tells callers to; the client library does so by itself.
//! Callers wait longer than the cluster may take, so that a request that was begun ends with an answer, a typed error, or
//! is lost: there is no fourth way.

mod pure;
mod walker;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context as _;
use lineside_client::Client;
use lineside_faults::ledger::{Ended, Ledger, Sums};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::tally::{Promise, Tally, is_allowed};
use crate::local::{HttpCaller, Question, Told, ask_http, ask_quic, ask_rpc};
use walker::Walker;

/// What each request may take, all repeats of its caller included.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// How much longer than the cluster a caller waits.
const GRACE: Duration = Duration::from_secs(3);
/// Rest before the same is asked again, doubled each time up to the largest.
const BACKOFF: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];

/// How often requests are sent that have become due.
const TICK: Duration = Duration::from_millis(5);
/// Most requests under way: below what a gateway takes, so that it is not the load that refuses itself.
const UNDER_WAY_MAX: usize = 512;
/// Most requests sent at one tick, after this process itself was held up.
const AT_ONCE_MAX: f64 = 64.0;
/// How much more there is in a burst.
const BURST_TIMES: f64 = 3.0;
/// How long after a burst the cluster may still say that it is full.
const BURST_WAKE: Duration = Duration::from_secs(2);
/// Callers with a sequence each.
const WALKERS: usize = 6;
/// Kept connections of callers, for each gateway.
const IDLE_MAX: usize = 64;

/// By which door a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    HttpBinary,
    HttpJson,
    Rpc,
    Quic,
}

impl Way {
    const ALL: [Self; 4] = [Self::HttpBinary, Self::HttpJson, Self::Rpc, Self::Quic];

    const fn as_str(self) -> &'static str {
        match self {
            Self::HttpBinary => "HTTP binary",
            Self::HttpJson => "HTTP JSON",
            Self::Rpc => "JSON-RPC",
            Self::Quic => "QUIC",
        }
    }
}

/// What all callers share.
pub(super) struct Shared {
    ledger: Ledger,
    tally: Mutex<Tally>,
    /// The gateways' doors for HTTP.
    doors: Vec<SocketAddr>,
    /// Their connections that nobody uses now.
    idle: Mutex<Vec<(usize, HttpCaller)>>,
    client: Client,
    /// The nodes' names by their id.
    names: BTreeMap<String, String>,
    /// Requests in a second, in calm.
    rate: f64,
    bursting: AtomicBool,
    burst_ended: Mutex<Option<Instant>>,
    hanging_up: AtomicBool,
    answers: AtomicU64,
    enough: CancellationToken,
}

/// The load at work.
pub(super) struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Begins.
    pub(super) fn start(
        doors: Vec<SocketAddr>,
        client: Client,
        names: BTreeMap<String, String>,
        rate: u32,
        seed: u64,
    ) -> Self {
        let shared = Arc::new(Shared {
            ledger: Ledger::new(),
            tally: Mutex::default(),
            doors,
            idle: Mutex::default(),
            client,
            names,
            rate: f64::from(rate),
            bursting: AtomicBool::new(false),
            burst_ended: Mutex::new(None),
            hanging_up: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            enough: CancellationToken::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).pace());
        for index in 0..WALKERS {
            tasks.spawn(Walker::new(Arc::clone(&shared), index, seed).walk());
        }
        tasks.spawn(pure::hang_up(Arc::clone(&shared)));
        Self { shared, tasks }
    }

    /// What the callers share.
    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends it when every request that was begun has ended.
    pub(super) async fn finish(mut self) -> (Sums, Tally, Vec<String>) {
        self.shared.enough.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a caller does not panic");
        }
        let sums = self.shared.ledger.sums(Instant::now());
        let tally = std::mem::take(&mut *self.shared.tally());
        (sums, tally, self.shared.ledger.complaints())
    }
}

impl Shared {
    /// The tally.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger.
    pub(super) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Right answers so far.
    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Relaxed)
    }

    /// Begins or ends a burst.
    pub(super) fn burst(&self, on: bool) {
        self.bursting.store(on, Relaxed);
        if !on {
            *self.burst_ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// Has callers hang up, or no longer.
    pub(super) fn hang_up(&self, on: bool) {
        self.hanging_up.store(on, Relaxed);
    }

    /// Whether there is, or just was, more load than was planned for.
    fn is_overloaded(&self) -> bool {
        let ended = *self.burst_ended.lock().unwrap_or_else(PoisonError::into_inner);
        self.bursting.load(Relaxed) || ended.is_some_and(|ended| Instant::now() < ended + BURST_WAKE)
    }

    /// Sends requests when they are due, however long the earlier ones take.
    async fn pace(self: Arc<Self>) {
        let mut requests = JoinSet::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut due, mut number) = (Instant::now(), 0.0, 0_u64);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.enough.cancelled() => break,
            }
            while requests.try_join_next().is_some() {}
            let now = Instant::now();
            let times = if self.bursting.load(Relaxed) { BURST_TIMES } else { 1.0 };
            due = (due + now.duration_since(last).as_secs_f64() * self.rate * times).min(AT_ONCE_MAX);
            last = now;
            while 1.0 <= due {
                due -= 1.0;
                if requests.len() < UNDER_WAY_MAX {
                    requests.spawn(pure::ask(Arc::clone(&self), number));
                    number += 1;
                } else {
                    self.tally().unsent += 1;
                }
            }
        }
        while requests.join_next().await.is_some() {}
    }

    /// Asks once, by one door. After `within` the caller no longer waits.
    async fn ask(
        &self,
        way: Way,
        gateway: usize,
        question: &Question,
        deadline: Duration,
        within: Duration,
    ) -> anyhow::Result<Told> {
        let asked = async {
            if way == Way::Quic {
                return ask_quic(&self.client, question, deadline).await;
            }
            let mut caller = self.caller(gateway);
            let told = match way {
                Way::HttpBinary => ask_http(&mut caller, question, &question.binary(), deadline).await,
                Way::HttpJson => ask_http(&mut caller, question, &question.json(), deadline).await,
                Way::Rpc | Way::Quic => ask_rpc(&mut caller, question, deadline).await,
            };
            if told.is_ok() {
                let mut idle = self.idle();
                if idle.len() < IDLE_MAX * self.doors.len() {
                    idle.push((gateway, caller));
                }
            }
            told
        };
        timeout(within, asked).await.context("no answer in time").flatten()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(usize, HttpCaller)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn caller(&self, gateway: usize) -> HttpCaller {
        let mut idle = self.idle();
        match idle.iter().rposition(|(of, _)| *of == gateway) {
            Some(index) => idle.swap_remove(index).1,
            None => HttpCaller::new(self.doors[gateway]),
        }
    }

    fn name(&self, node: &str) -> String {
        self.names.get(node).map_or(node, String::as_str).to_owned()
    }
}

/// One request from its beginning to its end.
struct Request<'a> {
    shared: &'a Shared,
    ticket: lineside_faults::ledger::Ticket,
    kind: &'static str,
    promise: Promise,
    begun: Instant,
    disturbed: bool,
    overloaded: bool,
    tries: u32,
}

impl<'a> Request<'a> {
    fn begin(shared: &'a Shared, kind: &'static str, promise: Promise) -> Self {
        let begun = Instant::now();
        let ticket = shared.ledger.begin(kind, begun);
        let (disturbed, overloaded) = (shared.tally().is_disturbed(begun), shared.is_overloaded());
        Self { shared, ticket, kind, promise, begun, disturbed, overloaded, tries: 0 }
    }

    /// What is left of its time.
    fn left(&self) -> Duration {
        DEADLINE.saturating_sub(self.begun.elapsed())
    }

    /// Rests before it is sent again; `false` when there is no time for that.
    async fn again(&mut self) -> bool {
        let rest = BACKOFF[0].saturating_mul(1 << self.tries.min(8)).min(BACKOFF[1]);
        if self.left() <= rest {
            return false;
        }
        if self.tries == 0 {
            self.shared.tally().repeated += 1;
        }
        self.tries += 1;
        tokio::time::sleep(rest).await;
        true
    }

    fn end(self, ended: Ended) {
        let now = Instant::now();
        let mut tally = self.shared.tally();
        match &ended {
            Ended::Answered { node } => {
                self.shared.answers.fetch_add(1, Relaxed);
                tally.right(node, self.begun, self.disturbed, now);
            }
            Ended::Refused { code, .. } => {
                tally.not_right(self.begun);
                if !is_allowed(self.promise, code, self.overloaded || self.shared.is_overloaded()) {
                    let took = now.duration_since(self.begun).as_secs_f64();
                    tally.forbid(code, format!("{}: {code} after {took:.1} s", self.kind));
                }
            }
            Ended::Wrong { .. } | Ended::Twice { .. } | Ended::Lost { .. } => tally.not_right(self.begun),
        }
        drop(tally);
        self.ticket.end(ended, now);
    }
}
