//! Whether the peer of a try still gives signs of life, and when a second try begins beside one that runs.
//!
//! A try's peer has *stalled* when it has not acknowledged what was sent to it for a while: a live one does so within
//! milliseconds, whatever its model does. Slow is not stalled. Whatever else comes meanwhile says that it lives, but not that
//! it hears. Once it has acknowledged something, any packet counts: then it has nothing to acknowledge any more.

use std::time::{Duration, Instant};

use lineside_mesh::Signs;

use super::History;
use crate::budget::Why;

/// When a peer counts as stalled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// No packet for so long after something was sent.
    pub(crate) stall_after: Duration,
    /// For how long a live peer may be quiet that has acknowledged everything.
    pub(crate) quiet_max: Duration,
}

/// A look that comes later than it should by so much tells of this process, not of the peer: it stood still itself, and what
/// came meanwhile may not have been read yet. Then it looks once more so much later.
const OWN_LAG: Duration = Duration::from_millis(20);

/// How the peer of a try is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It gives signs of life, or has time to.
    Lives,
    /// There is still no connection with it: nothing was sent.
    Unsent,
    /// No packet has come for too long.
    Stalled,
}

/// What is known of one try that runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    patience: Option<Patience>,
    signs: Option<Signs>,
    /// When it began, or gave a sign last.
    since: Instant,
    /// Whether it has acknowledged anything since the call was sent.
    heard: bool,
    sign: Sign,
    next_look: Option<Instant>,
}

impl Pulse {
    /// A try that begins; `signs` is what had come from the peer before. Without patience nobody stalls.
    pub(crate) fn new(patience: Option<Patience>, signs: Option<Signs>, now: Instant) -> Self {
        let next_look = patience.map(|patience| now + patience.stall_after);
        Self { patience, signs, since: now, heard: false, sign: Sign::Lives, next_look }
    }

    /// When to look again; `None` is never.
    pub(crate) const fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// When it began, or its peer gave a sign last.
    pub(crate) const fn since(&self) -> Instant {
        self.since
    }

    pub(crate) const fn sign(&self) -> Sign {
        self.sign
    }

    /// Looks what has come from the peer meanwhile. True when it is found to have stalled just now.
    ///
    /// `stalled_at` is when another call found so: if nothing came since, this one does not wait out the peer's right to be
    /// quiet.
    pub(crate) fn look(&mut self, signs: Option<Signs>, stalled_at: Option<Instant>, now: Instant) -> bool {
        let (Some(Patience { stall_after, quiet_max }), Some(wanted)) = (self.patience, self.next_look)
        else {
            return false;
        };
        if !self.is_sign(signs) && wanted + OWN_LAG < now {
            self.next_look = Some(now + OWN_LAG);
            return false;
        }
        let before = self.sign;
        let silent_for = now.saturating_duration_since(self.since);
        self.next_look = Some(now + stall_after / 2);
        self.sign = match (self.signs, signs) {
            (None, None) if stall_after <= silent_for => Sign::Unsent,
            (None, None) => Sign::Lives,
            (Some(_), Some(_)) if !self.is_sign(signs) => {
                let is_known = stalled_at.is_some_and(|at| self.since <= at);
                let quiet_max = if self.heard && !is_known { quiet_max } else { Duration::ZERO };
                if quiet_max + stall_after <= silent_for { Sign::Stalled } else { Sign::Lives }
            }
            // A connection that came or went is a sign, too: the call on it will tell. Where it came, the call may have been
            // acknowledged before this look.
            (Some(_), _) | (None, Some(_)) => {
                (self.signs, self.since, self.heard) = (signs.or(self.signs), now, true);
                Sign::Lives
            }
        };
        self.sign == Sign::Stalled && before != Sign::Stalled
    }
}

impl Pulse {
    /// Whether these tell anything of the peer that was not known at the last sign.
    fn is_sign(&self, signs: Option<Signs>) -> bool {
        match (self.signs, signs) {
            (Some(before), Some(now)) if self.heard => before.packets != now.packets,
            (Some(before), Some(now)) => before.acknowledged != now.acknowledged,
            (before, now) => before != now,
        }
    }
}

