//! A floor with an authority that is at work, members on it, and strangers before it.

use std::{
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use lineside_certs::{
    Authority, Clock, Credentials, Identity, Lifetimes, PeerIdentity, Revoke, Subject, Trust, server_name_of,
};
use lineside_mesh::{Destination, Incoming, Mesh, MeshConfig, Outbound, Presence, Served, Service};
use lineside_wire::{
    CallContext, Empty, EncodedFrame, Greeting, LoadReport, MemberState, NodeId, PROTOCOL_VERSION,
    PayloadBuilder, RequestId, Role, decode_part, method,
};
use quinn::crypto::rustls::QuicClientConfig;
use tempfile::TempDir;
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster's authority.
pub(crate) struct Floor {
    pub(crate) home: TempDir,
    pub(crate) authority: Arc<Authority>,
}

impl Floor {
    pub(crate) fn new() -> Self {
        Self::with_lifetimes(Lifetimes::default())
    }

    pub(crate) fn with_lifetimes(lifetimes: Lifetimes) -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::create(&home.path().join("ca"), "floor", SystemTime::now()).unwrap();
        Self { home, authority: Arc::new(authority.with_lifetimes(lifetimes)) }
    }

    /// What the authority says now.
    pub(crate) fn trust(&self) -> Trust {
        Trust::own(&self.authority.trust().unwrap()).unwrap()
    }

    /// A new machine's identity.
    pub(crate) fn identity(&self, role: Role, name: &str) -> Arc<Identity> {
        self.issue(&self.authority, &Subject::new(role, name))
    }

    /// A fresh certificate for a machine that has one.
    pub(crate) fn renewed(&self, identity: &Identity) -> Arc<Identity> {
        self.renewed_by(&self.authority, identity)
    }

    /// The same by another holder of the authority's key.
    pub(crate) fn renewed_by(&self, holder: &Authority, identity: &Identity) -> Arc<Identity> {
        let (role, node, name) = (identity.role(), identity.node(), identity.name().to_owned());
        self.issue(holder, &Subject { role, node, name })
    }

    /// The authority on a second machine, which hears no more of the first one from now on.
    pub(crate) fn copied(&self) -> Authority {
        let (from, to) = (self.home.path().join("ca"), self.home.path().join("copy"));
        std::fs::DirBuilder::new().mode(0o700).create(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        Authority::load(&to).unwrap()
    }

    pub(crate) fn issue(&self, holder: &Authority, subject: &Subject) -> Arc<Identity> {
        let issued = holder.issue(subject, SystemTime::now()).unwrap();
        Arc::new(Identity::of(&issued).unwrap().with_trust(self.trust()))
    }

    pub(crate) fn member(&self, name: &str) -> Member {
        Member::start(self.identity(Role::Node, name))
    }

    pub(crate) fn revoke(&self, node: NodeId) {
        self.authority.revoke(&Revoke::Node(node), SystemTime::now()).unwrap();
    }

    /// Hands the present trust list to these members.
    pub(crate) fn publish(&self, members: &[&Member]) {
        for member in members {
            let identity = member.credentials.identity();
            let trust = identity.trust().succeed(&self.authority.trust().unwrap()).unwrap();
            member.credentials.replace(Arc::new(identity.with_trust(trust)));
        }
    }
}

/// What a member sees, for the tests to wait on.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    Met(NodeId),
    Lost(NodeId),
    Gossip(NodeId, Bytes),
}

pub(crate) struct Member {
    pub(crate) mesh: Mesh,
    pub(crate) credentials: Credentials,
    pub(crate) seen: mpsc::Receiver<Seen>,
    pub(crate) held: Arc<Held>,
}

impl Member {
    pub(crate) fn start(identity: Arc<Identity>) -> Self {
        Self::start_with(Credentials::new(identity, Clock::system()), Self::config())
    }

    pub(crate) fn config() -> MeshConfig {
        MeshConfig::listening(([127, 0, 0, 1], 0).into())
    }

    pub(crate) fn start_with(credentials: Credentials, config: MeshConfig) -> Self {
        let (tell, seen) = mpsc::channel(256);
        let held = Arc::new(Held::default());
        let presence = Arc::new(Witness { identity: credentials.identity(), tell });
        let service = Arc::new(Work { held: Arc::clone(&held) });
        let mesh = Mesh::bind(config, credentials.clone(), presence, service).unwrap();
        Self { mesh, credentials, seen, held }
    }

    pub(crate) fn node(&self) -> NodeId {
        self.credentials.identity().node()
    }

    pub(crate) fn destination(&self) -> Destination {
        Destination { node: self.node(), address: self.mesh.local_addr() }
    }

    /// Pings another member; gives the serial number of the certificate by which that one knows us.
    pub(crate) async fn ping(&self, to: &Self) -> String {
        let reply = self.mesh.call(to.destination(), ping()).await.unwrap();
        decode_part(&reply.result).unwrap()
    }

