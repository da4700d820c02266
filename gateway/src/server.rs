//! The server: sockets first, then one thread per shard, then an orderly end.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Cluster, GatewayConfig, accept, door::Door, shared::Shared};

/// Connections that may wait to be accepted: a burst of a whole line's machines after a power cut.
const BACKLOG: i32 = 1024;

/// Why the door cannot open, or did not stay open.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A setting cannot work.
    #[error("invalid gateway settings: {0}")]
    Config(String),
    /// Somebody else has the port.
    #[error(
        "{address} ({setting}) is already in use: another gateway or service listens there; stop it, or choose \
         another address (port 0 takes a free one)"
    )]
    PortTaken {
        /// The setting that asks for it: `listen` or `grpc_listen`.
        setting: &'static str,
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address} ({setting}): {source}; check that the address is one of this machine's"
    )]
    Listen {
        /// The setting that asks for it: `listen` or `grpc_listen`.
        setting: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A shard could not be started.
    #[error("shard {shard} of the gateway could not start: {reason}")]
    Start {
        /// Which, from 0.
        shard: usize,
        /// Why.
        reason: String,
    },
    /// A shard ended by a panic. The others were stopped in order.
    #[error("shard {shard} of the gateway ended by a defect; see the log")]
    Panicked {
        /// Which, from 0.
        shard: usize,
    },
}

/// A door whose sockets are open; [`GatewayServer::serve`] starts to answer.
///
/// Each shard has a thread, a single-threaded runtime, a listener on the shared port and a cluster of its own,
/// made on that thread, within that runtime, by the factory.
pub struct GatewayServer<F> {
    http: Port,
    grpc: Option<Port>,
    shared: Arc<Shared>,
    cluster: F,
}

impl<F> GatewayServer<F> {
    /// Opens the sockets. `cluster` makes the cluster of the shard with the given number.
    ///
    /// # Errors
    /// A setting is wrong, the port is taken, or the address is not this machine's.
    pub fn bind(config: GatewayConfig, cluster: F) -> Result<Self, GatewayError> {
        Self::bind_shared(Shared::new(config), cluster)
    }

    /// The same with limits and counters that something else already uses, such as a
    /// [`DoorService`](crate::DoorService).
    ///
    /// # Errors
    /// As [`GatewayServer::bind`].
    pub fn bind_shared(shared: Arc<Shared>, cluster: F) -> Result<Self, GatewayError> {
        let config = &shared.config;
        config.check().map_err(GatewayError::Config)?;
        let shards = config.shards.get();
        let http = Port::open("listen", config.listen, shards)?;
        let grpc =
            config.grpc_listen.map(|address| Port::open("grpc_listen", address, shards)).transpose()?;
        Ok(Self { http, grpc, shared, cluster })
    }

    /// Where the door listens; with the real port when 0 was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.http.address
    }

    /// Where only gRPC is served, when that is set; with the real port when 0 was asked for.
    #[must_use]
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().map(|port| port.address)
    }

    /// The limits and counters of this door.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Answers until `shutdown`; then says for the time of `notice` that it is not ready, takes no new connection,
    /// finishes what runs within `drain_max`, and closes.
    ///
    /// Dropping the future gives the same order, without waiting for its end.
    ///
    /// # Errors
    /// A shard could not start or ended by a defect; the others are stopped.
    pub async fn serve<C>(self, shutdown: CancellationToken) -> Result<(), GatewayError>
    where
        C: Cluster,
        F: Fn(usize) -> Result<Arc<C>, String> + Send + Sync + 'static,
    {
        let leaving = shutdown.child_token();
        let _stop_on_drop = leaving.clone().drop_guard();
        let cluster = Arc::new(self.cluster);
        let mut shards = FuturesUnordered::new();
        let mut grpc = self.grpc.into_iter().flat_map(|port| port.listeners);
        for (shard, http) in self.http.listeners.into_iter().enumerate() {
            let sockets = Sockets { http, grpc: grpc.next(), http_port: self.http.address.port() };
            let (done, ended) = oneshot::channel();
            let (cluster, shared, leaving) =
                (Arc::clone(&cluster), Arc::clone(&self.shared), leaving.clone());
            let run = move || {
                // Fails only when `serve` was dropped, and then nobody wants to know.
                drop(done.send(run_shard(shard, sockets, &*cluster, shared, leaving)));
            };
            let started = thread::Builder::new().name(format!("lineside-http-{shard}")).spawn(run);
            started.map_err(|error| GatewayError::Start { shard, reason: error.to_string() })?;
            shards.push(async move { ended.await.unwrap_or(Err(GatewayError::Panicked { shard })) });
        }
        let mut outcome = Ok(());
        while let Some(ended) = shards.next().await {
            if ended.is_err() && outcome.is_ok() {
                leaving.cancel();
                outcome = ended;
            }
        }
        outcome
    }
}

/// One shard's thread.
fn run_shard<C, F>(
    shard: usize,
    sockets: Sockets,
    cluster: &F,
    shared: Arc<Shared>,
    leaving: CancellationToken,
) -> Result<(), GatewayError>
where
    C: Cluster,
    F: Fn(usize) -> Result<Arc<C>, String>,
{
    let failed = |reason: String| GatewayError::Start { shard, reason };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    runtime.block_on(async {
        let listeners = sockets.watched().map_err(|error| failed(error.to_string()))?;
        let cluster = cluster(shard).map_err(failed)?;
        accept::serve(
            listeners,
            Arc::new(Door { cluster, shared, leaving, sockets: TaskTracker::new() }),
            shard == 0,
        )
        .await;
        Ok(())
    })
}

/// One address, with a socket for each shard.
struct Port {
    listeners: Vec<TcpListener>,
    address: SocketAddr,
}

impl Port {
    fn open(setting: &'static str, asked: SocketAddr, shards: usize) -> Result<Self, GatewayError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => GatewayError::PortTaken { setting, address: asked },
            _ => GatewayError::Listen { setting, address: asked, source },
        };
        // Without a shared port nobody else's socket fits beside it, so this finds out whether the port is taken.
        let first = listen(asked, false).map_err(failed)?;
        let address = first.local_addr().map_err(failed)?;
        let listeners = match shards {
            1 => vec![first],
            _ => {
                drop(first);
                (0..shards).map(|_| listen(address, true)).collect::<Result<_, _>>().map_err(failed)?
            }
        };
        Ok(Self { listeners, address })
    }
}

/// The sockets of one shard, before its runtime knows them.
struct Sockets {
    http: TcpListener,
    grpc: Option<TcpListener>,
    http_port: u16,
}

impl Sockets {
    fn watched(self) -> io::Result<accept::Listeners> {
        let grpc = self.grpc.map(tokio::net::TcpListener::from_std).transpose()?;
        let http = tokio::net::TcpListener::from_std(self.http)?;
        Ok(accept::Listeners { http, grpc, http_port: self.http_port })
    }
}

fn listen(address: SocketAddr, shared_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a previous process may still be closing; that does not make the port taken.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    if shared_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
