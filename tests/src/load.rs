//! Callers that keep asking, and a tally of what they got.

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
use lineside_wire::NodeId;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{Added, Addends, Http, PATIENCE, PATIENTLY, add_by_http, add_by_quic, eventually};

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
        assert!(lost == 0 && self.failures.is_empty(), "{lost} of {} lost: {:?}", self.sent, self.failures);
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

    fn note(&mut self, outcome: Result<Added, String>, took: Duration) {
        match outcome {
            Ok(Added { right: true, node, attempts }) => {
                self.answered += 1;
                *self.by_node.entry(node).or_default() += 1;
                self.moved += u64::from(1 < attempts);
                self.slowest = self.slowest.max(took);
            }
            Ok(wrong) => self.failures.push(format!("a wrong sum: {wrong:?}")),
            Err(reason) => self.failures.push(reason),
        }
    }
}

/// Callers at work, on the runtime of the story.
pub struct Load {
    callers: JoinSet<()>,
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
}

fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks for sums, one after another.
enum Caller {
    Http(Http),
    Quic(Client),
}

impl Caller {
    async fn ask(&mut self, addends: Addends) -> Result<Added, String> {
        let headers: &[_] = if addends.is_slow() { &[PATIENTLY] } else { &[] };
        match self {
            Self::Http(http) => {
                let answer =
                    add_by_http(http, addends, headers).await.map_err(|error| format!("HTTP: {error}"))?;
                answer.added(addends)
            }
            Self::Quic(client) => {
                add_by_quic(client, addends).await.map_err(|error| format!("QUIC: {error}"))
            }
        }
    }
}

impl Load {
    /// Callers of `add`: so many over HTTP with a connection each, and so many that share one client.
    #[must_use]
    pub fn of_adds(door: SocketAddr, http: usize, client: &Client, quic: usize) -> Self {
        let mut load = Self::new();
        (0..http).for_each(|_| load.add(Caller::Http(Http::new(door)), None));
        (0..quic).for_each(|_| load.add(Caller::Quic(client.clone()), None));
        load
    }

    /// Callers of `slow-add` over HTTP; each call takes about this long.
    #[must_use]
    pub fn of_slow_adds(door: SocketAddr, callers: usize, about: Duration) -> Self {
        let mut load = Self::new();
        (0..callers).for_each(|_| load.add(Caller::Http(Http::new(door)), Some(about)));
        load
    }

    fn new() -> Self {
        Self { callers: JoinSet::new(), tally: Arc::default(), stop: Arc::default() }
    }

    fn add(&mut self, mut caller: Caller, slowly: Option<Duration>) {
        let (tally, stop) = (Arc::clone(&self.tally), Arc::clone(&self.stop));
        // Sums differ, so that an answer to another call is noticed; whole numbers, so that they are exact.
        let place = f32::from(u16::try_from(self.callers.len()).unwrap_or(u16::MAX));
        self.callers.spawn(async move {
            let mut number = 0_u16;
            while !stop.load(Ordering::Relaxed) {
                let addends = Addends::new(f32::from(number), 100_000.0 * place);
                let addends = slowly.map_or(addends, |about| addends.slowly(about));
                number = number.wrapping_add(1);
                locked(&tally).sent += 1;
                let begun = Instant::now();
                let outcome = caller.ask(addends).await;
                locked(&tally).note(outcome, begun.elapsed());
                sleep(PAUSE).await;
            }
        });
    }

    /// What came of the calls so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        locked(&self.tally).clone()
    }

    /// Waits until `wanted` holds.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Tally) -> bool) {
        eventually(what, PATIENCE, async || {
            let tally = self.tally();
            if wanted(&tally) { Ok(()) } else { Err(format!("{tally:?}")) }
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

    /// Stops asking, waits for the answers that are still due, and gives the tally.
    pub async fn end(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended.expect("callers do not panic");
        }
        self.tally()
    }
}
