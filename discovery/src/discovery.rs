//! The handle: what the rest of the process says to the gossip thread, and hears of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use lineside_wire::{ClusterId, MemberState, NodeId};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use crate::{
    Carrier, ClusterView, Counters, DiscoveryError, MdnsConfig, PACKET_BYTES_MAX, Pace, disk, driver,
    epoch::EpochFile,
    identity::is_dialable,
    remembered::Remembered,
    view::Roster,
    watchdog::{LOOK_EVERY, Watchdog},
};

/// Packets that wait for the gossip thread, about a megabyte. A cluster of 256 sends a member a few dozen per second.
const PACKETS_MAX: usize = 1024;

/// Packets of one member that wait for the gossip thread. One member that floods cannot crowd out the others, whose silence
/// would have them taken for dead.
const PACKETS_PER_MEMBER_MAX: u32 = 64;

/// Greetings that wait for the gossip thread. They may be long: each has a member's models in it.
const GREETINGS_MAX: usize = 64;

/// Longest time that saying goodbye may take: a second of gossip, and as much for mDNS.
const LEAVE_MAX: Duration = Duration::from_millis(2500);

/// What discovery needs to know.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// How eagerly members watch each other.
    pub pace: Pace,
    /// Where members are, as a person says: whoever answers there.
    pub seeds: Vec<SocketAddr>,
    /// How mDNS is used; `None` turns it off.
    pub mdns: Option<MdnsConfig>,
    /// Where the count of starts and the remembered members are kept. One process at a time.
    pub state_dir: PathBuf,
}

/// A counted start.
#[derive(Debug)]
pub struct Opened {
    config: DiscoveryConfig,
    epoch: EpochFile,
    remembered: Remembered,
}

impl Opened {
    /// The epoch of this start: the member's state must carry it.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.epoch()
    }

    /// Starts the gossip thread. The epoch of `own` is set to [`Self::epoch`], whatever it says.
    ///
    /// # Errors
    /// No thread can be had, or nobody could dial the address in `own`.
    pub fn start(self, own: MemberState, carrier: Arc<dyn Carrier>) -> Result<Discovery, DiscoveryError> {
        if !is_dialable(own.address) {
            return Err(DiscoveryError::Address { address: own.address });
        }
        let own = MemberState { epoch: self.epoch(), ..own };
        let first_view = Roster::new(self.config.cluster, &own, Instant::now()).snapshot();
        let (view_in, view) = watch::channel(first_view);
        let (packets, packets_out) = mpsc::channel(PACKETS_MAX);
        let (greetings, greetings_out) = mpsc::channel(GREETINGS_MAX);
        let (own_in, own_out) = watch::channel(own.clone());
        let (leave, leave_out) = watch::channel(false);
        let (end, ended) = watch::channel(());
        let shared = Arc::new(Shared::new(own.epoch));
        let inlets =
            driver::Inlets { packets: packets_out, greetings: greetings_out, own: own_out, leave: leave_out };
        let parts = driver::Parts {
            config: self.config,
            own,
            epoch: self.epoch,
            remembered: self.remembered,
            carrier,
            view: view_in,
            shared: Arc::clone(&shared),
            rng: StdRng::from_rng(&mut rand::rng()),
        };
        driver::spawn(parts, inlets, end).map_err(DiscoveryError::Thread)?;
        let started = Instant::now();
        let handle = Handle { view, packets, greetings, own: own_in, leave, ended, shared, started };
        Ok(Discovery(Arc::new(handle)))
    }
}

/// Who is there: a handle on the gossip thread, cheap to clone. The thread ends with the last handle.
#[derive(Clone, Debug)]
pub struct Discovery(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    view: watch::Receiver<Arc<ClusterView>>,
    packets: mpsc::Sender<(NodeId, Bytes)>,
    greetings: mpsc::Sender<MemberState>,
    own: watch::Sender<MemberState>,
    leave: watch::Sender<bool>,
    ended: watch::Receiver<()>,
    shared: Arc<Shared>,
    started: Instant,
}

impl Discovery {
    /// Opens the state directory and counts this start. The count is on the disk before this returns.
    ///
    /// # Errors
    /// The pace cannot be kept, the directory cannot be used, or the count in it is damaged.
    pub fn open(config: DiscoveryConfig) -> Result<Opened, DiscoveryError> {
        config.pace.check()?;
        disk::make_directory(&config.state_dir)
            .map_err(|source| DiscoveryError::Directory { path: config.state_dir.clone(), source })?;
        let epoch = EpochFile::count_start(&config.state_dir)?;
        let remembered = Remembered::open(&config.state_dir);
        Ok(Opened { config, epoch, remembered })
    }

