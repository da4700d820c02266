//! gRPC as it is usually built in Rust: tonic over HTTP/2 with mutual TLS, on the same single-threaded runtime.
//!
//! The messages are plain bytes: there is not even a protobuf to decode, which favours tonic.

use std::{
    convert::Infallible,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::Context as _;
use bytes::{Buf, BufMut, Bytes};
use futures_util::stream;
use lineside_certs::server_name_of;
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{
    Request, Response, Status,
    body::Body,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{NamedService, UnaryService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig},
};

use super::{
    Caller,
    load::{Load, runtime},
};
use crate::{
    children::{Process, announce, end_with_stdin},
    compare::Round,
    identities::Identities,
};

const PATH: &str = "/bench.Echo/Infer";

/// Largest message, in bytes: the bulk request and room for its frame.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Copy, Debug, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Answers every call with the same bytes.
#[derive(Clone)]
struct Echo(Bytes);

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, _request: Request<Bytes>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.0.clone())))
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Plain).max_decoding_message_size(MESSAGE_BYTES_MAX);
            Ok(grpc.unary(method, request).await)
        })
    }
}

/// Certificate, key and authority of an identity, as PEM.
fn pem(identity: &Path) -> anyhow::Result<(Identity, Certificate)> {
    let read =
        |name: &str| std::fs::read(identity.join(name)).with_context(|| format!("{name} of the identity"));
    Ok((Identity::from_pem(read("cert.pem")?, read("key.pem")?), Certificate::from_pem(read("ca.pem")?)))
}

pub(crate) fn serve(identity: &Path, answer: usize) -> anyhow::Result<()> {
    let (identity, authority) = pem(identity)?;
    end_with_stdin();
    runtime()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?);
        let sockets = stream::unfold(listener, |listener| async {
            let socket = listener.accept().await.map(|(socket, _)| {
                drop(socket.set_nodelay(true));
                socket
            });
            Some((socket, listener))
        });
        Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity).client_ca_root(authority))?
            .add_service(Echo(vec![7; answer].into()))
            .serve_with_incoming(sockets)
            .await?;
        Ok(())
    })
}

pub(crate) struct Calls {
    runtime: Runtime,
    channel: Channel,
    server: Process,
    request: Arc<Bytes>,
}

impl Calls {
    pub(crate) fn connect(server: Process, caller: &Path, node: &Path) -> anyhow::Result<Self> {
        let name = Identities::load(node)?;
        let (identity, authority) = pem(caller)?;
        let tls = ClientTlsConfig::new()
            .identity(identity)
            .ca_certificate(authority)
            .domain_name(server_name_of(name.node(), name.cluster()));
        let runtime = runtime()?;
        let endpoint = Endpoint::from_shared(format!("https://{}", server.address))?.tls_config(tls)?;
        let channel = runtime.block_on(endpoint.tcp_nodelay(true).connect())?;
        Ok(Self { runtime, channel, server, request: Arc::default() })
    }
}

impl Caller for Calls {
    fn run(&mut self, load: &Load) -> anyhow::Result<Round> {
        if self.request.len() != load.request {
            self.request = Arc::new(vec![3; load.request].into());
        }
        let (channel, request) = (&self.channel, &self.request);
        let call = || async {
            let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
            grpc.ready().await?;
            let request = Request::new(Bytes::clone(request));
            grpc.unary(request, http::uri::PathAndQuery::from_static(PATH), Plain).await?;
            Ok(())
        };
        self.runtime.block_on(load.drive(self.server.pid(), call))
    }
}
