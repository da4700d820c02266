//! How a client finds the cluster's members, and keeps knowing them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use lineside_certs::{Credentials, IdentityError, PeerIdentity, Refusal};
use lineside_mesh::{
    BindError, Destination, DialError, Incoming, Mesh, MeshConfig, Met, Presence, Refuser, Served, Service,
};
use lineside_wire::{
    ClusterId, Empty, Fault, FaultCode, Greeting, MemberRow, MemberState, MembersResult, NodeId,
    PROTOCOL_VERSION, method,
};
use tokio::{
    net::{ToSocketAddrs, lookup_host},
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info};

use crate::{AskError, Balancer, Balancing, Budget, Candidate, Pool, Roster, Standing};

/// How often the member list is asked for. Doors come and go rarely, and their loss is noticed by calls at once.
const REFRESH_EVERY: Duration = Duration::from_secs(3);

/// Shortest time between two questions for the member list, however many calls fail.
const REFRESH_PAUSE: Duration = Duration::from_millis(250);

/// Longest wait for a member list.
pub(super) const MEMBERS_WITHIN: Duration = Duration::from_secs(2);

/// How much earlier each address is tried than the next: on a LAN a living member answers well within it.
const SEED_HEAD_START: Duration = Duration::from_millis(100);

/// Most addresses that are tried: a seed list, no scan of a network.
const ADDRESSES_MAX: usize = 64;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No socket could be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A name could not be resolved, or is none.
    #[error("an address cannot be used: {0}; write it as host:port, for example 10.0.0.7:7443")]
    Address(#[from] std::io::Error),
    /// No address was given.
    #[error("no address was given: name at least one member, for example 10.0.0.7:7443")]
    NoAddress,
    /// Nobody answered, or nobody that belongs to the cluster.
    #[error("no member of the cluster {cluster} could be connected with: {}", list(tries))]
    NoMember {
        /// The identity's cluster.
        cluster: ClusterId,
        /// Who was dialled, and what came of it.
        tries: Vec<DialError>,
    },
    /// A member greeted us but did not tell the others.
    #[error("{address} did not tell its members: {error}")]
    Members {
        /// Who was asked.
        address: SocketAddr,
        /// What came of it.
        error: AskError,
    },
}

/// What came of each dial. Refusals come first, because somebody has to act on them, and each reason once: a certificate
/// that one member refuses is refused by all.
fn list(tries: &[DialError]) -> String {
    let mut refusals: Vec<(Refuser, Refusal, String)> = Vec::new();
    let mut others = Vec::new();
    for error in tries {
        match error {
            DialError::Refused { address, by, refusal } => {
                match refusals.iter_mut().find(|(side, known, _)| (side, known) == (by, refusal)) {
                    Some((_, _, text)) => text.push_str(&format!("; the same at {address}")),
                    None => refusals.push((*by, *refusal, error.to_string())),
                }
            }
            DialError::Timeout { .. }
            | DialError::WrongNode { .. }
            | DialError::NoIdentity { .. }
            | DialError::OtherCluster { .. }
            | DialError::NoGreeting { .. }
            | DialError::Unreachable { .. }
            | DialError::Resting { .. }
            | DialError::Closed => others.push(error.to_string()),
        }
    }
    let refusals = refusals.into_iter().map(|(_, _, text)| text);
    refusals.chain(others).collect::<Vec<_>>().join("; ")
}

/// The addresses behind the names, in order, each once.
pub(super) async fn resolve<A: ToSocketAddrs>(
    names: impl IntoIterator<Item = A>,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let mut addresses = Vec::new();
    let mut unusable = None;
    for name in names {
        match lookup_host(name).await {
            Ok(found) => {
                for address in found {
                    if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
                        addresses.push(address);
                    }
                }
            }
            // The name service may be down: the other addresses still do.
            Err(error) => {
                debug!(%error, "an address cannot be used");
                unusable = Some(error);
            }
        }
    }
    match unusable {
        _ if !addresses.is_empty() => Ok(addresses),
        Some(error) => Err(error.into()),
        None => Err(ConnectError::NoAddress),
    }
}

/// Why a seed did not tell the members.
enum SeedFailure {
    Dial(DialError),
    Members(AskError),
}

