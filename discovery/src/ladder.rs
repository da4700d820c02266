//! Whom to dial, and when, until the cluster has us.
//!
//! Pure state: takes what is known and `now`, gives dials. Three sources name places to dial:
//!
//! ```text
//!   remembered members ┐             alone:      at once, then after 1 s, 2 s, 5 s, and every 10 s
//!   seeds              ├─► places    not alone:  every 60 s, the ones that were never reached
//!   mDNS hints         ┘             hints:      at once, then after 5 s, 10 s, ... 60 s, alone or not
//! ```
//!
//! The sources take turns, so that none can starve another: a flood of forged hints costs their own dials only.
//! A place is an address and who is expected there; each claim about an address stands for itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use lineside_wire::NodeId;
use rand::{RngExt, rngs::StdRng};
use tokio::time::Instant;

use crate::{
    MEMBERS_MAX,
    identity::{canonical, is_dialable},
};

/// Dials on their way at once.
pub(crate) const DIALS_MAX: usize = 4;

/// Members that hints may name. Anybody on the LAN can send hints.
pub(crate) const HINTS_MAX: usize = MEMBERS_MAX;
/// Addresses of one hinted member: a few interfaces, each with IPv4 and IPv6.
pub(crate) const HINT_ADDRESSES_MAX: usize = 8;
/// Between two dials of one address because of hints; doubles up to [`HINT_REST_MAX`].
const HINT_SPACING: Duration = Duration::from_secs(5);
const HINT_REST_MAX: Duration = Duration::from_secs(60);

/// Addresses at which our own id may live: copies of a disk are few. Any member, and anybody on the LAN, can name some.
pub(crate) const DOUBTS_MAX: usize = 8;
/// How long such an address is dialled after it was last named, or answered with our id.
const DOUBT_FOR: Duration = Duration::from_secs(60);
/// The rest of one that answered so: three dials before what is known of it is forgotten.
const DOUBLE_REST: Duration = Duration::from_secs(20);

/// The rests of a member that is alone.
const RUNGS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10)];
/// The rest of one that is not, before places that were never reached: a cluster in two parts finds together.
const SLOW_RUNG: Duration = Duration::from_secs(60);
/// Dials of a remembered member by one that is not alone: it may be gone for good.
const SLOW_TRIES_MAX: u32 = 10;

/// The rest of an address where somebody else was.
const QUARANTINE: Duration = Duration::from_secs(60);

/// An address, and who is wanted there; a seed is whoever answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Dial {
    pub(crate) address: SocketAddr,
    pub(crate) expect: Option<NodeId>,
}

/// Who answered a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Member(NodeId),
    /// Another machine that proved to have our own id.
    Double,
    /// A peer that is no member.
    NoMember,
    /// Somebody that we do not take, or that does not take us.
    Stranger,
    Nobody,
}

/// What a dial came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Reached,
    /// The address is our own, as in a list of seeds that all machines share.
    Ourselves,
    /// Another machine there has our own id.
    Double,
    WrongIdentity,
    NoMember,
    /// Nobody answered, so many times in a row.
    Failed(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Remembered,
    Seed,
    Hint,
}

#[derive(Debug)]
struct Place {
    seed: bool,
    remembered: bool,
    hinted: bool,
    /// Our own id may live there; until when that is believed.
    doubted: Option<Instant>,
    since: Instant,
    /// When the last dial ended.
    last: Option<Instant>,
    /// Dials since we were alone, or since the last that reached somebody.
    tries: u32,
    failures: u32,
    /// Of the next rest, so that machines switched on together do not dial in step.
    jitter: f64,
    rests_until: Option<Instant>,
    /// Who was there.
    reached: Option<NodeId>,
}

impl Place {
    fn new(since: Instant) -> Self {
        Self {
            seed: false,
            remembered: false,
            hinted: false,
            doubted: None,
            since,
            last: None,
            tries: 0,
            failures: 0,
            jitter: 1.0,
            rests_until: None,
            reached: None,
        }
    }

