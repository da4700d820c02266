//! Opens the door: its sockets, a pool of nodes for each shard, and its service for peers.

use std::{net::SocketAddr, sync::Arc};

use lineside_certs::Credentials;
use lineside_client::{Balancer, Budget, Pool};
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
    rules::Rules,
    service::MemberService,
    web::{self, Web},
};
use crate::{
    config::Config,
    exit::{Exit, Failure},
};

/// The HTTP door before it answers.
pub(super) struct Door<F> {
    pub(super) shared: Arc<Shared>,
    pub(super) server: GatewayServer<F>,
    pub(super) balancer: Arc<Balancer>,
    /// The certificate for HTTPS, for whoever keeps it.
    pub(super) web: Option<Web>,
    rules: Arc<Rules>,
    budget: Arc<Budget>,
}

impl<F> Door<F> {
    /// Where HTTP is served, and where only gRPC is.
    pub(super) fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (Some(self.server.address()), self.server.grpc_address())
    }
}

/// What a shard's own mesh is made of.
pub(super) struct ShardParts {
    pub(super) credentials: Credentials,
    pub(super) presence: Arc<MemberPresence>,
    pub(super) service: Arc<MemberService>,
    pub(super) counts: Arc<TrustCounts>,
    /// By which nodes are chosen, and calls tried again.
    pub(super) rules: Arc<Rules>,
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
        closing: &CancellationToken,
    ) -> JoinSet<Result<(), GatewayError>>
    where
        F: Fn(usize) -> Result<Arc<DoorCluster>, String> + Send + Sync + 'static,
    {
        let pool = Pool::new(self.mesh.clone(), door.balancer, door.budget);
        let own = Arc::clone(&self.service.own);
        let cluster = DoorCluster { pool, rules: door.rules, known: self.known, own, trust: self.counts };
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
    let clock = parts.credentials.clock().clone();
    let rules = Arc::clone(&parts.rules);
    let balancer = Arc::clone(&rules.balancer);
    let budget = Arc::new(Budget::new(now));
    let (shared_balancer, shared_budget) = (Arc::clone(&balancer), Arc::clone(&budget));
    let cluster = move |shard: usize| {
        let ShardParts { credentials, presence, service, counts, rules } = &parts;
        let mesh = Mesh::bind(MeshConfig::dialling(), credentials.clone(), presence.clone(), service.clone())
            .map_err(|error| format!("shard {shard}: {error}"))?;
        let known = service.known.get().ok_or("discovery is not there yet")?;
        let pool = Pool::new(mesh, Arc::clone(&shared_balancer), Arc::clone(&shared_budget));
        let (known, own, trust) = (Arc::clone(known), Arc::clone(&service.own), Arc::clone(counts));
        Ok(Arc::new(DoorCluster { pool, rules: Arc::clone(rules), known, own, trust }))
    };
    let tls = web.as_ref().map(|web| Arc::clone(&web.tls));
    let settings = GatewayConfig { tls, ..door::settings(config, roles.node) };
    let shared = Shared::by_clock(settings, clock);
    let server =
        GatewayServer::bind_shared(Arc::clone(&shared), cluster).map_err(|error| not_serving(&error))?;
    Ok(Door { shared, server, balancer, web, rules, budget })
}

/// Why a port of the door cannot be had, by the setting that people know.
fn not_serving(error: &GatewayError) -> Failure {
    let of = |setting: &str| match setting {
        "grpc_listen" => (
            "cannot serve gRPC on a port of its own",
            "choose another address in gateway.grpc, or leave it out",
        ),
        _ => ("cannot serve HTTP", "choose another address with --http or in gateway.http"),
    };
    let (what, remedy, why) = match error {
        GatewayError::PortTaken { setting, address } => {
            let (what, remedy) = of(setting);
            (what, remedy, format!("{address} (TCP) is in use, by another member or program"))
        }
        GatewayError::Listen { setting, address, source } => {
            let (what, remedy) = of(setting);
            (what, remedy, format!("cannot listen on {address} (TCP): {source}"))
        }
        GatewayError::Config(_) | GatewayError::Start { .. } | GatewayError::Panicked { .. } => {
            ("cannot serve HTTP", "", error.to_string())
        }
    };
    Failure::new(Exit::Failure, what, why, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_named_by_the_setting_that_asks_for_it() {
        let taken = |setting| {
            not_serving(&GatewayError::PortTaken { setting, address: ([127, 0, 0, 1], 8001).into() }).text()
        };
        let grpc = taken("grpc_listen");
        assert!(grpc.contains("127.0.0.1:8001 (TCP) is in use") && grpc.contains("gateway.grpc"), "{grpc}");
        assert!(!grpc.contains("--http") && taken("listen").contains("--http"));
    }
}
