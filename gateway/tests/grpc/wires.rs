//! The same tensors over every wire: REST in both forms, gRPC, JSON-RPC and QUIC give them back bit by bit.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use lineside_wire::{
    Datatype, InferResult, Tensor, bytes_elements, bytes_tensor, decode_part, split_tensors,
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    client::{Client, raw},
    gate::{Gate, config},
    mesh::{Floor, infer},
};

/// A model of the made-up cluster that gives back its inputs.
const ECHO: &str = "echo";

/// Rounds of the property: each asks all five wires.
const CASES: u32 = 64;

/// One door for HTTP and gRPC, and one for QUIC.
struct Wires {
    gate: Gate,
    grpc: Client,
    floor: Floor,
}

/// What came back: name, datatype, shape, bytes.
type Came = Vec<(String, String, Vec<u64>, Bytes)>;

fn sent(tensors: &[Tensor]) -> Came {
    let one = |tensor: &Tensor| {
        let (shape, bytes) = (tensor.shape.dims().to_vec(), tensor.bytes.clone());
        (tensor.name.clone(), tensor.datatype.as_str().to_owned(), shape, bytes)
    };
    tensors.iter().map(one).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// Reads outputs whose bytes `data` finds.
fn outputs(answer: &Value, mut data: impl FnMut(&Value) -> Bytes) -> Came {
    let outputs = answer["outputs"].as_array().unwrap_or_else(|| panic!("no outputs: {answer}"));
    let one = |output: &Value| {
        let shape = output["shape"].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect();
        (text(&output["name"]), text(&output["datatype"]), shape, data(output))
    };
    outputs.iter().map(one).collect()
}

fn described(tensor: &Tensor, more: &Value) -> Value {
    let mut input =
        json!({"name": tensor.name, "datatype": tensor.datatype.as_str(), "shape": tensor.shape.dims()});
    input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    input
}

impl Wires {
    async fn open() -> Self {
        let gate = Gate::open();
        let grpc = Client::of(&gate).await;
        Self { gate, grpc, floor: Floor::new(config()) }
    }

    async fn rest_binary(&self, tensors: &[Tensor]) -> Came {
        let size = |tensor: &Tensor| json!({"parameters": {"binary_data_size": tensor.bytes.len()}});
        let inputs: Vec<_> = tensors.iter().map(|tensor| described(tensor, &size(tensor))).collect();
        let json = json!({"inputs": inputs, "parameters": {"binary_data_output": true}});
        let bytes: Vec<&[u8]> = tensors.iter().map(|tensor| &tensor.bytes[..]).collect();
        let reply =
            self.gate.caller().await.post_binary(&format!("/v2/models/{ECHO}/infer"), &json, &bytes).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let length: usize = reply.header("inference-header-content-length").unwrap().parse().unwrap();
        let answer: Value = serde_json::from_slice(&reply.body[..length]).unwrap();
        let mut rest = Bytes::copy_from_slice(&reply.body[length..]);
        let came = outputs(&answer, |output| {
            rest.split_to(output["parameters"]["binary_data_size"].as_u64().unwrap().try_into().unwrap())
        });
        assert!(rest.is_empty(), "{} bytes are left", rest.len());
        came
    }

    async fn rest_json(&self, tensors: &[Tensor]) -> Option<Came> {
        let data: Option<Vec<Value>> = tensors.iter().map(as_json).collect();
        let inputs: Vec<_> = tensors
            .iter()
            .zip(data?)
            .map(|(tensor, data)| described(tensor, &json!({"data": data})))
            .collect();
        let body = json!({"inputs": inputs}).to_string();
        let reply = self.gate.caller().await.post(&format!("/v2/models/{ECHO}/infer"), body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        // Elements as text: serde_json's own numbers are a bit off now and then.
        let exact: Exact<'_> = serde_json::from_slice(&reply.body).unwrap();
        let mut data =
            tensors.iter().zip(exact.outputs).map(|(tensor, output)| output.bytes(tensor.datatype));
        Some(outputs(&reply.json(), |_| data.next().unwrap()))
    }

    async fn json_rpc(&self, tensors: &[Tensor]) -> Came {
        let packed = |tensor: &Tensor| json!({"encoding": "base64", "data": STANDARD.encode(&tensor.bytes)});
        let inputs: Vec<_> = tensors.iter().map(|tensor| described(tensor, &packed(tensor))).collect();
        let params = json!({"model": ECHO, "inputs": inputs, "encoding": "base64"});
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "infer", "params": params}).to_string();
        let reply = self.gate.caller().await.post("/rpc", call).await.json();
        assert!(reply["result"].is_object(), "{reply}");
        outputs(&reply["result"], |output| STANDARD.decode(text(&output["data"])).unwrap().into())
    }

    async fn grpc(&self, tensors: &[Tensor]) -> Came {
        let shapes: Vec<Vec<i64>> = tensors
            .iter()
            .map(|tensor| tensor.shape.dims().iter().map(|dim| i64::try_from(*dim).unwrap()).collect())
            .collect();
        let inputs: Vec<_> = tensors
            .iter()
            .zip(&shapes)
            .map(|(tensor, shape)| {
                (tensor.name.as_str(), tensor.datatype.as_str(), &shape[..], &tensor.bytes[..])
            })
            .collect();
        let answer = self.grpc.inference().model_infer(raw(ECHO, &inputs)).await.unwrap().into_inner();
        let one = |(output, bytes): (_, &Bytes)| {
            let output: &crate::inference::model_infer_response::InferOutputTensor = output;
            let shape = output.shape.iter().map(|dim| u64::try_from(*dim).unwrap()).collect();
            (output.name.clone(), output.datatype.clone(), shape, bytes.clone())
        };
        answer.outputs.iter().zip(&answer.raw_output_contents).map(one).collect()
    }

    async fn quic(&self, tensors: &[Tensor]) -> Came {
        let reply = self.floor.call(infer(ECHO, tensors)).await.unwrap();
        let result: InferResult = decode_part(&reply.result).unwrap();
        sent(&split_tensors(result.outputs, &reply.payload).unwrap())
    }
}

