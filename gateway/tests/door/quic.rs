//! The same door over QUIC: real certificates, two meshes, the same limits.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use lineside_certs::{Authority, Identity, PeerIdentity, Subject};
use lineside_gateway::{DoorService, GatewayConfig, Shared};
use lineside_mesh::{
    CallFailure, Destination, Incoming, Mesh, MeshConfig, Outbound, Presence, Reply, Served, Service,
};
use lineside_wire::{
    Datatype, FaultCode, Greeting, Health, InferParams, InferResult, MembersResult, ModelInfo, ModelParams,
    ModelsResult, NodeId, PROTOCOL_VERSION, Parameters, Role, Tensor, decode_part, join_tensors, method,
    split_tensors,
};
use serde::Serialize;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    gate::{PATIENCE, config, eventually},
    line::{Line, PRESS},
};

/// A client, and the door that it calls.
struct Floor {
    line: Arc<Line>,
    shared: Arc<Shared>,
    door: Mesh,
    client: Mesh,
    _home: TempDir,
}

struct Greets(Arc<Identity>);

impl Presence for Greets {
    fn greeting(&self) -> Greeting {
        Greeting { protocol: PROTOCOL_VERSION, cluster: self.0.cluster(), member: None, clock_ms: 0 }
    }

    fn met(&self, _peer: &PeerIdentity, _greeting: &Greeting, _remote: SocketAddr) {}

    fn lost(&self, _node: NodeId) {}

    fn gossip(&self, _from: NodeId, _packet: Bytes) {}
}

/// A client serves nothing: what would come drops its call.
struct Nothing;

impl Service for Nothing {
    fn serve(&self, _call: Incoming) -> Served {
        Served::Done
    }
}

impl Floor {
    fn new(config: GatewayConfig) -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::create(&home.path().join("ca"), "floor", SystemTime::now()).unwrap();
        let identity = |role: Role, name: &str| {
            let directory = home.path().join(name);
            let issued = authority.issue(&Subject::new(role, name), SystemTime::now()).unwrap();
            Identity::store(&directory, &issued).unwrap();
            Arc::new(Identity::load(&directory).unwrap())
        };
        let (line, shared) = (Arc::new(Line::default()), Shared::new(config));
        let service = Arc::new(DoorService::new(Arc::clone(&line), Arc::clone(&shared)));
        let own = identity(Role::Gateway, "gate");
        let listening = MeshConfig::listening((Ipv4Addr::LOCALHOST, 0).into());
        let door = Mesh::bind(listening, Arc::clone(&own), Arc::new(Greets(own)), service).unwrap();
        let own = identity(Role::Client, "program");
        let client =
            Mesh::bind(MeshConfig::dialling(), Arc::clone(&own), Arc::new(Greets(own)), Arc::new(Nothing))
                .unwrap();
        Self { line, shared, door, client, _home: home }
    }

    async fn call<P: Serialize>(&self, outbound: Outbound<P>) -> Result<Reply, CallFailure> {
        let address = self.door.local_addr();
        let met = self.client.greet(address, None).await.unwrap();
        let to = Destination { node: met.identity.node, address };
        timeout(PATIENCE, self.client.call(to, outbound)).await.expect("an answer comes")
    }

    async fn ask<P: Serialize, T: serde::de::DeserializeOwned>(&self, method: &'static str, params: P) -> T {
        let reply = self.call(Outbound::new(method, params)).await.unwrap();
        decode_part(&reply.result).unwrap()
    }

    async fn fault(&self, outbound: Outbound<InferParams>) -> FaultCode {
        match self.call(outbound).await {
            Err(CallFailure::Fault { fault, .. }) => fault.code,
            other => panic!("no fault: {other:?}"),
        }
    }
}

fn infer(model: &str, tensors: &[Tensor]) -> Outbound<InferParams> {
    let (inputs, payload) = join_tensors(tensors);
    let params = InferParams {
        model: model.parse().unwrap(),
        version: None,
        inputs,
        outputs: Vec::new(),
        parameters: Parameters::new(),
    };
    Outbound { payload, ..Outbound::new(method::INFER, params) }
}

fn numbers(name: &str, values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::new(name, Datatype::Fp32, vec![values.len() as u64], bytes.into()).unwrap()
}