    /// The cluster as this process sees it. The sender goes away when the gossip thread ends.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.0.view.clone()
    }

    /// Hands over a gossip packet that came over the connection with `from`. Never waits: a packet that finds the
    /// queue full is dropped and counted, as the network might have done.
    pub fn packet(&self, from: NodeId, packet: Bytes) {
        let shared = &self.0.shared;
        if PACKET_BYTES_MAX < packet.len() || !shared.waits(from) {
            return shared.count_dropped();
        }
        if self.0.packets.try_send((from, packet)).is_err() {
            shared.taken(from);
            shared.count_dropped();
        }
    }

    /// Tells that a peer greeted us and said this of itself. Never waits, as [`Self::packet`]. The caller vouches
    /// that the state is of the node in the peer's certificate.
    pub fn met(&self, state: MemberState) {
        if self.0.greetings.try_send(state).is_err() {
            self.0.shared.count_dropped();
        }
    }

    /// Tells that our own state is now this; the newest wins. Node and epoch in it are not looked at.
    pub fn own(&self, state: MemberState) {
        self.0.own.send_replace(state);
    }

    /// The epoch of this member now. It grows when the others took it for dead, or knew a later life of it; the
    /// state that peers are told must carry it.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.shared.epoch.load(Ordering::Relaxed)
    }

    /// The time since the gossip thread last turned: below a second or so while it is well, also before its first turn.
    #[must_use]
    pub fn last_turn(&self) -> Duration {
        let turned = self.0.shared.counters().last_turn.unwrap_or(self.0.started);
        Instant::now().saturating_duration_since(turned)
    }

    /// Waits until the gossip thread is stuck: for five seconds in which this task was awake it has not turned. It is
    /// then told in the log; nothing in this process can mend it, so end the process and have it started again. Never
    /// returns while the thread is well, or when it has ended, which closes the view.
    pub async fn stuck(&self) {
        let mut watchdog = Watchdog::new(self.turns(), Instant::now());
        loop {
            sleep(LOOK_EVERY).await;
            if self.0.ended.has_changed().is_err() {
                std::future::pending::<()>().await;
            }
            if watchdog.look(self.turns(), Instant::now()) {
                let silent_for = self.last_turn();
                tracing::error!(
                    ?silent_for,
                    "the gossip thread is stuck: this member no longer follows its cluster and must be started again"
                );
                return;
            }
        }
    }

    fn turns(&self) -> u64 {
        self.0.shared.turns.load(Ordering::Relaxed)
    }

    /// What went wrong so far, and how often.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let dropped = self.0.shared.dropped.load(Ordering::Relaxed);
        Counters { dropped, ..*self.0.shared.counters() }
    }

    /// Says goodbye, by gossip and by mDNS, and ends the gossip thread. Returns when that is done, at the latest
    /// after a few seconds. Dropping the future takes nothing back.
    pub async fn leave(&self) {
        self.0.leave.send_replace(true);
        let mut ended = self.0.ended.clone();
        let gone = async { while ended.changed().await.is_ok() {} };
        if timeout(LEAVE_MAX, gone).await.is_err() {
            tracing::warn!("the goodbye was not said in time");
        }
    }
}

/// What the thread and the handles both touch.
#[derive(Debug)]
pub(crate) struct Shared {
    counters: Mutex<Counters>,
    /// Packets in the queue, by member; no longer than the queue.
    waiting: Mutex<BTreeMap<NodeId, u32>>,
    dropped: AtomicU64,
    /// How often the thread has turned.
    pub(crate) turns: AtomicU64,
    pub(crate) epoch: AtomicU64,
}

impl Shared {
    fn new(epoch: u64) -> Self {
        let waiting = Mutex::default();
        let [dropped, turns] = [AtomicU64::new(0), AtomicU64::new(0)];
        Self { counters: Mutex::default(), waiting, dropped, turns, epoch: AtomicU64::new(epoch) }
    }

    /// Held for a copy only.
    pub(crate) fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a packet that is about to wait; false when too many of this member do.
    fn waits(&self, from: NodeId) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(from).or_default();
        let admitted = *count < PACKETS_PER_MEMBER_MAX;
        *count += u32::from(admitted);
        admitted
    }

    /// Counts a packet that waits no longer.
    pub(crate) fn taken(&self, from: NodeId) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&from);
            }
        }
    }

    fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_floods_leaves_room_for_the_others() {
        let shared = Shared::new(1);
        let [loud, quiet] = [1, 2].map(|n| NodeId::from_bytes([n; 16]));
        let admitted = (0..PACKETS_MAX).filter(|_| shared.waits(loud)).count();
        assert_eq!(u32::try_from(admitted), Ok(PACKETS_PER_MEMBER_MAX));
        assert!(shared.waits(quiet));
        shared.taken(loud);
        assert!(shared.waits(loud) && !shared.waits(loud));
        (0..PACKETS_PER_MEMBER_MAX).for_each(|_| shared.taken(loud));
        shared.taken(quiet);
        assert!(shared.waiting.lock().unwrap().is_empty());
    }
}
