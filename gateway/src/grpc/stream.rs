//! `ModelStreamInfer`: inferences on one stream, side by side, answered in the order of their requests.
//!
//! Those of one sequence run one after the other, in that order, too: Triton's clients send them without waiting for
//! the answers, and each needs the state that the one before leaves.
//!
//! A task of its own drives each stream, so that what runs goes on while the client does not read; dropping the answers
//! ends it and cancels what it asked of the cluster.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use http::HeaderMap;
use lineside_wire::{Fault, FaultCode, Parameter};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tonic::{Status, Streaming};

use super::{
    generated::inference::{
        ModelInferRequest, ModelInferResponse, ModelStreamInferResponse, infer_parameter::ParameterChoice,
    },
    request::{self, parameter},
    status,
    visit::{Inferred, Message, Visit},
};
use crate::{Cluster, body::Reserved, errors::shown_name};

/// Inferences of one stream that run or wait to be read, at most: enough to keep a few nodes busy over a LAN's round
/// trip, few enough that a client which does not read holds little. Further requests stay with the client.
const IN_FLIGHT_MAX: usize = 16;

/// Answers that wait in the channel; all others wait under [`IN_FLIGHT_MAX`].
const HANDED_OVER_MAX: usize = 1;

/// Longest silence of a client between two requests: a part may take its time, a client that went away without a word
/// must not stay for ever.
pub(super) const QUIET_MAX: Duration = Duration::from_secs(60 * 60);

/// Asks for errors that end the stream with a status, in the place of messages that name an error.
const ERRORS_END: &str = "triton_grpc_error";

/// An answer, and the room of its tensors.
type Answer = (Result<ModelStreamInferResponse, Status>, Option<Reserved>);

/// Whose order is kept: a model's name and a sequence's id, as the client wrote them.
type Sequence = (String, String);

/// When a request of a sequence may run.
struct Turn {
    /// Ends with the request before.
    before: Option<oneshot::Receiver<Infallible>>,
    /// Ends with this one, for the next.
    _own: Option<oneshot::Sender<Infallible>>,
}

/// The answers of one stream.
pub(super) struct Answers {
    answers: mpsc::Receiver<Answer>,
    /// How the stream ended; set before the channel closes.
    end: Arc<OnceLock<Result<(), Status>>>,
    is_over: bool,
    /// Of the answer that is being written.
    _writing: Option<Reserved>,
    _driver: JoinSet<()>,
}

impl Stream for Answers {
    type Item = Result<ModelStreamInferResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some((answer, room)) = ready!(self.answers.poll_recv(cx)) {
            self._writing = room;
            return Poll::Ready(Some(answer));
        }
        self.is_over = true;
        match self.end.get() {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(status)) => Poll::Ready(Some(Err(status.clone()))),
            // The driver has panicked.
            None => Poll::Ready(Some(Err(defect()))),
        }
    }
}

fn defect() -> Status {
    let text = "the stream ended by a defect of the gateway; see its log";
    status::of_fault(Fault::new(FaultCode::Internal, text))
}

/// Answers what comes on a stream.
pub(super) fn open<C: Cluster>(
    visit: Arc<Visit<C>>,
    headers: HeaderMap,
    requests: Streaming<ModelInferRequest>,
) -> Answers {
    let (sender, answers) = mpsc::channel(HANDED_OVER_MAX);
    let end = Arc::new(OnceLock::new());
    let errors_end = headers.get(ERRORS_END).is_some_and(|value| value.as_bytes() == b"true");
    let driver = Driver {
        visit,
        headers,
        errors_end,
        requests,
        is_open: true,
        running: JoinSet::new(),
        begun: 0,
        sent: 0,
        sequences: HashMap::new(),
        ready: BTreeMap::new(),
        end: Ok(()),
    };
    let mut driving = JoinSet::new();
    let told = Arc::clone(&end);
    driving.spawn(async move {
        let outcome = driver.run(&sender).await;
        drop(told.set(outcome));
        drop(sender);
    });
    Answers { answers, end, is_over: false, _writing: None, _driver: driving }
}

