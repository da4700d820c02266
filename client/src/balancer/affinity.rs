//! To which peer a session belongs, and which one a call with an affinity likes best.
//!
//! Every session has an order of all peers, from a hash of its name and of theirs, and belongs to the first that serves
//! the model. So gateways agree without a word, whatever each of them knows of loads, and when a peer comes or goes
//! only the sessions move that it is the first of. An affinity is only a wish: its order has those more often at its top
//! that can do more, and a peer that is full gives way.

use lineside_wire::NodeId;

use super::{
    Entry,
    choose::{SLOTS_MAX, WEIGHT_MAX},
};
use crate::candidate::{Candidate, Fit, Wanted};

/// The entry for a call of a session, and whether the call is the one that its probation allows.
pub(super) fn choose<'a>(
    entries: &'a [Entry],
    session: &str,
    wanted: Wanted<'_>,
    tried: &[NodeId],
    now: u64,
) -> Option<(&'a Entry, bool)> {
    let open = || open(entries, wanted);
    let all_rest = open().all(|entry| rests(entry, now));
    let may = |entry: &&Entry| !is_tried(entry, tried) && (all_rest || !rests(entry, now));
    // One that would have to load the model first has no state of it.
    let is_ready = |entry: &Entry| entry.candidate.fit(wanted) == Fit::Ready;
    let name = hash(session);
    let first =
        open().filter(may).max_by_key(|entry| (is_ready(entry), place(name, entry.candidate.node)))?;
    Some((first, !all_rest && first.peer.is_on_probation() && !first.peer.rest().is_judged()))
}

/// A peer that was not asked because it rests: it may be the one that the session belongs to.
pub(super) fn resting<'a>(
    entries: &'a [Entry],
    wanted: Wanted<'_>,
    tried: &[NodeId],
    now: u64,
) -> Option<&'a Entry> {
    open(entries, wanted).find(|entry| !is_tried(entry, tried) && rests(entry, now))
}

/// One that answers keeps its sessions, however badly it does beside others: elsewhere they would be lost.
fn rests(entry: &Entry, now: u64) -> bool {
    entry.peer.rests(now) && !entry.peer.rest().is_judged()
}

fn open<'a>(entries: &'a [Entry], wanted: Wanted<'_>) -> impl Iterator<Item = &'a Entry> {
    let serves = move |entry: &Entry| matches!(entry.candidate.fit(wanted), Fit::Ready | Fit::OnDemand);
    entries.iter().filter(move |entry| entry.candidate.is_open() && serves(entry))
}

fn is_tried(entry: &Entry, tried: &[NodeId]) -> bool {
    tried.contains(&entry.candidate.node)
}

/// A peer's place in the order of a session: the largest is the first.
///
/// Gateways of one cluster may be of different releases for a while: another hash would tear all sessions from their
/// nodes, so it stays as it is.
fn place(name: u64, node: NodeId) -> (u64, NodeId) {
    let halves = node.as_bytes().as_chunks::<8>().0;
    let hash = halves.iter().fold(name, |hash, half| super::mixed(hash ^ u64::from_le_bytes(*half)));
    (hash, node)
}

/// The hash of a session's or an affinity's name: FNV-1a.
pub(super) fn hash(name: &str) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    name.bytes().fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// A peer's place in the order of an affinity: the smallest is the first. Weights that do not change move nothing. Of the
/// affinities that it is the first of, a peer takes over only `share` percent while it starts slowly, always the same.
pub(super) fn place_of(name: u64, entry: &Entry, share: u64) -> u64 {
    /// Behind all that take it at once.
    const LATER: u64 = 1 << 63;
    let Candidate { node, slots, weight, .. } = entry.candidate;
    let (hash, _) = place(name, node);
    let capacity = f64::from(slots.clamp(1, SLOTS_MAX)) * f64::from(weight.clamp(1, WEIGHT_MAX));
    let cost = 1e6 / capacity;
    let later = if super::mixed(hash) % 100 < share { 0 } else { LATER };
    weighed(hash, cost).min(LATER - 1) | later
}

/// Turns a random number into a place that is the smallest one in proportion to 1 / cost.
pub(super) fn weighed(random: u64, cost: f64) -> u64 {
    // From above 0 to 1, in steps that a float tells apart.
    let chance = ((random >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    // The waiting time for the first event of a process with the rate 1 / cost. A cast never overflows.
    (-chance.ln() * cost * 1024.0) as u64
}
