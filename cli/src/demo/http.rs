//! A small HTTP client: one kept connection, Open Inference Protocol.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, task::JoinSet};

use super::{
    samples::{Answer, Sample},
    tally::Reply,
};

/// Largest answer that is read: far above what the sample models and the lists give.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Bytes of JSON before the binary tensors.
const JSON_LENGTH: &str = "inference-header-content-length";
/// Milliseconds that the door is given for a request.
const TIMEOUT: &str = "x-request-timeout-ms";
/// Which node did the work.
const NODE: &str = "x-lineside-node";
/// How many tries it took.
const ATTEMPTS: &str = "x-lineside-attempts";

/// One caller with its connection.
pub(super) struct HttpCaller {
    address: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
    // Ends the connection with the caller.
    connections: JoinSet<()>,
}

/// A request's body, made once and sent many times.
#[derive(Clone, Debug)]
pub(super) struct Body {
    bytes: Bytes,
    json_length: Option<usize>,
}

impl HttpCaller {
    /// A caller that connects when it has something to say.
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, sender: None, connections: JoinSet::new() }
    }

    /// Asks for a path.
    pub(super) async fn get(&mut self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = self.request(Method::GET, path).body(Full::default())?;
        let response = self.send(request).await?;
        Ok((response.status(), response.into_body()))
    }

    /// Calls a JSON-RPC method without params.
    pub(super) async fn rpc<R: for<'de> Deserialize<'de>>(&mut self, method: &str) -> anyhow::Result<R> {
        #[derive(Deserialize)]
        struct Reply<R> {
            result: Option<R>,
        }
        let body = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": method}).to_string();
        let request = self.request(Method::POST, "/rpc").header(header::CONTENT_TYPE, "application/json");
        let response = self.send(request.body(Full::from(body))?).await?;
        let body = response.body();
        let reply: Reply<R> = serde_json::from_slice(body)
            .with_context(|| format!("{method} answered {}", String::from_utf8_lossy(body)))?;
        reply.result.with_context(|| format!("{method} failed: {}", String::from_utf8_lossy(body)))
    }

    /// Calls a model. The deadline is told to the door; holding it is the caller's business.
    pub(super) async fn infer(
        &mut self,
        sample: &Sample,
        body: &Body,
        deadline: Duration,
    ) -> anyhow::Result<Reply> {
        let path = format!("/v2/models/{}/infer", sample.model);
        let mut request = self.request(Method::POST, &path).header(TIMEOUT, deadline.as_millis().to_string());
        request = match body.json_length {
            Some(length) => {
                request.header(header::CONTENT_TYPE, "application/octet-stream").header(JSON_LENGTH, length)
            }
            None => request.header(header::CONTENT_TYPE, "application/json"),
        };
        let response = self.send(request.body(Full::new(body.bytes.clone()))?).await?;
        if response.status() != StatusCode::OK {
            bail!("{}: {}", response.status(), String::from_utf8_lossy(response.body()));
        }
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let node = text(NODE).with_context(|| format!("the answer has no {NODE}"))?.to_owned();
        let attempts = text(ATTEMPTS).and_then(|attempts| attempts.parse().ok()).unwrap_or(1);
        Ok(Reply { answer: answer(sample, response.body())?, node, attempts })
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(path).header(header::HOST, self.address.to_string())
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        let sender = match &mut self.sender {
            Some(sender) if !sender.is_closed() => sender,
            Some(_) | None => {
                let stream = TcpStream::connect(self.address).await.context("cannot connect")?;
                stream.set_nodelay(true)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                // How it ends is what the request in flight reports.
                self.connections.spawn(async { drop(connection.await) });
                self.sender.insert(sender)
            }
        };
        sender.ready().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

impl Body {
    /// A sample as JSON alone, as `curl` would send it.
    pub(super) fn json(sample: &Sample) -> Self {
        let data: Vec<f32> = sample.values().collect();
        let input = serde_json::json!({
            "name": sample.input, "datatype": "FP32", "shape": sample.shape, "data": data,
        });
        Self { bytes: serde_json::json!({"inputs": [input]}).to_string().into(), json_length: None }
    }

    /// A sample with the binary tensor extension: a quarter of the bytes, and no numbers to parse.
    pub(super) fn binary(sample: &Sample) -> Self {
        let input = serde_json::json!({
            "name": sample.input, "datatype": "FP32", "shape": sample.shape,
            "parameters": {"binary_data_size": sample.bytes.len()},
        });
        let mut bytes = serde_json::json!({"inputs": [input]}).to_string().into_bytes();
        let json_length = Some(bytes.len());
        bytes.extend_from_slice(&sample.bytes);
        Self { bytes: bytes.into(), json_length }
    }
}

/// The deciding output of an answer in JSON.
fn answer(sample: &Sample, body: &[u8]) -> anyhow::Result<Answer> {
    #[derive(Deserialize)]
    struct Answered {
        outputs: Vec<Output>,
    }
    #[derive(Deserialize)]
    struct Output {
        name: String,
        data: serde_json::Value,
    }
    let Answered { outputs } = serde_json::from_slice(body).context("the answer is not what was agreed")?;
    let output = outputs.into_iter().find(|output| output.name == sample.output);
    let data = output.with_context(|| format!("the answer has no {}", sample.output))?.data;
    match sample.expected {
        Answer::Class(_) => {
            let probabilities: Vec<f32> = serde_json::from_value(data).context("probabilities")?;
            Ok(Answer::Class(largest(&probabilities).context("no probabilities")?))
        }
        Answer::Anomalous(_) => match data.as_array().and_then(|data| data.first()?.as_bool()) {
            Some(anomalous) => Ok(Answer::Anomalous(anomalous)),
            None => bail!("{} is no flag: {data}", sample.output),
        },
    }
}

/// The index of the largest value.
pub(super) fn largest(values: &[f32]) -> Option<usize> {
    values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    fn one_of(model: &str) -> Sample {
        samples::samples().into_iter().find(|sample| sample.model == model).expect("a sample")
    }

    #[test]
    fn a_binary_body_is_json_and_then_the_tensor() {
        let sample = one_of(samples::SURFACE);
        let body = Body::binary(&sample);
        let (head, tensor) = body.bytes.split_at(body.json_length.unwrap());
        let head: serde_json::Value = serde_json::from_slice(head).unwrap();
        assert_eq!(head["inputs"][0]["parameters"]["binary_data_size"], tensor.len());
        assert_eq!(tensor, sample.bytes);
    }

    #[test]
    fn the_deciding_output_is_found_whatever_else_there_is() {
        let picture = one_of(samples::SURFACE);
        let body = br#"{"model_name":"m","outputs":[{"name":"x","data":[9]},{"name":"probabilities","datatype":"FP32","shape":[1,5],"data":[0.1,0.2,0.6,0.05,0.05]}]}"#;
        assert_eq!(answer(&picture, body).unwrap(), Answer::Class(2));
        let row = one_of(samples::VIBRATION);
        let body = br#"{"outputs":[{"name":"score","data":[0.9]},{"name":"anomalous","data":[true]}]}"#;
        assert_eq!(answer(&row, body).unwrap(), Answer::Anomalous(true));
        for wrong in [&b"{}"[..], br#"{"outputs":[]}"#, br#"{"outputs":[{"name":"anomalous","data":[1]}]}"#] {
            assert!(answer(&row, wrong).is_err());
        }
    }
}
