//! Members that the tests make up: real certificates, real QUIC, port 0, and a service that adds.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lineside_certs::{
    Authority, CertificateRequest, Credentials, Identity, JoinCertificates, Lifetimes, PeerIdentity, Revoke,
    Subject, TOKEN_LIFETIME, Token, TokenOrder, Trust,
};
use lineside_client::{Client, Element};
use lineside_mesh::{Enrolment, Incoming, Mesh, MeshConfig, Presence, Responder, Served, Service};
use lineside_wire::{
    ClusterId, Empty, Enrolled, Fault, FaultCode, Greeting, Health, InferParams, InferResult, JoinParams,
    LoadReport, MemberRow, MemberState, MembersResult, ModelInfo, ModelState, ModelVersion, ModelsResult,
    NodeId, PROTOCOL_VERSION, PayloadBuilder, RenewParams, Role, RunReport, SignedTrust, Tensor, TensorSpec,
    TrustStamp, decode_part, join_tensors, method, split_tensors,
};
use tempfile::TempDir;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster's authority, its members and who knows whom.
pub(crate) struct Floor {
    pub(crate) home: TempDir,
    authority: Arc<Authority>,
    /// What every member answers to `cluster.members`.
    list: watch::Sender<Vec<MemberRow>>,
}

impl Floor {
    pub(crate) fn new() -> Self {
        Self::with_lifetimes(Lifetimes::default())
    }

