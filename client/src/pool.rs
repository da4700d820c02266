//! Calls a set of peers as if they were one: lease, try, and again elsewhere, within one deadline.
//!
//! The driver of the [`Balancer`], the [`Budget`] and the [`History`] of each call, which decide; here is only the
//! clock, the dice and the transport. A gateway has one pool per shard over its nodes, a client program one over
//! the gateways.

mod ask;
#[cfg(test)]
mod tests;

use std::{num::NonZeroU8, sync::Arc, time::Duration};

use bytes::Bytes;
use lineside_mesh::{CallFailure, Destination, Outbound, Reply};
use lineside_wire::{
    CallContext, Executed, InferResult, LoadReport, ModelName, NodeId, RunReport, decode_part, method,
};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{Instrument, debug, debug_span};

use crate::{
    Balancer, Budget, Outcome, Wanted,
    balancer::{Lease, NoLease},
    call::{CallError, InferCall, InferReply},
    failover::{ATTEMPTS_MAX, History, Next},
    transport::Transport,
};

pub use ask::AskError;

/// How long after its deadline a call still listens: the peer ends it at the same moment, and its word says whether the
/// model has run. A round trip and a thread's waking on a machine that computes on every core, and never more than a
/// quarter of the time that the call had: who is in a hurry wants no late answer.
const LAST_WORD: Duration = Duration::from_millis(20);

/// Calls peers, chosen by a balancer that other pools of the process may share.
#[derive(Debug)]
pub struct Pool<T> {
    transport: T,
    balancer: Arc<Balancer>,
    budget: Arc<Budget>,
    tries: Tries,
}

/// How often one call is tried, and when before it has failed.
#[derive(Clone, Debug)]
pub struct Tries {
    /// Tries of one call, the first included; 1 turns failover off. Of tries that may have run a model, two are the most,
    /// whatever is set here.
    pub attempts_max: NonZeroU8,
    /// A peer that has calls and sends no packet at all for so long has stalled: its calls are tried elsewhere, too, before
    /// QUIC knows whether it is gone. `None` waits for QUIC.
    pub stall_after: Option<Duration>,
    /// Models whose slowest calls are tried a second time before they have failed.
    pub hedge: Vec<ModelName>,
}

impl Default for Tries {
    fn default() -> Self {
        Self { attempts_max: ATTEMPTS_MAX, stall_after: Some(STALL_AFTER), hedge: Vec::new() }
    }
}

/// On a LAN a live peer acknowledges within milliseconds; this bears several lost packets in a row.
const STALL_AFTER: Duration = Duration::from_millis(250);

/// How a try ended.
enum Try {
    Answered(InferResult, Bytes, RunReport),
    Failed(CallFailure),
    Late,
}

impl<T: Transport> Pool<T> {
    /// A pool whose peers are the balancer's candidates.
    ///
    /// Pools of one process share balancer and budget, so that each knows what the others have in flight.
    pub fn new(transport: T, balancer: Arc<Balancer>, budget: Arc<Budget>) -> Self {
        Self { transport, balancer, budget, tries: Tries::default() }
    }

    /// The same pool, with other rules for repeating.
    #[must_use]
    pub fn with_tries(mut self, tries: Tries) -> Self {
        self.tries = tries;
        self
    }

    /// Chooses the peers of this pool.
    #[must_use]
    pub const fn balancer(&self) -> &Arc<Balancer> {
        &self.balancer
    }

    /// Carries the calls of this pool.
    #[must_use]
    pub const fn transport(&self) -> &T {
        &self.transport
    }

