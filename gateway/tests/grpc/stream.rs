//! Many requests on one stream.

use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use futures_util::{Stream, stream};
use lineside_certs::{ApiKeyOrder, Authority, Trust, WholeApiKey};
use lineside_gateway::{GatewayConfig, KeysMode};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Code, Request, Streaming};

use crate::{
    client::{Client, byte, refused},
    gate::{Gate, PATIENCE, config, eventually},
    inference::{
        InferParameter, ModelInferRequest, ModelStreamInferResponse, infer_parameter::ParameterChoice,
    },
};

/// A stream whose requests the test sends one by one.
struct Talk {
    requests: Option<mpsc::Sender<ModelInferRequest>>,
    answers: Streaming<ModelStreamInferResponse>,
}

fn received(requests: mpsc::Receiver<ModelInferRequest>) -> impl Stream<Item = ModelInferRequest> {
    stream::unfold(requests, async |mut requests| Some((requests.recv().await?, requests)))
}

impl Talk {
    async fn open(client: &Client, metadata: &[(&'static str, &str)]) -> Self {
        let (sender, requests) = mpsc::channel(64);
        let mut request = Request::new(received(requests));
        for (name, value) in metadata {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        let answers = client.inference().model_stream_infer(request).await.unwrap().into_inner();
        Self { requests: Some(sender), answers }
    }

    async fn send(&self, request: ModelInferRequest) {
        self.requests.as_ref().unwrap().send(request).await.unwrap();
    }

    async fn answer(&mut self) -> ModelStreamInferResponse {
        timeout(PATIENCE, self.answers.message())
            .await
            .expect("an answer comes")
            .unwrap()
            .expect("no end yet")
    }

    /// The byte in the next answer.
    async fn byte(&mut self) -> u8 {
        let answer = self.answer().await;
        assert_eq!(answer.error_message, "");
        let response = answer.infer_response.unwrap();
        let last = response.parameters["triton_final_response"].parameter_choice.as_ref();
        assert_eq!(last, Some(&ParameterChoice::BoolParam(true)));
        response.raw_output_contents[0][0]
    }
}

#[tokio::test]
async fn answers_come_in_the_order_of_their_requests() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let mut talk = Talk::open(&client, &[]).await;
    talk.send(byte("slow", 0)).await;
    for value in 1..6 {
        talk.send(byte("echo", value)).await;
    }
    // The others run beside the slow one, and wait for it.
    eventually("all have run", async || gate.line.calls.lock().unwrap().len() == 6).await;
    gate.line.go.add_permits(1);
    for value in 0..6 {
        assert_eq!(talk.byte().await, value);
    }
    talk.requests = None;
    assert!(timeout(PATIENCE, talk.answers.message()).await.expect("it ends").unwrap().is_none());
}

#[tokio::test]
async fn requests_of_one_sequence_run_one_after_the_other() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let mut talk = Talk::open(&client, &[]).await;
    let of = |sequence: i64, value| {
        let mut request = byte("slow", value);
        let id = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(sequence)) };
        request.parameters.insert("sequence_id".to_owned(), id);
        request
    };
    // Three of one sequence, one of another, and one of none (0).
    for (sequence, value) in [(7, 0), (7, 1), (7, 2), (8, 3), (0, 4)] {
        talk.send(of(sequence, value)).await;
    }
    let running = || gate.line.calls.lock().unwrap().len();
    for (place, expected) in [3, 4, 5].into_iter().enumerate() {
        eventually("those run whose turn it is", async || running() == expected).await;
        // Nothing more begins while the one before is not answered.
        tokio::task::yield_now().await;
        assert_eq!(running(), expected);
        let of_seven = gate
            .line
            .calls
            .lock()
            .unwrap()
            .iter()
            .filter(|(call, _)| call.context.session.as_deref() == Some("7"))
            .count();
        assert_eq!(of_seven, place + 1);
        gate.line.go.add_permits(if place == 0 { 3 } else { 1 });
        assert_eq!(usize::from(talk.byte().await), place);
    }
    assert_eq!((talk.byte().await, talk.byte().await), (3, 4));
}

#[tokio::test]
async fn a_wrong_request_is_answered_by_words_and_the_stream_goes_on() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let mut talk = Talk::open(&client, &[]).await;
    talk.send(ModelInferRequest { id: "7".to_owned(), ..byte("paint", 1) }).await;
    talk.send(byte("echo", 2)).await;
    let answer = talk.answer().await;
    assert!(answer.error_message.starts_with("Request for unknown model"), "{}", answer.error_message);
    let whose = answer.infer_response.unwrap();
    assert_eq!((whose.id.as_str(), whose.model_name.as_str()), ("7", "paint"));
    let text = |name: &str| whose.parameters[name].parameter_choice.clone();
    assert_eq!(text("lineside_code"), Some(ParameterChoice::StringParam("MODEL_NOT_FOUND".to_owned())));
    assert_eq!(text("lineside_executed"), Some(ParameterChoice::StringParam("no".to_owned())));
    assert_eq!(talk.byte().await, 2);
}

