//! The gossip thread: waits, hands over, carries out. What to do is decided in [`Gossip`] and [`Ladder`].
//!
//! The thread is its own, with its own runtime, so that no computation starves it: a member that does not answer
//! in time is taken for dead.

mod errands;
mod turn;

use std::{io, panic, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use lineside_wire::{MemberState, NodeId};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use self::errands::{Brought, Errands};
use crate::{
    Carrier, ClusterView, Counters, DiscoveryConfig, MdnsState,
    discovery::Shared,
    epoch::EpochFile,
    gossip::Gossip,
    ladder::Ladder,
    mdns::{Mdns, MdnsEvent},
    remembered::Remembered,
};

/// The longest sleep: a thread that has not turned for some of these is stuck, and a watchdog can tell.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// The shortest: should the cores ever ask for the past again and again, the thread would still not spin.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// Between two looks at our own state: its load may change with every call, and only the newest counts.
const OWN_EVERY: Duration = Duration::from_millis(20);

/// Longest wait for the disk at the end: the goodbye by mDNS is still to be said.
const LAST_WRITE_WITHIN: Duration = Duration::from_secs(1);

/// Without any hint or member for this long a person should look at the network.
const LONELY_AFTER: Duration = Duration::from_secs(30);

/// What comes in from the handles.
pub(crate) struct Inlets {
    pub(crate) packets: mpsc::Receiver<(NodeId, Bytes)>,
    pub(crate) greetings: mpsc::Receiver<MemberState>,
    pub(crate) own: watch::Receiver<MemberState>,
    pub(crate) leave: watch::Receiver<bool>,
}

/// What the thread is made of.
pub(crate) struct Parts {
    pub(crate) config: DiscoveryConfig,
    pub(crate) own: MemberState,
    pub(crate) epoch: EpochFile,
    pub(crate) remembered: Remembered,
    pub(crate) carrier: Arc<dyn Carrier>,
    pub(crate) view: watch::Sender<Arc<ClusterView>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) rng: StdRng,
}

/// Everything that can wake the thread.
#[derive(Debug)]
enum Event {
    /// A packet came over the connection with `from`.
    Packet { from: NodeId, bytes: Bytes },
    /// A peer greeted us.
    Greeted(MemberState),
    /// Our own state changed.
    Own(MemberState),
    /// A dial or a question came back.
    Brought(Brought),
    /// Something was heard by mDNS.
    Mdns(MdnsEvent),
    /// The order to leave.
    Leave,
    /// The last handle is gone.
    Abandoned,
    /// A time has come.
    Wake,
}

/// Starts the thread. `end` is dropped when all else of it is, however it ends.
///
/// # Errors
/// The system gives no thread, or the runtime no timer.
pub(crate) fn spawn(parts: Parts, inlets: Inlets, end: watch::Sender<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = move || {
        // What is unwound is dropped here and nowhere else, so nobody can see it half changed.
        let run = panic::AssertUnwindSafe(move || runtime.block_on(Driver::new(parts).run(inlets)));
        if panic::catch_unwind(run).is_err() {
            tracing::error!(
                "the gossip thread panicked: this member no longer follows its cluster; restart it"
            );
        }
        drop(end);
    };
    thread::Builder::new().name("lineside-gossip".to_owned()).spawn(body).map(drop)
}

struct Driver {
    own: NodeId,
    gossip: Gossip,
    ladder: Ladder,
    mdns: Option<Mdns>,
    mdns_heard: bool,
    errands: Errands,
    epoch: EpochFile,
    remembered: Remembered,
    carrier: Arc<dyn Carrier>,
    view: watch::Sender<Arc<ClusterView>>,
    shared: Arc<Shared>,
    counters: Counters,
    seeds: usize,
    /// When our own state may be looked at again.
    own_after: Instant,
    /// When to warn of loneliness, until somebody was seen or it was done.
    lonely_at: Option<Instant>,
    leaving: bool,
    ended: bool,
}