struct Driver<C> {
    visit: Arc<Visit<C>>,
    headers: HeaderMap,
    errors_end: bool,
    requests: Streaming<ModelInferRequest>,
    /// Whether requests are still taken.
    is_open: bool,
    running: JoinSet<(u64, Answer)>,
    /// Requests that were taken, and answers that were handed over: both are numbers of the next one.
    begun: u64,
    sent: u64,
    /// The newest request of each sequence that has one running: its number, and what ends with it. At most as many as
    /// run.
    sequences: HashMap<Sequence, (u64, oneshot::Receiver<Infallible>)>,
    /// Answers whose turn has not come, or that nobody has taken yet.
    ready: BTreeMap<u64, Answer>,
    /// How the stream ends when everything is answered.
    end: Result<(), Status>,
}

/// Everything that wakes a stream.
enum Event<'a> {
    /// A request, the end of all requests, or the reason why no more can be read.
    Request(Result<Option<ModelInferRequest>, Status>),
    /// An inference is answered.
    Answered(Result<(u64, Answer), JoinError>),
    /// The next answer can be handed over; an error when nobody wants it any more.
    Wanted(Result<mpsc::Permit<'a, Answer>, mpsc::error::SendError<()>>),
    /// The next answer was left unread for too long.
    Unread,
    /// The client's time for the stream is over.
    Late,
    /// The gateway leaves.
    Leave,
}

impl<C: Cluster> Driver<C> {
    /// Runs to the end of the stream, and gives it.
    async fn run(mut self, answers: &mpsc::Sender<Answer>) -> Result<(), Status> {
        let (leaving, notice) = (self.visit.door.leaving.clone(), self.visit.shared().config.notice);
        let leave = async {
            leaving.cancelled().await;
            tokio::time::sleep(notice).await;
        };
        let mut leave = std::pin::pin!(leave);
        let latest = self.visit.end();
        let unread_max = self.visit.shared().config.write_idle_max;
        let mut unread_until = None;
        while self.is_open || self.sent < self.begun {
            let is_ready = self.ready.contains_key(&self.sent);
            let until = match is_ready {
                true => *unread_until.get_or_insert_with(|| Instant::now() + unread_max),
                false => Instant::now(),
            };
            let event = tokio::select! {
                request = self.requests.message(), if self.is_open && self.has_room() => Event::Request(request),
                Some(answered) = self.running.join_next() => Event::Answered(answered),
                permit = answers.reserve(), if is_ready => Event::Wanted(permit),
                () = sleep_until(until), if is_ready => Event::Unread,
                () = sleep_until(latest.unwrap_or(until)), if latest.is_some() => Event::Late,
                () = leave.as_mut(), if self.is_open => Event::Leave,
            };
            match event {
                Event::Request(Ok(Some(request))) => self.begin(request, latest),
                Event::Request(Ok(None)) => self.is_open = false,
                Event::Request(Err(status)) => self.close(status),
                Event::Answered(Ok((number, answer))) => {
                    self.sequences.retain(|_, (newest, _)| *newest != number);
                    self.ready.insert(number, answer);
                }
                Event::Answered(Err(_)) => return Err(defect()),
                Event::Wanted(permit) => {
                    let Ok(permit) = permit else { return Ok(()) };
                    let Some((answer, room)) = self.ready.remove(&self.sent) else { continue };
                    unread_until = None;
                    self.sent += 1;
                    match answer {
                        Ok(answer) => permit.send((Ok(answer), room)),
                        Err(status) => return Err(status),
                    }
                }
                Event::Unread => {
                    return Err(refused(FaultCode::Cancelled, "the answers of the stream are not read"));
                }
                Event::Late => {
                    return Err(refused(
                        FaultCode::DeadlineExceededRunning,
                        "the time for the stream is over",
                    ));
                }
                Event::Leave => {
                    self.close(refused(FaultCode::Draining, "this gateway is leaving: ask another"));
                }
            }
        }
        self.end
    }

