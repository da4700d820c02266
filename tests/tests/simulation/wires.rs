//! Connections between gateways and nodes, as QUIC keeps them: what is sent arrives in the end or the connection is lost.
//! The times are those of the mesh.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::node::End;

/// A connection is kept alive this often: the mesh's default.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// A connection without any packet for this long is lost.
pub(crate) const IDLE: Duration = Duration::from_secs(2);
/// A dial that nobody answers ends.
pub(crate) const CONNECT: Duration = Duration::from_secs(1);
/// Rests after dials that failed.
const REDIAL_MIN: Duration = Duration::from_millis(100);
const REDIAL_MAX: Duration = Duration::from_secs(2);
/// What is not acknowledged is sent again, first after this long.
const RESEND_MIN: Duration = Duration::from_millis(25);
const RESEND_MAX: Duration = Duration::from_millis(1_600);

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Hello,
    Welcome,
    /// The process does not know the connection.
    Reset,
    Ping,
    Pong,
    Message(u64),
    Acknowledged(u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) conn: u64,
    pub(crate) from: u8,
    pub(crate) to: u8,
    pub(crate) load: Load,
}

/// What must arrive.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Request(u64),
    Cancel(u64),
    Answer(u64, End),
}

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) conn: u64,
    pub(crate) from: u8,
    pub(crate) to: u8,
    pub(crate) body: Body,
    pub(crate) delivered: bool,
    pub(crate) sends: u32,
}

impl Message {
    /// How long until it is sent again.
    pub(crate) fn patience(&self) -> Duration {
        (RESEND_MIN * (1 << self.sends.saturating_sub(1).min(6))).min(RESEND_MAX)
    }
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: u64,
    pub(crate) up: bool,
    pub(crate) since: Instant,
    pub(crate) heard: Instant,
    /// The first packet that was sent since something came.
    pub(crate) sent_since: Option<Instant>,
    /// Calls that wait for the connection.
    pub(crate) waiting: Vec<u64>,
}

impl Conn {
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.up && self.sent_since.unwrap_or(self.heard).max(self.heard) + IDLE <= now
    }
}

/// Rests of one way after dials that failed.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    failures: u32,
    until: Option<Instant>,
}

impl Rest {
    pub(crate) fn failed(&mut self, now: Instant) {
        self.until = Some(now + (REDIAL_MIN * (1 << self.failures.min(6))).min(REDIAL_MAX));
        self.failures += 1;
    }

    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }
}

/// All connections of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Wires {
    pub(crate) conns: BTreeMap<(u8, u8), Conn>,
    pub(crate) rests: BTreeMap<(u8, u8), Rest>,
    pub(crate) messages: BTreeMap<u64, Message>,
    counted: u64,
}

impl Wires {
    pub(crate) fn next_number(&mut self) -> u64 {
        self.counted += 1;
        self.counted
    }
}