    /// A floor whose certificates live so long.
    pub(crate) fn with_lifetimes(lifetimes: Lifetimes) -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::create(&home.path().join("ca"), "floor", SystemTime::now()).unwrap();
        let authority = Arc::new(authority.with_lifetimes(lifetimes));
        Self { home, authority, list: watch::Sender::default() }
    }

    /// A node with the authority's key, which lets others join.
    pub(crate) fn holder(&self, name: &str) -> Member {
        let holder = self.node(name);
        self.list.send_modify(|list| {
            let row = list.iter_mut().find(|row| row.node == holder.identity.node()).unwrap();
            row.member.as_mut().unwrap().authority = true;
        });
        let enrolment = Enrols { authority: Arc::clone(&self.authority), node: holder.identity.node() };
        holder.mesh.set_enrolment(Some(Arc::new(enrolment)));
        holder
    }

    /// A token for one program, which names where these members are.
    pub(crate) fn token(&self, role: Role, at: &[&Member]) -> Token {
        let order = TokenOrder { role, name: None, lifetime: TOKEN_LIFETIME };
        let addresses = at.iter().map(|member| member.address.to_string()).collect();
        self.authority.create_token(&order, SystemTime::now()).unwrap().at(addresses)
    }

    /// How many certificates a member or program has had.
    pub(crate) fn certificates_of(&self, node: NodeId) -> usize {
        self.authority.issued().unwrap().iter().filter(|row| row.node == node).count()
    }

    /// Revokes a member or a program; only these hear of it, and tell it.
    pub(crate) fn revoke(&self, node: NodeId, told: &[&Member]) {
        self.authority.revoke(&Revoke::Node(node), SystemTime::now()).unwrap();
        self.tell_trust(told);
    }

    /// These members take over the newest trust list, and tell that they go by it.
    pub(crate) fn tell_trust(&self, told: &[&Member]) {
        let trust = Trust::own(&self.authority.trust().unwrap()).unwrap();
        for member in told {
            let present = member.credentials.identity();
            member.credentials.replace(Arc::new(present.with_trust(trust.clone())));
            self.claim(member, trust.stamp());
        }
    }

    /// The authority is replaced by its next generation, and these members go by both.
    pub(crate) fn begin_rotation(&self, members: &[&Member]) {
        self.authority.rotation_start(SystemTime::now()).unwrap();
        self.tell_trust(members);
        for member in members {
            let request = CertificateRequest::new();
            let params = RenewParams { csr: request.csr().to_vec().into() };
            let present = member.credentials.identity();
            let answer = self.authority.renew(present.holder(), &params, SystemTime::now()).unwrap();
            let renewed = Identity::of(&request.renew(&present, &answer).unwrap()).unwrap();
            member.credentials.replace(Arc::new(renewed));
        }
    }

    /// The old generation is trusted no more.
    pub(crate) fn finish_rotation(&self, members: &[&Member]) {
        self.authority.rotation_finish(SystemTime::now()).unwrap();
        self.tell_trust(members);
    }

    /// The member list says that this member goes by such a trust list.
    pub(crate) fn claim(&self, member: &Member, stamp: TrustStamp) {
        self.list.send_modify(|list| {
            let row = list.iter_mut().find(|row| row.node == member.identity.node()).unwrap();
            row.member.as_mut().unwrap().trust = stamp;
        });
    }

    pub(crate) fn identity(&self, role: Role, name: &str) -> Arc<Identity> {
        let directory = self.home.path().join(name);
        let issued = self.authority.issue(&Subject::new(role, name), SystemTime::now()).unwrap();
        Identity::store(&directory, &issued).unwrap();
        Arc::new(Identity::load(&directory).unwrap())
    }

    pub(crate) fn node(&self, name: &str) -> Member {
        self.member(Role::Node, name)
    }

    pub(crate) fn door(&self, name: &str) -> Member {
        self.member(Role::Gateway, name)
    }

    /// The door of this name, started again where it was.
    pub(crate) async fn door_at(&self, name: &str, address: SocketAddr) -> Member {
        let identity = Arc::new(Identity::load(&self.home.path().join(name)).unwrap());
        self.list.send_modify(|list| list.retain(|row| row.node != identity.node()));
        // The last tasks of the old one may still hold its socket.
        let free = async {
            while std::net::UdpSocket::bind(address).is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, free).await.expect("the address becomes free");
        self.start(identity, address)
    }

    fn member(&self, role: Role, name: &str) -> Member {
        self.start(self.identity(role, name), ([127, 0, 0, 1], 0).into())
    }

    fn start(&self, identity: Arc<Identity>, address: SocketAddr) -> Member {
        let credentials = Credentials::from(Arc::clone(&identity));
        let work = Arc::new(Work {
            own: identity.node(),
            cluster: identity.cluster(),
            list: self.list.clone(),
            log: Mutex::default(),
            held: Mutex::default(),
            lost: Mutex::default(),
            watchers: AtomicU32::new(0),
            changed: Notify::new(),
            credentials: credentials.clone(),
            authority: Arc::clone(&self.authority),
            false_trust: Mutex::default(),
            trust_asked: AtomicU32::new(0),
        });
        let presence = Arc::new(Greets::new(&identity, Arc::clone(&work)));
        let config = MeshConfig::listening(address);
        let mesh =
            Mesh::bind(config, credentials.clone(), presence, Arc::new(Serves(Arc::clone(&work)))).unwrap();
        let address = mesh.local_addr();
        self.list.send_modify(|list| list.push(row(state(&identity, address))));
        Member { mesh, identity, credentials, address, work }
    }

    /// One more program, with an identity of its own that is kept nowhere.
    pub(crate) async fn client_again(&self, at: &[&Member]) -> Client {
        let issued = self.authority.issue(&Subject::new(Role::Client, "again"), SystemTime::now()).unwrap();
        let identity = Identity::of(&issued).unwrap();
        Client::connect(identity, at.iter().map(|member| member.address)).await.unwrap()
    }

    pub(crate) async fn client(&self, at: &[&Member]) -> Client {
        let identity = self.identity(Role::Client, "program");
        Client::connect(identity, at.iter().map(|member| member.mesh.local_addr())).await.unwrap()
    }
}

/// One dimension of any length.
fn floats(name: &str) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype: f32::DATATYPE, shape: vec![-1] }
}

/// What a member says of itself. A node serves `add`.
fn state(identity: &Identity, address: SocketAddr) -> MemberState {
    let is_node = identity.role() == Role::Node;
    let add = ModelInfo {
        name: "add".parse().unwrap(),
        version: ModelVersion(1),
        state: ModelState::Ready,
        reason: None,
        inputs: ["a", "b"].map(floats).into(),
        outputs: vec![floats("sum")],
        slots: 4,
        tasks: Vec::new(),
        engine: None,
    };
    MemberState {
        node: identity.node(),
        name: identity.name().to_owned(),
        role: identity.role(),
        software: "test".to_owned(),
        address,
        http: None,
        door: !is_node,
        epoch: 1,
        revision: 1,
        draining: false,
        cordoned: false,
        weight: 100,
        load: LoadReport { running: 0, queued: 0, slots: if is_node { 4 } else { 0 }, limit: 0, call_us: 0 },
        models: if is_node { vec![add] } else { Vec::new() },
        certificate_expires: 0,
        certificate_generation: 1,
        trust: identity.trust().stamp(),
        authority: false,
    }
}

