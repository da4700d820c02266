//! A client as the protocol's users have one: code made from the same text, over one HTTP/2 connection.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet};
use tonic::{Code, Status, body::Body, codegen::Service};

use crate::{
    gate::Gate,
    inference::{
        InferParameter, ModelInferRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
        infer_parameter::ParameterChoice, model_infer_request::InferInputTensor,
    },
};

/// One connection.
#[derive(Clone)]
pub(crate) struct Wire(SendRequest<Body>);

impl Service<Request<Body>> for Wire {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

pub(crate) type Inference = GrpcInferenceServiceClient<Wire>;

/// A client whose connection ends with it.
pub(crate) struct Client {
    pub(crate) wire: Wire,
    _driver: JoinSet<hyper::Result<()>>,
}

/// Where requests say that they go.
pub(crate) fn origin() -> http::Uri {
    http::Uri::from_static("http://line")
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Self { wire: Wire(sender), _driver: driver }
    }

    pub(crate) async fn of(gate: &Gate) -> Self {
        Self::connect(gate.address).await
    }

    pub(crate) fn inference(&self) -> Inference {
        GrpcInferenceServiceClient::with_origin(self.wire.clone(), origin())
            .max_decoding_message_size(usize::MAX)
    }
}

/// A request with raw inputs.
pub(crate) fn raw(model: &str, inputs: &[(&str, &str, &[i64], &[u8])]) -> ModelInferRequest {
    let input = |(name, datatype, shape, _): &(&str, &str, &[i64], &[u8])| InferInputTensor {
        name: (*name).to_owned(),
        datatype: (*datatype).to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: inputs.iter().map(input).collect(),
        raw_input_contents: inputs.iter().map(|(_, _, _, bytes)| Bytes::copy_from_slice(bytes)).collect(),
        ..ModelInferRequest::default()
    }
}

/// One byte for the model to work on.
pub(crate) fn byte(model: &str, value: u8) -> ModelInferRequest {
    raw(model, &[("x", "UINT8", &[1], &[value])])
}

pub(crate) fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

/// Checks what a refusal must have, and gives its words.
pub(crate) fn refused(status: &Status, code: Code, name: &str, executed: &str) -> String {
    assert_eq!(status.code(), code, "{status:?}");
    let metadata = |name: &str| status.metadata().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(metadata("x-lineside-code"), Some(name), "{status:?}");
    assert_eq!(metadata("x-lineside-executed"), Some(executed), "{status:?}");
    assert!(metadata("x-request-id").is_some_and(|id| !id.is_empty()), "{status:?}");
    status.message().to_owned()
}
