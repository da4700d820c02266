//! Limits and times of the transport, each with its reason.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use lineside_wire::Limits;
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

/// The protocol's name in the TLS handshake.
pub const ALPN: &[u8] = b"lineside/1";

/// Largest gossip packet, in bytes: fits the 1,162 bytes that a datagram holds before the path's MTU is known.
pub const GOSSIP_BYTES_MAX: usize = 1100;

/// Calls with at most this many bytes share one stream; larger ones open their own, so that they hold up nobody.
pub const SHARED_STREAM_BYTES_MAX: usize = 16 << 10;

/// Answers that may wait on one stream. A caller past it is told "busy" at once.
pub(crate) const ANSWERS_MAX: usize = 1024;

/// Items of one streamed result that may be made and not yet be written. Its service then waits for its caller to
/// read; a few let making and writing overlap.
pub(crate) const ITEMS_AHEAD_MAX: usize = 4;

/// Requests that may wait for the shared stream's writer; callers past it wait.
pub(crate) const REQUESTS_QUEUED_MAX: usize = 1024;

/// Streams that a peer may have open: each own stream is one call of more than 16 KiB.
const STREAMS_MAX: u32 = 256;

/// Connections in all: 256 members, some of them gateways with a connection per shard, and clients.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// Connections with one peer, a gateway's shards left out (`table`): programs that share an identity. The newest win.
pub(crate) const CONNECTIONS_PER_NODE_MAX: usize = 16;

/// Handshakes at once, and from how many on a stranger must prove its address first (QUIC Retry).
pub(crate) const HANDSHAKES_MAX: usize = 128;
pub(crate) const HANDSHAKES_BEFORE_RETRY: usize = 64;
/// Handshakes at once of one address that has proved to be its own: with all that need no proof there is still room for
/// others.
pub(crate) const HANDSHAKES_PER_ADDRESS_MAX: usize = 32;
const _: () = assert!(HANDSHAKES_BEFORE_RETRY + HANDSHAKES_PER_ADDRESS_MAX < HANDSHAKES_MAX);

/// First Initials that may wait for us, and the bytes kept for them: a flood costs 16 MiB and no more.
pub(crate) const INCOMING_MAX: usize = 1024;
pub(crate) const INCOMING_BYTES_MAX: u64 = 64 << 10;
pub(crate) const INCOMING_BYTES_TOTAL_MAX: u64 = 16 << 20;

/// Kernel buffers of the socket, in bytes: bulk transfers lose packets with the usual 208 KiB.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 2 << 20;

/// A stream's and a connection's unread bytes. Bounds what a peer can make us hold, and covers a LAN's
/// bandwidth times delay.
const STREAM_WINDOW: u32 = 4 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 32 << 20;
/// A connection's unread bytes until its peer has shown who it is: room for a greeting or a request to join. What was once
/// allowed cannot be taken back, so strangers get this and a peer gets more.
const STRANGER_WINDOW: u32 = 64 << 10;
const DATAGRAM_BUFFER_BYTES: usize = 64 << 10;

/// quinn sends 10 segments in one call, and ten times the MTU must stay below 64 KiB: above 6,500 the send fails
/// silently and the path falls back to 1,200 bytes.
pub const MTU_MAX: u16 = 6_500;

/// How a process takes part in the mesh.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Where peers reach this process (UDP). `None` dials only, from a port of the system's choice.
    pub listen: Option<SocketAddr>,
    /// What frames may hold.
    pub limits: Limits,
    /// When a peer counts as gone.
    pub timing: Timing,
    /// Largest packet that path discovery tries, in bytes; at most [`MTU_MAX`]. More than a LAN's 1,452 pays only
    /// where bulk data goes over loopback or jumbo frames: small calls lose a quarter of their rate.
    pub mtu_max: u16,
}

impl MeshConfig {
    /// A member that listens there.
    #[must_use]
    pub fn listening(address: SocketAddr) -> Self {
        Self { listen: Some(address), ..Self::dialling() }
    }

    /// A process that only dials: a client, a gateway's shard.
    #[must_use]
    pub fn dialling() -> Self {
        Self { listen: None, limits: Limits::default(), timing: Timing::default(), mtu_max: 1_452 }
    }
}

/// When a peer counts as gone, and how long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A connection without any packet for this long is lost. QUIC sees a killed peer only then.
    pub idle: Duration,
    /// How often an idle connection is kept alive; a quarter of `idle` lets three packets be lost.
    pub keep_alive: Duration,
    /// Longest time from the first packet of a dial to its hello's answer.
    pub connect: Duration,
    /// Longest time without a byte in the middle of a frame, and until a new connection's hello.
    pub progress: Duration,
    /// Shortest and longest pause between dials to an address that failed.
    pub redial_min: Duration,
    /// See `redial_min`; it doubles from failure to failure.
    pub redial_max: Duration,
    /// How long a connection stands past the end of a certificate on it, for calls that are still running.
    pub expired_grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(2),
            keep_alive: Duration::from_millis(500),
            connect: Duration::from_secs(1),
            progress: Duration::from_secs(5),
            redial_min: Duration::from_millis(100),
            redial_max: Duration::from_secs(2),
            expired_grace: Duration::from_secs(30),
        }
    }
}

impl MeshConfig {
    /// quinn's settings for both sides of a connection.
    pub(crate) fn transport(&self) -> Arc<TransportConfig> {
        let mut transport = TransportConfig::default();
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.mtu_max.min(MTU_MAX));
        transport
            .max_idle_timeout(Some(
                IdleTimeout::try_from(self.timing.idle)
                    .expect("an idle time of seconds fits QUIC's milliseconds"),
            ))
            .keep_alive_interval(Some(self.timing.keep_alive))
            .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
            .receive_window(VarInt::from_u32(STRANGER_WINDOW))
            .send_window(u64::from(CONNECTION_WINDOW))
            .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
            .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES)
            // A LAN answers in well under 10 ms; quinn's 333 ms would make the first loss cost a second.
            .initial_rtt(Duration::from_millis(10))
            // Fewer acknowledgements cost a closed loop of calls 40 % of its rate.
            .ack_frequency_config(None)
            .enable_segmentation_offload(true)
            .mtu_discovery_config(Some(mtu));
        Arc::new(transport)
    }
}
