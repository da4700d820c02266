//! A floor of machines in virtual time: every packet is a value, every loss is drawn from the seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use lineside_wire::{
    ClusterId, LoadReport, MemberState, ModelInfo, ModelState, ModelVersion, NodeId, Role, Standing,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::{
    Pace,
    gossip::{Gossip, Input, Output},
    ladder::{Answer, Dial, Ladder, Verdict},
    timers::Timers,
    view::ClusterView,
};

pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);

pub(crate) fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 16])
}

pub(crate) fn state_of(n: u8, epoch: u64) -> MemberState {
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
        trust: lineside_wire::TrustStamp::default(),
        authority: false,
    }
}

pub(crate) fn model(name: &str) -> ModelInfo {
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

/// What is on its way between machines, by their numbers.
enum Flight {
    Packet {
        from: NodeId,
        to: u8,
        bytes: Bytes,
    },
    Question {
        from: u8,
        to: u8,
        about: NodeId,
    },
    Answer {
        to: u8,
        about: NodeId,
        state: Option<Box<MemberState>>,
    },
    /// A dial of the ladder, until it reaches somebody.
    Dial {
        from: u8,
        dial: Dial,
    },
    Dialled {
        from: u8,
        dial: Dial,
        state: Option<Box<MemberState>>,
    },
}

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
    running: bool,
}

pub(crate) struct Floor {
    pub(crate) now: Instant,
    /// By number. Machines of one number have one node id; a copied disk is a machine with another's id.
    pub(crate) machines: BTreeMap<u8, Machine>,
    start: Instant,
    seed: u64,
    rng: StdRng,
    loss: f64,
    flights: Timers<Flight>,
    /// Who is connected with whom, the newest last: packets go over the connection that stands, wherever the other is
    /// believed to be; of several, over the one with the address.
    links: Vec<(u8, u8)>,
    /// Machines on the far side of the broken cable.
    far: BTreeSet<u8>,
    pub(crate) pace: Pace,
}

impl Machine {
    fn next_wake(&self, now: Instant) -> Option<Instant> {
        let dial = self.ladder.next_wake(|node| self.gossip.is_active(node));
        self.gossip.next_wake(now).into_iter().chain(dial).min()
    }

    /// Where this machine sees a double of a node.
    pub(crate) fn double_of(&self, n: u8) -> Option<SocketAddr> {
        self.view.member(node(n)).and_then(|row| row.double)
    }
}

impl Floor {
    pub(crate) fn new(seed: u64, loss: f64) -> Self {
        let now = Instant::now();
        Self {
            now,
            machines: BTreeMap::new(),
            start: now,
            seed,
            rng: StdRng::seed_from_u64(seed),
            loss,
            flights: Timers::new(),
            links: Vec::new(),
            far: BTreeSet::new(),
            pace: Pace::LAN,
        }
    }

    /// Machines 1 to `count`; all but the first greet the first one.
    pub(crate) fn with_machines(count: u8, seed: u64, loss: f64) -> Self {
        let mut floor = Self::new(seed, loss);
        for n in 1..=count {
            floor.start(n, 1);
            if n != 1 {
                floor.greet(n, 1);
            }
        }
        floor
    }

    /// Machines that know each other already.
    pub(crate) fn formed(count: u8, seed: u64, loss: f64) -> Self {
        let mut floor = Self::with_machines(count, seed, loss);
        floor.until(30, "the cluster forms", |floor| floor.all_see(count));
        floor
    }

    pub(crate) fn start(&mut self, n: u8, epoch: u64) {
        self.start_at(n, epoch, state_of(n, epoch).address);
    }

    /// Starts a machine that has another address than machines of its number have.
    pub(crate) fn start_at(&mut self, n: u8, epoch: u64, address: SocketAddr) {
        self.start_with(n, MemberState { address, ..state_of(n, epoch) }, &[]);
    }

    /// Starts a machine whose disk is a copy of another's; its address is its own.
    pub(crate) fn start_copy(&mut self, n: u8, of: u8, epoch: u64, seeds: &[u8]) {
        let own = MemberState { address: state_of(n, epoch).address, ..state_of(of, epoch) };
        self.start_with(n, own, seeds);
    }

