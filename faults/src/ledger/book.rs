//! The entries of a ledger, without its lock.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{
    Ended,
    sums::{KindSums, Sums},
};

/// Right answers in a row that show that a fault has passed.
const RECOVERED_AFTER: u32 = 10;

/// Faults that have not passed, at one time. Further ones are counted and their recovery is not measured.
const FAULTS_OPEN_MAX: usize = 256;

/// Words that are kept on each kind of trouble: the first ones say most.
const COMPLAINTS_MAX: usize = 8;

/// Names of nodes and codes that are told apart: a test has few, and an answer could bring any.
const NAMES_MAX: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Book {
    /// All but what is still open.
    closed: Sums,
    open: BTreeMap<&'static str, u64>,
    faults: Vec<Fault>,
    complaints: BTreeMap<&'static str, Vec<String>>,
}

/// A fault that has not passed.
#[derive(Debug)]
struct Fault {
    what: String,
    at: Instant,
    in_a_row: u32,
    /// When the first of them came.
    first: Instant,
}

impl Book {
    pub(super) fn begin(&mut self, kind: &'static str) {
        self.closed.requests += 1;
        self.kind(kind).requests += 1;
        *self.open.entry(kind).or_default() += 1;
    }

    fn kind(&mut self, kind: &'static str) -> &mut KindSums {
        self.closed.kinds.entry(kind.to_owned()).or_default()
    }

    fn ended(&mut self, kind: &'static str) {
        if let Some(open) = self.open.get_mut(kind) {
            *open = open.saturating_sub(1);
        }
    }

    pub(super) fn end(&mut self, kind: &'static str, begun: Instant, ended: Ended, now: Instant) {
        self.ended(kind);
        let took = now.saturating_duration_since(begun);
        match ended {
            Ended::Answered { node } => {
                self.closed.answers += 1;
                self.closed.slowest = self.closed.slowest.max(took);
                count(&mut self.closed.by_node, node);
                let kind = self.kind(kind);
                kind.answers += 1;
                kind.slowest = kind.slowest.max(took);
                return self.right(begun, now);
            }
            Ended::Wrong { what } => {
                self.closed.wrong += 1;
                self.kind(kind).wrong += 1;
                self.complain("wrong", what);
            }
            Ended::Twice { what } => {
                self.closed.duplicates += 1;
                self.kind(kind).duplicates += 1;
                self.complain("twice", what);
            }
            Ended::Refused { code, retryable } => {
                self.kind(kind).refused += 1;
                self.closed.refused_for_good += u64::from(!retryable);
                count(&mut self.closed.refused, code);
            }
            Ended::Lost { what } => self.lose(kind, what),
        }
        self.row_broken();
    }

    pub(super) fn dropped(&mut self, kind: &'static str) {
        self.ended(kind);
        self.lose(kind, "its caller went without an end".to_owned());
        self.row_broken();
    }

    fn lose(&mut self, kind: &'static str, what: String) {
        self.closed.lost += 1;
        self.kind(kind).lost += 1;
        self.complain("lost", what);
    }

    fn complain(&mut self, kind: &'static str, what: String) {
        let complaints = self.complaints.entry(kind).or_default();
        if complaints.len() < COMPLAINTS_MAX {
            complaints.push(what);
        }
    }

    pub(super) fn fault(&mut self, what: String, now: Instant) {
        self.closed.faults += 1;
        if self.faults.len() < FAULTS_OPEN_MAX {
            self.faults.push(Fault { what, at: now, in_a_row: 0, first: now });
        }
    }

    /// A right answer, to a call that began then.
    fn right(&mut self, begun: Instant, now: Instant) {
        for fault in self.faults.iter_mut().filter(|fault| fault.at <= begun) {
            if fault.in_a_row == 0 {
                fault.first = now;
            }
            fault.in_a_row += 1;
        }
        let worst = &mut self.closed;
        self.faults.retain(|fault| {
            let is_over = RECOVERED_AFTER <= fault.in_a_row;
            if is_over {
                note_recovery(worst, &fault.what, fault.first, fault.at);
            }
            !is_over
        });
    }

    fn row_broken(&mut self) {
        self.faults.iter_mut().for_each(|fault| fault.in_a_row = 0);
    }

    pub(super) fn open(&self) -> u64 {
        self.open.values().sum()
    }

    pub(super) fn sums(&self, now: Instant) -> Sums {
        let mut sums = self.closed.clone();
        for (kind, open) in &self.open {
            sums.lost += open;
            if let Some(kind) = sums.kinds.get_mut(*kind) {
                kind.lost += open;
            }
        }
        for fault in &self.faults {
            note_recovery(&mut sums, &fault.what, now, fault.at);
        }
        sums.unrecovered = u64::try_from(self.faults.len()).unwrap_or(u64::MAX);
        sums
    }

    pub(super) fn complaints(&self) -> Vec<String> {
        let all = self.complaints.iter();
        all.flat_map(|(kind, words)| words.iter().map(move |what| format!("{kind}: {what}"))).collect()
    }
}

fn note_recovery(sums: &mut Sums, what: &str, recovered: Instant, at: Instant) {
    let took = recovered.saturating_duration_since(at);
    if sums.worst_recovery <= took {
        sums.worst_recovery = took;
        what.clone_into(&mut sums.worst_fault);
    }
}

fn count(names: &mut BTreeMap<String, u64>, name: String) {
    let name = if names.len() < NAMES_MAX || names.contains_key(&name) { name } else { "others".to_owned() };
    *names.entry(name).or_default() += 1;
}
