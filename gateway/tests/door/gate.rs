//! A real door on a port of its own, with a made-up cluster behind it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use lineside_gateway::{GatewayConfig, GatewayError, GatewayServer, Shared};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{caller::Caller, line::Line};

/// Far more than anything here takes; only a defect waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Settings for loopback, with short times.
pub(crate) fn config() -> GatewayConfig {
    GatewayConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        notice: Duration::ZERO,
        drain_max: PATIENCE,
        ..GatewayConfig::default()
    }
}

/// How long an impatient door waits.
pub(crate) const MOMENT: Duration = Duration::from_millis(150);

/// The same for a door that waits only so long for a client to say something.
pub(crate) fn impatient(config: GatewayConfig) -> GatewayConfig {
    GatewayConfig { first_byte_max: MOMENT, head_max: MOMENT, keep_alive_max: MOMENT, ..config }
}

pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    pub(crate) grpc_address: Option<SocketAddr>,
    pub(crate) line: Arc<Line>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) shutdown: CancellationToken,
    serving: JoinSet<Result<(), GatewayError>>,
}

impl Gate {
    pub(crate) fn open() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: GatewayConfig) -> Self {
        let line = Arc::new(Line::default());
        let behind = Arc::clone(&line);
        let server = GatewayServer::bind(config, move |shard| {
            behind.shards.lock().unwrap().push(shard);
            Ok(Arc::clone(&behind))
        });
        let server = server.unwrap();
        let grpc_address = server.grpc_address();
        let (address, shared, shutdown) = (server.address(), server.shared(), CancellationToken::new());
        let mut serving = JoinSet::new();
        serving.spawn(server.serve(shutdown.clone()));
        Self { address, grpc_address, line, shared, shutdown, serving }
    }

    pub(crate) async fn caller(&self) -> Caller {
        Caller::connect(self.address).await
    }

    /// A caller that takes in little of what it does not read.
    pub(crate) async fn lazy_caller(&self) -> Caller {
        Caller::connect_lazily(self.address).await
    }

    /// Waits until the server has ended, and gives how.
    pub(crate) async fn closed(mut self) -> Result<(), GatewayError> {
        timeout(PATIENCE, self.serving.join_next()).await.expect("the door closes").unwrap().unwrap()
    }

    /// The value of a metric, 0 where it is not there.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.caller().await.get("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// Waits for a state.
pub(crate) async fn eventually(what: &str, mut state: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !state().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}
