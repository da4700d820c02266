//! Every method with a key that does not allow it: whatever is added is refused here, or named as open.

use std::time::SystemTime;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use lineside_certs::{API_KEY_LIFETIME, ApiKeyOrder, Authority, Trust};
use lineside_gateway::{GatewayConfig, KeysMode};
use tonic::{Code, body::Body, codegen::Service as _};

use crate::{
    client::Client,
    gate::{Gate, config},
};

const SOURCE: &str = include_str!("../../proto/open_inference.proto");

/// Who lives, is ready, and what software it is.
const FOR_EVERYBODY: [&str; 2] = ["ServerLive", "ServerReady"];
const FOR_EVERY_KEY: [&str; 1] = ["ServerMetadata"];

/// What is not served: there is nothing to be allowed.
const NOT_SERVED: [&str; 7] = [
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
];

/// The methods that the protocol's text names.
fn methods() -> Vec<&'static str> {
    let named = SOURCE.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split_once('('));
    let methods: Vec<_> = named.map(|(name, _)| name).collect();
    assert!(20 <= methods.len(), "{methods:?}");
    methods
}

/// A message that asks for something: the model `add`, or, of the log, that less is told.
fn message(method: &str) -> &'static [u8] {
    match method {
        // A field of two: a name, and `false`.
        "LogSettings" => b"\x0a\x0e\x0a\x08log_info\x12\x02\x08\x00",
        "RepositoryModelLoad" | "RepositoryModelUnload" => b"\x12\x03add",
        "RepositoryIndex" => b"",
        // Of the statistics of all models.
        "ModelStatistics" | "TraceSetting" => b"",
        _ => b"\x0a\x03add",
    }
}

/// The status, its words, and what came before it.
async fn call(client: &mut Client, method: &str, key: Option<&str>) -> (Code, String) {
    let message = message(method);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let frame = [&[0][..], &length, message].concat();
    let mut request = Request::post(format!("http://line/inference.GRPCInferenceService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    let request = request.body(Body::new(Full::new(Bytes::from(frame)))).unwrap();
    let response = client.wire.call(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let field = |name: &str| {
        let value = head.headers.get(name).or_else(|| trailers.get(name))?;
        Some(value.to_str().unwrap().to_owned())
    };
    let code = Code::from_bytes(field("grpc-status").unwrap().as_bytes());
    let said = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    (code, field("grpc-message").unwrap_or_default() + &said)
}

/// A key that allows this method alone, known to the gate.
fn key(gate: &Gate, method: &str) -> String {
    let (home, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let authority = Authority::create(&home.path().join("ca"), "plant 2", now).unwrap();
    let order = ApiKeyOrder {
        name: "press-7".to_owned(),
        models: vec!["*".to_owned()],
        methods: vec![method.to_owned()],
        lifetime: Some(API_KEY_LIFETIME),
        rate: None,
        burst: None,
    };
    let key = authority.create_key(&order, now).unwrap().to_string();
    gate.shared.set_keys(Trust::own(&authority.trust().unwrap()).unwrap().keys().to_vec());
    key
}

#[tokio::test]
async fn no_method_is_open_to_a_key_that_does_not_allow_it() {
    let gate = Gate::open();
    let log = crate::line::Log(std::sync::Mutex::new("info".to_owned()));
    *gate.line.log.lock().unwrap() = Some(std::sync::Arc::new(log));
    // One that runs models sees none and changes none; of the rest, changing the log is what is left.
    let mut client = Client::of(&gate).await;
    for method in methods() {
        let key = key(&gate, if method == "LogSettings" { "infer" } else { "logging" });
        let (code, said) = call(&mut client, method, Some(&key)).await;
        if FOR_EVERYBODY.contains(&method) || FOR_EVERY_KEY.contains(&method) {
            assert_eq!(code, Code::Ok, "{method}: {said}");
        } else if NOT_SERVED.contains(&method) {
            assert_eq!(code, Code::Unimplemented, "{method}: {said}");
        } else if method == "ModelStreamInfer" {
            // The stream stays, for requests that are allowed.
            assert!(code == Code::Ok && said.contains("may not call infer"), "{method}: {code:?} {said}");
        } else {
            assert_eq!(code, Code::PermissionDenied, "{method}: {said}");
        }
    }
    assert!(gate.line.changes.lock().unwrap().is_empty() && gate.line.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn where_keys_are_required_nothing_but_health_is_told_without_one() {
    let gate = Gate::with(GatewayConfig { keys: KeysMode::Required, ..config() });
    let mut client = Client::of(&gate).await;
    for method in methods() {
        let (code, said) = call(&mut client, method, None).await;
        let expected = if FOR_EVERYBODY.contains(&method) { Code::Ok } else { Code::Unauthenticated };
        assert_eq!(code, expected, "{method}: {said}");
    }
}
