//! One request, from its head to its answer: checked, charged, routed, answered, counted.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::body::{Body as _, Incoming};
use lineside_wire::{Fault, FaultCode};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    Cluster,
    answer::Answer,
    body::{self, BodyLimits, Pieces, Reserved},
    errors::{Refusal, whole_seconds},
    head,
    infer::Asked,
    jsonrpc,
    limit::{Allowance, ClientKey, ratelimit},
    line::Line,
    metrics,
    oip::{self, ModelMetadata, ModelReady, ServerMetadata},
    route::{NO_ROUTE, Route},
    rpc::{self, Asker},
    shared::{Place, Shared},
};

const REQUEST_ID: HeaderName = HeaderName::from_static(head::REQUEST_ID);
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The status that is counted when a client hung up before its answer. Never sent.
const CLIENT_GONE: u16 = 499;

/// One shard's door.
pub(crate) struct Door<C> {
    pub(crate) cluster: Arc<C>,
    pub(crate) shared: Arc<Shared>,
    /// The order to leave.
    pub(crate) leaving: CancellationToken,
}

/// What is known of a request while it is worked on. Dropped unfinished when its client hangs up.
struct Visit<'a> {
    shared: &'a Shared,
    line: &'a Line,
    id: HeaderValue,
    arrived: Instant,
    route: &'static str,
    allowance: Option<Allowance>,
    /// Whether the next request on the connection can be read.
    body_read: bool,
    /// Whether nobody can say where that next request begins.
    broken: bool,
    finished: bool,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.metrics.answered(self.route, CLIENT_GONE, self.arrived.elapsed());
        }
    }
}

impl<C: Cluster> Door<C> {
    /// Answers one request. Dropping the future cancels what it asked of the cluster.
    pub(crate) async fn answer(
        &self,
        line: &Line,
        peer: IpAddr,
        request: Request<Incoming>,
    ) -> Response<Pieces> {
        line.begin();
        let (head, mut body) = request.into_parts();
        let mut visit = Visit {
            shared: &self.shared,
            line,
            id: head::request_id(&head.headers),
            arrived: Instant::now(),
            route: NO_ROUTE,
            allowance: None,
            body_read: body.is_end_stream(),
            broken: false,
            finished: false,
        };
        let span = tracing::debug_span!("request", id = ?visit.id, path = head.uri.path());
        let outcome = self.serve(&mut visit, head, &mut body, peer).instrument(span).await;
        if !visit.body_read && !visit.broken {
            visit.body_read = body::skim(&mut body).await;
        }
        visit.finish(outcome)
    }

    async fn serve(
        &self,
        visit: &mut Visit<'_>,
        head: Parts,
        body: &mut Incoming,
        peer: IpAddr,
    ) -> Result<Answer, Refusal> {
        head::check(&head, visit.line).inspect_err(|_| visit.broken = true)?;
        let route = Route::find(&head.method, head.uri.path())?;
        visit.route = route.label();
        if route.is_free() {
            return Ok(self.free(&route, &visit.id));
        }
        let client = self.charge(visit, &head, peer)?;
        let models = || self.cluster.models();
        match &route {
            Route::Infer(target) => {
                let timeout = head::timeout(&head.headers, self.shared.config.deadline_max)?;
                let body = self.body(visit, &head, body, timeout).await?;
                let _place = self.shared.enter()?;
                let asked =
                    Asked::read(&*self.cluster, &self.shared, &head, target, body, visit.arrived, timeout)?;
                // Head and small bodies are slices of hyper's read buffer, which it uses again once nobody holds it.
                drop(head);
                asked.infer(&*self.cluster, &self.shared).await
            }
            Route::Rpc => {
                let timeout = head::timeout(&head.headers, self.shared.config.deadline_max)?;
                let (bytes, _room) = self.body(visit, &head, body, timeout).await?;
                let _place = self.shared.enter()?;
                let asker = Asker::new(visit.arrived, timeout, head::traceparent(&head.headers));
                Ok(self.rpc(asker, client, &bytes).await)
            }
            Route::Model(target) => {
                let models = models();
                let model = oip::find(&models, &target.model, target.version.as_deref())?;
                Ok(Answer::json(StatusCode::OK, &ModelMetadata::of(model, &models)?))
            }
            Route::ModelReady(target) => {
                let models = models();
                let model = oip::find(&models, &target.model, target.version.as_deref())?;
                Ok(Answer::json(StatusCode::OK, &ModelReady::of(model)?))
            }
            Route::Server => Ok(Answer::json(StatusCode::OK, &ServerMetadata::default())),
            Route::Live | Route::Ready | Route::Health | Route::Metrics => Ok(self.free(&route, &visit.id)),
        }
    }

    /// Answers what no limit holds back.
    fn free(&self, route: &Route<'_>, id: &HeaderValue) -> Answer {
        #[derive(Serialize)]
        struct Live {
            live: bool,
        }
        match route {
            Route::Metrics => {
                let (members, models) = (self.cluster.members(), self.cluster.models());
                let text = self.shared.metrics.text(members, &models, self.cluster.trust());
                Answer::text(StatusCode::OK, metrics::CONTENT_TYPE, text)
            }
            Route::Health => {
                let ready = self.shared.ready(&*self.cluster);
                readiness(ready.as_ref().err(), id, &rpc::health(ready.clone()))
            }
            Route::Ready => {
                let ready = self.shared.ready(&*self.cluster);
                readiness(ready.as_ref().err(), id, &Ready { ready: ready.is_ok() })
            }
            Route::Live
            | Route::Server
            | Route::Model(_)
            | Route::ModelReady(_)
            | Route::Infer(_)
            | Route::Rpc => Answer::json(StatusCode::OK, &Live { live: true }),
        }
    }