    pub(crate) async fn sees(&mut self, wanted: &Seen) {
        let search = async { while self.seen.recv().await.expect("the witness lives").ne(wanted) {} };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("{wanted:?} was never seen"));
    }
}

pub(crate) fn ping() -> Outbound<Empty> {
    Outbound::new(method::PING, Empty {})
}

pub(crate) fn hold() -> Outbound<Empty> {
    Outbound::new(method::HEALTH, Empty {})
}

struct Witness {
    identity: Arc<Identity>,
    tell: mpsc::Sender<Seen>,
}

impl Presence for Witness {
    fn greeting(&self) -> Greeting {
        let (node, role) = (self.identity.node(), self.identity.role());
        let member = role.is_member().then(|| MemberState {
            node,
            name: self.identity.name().to_owned(),
            role,
            software: "test".to_owned(),
            address: ([127, 0, 0, 1], 1).into(),
            http: None,
            door: false,
            epoch: 1,
            revision: 1,
            draining: false,
            cordoned: false,
            weight: 100,
            load: LoadReport::default(),
            models: Vec::new(),
            certificate_expires: 0,
            certificate_generation: 1,
            trust: lineside_wire::TrustStamp::default(),
            authority: false,
        });
        Greeting { protocol: PROTOCOL_VERSION, cluster: self.identity.cluster(), member, clock_ms: 0 }
    }

    fn met(&self, peer: &PeerIdentity, _greeting: &Greeting, _remote: SocketAddr) {
        drop(self.tell.try_send(Seen::Met(peer.node)));
    }

    fn lost(&self, node: NodeId) {
        drop(self.tell.try_send(Seen::Lost(node)));
    }

    fn gossip(&self, from: NodeId, packet: Bytes) {
        drop(self.tell.try_send(Seen::Gossip(from, packet)));
    }
}

/// Calls that the service keeps open.
#[derive(Default)]
pub(crate) struct Held {
    calls: Mutex<Vec<Incoming>>,
    changed: Notify,
}

impl Held {
    /// Waits until so many are open.
    pub(crate) async fn until(&self, count: usize) {
        let enough = async {
            while self.calls.lock().unwrap().len() < count {
                self.changed.notified().await;
            }
        };
        timeout(PATIENCE, enough).await.expect("the calls arrive");
    }

    /// Answers all of them.
    pub(crate) fn answer(&self) {
        for call in self.calls.lock().unwrap().drain(..) {
            call.reply.answer(&Empty {}, None, PayloadBuilder::new());
        }
    }
}

/// `health` is held open; all else is answered with the serial number of the caller's certificate.
struct Work {
    held: Arc<Held>,
}

impl Service for Work {
    fn serve(&self, call: Incoming) -> Served {
        if call.method == method::HEALTH {
            self.held.calls.lock().unwrap().push(call);
            self.held.changed.notify_one();
        } else {
            let serial = call.peer.serial.clone();
            call.reply.answer(&serial, None, PayloadBuilder::new());
        }
        Served::Done
    }
}

/// One complete request.
pub(crate) fn raw_request<P: serde::Serialize>(method: &str, params: &P) -> Bytes {
    let context = CallContext::default();
    EncodedFrame::request(RequestId(7), method, &context, params, PayloadBuilder::new()).start
}

/// Somebody who speaks QUIC with TLS settings of their own.
pub(crate) struct Raw {
    endpoint: quinn::Endpoint,
}

impl Raw {
    pub(crate) fn new() -> Self {
        Self { endpoint: quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap() }
    }

    pub(crate) async fn dial(
        &self,
        tls: Arc<rustls::ClientConfig>,
        address: SocketAddr,
        name: &str,
    ) -> Result<quinn::Connection, quinn::ConnectionError> {
        let tls = QuicClientConfig::try_from(tls).unwrap();
        let client = quinn::ClientConfig::new(Arc::new(tls));
        self.endpoint.connect_with(client, address, name).unwrap().await
    }

    pub(crate) async fn dial_member(
        &self,
        tls: Arc<rustls::ClientConfig>,
        to: &Member,
    ) -> Result<quinn::Connection, quinn::ConnectionError> {
        let identity = to.credentials.identity();
        let name = server_name_of(identity.node(), identity.cluster());
        self.dial(tls, to.mesh.local_addr(), &name).await
    }
}

/// Why a connection ended.
pub(crate) async fn end_of(connection: &quinn::Connection) -> quinn::ConnectionError {
    timeout(PATIENCE, connection.closed()).await.expect("the connection ends")
}

/// The code with which the other side closed a connection.
pub(crate) fn close_code(end: &quinn::ConnectionError) -> u64 {
    match end {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into(),
        other => panic!("{other}"),
    }
}
