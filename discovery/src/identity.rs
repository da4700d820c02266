//! Who a member is to SWIM: cluster, node, address, epoch.
//!
//! The node id is the identity's key, never the socket address: a member whose address changed is the same
//! member, renamed. Of two identities with one key the larger epoch wins; epochs are counted on disk, so that
//! no clock takes part in the decision.

use std::net::{IpAddr, SocketAddr};

use lineside_wire::{ClusterId, NodeId};

/// The cluster in eight bytes: the id is random, so its first eight tell clusters apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClusterTag(pub(crate) u64);

impl ClusterTag {
    pub(crate) fn of(cluster: ClusterId) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *cluster.as_bytes();
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// One life of one member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterTag,
    pub(crate) node: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) epoch: u64,
}

impl Identity {
    pub(crate) fn new(cluster: ClusterTag, node: NodeId, address: SocketAddr, epoch: u64) -> Self {
        Self { cluster, node, address: canonical(address), epoch }
    }

    /// The same member in a later life, possibly elsewhere. `None` when there is no later life.
    pub(crate) fn reborn(&self, address: SocketAddr, epoch: u64) -> Option<Self> {
        (self.epoch < epoch).then(|| Self::new(self.cluster, self.node, address, epoch))
    }

    fn address_bytes(&self) -> (Vec<u8>, u16) {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        (ip, self.address.port())
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { epoch: self.epoch.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.epoch, self.address_bytes()) > (adversary.epoch, adversary.address_bytes())
    }
}

/// One spelling per address, so that equal addresses compare equal: no IPv4 inside IPv6, and neither flow
/// label nor scope, which mean nothing on another machine.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether a packet can be sent there: a port, and one host.
pub(crate) fn is_dialable(address: SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast(ip)
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

#[cfg(test)]
mod tests {
    use foca::Identity as _;

    use super::*;

    fn identity(address: &str, epoch: u64) -> Identity {
        let node = NodeId::from_bytes([7; 16]);
        Identity::new(ClusterTag(1), node, address.parse().expect("an address"), epoch)
    }

    #[test]
    fn the_later_life_wins_whatever_its_address() {
        let (early, late) = (identity("10.0.0.9:7443", 4), identity("10.0.0.1:7443", 5));
        assert!(late.win_addr_conflict(&early));
        assert!(!early.win_addr_conflict(&late));
    }

    #[test]
    fn of_two_addresses_in_one_life_exactly_one_wins() {
        let (low, high) = (identity("10.0.0.1:7443", 4), identity("10.0.0.9:7443", 4));
        assert!(high.win_addr_conflict(&low));
        assert!(!low.win_addr_conflict(&high));
        assert!(!low.win_addr_conflict(&low.clone()));
    }

    #[test]
    fn a_renewed_identity_beats_the_one_it_replaces() {
        let old = identity("10.0.0.1:7443", 4);
        let renewed = old.renew().expect("epochs are left");
        assert!(renewed.win_addr_conflict(&old));
        assert_eq!(identity("10.0.0.1:7443", u64::MAX).renew(), None);
    }

    #[test]
    fn an_address_has_one_spelling() {
        assert_eq!(identity("[::ffff:10.0.0.1]:7443", 1), identity("10.0.0.1:7443", 1));
        for wrong in ["0.0.0.0:7443", "10.0.0.1:0", "224.0.0.251:5353", "255.255.255.255:1", "[::]:7443"] {
            assert!(!is_dialable(wrong.parse().expect("an address")), "{wrong} was taken for a peer");
        }
    }
}
