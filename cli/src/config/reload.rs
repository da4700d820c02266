//! What a running member does with settings that changed: some are put in force, the others wait for a restart.

use super::{Config, Gateway, keys::KEYS};

/// Settings that are put in force while a member runs. Sockets, threads and what was made with the others stay.
const LIVE: &[&str] = &[
    "gateway.tls_certificate",
    "gateway.tls_key",
    "gateway.tls_names",
    "gateway.trusted_proxies",
    "gateway.allowed_origins",
    "gateway.compression",
    "gateway.keys",
    "gateway.model_control",
    "gateway.deadline",
    "gateway.deadline_max",
    "gateway.rate_per_second",
    "gateway.burst",
    "gateway.bytes_per_second",
    "gateway.model_rate_per_second",
    "gateway.x_ratelimit",
    "gateway.attempts_max",
    "gateway.balancing",
    "gateway.stall_after",
    "gateway.hedge",
    "gateway.eject_failures",
    "gateway.eject_success_percent",
    "gateway.eject_latency_times",
    "gateway.eject_time",
    "gateway.eject_time_max",
    "gateway.slow_start",
    "member.drain_within",
    "log.level",
];

/// The settings that differ between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChangedKeys {
    /// Those that can be put in force now.
    pub(crate) live: Vec<String>,
    /// Those that need a restart.
    pub(crate) later: Vec<String>,
}

/// Compares two configurations, setting by setting.
pub(crate) fn changed_keys(old: &Config, new: &Config) -> ChangedKeys {
    let differs = KEYS.iter().filter(|key| (key.get)(old) != (key.get)(new)).map(|key| key.path());
    let (live, later) = differs.partition(|path| LIVE.contains(&path.as_str()));
    ChangedKeys { live, later }
}

impl Config {
    /// Takes over those settings of another configuration that can be put in force while a member runs.
    pub(crate) fn take_live(&mut self, new: &Self) {
        let (present, new_gateway) = (&mut self.gateway, new.gateway.clone());
        *present = Gateway {
            tls_certificate: new_gateway.tls_certificate,
            tls_key: new_gateway.tls_key,
            tls_names: new_gateway.tls_names,
            trusted_proxies: new_gateway.trusted_proxies,
            allowed_origins: new_gateway.allowed_origins,
            compression: new_gateway.compression,
            keys: new_gateway.keys,
            model_control: new_gateway.model_control,
            deadline: new_gateway.deadline,
            deadline_max: new_gateway.deadline_max,
            rate_per_second: new_gateway.rate_per_second,
            burst: new_gateway.burst,
            bytes_per_second: new_gateway.bytes_per_second,
            model_rate_per_second: new_gateway.model_rate_per_second,
            x_ratelimit: new_gateway.x_ratelimit,
            attempts_max: new_gateway.attempts_max,
            balancing: new_gateway.balancing,
            stall_after: new_gateway.stall_after,
            hedge: new_gateway.hedge,
            eject_failures: new_gateway.eject_failures,
            eject_success_percent: new_gateway.eject_success_percent,
            eject_latency_times: new_gateway.eject_latency_times,
            eject_time: new_gateway.eject_time,
            eject_time_max: new_gateway.eject_time_max,
            slow_start: new_gateway.slow_start,
            ..present.clone()
        };
        self.member.drain_within = new.member.drain_within;
        self.log.level.clone_from(&new.log.level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_is_said_to_be_live_is_one() {
        for path in LIVE {
            assert!(KEYS.iter().any(|key| key.path() == **path), "{path}");
        }
    }

    #[test]
    fn what_changed_is_told_by_whether_it_can_be_put_in_force() {
        let old = Config::default();
        assert_eq!(changed_keys(&old, &old.clone()), ChangedKeys::default());
        let mut new = old.clone();
        new.gateway.rate_per_second = 5;
        new.log.level = "debug".to_owned();
        new.gateway.http = ([127, 0, 0, 1], 1).into();
        let changed = changed_keys(&old, &new);
        assert_eq!(changed.live, ["gateway.rate_per_second", "log.level"]);
        assert_eq!(changed.later, ["gateway.http"]);
        let mut running = old;
        running.take_live(&new);
        assert_eq!(changed_keys(&running, &new), ChangedKeys { live: Vec::new(), later: changed.later });
    }

    #[test]
    fn every_live_setting_and_no_other_is_taken_over() {
        let other = |path: &str| match path {
            "gateway.compression" => "false",
            "gateway.x_ratelimit" => "true",
            "gateway.keys" => "required",
            "gateway.model_control" => "off",
            "gateway.deadline" => "3s",
            "gateway.deadline_max" => "20s",
            "gateway.bytes_per_second" => "1MiB",
            "gateway.tls_certificate" | "gateway.tls_key" => "/etc/other.pem",
            "gateway.tls_names" => "other.local",
            "gateway.trusted_proxies" => "10.0.0.7",
            "gateway.allowed_origins" => "panel.example.com",
            "gateway.balancing" => "round_robin",
            "gateway.hedge" => "add",
            "gateway.stall_after"
            | "gateway.eject_time"
            | "gateway.eject_time_max"
            | "gateway.slow_start" => "1s",
            "member.drain_within" => "7s",
            "log.level" => "debug",
            _ => "7",
        };
        for path in LIVE {
            let key = KEYS.iter().find(|key| key.path() == **path).expect("it is there");
            let (mut running, mut new) = (Config::default(), Config::default());
            assert!((key.set)(&mut new, &super::super::setting::Raw::Text(other(path).to_owned())), "{path}");
            assert_ne!(running, new, "{path}");
            running.take_live(&new);
            assert_eq!(running, new, "{path}");
        }
    }
}
