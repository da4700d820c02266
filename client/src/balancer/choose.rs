//! Which peer gets a call: one pass over all of them, without a lock and without taking memory.
//!
//! ```text
//!   calls    = own calls in flight + calls of others, as last reported
//!   capacity = slots * weight * slow start
//!   fullness = (calls + 1/2) / capacity
//!   times    = time of a call there / time of a call on a usual peer
//!   score    = min(fullness, 1) * fourth root of times + max(fullness - 1, 0) * times           the lowest is leased
//! ```
//!
//! While slots are free, peers are filled evenly, which gives each a share in proportion to what it can do: who takes twice
//! as long for a call has half as many with as many in flight. Once they queue, the one whose queue is done first gets the
//! next. Only to ask who is done first would leave a slow peer idle until the fast ones have queues that are as long as
//! its calls: with all of them half at work, it would have half of its share, or none.
//!
//! The half of a call makes the shares of small and large peers fair: with none at all the small ones would get too much,
//! with a whole one too little. The root makes up for what a gateway knows too late: that a fast peer is free again, it
//! hears only from its own calls. It was found by simulation (`tests/truth.rs`), where it brings shares within a tenth.
//!
//! Of peers with the same score, the one has its turn that had the least work for what it can do.

use crate::candidate::{Candidate, Fit};

use super::{Entry, Policy, Rest, affinity};

/// Scores are whole numbers; this keeps six digits behind the point.
const ONE: u64 = 1 << 20;

/// Percent of weight times percent of slow start.
const WHOLE: u64 = 100 * 100;

/// Calls that make a difference: no queue is longer, and no product overflows.
const CALLS_MAX: u64 = 1 << 24;

/// Slots and percent of weight that make a difference: what a node can be set to. Who says that it has more, lies or is
/// defect, and draws no more calls than who has as many.
pub(super) const SLOTS_MAX: u32 = 256;
/// The same.
pub(super) const WEIGHT_MAX: u16 = 1_000;

/// The longest call time beside the usual one that makes a difference, and the shortest: what a peer says of itself can
/// push calls away, or draw them, only so far.
const TIMES_MAX: u64 = 1 << 10;

/// While most peers rest, one whose calls broke is asked again after so many microseconds, whatever its bar: more often
/// would make callers wait for who is gone, and so is little lost.
const PANIC_PAUSE: u64 = 1_000_000;

/// How long a turn is where nobody has said how long a call takes.
const TURN_US: u64 = 1_000;

/// Turns that a peer can be ahead of the others.
const DEBT_TURNS: u64 = 4;

/// Turns are whole numbers, too; a turn's inverse is a part of this.
const ROUND: u64 = 1 << 50;

/// Turns go no further. Where calls take as long as is said of them they take centuries to come here; a peer that says that
/// they take a minute, and answers at once, brings them here in an hour, and then all take turns as if they could do alike.
pub(super) const TURNS_MAX: u64 = 1 << 62;

/// What every choice of one call has in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: u64,
    /// Time of a call on a usual peer, in microseconds; 0 while nobody said.
    pub(super) typical_us: u64,
    /// Its [`fourth_root`].
    pub(super) typical_root: u64,
    /// How long a slow start takes, in microseconds.
    pub(super) slow_start: u64,
    /// A number that this lease has drawn, below a hundred times the number of peers.
    pub(super) lot: u64,
    /// The turn that is on, for peers that take turns.
    pub(super) turn: u64,
}

/// The fourth root of a time of at most [`CALL_US_MAX`](super::peer::CALL_US_MAX), in parts of 2^8.
pub(super) const fn fourth_root(us: u64) -> u64 {
    (us << 32).isqrt().isqrt()
}

/// By what the peer is chosen.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    /// How full it is.
    Load,
    /// Whose turn it is; weighted, those that can do more have more of them.
    Turn { weighted: bool },
    /// How full it is, of two that are drawn by this number.
    Two(u64),
    /// The order of an affinity, by its hash.
    Affinity(u64),
}

impl By {
    pub(super) fn of(policy: Policy, affinity: Option<&str>, draw: impl FnOnce() -> u64) -> Self {
        match (policy, affinity) {
            (_, Some(affinity)) => Self::Affinity(affinity::hash(affinity)),
            (Policy::LeastLoad | Policy::Rendezvous, None) => Self::Load,
            (Policy::RoundRobin, None) => Self::Turn { weighted: false },
            (Policy::WeightedRoundRobin, None) => Self::Turn { weighted: true },
            (Policy::PowerOfTwo, None) => Self::Two(draw()),
        }
    }
}

/// In which order peers are chosen: the smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Full, silent or suspect: only when nobody else is left.
    last_choice: bool,
    score: u64,
    /// When its turn begins, where scores are the same.
    turn: u64,
    last_leased: u64,
}

