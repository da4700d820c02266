//! One cluster in virtual time: machines that gossip, gateways that call, nodes that run, and a network between them.

mod calls;
mod faults;
mod traffic;
mod truth;

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt::Write as _,
    num::NonZeroU8,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use lineside_client::{
    Balancer, Balancing, Budget, CallError, InferReply, Policy, Pool, Roster, Standing, Tries,
};
use lineside_discovery::{
    ClusterView, Pace,
    simulation::{Floor, model, node, state_of},
};
use lineside_wire::{MemberRow, MemberState, MembersResult, NodeId, Role};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    ledger::{Broken, Record, check_budget},
    node::Node,
    plan::{Defect, FORMING, Plan},
    port::{Answer, Mailbox, Port},
    sky::{Air, Sky},
    wires::{Packet, Wires},
};

/// Everything is whole again within this long after the last trouble. A bar lasts at most [`BAR_MAX`], those who took
/// each other for dead call each other every ten seconds, and a life that is fought over takes some tries.
const HEALED_WITHIN: Duration = Duration::from_secs(45);
/// The longest bar here; in production it is a minute.
const BAR_MAX: Duration = Duration::from_secs(8);
/// How long everything must work, in the end.
const PROVING: Duration = Duration::from_millis(1_500);
/// Between two looks at loads and at what should have ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Everything that can happen at a time.
enum Happening {
    Begins(usize),
    Ends(usize),
    Arrives(Packet),
    Resend(u64),
    /// A connection is looked after.
    Tick {
        gateway: u8,
        node: u8,
        conn: u64,
    },
    DialEnds {
        gateway: u8,
        node: u8,
        conn: u64,
    },
    RunEnds {
        node: u8,
        life: u32,
        call: u64,
    },
    Expires {
        node: u8,
        life: u32,
        call: u64,
    },
    Issue,
    NextOfSequence(usize),
    Slander(usize),
    Look,
}

struct Entry(Instant, u64, Happening);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// A try under way.
struct Call {
    gateway: u8,
    node: u8,
    request: usize,
    place: usize,
    expires: Instant,
    conn: u64,
    sent: bool,
    reply: Option<tokio::sync::oneshot::Sender<Answer>>,
}

struct Gateway {
    pool: Arc<Pool<Port>>,
    view: Option<Arc<ClusterView>>,
    calls: Vec<Instant>,
    repeats: Vec<Instant>,
    /// Of each node: when it answered last, when a try there failed last, when it was last not open.
    answered: BTreeMap<u8, Instant>,
    failed: BTreeMap<u8, Instant>,
    closed: BTreeMap<u8, Instant>,
}

/// A caller with a sequence: one call after the other, and the sum so far.
struct Sequence {
    name: String,
    begun: bool,
    sum: i64,
    lives: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Troubled,
    Healing,
    Proving(Instant),
    Ending,
}

/// What a run came to, when no rule was broken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) calls: usize,
    pub(crate) answers: usize,
    pub(crate) runs: usize,
    pub(crate) repeats: usize,
    /// Told by gateways, packets counted, so that two runs can be compared.
    pub(crate) events: u64,
    /// From the last trouble until everything was whole.
    pub(crate) healed: Duration,
    pub(crate) virtual_time: Duration,
}

type Finished = (usize, Result<InferReply, CallError>, Instant);

