//! When what breaks, and when it is mended. Pure: the same seed gives the same schedule.
//!
//! Two faults run at most at a time. Of the four nodes two stay whole, of the two gateways one; a member that was broken
//! has some seconds of peace before it is chosen again, so that it can come back. At the end everything is mended.

use std::{fmt, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde::{Serialize, Serializer};

/// The machines that run models.
pub(super) const NODES: [&str; 4] = ["press", "weld", "paint", "drill"];
/// The doors.
pub(super) const GATEWAYS: [&str; 2] = ["north", "south"];

/// Faults that run at one time.
pub(super) const FAULTS_AT_ONCE_MAX: usize = 2;
/// Gateways that may be broken at one time: the other one has to do.
const GATEWAYS_BROKEN_MAX: usize = GATEWAYS.len() - 1;

/// Traffic before the first fault: what calm looks like.
const CALM_FIRST: Duration = Duration::from_secs(3);
/// Traffic after the last one.
const CALM_LAST: Duration = Duration::from_secs(5);
/// Peace for a member that was mended.
const REST: Duration = Duration::from_secs(6);
/// Between two faults of one lane.
const GAP: [Duration; 2] = [Duration::from_millis(800), Duration::from_secs(4)];

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Pause,
    /// SIGTERM, and a new start: one step of a rolling restart.
    Restart,
    /// No new work by an operator's order, and back.
    Cordon,
    /// Packets are lost, doubled and overtake each other, in both directions.
    Lossy,
    /// Packets take long.
    Slow,
    /// Nothing reaches it by the connections that others have dialled; what it says goes out.
    Deaf,
    /// Nothing that it says on them arrives.
    Mute,
    /// Neither.
    Cut,
    /// Three times the load.
    Burst,
    /// Clients that go away in the middle of their requests.
    HangUps,
}

impl Kind {
    /// All there are.
    pub(super) const ALL: [Self; 11] = [
        Self::Kill,
        Self::Pause,
        Self::Restart,
        Self::Cordon,
        Self::Lossy,
        Self::Slow,
        Self::Deaf,
        Self::Mute,
        Self::Cut,
        Self::Burst,
        Self::HangUps,
    ];

    /// Its name in the report.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Restart => "restart",
            Self::Cordon => "cordon",
            Self::Lossy => "lossy",
            Self::Slow => "slow",
            Self::Deaf => "deaf",
            Self::Mute => "mute",
            Self::Cut => "cut",
            Self::Burst => "burst",
            Self::HangUps => "hang-ups",
        }
    }

    /// For how long, at least and at most, in milliseconds.
    const fn lasts_ms(self) -> [u64; 2] {
        match self {
            // Until it is started again.
            Self::Kill => [200, 4_000],
            Self::Pause => [500, 10_000],
            // It ends by itself; this is when it is started again at the soonest.
            Self::Restart => [3_000, 4_000],
            Self::Cordon => [1_000, 5_000],
            Self::Lossy | Self::Slow | Self::Deaf | Self::Mute | Self::Cut => [1_000, 8_000],
            Self::Burst => [3_000, 6_000],
            Self::HangUps => [2_000, 6_000],
        }
    }

    /// Whom it may happen to.
    const fn victims(self) -> Victims {
        match self {
            Self::Burst | Self::HangUps => Victims::Nobody,
            Self::Cordon => Victims::Nodes,
            Self::Kill
            | Self::Pause
            | Self::Restart
            | Self::Lossy
            | Self::Slow
            | Self::Deaf
            | Self::Mute
            | Self::Cut => Victims::Members,
        }
    }
}

enum Victims {
    Nobody,
    Nodes,
    Members,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Fault {
    /// From the first request on.
    #[serde(rename = "at_ms", serialize_with = "millis")]
    pub(super) at: Duration,
    /// Until it is mended.
    #[serde(rename = "lasts_ms", serialize_with = "millis")]
    pub(super) lasts: Duration,
    /// What.
    pub(super) kind: Kind,
    /// To whom.
    pub(super) member: Option<&'static str>,
    /// How bad: percent of packets lost, or milliseconds of delay.
    pub(super) strength: u32,
}

fn millis<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(time.as_millis())
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind.as_str())?;
        if let Some(member) = self.member {
            write!(f, " {member}")?;
        }
        match self.kind {
            Kind::Lossy => write!(f, " ({} % lost)", self.strength),
            Kind::Slow => write!(f, " ({} ms late)", self.strength),
            _ => Ok(()),
        }
    }
}

impl Fault {
    const fn end(&self) -> Duration {
        self.at.saturating_add(self.lasts)
    }

    /// Whether a member that this happened to is not whole, or not yet again, at some time from then on.
    fn is_felt_at(&self, then: Duration) -> bool {
        then < self.end() + REST
    }
}

/// All faults, by their beginning.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Schedule {
    /// They.
    pub(super) faults: Vec<Fault>,
    /// When there is enough.
    pub(super) length: Duration,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The fault of this index begins.
    Break(usize),
    /// It is mended.
    Mend(usize),
}

