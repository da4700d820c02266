//! What a ledger comes to, for programs and for people.

use std::{collections::BTreeMap, fmt, time::Duration};

/// The sums of a ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Sums {
    /// Calls that were begun.
    pub requests: u64,
    /// Right answers.
    pub answers: u64,
    /// Typed errors by code.
    pub refused: BTreeMap<String, u64>,
    /// Those of them that told the caller not to come again.
    pub refused_for_good: u64,
    /// Calls that ended without answer and typed error, and calls that never ended.
    pub lost: u64,
    /// Stateful calls that ran more than once.
    pub duplicates: u64,
    /// Answers that are not the model's.
    pub wrong: u64,
    /// The longest that a right answer took.
    pub slowest: Duration,
    /// Faults that happened.
    pub faults: u64,
    /// Longest time between a fault and the first of ten right answers in a row behind it.
    pub worst_recovery: Duration,
    /// Which fault that was.
    pub worst_fault: String,
    /// Faults behind which ten right answers in a row have not come.
    pub unrecovered: u64,
    /// Right answers by node.
    pub by_node: BTreeMap<String, u64>,
    /// The same for each kind of call.
    pub kinds: BTreeMap<String, KindSums>,
}

/// The sums of one kind of call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct KindSums {
    /// Calls that were begun.
    pub requests: u64,
    /// Right answers.
    pub answers: u64,
    /// Typed errors.
    pub refused: u64,
    /// Calls without an end.
    pub lost: u64,
    /// Calls that ran more than once.
    pub duplicates: u64,
    /// Answers that are not the model's.
    pub wrong: u64,
    /// The longest that a right answer took.
    pub slowest: Duration,
}

impl Sums {
    /// Typed errors of all codes.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }

    /// What must never be and was, in words; `None` when every call ended, no answer was wrong and nothing stateful
    /// ran twice. Typed errors are no breach: whether they may be is for the test to say.
    #[must_use]
    pub fn breach(&self) -> Option<String> {
        let broken = [
            (self.lost, "lost"),
            (self.duplicates, "run more than once"),
            (self.wrong, "answered wrongly"),
            (
                self.requests
                    .abs_diff(self.answers + self.refusals() + self.lost + self.duplicates + self.wrong),
                "unaccounted for",
            ),
        ];
        let broken: Vec<_> = broken
            .into_iter()
            .filter(|(count, _)| *count != 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        (!broken.is_empty()).then(|| format!("of {} calls {}", self.requests, broken.join(", ")))
    }

    fn all(&self) -> KindSums {
        KindSums {
            requests: self.requests,
            answers: self.answers,
            refused: self.refusals(),
            lost: self.lost,
            duplicates: self.duplicates,
            wrong: self.wrong,
            slowest: self.slowest,
        }
    }
}

/// A small table, one line for each kind of call.
impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.kinds.keys().map(String::len).max().unwrap_or(0).max("calls".len());
        let head = ["requests", "answers", "errors", "lost", "twice", "wrong", "slowest"];
        write!(f, "{:width$}", "calls")?;
        head.iter().try_for_each(|word| write!(f, " {word:>9}"))?;
        let all = ("all".to_owned(), self.all());
        let kinds = self.kinds.iter().map(|(name, kind)| (name.clone(), *kind));
        let lines = kinds.filter(|_| 1 < self.kinds.len()).chain([all]);
        for (name, kind) in lines {
            write!(f, "\n{name:width$}")?;
            let numbers = [kind.requests, kind.answers, kind.refused, kind.lost, kind.duplicates, kind.wrong];
            numbers.iter().try_for_each(|number| write!(f, " {number:>9}"))?;
            write!(f, " {:>9}", seconds(kind.slowest))?;
        }
        if !self.refused.is_empty() {
            let codes: Vec<_> = self.refused.iter().map(|(code, count)| format!("{code} {count}")).collect();
            write!(f, "\nerrors by code: {}", codes.join(", "))?;
        }
        if self.faults != 0 {
            let Self { faults, worst_fault, unrecovered, .. } = self;
            let worst = seconds(self.worst_recovery);
            write!(f, "\nfaults: {faults}; worst recovery: {worst}, behind {worst_fault}")?;
            if *unrecovered != 0 {
                write!(f, "; not recovered from: {unrecovered}")?;
            }
        }
        Ok(())
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