pub(crate) struct World {
    plan: Plan,
    rng: StdRng,
    start: Instant,
    now: Instant,
    phase: Phase,
    floor: Floor<Air>,
    sky: Rc<RefCell<Sky>>,
    nodes: BTreeMap<u8, Node>,
    gateways: BTreeMap<u8, Gateway>,
    wires: Wires,
    mailbox: Arc<Mailbox>,
    agenda: BinaryHeap<Reverse<Entry>>,
    set: u64,
    calls: BTreeMap<u64, Call>,
    /// What a request on its way says: whose it is, until when, and for which gateway.
    told: BTreeMap<u64, (usize, Instant, u8)>,
    records: Vec<Record>,
    open: BTreeSet<usize>,
    refused_before: Vec<u64>,
    handles: BTreeMap<usize, AbortHandle>,
    tasks: JoinSet<Finished>,
    sequences: Vec<Sequence>,
    /// Which sequence a request is of.
    of_sequence: BTreeMap<usize, usize>,
    /// What came for a node that stands still.
    held: BTreeMap<u8, Vec<Happening>>,
    /// Members that are down now.
    down: BTreeSet<u8>,
    rush: u32,
    weather_well_since: Option<Instant>,
    opened: BTreeMap<(u8, u8), Instant>,
    broken: Option<Broken>,
    trace: Option<Vec<String>>,
    healed: Duration,
}

