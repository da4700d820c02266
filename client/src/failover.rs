//! Decides what follows a try that failed.
//!
//! Pure: the failure, what the call has been through and the time left give the decision.
//!
//! | what happened | executed | then |
//! |---|---|---|
//! | leaving, model not here or not now, unreachable | no | at once to a peer that was not asked yet |
//! | busy | no | at once to a peer that was not asked yet and did not say "busy" to another call a moment ago |
//! | the connection broke, a defect of the peer | maybe | once more after a short pause, if the call may be repeated |
//! | the peer gives no sign of life | maybe | once more beside it, if the call may be repeated: the first answer counts |
//! | no connection comes about | no | to a peer that was not asked yet, in the place of this one |
//! | the model fails on it | yes | once on another peer, if the call may be repeated: the input is wrong, or the peer is |
//! | the request is wrong | – | give up: every peer would say the same |
//! | the time ran out | – | give up |
//!
//! While a second try runs, a failure of the first changes nothing, and the other way round: the call has failed when both
//! have. A call that breaks, stalls or is overtaken is not tried again while more than half of those that could serve it
//! say "busy".
//!
//! A call of a session belongs to the peer that has its state, so two rows are different for it:
//!
//! | what happened | then |
//! |---|---|
//! | busy | give up: no other peer has the state, and one that began it anew would leave two |
//! | the state is not there | at once to the next in the session's order: it may have begun there, before a peer came that is now the first. Only when all have been asked is it lost |
//!
//! It is not repeated after it may have run. A call that brings its state with it names no session, and is as pure as any
//! other.
//!
//! All tries together are at most as many as the pool's setting says (three, if it says nothing), and of those that may
//! have run the model at most two.

mod pulse;
#[cfg(test)]
mod tests;
mod verdict;

use std::{num::NonZeroU8, time::Duration};

use lineside_mesh::CallFailure;
use lineside_wire::{CallContext, Executed, InferParams, NodeId};

use crate::{Outcome, balancer::NoLease, call::CallError};
use verdict::{Verdict, error_of};

pub(crate) use pulse::{Due, Patience, Pulse, Sign, TooLong, due};

/// Tries of one call that may have run the model: the second may answer for the first, a third would most likely
/// meet what the first two met.
const RUNS_MAX: u8 = 2;

/// Tries of one call when nothing else is set. Balancing avoids peers that are known to be full or gone: a third that
/// refuses all the same means that the cluster has no room, and more tries would only add to its work.
pub(crate) const ATTEMPTS_MAX: NonZeroU8 = NonZeroU8::new(3).expect("3 is not 0");

/// Longest pause before the first repeat; it doubles for the next. The pause itself is random below it, so that
/// calls that broke together do not come back together.
const BACKOFF: Duration = Duration::from_millis(10);

/// When to come again, where no peer said so.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Peers that an error's reason names.
const REASONS_MAX: usize = 3;

/// What follows a failed try.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    /// Nothing was run: at once to a peer that was not asked yet.
    Elsewhere,
    /// It may have run, and may run again: after this pause, if the budget allows it.
    Again {
        /// The pause.
        backoff: Duration,
    },
    /// The model failed in it: once on another peer, if the budget allows it.
    SecondOpinion,
    /// Another try still runs, and may answer.
    Wait,
    /// The call has failed.
    GiveUp(CallError),
}

/// What a call has been through.
#[derive(Clone, Debug)]
pub(crate) struct History {
    repeatable: bool,
    of_session: bool,
    attempts_max: NonZeroU8,
    tried: Vec<NodeId>,
    tries: u8,
    runs: u8,
    full: usize,
    retry_after: Option<Duration>,
    not_here: usize,
    reasons: Vec<String>,
    unnamed: usize,
    broken: Option<CallError>,
    no_state: Option<CallError>,
    /// What the first peer said whose model failed: whatever comes of a second opinion, no other error says more.
    model_failed: Option<CallError>,
}

