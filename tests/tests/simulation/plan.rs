//! What a seed means: the cluster, its load, and what goes wrong when.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{node::Manner, sky::Faults};

/// Something that goes wrong for a while.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// The whole network loses, doubles and reorders packets.
    Weather(Faults),
    /// Two parts cannot reach each other.
    Parted(BTreeSet<u8>),
    /// Packets of one direction between two members are lost.
    OneWay { from: u8, to: u8 },
    /// SIGSTOP, and SIGCONT at the end.
    Pause(u8),
    /// SIGKILL, and a start at the end that remembers its peers.
    Crash(u8),
    /// The same, and the count of its starts is lost.
    Amnesia(u8),
    /// A node serves badly.
    Manner(u8, Manner),
    /// SIGTERM: it finishes what runs, says goodbye, and starts again at the end.
    Drain(u8),
    /// One member tells others that a third is dead, again and again.
    Slander { by: u8, about: u8 },
    /// So many times the usual load.
    Rush(u32),
}

impl Trouble {
    /// The member that it happens to, if it is one: two troubles of one member do not meet.
    fn whom(&self) -> Option<u8> {
        match self {
            Self::Pause(n) | Self::Crash(n) | Self::Amnesia(n) | Self::Manner(n, _) | Self::Drain(n) => {
                Some(*n)
            }
            Self::Weather(_)
            | Self::Parted(_)
            | Self::OneWay { .. }
            | Self::Slander { .. }
            | Self::Rush(_) => None,
        }
    }

    fn kind(&self) -> std::mem::Discriminant<Self> {
        std::mem::discriminant(self)
    }
}

/// A trouble, when it begins and when it ends.
#[derive(Clone, Debug)]
pub(crate) struct Spell {
    pub(crate) begins: Duration,
    pub(crate) ends: Duration,
    pub(crate) trouble: Trouble,
}

/// One node as it is bought: slots, and the time of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) slots: usize,
    pub(crate) run: Duration,
}

/// A defect that is planted, to see whether the checker finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// A request that arrives a second time runs a second time.
    RunsTwice,
    /// A node answers what it never ran.
    AnswersWithoutRun,
    /// A node answers something else.
    AnswersWrong,
    /// A node says that nothing ran, after it ran.
    DeniesRuns,
    /// The gateways see everybody alive, and try once.
    KeepsTheDead,
    /// A call that fails is never told so.
    LosesCalls,
    /// The budget is new for every call.
    NoBudget,
    /// A bar never ends.
    BarsForEver,
}

/// All that happens in one run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Members 1 to this many are nodes; gateways follow.
    pub(crate) nodes: Vec<Machine>,
    pub(crate) gateways: u8,
    pub(crate) fast: bool,
    pub(crate) hedge: bool,
    /// Calls per second, all gateways together.
    pub(crate) rate: f64,
    pub(crate) sequences: usize,
    pub(crate) spells: Vec<Spell>,
    /// When all troubles are over.
    pub(crate) calm_at: Duration,
    pub(crate) defect: Option<Defect>,
}

/// The cluster forms in peace.
pub(crate) const FORMING: Duration = Duration::from_secs(3);

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        // Large clusters cost most of the time and seldom show more.
        let members: u8 = match rng.random_range(0..20) {
            0..14 => rng.random_range(3..6),
            14..19 => rng.random_range(6..9),
            _ => rng.random_range(9..13),
        };
        let gateways = rng.random_range(1..=3.min(members - 2));
        let machine = |rng: &mut StdRng| Machine {
            slots: rng.random_range(1..=4),
            run: Duration::from_millis(rng.random_range(4..60)),
        };
        let nodes: Vec<Machine> = (0..members - gateways).map(|_| machine(&mut rng)).collect();
        let capacity: f64 = nodes.iter().map(|m| m.slots as f64 / m.run.as_secs_f64()).sum();
        let length = Duration::from_millis(rng.random_range(4_000..11_000));
        let mut plan = Self {
            seed,
            nodes,
            gateways,
            fast: rng.random_bool(0.5),
            hedge: rng.random_bool(0.3),
            rate: (capacity * 0.4).min(rng.random_range(12.0..30.0)),
            sequences: rng.random_range(0..3),
            spells: Vec::new(),
            calm_at: FORMING + length,
            defect: None,
        };
        for _ in 0..rng.random_range(1..6) {
            let trouble = plan.trouble(&mut rng);
            plan.add(trouble, &mut rng);
        }
        plan
    }

    pub(crate) fn members(&self) -> u8 {
        u8::try_from(self.nodes.len()).expect("a few nodes") + self.gateways
    }

    pub(crate) fn is_node(&self, n: u8) -> bool {
        usize::from(n) <= self.nodes.len()
    }

    fn trouble(&self, rng: &mut StdRng) -> Trouble {
        let (members, nodes) = (self.members(), self.members() - self.gateways);
        let any = |rng: &mut StdRng| rng.random_range(1..=members);
        let node = |rng: &mut StdRng| rng.random_range(1..=nodes);
        match rng.random_range(0..22) {
            0..3 => Trouble::Weather(Faults {
                lost: *[0.01, 0.05, 0.2].choose(rng).expect("some"),
                doubled: rng.random_range(0.0..0.2),
                late: rng.random_range(0.0..0.3),
            }),
            3..5 => Trouble::Parted((1..=members).filter(|_| rng.random_bool(0.5)).collect()),
            5..7 => {
                let from = any(rng);
                let to = (1..=members).filter(|to| *to != from).collect::<Vec<_>>();
                Trouble::OneWay { from, to: *to.choose(rng).expect("more than one member") }
            }
            7..10 => Trouble::Pause(node(rng)),
            10..13 => Trouble::Crash(any(rng)),
            13 => Trouble::Amnesia(any(rng)),
            14..17 => {
                let manners = [Manner::Slow(10), Manner::FailsFast, Manner::Broken, Manner::Hangs];
                Trouble::Manner(node(rng), *manners.choose(rng).expect("some"))
            }
            17..19 => Trouble::Drain(node(rng)),
            19..21 => {
                let by = any(rng);
                let about = (1..=members).filter(|about| *about != by).collect::<Vec<_>>();
                Trouble::Slander { by, about: *about.choose(rng).expect("more than one member") }
            }
            _ => Trouble::Rush(rng.random_range(4..10)),
        }
    }

    /// Places a trouble, unless it meets another of the same member or the same kind.
    fn add(&mut self, trouble: Trouble, rng: &mut StdRng) {
        let last = u64::try_from(self.calm_at.as_millis()).expect("seconds") - 300;
        let first = u64::try_from(FORMING.as_millis()).expect("seconds");
        let begins = rng.random_range(first..last - 200);
        let longest = match trouble {
            Trouble::Rush(_) => 1_000,
            _ => last - begins,
        };
        let length = rng.random_range(100..=longest.max(101));
        let (begins, ends) = (Duration::from_millis(begins), Duration::from_millis(begins + length));
        let meets = |other: &Spell| {
            let same = match (trouble.whom(), other.trouble.whom()) {
                (Some(a), Some(b)) => a == b,
                (None, None) => trouble.kind() == other.trouble.kind(),
                _ => false,
            };
            same && begins <= other.ends && other.begins <= ends
        };
        if !self.spells.iter().any(meets) {
            self.spells.push(Spell { begins, ends, trouble });
        }
    }
}
