//! The methods as JSON-RPC, over HTTP and WebSocket.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use lineside_client::InferCall;
use lineside_wire::{CallContext, Fault, FaultCode, NodeId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    Asked, Params, answer_query, may, read,
    table::{self, Row, Wire},
    work,
};
use crate::{
    Cluster,
    answer::Answer,
    ask::Ask,
    body::Reserved,
    discover,
    door::Door,
    errors::Refusal,
    explain::Flight,
    gate::{Caller, Cost},
    head,
    jsonrpc::{self, Call, Document, Id, Outcome},
    oip::{self, InferRequest},
    shared::{has_run, shorter},
    socket::{Out, Outbox},
};

/// The notification with a part of a streamed result.
const ITEM: &str = "$/item";

/// `POST /rpc`.
pub(crate) async fn answer<C: Cluster>(ask: &mut Ask<'_, '_, C>) -> Result<Answer, Refusal> {
    let (bytes, room) = ask.body().await?;
    let _place = ask.enter()?;
    let document = Document::read(&bytes);
    let mut asker = Asker::new(ask.door, &ask.caller, Wire::Http, ask.arrived(), document.entries().len());
    (asker.timeout, asker.traceparent) = (ask.timeout, head::traceparent(&ask.head.headers));
    asker.affinity = head::affinity(&ask.head.headers)?;
    // The request has paid for its first call at the door, and has that one's place.
    asker.paid = AtomicBool::new(true);
    let answered = document.answer(|call| asker.call(call)).await;
    // The request is no longer held, so the answer may take its room.
    drop((bytes, room));
    let mut answer = match answered {
        Some(json) => {
            let room = asker.room(json.len())?;
            Answer::text(StatusCode::OK, "application/json", json).holding(room)
        }
        None => Answer::text(StatusCode::NO_CONTENT, "application/json", Bytes::new()),
    };
    if let Some(Worked { node, attempts, flight }) = asker.worked() {
        (answer.node, answer.attempts, answer.flight) = (node, Some(attempts), Some(flight));
    }
    Ok(answer)
}

/// What the calls of one request or message have together.
pub(crate) struct Asker<'a, C> {
    pub(crate) door: &'a Door<C>,
    pub(crate) caller: &'a Caller,
    wire: Wire,
    pub(crate) arrived: Instant,
    /// The time that the request's head names.
    pub(crate) timeout: Option<Duration>,
    pub(crate) traceparent: Option<String>,
    /// The key that draws its inferences to one node, where the head names one.
    pub(crate) affinity: Option<String>,
    /// Whether the next call is charged already, and has its place.
    pub(crate) paid: AtomicBool,
    /// Where the parts of a streamed result go; `None` where there are none.
    pub(crate) items: Option<Outbox>,
    /// Bytes that the results may still have; `None` of a single request, which only the door's room limits.
    left: Mutex<Option<usize>>,
    /// Who worked: one entry per inference.
    work: Mutex<Vec<Worked>>,
    /// The room of all answers.
    room: Mutex<Option<Reserved>>,
}

/// Who worked for an inference, after how many tries.
#[derive(Clone, Copy)]
pub(crate) struct Worked {
    node: Option<NodeId>,
    attempts: u8,
    flight: Flight,
}

impl<'a, C> Asker<'a, C> {
    pub(crate) fn new(
        door: &'a Door<C>,
        caller: &'a Caller,
        wire: Wire,
        arrived: Instant,
        entries: usize,
    ) -> Self {
        // The results of a batch are held until the last of them is there, so together they may be as long as a body.
        let left = (1 < entries).then_some(door.shared.config.body_bytes_max);
        Self {
            door,
            caller,
            wire,
            arrived,
            timeout: None,
            traceparent: None,
            affinity: None,
            paid: AtomicBool::new(false),
            items: None,
            left: Mutex::new(left),
            work: Mutex::default(),
            room: Mutex::default(),
        }
    }