impl World {
    /// The cluster of a plan, with everybody started and nobody known to anybody but the first.
    pub(crate) fn new(plan: Plan, traced: bool) -> Self {
        let (now, seed) = (Instant::now(), plan.seed);
        let sky = Rc::new(RefCell::new(Sky::new(seed ^ 0x5ca1_ab1e)));
        let pace = if plan.fast { Pace::FAST } else { Pace::LAN };
        let floor = Floor::with_weather(seed, pace, Air(Rc::clone(&sky)), now);
        let machines = plan.nodes.iter().zip(1_u8..);
        let nodes = machines.map(|(machine, n)| (n, Node::new(machine.slots, machine.run, now))).collect();
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed ^ 0xd1ce),
            start: now,
            now,
            phase: Phase::Troubled,
            floor,
            sky,
            nodes,
            gateways: BTreeMap::new(),
            wires: Wires::default(),
            mailbox: Arc::default(),
            agenda: BinaryHeap::new(),
            set: 0,
            calls: BTreeMap::new(),
            told: BTreeMap::new(),
            records: Vec::new(),
            open: BTreeSet::new(),
            refused_before: Vec::new(),
            handles: BTreeMap::new(),
            tasks: JoinSet::new(),
            sequences: Vec::new(),
            of_sequence: BTreeMap::new(),
            held: BTreeMap::new(),
            down: BTreeSet::new(),
            rush: 1,
            weather_well_since: Some(now),
            opened: BTreeMap::new(),
            broken: None,
            trace: traced.then(Vec::new),
            healed: Duration::ZERO,
            plan,
        };
        for n in 1..=world.plan.members() {
            world.floor.start_with(n, world.first_state(n), &[]);
            if n != 1 {
                world.floor.greet(n, 1);
            }
            if !world.plan.is_node(n) {
                world.start_gateway(n);
            }
        }
        world.fill_agenda();
        world
    }

    fn first_state(&self, n: u8) -> MemberState {
        let state = state_of(n, 1);
        match self.nodes.get(&n) {
            Some(node) => MemberState { load: node.load(), models: vec![model("add")], ..state },
            None => MemberState { role: Role::Gateway, door: true, load: Default::default(), ..state },
        }
    }

    fn start_gateway(&mut self, n: u8) {
        let now = self.now.into_std();
        let mut seeded = StdRng::seed_from_u64(self.plan.seed ^ u64::from(n) << 8 ^ self.set);
        let policies = [Policy::LeastLoad, Policy::LeastLoad, Policy::RoundRobin, Policy::PowerOfTwo];
        let policy = policies[usize::try_from(self.plan.seed % 4).expect("below 4")];
        let keeps = self.plan.defect == Some(Defect::KeepsTheDead);
        let bar_max =
            if self.plan.defect == Some(Defect::BarsForEver) { Duration::from_secs(3_600) } else { BAR_MAX };
        let bar_min = Balancing::default().bar_min.max(bar_max / 4);
        let settings = Balancing {
            policy,
            bar_max,
            bar_min,
            slow_start: Duration::from_secs(2),
            ..Balancing::default()
        };
        let balancer = Balancer::new(settings, &mut seeded, now);
        let mut tries = Tries::default();
        if self.plan.hedge {
            tries.hedge.push("add".parse().expect("a model name"));
        }
        if keeps {
            tries.attempts_max = NonZeroU8::MIN;
        }
        let port = Port { gateway: n, mailbox: Arc::clone(&self.mailbox) };
        let pool = Pool::new(port, Arc::new(balancer), Arc::new(Budget::new(now))).with_tries(tries);
        let gateway = Gateway {
            pool: Arc::new(pool),
            view: None,
            calls: Vec::new(),
            repeats: Vec::new(),
            answered: BTreeMap::new(),
            failed: BTreeMap::new(),
            closed: BTreeMap::new(),
        };
        self.gateways.insert(n, gateway);
    }

    fn fill_agenda(&mut self) {
        for (place, spell) in self.plan.spells.clone().iter().enumerate() {
            self.set(self.start + spell.begins, Happening::Begins(place));
            self.set(self.start + spell.ends, Happening::Ends(place));
        }
        self.set(self.start + FORMING, Happening::Issue);
        self.set(self.start + LOOK_EVERY, Happening::Look);
        for place in 0..self.plan.sequences {
            let name = format!("belt {place}");
            self.sequences.push(Sequence { name, begun: false, sum: 0, lives: 0 });
            self.set(self.start + FORMING, Happening::NextOfSequence(place));
        }
    }

    fn set(&mut self, at: Instant, what: Happening) {
        self.set += 1;
        self.agenda.push(Reverse(Entry(at, self.set, what)));
    }

    /// Writes down what happens, where somebody reads it.
    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let at = self.now - self.start;
            trace.push(format!("{:>9.3} {}", at.as_secs_f64(), what()));
        }
    }

    fn breaks(&mut self, what: Broken) {
        self.note(|| format!("BROKEN {}", what.0));
        self.broken.get_or_insert(what);
    }

    /// Runs to the end, or until a rule is broken. Gives the trace, if there is one.
    pub(crate) async fn run(mut self) -> (Result<Summary, Broken>, Vec<String>) {
        while self.broken.is_none() && !(self.phase == Phase::Ending && self.open.is_empty()) {
            self.turn();
            let agenda = self.agenda.peek().map(|Reverse(entry)| entry.0);
            let next = agenda.into_iter().chain(self.floor.next_wake()).min();
            let next = next.unwrap_or(self.now + LOOK_EVERY);
            let mailbox = Arc::clone(&self.mailbox);
            tokio::select! {
                biased;
                () = mailbox.posted.notified() => {}
                Some(finished) = self.tasks.join_next() => {
                    self.now = Instant::now();
                    if let Ok(finished) = finished {
                        self.finished(finished);
                    }
                }
                () = sleep_until(next) => {}
            }
        }
        self.tasks.abort_all();
        let result = self.conclude();
        (result, self.trace.unwrap_or_default())
    }

    /// Everything that is due now.
    fn turn(&mut self) {
        self.now = Instant::now();
        for post in self.mailbox.take() {
            self.posted(post);
        }
        while let Some(Reverse(entry)) = self.agenda.peek()
            && entry.0 <= self.now
            && let Some(Reverse(Entry(_, _, happening))) = self.agenda.pop()
        {
            self.happens(happening);
        }
        self.floor.advance(self.now);
        self.follow_views();
    }

    fn happens(&mut self, happening: Happening) {
        let at = match &happening {
            Happening::Arrives(packet) => Some(packet.to),
            Happening::RunEnds { node, .. } | Happening::Expires { node, .. } => Some(*node),
            _ => None,
        };
        if let Some(node) = at
            && self.nodes.get(&node).is_some_and(|node| node.paused)
        {
            return self.held.entry(node).or_default().push(happening);
        }
        match happening {
            Happening::Begins(place) => self.begins(place),
            Happening::Ends(place) => self.ends(place),
            Happening::Arrives(packet) => self.arrives(packet),
            Happening::Resend(message) => self.resend(message),
            Happening::Tick { gateway, node, conn } => self.tick(gateway, node, conn),
            Happening::DialEnds { gateway, node, conn } => self.dial_ends(gateway, node, conn),
            Happening::RunEnds { node, life, call } => self.run_ends(node, life, call),
            Happening::Expires { node, life, call } => self.expires(node, life, call),
            Happening::Issue => self.issue_one(),
            Happening::NextOfSequence(place) => self.next_of_sequence(place),
            Happening::Slander(place) => self.slander(place),
            Happening::Look => self.look(),
        }
    }

    /// Tells the balancers of what gossip shows.
    fn follow_views(&mut self) {
        let now = self.now;
        for (n, gateway) in &mut self.gateways {
            let view = self.floor.view(*n);
            if gateway.view.as_ref().is_some_and(|known| Arc::ptr_eq(known, view)) {
                continue;
            }
            gateway.view = Some(Arc::clone(view));
            let mut candidates = roster(view).nodes();
            if self.plan.defect == Some(Defect::KeepsTheDead) {
                candidates.iter_mut().for_each(|candidate| candidate.standing = Standing::Alive);
            }
            for place in self.nodes.keys() {
                let candidate = candidates.iter().find(|candidate| candidate.node == node(*place));
                if !candidate.is_some_and(|c| c.standing == Standing::Alive && !c.draining) {
                    gateway.closed.insert(*place, now);
                }
            }
            gateway.pool.balancer().update(candidates, now.into_std());
        }
    }

    fn conclude(&mut self) -> Result<Summary, Broken> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        let mut summary =
            Summary { healed: self.healed, virtual_time: self.now - self.start, ..Summary::default() };
        for (place, record) in self.records.iter().enumerate() {
            record.check_runs().map_err(|Broken(what)| Broken(format!("call {place} {what}: {record:?}")))?;
            summary.calls += 1;
            summary.answers += usize::from(record.is_answered());
            summary.runs += record.runs.len();
            summary.repeats += record.repeats();
        }
        for (n, gateway) in &self.gateways {
            check_budget(&gateway.calls, &gateway.repeats).map_err(|Broken(what)| {
                Broken(format!("gateway {n} made {what}: {:?}", gateway.pool.counts()))
            })?;
        }
        summary.events = self.set;
        Ok(summary)
    }
}

