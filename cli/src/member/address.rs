//! Where this member can be reached: what the others are told, and what commands on this machine read.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use if_addrs::IfAddr;
use lineside_certs::disk;
use lineside_wire::NodeId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config::{ADDRESS_FILE, Config};

/// Interfaces of containers, bridges and tunnels: other machines do not reach them.
const HIDDEN_INTERFACES: [&str; 8] = ["docker", "br-", "veth", "virbr", "tun", "wg", "cni", "lxc"];

/// Addresses that are told to a machine that is to reach this member: it tries them in turn, and a line that a person
/// carries must not wrap for ever.
const REACHABLE_MAX: usize = 4;

/// The lock that a running member holds on its data directory.
const LOCK_FILE: &str = "run/lock";

/// The address that the others are told: as set, else the listening one, else the first usable interface's.
///
/// `None` when nothing but this machine itself could reach it.
pub(crate) fn advertised(set: Option<SocketAddr>, bound: SocketAddr) -> Option<SocketAddr> {
    if let Some(set) = set {
        return Some(SocketAddr::new(set.ip(), if set.port() == 0 { bound.port() } else { set.port() }));
    }
    if !bound.ip().is_unspecified() {
        return Some(bound);
    }
    best(&usable().iter().collect::<Vec<_>>(), bound.is_ipv6()).map(|ip| SocketAddr::new(ip, bound.port()))
}

/// The addresses at which other machines reach a member with these settings: the advertised one first, then those of
/// the other usable interfaces. Loopback only where it listens there alone; none without a network, and none while the
/// port is not known.
pub(crate) fn reachable(config: &Config) -> Vec<SocketAddr> {
    reachable_at(config.member.advertise, config.member.listen)
}

/// As [`reachable`], of a socket that is open.
pub(crate) fn reachable_at(set: Option<SocketAddr>, bound: SocketAddr) -> Vec<SocketAddr> {
    let interfaces = if bound.ip().is_unspecified() { usable() } else { Vec::new() };
    in_order(advertised(set, bound), bound, &interfaces)
}

