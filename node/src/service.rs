//! Answers the calls of peers: what is quick at once, loading on the loader's thread, inference on a session's.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use crossbeam_channel::{Sender, TrySendError};
use lineside_mesh::{Incoming, Responder, Served, Service};
use lineside_wire::{
    CallContext, Fault, FaultCode, Health, InferParams, InferResult, LoadReport, ModelName, ModelParams,
    ModelsResult, NodeId, Parameters, PayloadBuilder, RunReport, StatisticsParams, StatisticsResult, Tensor,
    decode_part, join_tensors, method, split_tensors,
};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    batcher::{Traits, Waiting},
    cache::CacheKey,
    joining,
    loader::Order,
    lobby::Lobby,
    model::{Ended, Model},
    queue::{Caller, Place, Queue, Refusal, Wish},
    repository::VersionId,
    sequence::Step,
    shelf::{Shelf, fitting},
    statistics::{self, now_ms},
    task::Request,
    watch::Watch,
    worker::Job,
};

/// Time for a call whose caller set no deadline: nothing waits for ever.
pub(crate) const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// How long the end of a node waits for a run that cannot be stopped.
const END_WAIT_MAX: Duration = Duration::from_secs(5);

/// Shortest time between two searches for waiting calls that nobody wants any more: a node whose calls are all wanted
/// does not look at each of them for every call that it refuses.
const CLEAR_PAUSE: Duration = Duration::from_millis(10);

/// When to come again with an order for which the loader has no room.
const ORDER_RETRY_MS: u64 = 1000;

/// The node's side of the protocol.
pub struct NodeService {
    pub(crate) desk: Arc<Desk>,
    /// Behind the desk, and so dropped after it.
    pub(crate) _end: End,
}

/// What a call needs of the node.
pub(crate) struct Desk {
    pub(crate) node: NodeId,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) orders: Sender<Order>,
    pub(crate) draining: AtomicBool,
    /// When the waiting calls were last searched. Touched only by calls that find no place.
    pub(crate) cleared: Mutex<Option<Instant>>,
    pub(crate) watch: Arc<Watch>,
    /// Where calls wait for their model; `None` where none is loaded on demand.
    pub(crate) lobby: Option<Arc<Lobby>>,
}

impl Drop for Desk {
    /// Lets the threads end. The loader may be who does this, when it hands calls on: nothing is waited for.
    fn drop(&mut self) {
        self.shelf.close();
        if let Some(lobby) = &self.lobby {
            lobby.close();
        }
    }
}

/// The end of the node's threads.
pub(crate) struct End(pub(crate) Ended);

impl Drop for End {
    /// Waits for the loader and the workers: ONNX Runtime must not be at work when the process takes it down.
    fn drop(&mut self) {
        if !self.0.within(END_WAIT_MAX) {
            warn!("a model still runs while the node ends");
        }
    }
}

/// A call that fits its model, before it has a place.
struct Fits {
    request: Request,
    step: Option<Step>,
    cache_key: Option<CacheKey>,
    deadline: Instant,
}

/// What a call that fits its model says for its place.
#[derive(Clone, Copy)]
struct Asks {
    caller: Caller,
    arrived: Instant,
    deadline: Instant,
    priority: u8,
}

impl NodeService {
    /// Forgets the states of all sequences. For a node that was kept from them for a while: their callers were told that
    /// they are lost, and may have begun again elsewhere under the same names.
    pub fn forget_sequences(&self) {
        for model in self.desk.shelf.serving() {
            model.sequences.iter().for_each(|sequences| sequences.forget());
        }
    }
}

