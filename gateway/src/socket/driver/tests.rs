//! The times of a connection, in memory and under a paused clock.

use lineside_client::{CallError, InferCall, InferReply};
use lineside_wire::{ClusterId, ClusterStatus, MembersResult, ModelInfo, NodeId};
use tokio::io::DuplexStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::{door::Door, gate::Origin, shared::Shared};

/// A cluster without anything.
struct Empty;

impl Cluster for Empty {
    async fn infer(&self, _: InferCall) -> Result<InferReply, CallError> {
        pending().await
    }

    fn models(&self) -> Vec<ModelInfo> {
        Vec::new()
    }

    fn members(&self) -> MembersResult {
        let (cluster, answered_by) = (ClusterId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
        MembersResult { cluster, answered_by, members: Vec::new() }
    }

    fn status(&self) -> ClusterStatus {
        let (cluster, answered_by) = (ClusterId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
        ClusterStatus {
            cluster,
            answered_by,
            alive: 0,
            not_alive: 0,
            models_ready: 0,
            models: 0,
            in_flight: 0,
            slots: 0,
        }
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A connection and the client's end of it.
async fn opened(serving: &mut JoinSet<()>) -> WebSocketStream<DuplexStream> {
    let (own, theirs) = tokio::io::duplex(1 << 10);
    let door = Door {
        cluster: Arc::new(Empty),
        shared: Shared::new(GatewayConfig::default()),
        leaving: CancellationToken::new(),
        sockets: TaskTracker::new(),
    };
    let origin = Origin { address: [127, 0, 0, 1].into(), certificate: None };
    let asking = Asking {
        door: Arc::new(door),
        origin,
        shown: http::HeaderMap::new(),
        timeout: None,
        traceparent: None,
        affinity: None,
    };
    serving.spawn(serve(asking, own));
    WebSocketStream::from_raw_socket(theirs, Role::Client, None).await
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_is_kept_however_little_it_says() {
    let mut serving = JoinSet::new();
    let mut client = opened(&mut serving).await;
    let begun = Instant::now();
    for number in 1..=50 {
        // Reading answers by itself.
        assert!(matches!(client.next().await, Some(Ok(Message::Ping(_)))));
        assert_eq!(begun.elapsed().as_secs(), number * PING_EVERY.as_secs());
    }
    client.send(Message::text("[]")).await.expect("it is still open");
    assert!(matches!(client.next().await, Some(Ok(Message::Text(_)))));
    client.close(None).await.expect("it is still open");
    while client.next().await.is_some() {}
    serving.join_next().await.expect("a connection").expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_gone() {
    let mut serving = JoinSet::new();
    let client = opened(&mut serving).await;
    let begun = Instant::now();
    serving.join_next().await.expect("a connection").expect("no panic");
    assert_eq!(begun.elapsed().as_secs(), (SILENCE_MAX + GOODBYE_MAX).as_secs());
    drop(client);
}
