//! The settings of the door, with their reasons.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use crate::{proxies::Network, tls::WebTls};

/// Default of [`GatewayConfig::deadline_max`]: a call held longer than this is a job, not a request.
pub const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Longest that `deadline_max` may be: within it, no sum of times in the door can overflow.
const DEADLINE_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Who is let in over HTTP and gRPC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeysMode {
    /// Whoever sends no key of the cluster is let in all the same. A key of the cluster that is not valid is refused.
    #[default]
    Optional,
    /// Only holders of a valid key or certificate are let in; health and metrics are for everybody.
    Required,
}

/// Who may load and unload models and change the log over HTTP and gRPC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelControl {
    /// Holders of a key with that method, and certificates of admins.
    #[default]
    Keys,
    /// Whoever is let in.
    Open,
    /// Nobody: only `lineside models` can.
    Off,
}

/// How the door listens, and what it takes at most.
///
/// `Default` listens on every address, port 8080, and is safe for a LAN with clients that nobody vouches for.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Where HTTP is served. Port 0 takes a free one; [`GatewayServer::address`](crate::GatewayServer::address)
    /// tells which.
    pub listen: SocketAddr,
    /// A further port, where only gRPC is served: clients expect it on 8001. It is served at `listen` in any case.
    pub grpc_listen: Option<SocketAddr>,
    /// What HTTPS is served with, on the same ports as plain HTTP: the first byte tells which it is.
    pub tls: Option<Arc<WebTls>>,
    /// Whether plain HTTP is refused.
    pub tls_only: bool,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Hosts whose web pages may ask for work, beside the pages of the door itself: without scheme and port.
    pub allowed_origins: Vec<String>,
    /// Whether answers are compressed for clients that offer to take them so.
    pub compression: bool,
    /// Whether a key is needed.
    pub keys: KeysMode,
    /// Who may change models.
    pub model_control: ModelControl,
    /// Single-threaded runtimes, each with a listener of its own on the shared port. More than the machine has
    /// cores to spare only costs memory.
    pub shards: NonZeroUsize,
    /// Largest request body, in bytes; 64 MiB is Triton's default. More costs memory per request, see
    /// `bodies_bytes_max`, which bounds all of them together.
    pub body_bytes_max: usize,
    /// Bodies of requests, tensors made out of their JSON, and answers that are not written yet: all that are held at
    /// one time, in bytes, over all shards. A request that does not fit is told to come again; where it is the answer
    /// that does not, the model has run, and the refusal says so.
    pub bodies_bytes_max: usize,
    /// Requests worked on at one time, over all shards. Above it the answer is 503 with `Retry-After`.
    pub in_flight_max: usize,
    /// Open connections, over all shards. Each costs up to about 100 KiB.
    pub connections_max: usize,
    /// Open connections from one address, so that no single machine takes the places of all others. Behind a proxy all
    /// clients have one address: there it is best as large as `connections_max`.
    pub connections_per_address_max: usize,
    /// Time for a request whose client names none, from its head to its answer.
    pub deadline_default: Duration,
    /// Longest time that a client may ask for. Longer holds bodies, places and nodes for clients that may be gone.
    pub deadline_max: Duration,
    /// How long a new connection may stay silent.
    pub first_byte_max: Duration,
    /// How long the head of a request may take, from its first byte.
    pub head_max: Duration,
    /// How long a body may pause between two pieces.
    pub body_idle_max: Duration,
    /// How long a connection is kept between two requests. Longer spares clients connections, and costs them
    /// nothing but a place under `connections_max`.
    pub keep_alive_max: Duration,
    /// How long a client may leave its answer unread.
    pub write_idle_max: Duration,
    /// Requests per second and client; `None` sets no limit. A client is its API key or certificate, else what it sends
    /// as `X-Api-Key` or bearer token, else its address. Nobody vouches for what is no key of the cluster, so an address
    /// brings at most 16 such names that have a rate of their own; further ones share the address's. A key can have a
    /// rate of its own in the place of this one.
    pub rate: Option<NonZeroU32>,
    /// Requests that a client may send at once before `rate` holds it back; `None` allows one second's worth.
    pub burst: Option<NonZeroU32>,
    /// Bytes of request bodies per second and client; `None` sets no limit. One body that is longer than a second's
    /// worth is let through when the client has its full quota, and then pays it off.
    pub bytes_rate: Option<NonZeroU32>,
    /// Inferences per second and model, of all clients together; `None` sets no limit.
    pub model_rate: Option<NonZeroU32>,
    /// Whether answers carry `X-RateLimit-Limit`, `-Remaining` and `-Reset` beside `RateLimit`.
    pub x_ratelimit: bool,
    /// Whether the requests of a client go to one node while that has room, where they name no affinity of their own. For
    /// doors whose balancing goes by it.
    pub affinity_by_client: bool,
    /// How long a door that leaves still takes new connections, while it says that it is not ready: load balancers
    /// see it at their next probe, and lose no request.
    pub notice: Duration,
    /// How long a shutdown waits for requests that run, after the notice.
    pub drain_max: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
            grpc_listen: None,
            tls: None,
            tls_only: false,
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
            compression: true,
            keys: KeysMode::Optional,
            model_control: ModelControl::Keys,
            shards: NonZeroUsize::MIN,
            body_bytes_max: 64 << 20,
            bodies_bytes_max: 1 << 30,
            in_flight_max: 1_024,
            connections_max: 1_024,
            connections_per_address_max: 256,
            deadline_default: Duration::from_secs(10),
            deadline_max: DEADLINE_MAX,
            first_byte_max: Duration::from_secs(10),
            head_max: Duration::from_secs(10),
            body_idle_max: Duration::from_secs(10),
            keep_alive_max: Duration::from_secs(60),
            write_idle_max: Duration::from_secs(30),
            rate: None,
            burst: None,
            bytes_rate: None,
            model_rate: None,
            x_ratelimit: false,
            affinity_by_client: false,
            notice: Duration::from_secs(1),
            drain_max: Duration::from_secs(30),
        }
    }
}