    /// Charges one request to its client.
    fn charge(
        &self,
        visit: &mut Visit<'_>,
        head: &Parts,
        peer: IpAddr,
    ) -> Result<Option<ClientKey>, Refusal> {
        let Some(limiter) = &self.shared.limiter else { return Ok(None) };
        let key = head.headers.get(head::API_KEY).map(HeaderValue::as_bytes);
        let client = limiter.client(key, peer);
        match limiter.charge(client) {
            Ok(allowance) => {
                visit.allowance = Some(allowance);
                Ok(Some(client))
            }
            Err(too_soon) => {
                self.shared.metrics.rate_limited.inc();
                let more_in_seconds = whole_seconds(too_soon.wait);
                visit.allowance = Some(Allowance { remaining: 0, more_in_seconds });
                Err(limiter.fault(too_soon).into())
            }
        }
    }

    /// Reads the body, unless the door is full anyway.
    async fn body(
        &self,
        visit: &mut Visit<'_>,
        head: &Parts,
        body: &mut Incoming,
        timeout: Option<Duration>,
    ) -> Result<(Bytes, Reserved), Refusal> {
        head::check_encoding(&head.headers)?;
        self.shared.has_room()?;
        let config = &self.shared.config;
        let limits = BodyLimits {
            bytes_max: config.body_bytes_max,
            idle_max: config.body_idle_max,
            deadline: self.shared.deadline(visit.arrived, timeout),
        };
        let collected = body::collect(body, limits, &self.shared.bodies).await;
        (visit.body_read, visit.broken) = (collected.is_ok(), collected.is_err());
        collected
    }

    async fn rpc(&self, asker: Asker, client: Option<ClientKey>, body: &Bytes) -> Answer {
        // The request has paid for its first call, and has that one's place.
        let paid = AtomicBool::new(true);
        let answered = jsonrpc::answer(body, |call| {
            let admitted = match paid.swap(false, Ordering::Relaxed) {
                true => Ok(None),
                false => self.admit(client).map(Some),
            };
            let asker = &asker;
            async move {
                let _place = admitted?;
                rpc::json_call(&*self.cluster, &self.shared, asker, call).await
            }
        });
        let mut answer = match answered.await {
            Some(json) => Answer::text(StatusCode::OK, "application/json", json),
            None => Answer::text(StatusCode::NO_CONTENT, "application/json", Bytes::new()),
        };
        if let Some(room) = asker.room() {
            answer.body = answer.body.holding(room);
        }
        if let Some((node, attempts)) = asker.work() {
            (answer.node, answer.attempts) = (node, Some(attempts));
        }
        answer
    }

    /// Charges a further call of a batch, and gives it a place.
    fn admit(&self, client: Option<ClientKey>) -> Result<Place<'_>, Fault> {
        if let (Some(limiter), Some(client)) = (&self.shared.limiter, client) {
            limiter.charge(client).map_err(|too_soon| {
                self.shared.metrics.rate_limited.inc();
                limiter.fault(too_soon)
            })?;
        }
        self.shared.enter()
    }
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
}

/// Whether the door is ready, as `said`; with an error like any other where it is not.
fn readiness<T: Serialize>(reason: Option<&String>, id: &HeaderValue, said: &T) -> Answer {
    #[derive(Serialize)]
    struct NotReady<'a, T> {
        error: &'a str,
        code: &'static str,
        request_id: &'a str,
        #[serde(flatten)]
        said: &'a T,
    }
    let Some(error) = reason else { return Answer::json(StatusCode::OK, said) };
    let request_id = id.to_str().unwrap_or_default();
    Answer::json(StatusCode::SERVICE_UNAVAILABLE, &NotReady { error, code: "NOT_READY", request_id, said })
}

impl Visit<'_> {
    /// Writes the head of the answer, and counts it.
    fn finish(mut self, outcome: Result<Answer, Refusal>) -> Response<Pieces> {
        self.finished = true;
        let mut response = match outcome {
            Ok(answer) => answer.into_response(),
            Err(refusal) => self.refused(refusal),
        };
        let status = response.status();
        let headers = response.headers_mut();
        self.limits(headers);
        let closes = self.broken || !self.body_read;
        if closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        headers.insert(REQUEST_ID, std::mem::replace(&mut self.id, HeaderValue::from_static("")));
        self.line.end(closes);
        self.shared.metrics.answered(self.route, status.as_u16(), self.arrived.elapsed());
        response
    }

    fn refused(&self, refusal: Refusal) -> Response<Pieces> {
        let request_id = self.id.to_str().unwrap_or_default();
        let (route, code, reason) = (self.route, refusal.name(), refusal.message());
        // What the client did wrong is its own affair; a defect of ours is somebody's work.
        match refusal.name() == FaultCode::Internal.name() {
            true => tracing::error!(request_id, route, code, reason, "a request failed by a defect"),
            false => tracing::debug!(request_id, route, code, reason, "a request was refused"),
        }
        refusal.into_response(request_id)
    }

    fn limits(&self, headers: &mut HeaderMap) {
        let (Some(limiter), Some(left)) = (&self.shared.limiter, self.allowance) else { return };
        headers.insert(RATELIMIT_POLICY, limiter.policy().clone());
        let left = ratelimit(left.remaining, left.more_in_seconds);
        headers.insert(RATELIMIT, HeaderValue::try_from(left).expect("digits and quotes are legal"));
    }
}