/// Who gets the call, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    pub(super) entry: &'a Entry,
    /// It is the one call that a probation allows.
    pub(super) on_probation: bool,
    /// It is barred, and most others are, too.
    pub(super) in_panic: bool,
    /// When its turn ends.
    pub(super) turn_ends: u64,
    /// By how much the turn moves on that is on.
    pub(super) moves_on: u64,
}

/// The best of those that were looked at.
#[derive(Clone, Copy, Debug)]
struct Best<'a>(Option<(Rank, &'a Entry)>);

impl<'a> Best<'a> {
    /// Takes in one more, and gives back who is no longer the best.
    fn meet(&mut self, rank: Rank, entry: &'a Entry) -> Option<(Rank, &'a Entry)> {
        match self.0 {
            Some((least, _)) if least <= rank => Some((rank, entry)),
            _ => self.0.replace((rank, entry)),
        }
    }
}

/// What one pass over the peers has found.
struct Found<'a> {
    /// Of those that do not rest.
    best: Best<'a>,
    second: Best<'a>,
    /// One that may show with one call that it is back.
    back: Option<&'a Entry>,
    /// Of those that are barred, but help where most are.
    panic: Best<'a>,
    /// Whose bar ends first, of those that rest.
    resting: Option<((u64, Rank), &'a Entry)>,
    could: usize,
    barred: usize,
    all_rest: bool,
    /// What all that do not rest can do.
    turns: u64,
}

/// The peer for a call among those that can take it and are not `is_out`. `asks_back`: whether the call may be the one
/// that shows whether a peer is back, wherever else it could go.
pub(super) fn choose<'a>(
    entries: &'a [Entry],
    by: By,
    fit: impl Fn(&Candidate) -> Fit,
    is_out: impl Fn(&Entry) -> bool,
    asks_back: bool,
    moment: Moment,
) -> Option<Choice<'a>> {
    let found = look(entries, by, fit, is_out, asks_back, moment);
    let choice = |entry: &'a Entry, on_probation, in_panic| {
        let start = entry.peer.turn_ends().max(moment.turn);
        let length = Size::of(entry, by, moment).turn;
        // Who is asked more often for its score does not pay for it later.
        let turn_ends = (start + length).min(moment.turn + DEBT_TURNS * length);
        let moves_on = if moment.turn < TURNS_MAX { ROUND / found.turns.max(1) } else { 0 };
        Choice { entry, on_probation, in_panic, turn_ends, moves_on }
    };
    let best = better_of_two(by, found.best, found.second, moment);
    // More than half of those that could serve are barred: the rest would drown in their work.
    let is_panic = 2 * (found.could - found.barred) < found.could;
    if let (true, Some((rank, entry))) = (is_panic, found.panic.0)
        && best.is_none_or(|(least, _)| rank < least)
    {
        return Some(choice(entry, !entry.peer.rest().is_judged(), true));
    }
    if let Some(entry) = found.back {
        return Some(choice(entry, true, false));
    }
    match (best, found.resting) {
        (Some((_, entry)), _) => Some(choice(entry, entry.peer.is_on_probation(), false)),
        // Bars never close the last.
        (None, Some((_, entry))) if found.all_rest => Some(choice(entry, false, true)),
        (None, _) => None,
    }
}

fn look<'a>(
    entries: &'a [Entry],
    by: By,
    fit: impl Fn(&Candidate) -> Fit,
    is_out: impl Fn(&Entry) -> bool,
    asks_back: bool,
    moment: Moment,
) -> Found<'a> {
    let now = moment.now;
    let mut found = Found {
        best: Best(None),
        second: Best(None),
        back: None,
        panic: Best(None),
        resting: None,
        could: 0,
        barred: 0,
        all_rest: true,
        turns: 0,
    };
    for (at, entry) in (0..).zip(entries) {
        let (candidate, peer) = (&entry.candidate, &entry.peer);
        if !candidate.is_open() {
            continue;
        }
        let fit = fit(candidate);
        if !matches!(fit, Fit::Ready | Fit::OnDemand) {
            continue;
        }
        let (is_barred, rests) = (peer.is_barred(now), peer.rests(now));
        found.could += 1;
        found.barred += usize::from(is_barred);
        found.all_rest &= rests;
        if is_out(entry) {
            continue;
        }
        let size = Size::of(entry, by, moment);
        let mut rank = rank(entry, by, at, size, moment);
        // Loading takes longer than any queue of those that have loaded it.
        rank.last_choice |= fit == Fit::OnDemand;
        if rests {
            let key = (peer.barred_until(), rank);
            if found.resting.is_none_or(|(least, _)| key < least) {
                found.resting = Some((key, entry));
            }
            if is_barred && helps_in_panic(entry, now) {
                found.panic.meet(rank, entry);
            }
            continue;
        }
        if asks_back && found.back.is_none() && !rank.last_choice && peer.is_on_probation() {
            found.back = Some(entry);
        }
        found.turns += ROUND / size.turn;
        if let Some((rank, entry)) = found.best.meet(rank, entry) {
            found.second.meet(rank, entry);
        }
    }
    found
}

