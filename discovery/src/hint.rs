//! What mDNS may tell: that a member of our cluster may be at an address. Pure.
//!
//! ```text
//!   <node id>._lineside._udp.local.   SRV  port, host     TXT  txtvers=1 c=<cluster> n=<node id> v=<protocol>
//! ```
//!
//! Anybody on the LAN can say so: nothing here chooses more than an address to dial and who is expected there.
//! `c` is the first eight digits of the cluster's id, which is random: enough to leave other clusters alone, and no
//! secret.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use lineside_wire::{ClusterId, NodeId, PROTOCOL_VERSION};

use crate::ladder::HINT_ADDRESSES_MAX;

/// The service type.
pub(crate) const SERVICE: &str = "_lineside._udp.local.";

/// The layout of the TXT record.
const TXT_VERSION: &str = "1";

/// A service as mDNS resolved it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announcement<'a> {
    pub(crate) fullname: &'a str,
    pub(crate) txtvers: Option<&'a str>,
    pub(crate) cluster: Option<&'a str>,
    pub(crate) node: Option<&'a str>,
    pub(crate) protocol: Option<&'a str>,
}

/// What a service is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// A member, as it says.
    Member(NodeId),
    /// Our own announcement, heard again.
    Own,
    /// Of another cluster, or of another version.
    Foreign,
    /// Not what it should be.
    Invalid,
}

/// Our own TXT record.
pub(crate) fn properties(cluster: ClusterId, node: NodeId) -> [(&'static str, String); 4] {
    let txtvers = TXT_VERSION.to_owned();
    [
        ("txtvers", txtvers),
        ("c", cluster.short()),
        ("n", node.to_string()),
        ("v", PROTOCOL_VERSION.to_string()),
    ]
}

/// The full name of a member's service.
pub(crate) fn fullname(node: NodeId) -> String {
    format!("{node}.{SERVICE}")
}

/// The member that a full name names. A name taken twice gets a suffix: the id still comes first.
pub(crate) fn node_in(fullname: &str) -> Option<NodeId> {
    fullname.get(..32)?.parse().ok()
}

/// Judges an announcement.
pub(crate) fn judge(announcement: &Announcement<'_>, cluster: ClusterId, own: NodeId) -> Judged {
    let Announcement { fullname, txtvers, cluster: theirs, node, protocol } = *announcement;
    if txtvers != Some(TXT_VERSION) || theirs.is_some_and(|theirs| theirs != cluster.short()) {
        return Judged::Foreign;
    }
    let (Some(_), Some(node), Some(protocol)) = (theirs, node.and_then(|n| n.parse().ok()), protocol) else {
        return Judged::Invalid;
    };
    match includes(protocol, PROTOCOL_VERSION) {
        _ if node_in(fullname) != Some(node) => Judged::Invalid,
        None => Judged::Invalid,
        Some(false) => Judged::Foreign,
        Some(true) if node == own => Judged::Own,
        Some(true) => Judged::Member(node),
    }
}

/// Whether a version, or a range such as `1-3`, includes another; `None` when it is neither.
fn includes(protocol: &str, version: u16) -> Option<bool> {
    let (from, to) = protocol.split_once('-').unwrap_or((protocol, protocol));
    let (from, to) = (from.parse::<u16>().ok()?, to.parse::<u16>().ok()?);
    Some((from..=to).contains(&version))
}

/// An address of one of our interfaces, with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) ip: IpAddr,
    pub(crate) prefix: u8,
}

