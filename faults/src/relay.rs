//! A lossy network before one member: a UDP relay whose faults are drawn from a seed.
//!
//! The member announces the relay's address as its own, so that all that others send it passes here, and what it answers
//! passes back. Each sender gets a socket of its own towards the member, as behind an address translation.
//!
//! What the member sends of its own accord, on connections that it dialled, passes the relays of those whom it dialled
//! and not its own. To cut a member off altogether, put a relay before each, and say [`Relay::weather_of`] at the others.

mod driver;
mod weather;

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{net::UdpSocket, task::JoinSet};

pub use weather::Weather;

/// Senders that have a weather of their own: the members of a test.
const OWN_WEATHERS_MAX: usize = 256;

/// A relay before one member. Ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    // Its tasks end with it.
    _driver: JoinSet<()>,
}

/// What became of packets, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// They went on, copies not counted.
    pub passed: u64,
    /// They were lost by chance, or because too many were under way.
    pub lost: u64,
    /// They were lost for their length.
    pub too_long: u64,
    /// They went on with another byte.
    pub damaged: u64,
    /// They went on twice.
    pub doubled: u64,
}

/// What the relay's owner says and its driver reads. Locked for a look only.
#[derive(Debug, Default)]
struct Shared(Mutex<Orders>);

#[derive(Debug, Default)]
struct Orders {
    member: Option<SocketAddr>,
    towards: Weather,
    back: Weather,
    of_senders: HashMap<SocketAddr, (Weather, Weather)>,
    counts: Counts,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay {
    /// Opens a relay on a free port of loopback. Must be called on a runtime, which then runs it.
    ///
    /// # Errors
    /// The system gives no socket.
    pub async fn open(seed: u64) -> io::Result<Self> {
        let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, shared) = (outside.local_addr()?, Arc::<Shared>::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(driver::run(outside, Arc::clone(&shared), seed));
        Ok(Self { address, shared, _driver: tasks })
    }

    /// What the member announces.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the member listens: known once it has started, and again after a new start. Until then all is lost.
    pub fn leads_to(&self, member: SocketAddr) {
        self.shared.lock().member = Some(member);
    }

    /// The weather towards the member, and back from it. Packets that are under way keep the weather that they met.
    pub fn weather(&self, towards: Weather, back: Weather) {
        let mut orders = self.shared.lock();
        (orders.towards, orders.back) = (towards, back);
    }

    /// More weather for what comes from one sender, and for what goes back to it: its own link. Fair on both sides
    /// takes it away.
    pub fn weather_of(&self, sender: SocketAddr, towards: Weather, back: Weather) {
        let mut orders = self.shared.lock();
        if (towards, back) == (Weather::FAIR, Weather::FAIR) {
            orders.of_senders.remove(&sender);
        } else if orders.of_senders.len() < OWN_WEATHERS_MAX {
            orders.of_senders.insert(sender, (towards, back));
        }
    }

    /// What became of packets so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }
}

#[cfg(test)]
mod tests;
