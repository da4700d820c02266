//! What the service says of its models, and how it changes them.

use std::sync::{Arc, Mutex};

use lineside_gateway::{Change, GatewayConfig, ModelControl};
use tonic::Code;

use crate::{
    client::{Client, refused},
    gate::{Gate, config},
    inference::*,
    line::Log,
};

fn open() -> GatewayConfig {
    GatewayConfig { model_control: ModelControl::Open, ..config() }
}

fn named(name: &str, version: &str) -> (String, String) {
    (name.to_owned(), version.to_owned())
}

#[tokio::test]
async fn the_server_and_its_models_say_what_they_are() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let server = client.inference().server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(server.name, "lineside");
    assert!(server.extensions.iter().any(|extension| extension == "model_repository"));

    let metadata = async |(name, version)| {
        let answer = client.inference().model_metadata(ModelMetadataRequest { name, version }).await;
        answer.map(tonic::Response::into_inner)
    };
    let add = metadata(named("add", "")).await.unwrap();
    assert_eq!((add.name.as_str(), add.platform.as_str()), ("add", "onnx_onnxv1"));
    assert_eq!(add.versions, ["1", "2"]);
    let input = &add.inputs[0];
    assert_eq!((input.name.as_str(), input.datatype.as_str(), &input.shape[..]), ("a", "FP32", &[-1, 2][..]));
    for (name, version) in [("paint", ""), ("add", "9"), ("add", "one")] {
        let status = metadata(named(name, version)).await.unwrap_err();
        let text = refused(&status, Code::NotFound, "MODEL_NOT_FOUND", "no");
        assert!(text.starts_with("Request for unknown model"), "{text}");
    }

    let ready = async |(name, version)| {
        let answer = client.inference().model_ready(ModelReadyRequest { name, version }).await.unwrap();
        answer.get_ref().ready
    };
    assert!(ready(named("add", "")).await && ready(named("add", "2")).await);
    assert!(!ready(named("torn", "")).await && !ready(named("paint", "")).await);
}