    fn has_room(&self) -> bool {
        self.begun - self.sent < IN_FLIGHT_MAX as u64
    }

    /// Takes no further request; what was begun is still answered.
    fn close(&mut self, status: Status) {
        (self.is_open, self.end) = (false, Err(status));
    }

    /// The turn of the request with this number.
    fn turn(&mut self, request: &ModelInferRequest, number: u64) -> Turn {
        let Some(sequence) = sequence(request) else { return Turn { before: None, _own: None } };
        let (own, ended) = oneshot::channel();
        let before = self.sequences.insert(sequence, (number, ended));
        Turn { before: before.map(|(_, ended)| ended), _own: Some(own) }
    }

    fn begin(&mut self, request: ModelInferRequest, latest: Option<Instant>) {
        let number = self.begun;
        self.begun += 1;
        let mut turn = self.turn(&request, number);
        let (visit, errors_end) = (Arc::clone(&self.visit), self.errors_end);
        // Repeated in an error.
        let whose = ModelInferResponse {
            model_name: shown_name(&request.model_name),
            model_version: request.model_version.chars().take(32).collect(),
            id: request::id(&request.id).unwrap_or_default().to_owned(),
            ..ModelInferResponse::default()
        };
        let taken = self.visit.held.take().map_err(status::of_fault);
        let caller = self.visit.caller(&self.headers);
        let arrived = Instant::now();
        self.running.spawn(async move {
            if let Some(before) = turn.before.take() {
                // It sends nothing: it ends.
                let Err(_) = before.await;
            }
            let answered = async {
                let ((room, bytes), caller) = (taken?, caller?);
                let message = Message { request, room, bytes, arrived };
                // The stream has paid for its first inference at the door.
                visit.run(message, &caller, u32::from(0 < number), latest).await
            };
            let answer = match answered.await {
                Ok(inferred) => succeeded(inferred),
                Err(status) if errors_end => (Err(status), None),
                Err(status) => (Ok(failed(&status, whose)), None),
            };
            drop(turn);
            (number, answer)
        });
    }
}

/// Whose order a request must keep, where it has a sequence. One that is too long to be an id is refused later.
fn sequence(request: &ModelInferRequest) -> Option<Sequence> {
    let id = match request.parameters.get("sequence_id")?.parameter_choice.as_ref()? {
        ParameterChoice::Int64Param(0) | ParameterChoice::Uint64Param(0) => return None,
        ParameterChoice::Int64Param(id) => id.to_string(),
        ParameterChoice::Uint64Param(id) => id.to_string(),
        ParameterChoice::StringParam(id) if !id.is_empty() => id.clone(),
        ParameterChoice::StringParam(_) | ParameterChoice::BoolParam(_) | ParameterChoice::DoubleParam(_) => {
            return None;
        }
    };
    Some((request.model_name.clone(), id))
}

fn refused(code: FaultCode, text: &str) -> Status {
    status::of_fault(Fault::new(code, text))
}

fn succeeded(inferred: Inferred) -> Answer {
    let Inferred { mut response, room, .. } = inferred;
    // Every request has one answer. Clients that do not know how many there will be look for this.
    response.parameters.insert("triton_final_response".to_owned(), parameter(Parameter::Bool(true)));
    (
        Ok(ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }),
        Some(room),
    )
}

/// An error that leaves the stream open: in words, and for programs as parameters.
fn failed(status: &Status, mut whose: ModelInferResponse) -> ModelStreamInferResponse {
    for (name, value) in status::details(status) {
        whose.parameters.insert(name.to_owned(), parameter(Parameter::Text(value)));
    }
    ModelStreamInferResponse { error_message: status.message().to_owned(), infer_response: Some(whose) }
}