fn row(member: MemberState) -> MemberRow {
    MemberRow {
        node: member.node,
        name: member.name.clone(),
        address: member.address,
        state: "alive".to_owned(),
        role: Some(member.role),
        member: Some(member),
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

/// Lets strangers join as the authority says.
struct Enrols {
    authority: Arc<Authority>,
    node: NodeId,
}

impl Enrolment for Enrols {
    fn certificates(&self) -> JoinCertificates {
        self.authority.join_certificates(self.node, SystemTime::now()).unwrap()
    }

    fn join(
        &self,
        params: JoinParams,
        exporter: [u8; 32],
        remote: SocketAddr,
    ) -> BoxFuture<'static, Result<Enrolled, Fault>> {
        let joined = self.authority.join(&params, &exporter, &remote.to_string(), SystemTime::now());
        let denied = |_| Fault::new(FaultCode::PermissionDenied, "this token cannot be used");
        Box::pin(std::future::ready(joined.map_err(denied)))
    }
}

struct Greets {
    greeting: Greeting,
    work: Arc<Work>,
}

impl Greets {
    fn new(identity: &Identity, work: Arc<Work>) -> Self {
        let member = Some(state(identity, ([127, 0, 0, 1], 1).into()));
        Self {
            greeting: Greeting {
                protocol: PROTOCOL_VERSION,
                cluster: identity.cluster(),
                member,
                clock_ms: 0,
            },
            work,
        }
    }
}

impl Presence for Greets {
    fn greeting(&self) -> Greeting {
        self.greeting.clone()
    }

    fn met(&self, _peer: &PeerIdentity, _greeting: &Greeting, _remote: SocketAddr) {}

    fn lost(&self, node: NodeId) {
        self.work.lost.lock().unwrap().push(node);
        self.work.changed.notify_waiters();
    }

    fn gossip(&self, _from: NodeId, _packet: Bytes) {}
}

pub(crate) struct Member {
    pub(crate) mesh: Mesh,
    pub(crate) identity: Arc<Identity>,
    pub(crate) credentials: Credentials,
    pub(crate) address: SocketAddr,
    pub(crate) work: Arc<Work>,
}

/// A member's service: adds, or holds calls of the model `slow` until the test lets them go.
pub(crate) struct Work {
    own: NodeId,
    cluster: ClusterId,
    list: watch::Sender<Vec<MemberRow>>,
    pub(crate) log: Mutex<Vec<String>>,
    pub(crate) held: Mutex<Vec<Incoming>>,
    lost: Mutex<Vec<NodeId>>,
    watchers: AtomicU32,
    changed: Notify,
    credentials: Credentials,
    authority: Arc<Authority>,
    /// What it says when it is asked for its trust list, in the place of the true one.
    pub(crate) false_trust: Mutex<Option<SignedTrust>>,
    trust_asked: AtomicU32,
}

/// Counts as a watcher of its member until it is dropped.
struct Watcher(Arc<Work>);

impl Watcher {
    fn begin(work: &Arc<Work>) -> Self {
        work.watchers.fetch_add(1, SeqCst);
        work.changed.notify_waiters();
        Self(Arc::clone(work))
    }

    /// Sends the list at once and at each change.
    async fn run(self, mut reply: Responder) {
        let mut list = self.0.list.subscribe();
        loop {
            list.mark_unchanged();
            let members = self.0.members();
            reply.item(&members, PayloadBuilder::new()).await.unwrap();
            list.changed().await.unwrap();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, SeqCst);
        self.0.changed.notify_waiters();
    }
}

impl Work {
    /// Waits until this many calls are held, and gives them.
    pub(crate) async fn held(&self, count: usize) -> Vec<Incoming> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                {
                    let mut held = self.held.lock().unwrap();
                    if count <= held.len() {
                        return std::mem::take(&mut *held);
                    }
                }
                changed.await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the calls arrive")
    }

    /// Waits until the last connection with this peer is gone.
    pub(crate) async fn loses(&self, node: NodeId) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if self.lost.lock().unwrap().contains(&node) {
                    return;
                }
                changed.await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the peer goes");
    }

    /// Waits until this many callers watch the members here.
    pub(crate) async fn watched_by(&self, count: u32) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if self.watchers.load(SeqCst) == count {
                    return;
                }
                changed.await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the watchers come and go");
    }

    /// Waits until it was asked for its trust list this often.
    pub(crate) async fn trust_asked(&self, count: u32) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if count <= self.trust_asked.load(SeqCst) {
                    return;
                }
                changed.await;
            }
        };
        timeout(PATIENCE, wait).await.expect("its trust list is asked for");
    }

    fn trust(&self) -> Option<SignedTrust> {
        self.trust_asked.fetch_add(1, SeqCst);
        self.changed.notify_waiters();
        let lie = self.false_trust.lock().unwrap().clone();
        lie.or_else(|| self.credentials.identity().trust().signed().cloned())
    }

    fn renew(&self, call: Incoming) {
        let params: RenewParams = decode_part(&call.params).unwrap();
        match self.authority.renew(&call.peer, &params, SystemTime::now()) {
            Ok(answer) => call.reply.answer(&answer, None, PayloadBuilder::new()),
            Err(error) => {
                call.reply.fail(&Fault::new(FaultCode::PermissionDenied, error.to_string()), None);
            }
        }
    }

    pub(crate) fn watchers(&self) -> u32 {
        self.watchers.load(SeqCst)
    }

    fn members(&self) -> MembersResult {
        let members = self.list.borrow().clone();
        MembersResult { cluster: self.cluster, answered_by: self.own, members }
    }

    fn add(&self, call: Incoming) {
        match self.sum(&call) {
            Ok((result, payload)) => {
                let load = LoadReport { running: 0, queued: 0, slots: 4, limit: 0, call_us: 0 };
                let report =
                    RunReport { node: self.own, load, queue_us: 3, run_us: 5, attempts: 1, batch: 1 };
                call.reply.answer(&result, Some(&report), payload);
            }
            Err(fault) => call.reply.fail(&fault, None),
        }
    }

    fn sum(&self, call: &Incoming) -> Result<(InferResult, PayloadBuilder), Fault> {
        let params: InferParams = decode_part(&call.params)?;
        let tensors = split_tensors(params.inputs, &call.payload)?;
        let [a, b] = &tensors[..] else {
            return Err(Fault::new(FaultCode::InvalidParams, "add takes two inputs"));
        };
        let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
        let pairs = a.bytes.chunks(4).zip(b.bytes.chunks(4));
        let sums: Vec<u8> = pairs.flat_map(|(a, b)| (number(a) + number(b)).to_le_bytes()).collect();
        let shape = a.shape.dims().to_vec();
        let sum = Tensor::new("sum", f32::DATATYPE, shape, sums.into()).unwrap();
        let (outputs, payload) = join_tensors(&[sum]);
        let version = params.version.unwrap_or(ModelVersion::ONLY);
        Ok((InferResult { model: params.model, version, outputs, parameters: params.parameters }, payload))
    }
}

