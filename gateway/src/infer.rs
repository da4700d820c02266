//! `POST /v2/models/{model}[/versions/{version}]/infer`, `/generate` and `/generate_stream`: a body becomes a call, the
//! answer becomes a body.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header, request::Parts};
use lineside_client::{InferCall, InferReply};
use lineside_wire::{CallContext, Fault, ModelName, ModelState, ModelVersion};

use crate::{
    Cluster,
    answer::Answer,
    ask::Ask,
    body::{Pieces, Reserved, detached},
    errors::{Refusal, unknown_model},
    explain::Flight,
    head,
    oip::{self, InferRequest, Wants},
    route::Target,
    shared::{Shared, has_run},
};

/// A request that is understood, and holds nothing of the connection it came on.
struct Asked {
    call: InferCall,
    id: Option<String>,
    form: Form,
    /// Of the body and of what was made out of it.
    room: Reserved,
}

/// What the answer looks like.
enum Form {
    /// Named tensors.
    Tensors(Wants),
    /// One object with the outputs as its fields.
    Object,
    /// The same, as the one event of a stream.
    Event,
}

/// Tells proxies to pass events on as they come.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// Answers a request for an inference.
pub(crate) async fn answer<C: Cluster>(
    mut ask: Ask<'_, '_, C>,
    target: &Target<'_>,
) -> Result<Answer, Refusal> {
    let door = ask.door;
    let body = ask.body().await?;
    let _place = door.shared.enter(ask.caller.charged)?;
    let asked = Asked::read(&ask, target, body)?;
    // Head and small bodies are slices of hyper's read buffer, which it uses again once nobody holds it.
    drop(ask);
    asked.infer(&*door.cluster, &door.shared).await
}

/// The same for one whose body is an object with the inputs as its fields, and whose answer is the same: as one event of
/// a stream where that is wanted.
pub(crate) async fn generate<C: Cluster>(
    ask: &mut Ask<'_, '_, C>,
    target: &Target<'_>,
    is_stream: bool,
) -> Result<Answer, Refusal> {
    let body = ask.body().await?;
    let _place = ask.enter()?;
    let asked = Asked::read_generate(ask, target, body, is_stream)?;
    asked.infer(ask.cluster(), ask.shared()).await
}

impl Asked {
    /// Reads the request with this body, which is held in this room.
    fn read<C: Cluster>(
        ask: &Ask<'_, '_, C>,
        target: &Target<'_>,
        (body, mut room): (Bytes, Reserved),
    ) -> Result<Self, Refusal> {
        let mut request = read(ask.cluster(), &ask.head, target, body)?;
        room.grow(request.made)?;
        let form = Form::Tensors(std::mem::take(&mut request.wants));
        Self::new(ask, request, form, room)
    }

    fn read_generate<C: Cluster>(
        ask: &Ask<'_, '_, C>,
        target: &Target<'_>,
        (body, mut room): (Bytes, Reserved),
        is_stream: bool,
    ) -> Result<Self, Refusal> {
        let models = ask.cluster().models();
        let model = oip::find(&models, &target.model, target.version.as_deref())?;
        if model.inputs.is_empty() && model.state != ModelState::Ready {
            return Err(oip::not_ready(model).into());
        }
        // The version is left to the nodes unless the client named one: the list may be a moment old.
        let version = target.version.is_some().then_some(model.version);
        let request = oip::parse_generate(&body, model, version)?;
        room.grow(request.made)?;
        let form = if is_stream { Form::Event } else { Form::Object };
        Self::new(ask, request, form, room)
    }

    fn new<C: Cluster>(
        ask: &Ask<'_, '_, C>,
        request: InferRequest,
        form: Form,
        room: Reserved,
    ) -> Result<Self, Refusal> {
        let deadline = ask.deadline(request.timeout);
        let context = CallContext {
            traceparent: head::traceparent(&ask.head.headers),
            priority: request.priority,
            session: request.session,
            affinity: ask.affinity(request.affinity)?,
            ..CallContext::default()
        };
        let call = InferCall { params: request.params, payload: request.payload, deadline, context };
        Ok(Self { call, id: request.id, form, room })
    }

    /// Runs it.
    async fn infer<C: Cluster>(self, cluster: &C, shared: &Shared) -> Result<Answer, Refusal> {
        let answered = shared.infer(cluster, self.call).await;
        // The request is no longer held, so the answer may take its room.
        drop(self.room);
        let (reply, mut room) = answered.map_err(|(error, fault)| Refusal::from_call(&error, fault))?;
        let (node, attempts) = (reply.report.node, reply.report.attempts);
        let flight = Some(Flight::from(&reply.report));
        let written = written(reply, self.id.as_deref(), &self.form, &mut room);
        let answer = written.map_err(|fault| Refusal::from(fault).by_node(node, attempts))?;
        Ok(Answer { node: Some(node), attempts: Some(attempts), flight, ..answer.holding(room) })
    }
}

/// The answer in its form. What was written has room.
fn written(reply: InferReply, id: Option<&str>, form: &Form, room: &mut Reserved) -> Result<Answer, Fault> {
    let Form::Tensors(wants) = form else {
        let json = oip::write_generated(reply, id)?;
        room.grow(json.len()).map_err(has_run)?;
        return Ok(match form {
            Form::Event => {
                let event = [b"data: ", json.as_slice(), b"\n\n"].concat();
                let answer = Answer::text(StatusCode::OK, "text/event-stream; charset=utf-8", event);
                let fresh = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                Answer { headers: vec![fresh, UNBUFFERED], ..answer }
            }
            Form::Tensors(_) | Form::Object => Answer::text(StatusCode::OK, "application/json", json),
        });
    };
    let written = oip::write(reply, id, wants)?;
    room.grow(written.json.len()).map_err(has_run)?;
    let json_length = written.is_binary.then_some(written.json.len());
    let content_type = if written.is_binary { "application/octet-stream" } else { "application/json" };
    let answer = Answer::new(StatusCode::OK, content_type, Pieces::new(written.json, written.binary));
    Ok(Answer { json_length, compress: true, ..answer })
}

fn read<C: Cluster>(
    cluster: &C,
    head: &Parts,
    target: &Target<'_>,
    mut body: Bytes,
) -> Result<InferRequest, Refusal> {
    let json_length = head::json_length(&head.headers, body.len())?;
    if json_length == Some(0) {
        let models = cluster.models();
        let model = oip::find(&models, &target.model, target.version.as_deref())?;
        let mut request = oip::raw_request(model, &body)?;
        // The version is left to the nodes unless the client named one: the list may be a moment old.
        request.params.version = target.version.is_some().then_some(model.version);
        return Ok(request);
    }
    // What cannot be a name names nothing that exists.
    let unknown = || unknown_model(&target.model, target.version.as_deref());
    let model: ModelName = target.model.parse().map_err(|_| unknown())?;
    let version = target.version.as_ref().map(|version| version.parse::<ModelVersion>());
    let version = version.transpose().map_err(|_| unknown())?;
    let json = match json_length {
        Some(length) => body.split_to(length),
        None => std::mem::take(&mut body),
    };
    let request = oip::parse(&json, detached(body), model, version);
    if request.is_err() {
        // As Triton has it: whether there is such a model comes before what is wrong with the body.
        oip::find(&cluster.models(), &target.model, target.version.as_deref())?;
    }
    Ok(request?)
}
