//! Frames as members send them, by name. `docs/PROTOCOL.md` shows them and the fuzz targets begin with them.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeMap;

use bytes::Bytes;
use lineside_wire::{
    CallContext, CancelParams, ClusterId, ClusterStatus, Datatype, Empty, EncodedFrame, FRAME_HEAD_BYTES,
    Fault, FaultCode, FrameHead, FrameKind, Greeting, Health, InferParams, InferResult, LoadReport,
    MemberRow, MemberState, MembersResult, ModelInfo, ModelParams, ModelState, ModelVersion, ModelsResult,
    NodeId, PROTOCOL_VERSION, Parameter, PayloadBuilder, RequestId, Role, RunReport, Tensor, TensorSpec,
    TrustStamp, bytes_tensor, join_tensors, method,
};

pub(crate) mod trust;

const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);
const PRESS: NodeId = NodeId::from_bytes([0xa1; 16]);
const DOOR: NodeId = NodeId::from_bytes([0xb2; 16]);

/// The clock of those who greet, in milliseconds: 2026-11-24 10:07 UTC.
const CLOCK_MS: u64 = 1_795_514_820_000;

/// The examples of the document, in its order: well-formed frames.
pub(crate) fn examples() -> Vec<(&'static str, Vec<u8>)> {
    let context = CallContext { timeout_us: Some(250_000), ..CallContext::default() };
    let traced = CallContext {
        attempt: 1,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        ..context.clone()
    };
    let report = RunReport { node: PRESS, load: load(1), queue_us: 40, run_us: 900, attempts: 1, batch: 1 };
    let (inputs, payload) = join_tensors(&[floats("a", &[1.0, 2.0]), floats("b", &[0.5, -1.0])]);
    let params = InferParams {
        model: "add".parse().unwrap(),
        version: None,
        inputs,
        outputs: Vec::new(),
        parameters: BTreeMap::new(),
        task: None,
        classification: Default::default(),
    };
    let (outputs, sum) = join_tensors(&[floats("sum", &[1.5, 1.0])]);
    let result = InferResult {
        model: "add".parse().unwrap(),
        version: ModelVersion(1),
        outputs,
        parameters: BTreeMap::new(),
    };
    let busy = Fault::new(FaultCode::Busy, "8 calls wait").retry_after_ms(20);
    let unread = Fault::new(FaultCode::ParseError, "invalid document: 3 bytes follow the document");
    let cancel = EncodedFrame::notification(method::CANCEL, &CancelParams { id: RequestId(4) });
    vec![
        ("hello-request", flat(request(1, method::HELLO, &guest()))),
        ("hello-response", flat(response(1, &host()))),
        ("ping-request", flat(request(2, method::PING, &Empty {}))),
        ("ping-response", flat(response(2, &Empty {}))),
        (
            "infer-request",
            flat(EncodedFrame::request(RequestId(3), method::INFER, &traced, &params, payload)),
        ),
        ("infer-response", flat(EncodedFrame::response(RequestId(3), &result, Some(&report), sum))),
        ("error", flat(EncodedFrame::error(Some(RequestId(3)), &busy, Some(&report)))),
        ("watch-request", flat(request(4, method::CLUSTER_WATCH, &Empty {}))),
        ("watch-item", flat(EncodedFrame::item(RequestId(4), 0, &members(false), PayloadBuilder::new()))),
        ("cancel", flat(cancel.clone())),
        (
            "batch",
            flat(EncodedFrame::batch(&[
                EncodedFrame::request(
                    RequestId(5),
                    method::HEALTH,
                    &context,
                    &Empty {},
                    PayloadBuilder::new(),
                ),
                cancel,
            ])),
        ),
        ("refusal", flat(EncodedFrame::error(None, &unread, None))),
        ("trust-request", flat(request(6, method::TRUST_GET, &Empty {}))),
        ("trust-response", flat(response(6, &trust::signed(&trust::rotating())))),
        ("join-request", flat(request(1, method::ENROL_JOIN, &trust::join()))),
        ("join-response", flat(response(1, &trust::joined()))),
    ]
}