/// What to do about tries that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Wait on.
    Nothing,
    /// A try on another peer, beside the one that runs.
    Beside(Why),
    /// A try on another peer in the place of the one that runs: nothing of it was sent.
    Instead,
}

/// When the first try of a call takes too long, though its peer gives signs of life.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TooLong {
    /// Longer than nearly all take, where such calls are hedged.
    pub(crate) hedge_at: Option<Instant>,
    /// So long that the peer must hang.
    pub(crate) slow_at: Option<Instant>,
    /// Whether `slow_at` was looked up. Before, it is the least that it can be.
    pub(crate) is_known: bool,
    /// So many times as long as 99 of 100 answers took is slow.
    pub(crate) slow_times: u32,
}

/// Less is no hanging: queues, a thread that gets no core, a long run among short ones.
const SLOW_MIN: Duration = Duration::from_secs(1);

/// So many times as long as 99 of 100 answers for the model took.
const SLOW_TIMES: u32 = 3;

/// A door has so many times as long: it has tried the call elsewhere itself by then, and a call that both try twice runs up
/// to four times.
const DOOR_TIMES: u32 = 2;

impl TooLong {
    /// For a call that begins now. `hedge` is when calls of its model are hedged; `is_door` says that its peer finds a node
    /// for it.
    pub(crate) fn of(hedge: Option<Duration>, is_door: bool, now: Instant) -> Self {
        let times = if is_door { DOOR_TIMES } else { 1 };
        Self {
            hedge_at: hedge.map(|hedge| now + hedge),
            slow_at: Some(now + SLOW_MIN * times),
            is_known: false,
            slow_times: SLOW_TIMES * times,
        }
    }

    /// For a call that takes too long already, and whose second try came to nothing.
    pub(crate) const fn already(now: Instant) -> Self {
        Self { hedge_at: None, slow_at: Some(now), is_known: true, slow_times: SLOW_TIMES }
    }

    /// Looks up what is too long, once the least of it is over: most calls have ended by then. `usual` is the 99th percentile
    /// of the model's answers; without one nobody knows. Looked up once: later times change nothing.
    pub(crate) fn look_up(&mut self, usual: impl FnOnce() -> Option<Duration>, now: Instant) {
        let Some(least) = self.slow_at.filter(|at| !self.is_known && *at <= now) else { return };
        let over = SLOW_MIN * (self.slow_times / SLOW_TIMES);
        let more = usual().map(|usual| usual.saturating_mul(self.slow_times).saturating_sub(over));
        self.slow_at = more.and_then(|more| least.checked_add(more));
        self.is_known = true;
    }

    /// The next of the two moments.
    pub(crate) fn next(&self) -> Option<Instant> {
        [self.hedge_at, self.slow_at].into_iter().flatten().min()
    }

    /// Why a second try is due at this moment; said once for each reason.
    fn take(&mut self, now: Instant) -> Option<Why> {
        let is_due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        let slow = is_due(&mut self.slow_at);
        let hedge = is_due(&mut self.hedge_at);
        if slow { Some(Why::Slow) } else { hedge.then_some(Why::Hedge) }
    }
}

