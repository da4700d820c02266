//! What the messages of one WebSocket share: who asks, the places of calls, their ids, the subscriptions.

use std::{
    collections::BTreeMap,
    future::{pending, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::HeaderMap;
use lineside_wire::{BATCH_ENTRIES_MAX, Empty, Fault, FaultCode, method};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Out, Outbox, watch::Watch};
use crate::{
    Cluster,
    body::Reserved,
    door::Door,
    gate::{Caller, Cost, Origin},
    jsonrpc::{self, Call, Document, Id, Outcome},
    rpc::{
        self,
        json::{Asker, Json},
        table::{self, Wire},
    },
};

/// Calls of one connection that run at one time; beyond it, nothing more is read. As many as a batch may have, so that
/// every batch finds its places in the end.
const CALLS_MAX: usize = BATCH_ENTRIES_MAX;

/// Subscriptions of one connection. There is one thing to subscribe to, so more than a few are a mistake.
const SUBSCRIPTIONS_MAX: usize = 8;

/// Ends a subscription.
const UNSUBSCRIBE: &str = "$/unsubscribe";

/// Methods of the connection itself begin so.
const OWN: &str = "$/";

/// Who asks, from the request that became the connection.
pub(super) struct Asking<C> {
    pub(super) door: Arc<Door<C>>,
    pub(super) origin: Origin,
    /// The headers that say who calls.
    pub(super) shown: HeaderMap,
    /// The time for each call, where the request's head names one.
    pub(super) timeout: Option<Duration>,
    pub(super) traceparent: Option<String>,
    pub(super) affinity: Option<String>,
}

/// One connection.
pub(super) struct Session<C> {
    pub(super) asking: Asking<C>,
    pub(super) outbox: Outbox,
    places: Semaphore,
    running: Mutex<Running>,
    watches: Mutex<Watches>,
}

#[derive(Deserialize)]
struct Cancel<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct Subscription {
    subscription: String,
}

impl<C: Cluster> Session<C> {
    pub(super) fn new(asking: Asking<C>, outbox: Outbox) -> Self {
        let places = Semaphore::new(CALLS_MAX);
        Self { asking, outbox, places, running: Mutex::default(), watches: Mutex::default() }
    }

    /// Answers one message. `begins` ends when its calls have their places and can be cancelled.
    ///
    /// Its subscriptions are served here too, after the answer that names them.
    pub(super) async fn answer(self: Arc<Self>, text: Bytes, room: Reserved, begins: oneshot::Sender<()>) {
        let Asking { door, timeout, traceparent, affinity, .. } = &self.asking;
        let document = Document::read(&text);
        let Ok(places) = self.places.acquire_many(places(&document)).await else { return };
        // The reader goes on when this task first gives way, and then every call is known by its id: a shard has one thread.
        let _reader_is_there = begins.send(());
        let caller = match self.caller() {
            Ok(caller) => caller,
            Err(fault) => return self.refuse(document, &fault).await,
        };
        let entries = document.entries().len();
        let mut asker = Asker::new(door, &caller, Wire::Socket, Instant::now(), entries);
        (asker.timeout, asker.traceparent, asker.affinity) =
            (*timeout, traceparent.clone(), affinity.clone());
        asker.items = Some(self.outbox.clone());
        let cost = Cost { calls: 0, bytes: text.len() as u64, model: None };
        let refused = door.charge_more(&caller, cost).err();
        let watches = Mutex::default();
        let answered = document.answer(|call| self.call(&asker, refused.as_ref(), &watches, call)).await;
        // The message is no longer held, so the answer may take its room.
        drop((text, room));
        if let Some(json) = answered {
            let out = match asker.room(json.len()) {
                Ok(room) => Out::Text(json, Some(room)),
                Err(fault) => Out::Text(jsonrpc::refused(fault), None),
            };
            if self.outbox.send(out).await.is_err() {
                return;
            }
        }
        drop((places, asker));
        let watches: Vec<Watch> = watches.into_inner().unwrap_or_else(PoisonError::into_inner);
        join_all(watches.into_iter().map(|watch| self.watch(watch))).await;
    }

    /// Who calls now.
    ///
    /// # Errors
    /// Its key was revoked, or has ended, since the connection was opened.
    pub(super) fn caller(&self) -> Result<Caller, Fault> {
        let Asking { door, origin, shown, .. } = &self.asking;
        let caller = door.shared.caller(origin, shown);
        caller.map_err(|refusal| Fault::new(FaultCode::PermissionDenied, refusal.message()))
    }

    async fn refuse(&self, document: Document<'_>, fault: &Fault) {
        if let Some(json) = document.answer(|_| ready(Err(fault.clone()))).await {
            // Fails only when the connection is over.
            drop(self.outbox.send(Out::Text(json, None)).await);
        }
    }

    async fn call(
        &self,
        asker: &Asker<'_, C>,
        refused: Option<&Fault>,
        watches: &Mutex<Vec<Watch>>,
        call: Call<'_>,
    ) -> Outcome {
        match &*call.method {
            method::CANCEL => return self.cancel(call.params),
            UNSUBSCRIBE => return self.unsubscribe(call.params),
            _ => {}
        }
        if let Some(fault) = refused {
            return Err(fault.clone());
        }
        let begun = call.id.map(|id| Begun::new(&self.running, id));
        let cancelled = async {
            match &begun {
                Some(begun) => begun.order.cancelled().await,
                None => pending().await,
            }
        };
        let outcome = async {
            match call.method == method::CLUSTER_WATCH {
                true => self.subscribe(asker, watches, &call),
                false => asker.call(call).await,
            }
        };
        tokio::select! {
            biased;
            () = cancelled => Err(Fault::new(FaultCode::Cancelled, "the call was taken back ($/cancelRequest)")),
            outcome = outcome => outcome,
        }
    }

    fn cancel(&self, params: Option<&RawValue>) -> Outcome {
        let Cancel { id } = rpc::json::params(params)?;
        let id = key(id);
        self.running.lock().unwrap_or_else(PoisonError::into_inner).cancel(&id);
        rpc::json::result(&Empty {})
    }

    /// Opens a subscription, whose news begin after the answer.
    fn subscribe(&self, asker: &Asker<'_, C>, watches: &Mutex<Vec<Watch>>, call: &Call<'_>) -> Outcome {
        let Asker { door, caller, .. } = asker;
        door.charge_more(caller, Cost::ONE)?;
        let row = table::find(&call.method, Wire::Socket)?;
        rpc::read(&door.shared, caller, row, &Json(call.params))?;
        let changes = door.cluster.changes().ok_or_else(|| {
            Fault::new(FaultCode::MethodNotFound, "this door is not told of changes: ask cluster.members")
        })?;
        // A notification would never learn the name of its subscription.
        if call.id.is_none() {
            return rpc::json::result(&Empty {});
        }
        let (number, ends) = self.watches().open()?;
        watches.lock().unwrap_or_else(PoisonError::into_inner).push(Watch { number, ends, changes });
        rpc::json::result(&Subscription { subscription: number.to_string() })
    }

    fn unsubscribe(&self, params: Option<&RawValue>) -> Outcome {
        let Subscription { subscription } = rpc::json::params(params)?;
        let number = subscription.parse().ok();
        let open = number.is_some_and(|number| self.watches().close(number));
        match open {
            true => rpc::json::result(&Empty {}),
            false => {
                let text = "params: subscription: this connection has none of that name";
                Err(Fault::new(FaultCode::InvalidParams, text))
            }
        }
    }

    pub(super) fn watches(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what would go on for ever.
    pub(super) fn leave(&self) {
        self.watches().close_all();
    }
}

/// The places that a message needs: one for each entry, but for notifications to the connection itself. These bring
/// nothing back, and a call must be taken back also while no place is free.
fn places(document: &Document<'_>) -> u32 {
    let needs = |entry: &&Result<Call<'_>, _>| match entry {
        Ok(call) => call.id.is_some() || !call.method.starts_with(OWN),
        Err(_) => true,
    };
    let entries = document.entries();
    let needed = entries.iter().filter(needs).count().max(usize::from(entries.is_empty()));
    u32::try_from(needed).expect("a batch is shorter")
}

/// An id without the freedom that JSON leaves in writing text: `"a"` and `"\u0061"` are one.
fn key(id: Id<'_>) -> String {
    match serde_json::from_str::<String>(id.get()) {
        Ok(text) => format!("\"{text}"),
        Err(_) => id.get().to_owned(),
    }
}

/// The calls that can be taken back. An id may be in use more than once; then all of them are meant.
#[derive(Debug, Default)]
struct Running {
    begun: u64,
    calls: BTreeMap<u64, (String, CancellationToken)>,
}

impl Running {
    fn begin(&mut self, id: String) -> (u64, CancellationToken) {
        self.begun += 1;
        let order = CancellationToken::new();
        self.calls.insert(self.begun, (id, order.clone()));
        (self.begun, order)
    }

    fn cancel(&self, id: &str) {
        self.calls.values().filter(|(there, _)| there == id).for_each(|(_, order)| order.cancel());
    }
}

/// A call that can be taken back until this is dropped.
struct Begun<'a> {
    running: &'a Mutex<Running>,
    number: u64,
    order: CancellationToken,
}