impl History {
    /// A call that was not tried yet, and how often it may be. A call of a session may have changed what the node
    /// remembers, and no node knows an idempotency key again: it is repeated only when nothing was run.
    #[must_use]
    pub(crate) const fn new(context: &CallContext, attempts_max: NonZeroU8) -> Self {
        Self {
            attempts_max,
            repeatable: context.session.is_none(),
            of_session: context.session.is_some(),
            tried: Vec::new(),
            tries: 0,
            runs: 0,
            full: 0,
            retry_after: None,
            not_here: 0,
            reasons: Vec::new(),
            unnamed: 0,
            broken: None,
            no_state: None,
            model_failed: None,
        }
    }

    /// Peers that were asked, those of tries that run included.
    #[must_use]
    pub(crate) fn tried(&self) -> &[NodeId] {
        &self.tried
    }

    /// Whether a peer sent the call away because it is full.
    #[must_use]
    pub(crate) const fn met_full(&self) -> bool {
        0 < self.full
    }

    /// Tries that began.
    #[must_use]
    pub(crate) const fn tries(&self) -> u8 {
        self.tries
    }

    /// Whether a second try may begin beside one that runs.
    #[must_use]
    pub(crate) const fn may_double(&self) -> bool {
        self.repeatable && self.runs + 2 <= RUNS_MAX && !self.is_spent()
    }

    /// Whether a try that was not sent may be given up for another.
    #[must_use]
    pub(crate) const fn may_move(&self) -> bool {
        !self.of_session && !self.is_spent()
    }

    /// Notes that a try begins at a peer, and gives its number; the first is 0.
    pub(crate) fn begin(&mut self, node: NodeId) -> u8 {
        if !self.tried.contains(&node) {
            self.tried.push(node);
        }
        let number = self.tries;
        self.tries = self.tries.saturating_add(1);
        number
    }

    /// Notes how the try ended, and decides: what the balancer learns of the peer, and what follows.
    ///
    /// `is_doubled` says that another try of the call still runs, `left` is the time until the deadline; `chance`, from 0
    /// to below 1, places the pause.
    pub(crate) fn failed(
        &mut self,
        failure: CallFailure,
        is_doubled: bool,
        left: Duration,
        chance: f64,
    ) -> (Outcome, Next) {
        let verdict = Verdict::of(&failure);
        let outcome = verdict.outcome(&failure);
        (outcome, self.follow(verdict, failure, is_doubled, left, chance))
    }

    fn follow(
        &mut self,
        verdict: Verdict,
        failure: CallFailure,
        is_doubled: bool,
        left: Duration,
        chance: f64,
    ) -> Next {
        match verdict {
            Verdict::Full { retry_after } => {
                self.full += 1;
                self.retry_after = [self.retry_after, retry_after].into_iter().flatten().min();
            }
            Verdict::NotHere => self.not_here += 1,
            Verdict::NoState if self.of_session => self.no_state = Some(error_of(failure, self.tries)),
            Verdict::Leaving | Verdict::NotNow | Verdict::NothingSent => {
                if self.reasons.len() < REASONS_MAX {
                    self.reasons.push(failure.to_string());
                } else {
                    self.unnamed += 1;
                }
            }
            Verdict::Broken => return self.repeat(failure, is_doubled, left, chance),
            Verdict::ModelFailed => return self.second_opinion(failure, is_doubled),
            Verdict::Late(executed) if is_doubled => {
                self.runs += u8::from(executed != Executed::No);
                return Next::Wait;
            }
            Verdict::Late(executed) => return Next::GiveUp(self.late(executed)),
            Verdict::LostBehind if is_doubled => {
                self.runs += 1;
                self.broken = Some(error_of(failure, self.tries));
                return Next::Wait;
            }
            Verdict::NoState | Verdict::LostBehind | Verdict::Wrong => {
                let error = error_of(failure, self.tries);
                return Next::GiveUp(self.last_word(error));
            }
        }
        Next::Elsewhere
    }

