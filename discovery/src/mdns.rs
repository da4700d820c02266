//! mDNS: announces this member on the LAN, and hears of others.
//!
//! Without it everything works by seeds and remembered members, so nothing here is ever an error of the process: a
//! daemon that cannot start, or that dies, is started anew later. The daemon has a thread and sockets of its own.

use std::{net::SocketAddr, time::Duration};

use lineside_wire::{ClusterId, NodeId};
use mdns_sd::{
    DaemonEvent, Error, IfKind, IfPredicate, Metrics, Receiver, ResolvedService, ScopedIp, ServiceDaemon,
    ServiceEvent, ServiceInfo,
};
use tokio::time::{Instant, sleep_until, timeout};

use crate::hint::{self, Announcement, Judged, Network, SERVICE};

/// Between the end of a subscription and the next: the daemon ends one whose reader is behind, as in a flood.
const BROWSE_AGAIN: Duration = Duration::from_secs(1);

/// Between two looks at how much the daemon holds, and the records that it may. It bounds nothing by itself, and anybody
/// on the network can send it records: a full cluster has a dozen per member.
const CACHE_EVERY: Duration = Duration::from_secs(10);
const CACHED_MAX: i64 = 16 << 10;

/// Between a daemon that failed and the next.
const START_AGAIN: Duration = Duration::from_secs(30);

/// How long a member that went may take to prove that its record is true.
const VERIFY_WITHIN: Duration = Duration::from_secs(3);

/// How long the goodbye may take.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// The own networks are read again at most this often.
const NETWORKS_EVERY: Duration = Duration::from_secs(5);

/// How mDNS is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MdnsConfig {
    /// Only the loopback interface, and only addresses of this machine: for several members on one machine.
    pub loopback: bool,
}

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MdnsEvent {
    /// A member of our cluster may be at these addresses.
    Hint { node: NodeId, addresses: Vec<SocketAddr> },
    /// A member's record ended.
    HintGone(NodeId),
    /// Our own record came back, or another machine's with our id.
    OwnHeard { addresses: Vec<SocketAddr> },
    /// A record of another cluster or version.
    Foreign,
    /// A record that is not what it should be.
    Invalid,
    /// The subscription had ended, and was taken out again.
    Rebrowsed,
    /// The daemon could not start, or ended.
    Failed,
}

/// The daemon, while it runs.
struct Running {
    daemon: ServiceDaemon,
    events: Option<Receiver<ServiceEvent>>,
    browse_at: Instant,
    trouble: Option<Receiver<DaemonEvent>>,
    count_at: Instant,
    /// The answer to the last look, until it is there.
    counts: Option<Receiver<Metrics>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // The daemon's thread would outlive its last handle.
        drop(self.daemon.shutdown());
    }
}

enum State {
    Running(Running),
    /// The reason is told once, by the next event.
    Failed(String),
    Resting {
        until: Instant,
    },
    Left,
}

/// Announces and listens.
pub(crate) struct Mdns {
    config: MdnsConfig,
    cluster: ClusterId,
    own: NodeId,
    address: SocketAddr,
    state: State,
    warned: bool,
    networks: Vec<Network>,
    networks_read: Option<Instant>,
}

impl Mdns {
    pub(crate) fn start(config: MdnsConfig, cluster: ClusterId, own: NodeId, address: SocketAddr) -> Self {
        let mut mdns = Self {
            config,
            cluster,
            own,
            address,
            state: State::Left,
            warned: false,
            networks: Vec::new(),
            networks_read: None,
        };
        mdns.begin();
        mdns
    }