    fn record(&self, worked: Worked) {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).push(worked);
    }

    fn keep(&self, more: Reserved) {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *room {
            Some(room) => room.join(more),
            none => *none = Some(more),
        }
    }

    /// The room of an answer so long. Results have theirs already; ids, errors and commas come to it.
    ///
    /// # Errors
    /// There is none. What was called has run.
    pub(crate) fn room(&self, answer: usize) -> Result<Reserved, Fault> {
        let room = self.room.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut room = room.map_or_else(|| self.door.shared.bodies.reserve(0), Ok)?;
        room.cover(answer).map_err(has_run)?;
        Ok(room)
    }

    /// Who worked for this request, when it was one inference: an answer's head can name only one.
    pub(crate) fn worked(self) -> Option<Worked> {
        match self.work.into_inner().unwrap_or_else(PoisonError::into_inner)[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Takes `bytes` off what the results may have together.
    fn spend(&self, bytes: usize) -> Result<(), Fault> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = &mut *left else { return Ok(()) };
        match left.checked_sub(bytes) {
            Some(rest) => *left = rest,
            None => {
                let text = "the results of the batch are longer together than a body may be (body_bytes_max): ask in \
                            several batches";
                return Err(has_run(Fault::new(FaultCode::LimitExceeded, text)));
            }
        }
        Ok(())
    }
}

impl<C: Cluster> Asker<'_, C> {
    /// Runs one call of its wire.
    pub(crate) async fn call(&self, call: Call<'_>) -> Outcome {
        let row = match self.paid.swap(false, Ordering::Relaxed) {
            true => return self.run(table::find(&call.method, self.wire)?, &call).await,
            false => {
                self.door.charge_more(self.caller, Cost::ONE)?;
                table::find(&call.method, self.wire)?
            }
        };
        let _place = self.door.shared.enter(self.caller.charged)?;
        self.run(row, &call).await
    }

    async fn run(&self, row: &Row, call: &Call<'_>) -> Outcome {
        let (cluster, shared) = (&*self.door.cluster, &*self.door.shared);
        let given = match read(shared, self.caller, row, &Json(call.params))? {
            Asked::Query(query) => answer_query(cluster, shared, query)?,
            Asked::Work(asked) => {
                let deadline = asked.deadline(shared, self.arrived, self.timeout);
                work(cluster, asked, deadline).await?
            }
            Asked::Infer => return self.infer(row, call).await,
            Asked::Discover => {
                return self.held(discover::document().to_owned(), shared.bodies.reserve(0)?);
            }
            // A WebSocket serves it before it comes here, and POST does not have it.
            Asked::Watch => return Err(table::unserved(row)),
        };
        let json =
            serde_json::to_string(&given.seen_by(shared, self.caller)).map_err(|error| broken(&error))?;
        let room = shared.bodies.reserve(json.len())?;
        self.held(json, room)
    }

    async fn infer(&self, row: &Row, call: &Call<'_>) -> Outcome {
        let shared = &*self.door.shared;
        let (extra, request) = inference(call.params)?;
        let items = self.items.as_ref().zip(call.id).filter(|_| extra.stream);
        if extra.stream && self.items.is_none() {
            let text = "params: a streamed result needs the WebSocket at /rpc/ws: leave stream out";
            return Err(Fault::new(FaultCode::InvalidParams, text));
        }
        let model = request.params.model.clone();
        may(shared, self.caller, row, Some(model.as_str()))?;
        self.door.charge_more(self.caller, Cost { calls: 0, bytes: 0, model: Some(model.as_str()) })?;
        let made = shared.bodies.reserve(request.made)?;
        if request.wants.any_binary() {
            let text = "JSON-RPC carries no binary tensor data: ask for base64 (encoding), or use POST /v2/models/{model}/infer";
            return Err(Fault::new(FaultCode::InvalidParams, text));
        }
        let timeout = shorter(shorter(self.timeout, extra.timeout()), request.timeout);
        let context = CallContext {
            traceparent: extra.traceparent().or_else(|| self.traceparent.clone()),
            priority: request.priority,
            session: request.session,
            affinity: shared.affinity(self.caller, request.affinity.or_else(|| self.affinity.clone())),
            ..CallContext::default()
        };
        let deadline = shared.deadline(self.arrived, timeout);
        let call = InferCall { params: request.params, payload: request.payload, deadline, context };
        let answered = shared.infer(&*self.door.cluster, call).await;
        let (reply, mut room) = answered.map_err(|(error, fault)| {
            let (node, attempts) = (error.node(), error.attempts());
            self.record(Worked { node, attempts, flight: Flight::failed(node, attempts) });
            fault
        })?;
        let (node, attempts) = (Some(reply.report.node), reply.report.attempts);
        self.record(Worked { node, attempts, flight: Flight::from(&reply.report) });
        drop(made);
        let answer = oip::write(reply, request.id.as_deref(), &request.wants)?;
        room.grow(answer.json.len()).map_err(has_run)?;
        let json = String::from_utf8(answer.json).map_err(|error| broken(&error))?;
        match items {
            Some((outbox, id)) => stream(outbox, id, json, room).await,
            None => self.held(json, room),
        }
    }

    /// A result, and the room that it takes until it is written.
    fn held(&self, json: String, room: Reserved) -> Outcome {
        self.spend(json.len())?;
        self.keep(room);
        RawValue::from_string(json).map_err(|error| broken(&error))
    }
}

