//! Sums, asked of the cluster by both doors: the model `add` and its slow sister `slow-add`.

use std::time::Duration;

use bytes::Bytes;
use lineside_client::{CallError, Client};
use lineside_wire::{Datatype, InferParams, NodeId, Parameters, PayloadBuilder, Tensor, join_tensors};

use crate::{Http, HttpAnswer};

/// Rounds of `slow-add` that take about a millisecond on one core.
const ROUNDS_PER_MS: u64 = 25;

/// The header that gives a slow sum time enough on a machine that does much else: inference yields to everything.
pub const PATIENTLY: (&str, &str) = ("x-request-timeout-ms", "25000");

/// What is to be added, and how slowly.
#[derive(Clone, Copy, Debug)]
pub struct Addends {
    a: f32,
    b: f32,
    rounds: Option<i64>,
}

/// A sum that came back, and how.
#[derive(Clone, Copy, Debug)]
pub struct Added {
    /// Whether it is right.
    pub right: bool,
    /// Who added.
    pub node: NodeId,
    /// Tries that it took.
    pub attempts: u8,
}

impl Addends {
    /// For the model `add`.
    #[must_use]
    pub const fn new(a: f32, b: f32) -> Self {
        Self { a, b, rounds: None }
    }

    /// For the model `slow-add`, which takes about this long on a core of its own.
    #[must_use]
    pub fn slowly(self, about: Duration) -> Self {
        let rounds = u64::try_from(about.as_millis()).unwrap_or(u64::MAX).saturating_mul(ROUNDS_PER_MS);
        Self { rounds: i64::try_from(rounds).ok(), ..self }
    }

    const fn model(&self) -> &'static str {
        if self.rounds.is_some() { "slow-add" } else { "add" }
    }

    /// The path to post to.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/v2/models/{}/infer", self.model())
    }

    /// The body, with binary tensors, and the length of its JSON.
    #[must_use]
    pub fn body(&self) -> (Vec<u8>, usize) {
        let input = |name: &str, datatype: &str, bytes: usize| {
            let size = format!(r#"{{"binary_data_size":{bytes}}}"#);
            format!(r#"{{"name":"{name}","datatype":"{datatype}","shape":[1],"parameters":{size}}}"#)
        };
        let mut inputs = vec![input("a", "FP32", 4), input("b", "FP32", 4)];
        let mut bytes = [self.a, self.b].map(f32::to_le_bytes).concat();
        if let Some(rounds) = self.rounds {
            inputs.push(input("rounds", "INT64", 8));
            bytes.extend(rounds.to_le_bytes());
        }
        let outputs = r#"[{"name":"sum","parameters":{"binary_data":true}}]"#;
        let json = format!(r#"{{"inputs":[{}],"outputs":{outputs}}}"#, inputs.join(","));
        ([json.as_bytes(), &bytes].concat(), json.len())
    }

    /// The inputs as the wire has them, with their bytes.
    pub(crate) fn call(&self) -> (InferParams, PayloadBuilder) {
        let tensor = |name: &str, datatype, bytes: &[u8]| {
            let bytes = Bytes::copy_from_slice(bytes);
            Tensor::new(name, datatype, vec![1], bytes).expect("one element of its size")
        };
        let mut tensors = vec![
            tensor("a", Datatype::Fp32, &self.a.to_le_bytes()),
            tensor("b", Datatype::Fp32, &self.b.to_le_bytes()),
        ];
        tensors.extend(self.rounds.map(|rounds| tensor("rounds", Datatype::Int64, &rounds.to_le_bytes())));
        let (inputs, payload) = join_tensors(&tensors);
        let model = self.model().parse().expect("a legal name");
        (
            InferParams {
                model,
                version: None,
                inputs,
                outputs: Vec::new(),
                parameters: Parameters::new(),
                task: None,
                classification: Default::default(),
            },
            payload,
        )
    }

    pub(crate) fn is_sum(&self, bytes: &[u8]) -> bool {
        bytes == (self.a + self.b).to_le_bytes()
    }
}

/// Asks for a sum over HTTP, with binary tensors and more headers.
///
/// # Errors
/// There was no answer at all.
pub async fn add_by_http(
    http: &mut Http,
    addends: Addends,
    headers: &[(&str, &str)],
) -> Result<HttpAnswer, std::io::Error> {
    let (body, json_length) = addends.body();
    let length = json_length.to_string();
    let headers = [&[("inference-header-content-length", length.as_str())], headers].concat();
    http.post(&addends.path(), &headers, &body).await
}

impl HttpAnswer {
    /// The answer as a sum of `addends`.
    ///
    /// # Errors
    /// It is none: with what it is.
    pub fn added(&self, addends: Addends) -> Result<Added, String> {
        let wrong = |what: &str| format!("{what}: {} {}", self.status, self.text());
        if self.status != 200 {
            return Err(wrong("no sum"));
        }
        let number = |name| self.header(name).and_then(|value| value.parse::<usize>().ok());
        let json = number("inference-header-content-length").ok_or_else(|| wrong("not binary"))?;
        let node = self.header("x-lineside-node").and_then(|node| node.parse().ok());
        Ok(Added {
            right: self.body.get(json..).is_some_and(|bytes| addends.is_sum(bytes)),
            node: node.ok_or_else(|| wrong("the answer names no node"))?,
            attempts: number("x-lineside-attempts")
                .and_then(|n| n.try_into().ok())
                .ok_or_else(|| wrong("no attempts"))?,
        })
    }
}

/// Asks for a sum over QUIC.
///
/// # Errors
/// As [`InferRequest::send`](lineside_client::InferRequest::send).
pub async fn add_by_quic(client: &Client, addends: Addends) -> Result<Added, CallError> {
    let mut request =
        client.infer(addends.model()).input("a", &[1], &[addends.a]).input("b", &[1], &[addends.b]);
    if let Some(rounds) = addends.rounds {
        request = request.input("rounds", &[1], &[rounds]);
    }
    let answer = request.send().await?;
    let right = answer.output("sum").is_ok_and(|sum| addends.is_sum(sum.bytes()));
    Ok(Added { right, node: answer.node, attempts: answer.attempts })
}
