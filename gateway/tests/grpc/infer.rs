//! One request, one answer.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use lineside_wire::{Datatype, Parameter};
use tonic::{Code, Request, codec::CompressionEncoding};

use crate::{
    client::{Client, byte, parameter, raw, refused},
    gate::{Gate, eventually},
    inference::{
        InferTensorContents, ModelInferRequest,
        infer_parameter::ParameterChoice,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
    line::PRESS,
};

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[tokio::test]
async fn a_model_runs_and_the_answer_says_which_and_where() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let (a, b) = (floats(&[1.0, 2.0]), floats(&[3.0, 4.0]));
    let mut asked = raw("add", &[("a", "FP32", &[1, 2], &a), ("b", "FP32", &[1, 2], &b)]);
    asked.id = "part-7".to_owned();
    asked.model_version = "1".to_owned();
    asked.outputs = vec![InferRequestedOutputTensor {
        name: "sum".to_owned(),
        parameters: [("classification".to_owned(), parameter(ParameterChoice::Int64Param(2)))].into(),
    }];
    asked.parameters.insert("shift".to_owned(), parameter(ParameterChoice::StringParam("night".to_owned())));
    asked.parameters.insert("priority".to_owned(), parameter(ParameterChoice::Uint64Param(1)));
    let mut request = Request::new(asked);
    request.metadata_mut().insert("x-request-id", "shift-7".parse().unwrap());
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request.metadata_mut().insert("traceparent", trace.parse().unwrap());
    request.metadata_mut().insert("x-lineside-affinity", "belt 4".parse().unwrap());
    request.metadata_mut().insert("x-explain", "1".parse().unwrap());

    let response = client.inference().model_infer(request).await.unwrap();
    let metadata = |name: &str| response.metadata().get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(metadata("x-request-id"), "shift-7");
    assert_eq!(
        (metadata("x-lineside-node"), metadata("x-lineside-attempts")),
        (PRESS.to_string(), "2".to_owned())
    );
    assert!(metadata("x-lineside-flight").contains(&PRESS.to_string()));
    let answer = response.get_ref();
    assert_eq!((answer.model_name.as_str(), answer.model_version.as_str()), ("add", "1"));
    assert_eq!(answer.id, "part-7");
    assert_eq!(answer.raw_output_contents, [floats(&[4.0, 6.0])]);
    assert_eq!((answer.outputs[0].name.as_str(), answer.outputs[0].datatype.as_str()), ("sum", "FP32"));
    assert_eq!(answer.outputs[0].shape, [1, 2]);

    let (call, _) = gate.line.last_call();
    assert_eq!(call.context.traceparent.as_deref(), Some(trace));
    assert_eq!(call.context.affinity.as_deref(), Some("belt 4"));
    assert_eq!(call.context.priority, 1);
    assert_eq!(call.params.outputs, ["sum"]);
    assert_eq!(call.params.classification["sum"], 2);
    assert_eq!(call.params.parameters["shift"], Parameter::Text("night".to_owned()));
}

/// The same two elements of every datatype, raw and typed.
fn elements(datatype: Datatype) -> (Vec<u8>, Option<InferTensorContents>) {
    let d = InferTensorContents::default;
    let ints = || Some(InferTensorContents { int_contents: vec![-1, 2], ..d() });
    let uints = || Some(InferTensorContents { uint_contents: vec![1, 2], ..d() });
    match datatype {
        Datatype::Bool => (vec![1, 0], Some(InferTensorContents { bool_contents: vec![true, false], ..d() })),
        Datatype::Int8 => (vec![255, 2], ints()),
        Datatype::Int16 => ([-1_i16, 2].map(i16::to_le_bytes).concat(), ints()),
        Datatype::Int32 => ([-1_i32, 2].map(i32::to_le_bytes).concat(), ints()),
        Datatype::Int64 => {
            let values = [i64::MIN, (1 << 53) + 1];
            let contents = InferTensorContents { int64_contents: values.to_vec(), ..d() };
            (values.map(i64::to_le_bytes).concat(), Some(contents))
        }
        Datatype::Uint8 => (vec![1, 2], uints()),
        Datatype::Uint16 => ([1_u16, 2].map(u16::to_le_bytes).concat(), uints()),
        Datatype::Uint32 => ([1_u32, 2].map(u32::to_le_bytes).concat(), uints()),
        Datatype::Uint64 => {
            let values = [u64::MAX, 2];
            let contents = InferTensorContents { uint64_contents: values.to_vec(), ..d() };
            (values.map(u64::to_le_bytes).concat(), Some(contents))
        }
        Datatype::Fp16 | Datatype::Bf16 => (vec![0, 60, 0, 64], None),
        Datatype::Fp32 => {
            let contents = InferTensorContents { fp32_contents: vec![f32::NAN, 0.5], ..d() };
            (floats(&[f32::NAN, 0.5]), Some(contents))
        }
        Datatype::Fp64 => {
            let values = [f64::INFINITY, -0.5];
            let contents = InferTensorContents { fp64_contents: values.to_vec(), ..d() };
            (values.map(f64::to_le_bytes).concat(), Some(contents))
        }
        Datatype::Bytes => {
            let texts = [Bytes::from_static(b"ok"), Bytes::from_static(&[0xff, 0, 1])];
            let contents = InferTensorContents { bytes_contents: texts.to_vec(), ..d() };
            (lineside_wire::bytes_tensor(texts.iter().map(AsRef::as_ref)).unwrap(), Some(contents))
        }
    }
}