/// What the client and its refresher have together.
pub(super) struct Shared {
    pub(super) pool: Pool<Mesh>,
    pub(super) roster: ArcSwap<Roster>,
    /// Told when a call shows that the member list may be out of date.
    pub(super) stale: Arc<Notify>,
    /// Told when a member list was taken over.
    pub(super) told: Notify,
    seeds: Vec<SocketAddr>,
    peers: Arc<Peers>,
}

impl Shared {
    pub(super) async fn connect(
        credentials: &Credentials,
        seeds: Vec<SocketAddr>,
    ) -> Result<Arc<Self>, ConnectError> {
        let (stale, told) = (Arc::new(Notify::new()), Notify::new());
        let identity = credentials.identity();
        let cluster = identity.cluster();
        let peers = Arc::new(Peers { cluster, stale: Arc::clone(&stale), met: Mutex::default() });
        let presence = Arc::clone(&peers) as Arc<dyn Presence>;
        let mesh =
            Mesh::bind(MeshConfig::dialling(), credentials.clone(), presence, Arc::new(NothingServed))?;
        let now = Instant::now().into_std();
        let balancer = Balancer::new(Balancing::default(), &mut rand::rng(), now);
        let pool = Pool::new(mesh, Arc::new(balancer), Arc::new(Budget::new(now)));
        let roster = ArcSwap::from_pointee(Roster::empty(cluster, identity.node()));
        let shared = Arc::new(Self { pool, roster, stale, told, seeds, peers });
        let result = shared.find_members(cluster).await;
        if result.is_err() {
            shared.pool.transport().shutdown().await;
        }
        result.map(|()| shared)
    }

