//! The backend that nginx gets: HTTP/1.1 over mutual TLS on one thread, and the sum, with or without ONNX Runtime.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use lineside_certs::server_config;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::runner::Runner;
use crate::{
    children::{announce, end_with_stdin},
    identities::Identities,
};

/// Tells where binary tensors begin.
const JSON_LENGTH: &str = "inference-header-content-length";

#[derive(Deserialize)]
struct Question {
    inputs: Vec<Tensor>,
}

#[derive(Serialize, Deserialize)]
struct Tensor {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    data: Vec<f32>,
}

#[derive(Serialize)]
struct Answer {
    model_name: &'static str,
    model_version: &'static str,
    outputs: Vec<Tensor>,
}

pub(crate) fn serve(
    identity: &Path,
    library: Option<&Path>,
    model: Option<&Path>,
    listen: SocketAddr,
) -> anyhow::Result<()> {
    let identity = Identities::load(identity)?;
    let runner = match (library, model) {
        (Some(library), Some(model)) => Runner::model(library, model)?,
        _ => Runner::Sum,
    };
    let acceptor = TlsAcceptor::from(server_config(&identity, &[b"http/1.1"])?);
    end_with_stdin();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        announce(listener.local_addr()?);
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let (acceptor, runner) = (acceptor.clone(), runner.clone());
            connections.spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let serve = service_fn(|request| answer(request, runner.clone()));
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await);
            });
            while connections.try_join_next().is_some() {}
        }
    })
}

/// Counts requests, to spread them over the sessions.
static TURN: AtomicUsize = AtomicUsize::new(0);

async fn answer(request: Request<Incoming>, runner: Runner) -> Result<Response<Full<Bytes>>, Infallible> {
    let json_length =
        request.headers().get(JSON_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let answered = match json_length {
        Some(length) => sum_of_bytes(&body, length),
        None => match serde_json::from_slice::<Question>(&body) {
            Ok(question) => sum(question, &runner).await.map(|json| (json, None)),
            Err(_) => None,
        },
    };
    let status = if answered.is_some() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    let (bytes, json_length) = answered.unwrap_or_default();
    let mut response = Response::new(Full::new(bytes));
    *response.status_mut() = status;
    if let Some(length) = json_length {
        response.headers_mut().insert(JSON_LENGTH, length.into());
    }
    Ok(response)
}

/// The sum of two binary tensors of one length behind `json_length` bytes of JSON, in the same form: the body, and the
/// length of its JSON.
fn sum_of_bytes(body: &Bytes, json_length: usize) -> Option<(Bytes, Option<usize>)> {
    let (_, tensors) = body.split_at_checked(json_length)?;
    let (a, b) = tensors.split_at_checked(tensors.len() / 2)?;
    let numbers = |bytes: &[u8]| {
        bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect::<Vec<_>>()
    };
    let sums: Vec<u8> = numbers(a).iter().zip(numbers(b)).flat_map(|(a, b)| (a + b).to_le_bytes()).collect();
    let json = format!(
        r#"{{"model_name":"add","model_version":"1","outputs":[{{"name":"sum","datatype":"FP32","shape":[{}],"parameters":{{"binary_data_size":{}}}}}]}}"#,
        sums.len() / 4,
        sums.len()
    );
    let length = json.len();
    Some(([json.into_bytes(), sums].concat().into(), Some(length)))
}

async fn sum(question: Question, runner: &Runner) -> Option<Bytes> {
    let [a, b] = <[Tensor; 2]>::try_from(question.inputs).ok()?;
    let data = runner.add(a.data, b.data, TURN.fetch_add(1, Ordering::Relaxed)).await?;
    let outputs = vec![Tensor { name: "sum".into(), datatype: a.datatype, shape: a.shape, data }];
    let answer = Answer { model_name: "add", model_version: "1", outputs };
    serde_json::to_vec(&answer).ok().map(Bytes::from)
}