impl Service for NodeService {
    fn serve(&self, call: Incoming) -> Served {
        let desk = &self.desk;
        match call.method.as_str() {
            method::INFER => desk.infer(call),
            method::MODELS_LIST => {
                let list = ModelsResult { models: fitting(desk.shelf.all()) };
                call.reply.answer(&list, None, PayloadBuilder::new());
            }
            method::MODELS_GET => {
                let found = decode_part::<ModelParams>(&call.params)
                    .and_then(|ModelParams { model, version }| desk.shelf.get(&model, version));
                match found {
                    Ok(info) => call.reply.answer(&info, None, PayloadBuilder::new()),
                    Err(fault) => call.reply.fail(&fault, None),
                }
            }
            method::MODELS_STATISTICS => {
                let found = decode_part::<StatisticsParams>(&call.params)
                    .and_then(|params| desk.shelf.statistics(&params));
                match found.map(statistics::fitting) {
                    Ok(models) => {
                        call.reply.answer(&StatisticsResult { models }, None, PayloadBuilder::new());
                    }
                    Err(fault) => call.reply.fail(&fault, None),
                }
            }
            method::MODELS_LOAD => desk.order(&call.params, call.reply, Order::Load),
            method::MODELS_UNLOAD => desk.order(&call.params, call.reply, Order::Unload),
            method::HEALTH => call.reply.answer(&desk.health(), None, PayloadBuilder::new()),
            other => {
                let other: String = other.chars().take(64).collect();
                let fault = Fault::new(FaultCode::MethodNotFound, format!("a node has no method {other:?}"));
                call.reply.fail(&fault, None);
            }
        }
        Served::Done
    }

    fn abandoned(&self) {
        self.desk.watch.look();
        if let Some(lobby) = &self.desk.lobby {
            lobby.look();
        }
    }
}

impl Desk {
    pub(crate) fn infer(&self, call: Incoming) {
        let params = match self.takes_work().and_then(|()| decode_part(&call.params)) {
            Ok(params) => params,
            Err(fault) => return self.refuse(call.reply, &fault),
        };
        match self.find(&params) {
            Ok(model) => self.infer_with(&model, params, call),
            Err(fault) => self.absent(call, &params, &fault),
        }
    }

    /// A call for whose sake a version was to be loaded, which failed. It goes on where another one serves in its place.
    pub(crate) fn infer_instead(&self, call: Incoming, failed: &VersionId, fault: &Fault) {
        let named = |params: InferParams| params.version.is_some();
        let other = || match self.shelf.find(&failed.name, None) {
            Ok(_) => true,
            // The same once more would fail once more.
            Err(_) => self.shelf.on_demand(&failed.name, None).is_some_and(|other| other != *failed),
        };
        match decode_part(&call.params).map_or(true, named) || !other() {
            true => self.refuse(call.reply, fault),
            false => self.infer(call),
        }
    }

    fn find(&self, params: &InferParams) -> Result<Arc<Model>, Fault> {
        self.shelf.find(&params.model, params.version)
    }

    /// A call of a model that does not serve now.
    fn absent(&self, call: Incoming, params: &InferParams, fault: &Fault) {
        let on_demand = || self.shelf.on_demand(&params.model, params.version);
        match self.lobby.as_ref().and_then(|lobby| Some((lobby, on_demand()?))) {
            Some((lobby, id)) => lobby.take_in(call, &id, &self.orders),
            None => self.refuse(call.reply, fault),
        }
    }

    /// Answers a call at once where that is possible, else gives it a place and hands it to the model's sessions.
    fn infer_with(&self, model: &Model, params: InferParams, call: Incoming) {
        let Incoming { peer, context, payload, deadline, arrived, reply, .. } = call;
        let deadline = deadline.unwrap_or(arrived + CALL_TIME_MAX);
        let fits = match fit(model, params, &context, &payload, deadline) {
            Ok(Fitted::Known(outputs)) => return self.answer_again(model, &outputs, arrived, reply),
            Ok(Fitted::New(fits)) => fits,
            Err(fault) => return self.refuse(reply, &fault),
        };
        let asks = Asks { caller: peer.node.into(), arrived, deadline, priority: context.priority };
        let place = match self.admit(model, asks) {
            Ok(place) => place,
            Err(fault) => {
                model.counters.rejected();
                return self.refuse(reply, &fault);
            }
        };
        let traits = traits(model, &fits, arrived, context.priority);
        let Fits { request, step, cache_key, deadline } = *fits;
        let late = Instant::from_std(traits.deadline);
        let job = Job { request, step, cache_key, arrived, deadline, reply, place };
        match model.push(Waiting { job, traits }) {
            Ok(()) => self.watch.by(late),
            Err(job) => {
                let text = format!("{} lost its sessions; see the node's log", model.id.name);
                self.refuse(job.reply, &Fault::new(FaultCode::ModelUnavailable, text));
            }
        }
    }

