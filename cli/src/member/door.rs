//! The cluster behind the door: one pool per shard, one balancer for all of them.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use futures_util::future::join_all;
use lineside_client::{CallError, InferCall, InferReply, Panic, Pool, TryCounts};
use lineside_gateway::{Change, Check, Cluster, GatewayConfig, LogControl, MembershipReport, TrustReport};
use lineside_mesh::{CallFailure, Mesh, Outbound};
use lineside_wire::{
    ChangeParams, ChangeResult, ClusterStatus, Fault, MembersResult, ModelInfo, ModelsResult, NodeId,
    StatisticsParams, StatisticsResult, decode_part, method,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    everywhere::{self, Asked, NoAnswer},
    known::Known,
    own::Own,
    ready::checks,
    report::TrustCounts,
    rules::Rules,
};
use crate::{
    config::{Config, Size},
    log,
};

/// What is kept of a caller's time for putting the answers together and sending them: nodes that are not done by then are
/// told as such, where a caller that is told nothing would learn of none.
const OWN_TIME: Duration = Duration::from_millis(100);

/// Longest wait for this door's own view to show a change that nodes have made: a few rounds of gossip. It is then told as
/// made all the same.
const SHOWN_WAIT_MAX: Duration = Duration::from_secs(3);

/// Shards of a door by itself when nobody says how many: more than this many cores a LAN does not keep busy.
const SHARDS_MAX: usize = 16;

/// Memory for all bodies that are held at one time, in bytes, where one body is not larger.
const BODIES_BYTES_MAX: usize = 1 << 30;

/// The nodes, by way of one mesh.
pub(crate) struct DoorCluster {
    pub(crate) pool: Pool<Mesh>,
    pub(super) rules: Arc<Rules>,
    pub(crate) known: Arc<Known>,
    /// Of this process, which may run models, too.
    pub(crate) own: Arc<Own>,
    pub(crate) trust: Arc<TrustCounts>,
}

impl Cluster for DoorCluster {
    async fn infer(&self, call: InferCall) -> Result<InferReply, CallError> {
        self.pool.infer_by(&self.rules.tries(), call).await
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
        self.checks().into_iter().find_map(|check| check.failure).map_or(Ok(()), Err)
    }

    fn checks(&self) -> Vec<Check> {
        checks(&self.known.roster(), &self.own, self.trust.report().certificate_left)
    }

    fn tries(&self) -> Option<TryCounts> {
        Some(self.pool.counts())
    }

    fn panic(&self) -> Option<Panic> {
        Some(self.pool.balancer().panic(tokio::time::Instant::now().into_std()))
    }

    fn membership(&self) -> Option<MembershipReport> {
        self.known.membership()
    }

    fn trust(&self) -> Option<TrustReport> {
        Some(self.trust.report())
    }

    async fn change(
        &self,
        change: Change,
        params: ChangeParams,
        deadline: Instant,
    ) -> Result<ChangeResult, Fault> {
        let roster = self.known.roster();
        let (asked, unable) = everywhere::targets(roster.rows(), change, &params);
        let method = match change {
            Change::Load => method::MODELS_LOAD,
            Change::Unload => method::MODELS_UNLOAD,
        };
        // Of a node everything is wanted that is named, and it need not know who else is asked.
        let one = ChangeParams { nodes: Vec::new(), ..params.clone() };
        let answers = self.ask_all(&asked, method, &one, deadline).await;
        let told = asked.iter().zip(&answers);
        let nodes = told.map(|(asked, answer)| everywhere::outcome(change, &params, asked, answer));
        let nodes = nodes.chain(unable).collect();
        let said =
            asked.iter().zip(answers).filter_map(|(asked, answer)| Some((asked.to.node, answer.ok()?)));
        let said: Vec<_> = said.collect();
        self.shown(&params, &said, deadline).await;
        Ok(everywhere::changed(roster.rows(), &params, &said, nodes))
    }

    async fn statistics(
        &self,
        params: StatisticsParams,
        deadline: Instant,
    ) -> Result<StatisticsResult, Fault> {
        let asked = everywhere::nodes(self.known.roster().rows());
        let answers = self.ask_all(&asked, method::MODELS_STATISTICS, &params, deadline).await;
        let counted = asked.iter().zip(answers).filter_map(|(asked, answer)| {
            let left_out = match answer {
                Ok(answer) => return Some(answer),
                Err(NoAnswer::Refused(fault)) => fault.to_string(),
                Err(NoAnswer::Late) => "no answer in time".to_owned(),
                Err(NoAnswer::Lost(reason)) => reason,
            };
            tracing::debug!(node = %asked.to.node, reason = left_out, "a node is not in the statistics");
            None
        });
        Ok(everywhere::sum(counted))
    }

    fn changes(&self) -> Option<watch::Receiver<()>> {
        Some(self.known.changed())
    }

    fn log(&self) -> Option<Arc<dyn LogControl>> {
        log::control().map(|control| control as Arc<dyn LogControl>)
    }
}

