//! The socket, and quinn's endpoint on it.

use std::{net::SocketAddr, sync::Arc};

use lineside_certs::{
    Clock, Credentials, Identity, JoinCertificates, Joining, client_config_by, server_config_by,
};
use quinn::{
    Endpoint, EndpointConfig, TokioRuntime,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    BindError, JOIN_ALPN, MeshConfig,
    config::{ALPN, INCOMING_BYTES_MAX, INCOMING_BYTES_TOTAL_MAX, INCOMING_MAX, SOCKET_BUFFER_BYTES},
};

/// A bound UDP socket with the buffers that bulk transfers need.
fn socket(address: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // Whatever the system's default: "any address" means those of IPv4, too.
        socket.set_only_v6(false)?;
    }
    // The kernel may grant less (net.core.rmem_max); then bulk is slower and nothing is wrong.
    drop(socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES));
    drop(socket.set_send_buffer_size(SOCKET_BUFFER_BYTES));
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A socket that reaches members of both families, where this system has IPv6.
pub(crate) fn dialling_socket() -> (SocketAddr, std::io::Result<std::net::UdpSocket>) {
    let (both, v4) = (SocketAddr::from(([0; 8], 0)), SocketAddr::from(([0; 4], 0)));
    match socket(both) {
        Ok(socket) => (both, Ok(socket)),
        Err(_) => (v4, socket(v4)),
    }
}

/// An endpoint that listens there, or one that only dials.
///
/// The keys for stateless resets and connection ids come from the identity, so that a restarted process can tell
/// its peers at once that their old connections are gone; they would otherwise wait for the idle timeout.
pub(crate) fn open(config: &MeshConfig, credentials: &Credentials) -> Result<Endpoint, BindError> {
    let identity = credentials.identity();
    let (address, socket) = match config.listen {
        Some(address) => (address, socket(address)),
        None => dialling_socket(),
    };
    let socket = socket.map_err(|source| BindError::Listen { address, source })?;
    let reset_secret = identity.derive_secret("lineside quic stateless reset");
    let reset_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &reset_secret);
    let mut endpoint_config = EndpointConfig::new(Arc::new(reset_key));
    let secret = identity.derive_secret("lineside quic connection ids");
    let cid_key = u64::from_le_bytes(*secret.first_chunk().expect("a secret has 32 bytes"));
    endpoint_config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
    let server = match config.listen {
        Some(_) => Some(server(config, credentials, None)?),
        None => None,
    };
    Endpoint::new(endpoint_config, server, socket, Arc::new(TokioRuntime))
        .map_err(|source| BindError::Listen { address, source })
}

/// The settings with which members are let in, and strangers who join, when there are certificates for those.
pub(crate) fn server(
    config: &MeshConfig,
    credentials: &Credentials,
    joining: Option<&JoinCertificates>,
) -> Result<quinn::ServerConfig, BindError> {
    let joining = joining.map(|certificates| Joining { alpn: JOIN_ALPN, certificates });
    let tls = server_config_by(&credentials.identity(), credentials.clock(), &[ALPN], joining)?;
    let tls = QuicServerConfig::try_from(tls).map_err(|error| BindError::Settings(error.to_string()))?;
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
pub(crate) fn client(
    config: &MeshConfig,
    identity: &Identity,
    clock: &Clock,
) -> Result<quinn::ClientConfig, BindError> {
    let tls = QuicClientConfig::try_from(client_config_by(identity, clock, &[ALPN])?)
        .map_err(|error| BindError::Settings(error.to_string()))?;
    let mut client = quinn::ClientConfig::new(Arc::new(tls));
    client.transport_config(config.transport());
    Ok(client)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, UdpSocket};

    use super::*;

    #[test]
    fn whoever_only_dials_reaches_both_families() {
        let (address, socket) = dialling_socket();
        let socket = socket.expect("a socket");
        let reaches = |peer: UdpSocket, to: SocketAddr| {
            socket.send_to(b"hello", to).expect("sent");
            assert_eq!(peer.recv(&mut [0; 8]).expect("received"), 5);
        };
        let v4 = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let port = v4.local_addr().expect("bound").port();
        if address.is_ipv4() {
            return reaches(v4, ([127, 0, 0, 1], port).into());
        }
        reaches(v4, ([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1], port).into());
        // A system may know IPv6 and have no such address.
        if let Ok(v6) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
            let to = v6.local_addr().expect("bound");
            reaches(v6, to);
        }
    }
}