/// What is due while a call's only try runs, which is like this. What is due for its length is due once.
///
/// A call of a session waits for the connection with its peer, which has the state, as long as that takes to be made or
/// to fail.
pub(crate) fn due(history: &History, only: Sign, too_long: &mut TooLong, now: Instant) -> Due {
    let why = too_long.take(now).filter(|_| history.may_double());
    match (only, why) {
        (Sign::Unsent, _) if history.may_move() => Due::Instead,
        (Sign::Stalled, _) if history.may_double() => Due::Beside(Why::Stall),
        (Sign::Lives, Some(why)) => Due::Beside(why),
        (Sign::Unsent | Sign::Stalled | Sign::Lives, _) => Due::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::{CallContext, NodeId};

    use super::*;
    use crate::failover::ATTEMPTS_MAX;

    const STALL_AFTER: Duration = Duration::from_millis(250);
    const QUIET_MAX: Duration = Duration::from_millis(500);

    const fn both(count: u64) -> Signs {
        Signs { packets: count, acknowledged: count }
    }

    /// A try, and the packets that come from its peer.
    struct Watched {
        pulse: Pulse,
        now: Instant,
        signs: Option<Signs>,
        stalled_at: Option<Instant>,
    }

    impl Watched {
        fn with(count: Option<u64>) -> Self {
            let signs = count.map(both);
            let now = tokio::time::Instant::now().into_std();
            let patience = Patience { stall_after: STALL_AFTER, quiet_max: QUIET_MAX };
            Self { pulse: Pulse::new(Some(patience), signs, now), now, signs, stalled_at: None }
        }

        /// Lets time pass and looks whenever it is time to. Gives the signs that were seen.
        fn pass(&mut self, millis: u64) -> Sign {
            let until = self.now + Duration::from_millis(millis);
            while let Some(at) = self.pulse.next_look().filter(|at| *at <= until) {
                self.now = at;
                self.pulse.look(self.signs, self.stalled_at, at);
            }
            self.now = until;
            self.pulse.sign()
        }

        fn receive(&mut self) {
            let signs = self.signs.unwrap_or_default();
            self.signs = Some(Signs { packets: signs.packets + 1, acknowledged: signs.acknowledged + 1 });
        }
    }

    #[test]
    fn a_peer_that_acknowledges_nothing_stalls_at_once_when_it_is_time() {
        let mut call = Watched::with(Some(7));
        assert_eq!(call.pass(249), Sign::Lives);
        assert_eq!(call.pass(1), Sign::Stalled);
        // A packet: it lives after all.
        call.receive();
        assert_eq!(call.pass(125), Sign::Lives);
    }

    #[test]
    fn a_slow_model_on_a_live_peer_is_not_stalled() {
        let mut call = Watched::with(Some(7));
        for _ in 0..100 {
            // What QUIC sends by itself to keep the connection.
            call.receive();
            assert_eq!(call.pass(510), Sign::Lives);
        }
    }

    #[test]
    fn a_peer_that_stops_in_the_middle_of_a_call_stalls_after_its_time_to_be_quiet() {
        let mut call = Watched::with(Some(7));
        call.receive();
        assert_eq!(call.pass(900), Sign::Lives);
        assert_eq!(call.pass(250), Sign::Stalled);
        // Another call to it has found so before.
        let mut call = Watched::with(Some(7));
        call.receive();
        assert_eq!(call.pass(450), Sign::Lives);
        call.stalled_at = Some(call.now);
        assert_eq!(call.pass(125), Sign::Stalled);
        // It has gone on since: what was found before says nothing.
        call.receive();
        assert_eq!(call.pass(600), Sign::Lives);
    }

    #[test]
    fn a_process_that_stood_still_itself_blames_nobody() {
        let mut call = Watched::with(Some(7));
        let late = call.now + Duration::from_secs(3);
        assert!(!call.pulse.look(Some(both(7)), None, late));
        assert_eq!(call.pulse.sign(), Sign::Lives);
        // What came meanwhile is read now. If nothing did, the next look tells.
        let mut other = call.pulse;
        assert!(!other.look(Some(both(8)), None, late + OWN_LAG));
        assert!(call.pulse.look(Some(both(7)), None, late + OWN_LAG));
    }

    #[test]
    fn what_waits_for_its_connection_was_not_sent() {
        let mut call = Watched::with(None);
        assert_eq!(call.pass(249), Sign::Lives);
        assert_eq!(call.pass(1), Sign::Unsent);
        // It has the whole time once it is connected.
        call.receive();
        assert_eq!(call.pass(125), Sign::Lives);
        // It may have acknowledged the call before that was looked at, and has nothing to say since.
        assert_eq!(call.pass(749), Sign::Lives);
        assert_eq!(call.pass(1), Sign::Stalled);
    }

    #[test]
    fn who_sends_but_acknowledges_nothing_stalls_and_who_has_acknowledged_may_say_anything() {
        let mut call = Watched::with(Some(7));
        for packets in 8..12 {
            call.signs = Some(Signs { packets, acknowledged: 7 });
            call.pass(60);
        }
        assert_eq!(call.pass(20), Sign::Stalled);
        let mut call = Watched::with(Some(7));
        call.receive();
        for packets in 9..20 {
            assert_eq!(call.pass(500), Sign::Lives);
            call.signs = Some(Signs { packets, acknowledged: 8 });
        }
    }

    #[test]
    fn without_patience_nobody_stalls() {
        let now = tokio::time::Instant::now().into_std();
        let mut pulse = Pulse::new(None, Some(both(7)), now);
        assert_eq!(pulse.next_look(), None);
        assert!(!pulse.look(Some(both(7)), None, now + Duration::from_secs(99)));
        assert_eq!(pulse.sign(), Sign::Lives);
    }

    #[test]
    fn a_second_try_begins_only_where_running_twice_does_no_harm() {
        let now = tokio::time::Instant::now().into_std();
        let history = |session: Option<&str>| {
            let session = session.map(str::to_owned);
            let mut history = History::new(&CallContext { session, ..CallContext::default() }, ATTEMPTS_MAX);
            history.begin(NodeId::from_bytes([1; 16]));
            history
        };
        let ms = Duration::from_millis;
        let due = |history: &History, sign, hedge: Option<u64>, slow: Option<u64>| {
            let at = |millis: Option<u64>| millis.map(|millis| now + ms(millis));
            due(
                history,
                sign,
                &mut TooLong { hedge_at: at(hedge), slow_at: at(slow), is_known: true, slow_times: 3 },
                now,
            )
        };
        let pure = history(None);
        assert_eq!(due(&pure, Sign::Lives, None, None), Due::Nothing);
        assert_eq!(due(&pure, Sign::Lives, Some(1), Some(1)), Due::Nothing);
        assert_eq!(due(&pure, Sign::Lives, Some(0), Some(1)), Due::Beside(Why::Hedge));
        assert_eq!(due(&pure, Sign::Lives, Some(0), Some(0)), Due::Beside(Why::Slow));
        assert_eq!(due(&pure, Sign::Stalled, None, None), Due::Beside(Why::Stall));
        assert_eq!(due(&pure, Sign::Unsent, None, None), Due::Instead);
        let of_session = history(Some("belt 4"));
        for sign in [Sign::Lives, Sign::Stalled, Sign::Unsent] {
            assert_eq!(due(&of_session, sign, Some(0), Some(0)), Due::Nothing);
        }
        let mut spent = History::new(&CallContext::default(), std::num::NonZeroU8::MIN);
        spent.begin(NodeId::from_bytes([1; 16]));
        for sign in [Sign::Lives, Sign::Stalled, Sign::Unsent] {
            assert_eq!(due(&spent, sign, Some(0), Some(0)), Due::Nothing);
        }
    }

    #[test]
    fn a_call_takes_too_long_beside_what_calls_of_its_model_usually_take() {
        let now = tokio::time::Instant::now().into_std();
        let s = Duration::from_secs;
        let of = |usual: Option<Duration>| {
            let mut long = TooLong::of(None, false, now);
            assert_eq!(long.next(), Some(now + s(1)), "no call is looked at sooner");
            long.look_up(|| usual, now + s(1));
            long.next()
        };
        assert_eq!(of(None), None, "nobody knows yet");
        assert_eq!(of(Some(Duration::from_millis(3))), Some(now + s(1)));
        assert_eq!(of(Some(s(2))), Some(now + s(6)));
        // A door has as long to answer as it takes to try elsewhere itself.
        let mut of_door = TooLong::of(None, true, now);
        assert_eq!(of_door.next(), Some(now + s(2)));
        of_door.look_up(|| Some(s(1)), now + s(2));
        assert_eq!(of_door.next(), Some(now + s(6)));
        // The driver looks at every alarm: it is not put off again, whatever has become usual meanwhile.
        let mut long = TooLong::of(None, false, now);
        for at in [1, 2, 6] {
            long.look_up(|| Some(s(at + 1)), now + s(at));
        }
        assert_eq!(long.take(now + s(6)), Some(Why::Slow));
        let mut both = TooLong::of(Some(s(1)), false, now);
        both.look_up(|| Some(s(1)), now + s(1));
        assert_eq!(both.take(now + s(1)), Some(Why::Hedge));
        assert_eq!((both.next(), both.take(now + s(2))), (Some(now + s(3)), None));
        assert_eq!((both.take(now + s(3)), both.next()), (Some(Why::Slow), None));
    }
}
