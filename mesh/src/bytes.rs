//! Counts the bytes that one peer has us hold, so that they can be bounded.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use lineside_certs::PeerIdentity;
use lineside_wire::NodeId;

/// Bytes of payloads that one peer may have sent in part, over all its connections: four of the largest size.
const RECEIVING_BYTES_MAX: usize = 256 << 20;

/// The same of a member, whose door sends for many callers.
const RECEIVING_BYTES_MAX_OF_MEMBER: usize = 1 << 30;

/// A number of bytes that several places add to.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByteCount(Arc<AtomicUsize>);

/// Bytes that count for as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted {
    bytes: usize,
    of: Arc<AtomicUsize>,
}

impl ByteCount {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, bytes: usize) -> Counted {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Counted { bytes, of: Arc::clone(&self.0) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Room for the payloads that a peer is sending.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    count: ByteCount,
    bytes_max: usize,
}

impl Room {
    /// For what we asked for: the calls that wait for it bound it.
    pub(crate) fn unbounded() -> Self {
        Self { count: ByteCount::default(), bytes_max: usize::MAX }
    }

    /// Takes room for a payload; `None` when there is not enough. The first one always has it.
    pub(crate) fn take(&self, bytes: usize) -> Option<Counted> {
        let counted = self.count.count(bytes);
        let all = self.count.bytes();
        (bytes == 0 || all <= self.bytes_max || all == bytes).then_some(counted)
    }
}

/// The rooms of the peers that are connected: one for all connections of a peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rooms(Arc<Mutex<HashMap<NodeId, Weak<AtomicUsize>>>>);

impl Rooms {
    /// The lock is held for a look at the peers that are connected, once per connection.
    pub(crate) fn of(&self, peer: &PeerIdentity) -> Room {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = rooms.get(&peer.node).and_then(Weak::upgrade);
        let count = ByteCount(known.unwrap_or_default());
        rooms.retain(|_, room| 0 < room.strong_count());
        rooms.insert(peer.node, Arc::downgrade(&count.0));
        let of_member = peer.role.is_member();
        let bytes_max = if of_member { RECEIVING_BYTES_MAX_OF_MEMBER } else { RECEIVING_BYTES_MAX };
        Room { count, bytes_max }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use lineside_wire::{ClusterId, Role};

    use super::*;

    fn peer(n: u8, role: Role) -> PeerIdentity {
        let (cluster, node) = (ClusterId::from_bytes([0xc1; 16]), NodeId::from_bytes([n; 16]));
        PeerIdentity {
            cluster,
            node,
            role,
            name: "plc".to_owned(),
            not_after: SystemTime::UNIX_EPOCH,
            serial: String::new(),
            generation: 1,
        }
    }

    #[test]
    fn all_connections_of_a_peer_share_its_room_and_no_other_does() {
        let rooms = Rooms::default();
        let (first, second) = (rooms.of(&peer(1, Role::Client)), rooms.of(&peer(1, Role::Client)));
        let held = first.take(RECEIVING_BYTES_MAX);
        assert!(held.is_some() && second.take(1).is_none());
        assert!(rooms.of(&peer(2, Role::Client)).take(1).is_some());
        drop(held);
        assert!(second.take(1).is_some());
    }

    #[test]
    fn a_payload_beyond_the_room_passes_alone() {
        let room = Rooms::default().of(&peer(1, Role::Client));
        let held = room.take(2 * RECEIVING_BYTES_MAX);
        assert!(held.is_some() && room.take(1).is_none());
        assert!(room.take(0).is_some(), "what has no payload needs no room");
    }

    #[test]
    fn peers_that_are_gone_are_forgotten() {
        let rooms = Rooms::default();
        (0..200).for_each(|n| drop(rooms.of(&peer(n, Role::Client))));
        assert!(rooms.0.lock().unwrap().len() <= 2);
    }
}
