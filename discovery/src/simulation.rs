//! Whole clusters in virtual time, for tests: every packet is a value, every loss is drawn from a seed.
//!
//! A [`Floor`] has machines that gossip and dial as the driver has them do, with the cores that run in production. What
//! the network does to a packet is its [`Weather`]. Nothing here is part of this crate's promise to others.

mod floor;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use lineside_wire::{
    ClusterId, LoadReport, MemberState, ModelInfo, ModelState, ModelVersion, NodeId, Role, TrustStamp,
};
use tokio::time::Instant;

use crate::{
    gossip::{Gossip, Input},
    ladder::{Dial, Ladder},
    view::ClusterView,
};

pub use floor::Floor;

/// The cluster of all machines.
pub const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);

/// The id of machine `n`.
#[must_use]
pub const fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 16])
}

/// What machine `n` says of itself at first.
#[must_use]
pub fn state_of(n: u8, epoch: u64) -> MemberState {
    MemberState {
        node: node(n),
        name: format!("machine-{n}"),
        role: Role::Node,
        software: "0.1.0".into(),
        address: SocketAddr::from(([10, 0, 0, n], 7443)),
        http: None,
        door: false,
        epoch,
        revision: 0,
        draining: false,
        cordoned: false,
        weight: 100,
        load: LoadReport { running: 0, queued: 0, slots: 4, limit: 0, call_us: 0 },
        models: vec![],
        certificate_expires: 0,
        certificate_generation: 1,
        trust: TrustStamp::default(),
        authority: false,
    }
}

/// A model that serves.
///
/// # Panics
/// No model can have that name.
#[must_use]
pub fn model(name: &str) -> ModelInfo {
    ModelInfo {
        name: name.parse().expect("a model name"),
        version: ModelVersion(1),
        state: ModelState::Ready,
        reason: None,
        inputs: vec![],
        outputs: vec![],
        slots: 2,
        tasks: Vec::new(),
        engine: None,
    }
}

/// What the network does to packets.
pub trait Weather {
    /// How long each copy of a packet is on its way; none: it is lost.
    fn fly(&mut self, from: u8, to: u8) -> Vec<Duration>;

    /// Whether no handshake between the two comes through now, in either direction.
    fn is_cut(&self, a: u8, b: u8) -> bool;
}

/// What is on its way between machines, by their numbers. A packet and an answer are for one life of a machine.
enum Flight {
    Packet {
        from: NodeId,
        to: u8,
        life: u32,
        bytes: Bytes,
    },
    Question {
        from: u8,
        to: u8,
        about: NodeId,
    },
    Answer {
        to: u8,
        life: u32,
        about: NodeId,
        state: Option<Box<MemberState>>,
    },
    /// A dial of the ladder, until it reaches somebody.
    Dial {
        from: u8,
        life: u32,
        dial: Dial,
    },
    Dialled {
        from: u8,
        life: u32,
        dial: Dial,
        state: Option<Box<MemberState>>,
    },
}

/// What waits for a machine that stands still.
enum Held {
    Flight(Flight),
    Input(Input),
}

/// Most that waits for a machine that stands still: its socket's buffer is full then.
const HELD_MAX: usize = 256;

pub(crate) struct Machine {
    pub(crate) gossip: Gossip,
    pub(crate) ladder: Ladder,
    pub(crate) own: MemberState,
    pub(crate) view: Arc<ClusterView>,
    pub(crate) left: bool,
    pub(crate) contested: bool,
    /// The node ids that were told of as doubled, with the other's address, and when.
    pub(crate) doubles: Vec<(NodeId, SocketAddr, Instant)>,
    pub(crate) lives: u32,
    /// Dials of the ladder.
    pub(crate) dials: u32,
    /// The members that this one took for dead.
    pub(crate) buried: Vec<NodeId>,
    running: bool,
    /// Stands still, as after SIGSTOP: what comes waits, and no time is looked at.
    paused: bool,
    held: Vec<Held>,
    /// Counts the processes of this machine.
    life: u32,
    /// When it wants to be woken: computed after each turn, asked for at each step of the floor.
    wake: Option<Instant>,
}

impl Machine {
    fn next_wake(&self, now: Instant) -> Option<Instant> {
        let dial = self.ladder.next_wake(|node| self.gossip.is_active(node));
        self.gossip.next_wake(now).into_iter().chain(dial).min()
    }

    const fn turns(&self) -> bool {
        self.running && !self.paused
    }
}
