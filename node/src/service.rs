//! Answers the calls of peers: what is quick at once, loading on the loader's thread, inference on a session's.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use crossbeam_channel::{Sender, TrySendError, bounded};
use lineside_mesh::{Incoming, Responder, Served, Service};
use lineside_wire::{
    Fault, FaultCode, Health, InferParams, LoadReport, ModelParams, ModelsResult, NodeId, PayloadBuilder,
    RunReport, StatisticsParams, StatisticsResult, decode_part, method, split_tensors,
};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    loader::Order,
    model::{Ended, Model},
    queue::{Place, Queue, Refusal},
    shelf::{Shelf, fitting},
    statistics,
    task::Request,
    worker::Job,
};

/// Time for a call whose caller set no deadline: nothing waits for ever.
const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// How long the end of a node waits for a run that cannot be stopped.
const END_WAIT_MAX: Duration = Duration::from_secs(5);

/// Shortest time between two searches for waiting calls that nobody wants any more: a node whose calls are all wanted
/// does not look at each of them for every call that it refuses.
const CLEAR_PAUSE: Duration = Duration::from_millis(10);

/// When to come again with an order for which the loader has no room.
const ORDER_RETRY_MS: u64 = 1000;

/// The node's side of the protocol.
pub struct NodeService {
    pub(crate) node: NodeId,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) orders: Sender<Order>,
    pub(crate) draining: AtomicBool,
    /// When the waiting calls were last searched. Touched only by calls that find no place.
    pub(crate) cleared: Mutex<Option<Instant>>,
    pub(crate) ended: Ended,
}

impl Drop for NodeService {
    /// Waits for the loader and the workers: ONNX Runtime must not be at work when the process takes it down.
    fn drop(&mut self) {
        let (closed, _) = bounded(0);
        self.orders = closed;
        self.shelf.close();
        if !self.ended.within(END_WAIT_MAX) {
            warn!("a model still runs while the node ends");
        }
    }
}

/// A call that fits its model and has its place.
struct Accepted {
    model: Arc<Model>,
    request: Request,
    deadline: Instant,
    place: Place,
}

impl Service for NodeService {
    fn serve(&self, call: Incoming) -> Served {
        match call.method.as_str() {
            method::INFER => self.infer(call),
            method::MODELS_LIST => {
                let list = ModelsResult { models: fitting(self.shelf.all()) };
                call.reply.answer(&list, None, PayloadBuilder::new());
            }
            method::MODELS_GET => {
                let found = decode_part::<ModelParams>(&call.params)
                    .and_then(|ModelParams { model, version }| self.shelf.get(&model, version));
                match found {
                    Ok(info) => call.reply.answer(&info, None, PayloadBuilder::new()),
                    Err(fault) => call.reply.fail(&fault, None),
                }
            }
            method::MODELS_STATISTICS => {
                let found = decode_part::<StatisticsParams>(&call.params)
                    .and_then(|params| self.shelf.statistics(&params));
                match found.map(statistics::fitting) {
                    Ok(models) => {
                        call.reply.answer(&StatisticsResult { models }, None, PayloadBuilder::new());
                    }
                    Err(fault) => call.reply.fail(&fault, None),
                }
            }
            method::MODELS_LOAD => self.order(&call.params, call.reply, Order::Load),
            method::MODELS_UNLOAD => self.order(&call.params, call.reply, Order::Unload),
            method::HEALTH => call.reply.answer(&self.health(), None, PayloadBuilder::new()),
            other => {
                let other: String = other.chars().take(64).collect();
                let fault = Fault::new(FaultCode::MethodNotFound, format!("a node has no method {other:?}"));
                call.reply.fail(&fault, None);
            }
        }
        Served::Done
    }
}

impl NodeService {
    fn infer(&self, call: Incoming) {
        let Incoming { params, payload, deadline, arrived, reply, .. } = call;
        let Accepted { model, request, deadline, place } =
            match self.accept(&params, &payload, deadline, arrived) {
                Ok(accepted) => accepted,
                Err(fault) => return reply.fail(&fault, Some(&self.refusal_report())),
            };
        if let Err(job) = model.push(Job { request, arrived, deadline, reply, place }) {
            let text = format!("{} lost its sessions; see the node's log", model.id.name);
            job.reply.fail(&Fault::new(FaultCode::ModelUnavailable, text), Some(&self.refusal_report()));
        }
    }

    fn accept(
        &self,
        params: &[u8],
        payload: &Bytes,
        deadline: Option<Instant>,
        arrived: Instant,
    ) -> Result<Accepted, Fault> {
        self.takes_work()?;
        let mut params: InferParams = decode_part(params)?;
        let tensors = split_tensors(std::mem::take(&mut params.inputs), payload)?;
        let model = self.shelf.find(&params.model, params.version)?;
        let request = model.tasks.fit(&model.id.name, &model.signature, &params, tensors)?;
        let deadline = deadline.unwrap_or(arrived + CALL_TIME_MAX);
        let now = Instant::now();
        let remaining = deadline.saturating_duration_since(now);
        if remaining.is_zero() {
            let text = "the time ran out before the node could take the call; nothing was run";
            return Err(Fault::new(FaultCode::DeadlineExceeded, text));
        }
        let admit = || self.queue.admit(&model.lane, remaining);
        let place = admit().or_else(|refusal| match self.clear_cancelled(now) {
            0 => Err(refusal),
            _ => admit(),
        });
        let place = place.map_err(|refusal| busy(refusal, remaining))?;
        Ok(Accepted { model, request, deadline, place })
    }

    /// Makes room: callers that went away must not keep others out until a session comes to their calls.
    fn clear_cancelled(&self, now: Instant) -> usize {
        let mut cleared = self.cleared.lock().unwrap_or_else(PoisonError::into_inner);
        if cleared.is_some_and(|last| now < last + CLEAR_PAUSE) {
            return 0;
        }
        *cleared = Some(now);
        self.shelf.clear_cancelled()
    }

    fn takes_work(&self) -> Result<(), Fault> {
        match self.draining.load(Ordering::Acquire) {
            true => Err(Fault::new(FaultCode::Draining, "this node is leaving and takes no new work")),
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
            let (Order::Load(_, reply) | Order::Unload(_, reply)) = refused.into_inner();
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

    /// A refusal carries the load too, so that the caller need not ask a full node again.
    fn refusal_report(&self) -> RunReport {
        RunReport { node: self.node, load: self.load(), queue_us: 0, run_us: 0, attempts: 1, batch: 1 }
    }
}

fn busy(refusal: Refusal, remaining: Duration) -> Fault {
    let wait = refusal.wait().as_millis();
    let text = match refusal {
        Refusal::Full { .. } => format!("this node's queue is full; the wait would be about {wait} ms"),
        Refusal::TooLate { .. } => format!(
            "the wait on this node would be about {wait} ms, too long for the {} ms that are left",
            remaining.as_millis()
        ),
    };
    Fault::new(FaultCode::Busy, text).retry_after_ms(u64::try_from(wait).unwrap_or(u64::MAX).max(1))
}
