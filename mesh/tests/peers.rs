//! Peers over loopback: real certificates, real QUIC, port 0.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::StreamExt;
use lineside_certs::{Authority, Identity, PeerIdentity, Refusal, Subject};
use lineside_mesh::{
    BindError, CallFailure, Destination, DialError, Incoming, Mesh, MeshConfig, NotSent, Outbound, Presence,
    Served, Service, Timing,
};
use lineside_wire::{
    CallContext, ClusterId, Datatype, Empty, EncodedFrame, FaultCode, Greeting, LoadReport, MemberRow,
    MemberState, MembersResult, ModelInfo, ModelState, ModelVersion, NodeId, PROTOCOL_VERSION,
    PayloadBuilder, RequestId, Role, RunReport, TensorSpec, decode_part, method,
};
use tempfile::TempDir;
use tokio::{
    net::UdpSocket,
    sync::{Notify, mpsc},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Floor {
    home: TempDir,
    authority: Authority,
}

impl Floor {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::create(&home.path().join("ca"), "floor", SystemTime::now()).unwrap();
        Self { home, authority }
    }

    fn identity(&self, role: Role, name: &str) -> Arc<Identity> {
        let directory = self.home.path().join(name);
        if !directory.exists() {
            let issued = self.authority.issue(&Subject::new(role, name), SystemTime::now()).unwrap();
            Identity::store(&directory, &issued).unwrap();
        }
        Arc::new(Identity::load(&directory).unwrap())
    }

    fn member(&self, name: &str) -> Member {
        self.member_at(Role::Node, name, ([127, 0, 0, 1], 0).into()).unwrap()
    }

    fn member_at(&self, role: Role, name: &str, address: SocketAddr) -> Result<Member, BindError> {
        Member::start(self.identity(role, name), MeshConfig::listening(address))
    }

    fn caller(&self, role: Role, name: &str) -> Member {
        Member::start(self.identity(role, name), MeshConfig::dialling()).unwrap()
    }
}

/// A packet that makes whoever gets it panic.
const POISON: &[u8] = b"poison";

/// What a member sees, for the tests to wait on.
#[derive(Debug, PartialEq)]
enum Seen {
    Met(NodeId),
    Lost(NodeId),
    Gossip(NodeId, Bytes),
}

struct Member {
    mesh: Mesh,
    identity: Arc<Identity>,
    seen: mpsc::Receiver<Seen>,
    held: Arc<Held>,
}

impl Member {
    fn start(identity: Arc<Identity>, config: MeshConfig) -> Result<Self, BindError> {
        let as_member = identity.role().is_member();
        Self::start_as(as_member, identity, config)
    }

    fn start_as(as_member: bool, identity: Arc<Identity>, config: MeshConfig) -> Result<Self, BindError> {
        let (tell, seen) = mpsc::channel(256);
        let held = Arc::new(Held::default());
        let presence = Arc::new(Witness { as_member, identity: Arc::clone(&identity), tell });
        let service = Arc::new(Echo { held: Arc::clone(&held) });
        let mesh = Mesh::bind(config, Arc::clone(&identity), presence, service)?;
        Ok(Self { mesh, identity, seen, held })
    }

    fn destination(&self) -> Destination {
        Destination { node: self.identity.node(), address: self.mesh.local_addr() }
    }

    async fn sees(&mut self, wanted: &Seen) {
        let search = async { while self.seen.recv().await.expect("the witness lives").ne(wanted) {} };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("{wanted:?} was never seen"));
    }
}

struct Witness {
    as_member: bool,
    identity: Arc<Identity>,
    tell: mpsc::Sender<Seen>,
}