impl Network {
    fn holds(self, ip: IpAddr) -> bool {
        let same = |own: u128, other: u128, bits: u8| {
            let free = u32::from(bits.saturating_sub(self.prefix));
            // A shift by all bits: a prefix of zero holds everything, and is nobody's network.
            self.prefix != 0 && own.checked_shr(free) == other.checked_shr(free)
        };
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(other)) => same(own.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(other)) => same(own.to_bits(), other.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Whether a hint may have us dial there. On a network: only its neighbours, so that a record cannot send packets
/// across routers. On one machine: only the machine.
pub(crate) fn is_near(ip: IpAddr, loopback: bool, networks: &[Network]) -> bool {
    if loopback || ip.is_loopback() {
        return loopback && ip.is_loopback();
    }
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    link_local || networks.iter().any(|network| network.holds(ip))
}

/// The addresses to dial, at most [`HINT_ADDRESSES_MAX`]; each comes with the interface that it was heard on, which
/// matters to link-local IPv6 only.
pub(crate) fn near_addresses(
    told: impl IntoIterator<Item = (IpAddr, u32)>,
    port: u16,
    loopback: bool,
    networks: &[Network],
) -> Vec<SocketAddr> {
    let near = told.into_iter().filter(|(ip, _)| is_near(*ip, loopback, networks));
    let mut addresses: Vec<SocketAddr> = near
        .map(|(ip, interface)| match ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, interface).into(),
            ip => SocketAddr::new(ip, port),
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(HINT_ADDRESSES_MAX);
    addresses
}

/// Whether mDNS should use an interface. Bridges of containers and virtual machines lead to no other machine, and
/// tunnels leave the LAN.
pub(crate) fn is_usable(name: &str, is_loopback: bool, loopback: bool) -> bool {
    const VIRTUAL: [&str; 6] = ["docker", "br-", "veth", "virbr", "tun", "wg"];
    is_loopback == loopback && (loopback || !VIRTUAL.iter().any(|prefix| name.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);
    const OWN: NodeId = NodeId::from_bytes([1; 16]);
    const WELD: NodeId = NodeId::from_bytes([2; 16]);

    fn judged(change: impl FnOnce(&mut Announcement<'_>)) -> Judged {
        let (name, node) = (fullname(WELD), WELD.to_string());
        let mut announcement = Announcement {
            fullname: &name,
            txtvers: Some("1"),
            cluster: Some("c1c1c1c1"),
            node: Some(&node),
            protocol: Some("1"),
        };
        change(&mut announcement);
        judge(&announcement, CLUSTER, OWN)
    }

    #[test]
    fn a_member_of_our_cluster_is_a_hint() {
        assert_eq!(judged(|_| {}), Judged::Member(WELD));
        assert_eq!(judged(|a| a.protocol = Some("1-4")), Judged::Member(WELD));
        // A name taken twice has a suffix.
        let renamed = format!("{WELD} (2).{SERVICE}");
        let (node, protocol) = (WELD.to_string(), "1");
        let announcement = Announcement {
            fullname: &renamed,
            txtvers: Some("1"),
            cluster: Some("c1c1c1c1"),
            node: Some(&node),
            protocol: Some(protocol),
        };
        assert_eq!(judge(&announcement, CLUSTER, OWN), Judged::Member(WELD));
        assert_eq!(judge(&announcement, CLUSTER, WELD), Judged::Own);
    }

    #[test]
    fn another_cluster_or_version_is_left_alone() {
        assert_eq!(judged(|a| a.cluster = Some("c1c1c1c2")), Judged::Foreign);
        assert_eq!(judged(|a| a.cluster = Some("C1C1C1C1")), Judged::Foreign);
        assert_eq!(judged(|a| a.txtvers = Some("2")), Judged::Foreign);
        assert_eq!(judged(|a| a.txtvers = None), Judged::Foreign);
        assert_eq!(judged(|a| a.protocol = Some("2-4")), Judged::Foreign);
    }

    #[test]
    fn a_record_that_contradicts_itself_is_no_hint() {
        assert_eq!(judged(|a| a.cluster = None), Judged::Invalid);
        assert_eq!(judged(|a| a.node = None), Judged::Invalid);
        assert_eq!(judged(|a| a.node = Some("press")), Judged::Invalid);
        assert_eq!(judged(|a| a.node = Some("01010101010101010101010101010101")), Judged::Invalid);
        assert_eq!(judged(|a| a.protocol = Some("newest")), Judged::Invalid);
        assert_eq!(judged(|a| a.fullname = "press._lineside._udp.local."), Judged::Invalid);
    }

    #[test]
    fn our_own_record_is_small_and_judged_as_ours() {
        let record = properties(CLUSTER, OWN);
        let bytes: usize = record.iter().map(|(key, value)| 2 + key.len() + value.len()).sum();
        assert!(bytes <= 128, "{bytes} bytes");
        assert_eq!(record[0].0, "txtvers");
        let value = |key: &str| record.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str());
        let announcement = Announcement {
            fullname: &fullname(OWN),
            txtvers: value("txtvers"),
            cluster: value("c"),
            node: value("n"),
            protocol: value("v"),
        };
        assert_eq!(judge(&announcement, CLUSTER, OWN), Judged::Own);
    }

    #[test]
    fn only_neighbours_are_dialled() {
        let networks = [
            Network { ip: "192.168.1.20".parse().unwrap(), prefix: 24 },
            Network { ip: "fd00:1::20".parse().unwrap(), prefix: 64 },
            Network { ip: "10.9.9.9".parse().unwrap(), prefix: 0 },
        ];
        let near = |ip: &str| is_near(ip.parse().unwrap(), false, &networks);
        for ip in ["192.168.1.7", "fd00:1::7", "169.254.3.4", "fe80::1"] {
            assert!(near(ip), "{ip} is a neighbour");
        }
        for ip in ["192.168.2.7", "8.8.8.8", "fd00:2::7", "127.0.0.1", "::1", "10.9.9.8"] {
            assert!(!near(ip), "{ip} is no neighbour");
        }
        assert!(is_near("127.0.0.1".parse().unwrap(), true, &[]));
        assert!(!is_near("192.168.1.7".parse().unwrap(), true, &networks));
    }

    #[test]
    fn many_addresses_are_cut_to_a_few() {
        let told = (0..=255_u8).map(|n| (IpAddr::from([127, 0, 0, n]), 1));
        assert_eq!(near_addresses(told, 7443, true, &[]).len(), HINT_ADDRESSES_MAX);
        let link_local = near_addresses([("fe80::1".parse().unwrap(), 4)], 7443, false, &[]);
        assert_eq!(link_local, ["[fe80::1%4]:7443".parse().unwrap()]);
    }

    #[test]
    fn bridges_and_tunnels_are_not_used() {
        for (name, is_loopback, usable) in [
            ("eth0", false, true),
            ("wlan0", false, true),
            ("docker0", false, false),
            ("br-3f2a", false, false),
            ("veth12", false, false),
            ("virbr0", false, false),
            ("tun0", false, false),
            ("wg0", false, false),
            ("lo", true, false),
        ] {
            assert_eq!(is_usable(name, is_loopback, false), usable, "{name}");
        }
        assert!(is_usable("lo", true, true));
        assert!(!is_usable("eth0", false, true));
    }

    proptest! {
        #[test]
        fn no_record_can_make_the_judge_panic(
            name in ".*", texts in prop::collection::vec(prop::option::of(".{0,40}"), 4),
        ) {
            let announcement = Announcement {
                fullname: &name,
                txtvers: texts[0].as_deref(),
                cluster: texts[1].as_deref(),
                node: texts[2].as_deref(),
                protocol: texts[3].as_deref(),
            };
            judge(&announcement, CLUSTER, OWN);
            node_in(&name);
        }

        #[test]
        fn every_address_is_in_its_own_network(ip in any::<[u8; 16]>(), prefix in 1..=128_u8) {
            let ip = IpAddr::from(ip);
            let network = Network { ip, prefix };
            prop_assert!(network.holds(ip));
        }
    }
}