/// The examples of the document that are refused, in its order.
pub(crate) fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let mut endless = FrameHead { kind: FrameKind::Request, document_length: 0, payload_length: 0 }.encode();
    endless[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    vec![
        ("broken-version", {
            let mut bytes = flat(request(2, method::PING, &Empty {}));
            bytes[0] = 2;
            bytes
        }),
        ("broken-length", endless.to_vec()),
        ("broken-duplicate-key", document(FrameKind::Request, b"\x83\xa2id\x02\xa6method\xa4ping\xa2id\x03")),
        (
            "broken-trailing-bytes",
            document(FrameKind::Request, b"\x82\xa2id\x02\xa6method\xa4ping\xc0\xc0\xc0"),
        ),
        ("broken-unknown-member", {
            document(FrameKind::Request, b"\x83\xa7jsonrpc\xa32.0\xa2id\x02\xa6method\xa4ping")
        }),
    ]
}

/// Frames that the document does not show: what else the fuzz targets begin with.
pub(crate) fn further() -> Vec<(&'static str, Vec<u8>)> {
    let words = bytes_tensor([&b"weld"[..], b"", b"press"]).unwrap();
    let (inputs, payload) = join_tensors(&[
        Tensor::new("words", Datatype::Bytes, vec![3], words.into()).unwrap(),
        Tensor::new("flags", Datatype::Bool, vec![1, 3], vec![1, 0, 1].into()).unwrap(),
        Tensor::new("none", Datatype::Int64, vec![0, 7], Bytes::new()).unwrap(),
        Tensor::new("one", Datatype::Fp16, vec![], vec![0, 0x3c].into()).unwrap(),
    ]);
    let parameters = [
        ("priority", Parameter::Integer(-3)),
        ("large", Parameter::Unsigned(u64::MAX)),
        ("factor", Parameter::Number(0.25)),
        ("exact", Parameter::Bool(true)),
        ("note", Parameter::Text("shift 2".into())),
    ];
    let params = InferParams {
        model: "surface-defects.v2".parse().unwrap(),
        version: Some(ModelVersion(12)),
        inputs,
        outputs: vec!["scores".into()],
        parameters: parameters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        task: None,
        classification: Default::default(),
    };
    let context = CallContext {
        timeout_us: Some(u64::MAX),
        attempt: 2,
        traceparent: None,
        priority: 1,
        idempotency_key: Some("part-4711".into()),
        session: Some("belt-3".into()),
        affinity: None,
    };
    let model = ModelParams { model: "add".parse().unwrap(), version: Some(ModelVersion(1)) };
    let health = Health { live: true, ready: false, reason: Some("the models are being loaded".into()) };
    let status = ClusterStatus {
        cluster: CLUSTER,
        answered_by: DOOR,
        alive: 3,
        not_alive: 1,
        models_ready: 2,
        models: 4,
        in_flight: 17,
        slots: 12,
    };
    let greeting = Greeting { member: Some(state()), ..host() };
    vec![
        (
            "infer-many-kinds",
            flat(EncodedFrame::request(RequestId(u64::MAX), method::INFER, &context, &params, payload)),
        ),
        ("hello-of-a-member", flat(request(1, method::HELLO, &greeting))),
        ("models-get", flat(request(6, method::MODELS_GET, &model))),
        ("models-list-response", flat(response(7, &ModelsResult { models: state().models }))),
        ("health-response", flat(response(8, &health))),
        ("status-response", flat(response(9, &status))),
        ("member-state-response", flat(response(10, &state()))),
        ("members-response", flat(response(11, &members(true)))),
        ("renew-request", flat(request(12, method::CERTS_RENEW, &trust::renew()))),
        ("renew-response", flat(response(12, &trust::renewed()))),
        ("join-of-a-client", flat(request(1, method::ENROL_JOIN, &trust::join_of_a_client()))),
        ("join-refused", flat(EncodedFrame::error(Some(RequestId(1)), &trust::refusal(), None))),
        ("join-too-often", flat(EncodedFrame::error(Some(RequestId(1)), &trust::too_often(), None))),
    ]
}