#[tokio::test]
async fn a_peer_runs_models_and_asks_for_the_cluster_over_quic() {
    let floor = Floor::new(config());
    let reply =
        floor.call(infer("add", &[numbers("a", &[1.0, 2.0]), numbers("b", &[3.0, 4.0])])).await.unwrap();
    let result: InferResult = decode_part(&reply.result).unwrap();
    let outputs = split_tensors(result.outputs, &reply.payload).unwrap();
    assert_eq!(outputs, [numbers("sum", &[4.0, 6.0])]);
    let report = reply.report.unwrap();
    assert_eq!((report.node, report.attempts), (PRESS, 2));
    // Each input lies at its place in the one payload that came.
    let (_, chunks) = floor.line.last_call();
    let payload: Bytes = chunks.concat().into();
    assert_eq!((payload.len(), chunks.len()), (72, 1));

    let large = Tensor::new("x", Datatype::Uint8, vec![1 << 20], vec![7; 1 << 20].into()).unwrap();
    let reply = floor.call(infer("echo", &[large])).await.unwrap();
    assert_eq!(reply.payload.len(), 1 << 20);

    let nothing = Parameters::new();
    assert_eq!(floor.ask::<_, ModelsResult>(method::MODELS_LIST, &nothing).await.models.len(), 4);
    assert_eq!(floor.ask::<_, MembersResult>(method::CLUSTER_MEMBERS, &nothing).await.members.len(), 2);
    assert!(floor.ask::<_, Health>(method::HEALTH, &nothing).await.ready);
    let params = ModelParams { model: "add".parse().unwrap(), version: None };
    assert_eq!(floor.ask::<_, ModelInfo>(method::MODELS_GET, params).await.version.0, 2);
    floor.client.shutdown().await;
    floor.door.shutdown().await;
}

#[tokio::test]
async fn wrong_calls_are_faults_with_the_same_names_as_over_http() {
    let floor = Floor::new(config());
    assert_eq!(floor.fault(infer("paint", &[])).await, FaultCode::ModelNotFound);
    assert_eq!(floor.fault(infer("busy", &[])).await, FaultCode::Busy);
    assert_eq!(floor.fault(infer("lost", &[])).await, FaultCode::Lost);
    assert_eq!(floor.fault(infer("add", &[])).await, FaultCode::InvalidParams);
    let mut short = infer("stuck", &[]);
    short.context.timeout_us = Some(50_000);
    assert_eq!(floor.fault(short).await, FaultCode::DeadlineExceededRunning);
    let failure = floor.call(Outbound::new(method::INFER, "no params")).await;
    assert!(
        matches!(failure, Err(CallFailure::Fault { fault, .. }) if fault.code == FaultCode::InvalidParams)
    );
}

#[tokio::test]
async fn the_limits_are_those_of_the_whole_door() {
    let floor = Floor::new(GatewayConfig { in_flight_max: 1, ..config() });
    let waits = floor.call(infer("slow", &[]));
    let second = async {
        eventually("the call waits", async || floor.line.waiting.load(Ordering::SeqCst) == 1).await;
        let fault = floor.fault(infer("echo", &[])).await;
        floor.line.go.add_permits(1);
        fault
    };
    let (first, second) = tokio::join!(waits, second);
    assert!(first.is_ok());
    assert_eq!(second, FaultCode::Busy);

    let floor = Floor::new(GatewayConfig { rate: NonZeroU32::new(1), burst: NonZeroU32::new(2), ..config() });
    let mut codes = Vec::new();
    for _ in 0..6 {
        if let Err(CallFailure::Fault { fault, .. }) = floor.call(infer("echo", &[])).await {
            assert!(fault.retry_after_ms.is_some_and(|wait| 0 < wait));
            codes.push(fault.code);
        }
    }
    assert!(codes.contains(&FaultCode::RateLimited), "{codes:?}");
}

#[tokio::test]
async fn a_peer_that_takes_its_call_back_frees_the_cluster() {
    let floor = Floor::new(config());
    let cancelled = async {
        let mut call = Box::pin(floor.call(infer("slow", &[])));
        loop {
            tokio::select! {
                _ = &mut call => panic!("it has no answer"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
            if 0 < floor.line.waiting.load(Ordering::SeqCst) {
                return;
            }
        }
    };
    timeout(PATIENCE, cancelled).await.expect("the call arrives");
    eventually("no call waits", async || floor.line.waiting.load(Ordering::SeqCst) == 0).await;
    assert!(0 < floor.line.dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_door_that_leaves_sends_its_peers_elsewhere() {
    let floor = Floor::new(config());
    floor.shared.leave();
    assert_eq!(floor.fault(infer("echo", &[])).await, FaultCode::Draining);
    let health: Health = floor.ask(method::HEALTH, Parameters::new()).await;
    assert_eq!(health.reason.as_deref(), Some("this gateway is leaving"));
}
