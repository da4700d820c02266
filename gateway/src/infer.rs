//! `POST /v2/models/{model}[/versions/{version}]/infer`: a body becomes a call, the answer becomes a body.

use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, request::Parts};
use lineside_client::InferCall;
use lineside_wire::{CallContext, ModelName, ModelVersion};
use tokio::time::Instant;

use crate::{
    Cluster,
    answer::Answer,
    body::{Pieces, Reserved},
    errors::{Refusal, unknown_model},
    head,
    oip::{self, InferRequest, Wants},
    route::Target,
    rpc::shorter,
    shared::{Shared, has_run},
};

/// Binary tensors up to this length, in bytes, are copied out of the read buffer: cheaper than a new buffer for the
/// connection's next request.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// A request that is understood, and holds nothing of the connection it came on.
pub(crate) struct Asked {
    call: InferCall,
    id: Option<String>,
    wants: Wants,
    /// Of the body and of what was made out of it.
    room: Reserved,
}

impl Asked {
    /// Reads the request with this body, which is held in this room.
    pub(crate) fn read<C: Cluster>(
        cluster: &C,
        shared: &Shared,
        head: &Parts,
        target: &Target<'_>,
        (body, mut room): (Bytes, Reserved),
        arrived: Instant,
        asked: Option<Duration>,
    ) -> Result<Self, Refusal> {
        let request = read(cluster, head, target, body)?;
        room.grow(request.made)?;
        let deadline = shared.deadline(arrived, shorter(asked, request.timeout));
        let context = CallContext {
            traceparent: head::traceparent(&head.headers),
            priority: request.priority,
            session: request.session,
            ..CallContext::default()
        };
        let call = InferCall { params: request.params, payload: request.payload, deadline, context };
        Ok(Self { call, id: request.id, wants: request.wants, room })
    }

    /// Runs it.
    pub(crate) async fn infer<C: Cluster>(self, cluster: &C, shared: &Shared) -> Result<Answer, Refusal> {
        let answered = shared.infer(cluster, self.call).await;
        // The request is no longer held, so the answer may take its room.
        drop(self.room);
        let (reply, mut room) = answered.map_err(|(error, _)| Refusal::from_call(&error))?;
        let (node, attempts) = (reply.report.node, reply.report.attempts);
        let written = oip::write(reply, self.id.as_deref(), &self.wants).and_then(|written| {
            room.grow(written.json.len()).map_err(has_run)?;
            Ok(written)
        });
        let written = written.map_err(|fault| Refusal::from(fault).by_node(node, attempts))?;
        let json_length = written.is_binary.then_some(written.json.len());
        Ok(Answer {
            status: StatusCode::OK,
            content_type: if written.is_binary { "application/octet-stream" } else { "application/json" },
            body: Pieces::new(written.json, written.binary).holding(room),
            node: Some(node),
            attempts: Some(attempts),
            json_length,
        })
    }
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
    if body.len() <= COPIED_BYTES_MAX {
        body = Bytes::copy_from_slice(&body);
    }
    Ok(oip::parse(&json, body, model, version)?)
}
