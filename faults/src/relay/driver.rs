//! The relay's sockets and timers. What happens to a packet is decided by [`Sky`].

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, interval, sleep, sleep_until},
};

use super::{
    Shared,
    weather::{Fate, Sky, Weather},
};

/// Longest UDP packet.
const PACKET_BYTES_MAX: usize = 65_536;

/// Senders at one time, each with a socket: past it, the one that was heard longest ago loses its own.
const SENDERS_MAX: usize = 256;

/// A sender that said nothing for so long is gone: connections between members say something twice a second.
const SENDER_IDLE_MAX: Duration = Duration::from_secs(30);
/// How often that is looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Packets under way in one relay: a second of delay at a few thousand a second. Past it they are lost, as in a router.
const FLIGHTS_MAX: usize = 8192;

/// Packets of the member that wait to be handled; its sockets hold more.
const RETURNED_MAX: usize = 256;

/// After an error of a socket, so that one that stays is no busy loop.
const REST_AFTER_ERROR: Duration = Duration::from_millis(10);

/// Which way a packet goes.
#[derive(Clone, Copy)]
enum Way {
    Towards,
    Back,
}

/// A packet of the member, and for whom it is.
struct Returned {
    to: SocketAddr,
    packet: Vec<u8>,
}

/// A packet under way.
struct Flight {
    due: Instant,
    /// Packets that are due at one time keep their order.
    number: u64,
    way: Way,
    sender: SocketAddr,
    packet: Vec<u8>,
}

impl Flight {
    const fn place(&self) -> (Instant, u64) {
        (self.due, self.number)
    }
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Flight {}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

/// Somebody who sends to the member.
struct Sender {
    socket: Arc<UdpSocket>,
    heard: Instant,
    reader: AbortHandle,
}

struct Driver {
    shared: Arc<Shared>,
    outside: UdpSocket,
    senders: HashMap<SocketAddr, Sender>,
    readers: JoinSet<()>,
    returned: mpsc::Sender<Returned>,
    flights: BinaryHeap<Reverse<Flight>>,
    flown: u64,
    towards: Sky,
    back: Sky,
}

/// Carries packets until it is dropped.
pub(super) async fn run(outside: UdpSocket, shared: Arc<Shared>, seed: u64) {
    let (returned, mut returns) = mpsc::channel(RETURNED_MAX);
    let mut driver = Driver {
        shared,
        outside,
        senders: HashMap::new(),
        readers: JoinSet::new(),
        returned,
        flights: BinaryHeap::new(),
        flown: 0,
        // Two skies: what one direction draws does not depend on how many packets go the other way.
        towards: Sky::new(seed),
        back: Sky::new(!seed),
    };
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    let mut sweep = interval(SWEEP_EVERY);
    loop {
        let due = driver.flights.peek().map(|Reverse(flight)| flight.due);
        let landing = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = driver.outside.recv_from(&mut buffer) => match received {
                Ok((bytes, from)) => {
                    driver.heard(from).await;
                    driver.depart(Way::Towards, from, buffer[..bytes].to_vec()).await;
                }
                Err(_) => sleep(REST_AFTER_ERROR).await,
            },
            Some(Returned { to, packet }) = returns.recv() => driver.depart(Way::Back, to, packet).await,
            () = landing => driver.land(Instant::now()).await,
            _ = sweep.tick() => driver.sweep(Instant::now()),
        }
    }
}

impl Driver {
    /// Gives a sender a socket, unless it has one.
    async fn heard(&mut self, from: SocketAddr) {
        let now = Instant::now();
        if let Some(sender) = self.senders.get_mut(&from) {
            sender.heard = now;
            return;
        }
        if SENDERS_MAX <= self.senders.len() {
            let oldest =
                self.senders.iter().min_by_key(|(_, sender)| sender.heard).map(|(address, _)| *address);
            oldest.iter().for_each(|address| self.forget(address));
        }
        // Without a socket its packets are lost, and it tries again with the next one.
        let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { return };
        let socket = Arc::new(socket);
        let reader = read(Arc::clone(&socket), from, Arc::clone(&self.shared), self.returned.clone());
        let reader = self.readers.spawn(reader);
        self.senders.insert(from, Sender { socket, heard: now, reader });
    }