    /// Runs one inference, on as many peers as it takes within the call's deadline.
    ///
    /// Dropping the future cancels the call and frees its place at the peer.
    ///
    /// # Errors
    /// No peer could answer in time; the error says why, and whether the model may have run.
    pub async fn infer(&self, call: InferCall) -> Result<InferReply, CallError> {
        self.budget.called(Instant::now().into_std());
        let mut history = History::new(&call.context, self.tries.attempts_max);
        let mut may_return = false;
        loop {
            let now = Instant::now();
            if call.deadline <= now {
                return Err(history.late(Executed::No));
            }
            let lease = match self.lease(&call, &history, may_return, now) {
                Ok(lease) => lease,
                Err(no_lease) => return Err(history.without_peer(&call.params, no_lease)),
            };
            let attempt = history.begin();
            let span = debug_span!("try", model = %call.params.model, node = %lease.node(), attempt);
            let ended = self.attempt(&call, &lease, attempt, now).instrument(span).await;
            match ended {
                Try::Answered(result, payload, report) => {
                    let load = own_load(&report, lease.node());
                    self.report(lease, Outcome::Answered { load, took: now.elapsed() });
                    // A door counts the tries behind it; those at other doors come on top.
                    let attempts = report.attempts.saturating_add(attempt);
                    return Ok(InferReply { result, payload, report: RunReport { attempts, ..report } });
                }
                Try::Late => {
                    self.report(lease, Outcome::Late);
                    return Err(history.late(Executed::Maybe));
                }
                Try::Failed(failure) => {
                    debug!(model = %call.params.model, attempt, %failure, "a try failed");
                    let left = call.deadline.saturating_duration_since(Instant::now());
                    let (outcome, next) = history.failed(failure, left, rand::random());
                    self.report(lease, outcome);
                    may_return = matches!(next, Next::Again { .. });
                    match next {
                        Next::GiveUp(error) => return Err(error),
                        Next::Elsewhere => {}
                        Next::Again { .. } if !self.budget.repeat(Instant::now().into_std()) => {
                            return Err(history.give_up(&call.params));
                        }
                        Next::Again { backoff } => sleep(backoff).await,
                    }
                }
            }
        }
    }

    /// The peer of the next try: one that was not asked yet, or, for a call that broke, any when there is no other. A
    /// call of a session goes by the session's order, any other by load.
    fn lease(
        &self,
        call: &InferCall,
        history: &History,
        may_return: bool,
        now: Instant,
    ) -> Result<Lease, NoLease> {
        if history.is_spent() {
            return Err(NoLease::Exhausted);
        }
        let wanted = Wanted::Model(&call.params.model, call.params.version);
        let now = now.into_std();
        if let Some(session) = &call.context.session {
            return self.balancer.lease_of_session(session, wanted, history.tried(), now);
        }
        if history.met_full() && !may_return {
            return self.balancer.lease_with_room(wanted, history.tried(), now);
        }
        match self.balancer.lease(wanted, history.tried(), now) {
            Err(NoLease::Exhausted) if may_return => self.balancer.lease(wanted, &[], now),
            result => result,
        }
    }

    async fn attempt(&self, call: &InferCall, lease: &Lease, attempt: u8, now: Instant) -> Try {
        let left = call.deadline.saturating_duration_since(now);
        let outbound = Outbound {
            method: method::INFER,
            context: CallContext { timeout_us: Some(micros(left)), attempt, ..call.context.clone() },
            params: &call.params,
            payload: call.payload.clone(),
        };
        let answer = self.transport.call(destination(lease), outbound);
        match timeout_at(call.deadline + LAST_WORD.min(left / 4), answer).await {
            Ok(Ok(reply)) => read(reply, lease.node()),
            Ok(Err(failure)) => Try::Failed(failure),
            Err(_) => Try::Late,
        }
    }

    fn report(&self, lease: Lease, outcome: Outcome) {
        self.balancer.report(lease, outcome, Instant::now().into_std());
    }
}

fn destination(lease: &Lease) -> Destination {
    Destination { node: lease.node(), address: lease.address() }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn read(reply: Reply, node: NodeId) -> Try {
    let unreported =
        || RunReport { node, load: LoadReport::default(), queue_us: 0, run_us: 0, attempts: 1, batch: 1 };
    match decode_part(&reply.result) {
        Ok(result) => Try::Answered(result, reply.payload, reply.report.unwrap_or_else(unreported)),
        Err(fault) => Try::Failed(CallFailure::Invalid { node, reason: fault.message }),
    }
}

/// The load of the peer itself; a door passes on that of the node behind it.
fn own_load(report: &RunReport, peer: NodeId) -> Option<LoadReport> {
    // Without slots the report is made up: no node can run nothing at once.
    (report.node == peer && 0 < report.load.slots).then_some(report.load)
}
