//! What became of every call, and the rules that must hold whatever goes wrong.

use std::{collections::BTreeMap, time::Duration};

use lineside_wire::Executed;
use tokio::time::Instant;

/// A try of a call, as its node and the network saw it.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) node: u8,
    pub(crate) at: Instant,
    pub(crate) end: Option<TryEnd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TryEnd {
    Answered,
    /// The gateway was told that nothing ran.
    Nothing,
    /// It may have run, or did.
    Maybe,
    Cancelled,
}

/// A run of the model, whether it came to its end or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) node: u8,
    pub(crate) life: u32,
    pub(crate) at: Instant,
}

/// How a call ended for its caller.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    Answer {
        sum: i64,
        node: u8,
    },
    Error {
        text: String,
        executed: Executed,
    },
    /// Its gateway died: the caller asks elsewhere.
    GatewayDied,
}

/// One call of a caller.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) gateway: u8,
    pub(crate) value: i64,
    /// Its sequence, and whether it is the first of it.
    pub(crate) session: Option<(String, bool)>,
    pub(crate) expected: i64,
    pub(crate) issued: Instant,
    pub(crate) deadline: Instant,
    /// Nodes with which nothing was wrong when it was issued.
    pub(crate) good: Vec<u8>,
    /// Issued after everything was whole again: it must be answered.
    pub(crate) must: bool,
    pub(crate) tries: Vec<Try>,
    pub(crate) runs: Vec<Run>,
    /// Repeats that were counted.
    pub(crate) paid: usize,
    pub(crate) end: Option<(Instant, Ended)>,
}

/// After its deadline a call listens for the last word of its node (the pool's constant), and the clock has milliseconds.
const LAST_WORD: Duration = Duration::from_millis(20 + 5);

/// Tries that a pool makes of one call when nothing else is set, and of these such that may have run.
const ATTEMPTS_MAX: usize = 3;
const RUNS_MAX: usize = 2;

/// A rule that was broken.
#[derive(Clone, Debug)]
pub(crate) struct Broken(pub(crate) String);

/// What was going on when a call ended.
pub(crate) struct Circumstances {
    /// Of the nodes that were good when the call was issued, those that were so all the time.
    pub(crate) good: Vec<u8>,
    /// The budget of its gateway may have been spent.
    pub(crate) spent: bool,
    /// More than half of the nodes said "busy" a moment ago.
    pub(crate) crowded: bool,
    /// Since when each bad node has been seen to be bad; `None`: it gives signs of life, and only its work is late.
    pub(crate) bad_since: BTreeMap<u8, Option<Instant>>,
}

/// A call with so much time is answered while one node is good.
pub(crate) const ENOUGH: Duration = Duration::from_millis(1_500);

/// Until a second try begins at the latest: the time for which a live peer may be quiet (500 ms), the pool's patience
/// (250 ms) and half of it between two looks; then the longest wait and run of a good node.
const STALL_KNOWN: Duration = Duration::from_millis(500 + 250 + 125);
const LONGEST_WORK: Duration = Duration::from_millis(350);

impl Record {
    /// When the call has to have ended.
    pub(crate) fn latest_end(&self) -> Instant {
        self.deadline + LAST_WORD.min((self.deadline - self.issued) / 4 + Duration::from_millis(5))
    }

    /// Tries beside or after others that may have run: they cost the budget.
    pub(crate) fn repeats(&self) -> usize {
        let may_have_run = |a_try: &&Try| a_try.end != Some(TryEnd::Nothing);
        self.tries.iter().filter(may_have_run).count().saturating_sub(1)
    }

    /// Rules that hold for each call by itself, once it has ended.
    pub(crate) fn check(&self, at: &Circumstances) -> Result<(), Broken> {
        let broken = |what: String| Err(Broken(what));
        let Some((when, ended)) = &self.end else { return Ok(()) };
        if self.latest_end() < *when {
            return broken(format!("ended {:?} after its deadline", *when - self.deadline));
        }
        if ATTEMPTS_MAX < self.tries.len() {
            return broken(format!("was tried {} times", self.tries.len()));
        }
        if let Ended::Answer { sum, node } = ended {
            if *sum != self.expected {
                return broken(format!("was answered {sum}, not {}", self.expected));
            }
            if !self.runs.iter().any(|run| run.node == *node) {
                return broken(format!("was answered by {node}, which never ran it"));
            }
        }
        self.check_failure(at)
    }

    /// When a call may fail.
    fn check_failure(&self, at: &Circumstances) -> Result<(), Broken> {
        let Some((_, Ended::Error { text, .. })) = &self.end else { return Ok(()) };
        if self.must {
            return Err(Broken(format!("failed although all is whole again: {text}")));
        }
        if self.session.is_some() || at.good.is_empty() || self.deadline - self.issued < ENOUGH {
            return Ok(());
        }
        let at_bad = |a_try: &&Try| !at.good.contains(&a_try.node);
        let bad: Vec<&Try> = self.tries.iter().filter(at_bad).collect();
        let lost: Vec<&&Try> = bad.iter().filter(|a_try| a_try.end != Some(TryEnd::Nothing)).collect();
        // Each limit that stands in the documentation is an excuse, and nothing else is.
        let used_up = RUNS_MAX <= lost.len() || ATTEMPTS_MAX <= bad.len();
        let saved = !lost.is_empty() && (at.spent || at.crowded);
        // Of tries that ran nothing the last may have waited at its node until the time was over.
        let waited = bad.last().filter(|a_try| self.tries.last().is_some_and(|last| last.at == a_try.at));
        let too_late = lost.iter().copied().chain(waited).any(|a_try| match at.bad_since.get(&a_try.node) {
            Some(Some(since)) => self.deadline < a_try.at.max(*since) + STALL_KNOWN + LONGEST_WORK,
            Some(None) => true,
            None => false,
        });
        if used_up || saved || too_late {
            return Ok(());
        }
        Err(Broken(format!("failed although {:?} could have answered: {text}", at.good)))
    }

    /// Rules about runs, when nothing is under way any more.
    pub(crate) fn check_runs(&self) -> Result<(), Broken> {
        let most = if self.session.is_some() { 1 } else { RUNS_MAX };
        if most < self.runs.len() {
            return Err(Broken(format!("ran {} times: {:?}", self.runs.len(), self.runs)));
        }
        match &self.end {
            None => Err(Broken("never ended".to_owned())),
            Some((_, Ended::Error { text, executed: Executed::No })) if !self.runs.is_empty() => {
                Err(Broken(format!("was told that nothing ran, and it did: {text}")))
            }
            Some(_) => Ok(()),
        }
    }
}

/// Repeats of one gateway within any ten seconds. Whole seconds are kept: at least nine, less the pause before a repeat,
/// at most eleven.
///
/// # Errors
/// They were more than a tenth of its calls and two per second, and 5 % for calls that are overtaken.
pub(crate) fn check_budget(calls: &[Instant], repeats: &[Instant]) -> Result<(), Broken> {
    let (mut from, mut first) = (0, 0);
    for (count, at) in repeats.iter().enumerate() {
        while repeats[from] + Duration::from_millis(8_900) <= *at {
            from += 1;
        }
        while first < calls.len() && calls[first] + Duration::from_secs(11) <= *at {
            first += 1;
        }
        let made = calls[first..].iter().take_while(|call| **call <= *at).count();
        let (paid, most) = (count + 1 - from, made / 10 + 20 + made / 20 + 1);
        if most < paid {
            return Err(Broken(format!("{paid} repeats for {made} calls within ten seconds")));
        }
    }
    Ok(())
}
