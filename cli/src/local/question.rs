//! One inference of a few numbers, in each form in which the cluster takes it, and what was told about it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use lineside_client::Client;
use lineside_wire::{Datatype, Executed, Tensor};
use serde::Deserialize;

use super::http::{Body, HttpCaller, header};

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Question {
    /// Of which model.
    pub(crate) model: &'static str,
    /// With what.
    pub(crate) inputs: Vec<Input>,
    /// The output that counts.
    pub(crate) output: &'static str,
    /// Which sequence it belongs to.
    pub(crate) sequence: Option<Sequence>,
}

/// A vector.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Input {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its elements.
    pub(crate) values: Values,
}

/// The elements of a vector.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    /// FP32.
    Fp32(Vec<f32>),
    /// INT64.
    Int64(Vec<i64>),
}

/// A place in a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Which one.
    pub(crate) id: String,
    /// Whether it begins here.
    pub(crate) start: bool,
    /// Whether it ends here.
    pub(crate) end: bool,
}

/// What the cluster said. Everything else is an error: the connection broke, or the answer is none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    /// An answer.
    Answer {
        /// The elements of the output that counts.
        values: Vec<f32>,
        /// The node that did the work, if it was named.
        node: String,
    },
    /// A typed error.
    Fault {
        /// Its code.
        code: String,
        /// Whether the model may have run.
        executed: Executed,
        /// Whether the same may be asked again.
        retryable: bool,
    },
}

impl Values {
    const fn datatype(&self) -> Datatype {
        match self {
            Self::Fp32(_) => Datatype::Fp32,
            Self::Int64(_) => Datatype::Int64,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Fp32(values) => values.len(),
            Self::Int64(values) => values.len(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Fp32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Int64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Self::Fp32(values) => values.as_slice().into(),
            Self::Int64(values) => values.as_slice().into(),
        }
    }
}

impl Question {
    /// The sum of two vectors, by the model `add`.
    pub(crate) fn sum(a: [f32; 2], b: [f32; 2]) -> Self {
        let input = |name, values: [f32; 2]| Input { name, values: Values::Fp32(values.into()) };
        Self { model: "add", inputs: vec![input("a", a), input("b", b)], output: "sum", sequence: None }
    }

    fn document(&self, with_data: bool) -> serde_json::Value {
        let inputs: Vec<_> = self.inputs.iter().map(|input| input.document(with_data)).collect();
        let mut document = serde_json::json!({"inputs": inputs});
        if let Some(Sequence { id, start, end }) = &self.sequence {
            document["parameters"] =
                serde_json::json!({"sequence_id": id, "sequence_start": start, "sequence_end": end});
        }
        document
    }

    /// All of it in JSON.
    pub(crate) fn json(&self) -> Body {
        Body { bytes: self.document(true).to_string().into(), json_length: None }
    }

    /// JSON, and the vectors as bytes behind it.
    pub(crate) fn binary(&self) -> Body {
        let mut bytes = self.document(false).to_string().into_bytes();
        let json_length = Some(bytes.len());
        bytes.extend(self.inputs.iter().flat_map(|input| input.values.bytes()));
        Body { bytes: bytes.into(), json_length }
    }

    /// A JSON-RPC request.
    pub(crate) fn rpc(&self) -> Body {
        let mut params = self.document(true);
        params["model"] = self.model.into();
        let request = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "infer", "params": params});
        Body { bytes: request.to_string().into(), json_length: None }
    }

    fn path(&self) -> String {
        format!("/v2/models/{}/infer", self.model)
    }
}

impl Input {
    fn document(&self, with_data: bool) -> serde_json::Value {
        let Self { name, values } = self;
        let mut document =
            serde_json::json!({"name": name, "datatype": values.datatype(), "shape": [values.len()]});
        if with_data {
            document["data"] = values.json();
        } else {
            document["parameters"] = serde_json::json!({"binary_data_size": values.bytes().len()});
        }
        document
    }
}

/// Asks by HTTP. The deadline is told to the door; holding it is the caller's business.
///
/// # Errors
/// The connection broke, or the answer is none.
pub(crate) async fn ask_http(
    caller: &mut HttpCaller,
    question: &Question,
    body: &Body,
    deadline: Duration,
) -> anyhow::Result<Told> {
    let mut request = caller.post(&question.path(), body)?;
    request.headers_mut().insert(header::TIMEOUT, milliseconds(deadline)?);
    read_http(&caller.send(request).await?, question.output)
}

/// Asks by JSON-RPC.
///
/// # Errors
/// The connection broke, or the answer is none.
pub(crate) async fn ask_rpc(
    caller: &mut HttpCaller,
    question: &Question,
    deadline: Duration,
) -> anyhow::Result<Told> {
    let mut request = caller.post("/rpc", &question.rpc())?;
    request.headers_mut().insert(header::TIMEOUT, milliseconds(deadline)?);
    read_rpc(&caller.send(request).await?, question.output)
}

/// Asks by QUIC, with the client library.
///
/// # Errors
/// The answer is none.
pub(crate) async fn ask_quic(
    client: &Client,
    question: &Question,
    deadline: Duration,
) -> anyhow::Result<Told> {
    let mut request = client.infer(question.model).output(question.output).deadline(deadline);
    for Input { name, values } in &question.inputs {
        let shape = vec![values.len() as u64];
        request = request.tensor(Tensor::new(*name, values.datatype(), shape, values.bytes().into())?);
    }
    if let Some(Sequence { id, start, end }) = &question.sequence {
        request = request.session(id).parameter("sequence_start", *start).parameter("sequence_end", *end);
    }
    match request.send().await {
        Ok(answer) => {
            let values = answer.output(question.output)?.to_vec::<f32>()?;
            Ok(Told::Answer { values, node: answer.node.to_string() })
        }
        Err(error) => {
            let fault = error.fault();
            let (executed, retryable) = (fault.executed, fault.retryable);
            Ok(Told::Fault { code: fault.code.name().to_owned(), executed, retryable })
        }
    }
}

