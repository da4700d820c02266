//! What the server says of its own services, for tools that ask before they call.

use std::{convert::Infallible, pin::Pin, sync::LazyLock};

use http::{Request, Response};
use tonic::{body::Body, codegen::Service};
use tonic_reflection::server::{Builder, v1, v1alpha};

/// The services, as the generator described them.
pub(super) const DESCRIPTORS: &[u8] = include_bytes!("../../proto/open_inference.bin");

/// A service whose type has no name.
type Reflection = Box<dyn Fn(Request<Body>) -> Answer + Send + Sync>;

type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// One for all doors: the descriptors are those of the program.
static V1: LazyLock<Reflection> = LazyLock::new(|| {
    let built: Result<v1::ServerReflectionServer<_>, _> = builder().build_v1();
    boxed(built.expect("our own descriptors are valid").max_decoding_message_size(super::SMALL_BYTES_MAX))
});

/// The same for tools that know only its first version.
static V1_ALPHA: LazyLock<Reflection> = LazyLock::new(|| {
    let built: Result<v1alpha::ServerReflectionServer<_>, _> = builder().build_v1alpha();
    boxed(built.expect("our own descriptors are valid").max_decoding_message_size(super::SMALL_BYTES_MAX))
});

fn boxed<S>(service: S) -> Reflection
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    Box::new(move |request| {
        let mut service = service.clone();
        Box::pin(async move {
            match service.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        })
    })
}

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Which version of reflection is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V1Alpha,
}

/// Answers one call.
pub(super) async fn answer(version: Version, request: Request<Body>) -> Response<Body> {
    match version {
        Version::V1 => V1(request).await,
        Version::V1Alpha => V1_ALPHA(request).await,
    }
}
