//! Callers that keep asking, a tally of what they got, and a ledger that misses nothing.

mod caller;
mod steps;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lineside_client::Client;
use lineside_faults::ledger::{Ended, Ledger, Sums};
use lineside_wire::NodeId;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{Added, Addends, Http, PATIENCE, PATIENTLY, eventually};
use caller::{Caller, Failure};

/// Between two calls of one caller: enough for failure detection to get its share of two cores.
const PAUSE: Duration = Duration::from_millis(3);

/// What callers got so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Calls that were begun.
    pub sent: u64,
    /// Right answers.
    pub answered: u64,
    /// What else came of calls.
    pub failures: Vec<String>,
    /// Right answers of each node.
    pub by_node: BTreeMap<NodeId, u64>,
    /// Right answers that took more than one try.
    pub moved: u64,
    /// The longest that a right answer took.
    pub slowest: Duration,
}

impl Tally {
    /// Checks that every call was answered, and rightly.
    ///
    /// # Panics
    /// One was not.
    pub fn assert_nothing_lost(&self) {
        let lost = self.sent - self.answered;
        let Self { sent, failures, slowest, moved, .. } = self;
        assert!(
            lost == 0 && failures.is_empty(),
            "{lost} of {sent} lost, {moved} moved, the slowest answer took {slowest:?}: {failures:?}"
        );
    }

    /// A node's part of the right answers.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a story has few calls")]
    pub fn share(&self, node: NodeId) -> f64 {
        self.by(node) as f64 / self.answered.max(1) as f64
    }

    /// A node's right answers.
    #[must_use]
    pub fn by(&self, node: NodeId) -> u64 {
        self.by_node.get(&node).copied().unwrap_or(0)
    }

    /// What came since an earlier look. The slowest stays that of all.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let by_node = self.by_node.iter().map(|(node, count)| (*node, count - before.by(*node)));
        Self {
            sent: self.sent - before.sent,
            answered: self.answered - before.answered,
            failures: self.failures[before.failures.len()..].to_vec(),
            by_node: by_node.collect(),
            moved: self.moved - before.moved,
            slowest: self.slowest,
        }
    }

    fn note(&mut self, outcome: Result<Added, Failure>, took: Duration) {
        match outcome {
            Ok(Added { right: true, node, attempts }) => {
                self.answered += 1;
                *self.by_node.entry(node).or_default() += 1;
                self.moved += u64::from(1 < attempts);
                self.slowest = self.slowest.max(took);
            }
            Ok(wrong) => self.failures.push(format!("a wrong sum: {wrong:?}")),
            Err(failure) => self.failures.push(failure.text),
        }
    }
}

/// Callers at work, on the runtime of the story.
pub struct Load {
    callers: JoinSet<()>,
    tally: Arc<Mutex<Tally>>,
    ledger: Ledger,
    stop: Arc<AtomicBool>,
}

fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a caller of sums goes about it.
#[derive(Clone, Copy)]
struct Manner {
    /// Each sum takes about this long.
    slowly: Option<Duration>,
    /// Between two calls.
    pause: Duration,
}

const BRISKLY: Manner = Manner { slowly: None, pause: PAUSE };

impl Load {
    /// Callers of `add`: so many over HTTP with a connection each, and so many that share one client.
    #[must_use]
    pub fn of_adds(door: SocketAddr, http: usize, client: &Client, quic: usize) -> Self {
        let mut load = Self::new();
        (0..http).for_each(|_| load.add(Caller::http(door, None), BRISKLY));
        (0..quic).for_each(|_| load.add(Caller::Quic(client.clone()), BRISKLY));
        load
    }

    /// Callers of `slow-add` over HTTP; each call takes about this long.
    #[must_use]
    pub fn of_slow_adds(door: SocketAddr, callers: usize, about: Duration) -> Self {
        Self::of_slow_adds_at(&[door], callers, about)
    }

    /// The same at several doors, with so many callers at each.
    #[must_use]
    pub fn of_slow_adds_at(doors: &[SocketAddr], callers: usize, about: Duration) -> Self {
        let mut load = Self::new();
        for door in doors {
            let caller = || Caller::Http { http: Http::new(*door), header: Some(owned(PATIENTLY)) };
            (0..callers).for_each(|_| load.add(caller(), Manner { slowly: Some(about), ..BRISKLY }));
        }
        load
    }