    fn forget(&mut self, address: &SocketAddr) {
        if let Some(sender) = self.senders.remove(address) {
            sender.reader.abort();
        }
    }

    fn sweep(&mut self, now: Instant) {
        let is_idle = |sender: &Sender| SENDER_IDLE_MAX < now.saturating_duration_since(sender.heard);
        let idle: Vec<_> = self.senders.iter().filter(|(_, s)| is_idle(s)).map(|(a, _)| *a).collect();
        idle.iter().for_each(|address| self.forget(address));
        while self.readers.try_join_next().is_some() {}
    }

    /// Draws a packet's fate and sends it on its way.
    async fn depart(&mut self, way: Way, sender: SocketAddr, mut packet: Vec<u8>) {
        let fate = self.draw(way, sender, packet.len());
        let Fate::Arrives { after, again_after, damage } = fate else { return };
        if let Some(damage) = damage {
            damage.apply(&mut packet);
        }
        if let Some(again_after) = again_after {
            self.carry(way, sender, packet.clone(), again_after).await;
        }
        self.carry(way, sender, packet, after).await;
    }

    fn draw(&mut self, way: Way, sender: SocketAddr, bytes: usize) -> Fate {
        let mut orders = self.shared.lock();
        let (towards, back) =
            orders.of_senders.get(&sender).copied().unwrap_or((Weather::FAIR, Weather::FAIR));
        let fate = match way {
            Way::Towards => self.towards.draw(&towards.and(orders.towards), bytes),
            Way::Back => self.back.draw(&orders.back.and(back), bytes),
        };
        let counts = &mut orders.counts;
        match fate {
            Fate::Lost => counts.lost += 1,
            Fate::TooLong => counts.too_long += 1,
            Fate::Arrives { again_after, damage, .. } => {
                counts.passed += 1;
                counts.doubled += u64::from(again_after.is_some());
                counts.damaged += u64::from(damage.is_some());
            }
        }
        fate
    }

    async fn carry(&mut self, way: Way, sender: SocketAddr, packet: Vec<u8>, after: Duration) {
        if after.is_zero() {
            return self.deliver(way, sender, &packet).await;
        }
        if FLIGHTS_MAX <= self.flights.len() {
            self.shared.lock().counts.lost += 1;
            return;
        }
        self.flown += 1;
        let due = Instant::now() + after;
        self.flights.push(Reverse(Flight { due, number: self.flown, way, sender, packet }));
    }

    /// Delivers what is due.
    async fn land(&mut self, now: Instant) {
        while self.flights.peek().is_some_and(|Reverse(flight)| flight.due <= now) {
            let Some(Reverse(Flight { way, sender, packet, .. })) = self.flights.pop() else { return };
            self.deliver(way, sender, &packet).await;
        }
    }

    /// A packet that the system does not take is lost, as on any network.
    async fn deliver(&self, way: Way, sender: SocketAddr, packet: &[u8]) {
        match way {
            Way::Towards => {
                let member = self.shared.lock().member;
                if let (Some(member), Some(sender)) = (member, self.senders.get(&sender)) {
                    drop(sender.socket.send_to(packet, member).await);
                }
            }
            Way::Back => drop(self.outside.send_to(packet, sender).await),
        }
    }
}

/// Takes in what the member sends to one sender.
async fn read(
    socket: Arc<UdpSocket>,
    sender: SocketAddr,
    shared: Arc<Shared>,
    returned: mpsc::Sender<Returned>,
) {
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((bytes, from)) if shared.lock().member == Some(from) => {
                let packet = buffer[..bytes].to_vec();
                if returned.send(Returned { to: sender, packet }).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(_) => sleep(REST_AFTER_ERROR).await,
        }
    }
}
