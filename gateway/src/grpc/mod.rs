//! The Open Inference Protocol over gRPC, with health and reflection beside it.
//!
//! ```text
//!            visit             body           codec           service, stream          Cluster
//! call ─► who, how long ─► watched bytes ─► measured ─► message to call ─► least busy node
//!      ◄──── status: faults as codes, names, words ◄──── answer to message ◄──
//! ```
//!
//! A call has the limits of any request: its quota, a place while it runs, room for its bytes, a deadline. Raw tensors
//! are slices of the message that they came in, and of the node's answer.

mod body;
mod codec;
#[allow(
    clippy::all,
    clippy::needless_pass_by_value,
    clippy::semicolon_if_nothing_returned,
    clippy::uninlined_format_args,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "made by `just grpc-code`, by rules of its own"
)]
#[rustfmt::skip]
mod generated;
mod health;
mod models;
mod reflection;
mod request;
mod service;
mod status;
mod stream;
mod visit;

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use lineside_wire::{Fault, FaultCode};
use tokio::time::Instant;
use tonic::{Status, codec::CompressionEncoding, codegen::Service as _};
use tonic_health::pb::health_server::HealthServer;
use tracing::Instrument as _;

use self::{
    body::{Bounds, CountedBody, Record, WatchedBody},
    generated::inference::grpc_inference_service_server::{GrpcInferenceServiceServer, SERVICE_NAME},
    health::HealthOf,
    service::Inference,
    visit::Visit,
};
use crate::{Cluster, body::OutBody, door::Door, errors::Refusal, explain, gate::Origin, head};

/// The protocol's service.
const INFERENCE: &str = SERVICE_NAME;

/// Longest message of the methods that carry no tensors, in bytes: names and flags, with room to spare.
const SMALL_BYTES_MAX: usize = 64 << 10;

/// Most messages of one reflection call: more than any tool asks.
const REFLECTIONS_MAX: u64 = 1_024;

/// Whether a request is gRPC's, whatever its path.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|media| media.as_bytes().starts_with(b"application/grpc"))
}

/// Answers one gRPC call: unary or a stream both ways. Dropping the future, or the body that it gives, cancels what it
/// asked of the cluster.
pub(crate) async fn answer<C: Cluster>(
    door: &Arc<Door<C>>,
    origin: &Origin,
    request: Request<Incoming>,
) -> Response<OutBody> {
    let arrived = Instant::now();
    let mut record = Record::new(&door.shared, arrived);
    let id = head::request_id(request.headers());
    if request.version() != Version::HTTP_2 {
        let text = "gRPC needs HTTP/2: speak it from the first byte (h2c), or by ALPN over TLS";
        let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", text);
        record.tell(refusal.status.as_u16());
        return refusal.into_last_response(id);
    }
    let explain = explain::is_asked(request.headers(), request.uri());
    let span = tracing::debug_span!("grpc", ?id, path = request.uri().path());
    let method = Method::at(request.uri().path());
    let visit = Visit::admit(door, origin, request.headers(), method.is_free(), arrived).map(Arc::new);
    let answered = async {
        match &visit {
            Ok(visit) => Box::pin(method.answer(visit, request)).await,
            Err(status) => status.clone().into_http(),
        }
    };
    let mut response = answered.instrument(span.clone()).await;
    let headers = response.headers_mut();
    // A call that is refused has its status in the head, and no body.
    if headers.contains_key(Status::GRPC_STATUS) {
        let code = status::counted(headers);
        record.tell(code);
        let reason = headers.get(Status::GRPC_MESSAGE);
        span.in_scope(|| tracing::debug!(code, ?reason, "a call was refused"));
    }
    if explain {
        let flight = visit.as_ref().ok().and_then(|visit| visit.flight());
        explain::write(headers, id.to_str().unwrap_or_default(), flight, arrived.elapsed());
    }
    headers.insert(head::REQUEST_ID, id);
    let held = visit.ok().map(|visit| Arc::clone(&visit.held));
    response.map(|body| OutBody::Stream(CountedBody::new(body, record, held).boxed_unsync()))
}

/// What a path asks for, as far as it has bounds of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// `ModelInfer`.
    Infer,
    /// `ModelStreamInfer`.
    Stream,
    /// `ServerLive`, `ServerReady`.
    Server,
    /// Every other method of the protocol's service.
    Other,
    /// `grpc.health.v1.Health`.
    Health,
    Reflection(reflection::Version),
    /// Nothing is there.
    Nothing,
}