/// Head, document and payload in one piece.
fn flat(frame: EncodedFrame) -> Vec<u8> {
    [vec![frame.start], frame.payload].concat().concat()
}

fn request<P: serde::Serialize>(id: u64, method: &str, params: &P) -> EncodedFrame {
    EncodedFrame::request(RequestId(id), method, &CallContext::default(), params, PayloadBuilder::new())
}

fn response<R: serde::Serialize>(id: u64, result: &R) -> EncodedFrame {
    EncodedFrame::response(RequestId(id), result, None, PayloadBuilder::new())
}

/// A frame around any bytes.
fn document(kind: FrameKind, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    let head = FrameHead { kind, document_length: length, payload_length: 0 }.encode();
    assert_eq!(head.len(), FRAME_HEAD_BYTES);
    [&head[..], bytes].concat()
}

fn floats(name: &str, values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::new(name, Datatype::Fp32, vec![values.len() as u64], bytes.into()).unwrap()
}

const fn load(queued: u32) -> LoadReport {
    LoadReport { running: 2, queued, slots: 4, limit: 0, call_us: 0 }
}

/// What a client says of itself.
fn guest() -> Greeting {
    Greeting { protocol: PROTOCOL_VERSION, cluster: CLUSTER, member: None, clock_ms: CLOCK_MS }
}

/// What a gateway says of itself.
fn host() -> Greeting {
    let member = MemberState {
        node: DOOR,
        name: "door-1".into(),
        role: Role::Gateway,
        software: "0.1.0".into(),
        address: "192.168.1.20:7443".parse().unwrap(),
        http: Some("192.168.1.20:8080".parse().unwrap()),
        door: true,
        epoch: 3,
        revision: 7,
        draining: false,
        cordoned: false,
        weight: 100,
        load: LoadReport::default(),
        models: Vec::new(),
        certificate_expires: 1_796_724_420,
        certificate_generation: 2,
        trust: TrustStamp { number: 4, hash: trust::ROTATING_HASH },
        authority: true,
    };
    Greeting { protocol: PROTOCOL_VERSION, cluster: CLUSTER, member: Some(member), clock_ms: CLOCK_MS + 20 }
}

/// A node with a model of each kind of state.
fn state() -> MemberState {
    let spec = |name: &str, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype: Datatype::Fp32,
        shape: shape.to_vec(),
    };
    let model = |name: &str, state, reason: Option<&str>| ModelInfo {
        name: name.parse().unwrap(),
        version: ModelVersion(1),
        state,
        reason: reason.map(str::to_owned),
        inputs: vec![spec("a", &[-1, 2]), spec("b", &[2])],
        outputs: vec![spec("sum", &[-1, 2])],
        slots: 4,
        tasks: Vec::new(),
        engine: None,
    };
    MemberState {
        node: PRESS,
        name: "press".into(),
        role: Role::Node,
        software: "0.1.0".into(),
        address: "[fd00::7]:7443".parse().unwrap(),
        http: None,
        door: false,
        epoch: 12,
        revision: 3,
        draining: true,
        cordoned: false,
        weight: 100,
        load: load(1),
        models: vec![
            model("add", ModelState::Ready, None),
            model("weld", ModelState::Unavailable, Some("damaged")),
        ],
        certificate_expires: 1_796_724_420,
        certificate_generation: 1,
        trust: TrustStamp { number: u64::MAX, hash: 7 },
        authority: false,
    }
}

fn members(long: bool) -> MembersResult {
    let row = MemberRow {
        node: PRESS,
        name: "press".into(),
        address: "192.168.1.31:7443".parse().unwrap(),
        state: "alive".into(),
        role: Some(Role::Node),
        member: long.then(state),
        seen_ms_ago: 120,
        in_flight: 2,
        p95_us: Some(1800),
        calls: 64,
        failures: 0,
        rests: long.then(|| "errors".into()),
        ejections: long.then(|| ("errors".into(), 3)).into_iter().collect(),
        clock_ahead_ms: long.then_some(-1_500),
        double: long.then(|| "192.168.1.77:7443".parse().unwrap()),
    };
    MembersResult { cluster: CLUSTER, answered_by: DOOR, members: vec![row] }
}