/// The member list of a view, as a member's process makes it.
fn roster(view: &ClusterView) -> Roster {
    let rows = view.members.values().map(|member| {
        let state = member.state.clone().map(|state| MemberState {
            load: member.load,
            draining: member.draining,
            cordoned: member.cordoned,
            trust: member.trust,
            ..state
        });
        MemberRow {
            node: member.node,
            name: state.as_ref().map(|state| state.name.clone()).unwrap_or_default(),
            address: member.address,
            state: member.standing.as_str().to_owned(),
            role: state.as_ref().map(|state| state.role),
            member: state,
            seen_ms_ago: 0,
            in_flight: 0,
            p95_us: None,
            calls: 0,
            failures: 0,
            rests: None,
            ejections: std::collections::BTreeMap::new(),
            clock_ahead_ms: None,
            double: member.double,
        }
    });
    Roster::new(MembersResult { cluster: view.cluster, answered_by: view.own, members: rows.collect() })
}

fn number(node: NodeId) -> u8 {
    node.as_bytes()[0]
}

/// The last lines of a trace.
pub(crate) fn tail(trace: &[String], lines: usize) -> String {
    let mut text = String::new();
    for line in &trace[trace.len().saturating_sub(lines)..] {
        let _ = writeln!(text, "  {line}");
    }
    text
}

impl Summary {
    /// Both together.
    pub(crate) fn with(&self, other: &Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            answers: self.answers + other.answers,
            runs: self.runs + other.runs,
            repeats: self.repeats + other.repeats,
            events: self.events + other.events,
            healed: self.healed.max(other.healed),
            virtual_time: self.virtual_time + other.virtual_time,
        }
    }
}