/// One that answers helps, however badly. One that does not is asked now and then, with one call.
fn helps_in_panic(entry: &Entry, now: u64) -> bool {
    let peer = &entry.peer;
    match peer.rest() {
        Rest::Errors | Rest::SuccessRate | Rest::Latency => true,
        Rest::Broken | Rest::Leaving => peer.is_idle() && peer.barred_at() + PANIC_PAUSE <= now,
    }
}

/// Of two that were drawn, the one with less to do.
fn better_of_two<'a>(by: By, first: Best<'a>, second: Best<'a>, moment: Moment) -> Option<(Rank, &'a Entry)> {
    let (By::Two(_), Some((one, a)), Some((other, b))) = (by, first.0, second.0) else { return first.0 };
    let by_load =
        |drawn: Rank, entry| Rank { score: fullness(entry, Size::of(entry, by, moment), moment), ..drawn };
    let (one, other) = (by_load(one, a), by_load(other, b));
    Some(if other < one { (other, b) } else { (one, a) })
}

fn rank(entry: &Entry, by: By, at: u64, size: Size, moment: Moment) -> Rank {
    let (candidate, peer) = (&entry.candidate, &entry.peer);
    let is_known = candidate.load.is_some() || peer.has_answered();
    let is_suspect = candidate.standing == crate::Standing::Suspect;
    let now = moment.now;
    let score = match by {
        By::Load => fullness(entry, size, moment),
        By::Turn { .. } => 0,
        By::Two(draw) => drawn(draw, at, size.turn),
        By::Affinity(hash) => affinity::place_of(hash, entry, size.share),
    };
    Rank {
        last_choice: is_suspect || !is_known || peer.counts_as_full(now) || peer.is_silent(now),
        score,
        turn: peer.turn_ends().max(moment.turn),
        last_leased: peer.last_leased(),
    }
}

/// What a peer gets of its share while it starts slowly, in percent. Where the others have nothing to do either, less than
/// all would be nothing: so for as many calls as are its share then, it is looked at as if it were as warm as they are.
fn share(entry: &Entry, moment: Moment) -> u64 {
    match entry.peer.slow_start(moment.slow_start, moment.now) {
        share if share <= moment.lot => share,
        _ => 100,
    }
}

/// What a peer can do, looked up once for each lease.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// See [`share`].
    share: u64,
    /// Slots by weight and slow start; [`WHOLE`] of it is a slot.
    capacity: u64,
    /// See [`length_of_turn`].
    turn: u64,
}

impl Size {
    fn of(entry: &Entry, by: By, moment: Moment) -> Self {
        let Candidate { slots, weight, .. } = entry.candidate;
        let share = share(entry, moment);
        let capacity = u64::from(slots.clamp(1, SLOTS_MAX)) * u64::from(weight.clamp(1, WEIGHT_MAX)) * share;
        Self { share, capacity, turn: length_of_turn(entry, by, share, capacity, moment) }
    }
}

/// How full it is, and beyond that how long its queue takes.
fn fullness(entry: &Entry, size: Size, moment: Moment) -> u64 {
    let calls = entry.peer.load(moment.now).min(CALLS_MAX);
    let full = (2 * calls + 1) * ONE * (WHOLE / 2) / size.capacity;
    let (call_us, typical_us) = (entry.peer.call_us(), moment.typical_us);
    if call_us == 0 || typical_us == 0 {
        return full;
    }
    let free = full.min(ONE) * entry.peer.call_root() / moment.typical_root.max(1);
    if full <= ONE {
        return free;
    }
    // Within 2^-10 and 2^10, as a number of 2^-10.
    let times = (call_us * TIMES_MAX / typical_us).clamp(1, TIMES_MAX * TIMES_MAX);
    free + (full - ONE).min(1 << 43) * times / TIMES_MAX
}

/// How long a turn is: short for who can do much. The one whose last turn ends first has the next, but nobody saves turns
/// up: who was not asked for a while is not asked more often for it.
fn length_of_turn(entry: &Entry, by: By, share: u64, capacity: u64, moment: Moment) -> u64 {
    if matches!(by, By::Turn { weighted: false }) {
        return ONE * 100 / share;
    }
    let known = [entry.peer.call_us(), moment.typical_us, TURN_US].into_iter().find(|us| *us != 0);
    (known.unwrap_or(TURN_US) * WHOLE * (1 << 10) / capacity).max(1)
}

/// A place in a draw in which everyone has a chance in proportion to what he can do: the smallest wins.
fn drawn(draw: u64, at: u64, turn: u64) -> u64 {
    affinity::weighed(super::mixed(draw.wrapping_add(at.wrapping_mul(super::STEP))), turn as f64)
}
