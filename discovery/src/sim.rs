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
        load: LoadReport { running: 0, queued: 0, slots: 4 },
        models: vec![],
        certificate_expires: 0,
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
    }
}

/// What is on its way.
enum Flight {
    Packet { from: NodeId, to: NodeId, bytes: Bytes },
    Question { from: NodeId, to: NodeId },
    Answer { to: NodeId, about: NodeId, state: Option<Box<MemberState>> },
}

pub(crate) struct Machine {
    pub(crate) gossip: Gossip,
    pub(crate) own: MemberState,
    pub(crate) view: Arc<ClusterView>,
    pub(crate) left: bool,
    pub(crate) contested: bool,
    pub(crate) saw_double: bool,
    pub(crate) lives: u32,
    running: bool,
}

pub(crate) struct Floor {
    pub(crate) now: Instant,
    pub(crate) machines: BTreeMap<NodeId, Machine>,
    start: Instant,
    seed: u64,
    rng: StdRng,
    loss: f64,
    flights: Timers<Flight>,
    /// Who is connected with whom: packets go over the connection that stands, wherever the other is believed to be.
    links: BTreeSet<(NodeId, NodeId)>,
    /// Machines on the far side of the broken cable.
    far: BTreeSet<NodeId>,
    pub(crate) pace: Pace,
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
            links: BTreeSet::new(),
            far: BTreeSet::new(),
            pace: Pace::Lan,
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
        let own = MemberState { address, ..state_of(n, epoch) };
        let rng = StdRng::seed_from_u64(self.seed ^ (u64::from(n) << 32) ^ epoch);
        let gossip = Gossip::new(CLUSTER, self.pace, own.clone(), self.now, rng);
        let members = BTreeMap::new();
        let view = Arc::new(ClusterView { own: own.node, cluster: CLUSTER, members });
        let machine = Machine {
            gossip,
            own,
            view,
            left: false,
            contested: false,
            saw_double: false,
            lives: 0,
            running: true,
        };
        self.machines.insert(node(n), machine);
        self.links.retain(|(a, b)| ![*a, *b].contains(&node(n)));
        self.tell(n, Input::Wake);
    }

    pub(crate) fn kill(&mut self, n: u8) {
        self.machine(n).running = false;
    }

    /// Two machines greet each other, as a dial does.
    pub(crate) fn greet(&mut self, from: u8, to: u8) {
        let (caller, answerer) = (self.machine(from).own.clone(), self.machine(to).own.clone());
        self.connect(caller.node, answerer.node);
        self.tell(to, Input::Met(Box::new(caller)));
        self.tell(from, Input::Met(Box::new(answerer)));
    }

    pub(crate) fn change(&mut self, n: u8, change: impl FnOnce(&mut MemberState)) {
        let own = &mut self.machine(n).own;
        change(own);
        own.revision += 1;
        let own = Box::new(own.clone());
        self.tell(n, Input::Own(own));
    }

    pub(crate) fn cut_off(&mut self, far: impl IntoIterator<Item = u8>) {
        self.far = far.into_iter().map(node).collect();
    }

    pub(crate) fn tell(&mut self, n: u8, input: Input) {
        self.hand_over(node(n), input);
    }

    pub(crate) fn machine(&mut self, n: u8) -> &mut Machine {
        self.machines.get_mut(&node(n)).expect("the machine was started")
    }

    pub(crate) fn standing(&self, of: u8, seen_by: u8) -> Option<Standing> {
        self.machines[&node(seen_by)].view.member(node(of)).map(|member| member.standing)
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
        let wakes = self.running().filter_map(|machine| machine.gossip.next_wake(self.now));
        let next = wakes.chain(self.flights.next()).min().unwrap_or(end).min(end);
        self.now = self.now.max(next);
        for flight in self.flights.take_due(self.now) {
            self.land(flight);
        }
        let now = self.now;
        let due = |machine: &Machine| machine.gossip.next_wake(now).is_some_and(|wake| wake <= now);
        let due: Vec<NodeId> = self.running().filter(|m| due(m)).map(|machine| machine.own.node).collect();
        for machine in due {
            self.hand_over(machine, Input::Wake);
        }
    }

    fn land(&mut self, flight: Flight) {
        match flight {
            Flight::Packet { from, to, bytes } => self.hand_over(to, Input::Packet { from, bytes }),
            Flight::Question { from, to } => {
                let answerer = self.machines.get(&to).filter(|machine| machine.running);
                let reached = answerer.filter(|_| !self.is_cut(from, to));
                let state = reached.map(|machine| Box::new(machine.own.clone()));
                let back = self.now + Duration::from_millis(2);
                self.flights.set(back, Flight::Answer { to: from, about: to, state });
            }
            Flight::Answer { to, about, state } => self.hand_over(to, Input::Fetched { node: about, state }),
        }
    }

    fn hand_over(&mut self, to: NodeId, input: Input) {
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
                Output::Double { .. } => machine.saw_double = true,
                Output::Left => machine.left = true,
            }
        }
        for (target, address, packet) in sent {
            self.launch(to, target, address, packet);
        }
    }

    /// Whether one is connected with another, or is now, because a dial to this address reaches it.
    fn reaches(&mut self, from: NodeId, to: NodeId, address: SocketAddr) -> bool {
        let there = self.machines.get(&to).filter(|machine| machine.running);
        let found = there.is_some_and(|machine| machine.own.address == address) && !self.is_cut(from, to);
        if found {
            self.connect(from, to);
        }
        found || self.links.contains(&(from, to))
    }

    fn connect(&mut self, a: NodeId, b: NodeId) {
        self.links.extend([(a, b), (b, a)]);
    }

    fn launch(&mut self, from: NodeId, to: NodeId, address: SocketAddr, packet: Option<Bytes>) {
        let land = self.now + Duration::from_micros(self.rng.random_range(1000..2000));
        let reaches = self.reaches(from, to, address);
        match packet {
            None if reaches => self.flights.set(land, Flight::Question { from, to }),
            None => {
                let answer = Flight::Answer { to: from, about: to, state: None };
                self.flights.set(land + Duration::from_secs(1), answer);
            }
            Some(_) if !reaches => {}
            Some(_) if self.rng.random_bool(self.loss) || self.is_cut(from, to) => {}
            Some(bytes) => self.flights.set(land, Flight::Packet { from, to, bytes }),
        }
    }

    fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.far.contains(&a) != self.far.contains(&b)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }
}
