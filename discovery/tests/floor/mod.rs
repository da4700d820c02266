//! Members in one process, joined by a carrier in memory in the place of the mesh.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use lineside_discovery::{
    BoxFuture, Carrier, ClusterView, Discovery, DiscoveryConfig, DiscoveryError, GreetError, MdnsConfig,
    Pace, Standing,
};
use lineside_wire::{ClusterId, LoadReport, MemberState, NodeId, Role};
use tempfile::TempDir;
use tokio::time::timeout;

pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);

/// Far more than any state needs, so that a slow machine is not taken for a fault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 16])
}

pub(crate) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 40_000 + u16::from(n)))
}

/// Who listens where, and which cables are in.
#[derive(Default)]
pub(crate) struct Network(Mutex<HashMap<SocketAddr, Listener>>);

#[derive(Clone)]
struct Listener {
    /// Absent between the binding of the socket and the start of discovery, and for a peer that is no member.
    discovery: Option<Discovery>,
    state: Option<MemberState>,
}

impl Network {
    fn at(&self, address: SocketAddr) -> Option<Listener> {
        self.0.lock().unwrap().get(&address).cloned()
    }

    /// Takes a cable out; what gives it back puts it in again.
    pub(crate) fn cut(&self, address: SocketAddr) -> impl FnOnce() {
        let listener = self.0.lock().unwrap().remove(&address).expect("somebody listens there");
        move || self.listen(address, listener)
    }

    fn listen(&self, address: SocketAddr, listener: Listener) {
        self.0.lock().unwrap().insert(address, listener);
    }

    pub(crate) fn unplug(&self, address: SocketAddr) {
        self.0.lock().unwrap().remove(&address);
    }
}

struct Cable {
    network: Arc<Network>,
    own: Mutex<MemberState>,
}

impl Cable {
    /// Our state as it would be in a greeting: with the epoch that discovery has now.
    fn greeting(&self) -> MemberState {
        let own = self.own.lock().unwrap().clone();
        let listener = self.network.at(own.address);
        let epoch = listener.and_then(|l| l.discovery).map_or(own.epoch, |discovery| discovery.epoch());
        MemberState { epoch, ..own }
    }
}

fn state_at(listener: &Listener) -> Option<MemberState> {
    let state = listener.state.clone()?;
    let epoch = listener.discovery.as_ref().map_or(state.epoch, Discovery::epoch);
    Some(MemberState { epoch, ..state })
}

impl Carrier for Cable {
    fn send(&self, to: NodeId, address: SocketAddr, packet: Bytes) {
        let own = self.own.lock().unwrap().clone();
        // A member whose cable is out sends nothing either.
        if self.network.at(own.address).is_none() {
            return;
        }
        let there =
            self.network.at(address).filter(|there| there.state.as_ref().is_some_and(|s| s.node == to));
        if let Some(discovery) = there.and_then(|there| there.discovery) {
            discovery.packet(own.node, packet);
        }
    }

    fn greet(
        &self,
        address: SocketAddr,
        _expect: Option<NodeId>,
    ) -> BoxFuture<'static, Result<Option<MemberState>, GreetError>> {
        let own = self.greeting();
        let there = self.network.at(own.address).and_then(|_| self.network.at(address));
        Box::pin(async move {
            let there = there.ok_or_else(|| GreetError::Failed("nobody listens there".to_owned()))?;
            if let Some(discovery) = &there.discovery {
                discovery.met(own);
            }
            Ok(state_at(&there))
        })
    }

    fn fetch(&self, node: NodeId, address: SocketAddr) -> BoxFuture<'static, Result<MemberState, String>> {
        let own = self.own.lock().unwrap().address;
        let there = self.network.at(own).and_then(|_| self.network.at(address));
        Box::pin(async move {
            let state = there.as_ref().and_then(state_at).filter(|state| state.node == node);
            state.ok_or_else(|| "it is not there".to_owned())
        })
    }
}

/// The floor: a network, and a place for every member's state.
pub(crate) struct Floor {
    pub(crate) network: Arc<Network>,
    home: TempDir,
}

/// How a member starts.
#[derive(Clone, Copy, Default)]
pub(crate) struct Start<'a> {
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) seeds: &'a [u8],
    pub(crate) mdns: bool,
    /// The machine whose identity this one has: its disk is a copy.
    pub(crate) copy_of: Option<u8>,
}

pub(crate) struct Member {
    pub(crate) n: u8,
    pub(crate) epoch: u64,
    pub(crate) discovery: Discovery,
    network: Arc<Network>,
}

