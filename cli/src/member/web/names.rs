//! What the certificate for HTTPS is to be good for.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lineside_certs::WebName;

use crate::config::{Config, host_name};

/// The names and addresses that are set, else those by which clients can be expected to dial: the host's name under
/// `.local`, the address that the others are told, and this machine itself. What the authority does not speak for is
/// left out.
pub(super) fn wanted(config: &Config, told: IpAddr) -> BTreeSet<WebName> {
    match &config.gateway.tls_names {
        // Each was read when the settings were checked.
        Some(names) => names.iter().filter_map(|name| name.parse().ok()).collect(),
        None => usual(&host_name(), told, config.gateway.http.ip()),
    }
}

fn usual(host: &str, told: IpAddr, served: IpAddr) -> BTreeSet<WebName> {
    let short = host.split('.').next().unwrap_or_default();
    let names = [host.to_owned(), format!("{short}.local"), "localhost".to_owned()];
    let addresses = [told, served, IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        .map(|ip| ip.to_string());
    names.iter().chain(&addresses).filter_map(|name| name.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &BTreeSet<WebName>) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_settings_clients_are_expected_at_the_usual_names() {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let names = usual("press-1", [192, 168, 1, 20].into(), any);
        assert_eq!(texts(&names), ["127.0.0.1", "192.168.1.20", "::1", "localhost", "press-1.local"]);
        let names = usual("press-1.plant.lan", [10, 0, 0, 7].into(), [10, 1, 0, 7].into());
        let full =
            ["10.0.0.7", "10.1.0.7", "127.0.0.1", "::1", "localhost", "press-1.local", "press-1.plant.lan"];
        assert_eq!(texts(&names), full);
    }

    #[test]
    fn what_the_authority_does_not_speak_for_is_left_out() {
        let names = usual("door.example.org", [8, 8, 8, 8].into(), Ipv4Addr::LOCALHOST.into());
        assert_eq!(texts(&names), ["127.0.0.1", "::1", "door.local", "localhost"]);
        assert_eq!(texts(&usual("a_b", Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into())).len(), 3);
    }

    #[test]
    fn what_is_set_is_wanted_and_nothing_else() {
        let mut config = Config::default();
        config.gateway.tls_names = Some(vec!["door.lan".to_owned(), "10.0.0.7".to_owned()]);
        assert_eq!(texts(&wanted(&config, [10, 9, 9, 9].into())), ["10.0.0.7", "door.lan"]);
    }
}
