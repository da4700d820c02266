//! One request, from its head to its answer: checked, charged, routed, answered, counted.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use lineside_wire::{Fault, FaultCode};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    Change, Cluster,
    answer::Answer,
    ask::Ask,
    body::{self, OutBody},
    codec,
    errors::Refusal,
    explain,
    gate::{Caller, Cost, Origin, Permission},
    grpc, head,
    health::{self, Asked},
    infer,
    limit::{Allowances, TooSoon},
    line::Line,
    metrics, openai, openapi, pages, predict, rest,
    route::{NO_ROUTE, Route},
    rpc,
    shared::Shared,
    socket,
};

/// One shard's door.
pub(crate) struct Door<C> {
    pub(crate) cluster: Arc<C>,
    pub(crate) shared: Arc<Shared>,
    /// The order to leave.
    pub(crate) leaving: CancellationToken,
    /// Connections that left HTTP behind, which the shard waits for at its end.
    pub(crate) sockets: TaskTracker,
}

/// What is known of a request while it is worked on. Dropped unfinished when its client hangs up.
pub(crate) struct Visit<'a> {
    shared: &'a Shared,
    line: &'a Line,
    pub(crate) id: HeaderValue,
    pub(crate) arrived: Instant,
    route: &'static str,
    /// What is left of the limits that the request was charged to.
    left: Allowances,
    /// Whether the next request on the connection can be read.
    pub(crate) body_read: bool,
    /// Whether nobody can say where that next request begins.
    pub(crate) broken: bool,
    /// Whether the client wants to know how its answer came about.
    explains: bool,
    /// Whether refusals have the form that OpenAI's clients read.
    as_openai: bool,
    /// Whether a connection carries one request at a time: HTTP/2 has no header to close it by.
    in_turn: bool,
    finished: bool,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.metrics.answered(self.route, metrics::CLIENT_GONE, self.arrived.elapsed());
        }
    }
}