impl Presence for Witness {
    fn greeting(&self) -> Greeting {
        let (node, role) = (self.identity.node(), self.identity.role());
        let member = self.as_member.then(|| MemberState {
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
        assert_ne!(packet, POISON, "a defect in what takes gossip");
        drop(self.tell.try_send(Seen::Gossip(from, packet)));
    }
}

/// Calls that the service keeps open.
#[derive(Default)]
struct Held {
    calls: Mutex<Vec<Incoming>>,
    changed: Notify,
    /// Items of streamed results that were made, and streamed results that have ended.
    made: AtomicU64,
    ended: AtomicU64,
}

impl Held {
    async fn until_one(&self) {
        let one = async {
            while self.calls.lock().unwrap().is_empty() {
                self.changed.notified().await;
            }
        };
        timeout(PATIENCE, one).await.expect("a call arrives");
    }

    /// Waits until this many streamed results have ended, however they did.
    async fn until_ended(&self, count: u64) {
        let wait = async {
            while self.ended.load(SeqCst) < count {
                self.changed.notified().await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the streamed results end");
    }

    /// Sends this many numbers, each with tensors of so many bytes, then the end.
    async fn count(self: Arc<Self>, mut call: Incoming) {
        let _end = Ended(Arc::clone(&self));
        let (count, bytes): (u64, usize) = decode_part(&call.params).unwrap();
        for number in 0..count {
            let mut payload = PayloadBuilder::new();
            payload.push(vec![7; bytes].into());
            match call.reply.item(&number, payload).await {
                Ok(()) => self.made.fetch_add(1, SeqCst),
                Err(NotSent::Gone) => return,
                Err(NotSent::TooLong(fault)) => return call.reply.fail(&fault, None),
            };
        }
        call.reply.answer(&Empty {}, None, PayloadBuilder::new());
    }
}

impl Held {
    /// Work that is not done when it is looked at first. Only its end counts.
    async fn take_a_while(self: Arc<Self>) {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        drop(Ended(self));
    }
}

/// Tells when the work of a streamed result is over: done, or dropped.
struct Ended(Arc<Held>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, SeqCst);
        self.0.changed.notify_one();
    }
}

/// `infer` comes back as it went, `health` is held open, `models.list` panics, `cluster.watch` counts,
/// `models.get` answers with a text as long as asked for, `cluster.members` tells of a full cluster, once as an item
/// and once as its result, `cluster.status` works on for a while, `ping` answers later.
struct Echo {
    held: Arc<Held>,
}

impl Service for Echo {
    fn serve(&self, call: Incoming) -> Served {
        match call.method.as_str() {
            method::INFER => {
                let mut payload = PayloadBuilder::new();
                payload.push(call.payload.clone());
                let report = RunReport {
                    node: call.peer.node,
                    load: LoadReport::default(),
                    queue_us: 0,
                    run_us: call.context.timeout_us.unwrap_or(0),
                    attempts: 1,
                    batch: 1,
                };
                call.reply.answer(&Empty {}, Some(&report), payload);
                Served::Done
            }
            method::HEALTH => {
                self.held.calls.lock().unwrap().push(call);
                self.held.changed.notify_one();
                Served::Done
            }
            method::MODELS_LIST => panic!("a defect in the service"),
            method::CLUSTER_STATUS => Served::Later(Box::pin(Arc::clone(&self.held).take_a_while())),
            method::CLUSTER_MEMBERS => Served::Later(Box::pin(full_floor(call))),
            method::CLUSTER_WATCH => Served::Later(Box::pin(Arc::clone(&self.held).count(call))),
            method::MODELS_GET => {
                let length: usize = decode_part(&call.params).unwrap();
                call.reply.answer(&"x".repeat(length), None, PayloadBuilder::new());
                Served::Done
            }
            _ => Served::Later(Box::pin(
                async move { call.reply.answer(&Empty {}, None, PayloadBuilder::new()) },
            )),
        }
    }
}

/// 256 members with ten models each.
fn full_cluster() -> MembersResult {
    let tensor = |name: &str, i: u32| TensorSpec {
        name: format!("{name}_feature_map_{i}"),
        datatype: Datatype::Fp32,
        shape: vec![-1, 3, 1080, 1920],
    };
    let model = |i: u32| ModelInfo {
        name: format!("surface-inspection-line-{i}").parse().unwrap(),
        version: ModelVersion(u64::from(i) + 1),
        state: ModelState::Ready,
        reason: None,
        inputs: (0..2).map(|i| tensor("input", i)).collect(),
        outputs: (0..2).map(|i| tensor("output", i)).collect(),
        slots: 4,
        tasks: Vec::new(),
        engine: None,
    };
    let row = |n: u8| {
        let (node, address) = (NodeId::from_bytes([n; 16]), ([10, 0, 0, n], 7443).into());
        let state = MemberState {
            node,
            name: format!("inspection-cell-{n}"),
            role: Role::Node,
            software: "0.1.0".to_owned(),
            address,
            http: Some(address),
            door: true,
            epoch: 1 << 40,
            revision: 1 << 40,
            draining: false,
            cordoned: false,
            weight: 100,
            load: LoadReport { running: 4, queued: 60, slots: 4, limit: 0, call_us: 0 },
            models: (0..10).map(model).collect(),
            certificate_expires: 1 << 32,
            certificate_generation: 1,
            trust: lineside_wire::TrustStamp::default(),
            authority: false,
        };
        MemberRow {
            node,
            name: state.name.clone(),
            address,
            state: "alive".to_owned(),
            role: Some(Role::Node),
            member: Some(state),
            seen_ms_ago: 1000,
            in_flight: 9,
            p95_us: Some(10_000),
            calls: 1 << 40,
            failures: 1 << 20,
            rests: None,
            ejections: std::collections::BTreeMap::new(),
            clock_ahead_ms: None,
            double: None,
        }
    };
    let members: Vec<_> = (0..=255).map(row).collect();
    MembersResult { cluster: ClusterId::from_bytes([0xc1; 16]), answered_by: members[0].node, members }
}

async fn full_floor(mut call: Incoming) {
    let list = full_cluster();
    call.reply.item(&list, PayloadBuilder::new()).await.unwrap();
    call.reply.answer(&list, None, PayloadBuilder::new());
}

#[tokio::test]
async fn the_list_of_a_full_cluster_passes_whole_and_as_an_item() {
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    let list = || Outbound::new(method::CLUSTER_MEMBERS, Empty {});
    let reply = door.mesh.call(press.destination(), list()).await.unwrap();
    let limits = MeshConfig::dialling().limits;
    assert!(limits.document_bytes_max as usize * 4 < reply.result.len(), "{} bytes", reply.result.len());
    assert_eq!(decode_part::<MembersResult>(&reply.result), Ok(full_cluster()));
    let mut items = Box::pin(door.mesh.call_streaming(press.destination(), list()));
    let item = items.next().await.unwrap().unwrap();
    assert_eq!(decode_part::<MembersResult>(&item.item), Ok(full_cluster()));
    assert!(items.next().await.is_none());
}

fn infer(bytes: usize) -> Outbound<Empty> {
    let mut payload = PayloadBuilder::new();
    let body: Vec<u8> = (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect();
    payload.push(body.into());
    Outbound { payload, ..Outbound::new(method::INFER, Empty {}) }
}

fn hold() -> Outbound<Empty> {
    Outbound::new(method::HEALTH, Empty {})
}

fn ping() -> Outbound<Empty> {
    Outbound::new(method::PING, Empty {})
}

fn count_to(count: u64, bytes: usize) -> Outbound<(u64, usize)> {
    Outbound::new(method::CLUSTER_WATCH, (count, bytes))
}

#[tokio::test]
async fn the_parts_of_a_result_come_in_order_and_then_it_ends() {
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    for bytes in [0, 100, 70_000] {
        let mut items = Box::pin(door.mesh.call_streaming(press.destination(), count_to(20, bytes)));
        for number in 0..20 {
            let item = timeout(PATIENCE, items.next()).await.expect("an item comes").unwrap().unwrap();
            assert_eq!((item.number, decode_part::<u64>(&item.item)), (number, Ok(number)));
            assert_eq!(item.payload, vec![7; bytes]);
        }
        assert!(items.next().await.is_none());
    }
    press.held.until_ended(3).await;
}

#[tokio::test]
async fn who_reads_slowly_makes_the_maker_wait() {
    const MIB: usize = 1 << 20;
    /// The stream's window, the items that may be made ahead, those being written, and the one that is being read.
    const AHEAD_MAX: u64 = 4 + 4 + 4 + 1;
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    let mut items = Box::pin(door.mesh.call_streaming(press.destination(), count_to(60, MIB)));
    let mut read = 0;
    while let Some(item) = timeout(PATIENCE, items.next()).await.expect("an item comes") {
        assert_eq!(item.unwrap().number, read);
        read += 1;
        // A call on the same connection is not held up, and gives the maker time to run ahead if it could.
        door.mesh.call(press.destination(), ping()).await.unwrap();
        let ahead = press.held.made.load(SeqCst) - read;
        assert!(ahead <= AHEAD_MAX, "{ahead} items were made ahead of their reader");
    }
    assert_eq!(read, 60);
}

#[tokio::test]
async fn dropping_a_streamed_result_frees_its_maker() {
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    // One that waits for its reader, and one that was read up to now.
    for (bytes, read) in [(1 << 20, 1), (0, 3)] {
        let mut items = Box::pin(door.mesh.call_streaming(press.destination(), count_to(u64::MAX, bytes)));
        for _ in 0..read {
            timeout(PATIENCE, items.next()).await.expect("an item comes").unwrap().unwrap();
        }
        let ended = press.held.ended.load(SeqCst);
        drop(items);
        press.held.until_ended(ended + 1).await;
    }
    door.mesh.call(press.destination(), ping()).await.unwrap();
}

#[tokio::test]
async fn a_streamed_result_whose_peer_vanishes_is_lost() {
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    let mut items = Box::pin(door.mesh.call_streaming(press.destination(), count_to(u64::MAX, 1 << 20)));
    items.next().await.unwrap().unwrap();
    press.mesh.shutdown().await;
    let lost = loop {
        // What had arrived is still read.
        match timeout(PATIENCE, items.next()).await.expect("the end comes") {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(lost, Some(Err(CallFailure::Lost { sent: true, .. }))), "{lost:?}");
    assert!(items.next().await.is_none());
    press.held.until_ended(1).await;
}

#[tokio::test]
async fn a_method_that_does_not_stream_ends_a_stream_at_once_and_a_fault_breaks_it() {
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    let mut items = Box::pin(door.mesh.call_streaming(press.destination(), ping()));
    assert!(items.next().await.is_none());
    let unknown = Outbound::new("no.such", Empty {});
    let mut items = Box::pin(door.mesh.call_streaming(press.destination(), unknown));
    let fault = items.next().await;
    assert!(
        matches!(&fault, Some(Err(CallFailure::Fault { fault, .. })) if fault.code == FaultCode::MethodNotFound)
    );
}

#[tokio::test]
async fn what_is_too_long_for_a_frame_fails_alone() {
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    let limits = MeshConfig::dialling().limits;
    let [too_long, too_long_an_answer] =
        [limits.document_bytes_max, limits.answer_bytes_max].map(|max| usize::try_from(max).unwrap());
    let answer = Outbound::new(method::MODELS_GET, too_long_an_answer);
    let answer = door.mesh.call(press.destination(), answer).await;
    let request =
        door.mesh.call(press.destination(), Outbound::new(method::PING, "x".repeat(too_long))).await;
    for refused in [answer, request] {
        let Err(CallFailure::Fault { fault, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(fault.code, FaultCode::LimitExceeded);
    }
    door.mesh.call(press.destination(), ping()).await.unwrap();
}

#[tokio::test]
async fn calls_of_every_size_come_back_as_they_went_and_aligned() {
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    for bytes in [0, 1, 100, 16_000, 16_384, 70_000, 3_000_000] {
        let reply = door.mesh.call(press.destination(), infer(bytes)).await.unwrap();
        let expected = infer(bytes).payload.into_chunks().concat();
        assert!(reply.payload == expected, "{bytes} bytes came back changed");
        assert!(
            bytes == 0 || reply.payload.as_ptr().align_offset(64) == 0,
            "{bytes} bytes do not lie aligned"
        );
    }
}

#[tokio::test]
async fn many_calls_share_one_connection_and_none_is_mixed_up() {
    let floor = Floor::new();
    let (mut press, door) = (floor.member("press"), floor.member("door"));
    let calls = (0..300_u64).map(|i| {
        let mut call = infer(usize::try_from(i * 97).unwrap());
        call.context = CallContext { timeout_us: Some(i), ..CallContext::default() };
        door.mesh.call(press.destination(), call)
    });
    let replies = futures_util::future::join_all(calls).await;
    for (i, reply) in (0..).zip(replies) {
        let reply = reply.unwrap();
        assert_eq!(reply.report.unwrap().run_us, i);
        assert_eq!(reply.payload.len() as u64, i * 97);
    }
    press.sees(&Seen::Met(door.identity.node())).await;
    assert!(press.seen.try_recv().is_err(), "more than one connection was made");
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_at_the_peer() {
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    for big in [false, true] {
        let mut call = hold();
        if big {
            call.payload.push(vec![0; 100_000].into());
        }
        {
            let open = door.mesh.call(press.destination(), call);
            tokio::select! {
                answer = open => panic!("answered: {answer:?}"),
                () = press.held.until_one() => {}
            }
        }
        let held = press.held.calls.lock().unwrap().pop().unwrap();
        timeout(PATIENCE, held.reply.cancelled().wait()).await.expect("the cancellation arrives");
    }
}

#[tokio::test]
async fn a_call_whose_peer_vanishes_is_lost_and_says_so() {
    let floor = Floor::new();
    let (press, mut door) = (floor.member("press"), floor.member("door"));
    let (to, node) = (press.destination(), press.identity.node());
    let open = door.mesh.call(to, hold());
    let vanish = async {
        press.held.until_one().await;
        press.mesh.shutdown().await;
    };
    let (answer, ()) = tokio::join!(open, vanish);
    assert!(matches!(answer, Err(CallFailure::Lost { sent: true, .. })), "{answer:?}");
    door.sees(&Seen::Lost(node)).await;
}

#[tokio::test]
async fn a_call_dropped_by_its_service_is_answered_with_an_internal_fault() {
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    let drop_it = async {
        press.held.until_one().await;
        press.held.calls.lock().unwrap().clear();
    };
    let (answer, ()) = tokio::join!(door.mesh.call(press.destination(), hold()), drop_it);
    let Err(CallFailure::Fault { fault, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(fault.code, FaultCode::Internal);
}

#[tokio::test]
async fn a_panicking_call_ends_its_own_connection_and_no_other() {
    let floor = Floor::new();
    let (press, door, unlucky) = (floor.member("press"), floor.member("door"), floor.member("unlucky"));
    door.mesh.call(press.destination(), ping()).await.unwrap();
    let lost = unlucky.mesh.call(press.destination(), Outbound::new(method::MODELS_LIST, Empty {})).await;
    assert!(matches!(lost, Err(CallFailure::Lost { .. })), "{lost:?}");
    door.mesh.call(press.destination(), ping()).await.unwrap();
    unlucky.mesh.call(press.destination(), ping()).await.unwrap();
}

#[tokio::test]
async fn a_panic_in_what_takes_gossip_ends_its_connection_whose_peer_dials_anew() {
    let floor = Floor::new();
    let (mut press, door, mut unlucky) =
        (floor.member("press"), floor.member("door"), floor.member("unlucky"));
    door.mesh.call(press.destination(), ping()).await.unwrap();
    unlucky.mesh.call(press.destination(), ping()).await.unwrap();
    unlucky.mesh.send_gossip(press.destination(), Bytes::from_static(POISON));
    unlucky.sees(&Seen::Lost(press.identity.node())).await;
    press.sees(&Seen::Lost(unlucky.identity.node())).await;
    unlucky.mesh.call(press.destination(), ping()).await.unwrap();
    unlucky.mesh.send_gossip(press.destination(), Bytes::from_static(b"better"));
    press.sees(&Seen::Gossip(unlucky.identity.node(), Bytes::from_static(b"better"))).await;
    assert!(door.mesh.connected(press.identity.node()).is_some(), "the others' stand");
}

#[tokio::test]
async fn a_role_may_only_call_what_its_table_allows() {
    let floor = Floor::new();
    let (press, plc) = (floor.member("press"), floor.caller(Role::Client, "plc"));
    plc.mesh.call(press.destination(), ping()).await.unwrap();
    let denied = plc.mesh.call(press.destination(), Outbound::new(method::MODELS_UNLOAD, Empty {})).await;
    let unknown = plc.mesh.call(press.destination(), Outbound::new("no.such", Empty {})).await;
    let code = |answer| match answer {
        Err(CallFailure::Fault { fault, .. }) => fault.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(denied), FaultCode::PermissionDenied);
    assert_eq!(code(unknown), FaultCode::MethodNotFound);
    plc.mesh.call(press.destination(), ping()).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_was_dialled_calls_back_on_the_same_connection() {
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    press.mesh.call(door.destination(), ping()).await.unwrap();
    // Nobody is there: only the connection that stands leads to the press.
    let nowhere = Destination { address: "127.0.0.1:1".parse().unwrap(), ..press.destination() };
    door.mesh.call(nowhere, ping()).await.unwrap();
    door.mesh.call(nowhere, infer(200_000)).await.unwrap();
}

#[tokio::test]
async fn a_command_with_a_members_identity_gets_nothing_that_is_meant_for_the_member() {
    let floor = Floor::new();
    let (mut door, press) = (floor.member("door"), floor.member("press"));
    let command =
        Member::start_as(false, floor.identity(Role::Node, "press"), MeshConfig::dialling()).unwrap();
    for caller in [&press, &command] {
        caller.mesh.call(door.destination(), ping()).await.unwrap();
        door.sees(&Seen::Met(press.identity.node())).await;
    }
    let call = door.mesh.call(press.destination(), hold());
    tokio::select! {
        answer = call => panic!("answered: {answer:?}"),
        () = press.held.until_one() => {}
    }
    assert!(command.held.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn gossip_arrives_with_the_senders_proven_name() {
    let floor = Floor::new();
    let (mut press, door) = (floor.member("press"), floor.member("door"));
    door.mesh.send_gossip(press.destination(), Bytes::from_static(b"hear hear"));
    press.sees(&Seen::Gossip(door.identity.node(), Bytes::from_static(b"hear hear"))).await;
}

#[tokio::test]
async fn of_two_machines_with_one_id_each_hears_the_gossip_that_is_meant_for_it() {
    let floor = Floor::new();
    let door = floor.member("door");
    let mut copies = [floor.member("press"), floor.member("press")];
    for copy in &copies {
        door.mesh.greet(copy.mesh.local_addr(), None).await.unwrap();
    }
    for copy in copies.iter_mut().rev() {
        let name = Bytes::from(copy.mesh.local_addr().to_string());
        door.mesh.send_gossip(copy.destination(), name.clone());
        copy.sees(&Seen::Gossip(door.identity.node(), name)).await;
    }
    // They can meet each other too: that is how a copied disk is found.
    let [first, second] = &mut copies;
    let met = first.mesh.greet(second.mesh.local_addr(), None).await.unwrap();
    assert_eq!(met.identity.node, first.identity.node());
    second.sees(&Seen::Met(first.identity.node())).await;
}

#[tokio::test]
async fn another_cluster_is_refused_with_a_reason_on_both_sides() {
    let (ours, theirs) = (Floor::new(), Floor::new());
    let (press, stranger) = (ours.member("press"), theirs.member("stranger"));
    let refused = stranger.mesh.greet(press.mesh.local_addr(), None).await.unwrap_err();
    assert!(matches!(refused, DialError::Refused { refusal: Refusal::UnknownAuthority, .. }), "{refused:?}");
    let unreachable = stranger.mesh.call(press.destination(), ping()).await;
    assert!(matches!(unreachable, Err(CallFailure::Unreachable { .. })), "{unreachable:?}");
}

#[tokio::test]
async fn an_expired_member_hears_why_it_is_refused() {
    let floor = Floor::new();
    let press = floor.member("press");
    let long_ago = SystemTime::now() - Duration::from_secs(400 * 24 * 3600);
    let issued = floor.authority.issue(&Subject::new(Role::Node, "old"), long_ago).unwrap();
    let directory = floor.home.path().join("old");
    Identity::store(&directory, &issued).unwrap();
    let old = Member::start(Arc::new(Identity::load(&directory).unwrap()), MeshConfig::dialling()).unwrap();
    // The dialler's handshake succeeds; the refusal comes late and is still told as what it is.
    let refused = old.mesh.greet(press.mesh.local_addr(), None).await.unwrap_err();
    assert!(matches!(refused, DialError::Refused { refusal: Refusal::Expired, .. }), "{refused:?}");
}

#[tokio::test]
async fn a_silent_address_is_given_up_and_then_rests() {
    let floor = Floor::new();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = MeshConfig::dialling();
    config.timing.connect = Duration::from_millis(100);
    let door = Member::start(floor.identity(Role::Gateway, "door"), config).unwrap();
    let address = silent.local_addr().unwrap();
    assert!(matches!(door.mesh.greet(address, None).await, Err(DialError::Timeout { .. })));
    assert!(matches!(door.mesh.greet(address, None).await, Err(DialError::Resting { .. })));
}

#[tokio::test]
async fn an_address_in_use_is_named_with_a_way_out() {
    let floor = Floor::new();
    let press = floor.member("press");
    let Err(error) = floor.member_at(Role::Node, "weld", press.mesh.local_addr()) else {
        panic!("bound twice")
    };
    let text = error.to_string();
    assert!(text.contains("--listen") && text.contains(&press.mesh.local_addr().to_string()), "{text}");
}

#[tokio::test]
async fn a_restarted_peer_is_found_again_by_the_next_call() {
    let floor = Floor::new();
    let mut door = floor.member("door");
    // A runtime of its own stands for the process: it dies without a word.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let press = {
        let _inside = process.enter();
        floor.member("press")
    };
    let (address, node) = (press.mesh.local_addr(), press.identity.node());
    door.mesh.call(press.destination(), ping()).await.unwrap();
    process.shutdown_background();
    drop(press);

    let again = loop {
        match floor.member_at(Role::Node, "press", address) {
            Ok(member) => break member,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    door.sees(&Seen::Lost(node)).await;
    door.mesh.call(again.destination(), ping()).await.unwrap();
}

/// A member of which QUIC would not know within a minute whether it is gone.
fn patient(address: SocketAddr) -> MeshConfig {
    let config = MeshConfig::listening(address);
    MeshConfig { timing: Timing { idle: Duration::from_secs(60), ..config.timing }, ..config }
}

#[tokio::test]
async fn calls_to_a_process_that_died_are_lost_long_before_quic_gives_it_up() {
    let (floor, any) = (Floor::new(), ([127, 0, 0, 1], 0).into());
    let door = Member::start(floor.identity(Role::Gateway, "door"), patient(any)).unwrap();
    // A runtime of its own stands for the process: it dies without a word.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let press = {
        let _inside = process.enter();
        Member::start(floor.identity(Role::Node, "press"), patient(any)).unwrap()
    };
    let to = press.destination();
    let dies = async {
        press.held.until_one().await;
        process.shutdown_background();
        drop(press);
    };
    let (answer, ()) = tokio::join!(timeout(PATIENCE, door.mesh.call(to, hold())), dies);
    let Ok(Err(CallFailure::Lost { sent: true, reason, .. })) = &answer else { panic!("{answer:?}") };
    assert!(reason.contains("nobody listens"), "{reason}");
}

/// A router between two members that lets through only what belongs to their connection, and tells all others that
/// nobody listens. It carries nothing while it is stopped.
struct Router {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    _carries: tokio::task::JoinSet<()>,
}

impl Router {
    async fn between(caller: SocketAddr, called: SocketAddr) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (near, far) = (UdpSocket::bind(any).await.unwrap(), UdpSocket::bind(any).await.unwrap());
        let address = near.local_addr().unwrap();
        // For a connected socket the system refuses all others.
        near.connect(caller).await.unwrap();
        far.connect(called).await.unwrap();
        let (near, far, stopped) = (Arc::new(near), Arc::new(far), Arc::new(AtomicBool::new(false)));
        let mut carries = tokio::task::JoinSet::new();
        for (from, to) in [(Arc::clone(&near), Arc::clone(&far)), (far, near)] {
            let stopped = Arc::clone(&stopped);
            carries.spawn(async move {
                let mut packet = [0; 2048];
                while let Ok(length) = from.recv(&mut packet).await {
                    if !stopped.load(SeqCst) {
                        let _lost_or_not = to.send(&packet[..length]).await;
                    }
                }
            });
        }
        Self { address, stopped, _carries: carries }
    }
}

#[tokio::test]
async fn a_peer_behind_a_router_that_turns_strangers_away_is_not_taken_for_dead_when_it_is_silent() {
    let (floor, any) = (Floor::new(), ([127, 0, 0, 1], 0).into());
    let door = Member::start(floor.identity(Role::Gateway, "door"), patient(any)).unwrap();
    let press = Member::start(floor.identity(Role::Node, "press"), patient(any)).unwrap();
    let router = Router::between(door.mesh.local_addr(), press.mesh.local_addr()).await;
    let to = Destination { address: router.address, ..press.destination() };
    door.mesh.call(to, infer(10)).await.unwrap();
    let silence = async {
        press.held.until_one().await;
        router.stopped.store(true, SeqCst);
        // QUIC asks again meanwhile, and whoever knocks is turned away.
        tokio::time::sleep(Duration::from_millis(600)).await;
        router.stopped.store(false, SeqCst);
        let held = press.held.calls.lock().unwrap().pop().unwrap();
        held.reply.answer(&Empty {}, None, PayloadBuilder::new());
    };
    let (held, asked, ()) = tokio::join!(
        timeout(PATIENCE, door.mesh.call(to, hold())),
        async {
            while !router.stopped.load(SeqCst) {
                tokio::task::yield_now().await;
            }
            timeout(PATIENCE, door.mesh.call(to, infer(10))).await
        },
        silence
    );
    assert!(matches!((&held, &asked), (Ok(Ok(_)), Ok(Ok(_)))), "{held:?}, {asked:?}");
}

#[tokio::test]
async fn who_dialled_from_behind_such_a_router_may_be_silent_for_a_moment() {
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    let router = Router::between(door.mesh.local_addr(), press.mesh.local_addr()).await;
    door.mesh.call(Destination { address: router.address, ..press.destination() }, ping()).await.unwrap();
    router.stopped.store(true, SeqCst);
    for _ in 0..8 {
        // The press sends, and nothing comes back: neither an answer nor an acknowledgement.
        press.mesh.send_gossip(door.destination(), Bytes::from_static(b"news"));
        tokio::time::sleep(Duration::from_millis(80)).await;
        assert!(press.mesh.connected(door.identity.node()).is_some(), "it was given up although it lives");
    }
}

#[tokio::test]
async fn hostile_frames_end_their_call_and_not_the_process() {
    let floor = Floor::new();
    let press = floor.member("press");
    let identity = floor.identity(Role::Gateway, "fuzzer");
    let raw = RawPeer::connect(&identity, &press).await;
    // Nested without end, a length without bytes, trailing bytes, a key twice, a forbidden byte.
    let documents: [&[u8]; 5] =
        [&[0x91; 60_000], &[0xdd, 0xff, 0xff, 0xff, 0xff], &[0x80, 0x80], b"\x82\xa1a\x01\xa1a\x02", &[0xc1]];
    for document in documents {
        let answer = raw.exchange(document).await;
        let message = String::from_utf8_lossy(&answer).into_owned();
        assert!(message.contains("code"), "no typed error for {:?}: {message}", &document[..2]);
    }
    let door = floor.member("door");
    door.mesh.call(press.destination(), ping()).await.unwrap();
}

#[tokio::test]
async fn what_looks_like_an_answer_is_no_longer_than_a_request_where_nothing_was_asked() {
    let floor = Floor::new();
    let press = floor.member("press");
    let raw = RawPeer::connect(&floor.identity(Role::Client, "plc"), &press).await;
    raw.say_hello(&press).await;
    let (mut send, mut recv) = raw.connection.open_bi().await.unwrap();
    let mut head = vec![1, 3, 0, 0];
    head.extend_from_slice(&(65_537_u32).to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    send.write_all(&head).await.unwrap();
    let end = timeout(PATIENCE, recv.read_to_end(1 << 16)).await.expect("the stream ends");
    assert!(matches!(end, Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(_)))), "{end:?}");
}

#[tokio::test]
async fn who_does_not_read_its_answers_is_told_busy_in_time() {
    let floor = Floor::new();
    let press = floor.member("press");
    let raw = RawPeer::connect(&floor.identity(Role::Client, "plc"), &press).await;
    raw.say_hello(&press).await;
    let mut unread = Vec::new();
    for _ in 0..70 {
        let (mut send, recv) = raw.connection.open_bi().await.unwrap();
        send.write_all(&raw_request(method::MODELS_GET, &2_000_000)).await.unwrap();
        unread.push((send, recv));
    }
    let refused = async {
        loop {
            let (mut send, mut recv) = raw.connection.open_bi().await.unwrap();
            send.write_all(&raw_request(method::PING, &Empty {})).await.unwrap();
            send.finish().unwrap();
            let answer = recv.read_to_end(1 << 16).await.unwrap();
            if String::from_utf8_lossy(&answer).contains("not read") {
                return;
            }
        }
    };
    timeout(PATIENCE, refused).await.expect("the answers pile up without end");
    // Others are served as ever.
    floor.member("door").mesh.call(press.destination(), ping()).await.unwrap();
}

#[tokio::test]
async fn who_sends_much_at_once_and_never_ends_it_is_told_busy() {
    let floor = Floor::new();
    let press = floor.member("press");
    let raw = RawPeer::connect(&floor.identity(Role::Client, "plc"), &press).await;
    raw.say_hello(&press).await;
    let frame = |payload_length: u32| {
        let mut frame = raw_request(method::INFER, &Empty {}).to_vec();
        frame[8..12].copy_from_slice(&payload_length.to_le_bytes());
        frame
    };
    let mut begun = Vec::new();
    for _ in 0..4 {
        let (mut send, recv) = raw.connection.open_bi().await.unwrap();
        send.write_all(&frame(64 << 20)).await.unwrap();
        begun.push((send, recv));
    }
    let answer = async || {
        let (mut send, mut recv) = raw.connection.open_bi().await.unwrap();
        send.write_all(&[frame(100_000), vec![7; 100_000]].concat()).await.unwrap();
        send.finish().unwrap();
        let answer = timeout(PATIENCE, recv.read_to_end(1 << 20)).await.expect("an answer comes").unwrap();
        String::from_utf8_lossy(&answer).contains("more tensors at once")
    };
    // The streams have no order among them.
    let refused = async { while !answer().await {} };
    timeout(PATIENCE, refused).await.expect("payloads are held without end");
    floor.member("door").mesh.call(press.destination(), infer(100_000)).await.unwrap();
    begun.clear();
    let taken_again = async { while answer().await {} };
    timeout(PATIENCE, taken_again).await.expect("the room is free again");
}

#[tokio::test]
async fn a_notification_on_a_stream_of_its_own_is_worked_on_to_its_end() {
    let floor = Floor::new();
    let press = floor.member("press");
    let raw = RawPeer::connect(&floor.identity(Role::Client, "plc"), &press).await;
    raw.say_hello(&press).await;
    let (mut send, _recv) = raw.connection.open_bi().await.unwrap();
    let notification = EncodedFrame::notification(method::CLUSTER_STATUS, &Empty {});
    send.write_all(&notification.start).await.unwrap();
    send.finish().unwrap();
    press.held.until_ended(1).await;
}

#[tokio::test]
async fn a_peer_that_lets_no_stream_be_opened_loses_its_connection() {
    let floor = Floor::new();
    let mut config = MeshConfig::listening(([127, 0, 0, 1], 0).into());
    config.timing.progress = Duration::from_millis(300);
    let press = Member::start(floor.identity(Role::Node, "press"), config).unwrap();
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_bidi_streams(0_u8.into()).keep_alive_interval(Some(Duration::from_millis(100)));
    let raw = RawPeer::connect_with(&floor.identity(Role::Client, "plc"), &press, transport).await;
    let end = timeout(PATIENCE, raw.connection.closed()).await.expect("the connection ends");
    assert!(matches!(end, quinn::ConnectionError::ApplicationClosed(_)), "{end}");
}

#[tokio::test]
async fn a_dial_whose_hello_is_never_answered_leaves_no_connection_behind() {
    let floor = Floor::new();
    let identity = floor.identity(Role::Node, "mute");
    let tls = lineside_certs::server_config(&identity, &[lineside_mesh::ALPN]).unwrap();
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let mute =
        quinn::Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(tls)), ([127, 0, 0, 1], 0).into())
            .unwrap();
    let door = floor.caller(Role::Gateway, "door");
    let address = mute.local_addr().unwrap();
    let (dialled, connection) = tokio::join!(door.mesh.greet(address, Some(identity.node())), async {
        mute.accept().await.unwrap().await.unwrap()
    });
    assert!(matches!(dialled, Err(DialError::Timeout { .. })), "{dialled:?}");
    let end = timeout(PATIENCE, connection.closed()).await.expect("the connection ends");
    assert!(matches!(end, quinn::ConnectionError::ApplicationClosed(_)), "{end}");
}

#[tokio::test]
async fn a_door_with_sixty_four_threads_keeps_a_connection_for_each() {
    let floor = Floor::new();
    let press = floor.member("press");
    let shards: Vec<_> = (0..65).map(|_| floor.caller(Role::Gateway, "door")).collect();
    for _ in 0..2 {
        for shard in &shards {
            shard.mesh.call(press.destination(), ping()).await.unwrap();
        }
    }
    for mut shard in shards {
        assert!(shard.mesh.connected(press.identity.node()).is_some());
        while let Ok(seen) = shard.seen.try_recv() {
            assert!(!matches!(seen, Seen::Lost(_)), "a connection was closed for another one");
        }
    }
}

/// One complete request.
fn raw_request<P: serde::Serialize>(method: &str, params: &P) -> Bytes {
    let context = CallContext::default();
    EncodedFrame::request(RequestId(7), method, &context, params, PayloadBuilder::new()).start
}

/// A peer that speaks QUIC but writes what it likes.
struct RawPeer {
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl RawPeer {
    async fn connect(identity: &Identity, to: &Member) -> Self {
        Self::connect_with(identity, to, quinn::TransportConfig::default()).await
    }

    async fn connect_with(identity: &Identity, to: &Member, transport: quinn::TransportConfig) -> Self {
        let tls = lineside_certs::client_config(identity, &[lineside_mesh::ALPN]).unwrap();
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let name = lineside_certs::server_name_of(to.identity.node(), to.identity.cluster());
        let mut client = quinn::ClientConfig::new(Arc::new(tls));
        client.transport_config(Arc::new(transport));
        let connection = endpoint.connect_with(client, to.mesh.local_addr(), &name).unwrap().await.unwrap();
        Self { connection, _endpoint: endpoint }
    }

    async fn say_hello(&self, to: &Member) {
        let greeting = Greeting {
            protocol: PROTOCOL_VERSION,
            cluster: to.identity.cluster(),
            member: None,
            clock_ms: 0,
        };
        let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
        send.write_all(&raw_request(method::HELLO, &greeting)).await.unwrap();
        send.finish().unwrap();
        let answer = timeout(PATIENCE, recv.read_to_end(1 << 16)).await.expect("an answer comes").unwrap();
        assert_eq!(answer[1], 3, "the hello was refused");
    }

    async fn exchange(&self, document: &[u8]) -> Vec<u8> {
        let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
        let mut frame = vec![1, 1, 0, 0];
        frame.extend_from_slice(&u32::try_from(document.len()).unwrap().to_le_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(document);
        send.write_all(&frame).await.unwrap();
        send.finish().unwrap();
        timeout(PATIENCE, recv.read_to_end(1 << 16)).await.expect("an answer comes").unwrap()
    }
}
