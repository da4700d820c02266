//! A proxy before the door.

use std::num::NonZeroU32;

use lineside_gateway::GatewayConfig;

use crate::gate::{Gate, config};

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_its_own_quota() {
    let one = NonZeroU32::new(1);
    let trusted = vec!["127.0.0.0/8".parse().unwrap()];
    let from = |address: &str| format!("GET /v2 HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n\r\n");
    for (trusted_proxies, second) in [(trusted, 200), (Vec::new(), 429)] {
        let gate = Gate::with(GatewayConfig { rate: one, trusted_proxies, ..config() });
        let mut proxy = gate.caller().await;
        proxy.write(from("192.0.2.1")).await;
        assert_eq!(proxy.reply().await.status, 200);
        proxy.write(from("192.0.2.2")).await;
        assert_eq!(proxy.reply().await.status, second);
        // What a client claims of itself stands before what the proxy says of it.
        proxy.write(from("198.51.100.9, 192.0.2.1")).await;
        assert_eq!(proxy.reply().await.status, 429);
    }
}
