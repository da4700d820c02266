//! The services that tools and load balancers use.

use std::sync::atomic::Ordering;

use futures_util::stream;
use tokio::time::timeout;
use tonic::{Code, Request};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::{
    client::{Client, Wire, origin},
    gate::{Gate, PATIENCE},
};

fn health(client: &Client) -> HealthClient<Wire> {
    HealthClient::with_origin(client.wire.clone(), origin())
}

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn health_follows_the_cluster() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let check = async |service: &str| {
        let answer = health(&client).check(about(service)).await;
        answer.map(|answer| answer.get_ref().status())
    };
    for service in ["", "inference.GRPCInferenceService"] {
        gate.line.is_ready.store(true, Ordering::SeqCst);
        assert_eq!(check(service).await.unwrap(), ServingStatus::Serving);
        gate.line.is_ready.store(false, Ordering::SeqCst);
        assert_eq!(check(service).await.unwrap(), ServingStatus::NotServing);
    }
    assert_eq!(check("paint.Shop").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn who_watches_health_sees_each_change_and_the_end() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let mut watched = health(&client).watch(about("")).await.unwrap().into_inner();
    let mut next = async || {
        let told = timeout(PATIENCE, watched.message()).await.expect("something is told").unwrap();
        told.map(|told| told.status())
    };
    assert_eq!(next().await, Some(ServingStatus::Serving));
    gate.line.is_ready.store(false, Ordering::SeqCst);
    gate.line.changed.send_replace(());
    assert_eq!(next().await, Some(ServingStatus::NotServing));
    gate.line.is_ready.store(true, Ordering::SeqCst);
    gate.line.changed.send_replace(());
    assert_eq!(next().await, Some(ServingStatus::Serving));
    gate.shutdown.cancel();
    assert_eq!(next().await, Some(ServingStatus::NotServing));
    assert_eq!(next().await, None);
    drop((watched, client));
    gate.closed().await.unwrap();
}

#[tokio::test]
async fn an_unknown_service_can_be_watched_until_it_comes() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let mut watched = health(&client).watch(about("paint.Shop")).await.unwrap().into_inner();
    let told = timeout(PATIENCE, watched.message()).await.expect("something is told").unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::ServiceUnknown);
}

#[tokio::test]
async fn reflection_lists_the_services_and_shows_their_text() {
    use v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };

    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("inference.GRPCInferenceService.ModelInfer".to_owned())),
    ];
    let mut reflection = ServerReflectionClient::with_origin(client.wire.clone(), origin());
    let mut answers =
        reflection.server_reflection_info(Request::new(stream::iter(requests))).await.unwrap().into_inner();
    let mut next = async || {
        let answer = timeout(PATIENCE, answers.message()).await.expect("an answer comes").unwrap();
        answer.and_then(|answer| answer.message_response)
    };
    let Some(MessageResponse::ListServicesResponse(list)) = next().await else { panic!("no list") };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "inference.GRPCInferenceService"]
    );
    let Some(MessageResponse::FileDescriptorResponse(file)) = next().await else { panic!("no file") };
    assert!(!file.file_descriptor_proto.is_empty());
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn the_first_version_of_reflection_is_still_answered() {
    use v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };

    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let requests = [ServerReflectionRequest { host: String::new(), message_request }];
    let mut reflection = ServerReflectionClient::with_origin(client.wire.clone(), origin());
    let mut answers =
        reflection.server_reflection_info(Request::new(stream::iter(requests))).await.unwrap().into_inner();
    let answer = timeout(PATIENCE, answers.message()).await.expect("an answer comes").unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list")
    };
    assert!(list.service.iter().any(|service| service.name == "inference.GRPCInferenceService"));
}