    fn admit(&self, model: &Model, asks: Asks) -> Result<Place, Fault> {
        let now = Instant::now();
        let Asks { caller, arrived, deadline, priority } = asks;
        let remaining = deadline.saturating_duration_since(now);
        if remaining.is_zero() {
            let text = "the time ran out before the node could take the call; nothing was run";
            return Err(Fault::new(FaultCode::DeadlineExceeded, text));
        }
        let patience = queued_until(model, arrived).map(|late| late.saturating_duration_since(now));
        let wish = Wish { remaining, patience, priority, caller };
        let admit = || self.queue.admit(&model.lane, wish, now);
        let place = admit().or_else(|refusal| match self.clear_abandoned(now) {
            0 => Err(refusal),
            _ => admit(),
        });
        let place = place.or_else(|refusal| match self.make_way(model, refusal, wish, now) {
            false => Err(refusal),
            true => admit(),
        });
        place.map_err(|refusal| busy(&model.id.name, refusal, wish))
    }

    /// Makes room for a call that has a better right to a place than one that waits: that one is sent away.
    fn make_way(&self, model: &Model, refusal: Refusal, wish: Wish, now: Instant) -> bool {
        let full = match refusal {
            Refusal::Full { .. } => true,
            Refusal::ModelFull { .. } => false,
            // Those before it are before it by right.
            Refusal::TooLate { .. } => return false,
        };
        self.queue.claims(&model.lane, wish, full).any(|claim| self.watch.shed(&claim, now))
    }

    /// Makes room: callers that went away must not keep others out until the watch comes to their calls.
    fn clear_abandoned(&self, now: Instant) -> usize {
        let mut cleared = self.cleared.lock().unwrap_or_else(PoisonError::into_inner);
        if cleared.is_some_and(|last| now < last + CLEAR_PAUSE) {
            return 0;
        }
        *cleared = Some(now);
        self.watch.sweep(now)
    }

    /// Gives the answer that the cache has.
    fn answer_again(&self, model: &Model, outputs: &[Tensor], arrived: Instant, reply: Responder) {
        let (outputs, payload) = join_tensors(outputs);
        let result = InferResult {
            model: model.id.name.clone(),
            version: model.id.version,
            outputs,
            parameters: Parameters::new(),
        };
        model.counters.succeeded_at_once(arrived.elapsed(), now_ms());
        reply.answer(&result, Some(&self.report()), payload);
    }

    /// A refusal carries the load too, so that the caller need not ask a full node again.
    fn refuse(&self, reply: Responder, fault: &Fault) {
        reply.fail(fault, Some(&self.report()));
    }

    /// The report of a call for which nothing was run.
    fn report(&self) -> RunReport {
        RunReport { node: self.node, load: self.load(), queue_us: 0, run_us: 0, attempts: 1, batch: 1 }
    }

    fn takes_work(&self) -> Result<(), Fault> {
        match self.draining.load(Ordering::Acquire) {
            true => Err(draining()),
            false => Ok(()),
        }
    }

    fn order(&self, params: &[u8], reply: Responder, order: fn(ModelParams, Responder) -> Order) {
        let params = match self.takes_work().and_then(|()| decode_part(params)) {
            Ok(params) => params,
            Err(fault) => return reply.fail(&fault, None),
        };
        if let Err(refused) = self.orders.try_send(order(params, reply)) {
            let fault = match refused {
                TrySendError::Full(_) => {
                    Fault::new(FaultCode::Busy, "too many models wait to be loaded or unloaded")
                        .retry_after_ms(ORDER_RETRY_MS)
                }
                TrySendError::Disconnected(_) => {
                    Fault::new(FaultCode::Internal, "the loader is gone; see the node's log")
                }
            };
            let (Order::Load(_, reply) | Order::Unload(_, reply)) = refused.into_inner() else { return };
            reply.fail(&fault, None);
        }
    }

    fn health(&self) -> Health {
        let reason = match (self.takes_work(), self.shelf.is_scanned()) {
            (Err(fault), _) => Some(fault.message),
            (Ok(()), false) => Some("the models are being loaded".to_owned()),
            (Ok(()), true) => None,
        };
        Health { live: true, ready: reason.is_none(), reason }
    }

