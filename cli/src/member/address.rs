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

use crate::config::ADDRESS_FILE;

/// Interfaces of containers, bridges and tunnels: other machines do not reach them.
const HIDDEN_INTERFACES: [&str; 8] = ["docker", "br-", "veth", "virbr", "tun", "wg", "cni", "lxc"];

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
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let usable = interfaces
        .iter()
        .filter(|interface| !interface.is_loopback())
        .filter(|interface| !HIDDEN_INTERFACES.iter().any(|prefix| interface.name.starts_with(prefix)));
    let addresses: Vec<_> = usable.map(|interface| &interface.addr).collect();
    best(&addresses, bound.is_ipv6()).map(|ip| SocketAddr::new(ip, bound.port()))
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        let file = AddressFile { pid: 1, node, members: address("127.0.0.1:7443"), http: None };
        taken.publish(&file).expect("writable");
        let text = fs::read_to_string(data.join(ADDRESS_FILE)).expect("there");
        assert_eq!(serde_json::from_str::<AddressFile>(&text).expect("whole"), file);
        drop(taken);
        assert!(!data.join(ADDRESS_FILE).exists());
        assert!(InUse::take(&data).expect("writable").is_some());
    }
}
