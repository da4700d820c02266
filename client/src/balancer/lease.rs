//! One call's place at a peer: what it is, what becomes of it, and why there is none.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use lineside_wire::{LoadReport, NodeId};

use super::{Entry, models::Times, peer::Peer};
use crate::candidate::{Fit, Wanted};

/// One call's place at a peer: counts as in flight until it is reported or dropped, so that a cancelled call cannot
/// leak it.
#[derive(Debug)]
pub struct Lease {
    pub(super) node: NodeId,
    pub(super) address: SocketAddr,
    pub(super) taken_at: u64,
    pub(super) peer: Arc<Peer>,
    /// Whether it finds a node for the call, in the place of running it.
    pub(crate) is_door: bool,
    /// How long calls for the same model take.
    pub(super) times: Option<Arc<Times>>,
}

impl Lease {
    /// Whom to call.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The time within which this share of the peer's answers came lately; `None` before the first.
    #[must_use]
    pub fn usual(&self, percent: u64) -> Option<Duration> {
        self.peer.usual(percent)
    }

    /// The time within which this share of the answers for the call's model came lately, over all peers.
    pub(crate) fn usual_of_model(&self, percent: u64) -> Option<Duration> {
        self.times.as_ref().and_then(|times| times.percentile(percent))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.peer.give_back();
    }
}

/// What became of a leased call.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// The model ran, or refused this input: the peer works.
    Answered {
        /// Its load after the call, if it said so.
        load: Option<LoadReport>,
        /// From lease to answer.
        took: Duration,
    },
    /// It answered something that proves nothing about its models. Neither blame nor praise.
    Heard,
    /// It answered with an error that another peer did not give to the same call. Several in a row bar it, as does a
    /// share of them that is too large.
    Erred,
    /// Another peer's answer to the same call came first, and this try was given up. No blame, unless the peer had taken
    /// much longer than is usual.
    Overtaken,
    /// It had no room. No blame, but it counts as full for a while.
    Full {
        /// Its load, if it said so.
        load: Option<LoadReport>,
        /// When it expects to have room.
        retry_after: Option<Duration>,
    },
    /// It is leaving: barred, without blame.
    Leaving,
    /// The deadline passed before the answer. A peer that let a while pass without a sign counts as full, never as
    /// empty. It is blamed only if it had much longer than is usual, for a caller's impatience is not its fault.
    Late,
    /// Whoever waited for the answer went away. Says nothing of the peer, unless it had taken much longer than is usual:
    /// then it counts as late.
    Abandoned,
    /// The call broke, or could not even be sent: barred at once.
    Failed,
}

/// Why there is no peer for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLease {
    /// No candidate has the model.
    Unknown,
    /// Some have the model, but none in that version.
    UnknownVersion,
    /// Some have it, but none can serve it now.
    NotServing {
        /// Why, peer by peer, for a person.
        reason: String,
    },
    /// All that serve it have been tried by this call, or rest.
    Exhausted,
}

/// Says why nobody could be chosen. Off the path of calls that find a peer.
pub(super) fn no_lease(entries: &[Entry], wanted: Wanted<'_>) -> NoLease {
    /// Peers that the reason names; the rest is counted.
    const NAMED_MAX: usize = 4;
    let mut reasons = Vec::new();
    let mut nothing = NoLease::Unknown;
    for Entry { candidate, .. } in entries {
        let name = &candidate.name;
        match candidate.fit(wanted) {
            Fit::Unknown => {}
            Fit::OtherVersion => nothing = NoLease::UnknownVersion,
            Fit::Ready | Fit::OnDemand | Fit::NotNow(_) if !candidate.standing.is_present() => {
                reasons.push(format!("{name} is {}", candidate.standing));
            }
            Fit::Ready | Fit::OnDemand | Fit::NotNow(_) if candidate.draining => {
                reasons.push(format!("{name} takes no new work"));
            }
            Fit::NotNow(state) => reasons.push(format!("{} on {name}", state.as_str())),
            Fit::Ready | Fit::OnDemand => return NoLease::Exhausted,
        }
    }
    if reasons.is_empty() {
        return nothing;
    }
    let unnamed = reasons.len().saturating_sub(NAMED_MAX);
    reasons.truncate(NAMED_MAX);
    let more = if unnamed == 0 { String::new() } else { format!(", and {unnamed} more") };
    NoLease::NotServing { reason: reasons.join(", ") + &more }
}
