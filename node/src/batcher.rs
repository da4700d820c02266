//! Which waiting requests run next, and which of them together.
//!
//! Pure state: no clock, no lock, no thread. Requests go in with what matters about them; [`Batcher::take`] is asked
//! whenever a session is idle.
//!
//! ```text
//!   priority 1   ▸ by deadline ▸ ▸ ▸      the first of the highest priority leads; those that fit it join it,
//!   priority 2   ▸ by deadline ▸ ▸        in the same order, up to max_size rows
//!   sequences    one request each at a time, in the order in which they came
//! ```
//!
//! **Nobody starves.** Every [`ELDEST_EVERY`]th run is led by the request that has waited longest, whatever its priority
//! and deadline. So one that may run does so within sixteen runs for each request that came before it and sixteen for
//! itself, however many come after.
//! One that does not fit into a run is passed over for smaller ones behind it, and keeps its place in the order: when it
//! comes first, it leads.
//!
//! **The newest first, when the line is old?** No: that helps a queue which lets in more than it can do, where the eldest
//! are served when they are late already and the newest wait behind them. Here a call is let in only when its turn comes
//! in time, the node's limit keeps the wait to half of what its caller gives it, and one whose time is over is not run.
//! So those that wait are all in time, and among such the order by deadline serves as many as any order can.
//!
//! **Waiting for others** (`max_delay`) is each request's own: it ends when the delay is over, at half of the time that
//! the request has, when a preferred size can be made, or when one that waits has no room any more. So no request waits
//! for the sake of another kind, and with a delay of zero nothing waits while a session is idle.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

#[cfg(test)]
mod tests;

/// Which run is led by the request that came first. One in sixteen delays the urgent by a sixteenth at most, and lets
/// nobody wait for ever.
const ELDEST_EVERY: u32 = 16;

/// How many that do not fit are passed over in search of smaller ones: with ten thousand waiting, a run that has one row
/// left is not worth a look at all of them.
const PASSED_OVER_MAX: usize = 64;

/// How requests are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Most rows of one run; 1 joins nothing. A request with more runs alone.
    pub(crate) max_size: u64,
    /// How long a request may wait for others while a session is idle.
    pub(crate) max_delay: Duration,
    /// Rows that a run should have where there is a choice, ascending.
    pub(crate) preferred: Vec<u64>,
    /// Priorities, 1 the highest; 0: all are equal.
    pub(crate) levels: u8,
    /// Of requests that name none.
    pub(crate) default_priority: u8,
}

impl Default for Rules {
    fn default() -> Self {
        Self { max_size: 1, max_delay: Duration::ZERO, preferred: Vec::new(), levels: 0, default_priority: 0 }
    }
}

impl Rules {
    /// Most rows of requests that are joined: where sizes are preferred, the largest of them.
    pub(crate) fn joined_max(&self) -> u64 {
        self.preferred.last().copied().unwrap_or(self.max_size)
    }

    /// Where a request of this priority stands among the others, 1 the highest. One that names none, or one that the
    /// model does not have, stands where the settings say; without them at the end.
    pub(crate) fn level(&self, priority: u8) -> u8 {
        let known = |level: &u8| (1..=self.levels).contains(level);
        [priority, self.default_priority].into_iter().find(known).unwrap_or(self.levels)
    }
}

/// A waiting request.
#[derive(Clone, Debug)]
pub(crate) struct Waiting<J> {
    /// What waits.
    pub(crate) job: J,
    /// What of it matters here.
    pub(crate) traits: Traits,
}

/// What matters about a request for its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Its first dimension.
    pub(crate) rows: u64,
    /// What requests must share to run together: the shapes behind the first dimension. `None` runs alone.
    pub(crate) shape: Option<Arc<[u64]>>,
    /// As the caller gave it; 0 is none.
    pub(crate) priority: u8,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Instant,
    /// Requests of one sequence run one after the other, each alone.
    pub(crate) sequence: Option<Arc<str>>,
}

/// What an idle session is to do.
#[derive(Debug)]
pub(crate) enum Take<J> {
    /// Run these together.
    Run(Vec<Waiting<J>>),
    /// Wait for others until then, or until another request comes.
    Until(Instant),
    /// Wait for a request, or for the end of one of a sequence.
    Nothing,
}

/// Level, deadline, number: the order in which requests lead and join.
type Key = (u8, Instant, u64);

/// A request that waits.
#[derive(Debug)]
struct Item<J> {
    waiting: Waiting<J>,
    key: Key,
    /// When it has waited for others long enough.
    until: Instant,
}

impl<J> Item<J> {
    fn rows(&self) -> u64 {
        self.waiting.traits.rows.max(1)
    }
}

