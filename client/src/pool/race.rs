//! One call on its way: a try, the next when it has failed, and a second beside it when its peer stalls or takes too long.
//!
//! ```text
//!   begin ──> a try runs ──answer──────────────────────────────> done, the other try is cancelled
//!               │  ├──failed──> History: elsewhere, again, wait for the other, give up
//!               │  └──alarm──> Pulse: no sign of life? due: a second beside it, or in its place
//!               └──deadline──> late
//! ```
//!
//! The driver of [`History`] and [`Pulse`]. All times of a call share one timer, and the first try lives in the call's own
//! memory: a call that is answered at once costs no more for all of this.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use lineside_mesh::{CallFailure, Outbound, Reply};
use lineside_wire::{CallContext, Executed, RunReport, method};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tracing::{Instrument, debug, debug_span};

use super::{LAST_WORD, Pool, STALL_AFTER_MIN, Tries, destination, micros, own_load, read};
use crate::{
    Balancer, Outcome, Wanted,
    balancer::Lease,
    budget::Why,
    call::{CallError, InferCall, InferReply},
    failover::{Due, History, Next, Patience, Pulse, Sign, TooLong, due},
    transport::Transport,
};

/// What a try's future gives.
type Ended = Result<Reply, CallFailure>;

/// One try that runs, but for its future.
struct Runner {
    lease: Lease,
    why: Why,
    begun: Instant,
    pulse: Pulse,
}

/// Where a try's future is: the first is in the call's own memory, later ones, which are few, have some of their own.
enum Place<'p, F> {
    First(Pin<&'p mut Option<F>>),
    Later(Pin<Box<F>>),
}

impl<F: Future<Output = Ended>> Place<'_, F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        match self {
            Self::First(place) => match place.as_mut().as_pin_mut() {
                Some(future) => future.poll(cx),
                None => Poll::Pending,
            },
            Self::Later(future) => future.as_mut().poll(cx),
        }
    }
}

impl<F> Drop for Place<'_, F> {
    /// A try that is given up is cancelled at once, also the first, whose memory lives as long as the call: it could
    /// still be sent.
    fn drop(&mut self) {
        if let Self::First(place) = self {
            place.set(None);
        }
    }
}