    /// The first of its sources.
    fn source(&self) -> Option<Source> {
        let sources = [
            (self.remembered, Source::Remembered),
            (self.seed, Source::Seed),
            (self.hinted || self.doubted.is_some(), Source::Hint),
        ];
        sources.into_iter().find_map(|(named, source)| named.then_some(source))
    }

    /// The rest before the next dial; `None` when there is none to come.
    fn rest(&self, alone: bool) -> Option<Duration> {
        let tried = usize::try_from(self.tries.saturating_sub(1)).unwrap_or(usize::MAX);
        let by_name = match (self.seed || self.remembered, alone) {
            (false, _) => None,
            (true, true) => Some(RUNGS[tried.min(RUNGS.len() - 1)]),
            (true, false) if self.reached.is_some() => None,
            (true, false) => (self.seed || self.tries < SLOW_TRIES_MAX).then_some(SLOW_RUNG),
        };
        let by_hint = (self.hinted || self.doubted.is_some()).then(|| {
            let doubled = HINT_SPACING.saturating_mul(1 << self.failures.saturating_sub(1).min(8));
            if self.doubted.is_some() && self.failures == 0 {
                DOUBLE_REST
            } else {
                doubled.min(HINT_REST_MAX)
            }
        });
        let rest = by_name.into_iter().chain(by_hint).min()?;
        // Jitter must not take a hint below its spacing.
        let floor = if by_name.is_none() { HINT_SPACING } else { Duration::ZERO };
        Some(rest.mul_f64(self.jitter).max(floor))
    }

    fn due(&self, alone: bool) -> Option<Instant> {
        let due = match self.last {
            None => self.since,
            Some(last) => last + self.rest(alone)?,
        };
        Some(self.rests_until.map_or(due, |until| due.max(until)))
    }
}

/// The places, and the dials on their way.
#[derive(Debug)]
pub(crate) struct Ladder {
    own: NodeId,
    own_address: SocketAddr,
    alone: bool,
    places: BTreeMap<Dial, Place>,
    flying: BTreeSet<Dial>,
    /// When addresses were last dialled, for as long as it matters to hints.
    dialled: BTreeMap<SocketAddr, Instant>,
    rng: StdRng,
}

impl Ladder {
    pub(crate) fn new(own: NodeId, own_address: SocketAddr, rng: StdRng) -> Self {
        Self {
            own,
            own_address: canonical(own_address),
            alone: true,
            places: BTreeMap::new(),
            flying: BTreeSet::new(),
            dialled: BTreeMap::new(),
            rng,
        }
    }

    /// Adds the addresses that a person gave. Their number is the configuration's.
    pub(crate) fn seeds(&mut self, seeds: &[SocketAddr], now: Instant) {
        for seed in seeds.iter().copied().filter(|seed| is_dialable(*seed)) {
            self.place(canonical(seed), None, now).seed = true;
        }
    }

    /// Takes in where members were last, in the place of what was remembered before.
    pub(crate) fn remember(&mut self, members: impl IntoIterator<Item = (NodeId, SocketAddr)>, now: Instant) {
        self.places.values_mut().for_each(|place| place.remembered = false);
        let own = self.own;
        for (node, address) in members.into_iter().filter(|(node, _)| *node != own).take(MEMBERS_MAX) {
            self.place(address, Some(node), now).remembered = true;
        }
        self.tidy();
    }

    /// Takes in where our own id is said to live, by whomever. Beyond [`DOUBTS_MAX`] addresses none is taken in: those
    /// that there are end by themselves.
    pub(crate) fn elsewhere(&mut self, addresses: &[SocketAddr], now: Instant) {
        self.end_doubts(now);
        let own = self.own;
        for address in addresses.iter().map(|address| canonical(*address)) {
            let known = self.places.contains_key(&Dial { address, expect: Some(own) });
            let full = DOUBTS_MAX <= self.places.values().filter(|place| place.doubted.is_some()).count();
            if is_dialable(address) && address != self.own_address && (known || !full) {
                self.place(address, Some(own), now).doubted = Some(now + DOUBT_FOR);
            }
        }
    }

