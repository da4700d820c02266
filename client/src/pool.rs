//! Calls a set of peers as if they were one: lease, try, and again elsewhere, within one deadline.
//!
//! The driver of the [`Balancer`], the [`Budget`] and the [`History`] of each call, which decide; here is only the
//! clock, the dice and the transport. A gateway has one pool per shard over its nodes, a client program one over
//! the gateways.

mod ask;
mod race;
#[cfg(test)]
mod tests;

use std::{num::NonZeroU8, sync::Arc, time::Duration};

use lineside_mesh::{Destination, Reply};
use lineside_wire::{LoadReport, ModelName, NodeId, RunReport, decode_part};
use tokio::time::Instant;

use crate::{
    Balancer, Budget, Outcome, TryCounts, Wanted,
    balancer::{Lease, NoLease},
    call::{CallError, InferCall, InferReply},
    failover::{ATTEMPTS_MAX, History},
    transport::Transport,
};

pub use ask::AskError;

/// How long after its deadline a call still listens: the peer ends it at the same moment, and its word says whether the
/// model has run. A round trip and a thread's waking on a machine that computes on every core, and never more than a
/// quarter of the time that the call had: who is in a hurry wants no late answer.
const LAST_WORD: Duration = Duration::from_millis(20);

/// On a LAN a live peer acknowledges within milliseconds; this bears several lost packets in a row.
const STALL_AFTER: Duration = Duration::from_millis(250);

/// The shortest time after which a peer counts as stalled, whatever is set: QUIC may keep an acknowledgement back for
/// 25 ms, and a machine that computes on every core takes as long to wake a thread.
const STALL_AFTER_MIN: Duration = Duration::from_millis(50);

/// The answer that is usual for nearly all calls of a model, in percent: one that takes longer is hedged.
const HEDGED_PERCENT: u64 = 95;

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
    /// QUIC knows whether it is gone. Counts as 50 ms when it is shorter: a live peer may take as long to acknowledge.
    /// `None` waits for QUIC.
    pub stall_after: Option<Duration>,
    /// Models whose slowest calls are tried a second time before they have failed: after the time within which 95 % of
    /// their answers come, at most one call in twenty, and the first answer counts. It buys a shorter tail with at most
    /// 5 % more work.
    pub hedge: Vec<ModelName>,
}

impl Default for Tries {
    fn default() -> Self {
        Self { attempts_max: ATTEMPTS_MAX, stall_after: Some(STALL_AFTER), hedge: Vec::new() }
    }
}

impl Tries {
    /// After how long this call is to be hedged, if it is.
    fn usual(&self, call: &InferCall, balancer: &Balancer) -> Option<Duration> {
        let model = &call.params.model;
        let is_hedged = self.hedge.contains(model) && call.context.session.is_none();
        if is_hedged { balancer.usual(model, HEDGED_PERCENT) } else { None }
    }
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

    /// What the calls of all pools with this one's budget have come to.
    #[must_use]
    pub fn counts(&self) -> TryCounts {
        self.budget.counts()
    }

    /// Runs one inference, on as many peers as it takes within the call's deadline.
    ///
    /// Dropping the future cancels the call and frees its place at the peer.
    ///
    /// # Errors
    /// No peer could answer in time; the error says why, and whether the model may have run.
    pub async fn infer(&self, call: InferCall) -> Result<InferReply, CallError> {
        self.infer_by(&self.tries, call).await
    }

    /// The same by other rules than the pool's own.
    ///
    /// # Errors
    /// As those of [`Pool::infer`].
    pub async fn infer_by(&self, tries: &Tries, call: InferCall) -> Result<InferReply, CallError> {
        self.budget.called(Instant::now().into_std());
        race::run(self, tries, &call).await
    }

    /// The peer of the next try: one that was not asked yet, or, for a call that broke, any when there is no other. A
    /// call of a session goes by the session's order, any other by load, or where its affinity draws it.
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
        let affinity = call.context.affinity.as_deref();
        match self.balancer.lease_for(affinity, wanted, history.tried(), now) {
            Err(NoLease::Exhausted) if may_return => self.balancer.lease(wanted, &[], now),
            result => result,
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

/// Reads a peer's answer; the error says how it breaks the protocol.
fn read(reply: Reply, node: NodeId) -> Result<InferReply, String> {
    let unreported =
        || RunReport { node, load: LoadReport::default(), queue_us: 0, run_us: 0, attempts: 1, batch: 1 };
    let result = decode_part(&reply.result).map_err(|fault| fault.message)?;
    Ok(InferReply { result, payload: reply.payload, report: reply.report.unwrap_or_else(unreported) })
}

/// The load of the peer itself; a door passes on that of the node behind it.
fn own_load(report: &RunReport, peer: NodeId) -> Option<LoadReport> {
    // Without slots the report is made up: no node can run nothing at once.
    (report.node == peer && 0 < report.load.slots).then_some(report.load)
}
