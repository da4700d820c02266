//! The same door over QUIC: real certificates, two meshes, the same limits.

use std::{num::NonZeroU32, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use lineside_gateway::GatewayConfig;
use lineside_mesh::{CallFailure, Outbound};
use lineside_wire::{
    ChangeParams, ChangeResult, ClusterStatus, Datatype, FaultCode, Health, InferParams, InferResult,
    MembersResult, ModelInfo, ModelParams, ModelsResult, Parameters, Role, StatisticsResult, Tensor,
    decode_part, method, split_tensors,
};
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    gate::{PATIENCE, config, eventually},
    line::PRESS,
    mesh::{Floor, infer},
};

impl Floor {
    async fn ask<P: Serialize, T: serde::de::DeserializeOwned>(&self, method: &'static str, params: P) -> T {
        let reply = self.call(Outbound::new(method, params)).await.unwrap();
        decode_part(&reply.result).unwrap()
    }

    async fn fails<P: Serialize>(&self, outbound: Outbound<P>, code: FaultCode) {
        match self.call(outbound).await {
            Err(CallFailure::Fault { fault, .. }) => assert_eq!(fault.code, code, "{fault}"),
            other => panic!("no fault: {other:?}"),
        }
    }

    async fn fault(&self, outbound: Outbound<InferParams>) -> FaultCode {
        match self.call(outbound).await {
            Err(CallFailure::Fault { fault, .. }) => fault.code,
            other => panic!("no fault: {other:?}"),
        }
    }
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
async fn models_are_changed_and_counted_by_the_same_methods_and_who_may_is_told_by_the_certificate() {
    let floor = Floor::with(config(), Role::Admin);
    let params = ChangeParams { model: "add".parse().unwrap(), version: None, nodes: Vec::new() };
    let loaded: ChangeResult = floor.ask(method::MODELS_LOAD, &params).await;
    assert_eq!((loaded.models.len(), loaded.nodes[0].node, loaded.nodes[0].done), (2, PRESS, true));
    let counted: StatisticsResult = floor.ask(method::MODELS_STATISTICS, Parameters::new()).await;
    assert_eq!(counted.models.len(), 3);
    assert_eq!(floor.ask::<_, ClusterStatus>(method::CLUSTER_STATUS, Parameters::new()).await.models, 4);
    floor.fails(Outbound::new(method::MODELS_LOAD, "no params"), FaultCode::InvalidParams).await;
    // The member itself serves what is streamed; the document is JSON's.
    floor.fails(Outbound::new(method::CLUSTER_WATCH, Parameters::new()), FaultCode::MethodNotFound).await;

    let floor = Floor::new(config());
    floor.fails(Outbound::new(method::MODELS_UNLOAD, &params), FaultCode::PermissionDenied).await;
    assert!(floor.line.changes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn wrong_calls_are_faults_with_the_same_names_as_over_http() {
    let floor = Floor::new(config());
    assert_eq!(floor.fault(infer("paint", &[])).await, FaultCode::ModelNotFound);
    assert_eq!(floor.fault(infer("busy", &[])).await, FaultCode::Busy);
    assert_eq!(floor.fault(infer("lost", &[])).await, FaultCode::Lost);
    assert_eq!(floor.fault(infer("add", &[])).await, FaultCode::InvalidParams);
    for (length, found) in [(128, None), (129, Some(FaultCode::InvalidParams))] {
        let mut drawn = infer("echo", &[]);
        drawn.context.affinity = Some("x".repeat(length));
        let fault = floor.call(drawn).await.err().map(|failure| match failure {
            CallFailure::Fault { fault, .. } => fault.code,
            other => panic!("{other}"),
        });
        assert_eq!(fault, found, "an affinity of {length} bytes");
    }
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
