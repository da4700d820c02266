//! Opens the door: its sockets, a pool of nodes for each shard, and its service for peers.

use std::sync::Arc;

use lineside_certs::Credentials;
use lineside_client::{Balancer, Balancing, Budget, Pool};
use lineside_gateway::{DoorService, GatewayConfig, GatewayError, GatewayServer, Shared};
use lineside_mesh::{Mesh, MeshConfig};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Roles,
    door::{self, DoorCluster},
    known::Known,
    links::MemberPresence,
    report::TrustCounts,
    service::MemberService,
    web::{self, Web},
};
use crate::{
    config::Config,
    exit::{Exit, Failure, OrFail as _},
};

/// The HTTP door before it answers.
pub(super) struct Door<F> {
    pub(super) shared: Arc<Shared>,
    pub(super) server: GatewayServer<F>,
    pub(super) balancer: Arc<Balancer>,
    /// The certificate for HTTPS, for whoever keeps it.
    pub(super) web: Option<Web>,
    budget: Arc<Budget>,
}

/// What a shard's own mesh is made of.
pub(super) struct ShardParts {
    pub(super) credentials: Credentials,
    pub(super) presence: Arc<MemberPresence>,
    pub(super) service: Arc<MemberService>,
    pub(super) counts: Arc<TrustCounts>,
}

/// What the door's service for peers is made of.
pub(super) struct DoorParts<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) known: Arc<Known>,
    pub(super) service: &'a MemberService,
    pub(super) counts: Arc<TrustCounts>,
}

impl DoorParts<'_> {
    /// Opens the door for peers and for HTTP.
    pub(super) fn serve<F>(
        self,
        door: Door<F>,
        attempts_max: std::num::NonZeroU8,
        closing: &CancellationToken,
    ) -> JoinSet<Result<(), GatewayError>>
    where
        F: Fn(usize) -> Result<Arc<DoorCluster>, String> + Send + Sync + 'static,
    {
        let pool = Pool::new(self.mesh.clone(), door.balancer, door.budget);
        let pool = pool.with_attempts_max(attempts_max);
        let cluster = DoorCluster { pool, known: self.known, trust: self.counts };
        drop(self.service.door.set(DoorService::new(Arc::new(cluster), door.shared)));
        JoinSet::from_iter([door.server.serve(closing.clone())])
    }
}

/// Opens the HTTP door's sockets. Each shard calls nodes over a mesh of its own, made on its own runtime.
#[expect(clippy::type_complexity, reason = "a closure cannot be named")]
pub(super) fn open_door(
    config: &Config,
    roles: Roles,
    parts: ShardParts,
) -> Result<Door<impl Fn(usize) -> Result<Arc<DoorCluster>, String> + Send + Sync + 'static>, Failure> {
    let now = Instant::now().into_std();
    let web = web::open(config, &parts.credentials)?;
    let balancer = Arc::new(Balancer::new(Balancing::default(), &mut rand::rng(), now));
    let budget = Arc::new(Budget::new(now));
    let (shared_balancer, shared_budget) = (Arc::clone(&balancer), Arc::clone(&budget));
    let attempts_max = config.gateway.attempts_max;
    let cluster = move |shard: usize| {
        let ShardParts { credentials, presence, service, counts } = &parts;
        let mesh = Mesh::bind(MeshConfig::dialling(), credentials.clone(), presence.clone(), service.clone())
            .map_err(|error| format!("shard {shard}: {error}"))?;
        let known = service.known.get().ok_or("discovery is not there yet")?;
        let pool = Pool::new(mesh, Arc::clone(&shared_balancer), Arc::clone(&shared_budget));
        let pool = pool.with_attempts_max(attempts_max);
        let (known, trust) = (Arc::clone(known), Arc::clone(counts));
        Ok(Arc::new(DoorCluster { pool, known, trust }))
    };
    let tls = web.as_ref().map(|web| Arc::clone(&web.tls));
    let shared = Shared::new(GatewayConfig { tls, ..door::settings(&config.gateway, roles.node) });
    let server = GatewayServer::bind_shared(Arc::clone(&shared), cluster).or_fail(
        Exit::Failure,
        "cannot serve HTTP",
        "choose another address with --http, or in gateway.grpc",
    )?;
    Ok(Door { shared, server, balancer, web, budget })
}