fn milliseconds(deadline: Duration) -> anyhow::Result<HeaderValue> {
    Ok(HeaderValue::from_str(&deadline.as_millis().to_string())?)
}

#[derive(Deserialize)]
struct Answered {
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    data: Vec<f32>,
}

fn told(answered: Answered, output: &str, node: String) -> anyhow::Result<Told> {
    let found = answered.outputs.into_iter().find(|found| found.name == output);
    let values = found.with_context(|| format!("the answer has no {output}"))?.data;
    Ok(Told::Answer { values, node })
}

fn node(response: &Response<Bytes>) -> String {
    let named = response.headers().get(header::NODE).and_then(|node| node.to_str().ok());
    named.unwrap_or_default().to_owned()
}

/// What an HTTP answer says.
fn read_http(response: &Response<Bytes>, output: &str) -> anyhow::Result<Told> {
    #[derive(Deserialize)]
    struct Refused {
        code: String,
        executed: Executed,
        retryable: bool,
    }
    let body = response.body();
    if response.status() == StatusCode::OK {
        let answered = serde_json::from_slice(body).context("the answer is not what was agreed")?;
        return told(answered, output, node(response));
    }
    match serde_json::from_slice(body) {
        Ok(Refused { code, executed, retryable }) => Ok(Told::Fault { code, executed, retryable }),
        Err(_) => bail!("{} without a code: {}", response.status(), String::from_utf8_lossy(body)),
    }
}

/// What an answer of JSON-RPC says.
fn read_rpc(response: &Response<Bytes>, output: &str) -> anyhow::Result<Told> {
    #[derive(Deserialize)]
    struct Reply {
        result: Option<Answered>,
        error: Option<Failed>,
    }
    #[derive(Deserialize)]
    struct Failed {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        name: String,
        executed: Executed,
        retryable: bool,
    }
    if response.status() != StatusCode::OK {
        return read_http(response, output);
    }
    let body = response.body();
    let reply = serde_json::from_slice(body)
        .with_context(|| format!("no answer of JSON-RPC: {}", String::from_utf8_lossy(body)))?;
    match reply {
        Reply { result: Some(answered), .. } => told(answered, output, node(response)),
        Reply { error: Some(Failed { data }), .. } => {
            let Data { name, executed, retryable } = data;
            Ok(Told::Fault { code: name, executed, retryable })
        }
        Reply { result: None, error: None } => bail!("an answer without result and error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &'static str) -> Response<Bytes> {
        let response = Response::builder().status(status).header(header::NODE, "press");
        response.body(Bytes::from_static(body.as_bytes())).unwrap()
    }

    #[test]
    fn the_forms_of_a_question_say_the_same() {
        let mut question = Question::sum([1.0, 2.0], [3.0, 4.0]);
        question.sequence = Some(Sequence { id: "s".into(), start: true, end: false });
        let parse = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let json = parse(&question.json().bytes);
        assert_eq!(
            (&json["inputs"][1]["data"][1], &json["parameters"]["sequence_id"]),
            (&4.0.into(), &"s".into())
        );
        let binary = question.binary();
        let (head, tensors) = binary.bytes.split_at(binary.json_length.unwrap());
        let head = parse(head);
        assert_eq!((&head["inputs"][0]["parameters"]["binary_data_size"], tensors.len()), (&8.into(), 16));
        assert_eq!(tensors[4..8], 2.0_f32.to_le_bytes());
        let rpc = parse(&question.rpc().bytes);
        assert_eq!((&rpc["params"]["model"], &rpc["params"]["inputs"]), (&"add".into(), &json["inputs"]));
    }

    #[test]
    fn answers_and_typed_errors_are_told_apart_from_everything_else() {
        let sum = r#"{"outputs":[{"name":"x","data":[9]},{"name":"sum","data":[4.0,6.0]}]}"#;
        let answer = Told::Answer { values: vec![4.0, 6.0], node: "press".into() };
        assert_eq!(read_http(&response(200, sum), "sum").unwrap(), answer);
        let busy = r#"{"error":"full","code":"BUSY","executed":"no","retryable":true}"#;
        let fault = Told::Fault { code: "BUSY".into(), executed: Executed::No, retryable: true };
        assert_eq!(read_http(&response(503, busy), "sum").unwrap(), fault);
        assert_eq!(read_rpc(&response(503, busy), "sum").unwrap(), fault);
        for (status, body) in [(200, "{}"), (200, r#"{"outputs":[]}"#), (503, "out of order"), (200, busy)] {
            assert!(read_http(&response(status, body), "sum").is_err(), "{body}");
        }
        let reply = r#"{"id":1,"result":{"outputs":[{"name":"sum","data":[4,6]}]}}"#;
        assert_eq!(read_rpc(&response(200, reply), "sum").unwrap(), answer);
        let error =
            r#"{"id":1,"error":{"code":-32004,"data":{"name":"BUSY","executed":"no","retryable":true}}}"#;
        assert_eq!(read_rpc(&response(200, error), "sum").unwrap(), fault);
        assert!(read_rpc(&response(200, r#"{"id":1}"#), "sum").is_err());
    }
}
