//! The machines of a floor, and what is on its way between them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use foca::{Header, Member, Message, State};
use lineside_wire::{MemberState, NodeId, Standing};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use super::{CLUSTER, Flight, HELD_MAX, Held, Machine, Weather, node, state_of};
use crate::{
    Pace,
    codec::{Codec, Packet},
    gossip::{Gossip, Input, Output},
    identity::{ClusterTag, Identity},
    ladder::{Answer, Ladder, Verdict},
    timers::Timers,
    view::ClusterView,
};

/// Back over a connection that stands.
const BACK: Duration = Duration::from_millis(2);
/// A dial that nobody answers ends after this long.
const DIAL_MAX: Duration = Duration::from_secs(2);
/// A question to somebody who is not there ends after this long.
const QUESTION_MAX: Duration = Duration::from_secs(1);

/// Machines in virtual time. The same calls with the same seed give the same cluster.
pub struct Floor<W> {
    pub(crate) now: Instant,
    /// By number. Machines of one number have one node id; a copied disk is a machine with another's id.
    pub(crate) machines: BTreeMap<u8, Machine>,
    pub(crate) pace: Pace,
    pub(crate) seed: u64,
    pub(crate) weather: W,
    start: Instant,
    flights: Timers<Flight>,
    /// Who is connected with whom, the newest last: packets go over the connection that stands, wherever the other is
    /// believed to be; of several, over the one with the address.
    links: Vec<(u8, u8)>,
}

impl<W: Weather> Floor<W> {
    /// A floor without machines.
    pub fn with_weather(seed: u64, pace: Pace, weather: W, now: Instant) -> Self {
        Self {
            now,
            machines: BTreeMap::new(),
            pace,
            seed,
            weather,
            start: now,
            flights: Timers::new(),
            links: Vec::new(),
        }
    }

    /// Starts a machine, in the place of the process that it ran before. `own` names its id, address and epoch.
    pub fn start_with(&mut self, n: u8, own: MemberState, seeds: &[u8]) {
        self.begin(n, own, seeds, Vec::new());
    }

    fn begin(&mut self, n: u8, own: MemberState, seeds: &[u8], remembered: Vec<(NodeId, SocketAddr)>) {
        let seed = self.seed ^ (u64::from(n) << 32) ^ own.epoch;
        let gossip = Gossip::new(CLUSTER, self.pace, own.clone(), self.now, StdRng::seed_from_u64(seed));
        let mut ladder = Ladder::new(own.node, own.address, StdRng::seed_from_u64(!seed));
        let seeds: Vec<SocketAddr> = seeds.iter().map(|n| state_of(*n, 1).address).collect();
        ladder.seeds(&seeds, self.now);
        ladder.remember(remembered, self.now);
        let view = Arc::new(ClusterView { own: own.node, cluster: CLUSTER, members: BTreeMap::new() });
        let life = self.machines.get(&n).map_or(0, |before| before.life + 1);
        let machine = Machine {
            gossip,
            ladder,
            own,
            view,
            left: false,
            contested: false,
            doubles: Vec::new(),
            lives: 0,
            dials: 0,
            buried: Vec::new(),
            running: true,
            paused: false,
            held: Vec::new(),
            life,
            wake: None,
        };
        self.machines.insert(n, machine);
        self.links.retain(|(a, b)| ![*a, *b].contains(&n));
        self.tell(n, Input::Wake);
    }

    /// Starts a machine again, one life later. All that it knows of the others is what it remembers.
    pub fn start_by_memory(&mut self, n: u8) {
        let before = &self.machines[&n];
        let own = MemberState { epoch: before.own.epoch + 1, draining: false, ..before.own.clone() };
        let others = before.view.members.values().filter(|member| member.node != own.node);
        let remembered = others.map(|member| (member.node, member.address)).collect();
        self.begin(n, own, &[], remembered);
    }