impl DoorCluster {
    /// Waits until this door has heard from the cluster what the nodes told it of a change: a client that loads a model,
    /// and uses it as soon as that is answered, finds it.
    async fn shown(&self, params: &ChangeParams, said: &[(NodeId, ModelsResult)], deadline: Instant) {
        let mut changes = self.known.changed();
        let shown = async {
            while !everywhere::shows(self.known.roster().rows(), params, said) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now).saturating_sub(OWN_TIME / 2);
        // What is not shown by then will be; the nodes have done it.
        drop(timeout_at(now + left.min(SHOWN_WAIT_MAX), shown).await);
    }

    /// Asks nodes the same, side by side; one answer each, in their order.
    async fn ask_all<P: Serialize + Clone, R: DeserializeOwned>(
        &self,
        nodes: &[Asked],
        method: &'static str,
        params: &P,
        deadline: Instant,
    ) -> Vec<Result<R, NoAnswer>> {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let until = now + left.saturating_sub(OWN_TIME.min(left / 4));
        let ask = async |asked: &Asked| {
            let mut call = Outbound::new(method, params.clone());
            let left = until.saturating_duration_since(now);
            call.context.timeout_us = Some(u64::try_from(left.as_micros()).unwrap_or(u64::MAX));
            let answer = timeout_at(until, self.pool.transport().call(asked.to, call)).await;
            match answer {
                Ok(Ok(reply)) => decode_part(&reply.result).map_err(NoAnswer::Refused),
                Ok(Err(CallFailure::Fault { fault, .. })) => Err(NoAnswer::Refused(fault)),
                Ok(Err(lost)) => Err(NoAnswer::Lost(lost.to_string())),
                Err(_) => Err(NoAnswer::Late),
            }
        };
        join_all(nodes.iter().map(ask)).await
    }
}

/// The door's settings. `with_models` leaves the cores to the models of this process. The certificate for HTTPS is
/// put in by whoever has it.
pub(crate) fn settings(config: &Config, with_models: bool) -> GatewayConfig {
    let gateway = &config.gateway;
    let bytes = |Size(size): Size| usize::try_from(size).unwrap_or(usize::MAX);
    let count = |number: NonZeroU32| usize::try_from(number.get()).unwrap_or(usize::MAX);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let shards = match gateway.shards {
        Some(shards) => count(shards),
        None if with_models => 1,
        None => cores.min(SHARDS_MAX),
    };
    let body_bytes_max = bytes(gateway.body_bytes_max);
    let rate = NonZeroU32::new(gateway.rate_per_second);
    let bytes_rate = u32::try_from(gateway.bytes_per_second.0).unwrap_or(u32::MAX);
    // Each was read as a network when the settings were checked.
    let trusted_proxies = gateway.trusted_proxies.iter().filter_map(|proxy| proxy.parse().ok());
    GatewayConfig {
        listen: gateway.http,
        grpc_listen: gateway.grpc.0,
        tls: None,
        tls_only: gateway.tls_only,
        trusted_proxies: trusted_proxies.collect(),
        allowed_origins: gateway.allowed_origins.clone(),
        compression: gateway.compression,
        keys: gateway.keys,
        model_control: gateway.model_control,
        shards: std::num::NonZeroUsize::new(shards).unwrap_or(std::num::NonZeroUsize::MIN),
        body_bytes_max,
        bodies_bytes_max: BODIES_BYTES_MAX.max(body_bytes_max),
        in_flight_max: count(gateway.in_flight_max),
        connections_max: count(gateway.connections_max),
        connections_per_address_max: count(gateway.connections_per_address_max),
        keep_alive_max: gateway.keep_alive,
        deadline_default: gateway.deadline,
        deadline_max: gateway.deadline_max,
        rate,
        burst: rate.map(|_| gateway.burst),
        bytes_rate: NonZeroU32::new(bytes_rate),
        model_rate: NonZeroU32::new(gateway.model_rate_per_second),
        x_ratelimit: gateway.x_ratelimit,
        affinity_by_client: gateway.balancing == lineside_client::Policy::Rendezvous,
        drain_max: config.member.drain_within,
        ..GatewayConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Gateway;

    fn of(gateway: Gateway) -> Config {
        Config { gateway, ..Config::default() }
    }

    #[test]
    fn the_default_settings_make_a_door_that_can_open() {
        for with_models in [true, false] {
            assert_eq!(settings(&Config::default(), with_models).check(), Ok(()));
        }
        let limited = Gateway { rate_per_second: 5, ..Gateway::default() };
        assert_eq!(settings(&of(limited), true).check(), Ok(()));
        assert_eq!(settings(&Config::default(), true).shards.get(), 1);
    }

    #[test]
    fn the_default_settings_are_the_doors_own() {
        let (ours, theirs) = (settings(&Config::default(), true), GatewayConfig::default());
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }

    #[test]
    fn what_limits_nothing_is_no_limit_and_the_rest_is_passed_on() {
        let gateway = Gateway {
            bytes_per_second: Size(20 << 20),
            model_rate_per_second: 7,
            trusted_proxies: vec!["10.0.0.7".to_owned(), "10.1.0.0/16".to_owned()],
            ..Gateway::default()
        };
        let door = settings(&of(gateway), false);
        assert_eq!(door.bytes_rate, NonZeroU32::new(20 << 20));
        assert_eq!((door.model_rate, door.rate, door.burst), (NonZeroU32::new(7), None, None));
        assert_eq!(door.trusted_proxies.len(), 2);
        assert!(settings(&Config::default(), false).bytes_rate.is_none());
    }
}