impl Floor {
    pub(crate) fn new() -> Self {
        Self { network: Arc::default(), home: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn state_dir(&self, n: u8) -> std::path::PathBuf {
        self.home.path().join(n.to_string())
    }

    pub(crate) fn start(&self, n: u8, start: Start<'_>) -> Member {
        self.try_start(n, start).unwrap()
    }

    pub(crate) fn config(&self, n: u8, start: Start<'_>) -> DiscoveryConfig {
        DiscoveryConfig {
            cluster: start.cluster.unwrap_or(CLUSTER),
            pace: Pace::FAST,
            seeds: start.seeds.iter().map(|n| address(*n)).collect(),
            mdns: start.mdns.then_some(MdnsConfig { loopback: true }),
            state_dir: self.state_dir(n),
        }
    }

    pub(crate) fn try_start(&self, n: u8, start: Start<'_>) -> Result<Member, DiscoveryError> {
        let config = self.config(n, start);
        let opened = Discovery::open(config)?;
        let epoch = opened.epoch();
        let own = MemberState { node: node(start.copy_of.unwrap_or(n)), ..state(n, epoch) };
        let cable = Arc::new(Cable { network: Arc::clone(&self.network), own: Mutex::new(own.clone()) });
        self.network.listen(address(n), Listener { discovery: None, state: Some(own.clone()) });
        let discovery = opened.start(own.clone(), cable)?;
        self.network.listen(address(n), Listener { discovery: Some(discovery.clone()), state: Some(own) });
        Ok(Member { n, epoch, discovery, network: Arc::clone(&self.network) })
    }

    /// A member that was started in another way.
    pub(crate) fn holding(&self, n: u8, discovery: Discovery) -> Member {
        Member { n, epoch: discovery.epoch(), discovery, network: Arc::clone(&self.network) }
    }

    /// Somebody who holds a certificate of the cluster and is no member, such as a client.
    pub(crate) fn listen_without_being_a_member(&self, n: u8) {
        self.network.listen(address(n), Listener { discovery: None, state: None });
    }

    /// Somebody else's address, as after a change of addresses.
    pub(crate) fn listen_in_place_of(&self, place: u8, n: u8) {
        self.network.listen(address(place), Listener { discovery: None, state: Some(state(n, 1)) });
    }

    pub(crate) fn write(&self, n: u8, file: &str, content: &str) {
        std::fs::create_dir_all(self.state_dir(n)).unwrap();
        std::fs::write(self.state_dir(n).join(file), content).unwrap();
    }
}

pub(crate) fn state(n: u8, epoch: u64) -> MemberState {
    MemberState {
        node: node(n),
        name: format!("machine-{n}"),
        role: Role::Node,
        software: "0.1.0".into(),
        address: address(n),
        http: None,
        door: false,
        epoch,
        revision: 0,
        draining: false,
        cordoned: false,
        weight: 100,
        load: LoadReport { running: 0, queued: 0, slots: 4, limit: 0, call_us: 0 },
        models: vec![],
        certificate_expires: 0,
        certificate_generation: 1,
        trust: lineside_wire::TrustStamp::default(),
        authority: false,
    }
}

impl Member {
    /// Waits until the member's view is as described.
    pub(crate) async fn sees(&self, what: &str, state: impl Fn(&ClusterView) -> bool) -> Arc<ClusterView> {
        let mut views = self.discovery.view();
        let seen = timeout(PATIENCE, views.wait_for(|view| state(view))).await;
        match seen {
            Ok(Ok(view)) => Arc::clone(&view),
            Ok(Err(_)) => panic!("machine {}: the gossip thread ended before: {what}", self.n),
            Err(_) => panic!(
                "machine {}: not in time: {what}; it sees {:#?}",
                self.n,
                *self.discovery.view().borrow()
            ),
        }
    }

    /// Waits until so many members can be called.
    pub(crate) async fn sees_usable(&self, count: usize) {
        let what = format!("{count} usable members");
        let usable = |view: &ClusterView| view.members.values().filter(|m| m.is_usable()).count() == count;
        self.sees(&what, usable).await;
    }

    /// Waits until the member has a double of a machine in its view, there or gone.
    pub(crate) async fn sees_double(&self, of: u8, at: Option<u8>) {
        let what = format!("a double of machine {of} at {at:?}");
        let at = at.map(address);
        self.sees(&what, |view| view.member(node(of)).is_some_and(|member| member.double == at)).await;
    }

    pub(crate) async fn sees_standing(&self, n: u8, standing: Standing) {
        let what = format!("machine {n} is {standing:?}");
        self.sees(&what, |view| view.member(node(n)).is_some_and(|member| member.standing == standing)).await;
    }

    /// Waits until the counters are as described.
    pub(crate) async fn counts(
        &self,
        what: &str,
        state: impl Fn(&lineside_discovery::Counters) -> bool,
    ) -> lineside_discovery::Counters {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            // No state announces itself here, so the wait is a short look every now and then.
            let counters = self.discovery.counters();
            if state(&counters) {
                return counters;
            }
            assert!(
                tokio::time::Instant::now() < end,
                "machine {}: not in time: {what}; {counters:#?}",
                self.n
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn leave(self) {
        self.discovery.leave().await;
        self.network.unplug(address(self.n));
    }

    /// Ends without a word, as a killed process does; its thread ends when nobody holds it any more.
    pub(crate) async fn kill(self) {
        let mut views = self.discovery.view();
        self.network.unplug(address(self.n));
        drop(self.discovery);
        let ended = async { while views.changed().await.is_ok() {} };
        timeout(PATIENCE, ended).await.expect("the gossip thread ends with its last handle");
    }
}

pub(crate) fn content(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