    /// Asks the seeds for the members, each a little after the one before: one that is dead costs only that, and while
    /// the first answers the others hear nothing.
    async fn find_members(&self, cluster: ClusterId) -> Result<(), ConnectError> {
        let asked = (0..).zip(&self.seeds).map(|(turn, address)| async move {
            sleep(SEED_HEAD_START * turn).await;
            let greeted = self.pool.transport().greet(*address, None).await;
            let met = greeted.map_err(|error| (*address, SeedFailure::Dial(error)))?;
            self.ask_for_members(&met).await.map_err(|error| (*address, SeedFailure::Members(error)))
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut tries = Vec::new();
        let mut silent = None;
        while let Some(result) = asked.next().await {
            match result {
                Ok(()) => return Ok(()),
                Err((_, SeedFailure::Dial(error))) => tries.push(error),
                Err((address, SeedFailure::Members(error))) => {
                    silent = Some(ConnectError::Members { address, error });
                }
            }
        }
        Err(silent.unwrap_or(ConnectError::NoMember { cluster, tries }))
    }

    async fn ask_for_members(&self, met: &Met) -> Result<(), AskError> {
        let to = Destination { node: met.identity.node, address: met.address };
        let until = Instant::now() + MEMBERS_WITHIN;
        let list = self.pool.ask_at(to, method::CLUSTER_MEMBERS, &Empty {}, until).await?;
        self.adopt(list);
        Ok(())
    }

    /// Asks for the member list now and then, and soon after a failure, until it is aborted.
    pub(super) async fn keep_fresh(self: Arc<Self>) {
        loop {
            let _told_or_time = timeout(REFRESH_EVERY, self.stale.notified()).await;
            match self.pool.ask(method::CLUSTER_MEMBERS, &Empty {}, MEMBERS_WITHIN).await {
                Ok(list) => self.adopt(list),
                Err(error) => {
                    debug!(%error, "no member tells the members; asking the first addresses");
                    if let Err(error) = self.find_members(self.peers.cluster).await {
                        debug!(%error, "the member list stays as it was");
                    }
                }
            }
            sleep(REFRESH_PAUSE).await;
        }
    }

    /// Takes over a member list.
    pub(super) fn adopt(&self, mut list: MembersResult) {
        let met = self.peers.met();
        if list.members.iter().all(|row| row.node != list.answered_by)
            && let Some((address, Some(member))) = met.get(&list.answered_by)
        {
            list.members.push(row_of(*address, member));
        }
        for row in &mut list.members {
            // Where a member was reached is true from here; what it says of itself may be another network's.
            if let Some((address, _)) = met.get(&row.node) {
                row.address = *address;
            }
        }
        drop(met);
        let roster = Roster::new(list);
        let doors = roster.doors();
        let is_open = doors.iter().any(|door| door.standing.is_present() && !door.draining);
        let candidates = if is_open { with_last_resort(doors, roster.nodes()) } else { roster.nodes() };
        self.pool.balancer().update(candidates, Instant::now().into_std());
        let known = self.roster.swap(Arc::new(roster));
        self.told.notify_one();
        if known.rows().is_empty() {
            info!(members = self.roster.load().rows().len(), "connected to the cluster");
        }
    }

    /// Members with a connection.
    pub(super) fn connected(&self) -> Vec<NodeId> {
        self.peers.met().keys().copied().collect()
    }
}

/// The doors, and behind them the nodes, so that a call also outlives the last door. Gossip takes seconds to tell that
/// a door is dead; until then the nodes count as suspect: the balancer leases those when nobody else is left.
fn with_last_resort(mut doors: Vec<Candidate>, nodes: Vec<Candidate>) -> Vec<Candidate> {
    for mut node in nodes {
        // `lineside up` is both.
        if doors.iter().all(|door| door.node != node.node) {
            if node.standing == Standing::Alive {
                node.standing = Standing::Suspect;
            }
            doors.push(node);
        }
    }
    doors
}

/// A row for a member that greeted us and is not in its own list.
fn row_of(address: SocketAddr, member: &MemberState) -> MemberRow {
    MemberRow {
        node: member.node,
        name: member.name.clone(),
        address,
        state: Standing::Alive.as_str().to_owned(),
        role: Some(member.role),
        member: Some(member.clone()),
        seen_ms_ago: 0,
        in_flight: 0,
        p95_us: None,
        calls: 0,
        failures: 0,
        rests: None,
        ejections: std::collections::BTreeMap::new(),
        clock_ahead_ms: None,
        double: None,
    }
}

/// Where each connected member was reached, and what it said of itself.
type MetMembers = BTreeMap<NodeId, (SocketAddr, Option<MemberState>)>;

/// The members that this client is connected with.
struct Peers {
    cluster: ClusterId,
    stale: Arc<Notify>,
    /// As many as there are connections, which the mesh bounds. Never held on the path of a call.
    met: Mutex<MetMembers>,
}

impl Peers {
    fn met(&self) -> MutexGuard<'_, MetMembers> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence for Peers {
    fn greeting(&self) -> Greeting {
        Greeting { protocol: PROTOCOL_VERSION, cluster: self.cluster, member: None, clock_ms: 0 }
    }

    fn met(&self, peer: &PeerIdentity, greeting: &Greeting, remote: SocketAddr) {
        self.met().insert(peer.node, (remote, greeting.member.clone()));
    }

    fn lost(&self, node: NodeId) {
        self.met().remove(&node);
        self.stale.notify_one();
    }

    fn gossip(&self, _from: NodeId, _packet: Bytes) {}
}

/// Clients call and are not called.
struct NothingServed;

impl Service for NothingServed {
    fn serve(&self, call: Incoming) -> Served {
        let fault = Fault::new(FaultCode::MethodNotFound, "this is a client: it serves nothing");
        call.reply.fail(&fault, None);
        Served::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_certificate_is_told_once_and_before_what_did_not_answer() {
        let at = |last| SocketAddr::from(([10, 0, 0, last], 7443));
        let refused =
            |last| DialError::Refused { address: at(last), by: Refuser::Peer, refusal: Refusal::Revoked };
        let silent = DialError::Timeout { address: at(9), within: Duration::from_secs(1) };
        let cluster = ClusterId::from_bytes([7; 16]);
        let error = ConnectError::NoMember { cluster, tries: vec![silent, refused(7), refused(8)] };
        let text = error.to_string();
        assert_eq!(text.matches("refused your certificate").count(), 1, "{text}");
        assert_eq!(text.matches("was revoked").count(), 1, "{text}");
        let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
        assert!(place("10.0.0.7") < place("10.0.0.8") && place("10.0.0.8") < place("10.0.0.9"), "{text}");
    }
}