    pub(crate) fn start_with(&mut self, n: u8, own: MemberState, seeds: &[u8]) {
        let seed = self.seed ^ (u64::from(n) << 32) ^ own.epoch;
        let gossip = Gossip::new(CLUSTER, self.pace, own.clone(), self.now, StdRng::seed_from_u64(seed));
        let mut ladder = Ladder::new(own.node, own.address, StdRng::seed_from_u64(!seed));
        let seeds: Vec<SocketAddr> = seeds.iter().map(|n| state_of(*n, 1).address).collect();
        ladder.seeds(&seeds, self.now);
        let members = BTreeMap::new();
        let view = Arc::new(ClusterView { own: own.node, cluster: CLUSTER, members });
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
            running: true,
        };
        self.machines.insert(n, machine);
        self.links.retain(|(a, b)| ![*a, *b].contains(&n));
        self.tell(n, Input::Wake);
    }

    pub(crate) fn kill(&mut self, n: u8) {
        self.machine(n).running = false;
    }

    /// Two machines greet each other, as a dial does.
    pub(crate) fn greet(&mut self, from: u8, to: u8) {
        let (caller, answerer) = (self.machine(from).own.clone(), self.machine(to).own.clone());
        self.connect(from, to);
        self.tell(to, Input::Met(Box::new(caller)));
        self.tell(from, Input::Met(Box::new(answerer)));
    }

    pub(crate) fn change(&mut self, n: u8, change: impl FnOnce(&mut MemberState)) {
        let own = &mut self.machine(n).own;
        change(own);
        own.revision += 1;
        let own = Box::new(own.clone());
        self.machine(n).ladder.own_address(own.address);
        self.tell(n, Input::Own(own));
    }

    pub(crate) fn cut_off(&mut self, far: impl IntoIterator<Item = u8>) {
        self.far = far.into_iter().collect();
    }

    pub(crate) fn tell(&mut self, n: u8, input: Input) {
        self.hand_over(n, input);
    }

    pub(crate) fn machine(&mut self, n: u8) -> &mut Machine {
        self.machines.get_mut(&n).expect("the machine was started")
    }

    pub(crate) fn standing(&self, of: u8, seen_by: u8) -> Option<Standing> {
        self.machines[&seen_by].view.member(node(of)).map(|member| member.standing)
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values().filter(|machine| machine.running)
    }

    /// Whether every running machine sees `count` usable members.
    pub(crate) fn all_see(&self, count: u8) -> bool {
        self.running().all(|machine| {
            machine.view.members.values().filter(|member| member.is_usable()).count() == usize::from(count)
        })
    }

    /// Lets time pass until `state` holds, at most `seconds`; gives back how long it took.
    pub(crate) fn until(&mut self, seconds: u64, what: &str, state: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.now;
        let end = begin + Duration::from_secs(seconds);
        while !state(self) {
            assert!(self.now < end, "seed {}: not within {seconds} s: {what}", self.seed);
            self.step(end);
        }
        self.now - begin
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step(end);
        }
    }

    /// Goes to the next thing that happens, at most to `end`.
    pub(crate) fn step(&mut self, end: Instant) {
        let wakes = self.running().filter_map(|machine| machine.next_wake(self.now));
        let next = wakes.chain(self.flights.next()).min().unwrap_or(end).min(end);
        self.now = self.now.max(next);
        for flight in self.flights.take_due(self.now) {
            self.land(flight);
        }
        let now = self.now;
        let due = |machine: &Machine| machine.next_wake(now).is_some_and(|wake| wake <= now);
        let due = self.machines.iter().filter(|(_, m)| m.running && due(m)).map(|(n, _)| *n);
        for machine in due.collect::<Vec<_>>() {
            self.hand_over(machine, Input::Wake);
        }
    }

    fn land(&mut self, flight: Flight) {
        let back = self.now + Duration::from_millis(2);
        match flight {
            Flight::Packet { from, to, bytes } => self.hand_over(to, Input::Packet { from, bytes }),
            Flight::Question { from, to, about } => {
                let answerer = self.machines.get(&to).filter(|machine| machine.running);
                let reached = answerer.filter(|_| !self.is_cut(from, to));
                let state = reached.map(|machine| Box::new(machine.own.clone()));
                self.flights.set(back, Flight::Answer { to: from, about, state });
            }
            Flight::Answer { to, about, state } => self.hand_over(to, Input::Fetched { node: about, state }),
            Flight::Dial { from, dial } => self.dial_lands(from, dial),
            Flight::Dialled { from, dial, state } => self.dial_ended(from, dial, state),
        }
    }

    /// A handshake is repeated until it is through: no loss.
    fn dial_lands(&mut self, from: u8, dial: Dial) {
        let there = self.at(dial.address).filter(|to| !self.is_cut(from, *to));
        let (Some(to), true) = (there, self.machines[&from].running) else {
            let after = self.now + Duration::from_secs(2);
            return self.flights.set(after, Flight::Dialled { from, dial, state: None });
        };
        if !self.links.contains(&(from, to)) {
            // Over a connection that stands nobody is greeted anew.
            self.connect(from, to);
            let caller = Box::new(self.machines[&from].own.clone());
            self.hand_over(to, Input::Met(caller));
        }
        let state = Some(Box::new(self.machines[&to].own.clone()));
        self.flights.set(self.now + Duration::from_millis(2), Flight::Dialled { from, dial, state });
    }

    /// As the driver does.
    fn dial_ended(&mut self, from: u8, dial: Dial, state: Option<Box<MemberState>>) {
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
                Output::Gone(_) => {}
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
        let gossip = &machine.gossip;
        while let Some(dial) = machine.ladder.next_dial(|node| gossip.is_active(node), now) {
            machine.dials += 1;
            self.flights.set(now + Duration::from_millis(2), Flight::Dial { from: to, dial });
        }
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
        let there = self.at(address).filter(|to| with(to) && !self.is_cut(from, *to));
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

    fn launch(&mut self, from: u8, node: NodeId, address: SocketAddr, packet: Option<Bytes>) {
        let land = self.now + Duration::from_micros(self.rng.random_range(1000..2000));
        let (to, sender) = (self.route(from, node, address), self.machines[&from].own.node);
        match (packet, to) {
            (None, Some(to)) => self.flights.set(land, Flight::Question { from, to, about: node }),
            (None, None) => {
                let answer = Flight::Answer { to: from, about: node, state: None };
                self.flights.set(land + Duration::from_secs(1), answer);
            }
            (Some(_), None) => {}
            (Some(_), Some(to)) if self.rng.random_bool(self.loss) || self.is_cut(from, to) => {}
            (Some(bytes), Some(to)) => self.flights.set(land, Flight::Packet { from: sender, to, bytes }),
        }
    }

    fn is_cut(&self, a: u8, b: u8) -> bool {
        self.far.contains(&a) != self.far.contains(&b)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }
}