    pub(crate) fn load(&self) -> LoadReport {
        self.queue.load()
    }
}

/// Why a node that is leaving takes no call.
pub(crate) fn draining() -> Fault {
    Fault::new(FaultCode::Draining, "this node is leaving and takes no new work")
}

/// What became of a look at a call.
enum Fitted {
    /// The cache has its answer.
    Known(Vec<Tensor>),
    New(Box<Fits>),
}

/// Looks whether a call fits its model, and whether its answer is known.
fn fit(
    model: &Model,
    mut params: InferParams,
    context: &CallContext,
    payload: &Bytes,
    deadline: Instant,
) -> Result<Fitted, Fault> {
    let mut given = split_tensors(std::mem::take(&mut params.inputs), payload)?;
    let now = Instant::now();
    let step = model.sequences.as_ref().map(|sequences| sequences.step(context, &params, &mut given, now));
    let step = step.transpose()?;
    // What belongs to a sequence has another answer each time.
    let cache = model.cache.as_ref().filter(|_| step.is_none());
    let cache_key = cache.and_then(|cache| Some((cache.key(&params, &given)?, cache)));
    let known = cache_key.as_ref().and_then(|(key, cache)| cache.get(key));
    let looked = now.elapsed();
    if let Some(outputs) = known {
        model.counters.looked_up(true, looked);
        return Ok(Fitted::Known(outputs));
    }
    let request = model.tasks.fit(&model.id.name, &model.signature, &params, given)?;
    let cache_key = cache_key.map(|(key, _)| key);
    // What does not fit was never accepted, and so not looked for.
    if cache_key.is_some() {
        model.counters.looked_up(false, looked);
    }
    Ok(Fitted::New(Box::new(Fits { request, step, cache_key, deadline })))
}

/// Until when a call may wait, where its model says so.
fn queued_until(model: &Model, arrived: Instant) -> Option<Instant> {
    // One that is too long for the clock is none.
    model.settings.queue.timeout.and_then(|longest| arrived.checked_add(longest.0))
}

/// What of a call matters for its place among those that wait.
fn traits(model: &Model, fits: &Fits, arrived: Instant, priority: u8) -> Traits {
    let rows = match &fits.request {
        Request::Tensors { rows, .. } => *rows,
        Request::Predict(_) | Request::Embed(_) => 1,
    };
    let late = queued_until(model, arrived).map_or(fits.deadline, |late| late.min(fits.deadline));
    Traits {
        rows,
        shape: model.info.batching.as_ref().and_then(|batching| shape(fits, batching.max_size)),
        priority,
        arrived: arrived.into_std(),
        deadline: late.into_std(),
        sequence: fits.step.as_ref().and_then(|step| step.id.clone()),
    }
}

/// What requests must share to run together; `None` where a request belongs to a sequence or is no plain tensors.
fn shape(fits: &Fits, rows_max: u32) -> Option<Arc<[u64]>> {
    let Request::Tensors { fitting, .. } = &fits.request else { return None };
    joining::shape(&fitting.inputs, u64::from(rows_max)).filter(|_| fits.step.is_none())
}

fn busy(name: &ModelName, refusal: Refusal, wish: Wish) -> Fault {
    let wait = refusal.wait().as_millis();
    let text = match (refusal, wish.patience) {
        (Refusal::Full { .. }, _) => {
            format!("this node's queue is full; the wait would be about {wait} ms")
        }
        (Refusal::ModelFull { .. }, _) => {
            format!("the queue of {name} on this node is full; the wait would be about {wait} ms")
        }
        (Refusal::TooLate { wait }, Some(patience)) if patience < wait => format!(
            "the wait on this node would be about {} ms, longer than the queue of {name} lets a request wait",
            wait.as_millis()
        ),
        (Refusal::TooLate { .. }, _) => format!(
            "the wait on this node would be about {wait} ms, too long for the {} ms that are left",
            wish.remaining.as_millis()
        ),
    };
    let again = refusal.come_again_in().as_millis();
    Fault::new(FaultCode::Busy, text).retry_after_ms(u64::try_from(again).unwrap_or(u64::MAX).max(1))
}