/// The service of one member; watchers outlive the call that begins them.
struct Serves(Arc<Work>);

impl Service for Serves {
    fn serve(&self, call: Incoming) -> Served {
        self.0.serve(call)
    }
}

impl Work {
    fn serve(self: &Arc<Self>, call: Incoming) -> Served {
        match &*call.method {
            method::INFER => {
                let params: InferParams = decode_part(&call.params).unwrap();
                if params.model.as_str() == "slow" {
                    self.held.lock().unwrap().push(call);
                    self.changed.notify_waiters();
                } else {
                    self.add(call);
                }
            }
            method::CLUSTER_MEMBERS => {
                call.reply.answer(&self.members(), None, PayloadBuilder::new());
            }
            method::CLUSTER_WATCH => {
                return Served::Later(Box::pin(Watcher::begin(self).run(call.reply)));
            }
            method::MODELS_LIST => {
                call.reply.answer(&ModelsResult::default(), None, PayloadBuilder::new());
            }
            method::HEALTH => {
                let health = Health { live: true, ready: true, reason: None };
                call.reply.answer(&health, None, PayloadBuilder::new());
            }
            method::TRUST_GET => call.reply.answer(&self.trust().unwrap(), None, PayloadBuilder::new()),
            method::CERTS_RENEW => self.renew(call),
            method::PING => call.reply.answer(&Empty {}, None, PayloadBuilder::new()),
            lineside_certs::roles::LOG => {
                self.log.lock().unwrap().push(decode_part(&call.params).unwrap());
                call.reply.answer(&Empty {}, None, PayloadBuilder::new());
            }
            other => {
                let fault = Fault::new(FaultCode::MethodNotFound, format!("no method {other}"));
                call.reply.fail(&fault, None);
            }
        }
        Served::Done
    }
}