/// The elements as JSON; `None` where it has no form for one of them.
fn as_json(tensor: &Tensor) -> Option<Value> {
    macro_rules! numbers {
        ($type:ty) => {
            tensor.bytes.as_chunks().0.iter().map(|bytes| json!(<$type>::from_le_bytes(*bytes))).collect()
        };
    }
    let elements: Vec<Value> = match tensor.datatype {
        Datatype::Bool => tensor.bytes.iter().map(|byte| json!(*byte != 0)).collect(),
        Datatype::Uint8 => numbers!(u8),
        Datatype::Uint16 => numbers!(u16),
        Datatype::Uint32 => numbers!(u32),
        Datatype::Uint64 => numbers!(u64),
        Datatype::Int8 => numbers!(i8),
        Datatype::Int16 => numbers!(i16),
        Datatype::Int32 => numbers!(i32),
        Datatype::Int64 => numbers!(i64),
        Datatype::Fp32 => numbers!(f32),
        Datatype::Fp64 => numbers!(f64),
        Datatype::Fp16 | Datatype::Bf16 => return None,
        Datatype::Bytes => {
            let elements = bytes_elements(&tensor.bytes, tensor.shape.elements()).unwrap();
            let texts: Option<Vec<_>> =
                elements.into_iter().map(|bytes| std::str::from_utf8(bytes).ok()).collect();
            texts?.into_iter().map(Value::from).collect()
        }
    };
    // What is no number became null.
    (!elements.contains(&Value::Null)).then_some(elements.into())
}

/// An answer whose elements are not read yet.
#[derive(Deserialize)]
struct Exact<'a> {
    #[serde(borrow)]
    outputs: Vec<Elements<'a>>,
}

#[derive(Deserialize)]
struct Elements<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

impl Elements<'_> {
    fn bytes(&self, datatype: Datatype) -> Bytes {
        macro_rules! numbers {
            ($type:ty) => {
                self.data.iter().flat_map(|text| text.get().parse::<$type>().unwrap().to_le_bytes()).collect()
            };
        }
        let bytes: Vec<u8> = match datatype {
            Datatype::Bool => self.data.iter().map(|text| u8::from(text.get() == "true")).collect(),
            Datatype::Uint8 => numbers!(u8),
            Datatype::Uint16 => numbers!(u16),
            Datatype::Uint32 => numbers!(u32),
            Datatype::Uint64 => numbers!(u64),
            Datatype::Int8 => numbers!(i8),
            Datatype::Int16 => numbers!(i16),
            Datatype::Int32 => numbers!(i32),
            Datatype::Int64 => numbers!(i64),
            Datatype::Fp32 => numbers!(f32),
            Datatype::Fp64 => numbers!(f64),
            Datatype::Fp16 | Datatype::Bf16 => panic!("{datatype} has no form in JSON"),
            Datatype::Bytes => {
                let texts: Vec<String> =
                    self.data.iter().map(|text| serde_json::from_str(text.get()).unwrap()).collect();
                bytes_tensor(texts.iter().map(String::as_bytes)).unwrap()
            }
        };
        bytes.into()
    }
}

fn tensors() -> impl Strategy<Value = Vec<Tensor>> {
    let one = (select(Datatype::ALL.to_vec()), vec(0_u64..4, 0..4)).prop_flat_map(|(datatype, shape)| {
        let elements: usize = shape.iter().product::<u64>().try_into().unwrap();
        (Just(datatype), Just(shape), content(datatype, elements))
    });
    vec(one, 1..4).prop_map(|parts| {
        let named = parts.into_iter().enumerate();
        named
            .map(|(at, (datatype, shape, bytes))| {
                Tensor::new(format!("in{at}"), datatype, shape, bytes.into()).unwrap()
            })
            .collect()
    })
}

fn content(datatype: Datatype, elements: usize) -> BoxedStrategy<Vec<u8>> {
    match datatype {
        Datatype::Bool => vec(0_u8..2, elements).boxed(),
        Datatype::Bytes => {
            let element =
                prop_oneof![3 => ".{0,8}".prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..8)];
            vec(element, elements)
                .prop_map(|elements| bytes_tensor(elements.iter().map(Vec::as_slice)).unwrap())
                .boxed()
        }
        // Any bits at all: also NaN, infinity, the smallest and the largest.
        other => vec(any::<u8>(), elements * other.width().unwrap()).boxed(),
    }
}

#[test]
fn random_tensors_come_back_bit_by_bit_over_every_wire() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let wires = runtime.block_on(Wires::open());
    let mut runner = TestRunner::new(ProptestConfig { cases: CASES, ..ProptestConfig::default() });
    let property = |tensors: Vec<Tensor>| {
        let sent = sent(&tensors);
        runtime.block_on(async {
            prop_assert_eq!(&wires.rest_binary(&tensors).await, &sent, "REST, binary");
            prop_assert_eq!(&wires.grpc(&tensors).await, &sent, "gRPC");
            prop_assert_eq!(&wires.json_rpc(&tensors).await, &sent, "JSON-RPC");
            prop_assert_eq!(&wires.quic(&tensors).await, &sent, "QUIC");
            if let Some(came) = wires.rest_json(&tensors).await {
                prop_assert_eq!(&came, &sent, "REST, JSON");
            }
            Ok(())
        })
    };
    runner.run(&tensors(), property).unwrap();
}
