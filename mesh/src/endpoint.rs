//! The socket, and quinn's endpoint on it.

use std::{net::SocketAddr, sync::Arc};

use lineside_certs::{Identity, client_config, server_config};
use quinn::{
    Endpoint, EndpointConfig, TokioRuntime,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    BindError, MeshConfig,
    config::{ALPN, INCOMING_BYTES_MAX, INCOMING_BYTES_TOTAL_MAX, INCOMING_MAX, SOCKET_BUFFER_BYTES},
};

/// A bound UDP socket with the buffers that bulk transfers need.
fn socket(address: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel may grant less (net.core.rmem_max); then bulk is slower and nothing is wrong.
    drop(socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES));
    drop(socket.set_send_buffer_size(SOCKET_BUFFER_BYTES));
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// An endpoint that listens there, or one that only dials.
///
/// The keys for stateless resets and connection ids come from the identity, so that a restarted process can tell
/// its peers at once that their old connections are gone; they would otherwise wait for the idle timeout.
pub(crate) fn open(config: &MeshConfig, identity: &Identity) -> Result<Endpoint, BindError> {
    let address = config.listen.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
    let socket = socket(address).map_err(|source| BindError::Listen { address, source })?;
    let reset_secret = identity.derive_secret("lineside quic stateless reset");
    let reset_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &reset_secret);
    let mut endpoint_config = EndpointConfig::new(Arc::new(reset_key));
    let secret = identity.derive_secret("lineside quic connection ids");
    let cid_key = u64::from_le_bytes(*secret.first_chunk().expect("a secret has 32 bytes"));
    endpoint_config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
    let server = match config.listen {
        Some(_) => Some(server(config, identity)?),
        None => None,
    };
    Endpoint::new(endpoint_config, server, socket, Arc::new(TokioRuntime))
        .map_err(|source| BindError::Listen { address, source })
}

fn server(config: &MeshConfig, identity: &Identity) -> Result<quinn::ServerConfig, BindError> {
    let tls = QuicServerConfig::try_from(server_config(identity, &[ALPN])?)
        .map_err(|error| BindError::Settings(error.to_string()))?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    server
        .transport_config(config.transport())
        // Members have fixed addresses and are dialled again when those change.
        .migration(false)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
    Ok(server)
}

/// The settings with which this identity dials.
pub(crate) fn client(config: &MeshConfig, identity: &Identity) -> Result<quinn::ClientConfig, BindError> {
    let tls = QuicClientConfig::try_from(client_config(identity, &[ALPN])?)
        .map_err(|error| BindError::Settings(error.to_string()))?;
    let mut client = quinn::ClientConfig::new(Arc::new(tls));
    client.transport_config(config.transport());
    Ok(client)
}