fn in_order(advertised: Option<SocketAddr>, bound: SocketAddr, interfaces: &[IfAddr]) -> Vec<SocketAddr> {
    let others = interfaces.iter().filter_map(|address| match address {
        IfAddr::V4(v4) => Some(IpAddr::V4(v4.ip)),
        // A link-local one is worth nothing without the name of the other machine's interface.
        IfAddr::V6(v6) if bound.is_ipv6() && !v6.ip.is_unicast_link_local() => Some(IpAddr::V6(v6.ip)),
        IfAddr::V6(_) => None,
    });
    let own = (!bound.ip().is_unspecified()).then_some(bound);
    let others = others.map(|ip| SocketAddr::new(ip, bound.port()));
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in advertised.into_iter().chain(own).chain(others).filter(|address| address.port() != 0) {
        if found.len() < REACHABLE_MAX && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// The address that the others are to be told from now on, when the machine no longer has the one that they were told, or
/// had none to tell. `None` while that one holds: what is set, or is bound to, always does.
pub(crate) fn moved(
    told: Option<SocketAddr>,
    set: Option<SocketAddr>,
    bound: SocketAddr,
) -> Option<SocketAddr> {
    if set.is_some() || !bound.ip().is_unspecified() {
        return None;
    }
    moved_among(told, bound, &usable())
}

fn moved_among(told: Option<SocketAddr>, bound: SocketAddr, interfaces: &[IfAddr]) -> Option<SocketAddr> {
    if interfaces.iter().any(|address| told.is_some_and(|told| address.ip() == told.ip())) {
        return None;
    }
    // Without any network there is nothing better to tell than what was.
    let best = best(&interfaces.iter().collect::<Vec<_>>(), bound.is_ipv6())?;
    Some(SocketAddr::new(best, bound.port()))
}

/// The addresses of the interfaces that other machines may reach, in the system's order.
fn usable() -> Vec<IfAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let usable = interfaces
        .into_iter()
        .filter(|interface| !interface.is_loopback())
        .filter(|interface| !HIDDEN_INTERFACES.iter().any(|prefix| interface.name.starts_with(prefix)));
    usable.map(|interface| interface.addr).collect()
}

/// IPv4 first: it needs no scope, and every network has it. IPv6 only where the socket takes it.
fn best(addresses: &[&IfAddr], with_v6: bool) -> Option<IpAddr> {
    let v4 = addresses.iter().find_map(|address| match address {
        IfAddr::V4(v4) if !v4.ip.is_link_local() => Some(IpAddr::V4(v4.ip)),
        IfAddr::V4(_) | IfAddr::V6(_) => None,
    });
    let v6 = || {
        addresses.iter().find_map(|address| match address {
            IfAddr::V6(v6) if with_v6 && !v6.ip.is_unicast_link_local() => Some(IpAddr::V6(v6.ip)),
            IfAddr::V4(_) | IfAddr::V6(_) => None,
        })
    };
    let link_local = || {
        addresses.iter().find_map(|address| match address {
            IfAddr::V4(v4) => Some(IpAddr::V4(v4.ip)),
            IfAddr::V6(_) => None,
        })
    };
    v4.or_else(v6).or_else(link_local)
}

/// The same address as a program on this machine dials it.
pub(crate) fn dialable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What a running member writes for the commands on its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddressFile {
    /// Its process.
    pub(crate) pid: u32,
    /// Its id.
    pub(crate) node: NodeId,
    /// Where it listens for members and clients (UDP).
    pub(crate) members: SocketAddr,
    /// Where it serves HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<SocketAddr>,
    /// Where it serves gRPC alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grpc: Option<SocketAddr>,
    /// Where other machines reach it: what a join token made here carries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) reachable: Vec<SocketAddr>,
}

/// A data directory in use. One process at a time: two with one identity would fight for its name in the cluster.
#[derive(Debug)]
pub(crate) struct InUse {
    file: PathBuf,
    /// Locked as long as it is open, however this process ends.
    _lock: fs::File,
}

impl InUse {
    /// Takes the data directory for this process; `None` when another one has it.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn take(data: &Path) -> io::Result<Option<Self>> {
        let lock = data.join(LOCK_FILE);
        disk::make_private_directory(data)?;
        disk::make_private_directory(lock.parent().unwrap_or(data))?;
        let opened = fs::OpenOptions::new().create(true).append(true).open(&lock)?;
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let file = data.join(ADDRESS_FILE);
        // Left behind by a process that was killed.
        drop(fs::remove_file(&file));
        Ok(Some(Self { file, _lock: opened }))
    }

    /// Tells the commands on this machine where the member is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn publish(&self, address: &AddressFile) -> io::Result<()> {
        let json = serde_json::to_vec(address).map_err(io::Error::other)?;
        disk::write_whole(&self.file, &json, 0o600)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_is_set_wins_and_takes_the_real_port_when_it_has_none() {
        let bound = address("0.0.0.0:50123");
        assert_eq!(advertised(Some(address("10.0.0.7:7443")), bound), Some(address("10.0.0.7:7443")));
        assert_eq!(advertised(Some(address("10.0.0.7:0")), bound), Some(address("10.0.0.7:50123")));
        assert_eq!(advertised(None, address("127.0.0.1:50123")), Some(address("127.0.0.1:50123")));
    }

    #[test]
    fn other_machines_are_told_the_advertised_address_first_and_each_address_once() {
        let v4 = |ip: [u8; 4]| {
            let (ip, netmask) = (ip.into(), [255, 255, 255, 0].into());
            IfAddr::V4(if_addrs::Ifv4Addr { ip, netmask, prefixlen: 24, broadcast: None })
        };
        let interfaces = [v4([10, 0, 0, 7]), v4([192, 168, 1, 7])];
        let (bound, set) = (address("0.0.0.0:7443"), Some(address("192.168.1.7:7443")));
        let told = in_order(set, bound, &interfaces);
        assert_eq!(told, [address("192.168.1.7:7443"), address("10.0.0.7:7443")]);
        let many: Vec<_> = (1..=9).map(|last| v4([10, 0, 1, last])).collect();
        assert_eq!(in_order(None, bound, &many).len(), REACHABLE_MAX);
    }

    #[test]
    fn a_machine_moves_when_the_address_that_was_told_is_no_longer_its_own() {
        let v4 = |ip: [u8; 4]| {
            let (ip, netmask) = (ip.into(), [255, 255, 255, 0].into());
            IfAddr::V4(if_addrs::Ifv4Addr { ip, netmask, prefixlen: 24, broadcast: None })
        };
        let (told, bound) = (address("10.0.0.7:7443"), address("0.0.0.0:7443"));
        let moved = |interfaces: &[IfAddr]| moved_among(Some(told), bound, interfaces);
        assert_eq!(moved(&[v4([10, 0, 0, 9])]), Some(address("10.0.0.9:7443")));
        assert_eq!(moved(&[v4([192, 168, 1, 7]), v4([10, 0, 0, 7])]), None, "it still has it");
        assert_eq!(moved(&[]), None, "without a network there is nothing better to tell");
        let first = moved_among(None, bound, &[v4([10, 0, 0, 9])]);
        assert_eq!(first, Some(address("10.0.0.9:7443")), "a network that came up after the start");
    }

    #[test]
    fn an_address_that_is_set_or_bound_to_stays_wherever_the_machine_goes() {
        let (gone, any) = (address("192.0.2.7:7443"), address("0.0.0.0:7443"));
        assert_eq!(moved(Some(gone), Some(gone), any), None);
        assert_eq!(moved(Some(gone), None, gone), None);
    }

    #[test]
    fn a_member_on_loopback_is_reached_there_and_one_without_a_port_nowhere() {
        let bound = address("127.0.0.1:50123");
        assert_eq!(reachable_at(None, bound), [bound]);
        assert_eq!(reachable_at(None, address("127.0.0.1:0")), []);
    }

    #[test]
    fn nobody_dials_an_unspecified_address() {
        assert_eq!(dialable(address("0.0.0.0:80")), address("127.0.0.1:80"));
        assert_eq!(dialable(address("[::]:80")), address("[::1]:80"));
        assert_eq!(dialable(address("10.1.2.3:80")), address("10.1.2.3:80"));
    }

    #[test]
    fn a_data_directory_serves_one_process_and_forgets_its_address() {
        let home = tempfile::tempdir().expect("a directory");
        let data = home.path().join("data");
        let taken = InUse::take(&data).expect("writable").expect("free");
        assert!(InUse::take(&data).expect("writable").is_none());
        let node = NodeId::from_bytes([1; 16]);
        let members = address("127.0.0.1:7443");
        let file = AddressFile { pid: 1, node, members, http: None, grpc: None, reachable: vec![members] };
        taken.publish(&file).expect("writable");
        let text = fs::read_to_string(data.join(ADDRESS_FILE)).expect("there");
        assert_eq!(serde_json::from_str::<AddressFile>(&text).expect("whole"), file);
        drop(taken);
        assert!(!data.join(ADDRESS_FILE).exists());
        assert!(InUse::take(&data).expect("writable").is_some());
    }
}