impl GatewayConfig {
    /// Checks what types cannot: before the first socket opens.
    ///
    /// # Errors
    /// Names the setting and what it should be.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("body_bytes_max", self.body_bytes_max),
            ("in_flight_max", self.in_flight_max),
            ("connections_max", self.connections_max),
            ("connections_per_address_max", self.connections_per_address_max),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} is 0, which would refuse everything: use 1 or more"));
        }
        if self.bodies_bytes_max < self.body_bytes_max {
            return Err(format!(
                "bodies_bytes_max ({}) is below body_bytes_max ({}): no body of that size would ever fit",
                self.bodies_bytes_max, self.body_bytes_max
            ));
        }
        if self.deadline_max < Duration::from_millis(1) || DEADLINE_LIMIT < self.deadline_max {
            return Err(format!("deadline_max is {:?}: use 1ms to {DEADLINE_LIMIT:?}", self.deadline_max));
        }
        if self.deadline_default.is_zero() || self.deadline_max < self.deadline_default {
            return Err(format!(
                "deadline_default is {:?}: use 1ms to deadline_max, which is {:?}",
                self.deadline_default, self.deadline_max
            ));
        }
        if self.burst.is_some() && self.rate.is_none() {
            return Err("burst is set without rate: set rate too, or neither".to_owned());
        }
        if self.tls_only && self.tls.is_none() {
            return Err(
                "tls_only is set and there is no HTTPS, so nothing could be served: set tls too".to_owned()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_each_damaged_setting_is_named() {
        let good = GatewayConfig::default();
        assert_eq!(good.check(), Ok(()));
        let named = |config: GatewayConfig, name: &str| config.check().is_err_and(|text| text.contains(name));
        assert!(named(GatewayConfig { in_flight_max: 0, ..good.clone() }, "in_flight_max"));
        assert!(named(GatewayConfig { bodies_bytes_max: 5, ..good.clone() }, "bodies_bytes_max"));
        assert!(named(
            GatewayConfig { deadline_default: Duration::ZERO, ..good.clone() },
            "deadline_default"
        ));
        assert!(named(
            GatewayConfig { deadline_max: Duration::from_secs(1), ..good.clone() },
            "deadline_default"
        ));
        assert!(named(GatewayConfig { deadline_max: Duration::MAX, ..good.clone() }, "deadline_max"));
        assert!(named(GatewayConfig { tls_only: true, ..good.clone() }, "tls_only"));
        assert!(named(GatewayConfig { burst: NonZeroU32::new(5), ..good }, "burst"));
    }
}
