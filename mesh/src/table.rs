//! Who is connected, by node id. Reading takes no lock.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use lineside_wire::{NodeId, Role};

use crate::{Destination, Signs, config::CONNECTIONS_PER_NODE_MAX, error::CloseCode, peer::Peer};

/// Connections that a member may have on top: one for each of its door's threads, of which `gateway.shards` allows as
/// many. With fewer, a door's connections would close each other in turn.
const SHARDS_MAX: usize = 64;

/// Connections of one peer, those that have not greeted yet counted by themselves.
pub(crate) const fn connections_max(role: Role) -> usize {
    if role.is_member() { CONNECTIONS_PER_NODE_MAX + SHARDS_MAX } else { CONNECTIONS_PER_NODE_MAX }
}

/// The connections of each peer, the newest last.
type Snapshot = HashMap<NodeId, Vec<Arc<Peer>>>;

#[derive(Default)]
pub(crate) struct Table(ArcSwap<Snapshot>);

impl Table {
    /// The newest connection over which a peer can be called. One that greeted without a member's state, such as a
    /// command that runs with a member's identity, only calls: what is meant for the member must not go there.
    pub(crate) fn find(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.0.load().get(&node)?.iter().rev().find(|peer| peer.takes_calls()).cloned()
    }

    /// The newest open connection with a member, also one whose time is nearly over.
    pub(crate) fn find_any(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.0.load().get(&node)?.iter().rev().find(|peer| peer.is_open() && peer.is_member()).cloned()
    }

    /// The signs of life of a peer; `None` without any connection. One that has just ended counts until its calls were
    /// told.
    pub(crate) fn signs(&self, node: NodeId) -> Option<Signs> {
        let snapshot = self.0.load();
        let peers = snapshot.get(&node)?;
        let signs = peers.iter().map(|peer| {
            let stats = peer.connection.stats();
            // QUIC estimates the round trip anew with each acknowledgement of something new, and says nothing else of them.
            let acknowledged = u64::try_from(stats.path.rtt.as_nanos()).unwrap_or(u64::MAX);
            Signs { packets: stats.udp_rx.datagrams, acknowledged }
        });
        signs.reduce(|one, other| Signs {
            packets: one.packets + other.packets,
            acknowledged: one.acknowledged.wrapping_add(other.acknowledged),
        })
    }

    /// The connection for what is meant for a member at an address: the newest with that very address, if there is one.
    /// After a disk was copied two machines have one id, and each must hear what is meant for it.
    pub(crate) fn find_for(&self, to: Destination) -> Option<Arc<Peer>> {
        let snapshot = self.0.load();
        let peers = snapshot.get(&to.node)?;
        let there = peers.iter().rev().find(|p| p.remote == to.address && p.is_open() && p.is_member());
        there.cloned().or_else(|| self.find(to.node))
    }

    /// A connection with whoever is at this address, over which it can be called.
    pub(crate) fn find_at(&self, address: SocketAddr) -> Option<Arc<Peer>> {
        self.0.load().values().flatten().find(|peer| peer.remote == address && peer.takes_calls()).cloned()
    }

    /// Adds a connection; past the limit, the oldest of the same peer is closed.
    pub(crate) fn add(&self, peer: &Arc<Peer>) {
        self.0.rcu(|old| {
            let mut new = Snapshot::clone(old);
            new.entry(peer.identity.node).or_default().push(Arc::clone(peer));
            new
        });
        let snapshot = self.0.load();
        let peers = snapshot.get(&peer.identity.node).map_or(&[][..], Vec::as_slice);
        let excess = peers.len().saturating_sub(connections_max(peer.identity.role));
        peers[..excess].iter().for_each(|old| old.close(CloseCode::TooManyConnections));
    }

    /// Removes a connection. True when it was the last one with its peer.
    pub(crate) fn remove(&self, peer: &Arc<Peer>) -> bool {
        let node = peer.identity.node;
        let old = self.0.rcu(|old| {
            let mut new = Snapshot::clone(old);
            if let Some(peers) = new.get_mut(&node) {
                peers.retain(|other| !Arc::ptr_eq(other, peer));
                if peers.is_empty() {
                    new.remove(&node);
                }
            }
            new
        });
        old.get(&node).is_some_and(|peers| peers.iter().all(|other| Arc::ptr_eq(other, peer)))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Peer>> {
        self.0.load().values().flatten().cloned().collect()
    }
}