    /// Ends a machine's process without a word.
    pub fn kill(&mut self, n: u8) {
        let machine = self.machine(n);
        machine.running = false;
        machine.held.clear();
    }

    /// Has a machine stand still, as SIGSTOP does.
    pub fn pause(&mut self, n: u8) {
        self.machine(n).paused = true;
    }

    /// Has it go on: first with what is due, then with what waited for it.
    pub fn resume(&mut self, n: u8) {
        let machine = self.machine(n);
        machine.paused = false;
        let held = std::mem::take(&mut machine.held);
        self.hand_over(n, Input::Wake);
        for held in held {
            match held {
                Held::Flight(flight) => self.land(flight),
                Held::Input(input) => self.hand_over(n, input),
            }
        }
    }

    /// Has a machine say goodbye.
    pub fn leave(&mut self, n: u8) {
        self.tell(n, Input::Leave);
    }

    /// Whether everybody was told of the goodbye.
    #[must_use]
    pub fn has_left(&self, n: u8) -> bool {
        self.machines[&n].left
    }

    /// Two machines greet each other, as a dial does.
    pub fn greet(&mut self, from: u8, to: u8) {
        let (caller, answerer) = (self.machine(from).own.clone(), self.machine(to).own.clone());
        self.connect(from, to);
        self.tell(to, Input::Met(Box::new(caller)));
        self.tell(from, Input::Met(Box::new(answerer)));
    }

    /// Changes what a machine says of itself.
    pub fn change(&mut self, n: u8, change: impl FnOnce(&mut MemberState)) {
        let own = &mut self.machine(n).own;
        change(own);
        own.revision += 1;
        let own = Box::new(own.clone());
        self.machine(n).ladder.own_address(own.address);
        self.tell(n, Input::Own(own));
    }

    /// What a machine says of itself.
    #[must_use]
    pub fn own(&self, n: u8) -> &MemberState {
        &self.machines[&n].own
    }

    /// The cluster as a machine sees it.
    #[must_use]
    pub fn view(&self, n: u8) -> &Arc<ClusterView> {
        &self.machines[&n].view
    }

    /// What one machine's gossip says of another's life.
    #[must_use]
    pub fn standing(&self, of: u8, seen_by: u8) -> Option<Standing> {
        self.machines[&seen_by].view.member(node(of)).map(|member| member.standing)
    }

    /// A member that lies: it tells another, over its own connection, that a third is dead.
    pub fn slander(&mut self, by: u8, to: u8, about: u8) {
        let tag = ClusterTag::of(CLUSTER);
        let identity = |own: &MemberState| Identity::new(tag, own.node, own.address, own.epoch);
        let dead = Member::new(identity(self.own(about)), 9, State::Down);
        let (src, dst) = (identity(self.own(by)), identity(self.own(to)));
        let header = Header { src, src_incarnation: 0, dst, message: Message::Gossip };
        let packet = Packet { header, members: vec![dead], tail: &[] };
        if let Ok(bytes) = packet.write(Codec::new(tag)) {
            self.launch(by, node(to), self.own(to).address, Some(bytes.into()));
        }
    }