/// The tries that run.
struct Field<'p, F> {
    slots: [Option<(Runner, Place<'p, F>)>; 2],
    balancer: &'p Balancer,
}

impl<'p, F: Future<Output = Ended>> Field<'p, F> {
    /// The next try that ends; `None` when the alarm goes first. An answer counts more than a time that is over.
    async fn next(&mut self, mut alarm: Pin<&mut Sleep>) -> Option<(Runner, Ended)> {
        poll_fn(|cx| {
            for slot in &mut self.slots {
                let Some((_, future)) = slot else { continue };
                if let Poll::Ready(ended) = future.poll(cx)
                    && let Some((runner, _)) = slot.take()
                {
                    return Poll::Ready(Some((runner, ended)));
                }
            }
            alarm.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    fn add(&mut self, runner: Runner, future: Place<'p, F>) {
        let free = self.slots.iter_mut().find(|slot| slot.is_none());
        *free.expect("a second try begins only beside one") = Some((runner, future));
    }

    fn runners(&mut self) -> impl Iterator<Item = &mut Runner> {
        self.slots.iter_mut().flatten().map(|(runner, _)| runner)
    }

    fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// The only try; `None` when there are two, or none.
    const fn only(&self) -> Option<&Runner> {
        match &self.slots {
            [Some((runner, _)), None] | [None, Some((runner, _))] => Some(runner),
            [None, None] | [Some(_), Some(_)] => None,
        }
    }

    /// Cancels the tries that run.
    fn clear(&mut self) -> impl Iterator<Item = Runner> {
        std::mem::take(&mut self.slots).into_iter().flatten().map(|(runner, _)| runner)
    }
}

impl<F> Drop for Field<'_, F> {
    /// Whoever waited for the call went away. A peer that had far more time than it needs is told of all the same: where
    /// callers are less patient than their deadlines, nobody else would ever find out that it hangs.
    fn drop(&mut self) {
        for (runner, _) in std::mem::take(&mut self.slots).into_iter().flatten() {
            self.balancer.report(runner.lease, Outcome::Abandoned, Instant::now().into_std());
        }
    }
}

/// What follows an event.
enum Step {
    Wait,
    Begin(Lease, Why),
    /// A repeat, after this pause.
    After(Duration),
    Done(Result<InferReply, CallError>),
}

/// One call on its way.
struct Race<'a, T> {
    pool: &'a Pool<T>,
    tries: &'a Tries,
    call: &'a InferCall,
    history: History,
    patience: Option<Patience>,
    /// When nobody listens any more: the deadline, and a moment for the last word.
    until: Instant,
    /// When the first try takes too long.
    too_long: TooLong,
    /// Whether a second try beside a stalled one was not allowed.
    is_denied: bool,
    /// Peers whose model failed, until another has answered or not.
    accused: Vec<Lease>,
}

/// Runs one call.
pub(super) async fn run<T: Transport>(
    pool: &Pool<T>,
    tries: &Tries,
    call: &InferCall,
) -> Result<InferReply, CallError> {
    let mut race = Race::new(pool, tries, call);
    let (lease, why) = match race.next_lease(Why::First) {
        Step::Begin(lease, why) => (lease, why),
        Step::Done(result) => return result,
        Step::Wait | Step::After(_) => unreachable!("a first try begins, or the call has failed"),
    };
    let (runner, future) = race.start(lease, why);
    let first = pin!(Some(future));
    let mut field = Field { slots: [Some((runner, Place::First(first))), None], balancer: &pool.balancer };
    let mut alarm = pin!(sleep_until(race.wake(&mut field)));
    loop {
        let wake = race.wake(&mut field);
        if alarm.deadline() != wake {
            alarm.as_mut().reset(wake);
        }
        let mut step = match field.next(alarm.as_mut()).await {
            Some((runner, ended)) => race.ended(runner, ended, &mut field),
            None => race.alarm(&mut field),
        };
        if let Step::After(backoff) = step {
            sleep(backoff).await;
            step = race.next_lease(Why::Repeat);
        }
        match step {
            Step::Begin(lease, why) => {
                let (runner, future) = race.start(lease, why);
                field.add(runner, Place::Later(Box::pin(future)));
            }
            Step::Wait | Step::After(_) => {}
            Step::Done(result) => {
                race.settle(&mut field, result.is_ok());
                return result;
            }
        }
    }
}

impl<'a, T: Transport> Race<'a, T> {
    fn new(pool: &'a Pool<T>, tries: &'a Tries, call: &'a InferCall) -> Self {
        let patience = tries.stall_after.map(|stall_after| Patience {
            stall_after: stall_after.max(STALL_AFTER_MIN),
            quiet_max: pool.transport.quiet_max(),
        });
        Self {
            pool,
            tries,
            call,
            history: History::new(&call.context, tries.attempts_max),
            patience,
            until: call.deadline,
            too_long: TooLong::default(),
            is_denied: false,
            accused: Vec::new(),
        }
    }

    const fn wanted(&self) -> Wanted<'a> {
        Wanted::Model(&self.call.params.model, self.call.params.version)
    }

    /// The peer of a try that begins while none runs, if there is still time and one left.
    fn next_lease(&self, why: Why) -> Step {
        let now = Instant::now();
        if self.call.deadline <= now {
            return Step::Done(Err(self.history.late(Executed::No)));
        }
        match self.pool.lease(self.call, &self.history, why == Why::Repeat, now) {
            Ok(lease) => Step::Begin(lease, why),
            Err(no_lease) => Step::Done(Err(self.history.clone().without_peer(&self.call.params, no_lease))),
        }
    }

    /// Begins a try.
    fn start(&mut self, lease: Lease, why: Why) -> (Runner, impl Future<Output = Ended> + use<'a, T>) {
        let (now, to) = (Instant::now(), destination(&lease));
        let attempt = self.history.begin(to.node);
        self.pool.budget.counters().tried(why);
        let left = self.call.deadline.saturating_duration_since(now);
        self.until = self.call.deadline + LAST_WORD.min(left / 4);
        if why == Why::First {
            let hedge = self.tries.usual(self.call, &self.pool.balancer);
            self.too_long = TooLong::of(hedge, lease.is_door, now.into_std());
        }
        let signs = self.patience.and_then(|_| self.pool.transport.signs(to));
        let pulse = Pulse::new(self.patience, signs, now.into_std());
        let span =
            debug_span!("try", model = %self.call.params.model, node = %to.node, attempt, why = why.name());
        let outbound = Outbound {
            method: method::INFER,
            context: CallContext { timeout_us: Some(micros(left)), attempt, ..self.call.context.clone() },
            params: &self.call.params,
            payload: self.call.payload.clone(),
        };
        let future = self.pool.transport.call(to, outbound).instrument(span);
        (Runner { lease, why, begun: now, pulse }, future)
    }

    /// When there is something to do if nothing happens.
    fn wake<F: Future<Output = Ended>>(&self, field: &mut Field<'_, F>) -> Instant {
        let looks = field.runners().filter_map(|runner| runner.pulse.next_look()).map(Instant::from_std);
        looks.chain(self.too_long.next().map(Instant::from_std)).fold(self.until, Instant::min)
    }

    fn ended<F>(&mut self, runner: Runner, ended: Ended, field: &mut Field<'_, F>) -> Step
    where
        F: Future<Output = Ended>,
    {
        let (node, why) = (runner.lease.node(), runner.why);
        let failure = match ended {
            Ok(reply) => match read(reply, node) {
                Ok(reply) => return self.answered(runner, reply, field),
                Err(reason) => CallFailure::Invalid { node, reason },
            },
            Err(failure) => failure,
        };
        debug!(model = %self.call.params.model, attempt = self.history.tries(), %failure, "a try failed");
        self.too_long = TooLong::default();
        let left = self.call.deadline.saturating_duration_since(Instant::now());
        let chance = self.pool.balancer.chance();
        let (outcome, next) = self.history.failed(failure, !field.is_empty(), left, chance);
        match outcome {
            Outcome::Erred => self.accused.push(runner.lease),
            outcome => self.pool.report(runner.lease, outcome),
        }
        match next {
            Next::GiveUp(error) => Step::Done(Err(error)),
            Next::Wait => Step::Wait,
            Next::Elsewhere if field.is_empty() => self.next_lease(Why::Moved),
            Next::Elsewhere => {
                if why == Why::Slow {
                    // It ran nothing: the first takes too long still.
                    self.too_long = TooLong::already(Instant::now().into_std());
                }
                self.due(field)
            }
            Next::Again { .. } if !self.may_repeat(Why::Repeat) => self.give_up(),
            Next::Again { backoff } => Step::After(backoff),
            // A peer first: where there is no other, no repeat is spent.
            Next::SecondOpinion => match self.next_lease(Why::Opinion) {
                Step::Begin(..) if !self.may_repeat(Why::Opinion) => self.give_up(),
                step => step,
            },
        }
    }

    fn give_up(&self) -> Step {
        Step::Done(Err(self.history.clone().give_up(&self.call.params)))
    }

    /// Whether a try was not sent, as it is at this moment: since the last look it may have been.
    fn is_unsent(&self, runner: &Runner) -> bool {
        let connected = || self.pool.transport.signs(destination(&runner.lease)).is_some();
        runner.pulse.sign() == Sign::Unsent && !connected()
    }

    fn answered<F>(&mut self, runner: Runner, reply: InferReply, field: &Field<'_, F>) -> Step
    where
        F: Future<Output = Ended>,
    {
        let Runner { lease, why, begun, .. } = runner;
        let load = own_load(&reply.report, lease.node());
        self.pool.report(lease, Outcome::Answered { load, took: begun.elapsed() });
        if why == Why::Hedge && !field.is_empty() {
            self.pool.budget.counters().hedges_won.add();
        }
        // A door counts the tries behind it; those at other doors come on top.
        let attempts = reply.report.attempts.saturating_add(self.history.tries().saturating_sub(1));
        let report = RunReport { attempts, ..reply.report };
        Step::Done(Ok(InferReply { report, ..reply }))
    }

    fn alarm<F: Future<Output = Ended>>(&mut self, field: &mut Field<'_, F>) -> Step {
        let (now, pool) = (Instant::now(), self.pool);
        if self.until <= now {
            let unsent = field.runners().all(|runner| self.is_unsent(runner));
            let executed = if unsent { Executed::No } else { Executed::Maybe };
            field.clear().for_each(|runner| pool.report(runner.lease, Outcome::Late));
            return Step::Done(Err(self.history.late(executed)));
        }
        for Runner { lease, pulse, .. } in field.runners() {
            if pulse.next_look().is_none_or(|at| now.into_std() < at) {
                continue;
            }
            let signs = pool.transport.signs(destination(lease));
            if pulse.look(signs, pool.balancer.stalled_at(lease), now.into_std()) {
                debug!(model = %self.call.params.model, node = %lease.node(), "a peer gives no sign of life");
                pool.balancer.stalled(lease, now.into_std());
                pool.budget.counters().stalls.add();
            }
        }
        self.due(field)
    }

    /// A second try, where one is due and another peer can take it.
    fn due<F: Future<Output = Ended>>(&mut self, field: &mut Field<'_, F>) -> Step {
        let now = Instant::now();
        let Some(only) = field.only() else {
            // A time that stays in the past would have the alarm go off without end.
            self.too_long = TooLong::default();
            return Step::Wait;
        };
        let sign = match only.pulse.sign() {
            Sign::Unsent if !self.is_unsent(only) => Sign::Lives,
            sign => sign,
        };
        self.too_long.look_up(|| only.lease.usual_of_model(99), now.into_std());
        let due = due(&self.history, sign, &mut self.too_long, now.into_std());
        if self.call.deadline <= now {
            return Step::Wait;
        }
        let why = match due {
            Due::Nothing => return Step::Wait,
            Due::Instead => Why::Moved,
            Due::Beside(Why::Stall) if self.is_denied => return Step::Wait,
            Due::Beside(why) => why,
        };
        let (balancer, wanted, tried, now) =
            (&self.pool.balancer, self.wanted(), self.history.tried(), now.into_std());
        // What silenced the first peer may have silenced others: those that were heard meanwhile first.
        let heard = balancer.lease_heard(only.pulse.since(), wanted, tried, now);
        let others = heard.or_else(|_| balancer.lease_with_room(wanted, tried, now));
        let Ok(lease) = others else { return Step::Wait };
        if due == Due::Instead {
            self.leave(field);
        } else if !self.may_repeat(why) {
            self.is_denied |= why == Why::Stall;
            return Step::Wait;
        }
        Step::Begin(lease, why)
    }

    /// Gives up tries that were not sent.
    fn leave<F: Future<Output = Ended>>(&mut self, field: &mut Field<'_, F>) {
        for Runner { lease, begun, .. } in field.clear() {
            let reason = format!("no connection within {:?}", begun.elapsed());
            let unsent = CallFailure::Lost { node: lease.node(), sent: false, reason };
            // What it says of the peer is too much: a dial that is slow may still succeed.
            let (_, _) = self.history.failed(unsent, false, Duration::ZERO, 0.0);
            self.pool.report(lease, Outcome::Late);
        }
    }

    /// Whether a try may begin of what may have run, or runs.
    fn may_repeat(&self, why: Why) -> bool {
        let (now, budget) = (Instant::now().into_std(), &self.pool.budget);
        let allowed = !self.pool.balancer.is_overloaded(self.wanted(), now)
            && if why == Why::Hedge { budget.hedge(now) } else { budget.repeat(now) };
        if !allowed {
            budget.counters().refused.add();
        }
        allowed
    }

    /// Tells the balancer what became of the other tries.
    fn settle<F: Future<Output = Ended>>(&mut self, field: &mut Field<'_, F>, is_answered: bool) {
        for Runner { lease, pulse, .. } in field.clear() {
            let stalled = pulse.sign() == Sign::Stalled;
            self.pool.report(lease, if stalled { Outcome::Late } else { Outcome::Overtaken });
        }
        for lease in self.accused.drain(..) {
            let outcome = if is_answered { Outcome::Erred } else { Outcome::Heard };
            if is_answered {
                self.pool.budget.counters().overruled.add();
            }
            self.pool.report(lease, outcome);
        }
    }
}
