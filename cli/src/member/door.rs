//! The cluster behind the door: one pool per shard, one balancer for all of them.

use std::sync::Arc;

use lineside_client::{CallError, InferCall, InferReply, Pool};
use lineside_gateway::{Cluster, GatewayConfig, TrustReport};
use lineside_mesh::Mesh;
use lineside_wire::{ClusterStatus, MembersResult, ModelInfo};

use super::{known::Known, report::TrustCounts};
use crate::config::Gateway;

/// Shards of a door by itself when nobody says how many: more than this many cores a LAN does not keep busy.
const SHARDS_MAX: usize = 16;

/// Memory for all bodies that are held at one time, in bytes, where one body is not larger.
const BODIES_BYTES_MAX: usize = 1 << 30;

/// The nodes, by way of one mesh.
pub(crate) struct DoorCluster {
    pub(crate) pool: Pool<Mesh>,
    pub(crate) known: Arc<Known>,
    pub(crate) trust: Arc<TrustCounts>,
}

impl Cluster for DoorCluster {
    async fn infer(&self, call: InferCall) -> Result<InferReply, CallError> {
        self.pool.infer(call).await
    }

    fn models(&self) -> Vec<ModelInfo> {
        self.known.roster().models().to_vec()
    }

    fn members(&self) -> MembersResult {
        self.known.members()
    }

    fn status(&self) -> ClusterStatus {
        self.known.roster().status()
    }

    fn ready(&self) -> Result<(), String> {
        self.known.roster().ready()
    }

    fn trust(&self) -> Option<TrustReport> {
        Some(self.trust.report())
    }
}

/// The door's settings. `with_models` leaves the cores to the models of this process.
pub(crate) fn settings(gateway: &Gateway, with_models: bool) -> GatewayConfig {
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let shards = match gateway.shards {
        Some(shards) => usize::try_from(shards.get()).unwrap_or(SHARDS_MAX),
        None if with_models => 1,
        None => cores.min(SHARDS_MAX),
    };
    let body_bytes_max = bytes(gateway.body_bytes_max.0);
    let rate = std::num::NonZeroU32::new(gateway.rate_per_second);
    GatewayConfig {
        listen: gateway.http,
        shards: std::num::NonZeroUsize::new(shards).unwrap_or(std::num::NonZeroUsize::MIN),
        body_bytes_max,
        bodies_bytes_max: BODIES_BYTES_MAX.max(body_bytes_max),
        in_flight_max: usize::try_from(gateway.in_flight_max.get()).unwrap_or(usize::MAX),
        deadline_default: gateway.deadline,
        deadline_max: gateway.deadline_max,
        rate,
        burst: rate.map(|_| gateway.burst),
        ..GatewayConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_settings_make_a_door_that_can_open() {
        for with_models in [true, false] {
            assert_eq!(settings(&Gateway::default(), with_models).check(), Ok(()));
        }
        let limited = Gateway { rate_per_second: 5, ..Gateway::default() };
        assert_eq!(settings(&limited, true).check(), Ok(()));
        assert_eq!(settings(&Gateway::default(), true).shards.get(), 1);
    }
}