    /// How long it is since the floor was made.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// When [`Self::advance`] is wanted.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        let wakes = self.machines.values().filter(|machine| machine.turns()).filter_map(|m| m.wake);
        wakes.chain(self.flights.next()).min()
    }

    /// Has everything happen that is due until `now`.
    pub fn advance(&mut self, now: Instant) {
        while self.next_wake().is_some_and(|next| next <= now) {
            self.step(now);
        }
        self.now = self.now.max(now);
    }

    pub(crate) fn tell(&mut self, n: u8, input: Input) {
        self.hand_over(n, input);
    }

    pub(crate) fn machine(&mut self, n: u8) -> &mut Machine {
        self.machines.get_mut(&n).expect("the machine was started")
    }

    #[cfg(test)]
    pub(crate) fn running(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values().filter(|machine| machine.running)
    }

    /// Goes to the next thing that happens, at most to `end`.
    pub(crate) fn step(&mut self, end: Instant) {
        let next = self.next_wake().unwrap_or(end).min(end);
        self.now = self.now.max(next);
        for flight in self.flights.take_due(self.now) {
            self.land(flight);
        }
        let now = self.now;
        let due = |machine: &Machine| machine.turns() && machine.wake.is_some_and(|wake| wake <= now);
        let due = self.machines.iter().filter(|(_, machine)| due(machine)).map(|(n, _)| *n);
        for machine in due.collect::<Vec<_>>() {
            self.hand_over(machine, Input::Wake);
        }
    }

    /// Whether a flight is for a process that has ended meanwhile.
    fn is_of_another_life(&self, n: u8, life: u32) -> bool {
        self.machines.get(&n).is_none_or(|machine| !machine.running || machine.life != life)
    }

    /// Lands a flight, or has it wait where its machine stands still.
    fn land(&mut self, flight: Flight) {
        let (n, life) = match &flight {
            Flight::Packet { to, life, .. } | Flight::Answer { to, life, .. } => (*to, *life),
            Flight::Dialled { from, life, .. } => (*from, *life),
            Flight::Question { .. } | Flight::Dial { .. } => return self.arrive(flight),
        };
        if self.is_of_another_life(n, life) {
            return;
        }
        let machine = self.machine(n);
        match machine.paused {
            true if machine.held.len() < HELD_MAX => machine.held.push(Held::Flight(flight)),
            true => {}
            false => self.arrive(flight),
        }
    }

    fn arrive(&mut self, flight: Flight) {
        match flight {
            Flight::Packet { from, to, bytes, .. } => self.hand_over(to, Input::Packet { from, bytes }),
            Flight::Question { from, to, about } => {
                let answerer = self.machines.get(&to).filter(|machine| machine.turns());
                let reached = answerer.filter(|_| !self.weather.is_cut(from, to));
                let state = reached.map(|machine| Box::new(machine.own.clone()));
                let life = self.machines[&from].life;
                self.flights.set(self.now + BACK, Flight::Answer { to: from, life, about, state });
            }
            Flight::Answer { to, about, state, .. } => {
                self.hand_over(to, Input::Fetched { node: about, state });
            }
            Flight::Dial { from, life, dial } => self.dial_lands(from, life, dial),
            Flight::Dialled { from, dial, state, .. } => self.dial_ended(from, dial, state),
        }
    }

    /// A handshake is repeated until it is through: no loss.
    fn dial_lands(&mut self, from: u8, life: u32, dial: crate::ladder::Dial) {
        let there = self.at(dial.address).filter(|to| !self.weather.is_cut(from, *to));
        let there = there.filter(|to| !self.machines[to].paused);
        let (Some(to), false) = (there, self.is_of_another_life(from, life)) else {
            return self.flights.set(self.now + DIAL_MAX, Flight::Dialled { from, life, dial, state: None });
        };
        if !self.links.contains(&(from, to)) {
            // Over a connection that stands nobody is greeted anew.
            self.connect(from, to);
            let caller = Box::new(self.machines[&from].own.clone());
            self.hand_over(to, Input::Met(caller));
        }
        let state = Some(Box::new(self.machines[&to].own.clone()));
        self.flights.set(self.now + BACK, Flight::Dialled { from, life, dial, state });
    }

    /// As the driver does.
    fn dial_ended(&mut self, from: u8, dial: crate::ladder::Dial, state: Option<Box<MemberState>>) {
        let now = self.now;
        let machine = self.machine(from);
        let answer = match &state {
            Some(state) if machine.gossip.is_double(state, now) => Answer::Double,
            Some(state) => Answer::Member(state.node),
            None => Answer::Nobody,
        };
        let verdict = machine.ladder.ended(dial, answer, now);
        match (verdict, state) {
            (Verdict::Reached | Verdict::Double, Some(state)) => self.hand_over(from, Input::Met(state)),
            _ => self.hand_over(from, Input::Wake),
        }
    }

    fn hand_over(&mut self, to: u8, input: Input) {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(&to).filter(|machine| machine.running) else { return };
        if machine.paused {
            if machine.held.len() < HELD_MAX {
                machine.held.push(Held::Input(input));
            }
            return;
        }
        machine.gossip.handle(input, now);
        let mut sent = Vec::new();
        while let Some(output) = machine.gossip.poll_output() {
            match output {
                Output::Renewed { epoch } => {
                    machine.own.epoch = epoch;
                    machine.lives += 1;
                }
                Output::Send { to, address, packet } => sent.push((to, address, Some(packet))),
                Output::Fetch { node, address } => sent.push((node, address, None)),
                Output::View(view) => machine.view = view,
                Output::Gone(node) => machine.buried.push(node),
                Output::Contested => machine.contested = true,
                Output::Double { node, other, .. } => machine.doubles.push((node, other, now)),
                Output::Elsewhere(address) => machine.ladder.elsewhere(&[address], now),
                Output::Left => machine.left = true,
            }
        }
        if machine.ladder.alone(machine.gossip.is_alone()) {
            let last = machine.view.members.values().map(|member| (member.node, member.address));
            machine.ladder.remember(last, now);
        }
        let (gossip, life) = (&machine.gossip, machine.life);
        while let Some(dial) = machine.ladder.next_dial(|node| gossip.is_active(node), now) {
            machine.dials += 1;
            self.flights.set(now + BACK, Flight::Dial { from: to, life, dial });
        }
        machine.wake = machine.next_wake(now);
        for (target, address, packet) in sent {
            self.launch(to, target, address, packet);
        }
    }

    /// The running machine that listens there.
    fn at(&self, address: SocketAddr) -> Option<u8> {
        let mut running = self.machines.iter().filter(|(_, machine)| machine.running);
        running.find(|(_, machine)| machine.own.address == address).map(|(n, _)| *n)
    }

    /// The machine that a packet to a node goes to: one that is connected, or is now, because a dial reaches it.
    fn route(&mut self, from: u8, node: NodeId, address: SocketAddr) -> Option<u8> {
        let with = |to: &u8| self.machines.get(to).is_some_and(|machine| machine.own.node == node);
        let linked: Vec<u8> =
            self.links.iter().filter(|(a, to)| *a == from && with(to)).map(|l| l.1).collect();
        let there = self.at(address).filter(|to| with(to) && !self.weather.is_cut(from, *to));
        let known = there.filter(|to| linked.contains(to)).or_else(|| linked.last().copied());
        if known.is_some() {
            return known;
        }
        self.connect(from, there?);
        there
    }

    fn connect(&mut self, a: u8, b: u8) {
        self.links.retain(|link| ![(a, b), (b, a)].contains(link));
        self.links.extend([(a, b), (b, a)]);
    }

    fn launch(&mut self, from: u8, target: NodeId, address: SocketAddr, packet: Option<Bytes>) {
        let to = self.route(from, target, address);
        match (packet, to) {
            (None, Some(to)) => {
                self.flights.set(self.now + BACK, Flight::Question { from, to, about: target });
            }
            (None, None) => {
                let life = self.machines[&from].life;
                let answer = Flight::Answer { to: from, life, about: target, state: None };
                self.flights.set(self.now + QUESTION_MAX, answer);
            }
            (Some(_), None) => {}
            (Some(bytes), Some(to)) => {
                let (sender, life) = (self.machines[&from].own.node, self.machines[&to].life);
                for time in self.weather.fly(from, to) {
                    let packet = Flight::Packet { from: sender, to, life, bytes: bytes.clone() };
                    self.flights.set(self.now + time, packet);
                }
            }
        }
    }
}
