//! Calls that wait for their model to be loaded, on a node that loads models on demand.
//!
//! A call for a version that is not loaded is kept whole, and the loader gets one order for all that wait for it. When
//! the version is ready they are taken up as if they had come just now; when it cannot be loaded they are told why. One
//! thread looks after the deadlines of those that wait. Calls of loaded models do not come here.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    thread,
};

use crossbeam_channel::Sender;
use lineside_mesh::Incoming;
use lineside_wire::{Fault, FaultCode};
use tokio::time::Instant;

use crate::{
    demand::{Parking, WAITING_MAX},
    loader::Order,
    model::Alive,
    repository::VersionId,
    service::{CALL_TIME_MAX, NodeService},
};

/// When to come again while the lobby is full.
const FULL_RETRY_MS: u64 = 1000;

/// The calls that wait.
pub(crate) struct Lobby {
    state: Mutex<State>,
    changed: Condvar,
    service: OnceLock<Weak<NodeService>>,
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
            service: OnceLock::new(),
        });
        let own = Arc::clone(&lobby);
        thread::Builder::new().name("lineside-lobby".to_owned()).spawn(move || {
            own.look_after();
            drop(alive);
        })?;
        Ok(lobby)
    }

    /// Who takes the calls up again.
    pub(crate) fn serves(&self, service: Weak<NodeService>) {
        // Once, by the start of the node.
        drop(self.service.set(service));
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

    /// The version is loaded, or cannot be: those who wait for it go on, or are told.
    pub(crate) fn done(&self, id: &VersionId, outcome: Result<(), &Fault>) {
        let calls = self.lock().parking.take(id);
        let service = self.service.get().and_then(Weak::upgrade);
        for call in calls {
            if call.reply.cancelled().is_set() {
                continue;
            }
            match (outcome, &service) {
                (Ok(()), Some(service)) => service.infer(call),
                (Err(fault), _) => call.reply.fail(fault, None),
                (Ok(()), None) => {
                    let fault = Fault::new(FaultCode::Draining, "this node is leaving and takes no new work");
                    call.reply.fail(&fault, None);
                }
            }
        }
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn look_after(&self) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            let expired = state.parking.take_expired(now);
            if !expired.is_empty() {
                drop(state);
                expired.into_iter().for_each(tell_late);
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

fn tell_late(call: Incoming) {
    let text = "the time ran out while the model was being loaded; nothing was run";
    call.reply.fail(&Fault::new(FaultCode::DeadlineExceeded, text), None);
}