/// The waiting requests of one version of a model.
#[derive(Debug)]
pub(crate) struct Batcher<J> {
    rules: Rules,
    /// Requests so far; each is known by its number.
    pushed: u64,
    /// Runs so far.
    runs: u32,
    /// Those that may run, in the order in which they came.
    ready: BTreeMap<u64, Item<J>>,
    /// The same by level, and there by deadline.
    levels: BTreeMap<u8, BTreeSet<(Instant, u64)>>,
    /// Those that can be joined, by what they must share.
    shapes: HashMap<Arc<[u64]>, BTreeSet<Key>>,
    /// Until when each of them waits for others. Empty without a delay.
    until: BTreeSet<(Instant, u64)>,
    /// Shapes that got a request since they were last looked at, and may fill a run. Empty without a delay.
    grown: BTreeSet<Arc<[u64]>>,
    /// For each sequence of which a request may run or runs: those that come after it.
    sequences: HashMap<Arc<str>, VecDeque<Item<J>>>,
}

impl<J> Batcher<J> {
    pub(crate) fn new(mut rules: Rules) -> Self {
        rules.max_size = rules.max_size.max(1);
        rules.preferred.retain(|size| (1..=rules.max_size).contains(size));
        rules.preferred.sort_unstable();
        Self {
            rules,
            pushed: 0,
            runs: 0,
            ready: BTreeMap::new(),
            levels: BTreeMap::new(),
            shapes: HashMap::new(),
            until: BTreeSet::new(),
            grown: BTreeSet::new(),
            sequences: HashMap::new(),
        }
    }

    pub(crate) fn push(&mut self, mut waiting: Waiting<J>) {
        let traits = &mut waiting.traits;
        let alone = traits.sequence.is_some() || self.rules.joined_max() <= traits.rows;
        traits.shape = traits.shape.take().filter(|_| !alone);
        let key = (self.rules.level(traits.priority), traits.deadline, self.pushed);
        self.pushed += 1;
        let item = Item { until: until(traits, self.rules.max_delay), key, waiting };
        let Some(sequence) = &item.waiting.traits.sequence else { return self.enter(item) };
        match self.sequences.get_mut(sequence) {
            Some(behind) => behind.push_back(item),
            None => {
                self.sequences.insert(Arc::clone(sequence), VecDeque::new());
                self.enter(item);
            }
        }
    }

    /// Whether [`Self::take`] would give this request alone and at once if it came now, and no other changes that: an
    /// idle model's next call need not go in to come out.
    pub(crate) fn passes(&self, traits: &Traits) -> bool {
        let waits = traits.shape.is_some() && !self.rules.max_delay.is_zero();
        self.ready.is_empty() && traits.sequence.is_none() && !waits
    }

    /// What an idle session runs now.
    pub(crate) fn take(&mut self, now: Instant) -> Take<J> {
        let Some(first) = self.first() else { return Take::Nothing };
        let batch = self.batch(first, now).or_else(|| self.overdue(now)).or_else(|| self.full(now));
        match (batch, self.until.first()) {
            (Some(numbers), _) => {
                self.runs = self.runs.wrapping_add(1);
                Take::Run(numbers.into_iter().filter_map(|number| self.leave(number)).collect())
            }
            (None, Some((until, _))) => Take::Until(*until),
            (None, None) => unreachable!("a request that waits for others does so until some time"),
        }
    }

    /// A request of this sequence has ended: the next one may run.
    pub(crate) fn ended(&mut self, sequence: &str) {
        let Some(behind) = self.sequences.get_mut(sequence) else { return };
        match behind.pop_front() {
            Some(next) => self.enter(next),
            None => drop(self.sequences.remove(sequence)),
        }
    }

    /// Takes out those that this says, in the order in which they came.
    pub(crate) fn remove(&mut self, mut which: impl FnMut(&J, &Traits) -> bool) -> Vec<Waiting<J>> {
        let mut is = |item: &Item<J>| which(&item.waiting.job, &item.waiting.traits);
        // Before those that may run: the next one of a sequence moves up when they go.
        let mut out: Vec<(u64, Waiting<J>)> = Vec::new();
        for behind in self.sequences.values_mut() {
            if behind.iter().any(&mut is) {
                let (gone, stay): (VecDeque<_>, VecDeque<_>) = behind.drain(..).partition(&mut is);
                *behind = stay;
                out.extend(gone.into_iter().map(|item| (item.key.2, item.waiting)));
            }
        }
        let gone: Vec<u64> =
            self.ready.iter().filter(|(_, item)| is(item)).map(|(number, _)| *number).collect();
        for number in gone {
            let Some(waiting) = self.leave(number) else { continue };
            if let Some(sequence) = &waiting.traits.sequence {
                self.ended(sequence);
            }
            out.push((number, waiting));
        }
        out.sort_unstable_by_key(|(number, _)| *number);
        out.into_iter().map(|(_, waiting)| waiting).collect()
    }

    /// Takes out the one that gives way to others: of those that this ranks, the newest of the highest rank. What
    /// belongs to a sequence stays: those that come after it must not run without it.
    pub(crate) fn give_way(&mut self, rank: impl Fn(&J, &Traits) -> Option<usize>) -> Option<Waiting<J>> {
        let alone = self.ready.iter().filter(|(_, item)| item.waiting.traits.sequence.is_none());
        let ranked = alone
            .filter_map(|(number, item)| Some((rank(&item.waiting.job, &item.waiting.traits)?, *number)));
        let (_, number) = ranked.max()?;
        self.leave(number)
    }