    /// Callers of `add` over HTTP that rest between two calls, so that all together ask about so many times a second.
    /// With a deadline for each call, if there is one.
    #[must_use]
    pub fn per_second(rate: u32, door: SocketAddr, callers: u32, deadline: Option<Duration>) -> Self {
        let mut load = Self::new();
        let pause = Duration::from_secs(1) * callers / rate;
        (0..callers).for_each(|_| load.add(Caller::http(door, deadline), Manner { pause, ..BRISKLY }));
        load
    }

    /// And callers of `accumulate` over HTTP: each goes through one sequence after another, and knows what every step
    /// must come to. Their calls are in the ledger alone: a sequence whose node dies ends in an error.
    #[must_use]
    pub fn and_sequences(mut self, door: SocketAddr, callers: u32) -> Self {
        for place in 1..=callers {
            let (ledger, stop) = (self.ledger.clone(), Arc::clone(&self.stop));
            self.callers.spawn(steps::run(door, place, ledger, stop));
        }
        self
    }

    fn new() -> Self {
        Self { callers: JoinSet::new(), tally: Arc::default(), ledger: Ledger::new(), stop: Arc::default() }
    }

    fn add(&mut self, mut caller: Caller, Manner { slowly, pause }: Manner) {
        let (tally, ledger, stop) = (Arc::clone(&self.tally), self.ledger.clone(), Arc::clone(&self.stop));
        // Sums differ, so that an answer to another call is noticed; whole numbers, so that they are exact.
        let place = f32::from(u16::try_from(self.callers.len()).unwrap_or(u16::MAX));
        self.callers.spawn(async move {
            let mut number = 0_u16;
            while !stop.load(Ordering::Relaxed) {
                let addends = Addends::new(f32::from(number), 100_000.0 * place);
                let addends = slowly.map_or(addends, |about| addends.slowly(about));
                number = number.wrapping_add(1);
                locked(&tally).sent += 1;
                let ticket = ledger.begin("add", Instant::now());
                let outcome = caller.ask(addends).await;
                let took = ticket.end(ended(&outcome), Instant::now());
                locked(&tally).note(outcome, took);
                sleep(pause).await;
            }
        });
    }

    /// What came of the calls so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        locked(&self.tally).clone()
    }

    /// The same as a ledger has it, sequences too.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Waits until `wanted` holds.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Tally) -> bool) {
        eventually(what, PATIENCE, async || {
            let tally = self.tally();
            if wanted(&tally) { Ok(()) } else { Err(format!("{tally:?}")) }
        })
        .await;
    }

    /// Waits until `wanted` holds of the ledger.
    pub async fn until_sums(&self, what: &str, wanted: impl Fn(&Sums) -> bool) {
        eventually(what, PATIENCE, async || {
            let sums = self.ledger.sums(Instant::now());
            if wanted(&sums) { Ok(()) } else { Err(format!("{sums}\n{:?}", self.ledger.complaints())) }
        })
        .await;
    }

    /// Waits for so many more right answers.
    pub async fn answers(&self, more: u64) {
        let wanted = self.tally().answered + more;
        self.until(&format!("{more} more answers"), |tally| wanted <= tally.answered).await;
    }

    /// Waits for so many more right answers of one node.
    pub async fn answers_of(&self, node: NodeId, more: u64) {
        let wanted = self.tally().by(node) + more;
        self.until(&format!("{more} more answers of {node}"), |tally| wanted <= tally.by(node)).await;
    }

    /// Stops asking, waits for the answers that are still due, and gives the tally. Whatever became of them: every call
    /// that was begun has ended, none was answered wrongly, and nothing with a state was run twice.
    ///
    /// # Panics
    /// It is not so.
    pub async fn end(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended.expect("callers do not panic");
        }
        assert_eq!(self.ledger.open(), 0, "calls have not ended");
        let sums = self.ledger.sums(Instant::now());
        let amiss = sums.wrong + sums.duplicates;
        assert!(amiss == 0, "{sums}\n{:?}", self.ledger.complaints());
        self.tally()
    }
}

fn owned((name, value): (&'static str, &str)) -> (&'static str, String) {
    (name, value.to_owned())
}

fn ended(outcome: &Result<Added, Failure>) -> Ended {
    match outcome {
        Ok(Added { right: true, node, .. }) => Ended::Answered { node: node.to_string() },
        Ok(wrong) => Ended::Wrong { what: format!("{wrong:?}") },
        Err(failure) => failure.ended.clone(),
    }
}