/// Reads the params of an inference. Pure.
///
/// # Errors
/// Says in words which part of them is wrong, and what it should be.
pub(crate) fn inference(params: Option<&RawValue>) -> Result<(Extra, InferRequest), Fault> {
    let params = by_name(params)?;
    Ok((Extra::read(params)?, oip::parse_named(params)?))
}

/// Sends the one part of a streamed result that a model gives today, and gives its end.
async fn stream(outbox: &Outbox, id: Id<'_>, json: String, room: Reserved) -> Outcome {
    #[derive(Serialize)]
    struct Item<'a> {
        id: Id<'a>,
        number: u64,
        item: Box<RawValue>,
    }
    #[derive(Serialize)]
    struct Ended {
        items: u64,
    }
    let item = RawValue::from_string(json).map_err(|error| broken(&error))?;
    let text = jsonrpc::notification(ITEM, &Item { id, number: 0, item });
    // The connection that nobody writes any more is gone, and with it this call.
    drop(outbox.send(Out::Text(text, Some(room))).await);
    result(&Ended { items: 1 })
}

/// The params of a call as JSON.
pub(crate) struct Json<'a>(pub(crate) Option<&'a RawValue>);

impl Params for Json<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        let invalid = |error| Fault::new(FaultCode::InvalidParams, format!("params: {error}"));
        serde_json::from_str(by_name(self.0)?).map_err(invalid)
    }
}

/// The params of a method of this crate's own, such as `$/cancelRequest`.
///
/// # Errors
/// They are others.
pub(crate) fn params<'a, T: Deserialize<'a>>(params: Option<&'a RawValue>) -> Result<T, Fault> {
    let invalid = |error| Fault::new(FaultCode::InvalidParams, format!("params: {error}"));
    serde_json::from_str(by_name(params)?).map_err(invalid)
}

/// A result of this crate's own.
pub(crate) fn result<T: Serialize>(value: &T) -> Outcome {
    serde_json::value::to_raw_value(value).map_err(|error| broken(&error))
}

/// What an inference's params have beside the Open Inference Protocol's: over a socket there is no head to say it.
#[derive(Default, Deserialize)]
pub(crate) struct Extra {
    #[serde(default)]
    timeout_ms: Option<u32>,
    #[serde(default)]
    traceparent: Option<String>,
    #[serde(default)]
    stream: bool,
}

impl Extra {
    /// # Errors
    /// One of them is there and is none.
    fn read(params: &str) -> Result<Self, Fault> {
        let extra: Self = serde_json::from_str(params)
            .map_err(|error| Fault::new(FaultCode::InvalidParams, format!("params: {error}")))?;
        match extra.timeout_ms {
            Some(0) => {
                let text = "params: timeout_ms must be a whole number of milliseconds, 1 or more";
                Err(Fault::new(FaultCode::InvalidParams, text))
            }
            _ => Ok(extra),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(|ms| Duration::from_millis(ms.into()))
    }

    fn traceparent(&self) -> Option<String> {
        head::valid_traceparent(self.traceparent.as_deref()?)
    }
}

/// The text of the params, which are given by name.
fn by_name(params: Option<&RawValue>) -> Result<&str, Fault> {
    let params = params.map_or("{}", RawValue::get);
    match params.starts_with('{') {
        true => Ok(params),
        false => {
            let text = "params: give them by name, as an object";
            Err(Fault::new(FaultCode::InvalidParams, text))
        }
    }
}

fn broken(error: &dyn std::error::Error) -> Fault {
    Fault::new(FaultCode::Internal, format!("the answer does not fit JSON: {error}"))
}