impl<C: Cluster> Door<C> {
    /// Answers one request. Dropping the future cancels what it asked of the cluster.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        line: &Line,
        origin: &Origin,
        request: Request<Incoming>,
    ) -> Response<OutBody> {
        line.begin();
        if grpc::is_grpc(request.headers()) {
            // Over HTTP/1.1 it is refused, and its body left unread.
            let closes = request.version() < Version::HTTP_2;
            let response = grpc::answer(self, origin, request).await;
            line.end(closes);
            return response;
        }
        let (head, mut body) = request.into_parts();
        let mut visit = Visit {
            shared: &self.shared,
            line,
            id: head::request_id(&head.headers),
            arrived: Instant::now(),
            route: NO_ROUTE,
            left: Allowances::default(),
            body_read: body.is_end_stream(),
            broken: false,
            explains: explain::is_asked(&head.headers, &head.uri),
            as_openai: openai::is_ours(head.uri.path()),
            in_turn: head.version < Version::HTTP_2,
            finished: false,
        };
        let span = tracing::debug_span!("request", id = ?visit.id, path = head.uri.path());
        let outcome = self.serve(&mut visit, head, &mut body, origin).instrument(span).await;
        if !visit.body_read && !visit.broken {
            visit.body_read = body::skim(&mut body).await;
        }
        visit.finish(outcome)
    }

    async fn serve(
        self: &Arc<Self>,
        visit: &mut Visit<'_>,
        head: http::request::Parts,
        body: &mut Incoming,
        origin: &Origin,
    ) -> Result<Answer, Refusal> {
        head::check(&head, visit.line).inspect_err(|_| visit.broken = true)?;
        let path = head.uri.path().to_owned();
        let route = Route::find(&head.method, &path)?;
        visit.route = route.label();
        if route.is_free() {
            return Ok(self.free(&route, head.uri.query(), &visit.id));
        }
        if route.works(&head.method) {
            pages::check(&head, &self.shared.settings().allowed_origins)?;
        }
        let caller = match route.is_public() {
            true => self.shared.anybody(origin, &head.headers),
            false => self.shared.caller(origin, &head.headers)?,
        };
        // Whoever only looks at a model takes nothing from those who run it.
        let model = route.model().filter(|_| route.permission() == Some(Permission::Infer));
        self.charge(visit, &caller, Cost { model, ..Cost::ONE })?;
        if let Some(permission) = route.permission() {
            self.shared.may(&caller, permission, route.model())?;
        }
        let timeout = head::timeout(&head.headers, self.shared.settings().deadline_max)?;
        let accepts = self.shared.settings().compression.then(|| codec::accepted(&head.headers));
        let ask = Ask { door: self, visit, head, body, origin, caller, timeout };
        let answer = self.handle(ask, &route).await?;
        Ok(match accepts {
            Some(accepts) => codec::pack(answer, accepts, &self.shared.bodies),
            None => answer,
        })
    }

    async fn handle(self: &Arc<Self>, mut ask: Ask<'_, '_, C>, route: &Route<'_>) -> Result<Answer, Refusal> {
        match route {
            Route::Infer(target) => infer::answer(ask, target).await,
            Route::Rpc => rpc::answer(&mut ask).await,
            Route::RpcSocket => socket::upgrade(ask),
            Route::Server => Ok(rest::server()),
            Route::Model(target) => rest::model(&ask, target),
            Route::ModelReady(target) => rest::model_ready(&ask, target),
            Route::ModelConfig(target) => rest::model_config(&ask, target),
            Route::Statistics(target) => rest::statistics(&ask, target.as_ref()).await,
            Route::Predict(target) => predict::answer(&mut ask, target).await,
            Route::Generate(target) => infer::generate(&mut ask, target, false).await,
            Route::GenerateStream(target) => infer::generate(&mut ask, target, true).await,
            Route::RepositoryIndex => rest::repository_index(&mut ask).await,
            Route::RepositoryLoad(model) => rest::repository_change(&mut ask, Change::Load, model).await,
            Route::RepositoryUnload(model) => rest::repository_change(&mut ask, Change::Unload, model).await,
            Route::Logging => rest::logging(&mut ask).await,
            Route::OpenAiModels => openai::models(&ask),
            Route::OpenAiModel(model) => openai::model(&ask, model),
            Route::Embeddings => openai::embeddings(&mut ask).await,
            Route::OpenApi => Ok(openapi::document()),
            Route::Docs => Ok(openapi::page()),
            Route::Live | Route::Ready | Route::Health | Route::Metrics => {
                Ok(self.free(route, ask.head.uri.query(), &ask.visit.id))
            }
        }
    }

    /// Answers what no limit holds back.
    fn free(&self, route: &Route<'_>, query: Option<&str>, id: &HeaderValue) -> Answer {
        match route {
            Route::Metrics => {
                let (members, models) = (self.cluster.members(), self.cluster.models());
                let web = self.shared.config.tls.as_ref().map(|tls| tls.left(self.shared.clock.now()));
                let tries = (self.cluster.tries(), self.cluster.panic());
                let own = (self.cluster.membership(), self.cluster.trust());
                let text = self.shared.metrics.text(members, &models, tries, own, web);
                Answer::text(StatusCode::OK, metrics::CONTENT_TYPE, text)
            }
            Route::Health => health::health(&self.shared.checks(&*self.cluster), id),
            Route::Ready => health::ready(&self.shared.checks(&*self.cluster), &Asked::of(query), id),
            _ => health::live(&Asked::of(query)),
        }
    }

    /// Charges a request, or more of it, to its caller.
    pub(crate) fn charge(
        &self,
        visit: &mut Visit<'_>,
        caller: &Caller,
        cost: Cost<'_>,
    ) -> Result<(), TooSoon> {
        self.shared.charge(&*self.cluster, caller, cost, &mut visit.left)
    }

    /// The same for what has no head of an answer left to tell it in.
    pub(crate) fn charge_more(&self, caller: &Caller, cost: Cost<'_>) -> Result<(), Fault> {
        self.shared.charge(&*self.cluster, caller, cost, &mut Allowances::default()).map_err(Fault::from)
    }
}

impl Visit<'_> {
    /// Writes the head of the answer, and counts it.
    fn finish(mut self, outcome: Result<Answer, Refusal>) -> Response<OutBody> {
        self.finished = true;
        let (flight, mut response) = match outcome {
            Ok(answer) => (answer.flight, answer.into_response()),
            Err(refusal) => (refusal.flight(), self.refused(refusal)),
        };
        let status = response.status();
        let headers = response.headers_mut();
        self.limits(headers);
        let closes = self.broken || !self.body_read;
        if closes && self.in_turn {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.explains {
            explain::write(headers, self.id.to_str().unwrap_or_default(), flight, self.arrived.elapsed());
        }
        headers.insert(head::REQUEST_ID, std::mem::replace(&mut self.id, HeaderValue::from_static("")));
        self.line.end(closes);
        self.shared.metrics.answered(self.route, status.as_u16(), self.arrived.elapsed());
        response
    }

    fn refused(&self, refusal: Refusal) -> Response<OutBody> {
        let request_id = self.id.to_str().unwrap_or_default();
        let (route, code, reason) = (self.route, refusal.name(), refusal.message());
        // What the client did wrong is its own affair; a defect of ours is somebody's work.
        match refusal.name() == FaultCode::Internal.name() {
            true => tracing::error!(request_id, route, code, reason, "a request failed by a defect"),
            false => tracing::debug!(request_id, route, code, reason, "a request was refused"),
        }
        if self.as_openai {
            let body = openai::error_body(&refusal);
            return refusal.with_body(body);
        }
        refusal.into_response(request_id)
    }

    fn limits(&self, headers: &mut HeaderMap) {
        self.left.write(headers, self.shared.settings().x_ratelimit);
    }
}