    fn end_doubts(&mut self, now: Instant) {
        let doubted =
            self.places.values_mut().filter(|place| place.doubted.is_some_and(|until| until <= now));
        let ended = doubted.map(|place| place.doubted = None).count();
        if 0 < ended {
            self.tidy();
        }
    }

    /// Takes in where mDNS says that a member is. `false`: there are too many hints already.
    pub(crate) fn hint(&mut self, node: NodeId, addresses: &[SocketAddr], now: Instant) -> bool {
        if node == self.own {
            self.elsewhere(addresses, now);
            return true;
        }
        let known = self.is_hinted(node);
        if !known && HINTS_MAX <= self.hinted().len() && !self.forget_a_false_hint() {
            return false;
        }
        self.unhint(node);
        for address in addresses.iter().copied().filter(|a| is_dialable(*a)).take(HINT_ADDRESSES_MAX) {
            self.place(address, Some(node), now).hinted = true;
        }
        self.tidy();
        true
    }

    /// Takes in that mDNS no longer knows a member.
    pub(crate) fn hint_gone(&mut self, node: NodeId) {
        self.unhint(node);
        self.tidy();
    }

    /// Takes in that our own address changed.
    pub(crate) fn own_address(&mut self, address: SocketAddr) {
        let address = canonical(address);
        if self.own_address != address {
            self.own_address = address;
            // Where we were, another may be by now.
            let ours = self.places.values_mut().filter(|place| place.reached == Some(self.own));
            ours.for_each(|place| place.reached = None);
        }
    }

    /// Takes in whether anybody else takes part. Who has become alone, and is told so by `true`, begins at the first
    /// rung.
    pub(crate) fn alone(&mut self, alone: bool) -> bool {
        let left_alone = alone && !self.alone;
        if left_alone {
            self.places.values_mut().for_each(|place| place.tries = 0);
        }
        self.alone = alone;
        left_alone
    }

    /// The next dial that is due, until `None`. It counts as on its way until [`Self::ended`].
    pub(crate) fn next_dial(&mut self, is_active: impl Fn(NodeId) -> bool, now: Instant) -> Option<Dial> {
        self.end_doubts(now);
        if DIALS_MAX <= self.flying.len() {
            return None;
        }
        let due = self.waiting(is_active).filter(|(_, _, due)| *due <= now);
        let source_of = |dial: &Dial| self.places.get(dial).and_then(Place::source);
        let busy = |source| self.flying.iter().filter(|dial| source_of(dial) == Some(source)).count();
        let (dial, ..) = due.min_by_key(|(dial, place, due)| {
            let source = place.source().unwrap_or(Source::Hint);
            (busy(source), source, place.tries, *due, *dial)
        })?;
        self.flying.insert(dial);
        self.dialled.retain(|_, at| now < *at + HINT_SPACING);
        self.dialled.insert(dial.address, now);
        Some(dial)
    }

    /// When [`Self::next_dial`] is wanted; `None` when only another event can make one due.
    pub(crate) fn next_wake(&self, is_active: impl Fn(NodeId) -> bool) -> Option<Instant> {
        if DIALS_MAX <= self.flying.len() {
            return None;
        }
        self.waiting(is_active).map(|(_, _, due)| due).min()
    }

    /// Takes in how a dial ended.
    pub(crate) fn ended(&mut self, dial: Dial, answer: Answer, now: Instant) -> Verdict {
        self.flying.remove(&dial);
        self.dialled.insert(dial.address, now);
        let jitter = self.rng.random_range(0.8..1.2);
        let own = self.own;
        let Some(place) = self.places.get_mut(&dial) else { return judge(dial, answer, own, 1) };
        place.last = Some(now);
        place.jitter = jitter;
        place.tries = place.tries.saturating_add(1);
        place.failures = place.failures.saturating_add(1);
        let verdict = judge(dial, answer, own, place.failures);
        match (verdict, answer) {
            (Verdict::Reached, Answer::Member(node)) => {
                (place.failures, place.reached) = (0, Some(node));
                self.reached(node, now);
            }
            (Verdict::Ourselves, _) => place.reached = Some(own),
            (Verdict::Double, _) => place.failures = 0,
            (Verdict::WrongIdentity | Verdict::NoMember, _) => place.rests_until = Some(now + QUARANTINE),
            (Verdict::Reached | Verdict::Failed(_), _) => {}
        }
        self.tidy();
        verdict
    }