impl Method {
    fn at(path: &str) -> Self {
        match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some((INFERENCE, "ModelInfer")) => Self::Infer,
            Some((INFERENCE, "ModelStreamInfer")) => Self::Stream,
            Some((INFERENCE, "ServerLive" | "ServerReady")) => Self::Server,
            Some((INFERENCE, _)) => Self::Other,
            Some(("grpc.health.v1.Health", _)) => Self::Health,
            Some(("grpc.reflection.v1.ServerReflection", _)) => Self::Reflection(reflection::Version::V1),
            Some(("grpc.reflection.v1alpha.ServerReflection", _)) => {
                Self::Reflection(reflection::Version::V1Alpha)
            }
            _ => Self::Nothing,
        }
    }

    /// Whether limits pass it by: a full door must still be able to say that it is full.
    const fn is_free(self) -> bool {
        matches!(self, Self::Server | Self::Health)
    }

    fn bounds<C: Cluster>(self, visit: &Visit<C>) -> Bounds {
        let config = &visit.shared().config;
        let one = Bounds {
            message_bytes_max: SMALL_BYTES_MAX,
            messages_max: 1,
            pause_max: config.body_idle_max,
            between_max: config.body_idle_max,
            deadline: Some(visit.deadline()),
        };
        match self {
            Self::Infer => Bounds { message_bytes_max: config.body_bytes_max, ..one },
            Self::Stream => Bounds {
                message_bytes_max: config.body_bytes_max,
                messages_max: u64::MAX,
                between_max: stream::QUIET_MAX,
                deadline: None,
                ..one
            },
            Self::Reflection(_) => Bounds { messages_max: REFLECTIONS_MAX, deadline: None, ..one },
            Self::Server | Self::Other | Self::Health | Self::Nothing => one,
        }
    }

    async fn answer<C: Cluster>(
        self,
        visit: &Arc<Visit<C>>,
        request: Request<Incoming>,
    ) -> Response<tonic::body::Body> {
        if self == Self::Infer
            && let Err(fault) = visit.shared().has_room(visit.client())
        {
            return status::of_fault(fault).into_http();
        }
        let bounds = self.bounds(visit);
        let request = request.map(|body| WatchedBody::new(body, Arc::clone(&visit.held), bounds));
        let answered = match self {
            Self::Infer | Self::Stream | Self::Server | Self::Other => {
                let packed = visit.packed.filter(|_| visit.shared().settings().compression);
                let service = Inference(Arc::clone(visit));
                let mut server = GrpcInferenceServiceServer::new(service)
                    .max_decoding_message_size(bounds.message_bytes_max)
                    .accept_compressed(CompressionEncoding::Gzip)
                    .accept_compressed(CompressionEncoding::Deflate);
                if let Some(packed) = packed {
                    server = server.send_compressed(packed);
                }
                server.call(request).await
            }
            Self::Health => {
                let mut server = HealthServer::new(HealthOf(Arc::clone(&visit.door)))
                    .max_decoding_message_size(bounds.message_bytes_max);
                server.call(request).await
            }
            Self::Reflection(version) => {
                return reflection::answer(version, request.map(tonic::body::Body::new)).await;
            }
            Self::Nothing => {
                let text = "there is no such service here; reflection lists those there are";
                return status::of_fault(Fault::new(FaultCode::MethodNotFound, text)).into_http();
            }
        };
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    const SOURCE: &[u8] = include_bytes!("../../proto/open_inference.proto");

    #[test]
    fn the_committed_code_is_that_of_the_committed_text() {
        let fingerprint = SOURCE.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        assert_eq!(fingerprint, generated::SOURCE_FINGERPRINT, "run `just grpc-code`");
    }

    #[test]
    fn every_method_of_the_service_has_a_path_that_is_known() {
        let set = FileDescriptorSet::decode(reflection::DESCRIPTORS).expect("descriptors");
        let service = &set.file[0].service[0];
        assert_eq!(format!("{}.{}", set.file[0].package(), service.name()), INFERENCE);
        for method in &service.method {
            let at = Method::at(&format!("/{INFERENCE}/{}", method.name()));
            assert_ne!(at, Method::Nothing);
            assert_eq!(at == Method::Stream, method.client_streaming(), "{}", method.name());
        }
        for nothing in ["/", "", "/inference.GRPCInferenceService", "/v2/models/add/infer", "//"] {
            assert_eq!(Method::at(nothing), Method::Nothing, "{nothing:?}");
        }
    }
}