    fn repeat(&mut self, failure: CallFailure, is_doubled: bool, left: Duration, chance: f64) -> Next {
        self.runs += 1;
        let error = error_of(failure, self.tries);
        let longest = BACKOFF * (1 << self.runs.saturating_sub(1).min(8));
        let backoff = longest.mul_f64(chance);
        if is_doubled {
            self.broken = Some(error);
            return Next::Wait;
        }
        if !self.repeatable || RUNS_MAX <= self.runs || self.is_spent() || left <= backoff {
            return Next::GiveUp(self.last_word(error));
        }
        self.broken = Some(error);
        Next::Again { backoff }
    }

    fn second_opinion(&mut self, failure: CallFailure, is_doubled: bool) -> Next {
        self.runs += 1;
        let error = error_of(failure, self.tries);
        self.model_failed.get_or_insert_with(|| error.clone());
        if is_doubled {
            return Next::Wait;
        }
        if !self.repeatable || RUNS_MAX <= self.runs || self.is_spent() {
            return Next::GiveUp(self.last_word(error));
        }
        Next::SecondOpinion
    }

    /// What is told of a call that ends with this error: where a model failed, that.
    fn last_word(&self, error: CallError) -> CallError {
        self.model_failed.clone().map_or(error, |failed| with_attempts(failed, self.tries))
    }

    /// Whether no further try is allowed, whoever is left.
    #[must_use]
    pub(crate) const fn is_spent(&self) -> bool {
        self.attempts_max.get() <= self.tries || (self.of_session && self.met_full())
    }

    /// The error of a call that the budget does not allow to be repeated.
    #[must_use]
    pub(crate) fn give_up(self, wanted: &InferParams) -> CallError {
        self.without_peer(wanted, NoLease::Exhausted)
    }

    /// The error of a call that no peer is left for.
    #[must_use]
    pub(crate) fn without_peer(mut self, wanted: &InferParams, no_lease: NoLease) -> CallError {
        let model = wanted.model.clone();
        if let Some(error) = self.model_failed.take().or_else(|| self.broken.take()) {
            return with_attempts(error, self.tries);
        }
        if 0 < self.full {
            let retry_after = self.retry_after.unwrap_or(RETRY_AFTER);
            return CallError::AllBusy { model, nodes: self.full, retry_after };
        }
        if !self.reasons.is_empty() {
            let more = if self.unnamed == 0 { String::new() } else { format!("; and {} more", self.unnamed) };
            return CallError::NoNode { model, reason: self.reasons.join("; ") + &more };
        }
        // Where a peer was left out because it rests, the state may be there: then the call may come again.
        if let Some(lost) = self.no_state.take().filter(|_| !matches!(no_lease, NoLease::NotServing { .. })) {
            return with_attempts(lost, self.tries);
        }
        match (no_lease, wanted.version) {
            (NoLease::UnknownVersion, Some(version)) => CallError::UnknownVersion { model, version },
            (NoLease::Unknown | NoLease::UnknownVersion, _) => CallError::UnknownModel { model },
            (NoLease::NotServing { reason }, _) => CallError::NoNode { model, reason },
            (NoLease::Exhausted, Some(version)) if 0 < self.not_here => {
                CallError::UnknownVersion { model, version }
            }
            (NoLease::Exhausted, None) if 0 < self.not_here => CallError::UnknownModel { model },
            (NoLease::Exhausted, _) => {
                CallError::NoNode { model, reason: "every node that has it rests after failures".to_owned() }
            }
        }
    }

    /// The error of a call whose time ran out; `executed` is about the last try.
    #[must_use]
    pub(crate) fn late(&self, executed: Executed) -> CallError {
        let executed = if 0 < self.runs { Executed::Maybe } else { executed };
        self.last_word(CallError::Late { attempts: self.tries, executed })
    }
}

/// The same error, after further tries that ran nothing.
fn with_attempts(error: CallError, tries: u8) -> CallError {
    match error {
        CallError::Lost { node, reason, .. } => CallError::Lost { node, reason, attempts: tries },
        CallError::Refused { node, fault, .. } => CallError::Refused { node, fault, attempts: tries },
        CallError::Late { executed, .. } => CallError::Late { executed, attempts: tries },
        CallError::UnknownModel { .. }
        | CallError::UnknownVersion { .. }
        | CallError::NoNode { .. }
        | CallError::AllBusy { .. } => error,
    }
}