    /// Whether the daemon runs.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// The next thing heard. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> MdnsEvent {
        loop {
            match &mut self.state {
                State::Running(running) => match running.next().await {
                    Heard::Event(event) => {
                        if let Some(event) = self.read(&event) {
                            return event;
                        }
                    }
                    Heard::Rebrowsed => return MdnsEvent::Rebrowsed,
                    Heard::Failed(error) => self.state = State::Failed(error.to_string()),
                },
                State::Failed(reason) => {
                    let reason = std::mem::take(reason);
                    self.state = State::Resting { until: Instant::now() + START_AGAIN };
                    self.warn(&reason);
                    return MdnsEvent::Failed;
                }
                State::Resting { until } => {
                    sleep_until(*until).await;
                    self.begin();
                }
                State::Left => std::future::pending().await,
            }
        }
    }

    /// Announces this address from now on.
    pub(crate) fn announce(&mut self, address: SocketAddr) {
        if address == self.address {
            return;
        }
        self.address = address;
        let announced = match &self.state {
            State::Running(running) => self.service().and_then(|service| running.daemon.register(service)),
            State::Failed(_) | State::Resting { .. } | State::Left => Ok(()),
        };
        if let Err(error) = announced {
            self.state = State::Failed(error.to_string());
        }
    }

    /// Has the record of a member that went checked: a killed one takes its record to the grave, two minutes long.
    pub(crate) fn verify(&self, node: NodeId) {
        if let State::Running(running) = &self.state
            && let Err(error) = running.daemon.verify(hint::fullname(node), VERIFY_WITHIN)
        {
            tracing::debug!(%node, %error, "the mDNS record of a lost member is not checked");
        }
    }

    /// Takes our record back and ends the daemon.
    pub(crate) async fn leave(&mut self) {
        let State::Running(running) = std::mem::replace(&mut self.state, State::Left) else { return };
        let goodbye = async {
            if let Ok(done) = running.daemon.unregister(&hint::fullname(self.own)) {
                let _ = done.recv_async().await;
            }
            if let Ok(done) = running.daemon.shutdown() {
                let _ = done.recv_async().await;
            }
        };
        if timeout(GOODBYE_WITHIN, goodbye).await.is_err() {
            tracing::debug!("the mDNS daemon did not end in time");
        }
    }

    fn begin(&mut self) {
        self.state = match self.try_begin() {
            Ok(running) => State::Running(running),
            Err(error) => State::Failed(error.to_string()),
        };
    }

    fn try_begin(&self) -> Result<Running, Error> {
        let daemon = ServiceDaemon::new()?;
        let loopback = self.config.loopback;
        let unusable = IfPredicate::new(move |interface| {
            !hint::is_usable(&interface.name, interface.is_loopback(), loopback)
        });
        daemon.disable_interface(IfKind::Predicate(unusable))?;
        let trouble = daemon.monitor()?;
        daemon.register(self.service()?)?;
        let events = daemon.browse(SERVICE)?;
        let browse_at = Instant::now();
        let count_at = browse_at + CACHE_EVERY;
        let (events, trouble) = (Some(events), Some(trouble));
        Ok(Running { daemon, events, browse_at, trouble, count_at, counts: None })
    }

    /// Our service: only at the address that the others know from gossip.
    fn service(&self) -> Result<ServiceInfo, Error> {
        let host = format!("lineside-{}.local.", self.own);
        let properties = hint::properties(self.cluster, self.own);
        let name = self.own.to_string();
        let (ip, port) = (self.address.ip(), self.address.port());
        ServiceInfo::new(SERVICE, &name, &host, ip, port, &properties[..])
    }

    fn warn(&mut self, reason: &str) {
        if self.warned {
            tracing::debug!(%reason, "mDNS still does not work");
        } else {
            self.warned = true;
            tracing::warn!(
                %reason,
                "mDNS does not work here: members find each other by seeds and by what they remember only"
            );
        }
    }

    fn read(&mut self, event: &ServiceEvent) -> Option<MdnsEvent> {
        match event {
            ServiceEvent::ServiceResolved(service) => Some(self.resolved(service)),
            ServiceEvent::ServiceRemoved(_, fullname) => {
                hint::node_in(fullname).filter(|node| *node != self.own).map(MdnsEvent::HintGone)
            }
            // Searching, found but not resolved: nothing to act on.
            _ => None,
        }
    }

    fn resolved(&mut self, service: &ResolvedService) -> MdnsEvent {
        let announcement = Announcement {
            fullname: &service.fullname,
            txtvers: service.get_property_val_str("txtvers"),
            cluster: service.get_property_val_str("c"),
            node: service.get_property_val_str("n"),
            protocol: service.get_property_val_str("v"),
        };
        match hint::judge(&announcement, self.cluster, self.own) {
            Judged::Foreign => MdnsEvent::Foreign,
            Judged::Invalid => MdnsEvent::Invalid,
            Judged::Own => MdnsEvent::OwnHeard { addresses: self.addresses_of(service) },
            Judged::Member(node) => {
                let addresses = self.addresses_of(service);
                if addresses.is_empty() { MdnsEvent::Invalid } else { MdnsEvent::Hint { node, addresses } }
            }
        }
    }

    fn addresses_of(&mut self, service: &ResolvedService) -> Vec<SocketAddr> {
        self.read_networks(Instant::now());
        let told = service.addresses.iter().map(|ip| (ip.to_ip_addr(), interface_of(ip)));
        hint::near_addresses(told, service.port, self.config.loopback, &self.networks)
    }

    /// The networks that this machine is on now.
    fn read_networks(&mut self, now: Instant) {
        if self.config.loopback || self.networks_read.is_some_and(|read| now < read + NETWORKS_EVERY) {
            return;
        }
        self.networks_read = Some(now);
        match if_addrs::get_if_addrs() {
            Ok(interfaces) => {
                let usable =
                    interfaces.into_iter().filter(|i| hint::is_usable(&i.name, i.is_loopback(), false));
                self.networks = usable.map(|i| network_of(&i.addr)).collect();
            }
            Err(error) => tracing::debug!(%error, "the own networks cannot be read"),
        }
    }
}

