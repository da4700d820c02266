//! The settings that can change while the door is open, as one snapshot.

use std::time::Duration;

use crate::{
    GatewayConfig,
    config::{KeysMode, ModelControl},
    limit::{Limits, Rates},
    proxies::Network,
};

/// What is in force; see [`Shared::reload`](crate::Shared::reload).
pub(crate) struct Settings {
    pub(crate) trusted_proxies: Vec<Network>,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) compression: bool,
    pub(crate) keys: KeysMode,
    pub(crate) model_control: ModelControl,
    pub(crate) deadline_default: Duration,
    pub(crate) deadline_max: Duration,
    pub(crate) x_ratelimit: bool,
    pub(crate) affinity_by_client: bool,
    pub(crate) drain_max: Duration,
    pub(crate) limits: Limits,
}

impl Settings {
    /// Those of `config`; limits that are the same `before` keep their counts.
    pub(crate) fn new(config: &GatewayConfig, before: Option<&Self>) -> Self {
        let &GatewayConfig { rate, burst, bytes_rate, model_rate, .. } = config;
        let rates = Rates { rate, burst, bytes_rate, model_rate };
        Self {
            trusted_proxies: config.trusted_proxies.clone(),
            allowed_origins: config.allowed_origins.clone(),
            compression: config.compression,
            keys: config.keys,
            model_control: config.model_control,
            deadline_default: config.deadline_default,
            deadline_max: config.deadline_max,
            x_ratelimit: config.x_ratelimit,
            affinity_by_client: config.affinity_by_client,
            drain_max: config.drain_max,
            limits: Limits::new(rates, before.map(|before| &before.limits)),
        }
    }
}
