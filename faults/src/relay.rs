//! A lossy network before one member: a UDP relay whose faults are drawn from a seed.
//!
//! The member announces the relay's address as its own, so that all that others send it passes here, and what it answers
//! passes back. Each sender gets a socket of its own towards the member, as behind an address translation.

use std::{io, net::SocketAddr, time::Duration};

/// What happens to packets in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Share of the packets that are lost; 1 is a cut cable.
    pub loss: f64,
    /// Share that arrives twice.
    pub duplicates: f64,
    /// Share in which one byte is another.
    pub damage: f64,
    /// How long each packet is under way.
    pub delay: Duration,
    /// How much longer at most: packets overtake each other.
    pub jitter: Duration,
    /// Longer packets are lost, as on a path with a smaller MTU; 0 lets all through.
    pub bytes_max: usize,
}

impl Weather {
    /// Nothing happens.
    pub const FAIR: Self = Self {
        loss: 0.0,
        duplicates: 0.0,
        damage: 0.0,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        bytes_max: 0,
    };

    /// Nothing gets through.
    pub const CUT: Self = Self { loss: 1.0, ..Self::FAIR };
}

/// A relay before one member. Ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
}

impl Relay {
    /// Opens a relay on a free port of loopback. Must be called on a runtime.
    ///
    /// # Errors
    /// The system gives no socket.
    pub async fn open(seed: u64) -> io::Result<Self> {
        let _ = seed;
        Err(io::Error::other("to come"))
    }

    /// What the member announces.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the member listens: known once it has started, and again after a new start.
    pub fn leads_to(&self, member: SocketAddr) {
        let _ = member;
    }

    /// The weather towards the member, and back from it.
    pub fn weather(&self, towards: Weather, back: Weather) {
        let _ = (towards, back);
    }
}