enum Heard {
    Event(ServiceEvent),
    Rebrowsed,
    Failed(Error),
}

impl Running {
    async fn next(&mut self) -> Heard {
        loop {
            let Some(events) = &self.events else {
                sleep_until(self.browse_at).await;
                match self.daemon.browse(SERVICE) {
                    Ok(events) => self.events = Some(events),
                    Err(Error::Again) => {
                        self.browse_at = Instant::now() + BROWSE_AGAIN;
                        continue;
                    }
                    Err(error) => return Heard::Failed(error),
                }
                return Heard::Rebrowsed;
            };
            let trouble = async {
                match &self.trouble {
                    Some(trouble) => trouble.recv_async().await,
                    None => std::future::pending().await,
                }
            };
            let counted = async {
                match &self.counts {
                    Some(counts) => counts.recv_async().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep_until(self.count_at) => {
                    self.count_at = Instant::now() + CACHE_EVERY;
                    self.counts = self.daemon.get_metrics().ok();
                }
                counts = counted => {
                    self.counts = None;
                    if let Some(count) = counts.ok().and_then(|counts| flood(&counts)) {
                        let text = format!("a flood of records: {count} are held; it begins anew in a while");
                        return Heard::Failed(Error::Msg(text));
                    }
                }
                event = events.recv_async() => match event {
                    Ok(event) => return Heard::Event(event),
                    Err(_) => {
                        self.events = None;
                        let jitter = rand::random_range(1.0..1.5);
                        self.browse_at = Instant::now() + BROWSE_AGAIN.mul_f64(jitter);
                    }
                },
                event = trouble => match event {
                    Ok(event) => tell(&event),
                    Err(_) => self.trouble = None,
                },
            }
        }
    }
}

/// How many records the daemon holds, when that is too many.
fn flood(counts: &Metrics) -> Option<i64> {
    let cached = counts.iter().filter(|(name, _)| name.starts_with("cached-")).map(|(_, count)| *count);
    Some(cached.fold(0, i64::saturating_add)).filter(|sum| CACHED_MAX < *sum)
}

/// What the daemon says of itself.
fn tell(event: &DaemonEvent) {
    match event {
        DaemonEvent::Error(error) => tracing::debug!(%error, "mDNS cannot do everything"),
        DaemonEvent::NameChange(change) => tracing::warn!(
            was = %change.original,
            is = %change.new_name,
            "somebody else announces this member's name by mDNS: two machines may have one node id"
        ),
        _ => {}
    }
}

fn interface_of(ip: &ScopedIp) -> u32 {
    match ip {
        ScopedIp::V6(ip) => ip.scope_id().index,
        _ => 0,
    }
}

fn network_of(address: &if_addrs::IfAddr) -> Network {
    match address {
        if_addrs::IfAddr::V4(v4) => Network { ip: v4.ip.into(), prefix: v4.prefixlen },
        if_addrs::IfAddr::V6(v6) => Network { ip: v6.ip.into(), prefix: v6.prefixlen },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_of_records_is_seen_in_the_daemons_own_counts() {
        let daemon = ServiceDaemon::new().unwrap();
        let mut counts = daemon.get_metrics().unwrap().recv_async().await.unwrap();
        assert_eq!(flood(&counts), None);
        // The daemon's names for what it holds: should they change, no flood would ever be seen.
        for name in ["cached-ptr", "cached-srv", "cached-addr", "cached-txt"] {
            assert!(counts.contains_key(name), "{name} is not among {counts:?}");
        }
        counts.insert("cached-addr".to_owned(), CACHED_MAX);
        counts.insert("respond".to_owned(), CACHED_MAX);
        assert_eq!(flood(&counts), None);
        counts.insert("cached-ptr".to_owned(), 1);
        assert_eq!(flood(&counts), Some(CACHED_MAX + 1));
        daemon.shutdown().unwrap();
    }
}