#[tokio::test]
async fn a_configuration_is_in_the_form_that_clients_decode() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let (name, version) = named("add", "");
    let config = client.inference().model_config(ModelConfigRequest { name, version }).await.unwrap();
    let config = config.into_inner().config.unwrap();
    assert_eq!(
        (config.name.as_str(), config.backend.as_str(), config.max_batch_size),
        ("add", "onnxruntime", 0)
    );
    assert_eq!(config.input[0].data_type(), DataType::TypeFp32);
    assert_eq!((config.input.len(), config.output.len()), (2, 1));
    assert_eq!(config.output[0].dims, [-1, 2]);
    assert!(!config.model_transaction_policy.unwrap().decoupled);
    assert_eq!((config.scheduling_choice, config.response_cache), (None, None));

    let (name, version) = named("echo", "");
    let config = client.inference().model_config(ModelConfigRequest { name, version }).await.unwrap();
    let config = config.into_inner().config.unwrap();
    assert_eq!((config.max_batch_size, &config.input[0].dims[..]), (16, &[2][..]));
    let Some(model_config::SchedulingChoice::DynamicBatching(joined)) = config.scheduling_choice else {
        panic!("{:?}", config.scheduling_choice);
    };
    assert_eq!((joined.max_queue_delay_microseconds, joined.priority_levels), (250, 3));
    assert_eq!(joined.preferred_batch_size, [4, 8]);
    assert!(config.response_cache.unwrap().enable);
    assert_eq!(config.parameters["execution_provider"].string_value, "cpu");
    let (name, version) = named("paint", "");
    let status = client.inference().model_config(ModelConfigRequest { name, version }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn the_repository_is_listed_and_changed() {
    let gate = Gate::with(open());
    let client = Client::of(&gate).await;
    let index = async |ready| {
        let request = RepositoryIndexRequest { repository_name: String::new(), ready };
        client.inference().repository_index(request).await.unwrap().into_inner().models
    };
    let all = index(false).await;
    let torn = all.iter().find(|model| model.name == "torn").unwrap();
    assert_eq!((torn.state.as_str(), torn.reason.as_str()), ("UNAVAILABLE", "the file is damaged"));
    assert!(index(true).await.iter().all(|model| model.state == "READY"));

    let load = async |name: &str| {
        let request = RepositoryModelLoadRequest { model_name: name.to_owned(), ..Default::default() };
        client.inference().repository_model_load(request).await
    };
    load("add").await.unwrap();
    let unload = RepositoryModelUnloadRequest {
        model_name: "add".to_owned(),
        parameters: [("unload_dependents".to_owned(), ModelRepositoryParameter::default())].into(),
        ..Default::default()
    };
    client.inference().repository_model_unload(unload).await.unwrap();
    let asked: Vec<_> = gate.line.changes.lock().unwrap().iter().map(|(change, ..)| *change).collect();
    assert_eq!(asked, [Change::Load, Change::Unload]);

    let text = refused(&load("torn").await.unwrap_err(), Code::FailedPrecondition, "CHANGE_FAILED", "maybe");
    assert!(text.contains("press: the file is damaged"), "{text}");
    let status = load("paint").await.unwrap_err();
    assert!(
        refused(&status, Code::NotFound, "MODEL_NOT_FOUND", "no").starts_with("Request for unknown model")
    );
    let config = RepositoryModelLoadRequest {
        model_name: "add".to_owned(),
        parameters: [("config".to_owned(), ModelRepositoryParameter::default())].into(),
        ..Default::default()
    };
    let status = client.inference().repository_model_load(config).await.unwrap_err();
    refused(&status, Code::InvalidArgument, "INVALID_PARAMS", "no");
}

#[tokio::test]
async fn statistics_come_in_the_form_that_clients_decode() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let (name, version) = named("add", "");
    let counted =
        client.inference().model_statistics(ModelStatisticsRequest { name, version }).await.unwrap();
    let model = &counted.get_ref().model_stats[0];
    assert_eq!(model.name, "add");
    let spent = model.inference_stats.as_ref().unwrap();
    assert!(0 < spent.success.unwrap().count && 0 < spent.compute_infer.unwrap().ns);
    assert!(0 < model.inference_count && 0 < model.execution_count);
    assert_eq!(model.response_stats["0"].cancel.unwrap().count, 2);
    assert_eq!((model.memory_usage[0].r#type.as_str(), model.memory_usage[0].byte_size), ("CPU", 1 << 20));
    let (name, version) = named("paint", "");
    let status =
        client.inference().model_statistics(ModelStatisticsRequest { name, version }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn the_log_is_read_and_changed_where_it_can_be() {
    use log_settings_request::{SettingValue, setting_value::ParameterChoice};

    let gate = Gate::with(open());
    let client = Client::of(&gate).await;
    let set = async |settings: &[(&str, ParameterChoice)]| {
        let setting = |(name, choice): &(&str, ParameterChoice)| {
            ((*name).to_owned(), SettingValue { parameter_choice: Some(choice.clone()) })
        };
        let settings = settings.iter().map(setting).collect();
        client.inference().log_settings(LogSettingsRequest { settings }).await
    };
    assert_eq!(set(&[]).await.unwrap_err().code(), Code::Unimplemented);
    *gate.line.log.lock().unwrap() = Some(Arc::new(Log(Mutex::new("info".to_owned()))));
    let settings =
        set(&[("log_verbose_level", ParameterChoice::Uint32Param(1))]).await.unwrap().into_inner().settings;
    let verbose = settings["log_verbose_level"].parameter_choice.clone();
    assert_eq!(verbose, Some(log_settings_response::setting_value::ParameterChoice::Uint32Param(1)));
    for wrong in
        [("log_info", ParameterChoice::Uint32Param(1)), ("log_colour", ParameterChoice::BoolParam(true))]
    {
        let status = set(&[wrong]).await.unwrap_err();
        refused(&status, Code::InvalidArgument, "INVALID_PARAMS", "no");
    }
}

#[tokio::test]
async fn what_cannot_be_served_says_why() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let shared =
        client.inference().system_shared_memory_status(SystemSharedMemoryStatusRequest::default()).await;
    let text = refused(&shared.unwrap_err(), Code::Unimplemented, "METHOD_NOT_FOUND", "no");
    assert!(text.contains("shared memory"), "{text}");
    let cuda = CudaSharedMemoryRegisterRequest::default();
    assert_eq!(
        client.inference().cuda_shared_memory_register(cuda).await.unwrap_err().code(),
        Code::Unimplemented
    );
    let trace = client.inference().trace_setting(TraceSettingRequest::default()).await.unwrap_err();
    assert_eq!(trace.code(), Code::Unimplemented);
}
