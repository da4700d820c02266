//! Dialling: one dial per address at a time, with a growing rest after failures.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, Shared};
use lineside_wire::NodeId;
use tokio::time::Instant;

use crate::{DialError, config::Timing, peer::Peer};

/// Addresses whose failures are remembered. Past it, those that may be dialled again are forgotten.
const ADDRESSES_MAX: usize = 1024;

/// Whom to dial: a known member, or whoever is at a seed's address.
pub(crate) type Target = (SocketAddr, Option<NodeId>);

/// A dial that several callers wait for.
pub(crate) type Dial = Shared<BoxFuture<'static, Result<Arc<Peer>, DialError>>>;

/// What is known of each address. The lock is held for a look-up only.
#[derive(Default)]
pub(crate) struct Dials(Mutex<HashMap<Target, State>>);

#[derive(Default)]
struct State {
    running: Option<Dial>,
    failures: u32,
    rest_until: Option<Instant>,
}

impl State {
    fn rests_for(&self, now: Instant) -> Option<Duration> {
        self.rest_until?.checked_duration_since(now).filter(|rest| !rest.is_zero())
    }
}

/// The rest after so many failures in a row: it doubles from failure to failure.
fn rest_after(failures: u32, timing: &Timing) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    timing.redial_min.saturating_mul(factor).min(timing.redial_max)
}

impl Dials {
    fn states(&self) -> MutexGuard<'_, HashMap<Target, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The dial that is running, or the one that `begin` begins now.
    ///
    /// # Errors
    /// The address rests after a failure.
    pub(crate) fn join(
        &self,
        target: Target,
        now: Instant,
        begin: impl FnOnce() -> Dial,
    ) -> Result<Dial, DialError> {
        let mut states = self.states();
        if ADDRESSES_MAX <= states.len() {
            states.retain(|_, state| state.running.is_some() || state.rests_for(now).is_some());
        }
        let state = states.entry(target).or_default();
        // One that has an end and is still here was ended by a panic: it would refuse this address for ever.
        if let Some(dial) = state.running.as_ref().filter(|dial| dial.peek().is_none()) {
            return Ok(dial.clone());
        }
        if let Some(retry_in) = state.rests_for(now) {
            return Err(DialError::Resting { address: target.0, retry_in });
        }
        Ok(state.running.insert(begin()).clone())
    }

    /// Notes how a dial ended.
    pub(crate) fn ended(&self, target: Target, failed: bool, timing: &Timing, now: Instant) {
        let mut states = self.states();
        if !failed {
            states.remove(&target);
            return;
        }
        let state = states.entry(target).or_default();
        state.running = None;
        state.failures = state.failures.saturating_add(1);
        state.rest_until = Some(now + rest_after(state.failures, timing));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_dial_that_panicked_is_not_joined_for_ever() {
        let dials = Dials::default();
        let (target, now) = ((([127, 0, 0, 1], 1).into(), None), Instant::now());
        let begin = || async { Err(DialError::Closed) }.boxed().shared();
        let panicked = dials.join(target, now, begin).unwrap_or_else(|error| panic!("{error}"));
        assert!(panicked.now_or_never().is_some());
        let mut begun = false;
        let next = dials.join(target, now, || {
            begun = true;
            begin()
        });
        assert!(next.is_ok() && begun);
    }

    #[test]
    fn an_address_that_fails_rests_longer_each_time_up_to_a_bound() {
        let timing = Timing::default();
        let rests: Vec<_> = (1..=7).map(|failures| rest_after(failures, &timing).as_millis()).collect();
        assert_eq!(rests, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(rest_after(u32::MAX, &timing), timing.redial_max);
    }

    #[test]
    fn a_resting_address_is_not_dialled_and_a_success_forgets_its_failures() {
        let dials = Dials::default();
        let target = (([127, 0, 0, 1], 1).into(), None);
        let (timing, now) = (Timing::default(), Instant::now());
        dials.ended(target, true, &timing, now);
        let refused = dials.join(target, now, || unreachable!("the address rests"));
        assert!(matches!(refused, Err(DialError::Resting { .. })));
        dials.ended(target, false, &timing, now);
        assert!(dials.states().is_empty());
    }
}