impl Driver {
    /// On the gossip thread: the core cannot move between threads.
    fn new(parts: Parts) -> Self {
        let Parts { config, own, epoch, remembered, carrier, view, shared, mut rng } = parts;
        let now = Instant::now();
        let mut ladder = Ladder::new(own.node, own.address, StdRng::from_rng(&mut rng));
        ladder.remember(remembered.addresses().iter().map(|(node, address)| (*node, *address)), now);
        ladder.seeds(&config.seeds, now);
        let mdns = config.mdns.map(|mdns| Mdns::start(mdns, config.cluster, own.node, own.address));
        let lonely_at = mdns.is_some().then_some(now + LONELY_AFTER);
        Self {
            own: own.node,
            gossip: Gossip::new(config.cluster, config.pace, own, now, rng),
            ladder,
            mdns,
            mdns_heard: false,
            errands: Errands::default(),
            epoch,
            remembered,
            carrier,
            view,
            shared,
            counters: Counters::default(),
            seeds: config.seeds.len(),
            own_after: now,
            lonely_at,
            leaving: false,
            ended: false,
        }
    }

    async fn run(mut self, mut inlets: Inlets) {
        let mut event = Event::Wake; // The first round of dials is at once.
        loop {
            self.turn(event, Instant::now());
            if self.ended {
                break;
            }
            event = self.wait(&mut inlets).await;
        }
        if timeout(LAST_WRITE_WITHIN, self.remember_the_last()).await.is_err() {
            tracing::warn!("the members could not be remembered: the disk does not answer");
        }
        if let Some(mdns) = &mut self.mdns {
            mdns.leave().await;
        }
    }

    /// Waits for the write that is being made, and makes the one that is left to make.
    async fn remember_the_last(&mut self) {
        while self.remembered.is_writing() {
            match self.errands.next().await {
                Some(Brought::Written(result)) => self.remembered.ended(result),
                Some(Brought::Greeting { .. } | Brought::State { .. }) => {}
                None => return,
            }
        }
        if let Some(write) = self.remembered.begin(true, Instant::now()) {
            self.remembered.ended(errands::on_thread(write).await);
        }
    }

    /// Waits for the next event. Packets come last: a flood of them must hold up neither an order nor an answer.
    /// Times are looked at in every turn, whatever woke it.
    async fn wait(&mut self, inlets: &mut Inlets) -> Event {
        let wake = self.next_wake(Instant::now());
        let heard = async {
            match &mut self.mdns {
                Some(mdns) => mdns.next().await,
                None => std::future::pending().await,
            }
        };
        let own_after = self.own_after;
        let own = async {
            sleep_until(own_after).await;
            inlets.own.changed().await
        };
        tokio::select! {
            biased;
            order = inlets.leave.changed(), if !self.leaving => match order {
                Ok(()) => Event::Leave,
                Err(_) => Event::Abandoned,
            },
            Ok(()) = own => {
                self.own_after = Instant::now() + OWN_EVERY;
                Event::Own(inlets.own.borrow_and_update().clone())
            }
            Some(brought) = self.errands.next() => Event::Brought(brought),
            Some(state) = inlets.greetings.recv() => Event::Greeted(state),
            event = heard => Event::Mdns(event),
            Some((from, bytes)) = inlets.packets.recv() => Event::Packet { from, bytes },
            () = sleep_until(wake) => Event::Wake,
        }
    }

    fn next_wake(&self, now: Instant) -> Instant {
        let gossip = self.gossip.next_wake(now);
        let dial =
            if self.leaving { None } else { self.ladder.next_wake(|node| self.gossip.is_active(node)) };
        let save = self.remembered.next_save(now);
        let wakes = [gossip, dial, save, self.lonely_at].into_iter().flatten();
        wakes.min().unwrap_or(now + SLEEP_MAX).clamp(now + SLEEP_MIN, now + SLEEP_MAX)
    }

    fn mdns_state(&self) -> MdnsState {
        match &self.mdns {
            None => MdnsState::Off,
            Some(mdns) if !mdns.is_running() => MdnsState::Failed,
            Some(_) if self.mdns_heard => MdnsState::Working,
            Some(_) => MdnsState::Silent,
        }
    }
}