#[tokio::test]
async fn every_datatype_comes_back_as_it_went_raw_and_typed_plain_and_packed() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    for packed in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Deflate)] {
        let mut inference = client.inference();
        if let Some(packed) = packed {
            inference = inference.send_compressed(packed).accept_compressed(packed);
        }
        for datatype in Datatype::ALL {
            let (bytes, typed) = elements(datatype);
            let mut asked = raw("echo", &[("x", datatype.as_str(), &[2], &bytes)]);
            let answer = inference.model_infer(asked.clone()).await.unwrap().into_inner();
            assert_eq!(answer.raw_output_contents[0], bytes, "{datatype} raw");
            assert_eq!(
                (answer.outputs[0].datatype.as_str(), &answer.outputs[0].shape[..]),
                (datatype.as_str(), &[2][..])
            );
            let Some(typed) = typed else { continue };
            asked.raw_input_contents.clear();
            asked.inputs[0].contents = Some(typed);
            let answer = inference.model_infer(asked).await.unwrap().into_inner();
            assert_eq!(answer.raw_output_contents, [bytes], "{datatype} typed");
        }
    }
}

#[tokio::test]
async fn answers_are_packed_as_their_requests_are() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let accepts = || client.inference().accept_compressed(CompressionEncoding::Gzip);
    let response = accepts().model_infer(byte("echo", 7)).await.unwrap();
    assert!(!response.metadata().contains_key("grpc-encoding"));
    let response =
        accepts().send_compressed(CompressionEncoding::Gzip).model_infer(byte("echo", 7)).await.unwrap();
    assert_eq!(response.metadata().get("grpc-encoding").unwrap(), "gzip");
}

#[tokio::test]
async fn a_large_tensor_goes_both_ways() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let image = vec![7_u8; 6 << 20];
    let answer =
        client.inference().model_infer(raw("echo", &[("x", "UINT8", &[6 << 20], &image)])).await.unwrap();
    assert_eq!(answer.get_ref().raw_output_contents[0].len(), image.len());
}

#[tokio::test]
async fn whatever_goes_wrong_has_its_code_name_and_fate() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let fails = async |request: ModelInferRequest| client.inference().model_infer(request).await.unwrap_err();
    let none = Code::NotFound;
    for model in ["paint", "../add", ""] {
        let text = refused(&fails(byte(model, 1)).await, none, "MODEL_NOT_FOUND", "no");
        assert!(text.starts_with("Request for unknown model"), "{text}");
    }
    for version in ["9", "one"] {
        let asked = ModelInferRequest { model_version: version.to_owned(), ..byte("add", 1) };
        refused(&fails(asked).await, none, "MODEL_NOT_FOUND", "no");
    }
    let busy = fails(byte("busy", 1)).await;
    refused(&busy, Code::Unavailable, "BUSY", "no");
    assert_eq!(busy.metadata().get("retry-after").unwrap(), "2");
    let lost = fails(byte("lost", 1)).await;
    refused(&lost, Code::Unknown, "LOST", "maybe");
    assert_eq!(lost.metadata().get("x-lineside-attempts").unwrap(), "3");
    refused(&fails(byte("late", 1)).await, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "no");
    refused(&fails(byte("loading", 1)).await, Code::Unavailable, "MODEL_UNAVAILABLE", "no");
    refused(&fails(byte("add", 1)).await, Code::InvalidArgument, "INVALID_PARAMS", "no");
    assert!(client.inference().model_infer(byte("echo", 1)).await.is_ok());
}