#[tokio::test]
async fn who_asks_for_it_gets_an_error_as_the_end_of_the_stream() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let mut talk = Talk::open(&client, &[("triton_grpc_error", "true")]).await;
    talk.send(byte("echo", 1)).await;
    talk.send(byte("paint", 1)).await;
    assert_eq!(talk.byte().await, 1);
    let status = timeout(PATIENCE, talk.answers.message()).await.expect("it ends").unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.metadata().get("x-lineside-code").unwrap(), "MODEL_NOT_FOUND");
}

#[tokio::test]
async fn a_stream_that_is_dropped_takes_its_calls_back() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let talk = Talk::open(&client, &[]).await;
    for value in 0..3 {
        talk.send(byte("slow", value)).await;
    }
    eventually("three wait", async || gate.line.waiting.load(Ordering::SeqCst) == 3).await;
    drop(talk);
    eventually("none waits", async || gate.line.waiting.load(Ordering::SeqCst) == 0).await;
    assert_eq!(gate.line.dropped.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_stream_runs_only_so_many_at_once() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let mut talk = Talk::open(&client, &[]).await;
    for value in 0..40 {
        talk.send(byte("slow", value)).await;
    }
    eventually("sixteen wait", async || gate.line.waiting.load(Ordering::SeqCst) == 16).await;
    gate.line.go.add_permits(40);
    for value in 0..40 {
        assert_eq!(talk.byte().await, value);
    }
    assert_eq!(gate.line.calls.lock().unwrap().len(), 40);
}

#[tokio::test]
async fn a_stream_ends_at_the_time_that_its_client_gave_it() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let mut talk = Talk::open(&client, &[("grpc-timeout", "150m")]).await;
    talk.send(byte("stuck", 1)).await;
    let ended = async {
        loop {
            match talk.answers.message().await {
                Ok(Some(answer)) => assert!(answer.error_message.contains("deadline"), "{answer:?}"),
                Ok(None) => panic!("an end without a status"),
                Err(status) => return status.code(),
            }
        }
    };
    assert_eq!(timeout(PATIENCE, ended).await.expect("it ends"), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_door_that_leaves_answers_what_runs_and_ends_its_streams() {
    let gate = Gate::with(config());
    let client = Client::of(&gate).await;
    let mut talk = Talk::open(&client, &[]).await;
    let idle = Talk::open(&client, &[]).await;
    talk.send(byte("slow", 5)).await;
    eventually("it waits", async || gate.line.waiting.load(Ordering::SeqCst) == 1).await;
    gate.shutdown.cancel();
    let mut ended = idle.answers;
    let status = timeout(PATIENCE, ended.message()).await.expect("it ends").unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.metadata().get("x-lineside-code").unwrap(), "DRAINING");
    gate.line.go.add_permits(1);
    assert_eq!(talk.byte().await, 5);
    assert!(timeout(PATIENCE, talk.answers.message()).await.expect("it ends").is_err());
    drop((talk, ended, client));
    let since = tokio::time::Instant::now();
    gate.closed().await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_stream_needs_a_key_like_any_call() {
    let gate = Gate::with(GatewayConfig { keys: KeysMode::Required, ..config() });
    let client = Client::of(&gate).await;
    let request = Request::new(stream::iter([byte("echo", 1)]));
    let status = client.inference().model_stream_infer(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.metadata().contains_key("x-request-id"));
}

#[tokio::test]
async fn a_stream_answers_a_key_only_as_long_as_it_is_valid() {
    let (gate, home) = (Gate::open(), tempfile::tempdir().unwrap());
    let authority = Authority::create(&home.path().join("ca"), "plant 2", SystemTime::now()).unwrap();
    let tell = || {
        let trust = Trust::own(&authority.trust().unwrap()).unwrap();
        gate.shared.set_keys(trust.keys().to_vec());
    };
    let order = ApiKeyOrder {
        name: "press-7".to_owned(),
        models: vec!["echo".to_owned()],
        methods: vec!["infer".to_owned()],
        lifetime: None,
        rate: None,
        burst: None,
    };
    let key = authority.create_key(&order, SystemTime::now()).unwrap().to_string();
    tell();
    let client = Client::of(&gate).await;
    let mut request = Request::new(byte("add", 1));
    request.metadata_mut().insert("x-api-key", key.parse().unwrap());
    let status = client.inference().model_infer(request).await.unwrap_err();
    let text = refused(&status, Code::PermissionDenied, "PERMISSION_DENIED", "no");
    assert!(text.contains("press-7"), "{text}");

    let mut talk = Talk::open(&client, &[("authorization", &format!("Bearer {key}"))]).await;
    talk.send(byte("echo", 1)).await;
    assert_eq!(talk.byte().await, 1);
    let code = |answer: ModelStreamInferResponse| {
        answer.infer_response.unwrap().parameters["lineside_code"].parameter_choice.clone()
    };
    talk.send(byte("add", 2)).await;
    assert_eq!(code(talk.answer().await), Some(ParameterChoice::StringParam("PERMISSION_DENIED".to_owned())));
    let id = key.parse::<WholeApiKey>().unwrap().id();
    authority.revoke_key(id, SystemTime::now()).unwrap().unwrap();
    tell();
    talk.send(byte("echo", 3)).await;
    assert_eq!(code(talk.answer().await), Some(ParameterChoice::StringParam("UNAUTHENTICATED".to_owned())));
}
