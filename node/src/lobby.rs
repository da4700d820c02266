//! Calls that wait for their model to be loaded, on a node that loads models on demand.
//!
//! A call for a version that is not loaded is kept whole, and the loader gets one order for all that wait for it. When
//! the version is ready they are taken up as if they had come just now; when it cannot be loaded, those that named no
//! version go on to the one that serves in its place, and the others are told why. One thread looks after those that wait:
//! whose time is up, and whose caller went away. Calls of loaded models do not come here.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    thread,
};

use crossbeam_channel::Sender;
use lineside_mesh::Incoming;
use lineside_wire::{Executed, Fault, FaultCode};
use tokio::time::Instant;

use crate::{
    demand::{Parking, WAITING_MAX},
    loader::Order,
    model::Alive,
    repository::VersionId,
    service::{CALL_TIME_MAX, Desk, draining},
};

/// When to come again while the lobby is full.
const FULL_RETRY_MS: u64 = 1000;

/// The calls that wait.
pub(crate) struct Lobby {
    state: Mutex<State>,
    changed: Condvar,
    desk: OnceLock<Weak<Desk>>,
}

struct State {
    parking: Parking<Incoming>,
    closed: bool,
}

impl Lobby {
    /// A lobby for at most so many calls as the node's queue holds, which they go to afterwards.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(crate) fn open(queue_max: usize, alive: Alive) -> io::Result<Arc<Self>> {
        let parking = Parking::new(queue_max.min(WAITING_MAX));
        let lobby = Arc::new(Self {
            state: Mutex::new(State { parking, closed: false }),
            changed: Condvar::new(),
            desk: OnceLock::new(),
        });
        let own = Arc::clone(&lobby);
        thread::Builder::new().name("lineside-lobby".to_owned()).spawn(move || {
            own.look_after();
            drop(alive);
        })?;
        Ok(lobby)
    }

    /// Who takes the calls up again.
    pub(crate) fn serves(&self, desk: Weak<Desk>) {
        // Once, by the start of the node.
        drop(self.desk.set(desk));
    }

    /// Takes a call in that found this version not loaded; answers it where there is no room.
    pub(crate) fn take_in(&self, call: Incoming, id: &VersionId, orders: &Sender<Order>) {
        let deadline = call.deadline.unwrap_or(call.arrived + CALL_TIME_MAX);
        let mut state = self.lock();
        let refused = match state.parking.park(id, deadline, call) {
            Ok(true) => {
                // Under the lock, so that nobody parks behind a call whose order is not given.
                let ordered = orders.try_send(Order::Demand(id.clone()));
                if ordered.is_ok() { Vec::new() } else { state.parking.take(id) }
            }
            Ok(false) => Vec::new(),
            Err(call) => vec![call],
        };
        drop(state);
        self.changed.notify_all();
        let text = "too many calls wait for models to be loaded on this node";
        let full = Fault::new(FaultCode::Busy, text).retry_after_ms(FULL_RETRY_MS);
        refused.into_iter().for_each(|call| call.reply.fail(&full, None));
    }

    /// Whether anybody waits for this version, whose order is carried out now.
    pub(crate) fn waits_for(&self, id: &VersionId) -> bool {
        self.lock().parking.is_awaited(id)
    }

    /// The version is loaded, or cannot be: those who wait for it go on, or are told.
    pub(crate) fn done(&self, id: &VersionId, outcome: Result<(), &Fault>) {
        let calls = self.lock().parking.take(id);
        let desk = self.desk.get().and_then(Weak::upgrade);
        for call in calls {
            match (outcome, &desk) {
                _ if call.reply.cancelled().is_set() => tell_unwanted(call),
                (Ok(()), Some(desk)) => desk.infer(call),
                (Err(fault), Some(desk)) => desk.infer_instead(call, id, fault),
                (Err(fault), None) => call.reply.fail(fault, None),
                (Ok(()), None) => call.reply.fail(&draining(), None),
            }
        }
    }

    /// Some callers went away: their calls give up their places.
    pub(crate) fn look(&self) {
        // Under the lock, so that the thread either has not looked yet or waits to be woken.
        if 0 < self.lock().parking.count() {
            self.changed.notify_all();
        }
    }

    /// How many calls wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().parking.count()
    }

    /// The node is leaving: who waits here is better off elsewhere.
    pub(crate) fn clear(&self) {
        let calls = self.lock().parking.take_unwanted(Instant::now(), |_| true);
        calls.into_iter().for_each(|call| call.reply.fail(&draining(), None));
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.clear();
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn look_after(&self) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            let unwanted = state.parking.take_unwanted(now, |call| call.reply.cancelled().is_set());
            if !unwanted.is_empty() {
                drop(state);
                unwanted.into_iter().for_each(tell_unwanted);
                state = self.lock();
                continue;
            }
            state = match state.parking.next_deadline() {
                Some(next) => {
                    let waited = self.changed.wait_timeout(state, next.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_unwanted(call: Incoming) {
    let fault = match call.reply.cancelled().is_set() {
        true => {
            Fault::new(FaultCode::Cancelled, "the caller cancelled the call while the model was being loaded")
        }
        false => Fault::new(
            FaultCode::DeadlineExceeded,
            "the time ran out while the model was being loaded; nothing was run",
        ),
    };
    call.reply.fail(&Fault { executed: Executed::No, ..fault }, None);
}
