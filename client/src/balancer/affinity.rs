//! To which peer a session belongs.
//!
//! Every session has an order of all peers, from a hash of its name and of theirs, and belongs to the first that serves
//! the model. So gateways agree without a word, whatever each of them knows of loads, and when a peer comes or goes
//! only the sessions move that it is the first of.

use lineside_wire::NodeId;

use super::Entry;
use crate::candidate::{Fit, Wanted};

/// The entry for a call of a session, and whether the call is the one that its probation allows.
pub(super) fn choose<'a>(
    entries: &'a [Entry],
    session: &str,
    wanted: Wanted<'_>,
    tried: &[NodeId],
    now: u64,
) -> Option<(&'a Entry, bool)> {
    let open = || open(entries, wanted);
    let all_rest = open().all(|entry| entry.peer.rests(now));
    let may = |entry: &&Entry| !is_tried(entry, tried) && (all_rest || !entry.peer.rests(now));
    // One that would have to load the model first has no state of it.
    let is_ready = |entry: &Entry| entry.candidate.fit(wanted) == Fit::Ready;
    let first =
        open().filter(may).max_by_key(|entry| (is_ready(entry), place(session, entry.candidate.node)))?;
    Some((first, !all_rest && first.peer.is_on_probation()))
}

/// A peer that was not asked because it rests: it may be the one that the session belongs to.
pub(super) fn resting<'a>(
    entries: &'a [Entry],
    wanted: Wanted<'_>,
    tried: &[NodeId],
    now: u64,
) -> Option<&'a Entry> {
    open(entries, wanted).find(|entry| !is_tried(entry, tried) && entry.peer.rests(now))
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
fn place(session: &str, node: NodeId) -> (u64, NodeId) {
    /// FNV-1a.
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let name = session.bytes().fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    let halves = node.as_bytes().as_chunks::<8>().0;
    let hash = halves.iter().fold(name, |hash, half| super::mixed(hash ^ u64::from_le_bytes(*half)));
    (hash, node)
}