#[tokio::test]
async fn wrong_requests_are_refused_in_words() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let refuses = async |request: ModelInferRequest, words: &str| {
        let status = client.inference().model_infer(request).await.unwrap_err();
        let text = refused(&status, Code::InvalidArgument, "INVALID_PARAMS", "no");
        assert!(text.contains(words), "{words:?} is not in {text:?}");
    };
    let one =
        |value: i32| InferTensorContents { int_contents: vec![value], ..InferTensorContents::default() };
    let mut mixed = byte("echo", 1);
    mixed.inputs[0].contents = Some(one(1));
    refuses(mixed, "use one form for all inputs").await;
    let mut missing = byte("echo", 1);
    missing.raw_input_contents.push(Bytes::new());
    refuses(missing, "raw_input_contents has 2").await;
    let mut half = raw("echo", &[("x", "FP16", &[1], &[])]);
    (half.raw_input_contents, half.inputs[0].contents) = (Vec::new(), Some(one(1)));
    refuses(half, "raw_input_contents").await;
    refuses(raw("echo", &[("x", "FP32", &[2], &[0; 4])]), "needs 8 bytes").await;
    refuses(raw("echo", &[("x", "FP32", &[-1], &[0; 4])]), "negative dimension").await;
    refuses(raw("echo", &[("x", "FP33", &[1], &[0; 4])]), "unknown datatype").await;
    refuses(raw("echo", &[("x", "UINT8", &[1 << 62, 4], &[0])]), "more elements").await;
    refuses(raw("echo", &[("x", "UINT8", &[1], &[0]), ("x", "UINT8", &[1], &[0])]), "there twice").await;
    refuses(raw("echo", &[("x", "BYTES", &[1], &[9, 0, 0, 0, 1])]), "element is longer").await;
    refuses(raw("echo", &[("x", "UINT8", &[1; 9], &[0])]), "8 dimensions").await;
    refuses(ModelInferRequest { id: "7".repeat(2_000), ..byte("echo", 1) }, "the id is longer").await;
    let swollen = vec![InferInputTensor::default(); 100_000];
    refuses(ModelInferRequest { inputs: swollen, ..byte("echo", 1) }, "more than 256 inputs").await;
}

#[tokio::test]
async fn a_deadline_is_kept_and_the_call_taken_back() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let mut request = Request::new(byte("stuck", 1));
    request.set_timeout(Duration::from_millis(80));
    let status = client.inference().model_infer(request).await.unwrap_err();
    refused(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED_RUNNING", "maybe");

    let mut asked = byte("stuck", 1);
    asked.parameters.insert("timeout".to_owned(), parameter(ParameterChoice::Int64Param(80_000)));
    let status = client.inference().model_infer(asked).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);

    let mut request = Request::new(byte("echo", 1));
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let status = client.inference().model_infer(request).await.unwrap_err();
    assert!(refused(&status, Code::InvalidArgument, "INVALID_PARAMS", "no").contains("grpc-timeout"));
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_cluster_and_is_counted() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let mut inference = client.inference();
    let call = inference.model_infer(byte("slow", 1));
    let waits = eventually("the call waits", async || gate.line.waiting.load(Ordering::SeqCst) == 1);
    tokio::select! {
        _ = call => panic!("it has no answer"),
        () = waits => {}
    }
    eventually("no call waits", async || gate.line.waiting.load(Ordering::SeqCst) == 0).await;
    assert_eq!(gate.line.dropped.load(Ordering::SeqCst), 1);
    let counted = r#"lineside_http_requests_total{route="grpc",code="499"}"#;
    eventually("it is counted", async || gate.metric(counted).await == 1.0).await;
    assert!(client.inference().model_infer(byte("echo", 1)).await.is_ok());
    let counted = r#"lineside_http_requests_total{route="grpc",code="200"}"#;
    eventually("it is counted", async || gate.metric(counted).await == 1.0).await;
}