impl<'a> Begun<'a> {
    fn new(running: &'a Mutex<Running>, id: Id<'_>) -> Self {
        let (number, order) = running.lock().unwrap_or_else(PoisonError::into_inner).begin(key(id));
        Self { running, number, order }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).calls.remove(&self.number);
    }
}

/// The subscriptions that are open.
#[derive(Debug, Default)]
pub(super) struct Watches {
    opened: u64,
    open: BTreeMap<u64, CancellationToken>,
}

impl Watches {
    fn open(&mut self) -> Result<(u64, CancellationToken), Fault> {
        if SUBSCRIPTIONS_MAX <= self.open.len() {
            let text = format!(
                "a connection has at most {SUBSCRIPTIONS_MAX} subscriptions: end one with {UNSUBSCRIBE}"
            );
            return Err(Fault::new(FaultCode::LimitExceeded, text));
        }
        self.opened += 1;
        let ends = CancellationToken::new();
        self.open.insert(self.opened, ends.clone());
        Ok((self.opened, ends))
    }

    /// Ends one; says whether there was one.
    pub(super) fn close(&mut self, number: u64) -> bool {
        self.open.remove(&number).map(|ends| ends.cancel()).is_some()
    }

    fn close_all(&mut self) {
        std::mem::take(&mut self.open).into_values().for_each(|ends| ends.cancel());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> String {
        key(serde_json::from_str(text).expect("an id"))
    }

    #[test]
    fn an_id_is_the_same_however_its_text_is_written_and_no_number_is_a_text() {
        assert_eq!(id(r#""a""#), id(r#""\u0061""#));
        assert_ne!(id("1"), id(r#""1""#));
        assert_ne!(id("1"), id("1.0"));
        assert_ne!(id("null"), id(r#""null""#));
        assert_ne!(id(r#""""#), id(r#""\"""#));
    }

    #[test]
    fn every_call_of_an_id_is_taken_back_and_no_other() {
        let running = Mutex::<Running>::default();
        let raw = |text| serde_json::from_str::<&RawValue>(text).expect("an id");
        let [first, second, other] = ["7", "7", "8"].map(|text| Begun::new(&running, raw(text)));
        running.lock().expect("no panic").cancel("7");
        assert_eq!([&first, &second, &other].map(|it| it.order.is_cancelled()), [true, true, false]);
        drop((first, second, other));
        assert!(running.lock().expect("no panic").calls.is_empty());
    }

    #[test]
    fn a_message_needs_a_place_for_each_entry_that_works_or_is_answered() {
        let needs = |text: &str| places(&Document::read(text.as_bytes()));
        let call = r#"{"jsonrpc":"2.0","method":"infer","id":1}"#;
        let notification = r#"{"jsonrpc":"2.0","method":"infer"}"#;
        let cancel = r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}"#;
        let asked_cancel = r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1},"id":2}"#;
        assert_eq!(
            [call, notification, cancel, asked_cancel, "no JSON", "[]", "[1,2]"].map(needs),
            [1, 1, 0, 1, 1, 1, 2]
        );
        assert_eq!(needs(&format!("[{call},{cancel},{notification},1]")), 3);
        let full = vec![call; BATCH_ENTRIES_MAX].join(",");
        assert!(needs(&format!("[{full}]")) as usize <= CALLS_MAX);
    }

    #[test]
    fn subscriptions_have_a_limit_and_each_its_own_name() {
        let mut watches = Watches::default();
        let numbers: Vec<_> = (0..SUBSCRIPTIONS_MAX).map(|_| watches.open().expect("room").0).collect();
        assert_eq!(watches.open().map_err(|fault| fault.code).err(), Some(FaultCode::LimitExceeded));
        assert!(watches.close(numbers[0]) && !watches.close(numbers[0]));
        let (number, ends) = watches.open().expect("room again");
        assert!(!numbers.contains(&number) && !ends.is_cancelled());
        watches.close_all();
        assert!(ends.is_cancelled());
    }
}
