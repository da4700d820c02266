//! The standard health service: for load balancers, and free for everybody.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
};

use crate::{Cluster, door::Door};

/// The services whose health can be asked for; the empty name is the whole server.
const SERVICES: [&str; 2] = ["", super::INFERENCE];

/// How often a watched door looks for a change that nothing rings for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The health of one door.
pub(super) struct HealthOf<C>(pub(super) Arc<Door<C>>);

fn status<C: Cluster>(door: &Door<C>) -> ServingStatus {
    match door.shared.ready(&*door.cluster) {
        Ok(()) => ServingStatus::Serving,
        Err(_) => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl<C: Cluster> Health for HealthOf<C> {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match SERVICES.contains(&request.get_ref().service.as_str()) {
            true => Ok(Response::new(HealthCheckResponse { status: status(&self.0).into() })),
            false => Err(Status::not_found("there is no such service here")),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let watched = Watched {
            is_known: SERVICES.contains(&request.get_ref().service.as_str()),
            changes: self.0.cluster.changes(),
            door: Arc::clone(&self.0),
            told: None,
        };
        Ok(Response::new(Box::pin(stream::unfold(watched, Watched::next))))
    }
}

/// One client's watch.
struct Watched<C> {
    door: Arc<Door<C>>,
    is_known: bool,
    changes: Option<watch::Receiver<()>>,
    told: Option<ServingStatus>,
}

impl<C: Cluster> Watched<C> {
    /// Waits until there is something new to tell; `None` when the door leaves and has told so.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        loop {
            let is_leaving = self.door.leaving.is_cancelled();
            let now = match (self.is_known, is_leaving) {
                (false, _) => ServingStatus::ServiceUnknown,
                (true, true) => ServingStatus::NotServing,
                (true, false) => status(&self.door),
            };
            if self.told.replace(now) != Some(now) {
                return Some((Ok(HealthCheckResponse { status: now.into() }), self));
            }
            if is_leaving {
                // Those who watch have time to see it, as those have who ask.
                tokio::time::sleep(self.door.shared.config.notice).await;
                return None;
            }
            let changed = async {
                let rang = match &mut self.changes {
                    Some(changes) => changes.changed().await.is_ok(),
                    None => false,
                };
                if !rang {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.door.leaving.cancelled() => {}
            }
        }
    }
}