impl Schedule {
    /// Draws the faults of a run.
    pub(super) fn draw(seed: u64, length: Duration) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let last = length.saturating_sub(CALM_LAST);
        let mut faults: Vec<Fault> = Vec::new();
        // Each kind comes once before one comes twice.
        let mut deck: Vec<Kind> = Vec::new();
        let mut lanes = [CALM_FIRST; FAULTS_AT_ONCE_MAX];
        loop {
            // The lane that is free first: so faults are drawn in the order in which they begin.
            let lane = if lanes[0] <= lanes[1] { 0 } else { 1 };
            let at = lanes[lane] + random.random_range(Duration::ZERO..=GAP[1] - GAP[0]);
            if last <= at {
                break;
            }
            if deck.is_empty() {
                deck.extend(Kind::ALL);
                deck.shuffle(&mut random);
            }
            let fault = deck.pop().and_then(|kind| choose(&mut random, kind, at, last, &faults));
            lanes[lane] = fault.as_ref().map_or(at, Fault::end) + GAP[0];
            faults.extend(fault);
        }
        faults.sort_by_key(|fault| fault.at);
        Self { faults, length }
    }

    /// What is done when, in order.
    pub(super) fn steps(&self) -> Vec<(Duration, Step)> {
        let of = |(index, fault): (usize, &Fault)| {
            [(fault.at, Step::Break(index)), (fault.end(), Step::Mend(index))]
        };
        let mut steps: Vec<_> = self.faults.iter().enumerate().flat_map(of).collect();
        steps.sort_by_key(|(at, _)| *at);
        steps
    }
}

/// One fault of a kind, if somebody is there whom it may happen to now.
fn choose(random: &mut StdRng, kind: Kind, at: Duration, last: Duration, faults: &[Fault]) -> Option<Fault> {
    let [least, most] = kind.lasts_ms();
    let lasts = Duration::from_millis(random.random_range(least..=most)).min(last.saturating_sub(at));
    if lasts < Duration::from_millis(least) {
        return None;
    }
    let strength = match kind {
        Kind::Lossy => random.random_range(5..=30),
        Kind::Slow => random.random_range(20..=120),
        _ => 0,
    };
    let broken: Vec<&str> =
        faults.iter().filter(|fault| fault.is_felt_at(at)).filter_map(|fault| fault.member).collect();
    let gateways_broken = GATEWAYS.iter().filter(|name| broken.contains(name)).count();
    let mut free: Vec<&'static str> = match kind.victims() {
        Victims::Nobody => return Some(Fault { at, lasts, kind, member: None, strength }),
        Victims::Nodes => NODES.into(),
        Victims::Members if gateways_broken < GATEWAYS_BROKEN_MAX => [&NODES[..], &GATEWAYS[..]].concat(),
        Victims::Members => NODES.into(),
    };
    free.retain(|name| !broken.contains(name));
    let nodes_broken = NODES.iter().filter(|name| broken.contains(name)).count();
    if FAULTS_AT_ONCE_MAX <= nodes_broken {
        free.retain(|name| GATEWAYS.contains(name));
    }
    if free.is_empty() {
        return None;
    }
    let member = Some(free[random.random_range(0..free.len())]);
    Some(Fault { at, lasts, kind, member, strength })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: Duration = Duration::from_secs(300);

    #[test]
    fn one_seed_gives_one_schedule_and_another_seed_another() {
        assert_eq!(Schedule::draw(7, MINUTES), Schedule::draw(7, MINUTES));
        assert_ne!(Schedule::draw(7, MINUTES), Schedule::draw(8, MINUTES));
    }

    #[test]
    fn enough_stays_whole_at_every_moment() {
        for seed in 0..500 {
            let Schedule { faults, .. } = Schedule::draw(seed, MINUTES);
            for fault in &faults {
                let at_once = |other: &&Fault| other.at <= fault.at && fault.at < other.end();
                assert!(faults.iter().filter(at_once).count() <= FAULTS_AT_ONCE_MAX, "seed {seed}");
                // Counted with their rest, so that a member that comes back slowly is no member yet.
                let felt = faults.iter().filter(|other| other.at <= fault.at && other.is_felt_at(fault.at));
                let broken: Vec<_> = felt.filter_map(|other| other.member).collect();
                let of = |names: &[&str]| broken.iter().filter(|name| names.contains(name)).count();
                assert!(of(&NODES) <= 2 && of(&GATEWAYS) <= 1, "seed {seed}: {broken:?}");
                let mut once = broken.clone();
                once.sort_unstable();
                once.dedup();
                assert_eq!(once.len(), broken.len(), "seed {seed}: nobody is broken twice at a time");
            }
        }
    }

    #[test]
    fn everything_is_mended_before_the_end() {
        for (seed, seconds) in (0..200).flat_map(|seed| [1, 10, 20, 60, 600].map(|seconds| (seed, seconds))) {
            let schedule = Schedule::draw(seed, Duration::from_secs(seconds));
            let steps = schedule.steps();
            assert_eq!(steps.len(), schedule.faults.len() * 2);
            for (index, fault) in schedule.faults.iter().enumerate() {
                let place = |step| steps.iter().position(|(_, there)| *there == step).expect("a step");
                assert!(place(Step::Break(index)) < place(Step::Mend(index)));
                assert!(fault.end() + CALM_LAST <= schedule.length, "seed {seed}, {seconds} s");
            }
        }
    }

    #[test]
    fn in_ten_minutes_every_kind_happens_to_nodes_and_to_gateways() {
        let Schedule { faults, .. } = Schedule::draw(1, Duration::from_secs(600));
        for kind in Kind::ALL {
            assert!(3 <= faults.iter().filter(|fault| fault.kind == kind).count(), "{kind:?}");
        }
        let of = |names: &[&str]| {
            faults.iter().filter(|fault| fault.member.is_some_and(|name| names.contains(&name))).count()
        };
        assert!(10 <= of(&NODES) && 5 <= of(&GATEWAYS), "{} {}", of(&NODES), of(&GATEWAYS));
    }
}