    /// The other places of somebody who was just reached can wait until it is in the cluster.
    fn reached(&mut self, node: NodeId, now: Instant) {
        for (_, place) in self.places.iter_mut().filter(|(dial, _)| dial.expect == Some(node)) {
            place.last = Some(now);
            place.tries = place.tries.max(1);
        }
    }

    /// The places that may be dialled at some time, and when.
    fn waiting(&self, is_active: impl Fn(NodeId) -> bool) -> impl Iterator<Item = (Dial, &Place, Instant)> {
        // Whoever has our id is looked for although we are here.
        let own = self.own;
        let is_there = move |node: Option<NodeId>| node.is_some_and(|node| node != own && is_active(node));
        self.places.iter().filter_map(move |(dial, place)| {
            let ours = dial.address == self.own_address || place.reached == Some(self.own);
            let flies = self.flying.iter().any(|other| {
                other.address == dial.address || dial.expect.is_some() && other.expect == dial.expect
            });
            if ours || flies || is_there(dial.expect) || is_there(place.reached) {
                return None;
            }
            let mut due = place.due(self.alone)?;
            if place.source() == Some(Source::Hint) {
                // Whoever names an address, and however often: it gets one dial per so many seconds.
                due = self.dialled.get(&dial.address).map_or(due, |at| due.max(*at + HINT_SPACING));
            }
            Some((*dial, place, due))
        })
    }

    fn place(&mut self, address: SocketAddr, expect: Option<NodeId>, now: Instant) -> &mut Place {
        self.places.entry(Dial { address, expect }).or_insert_with(|| Place::new(now))
    }

    fn is_hinted(&self, node: NodeId) -> bool {
        self.places.iter().any(|(dial, place)| place.hinted && dial.expect == Some(node))
    }

    fn hinted(&self) -> BTreeSet<NodeId> {
        let hinted = self.places.iter().filter(|(_, place)| place.hinted);
        hinted.filter_map(|(dial, _)| dial.expect).collect()
    }

    fn unhint(&mut self, node: NodeId) {
        let of_node = self.places.iter_mut().filter(|(dial, _)| dial.expect == Some(node));
        of_node.for_each(|(_, place)| place.hinted = false);
    }

    /// Makes room for a hint that may be true: the one that failed most often goes.
    fn forget_a_false_hint(&mut self) -> bool {
        let failed = self.places.iter().filter(|(_, p)| p.hinted && p.reached.is_none() && 0 < p.failures);
        let worst = failed.max_by_key(|(_, place)| place.failures).and_then(|(dial, _)| dial.expect);
        worst.map(|node| self.unhint(node)).is_some()
    }

    /// Drops places that nobody names any more. Naming one again at once does not make it due at once: the time of
    /// the last dial is kept by address.
    fn tidy(&mut self) {
        let flying = &self.flying;
        self.places.retain(|dial, place| place.source().is_some() || flying.contains(dial));
    }
}

fn judge(dial: Dial, answer: Answer, own: NodeId, failures: u32) -> Verdict {
    match answer {
        Answer::Member(node) if node == own => Verdict::Ourselves,
        Answer::Double => Verdict::Double,
        Answer::Member(node) if dial.expect.is_some_and(|expected| expected != node) => {
            Verdict::WrongIdentity
        }
        Answer::Member(_) => Verdict::Reached,
        Answer::NoMember => Verdict::NoMember,
        Answer::Stranger => Verdict::WrongIdentity,
        Answer::Nobody => Verdict::Failed(failures),
    }
}

#[cfg(test)]
mod tests;