    /// Those that wait.
    pub(crate) fn len(&self) -> usize {
        self.ready.len() + self.sequences.values().map(VecDeque::len).sum::<usize>()
    }

    /// The earliest deadline of those that wait.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let ready = self.levels.values().filter_map(|level| level.first()).map(|(deadline, _)| *deadline);
        let behind = self.sequences.values().flatten().map(|item| item.waiting.traits.deadline);
        ready.chain(behind).min()
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Joins at most so many rows from now on.
    pub(crate) fn join_at_most(&mut self, rows: u64) {
        self.rules.max_size = rows.clamp(1, self.rules.max_size);
        let max = self.rules.max_size;
        self.rules.preferred.retain(|size| *size <= max);
    }

    /// Nobody waits for others any more: no more will come.
    pub(crate) fn hurry(&mut self) {
        self.rules.max_delay = Duration::ZERO;
    }

    /// Who leads the next run.
    fn first(&self) -> Option<u64> {
        if self.runs % ELDEST_EVERY == ELDEST_EVERY - 1 {
            return self.ready.keys().next().copied();
        }
        self.levels.values().next()?.first().map(|(_, number)| *number)
    }

    /// The leader and those that join it, if they are to run now.
    fn batch(&self, leader: u64, now: Instant) -> Option<Vec<u64>> {
        let Rules { max_delay, preferred, .. } = &self.rules;
        let (first, max) = (self.ready.get(&leader)?, self.rules.joined_max());
        let mut numbers = vec![leader];
        let Some(shape) = first.waiting.traits.shape.as_ref().filter(|_| first.rows() < max) else {
            return Some(numbers);
        };
        let (mut rows, mut until, mut passed_over) = (first.rows(), first.until, 0);
        let mut best = preferred.binary_search(&rows).is_ok().then_some(1);
        for (.., number) in
            self.shapes.get(shape).into_iter().flatten().filter(|(.., other)| *other != leader)
        {
            if rows == max || passed_over == PASSED_OVER_MAX {
                break;
            }
            let Some(other) = self.ready.get(number) else { continue };
            if max - rows < other.rows() {
                passed_over += 1;
                continue;
            }
            numbers.push(*number);
            (rows, until) = (rows + other.rows(), until.min(other.until));
            if preferred.binary_search(&rows).is_ok() {
                best = Some(numbers.len());
            }
        }
        if let Some(best) = best {
            numbers.truncate(best);
            return Some(numbers);
        }
        let full = rows == max || 0 < passed_over;
        (full || max_delay.is_zero() || until <= now).then_some(numbers)
    }

    /// The run of the one that has waited for others long enough.
    fn overdue(&self, now: Instant) -> Option<Vec<u64>> {
        let (until, number) = self.until.first()?;
        if *until <= now { self.batch(*number, now) } else { None }
    }

    /// A run of requests that fill it, though others come before them.
    fn full(&mut self, now: Instant) -> Option<Vec<u64>> {
        while let Some(shape) = self.grown.first() {
            let first = self.shapes.get(shape).and_then(BTreeSet::first);
            if let Some(batch) = first.and_then(|(.., number)| self.batch(*number, now)) {
                return Some(batch);
            }
            self.grown.pop_first();
        }
        None
    }

    /// A request may run.
    fn enter(&mut self, item: Item<J>) {
        let (level, deadline, number) = item.key;
        self.levels.entry(level).or_default().insert((deadline, number));
        let shape = &item.waiting.traits.shape;
        if let Some(shape) = shape {
            self.shapes.entry(Arc::clone(shape)).or_default().insert(item.key);
        }
        if !self.rules.max_delay.is_zero() {
            self.until.insert((item.until, number));
            self.grown.extend(shape.clone());
        }
        self.ready.insert(number, item);
    }

    /// A request that might run goes.
    fn leave(&mut self, number: u64) -> Option<Waiting<J>> {
        let item = self.ready.remove(&number)?;
        let (level, deadline, _) = item.key;
        if let Some(of) = self.levels.get_mut(&level) {
            of.remove(&(deadline, number));
            if of.is_empty() {
                self.levels.remove(&level);
            }
        }
        if let Some(shape) = &item.waiting.traits.shape
            && let Some(of) = self.shapes.get_mut(shape)
        {
            of.remove(&item.key);
            if of.is_empty() {
                self.shapes.remove(shape);
                self.grown.remove(shape);
            }
        }
        self.until.remove(&(item.until, number));
        Some(item.waiting)
    }
}

/// Until when a request waits for others. Who has little time keeps half of it for the run; who runs alone does not
/// wait at all.
fn until(traits: &Traits, max_delay: Duration) -> Instant {
    let half = traits.deadline.saturating_duration_since(traits.arrived) / 2;
    match traits.shape {
        Some(_) => traits.arrived + max_delay.min(half),
        None => traits.arrived,
    }
}
