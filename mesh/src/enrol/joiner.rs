//! The asking side of a join.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lineside_certs::{CertificateRequest, Clock, Presented, Token, join_client_config, join_server_name};
use lineside_wire::{
    CallContext, EncodedFrame, Enrolled, FaultCode, PayloadBuilder, RequestId, Role, decode_part, method,
};
use quinn::{
    Connection, ConnectionError, Endpoint, EndpointConfig, TokioRuntime, VarInt,
    crypto::rustls::QuicClientConfig,
};
use tokio::time::timeout;

use super::{Fingerprint, JOIN_ALPN, JOIN_TIME_MAX, JoinError, exporter, limits};
use crate::{
    BindError, CloseCode, MeshConfig, Refuser,
    call::{Answer, read_answer},
    endpoint::dialling_socket,
    error::{refusal, tls_alert},
    frames::{FrameReader, write_frames},
};

/// Longest wait for the other side to hear that it is over.
const GOODBYE_MAX: Duration = Duration::from_millis(300);

/// The alert of a server that speaks none of the protocols that were offered.
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// A wait that is proposed where the other side named none.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The one call of the connection.
const CALL: RequestId = RequestId(1);

/// Asks the member at `address` for a first certificate. The authority behind it is checked before anything secret is sent.
///
/// Opens a socket of its own, for this call alone. Dropping the future gives up; the token may be used by then, and the same
/// `request` gets the same certificate again.
///
/// # Errors
/// See [`JoinError`].
pub async fn join(
    address: SocketAddr,
    token: &Token,
    role: Role,
    name: &str,
    request: &CertificateRequest,
) -> Result<Enrolled, JoinError> {
    let endpoint = open()?;
    let sent = AtomicBool::new(false);
    let joiner = Joiner { address, token, role, name, request, sent: &sent };
    let joined = timeout(JOIN_TIME_MAX, Box::pin(joiner.run(&endpoint))).await;
    endpoint.close(VarInt::from(CloseCode::Bye), b"bye");
    let _it_hears_or_waits_in_vain = timeout(GOODBYE_MAX, endpoint.wait_idle()).await;
    joined.unwrap_or_else(|_| {
        let sent = sent.load(Ordering::Relaxed);
        Err(JoinError::Timeout { address, within: JOIN_TIME_MAX, sent })
    })
}

fn open() -> Result<Endpoint, BindError> {
    let (address, socket) = dialling_socket();
    let listen = |source| BindError::Listen { address, source };
    let socket = socket.map_err(listen)?;
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).map_err(listen)
}

/// One try to join.
struct Joiner<'a> {
    address: SocketAddr,
    token: &'a Token,
    role: Role,
    name: &'a str,
    request: &'a CertificateRequest,
    /// Whether anything of the request has been sent.
    sent: &'a AtomicBool,
}

impl Joiner<'_> {
    async fn run(&self, endpoint: &Endpoint) -> Result<Enrolled, JoinError> {
        let connection = self.connect(endpoint).await?;
        let exporter = exporter(&connection, self.token.id().0)
            .ok_or_else(|| JoinError::Local("TLS gives no value to bind the proof to".to_owned()))?;
        let params = self.request.join_params(self.token, self.role, self.name, &exporter);
        let frame = EncodedFrame::request(
            CALL,
            method::ENROL_JOIN,
            &CallContext::default(),
            &params,
            PayloadBuilder::new(),
        );
        match self.call(&connection, frame).await {
            Ok(answer) => self.read(answer),
            Err(reason) => Err(self.broken(&connection, reason).await),
        }
    }

    /// Connects, and has the authority checked: nothing but the handshake has been sent.
    async fn connect(&self, endpoint: &Endpoint) -> Result<Connection, JoinError> {
        let (address, authority) = (self.address, self.token.authority());
        let unreachable = |reason: String| JoinError::Unreachable { address, reason };
        let (tls, presented) = join_client_config(authority, &Clock::system(), JOIN_ALPN)
            .map_err(|error| JoinError::Local(error.to_string()))?;
        let tls = QuicClientConfig::try_from(tls).map_err(|error| JoinError::Local(error.to_string()))?;
        let mut client = quinn::ClientConfig::new(Arc::new(tls));
        client.transport_config(MeshConfig::dialling().transport());
        let connecting = endpoint
            .connect_with(client, address, &join_server_name(authority))
            .map_err(|error| unreachable(error.to_string()))?;
        connecting.await.map_err(|error| self.not_connected(&error, &presented))
    }

    fn not_connected(&self, error: &ConnectionError, presented: &Presented) -> JoinError {
        let address = self.address;
        if let Some(found) = presented.instead() {
            let expected = Fingerprint(*self.token.authority());
            return JoinError::WrongAuthority { address, expected, found: found.map(Fingerprint) };
        }
        match refusal(error) {
            Some((Refuser::Peer, _)) if tls_alert(error) == Some(NO_APPLICATION_PROTOCOL) => {
                JoinError::NotAHolder { address }
            }
            Some((by, refusal)) => JoinError::Tls { address, by, refusal },
            None if *error == ConnectionError::TimedOut => {
                JoinError::Timeout { address, within: MeshConfig::dialling().timing.idle, sent: false }
            }
            None => JoinError::Unreachable { address, reason: error.to_string() },
        }
    }

    /// The one call of this connection.
    async fn call(&self, connection: &Connection, frame: EncodedFrame) -> Result<Answer, String> {
        let (mut send, recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
        self.sent.store(true, Ordering::Relaxed);
        write_frames(&mut send, std::iter::once(frame)).await.map_err(|error| error.to_string())?;
        send.finish().map_err(|error| error.to_string())?;
        let mut frames = FrameReader::new(recv, limits(), JOIN_TIME_MAX);
        let frame = frames.next().await.map_err(|error| error.to_string())?;
        let frame = frame.ok_or("the other side finished the stream")?;
        match read_answer(&frame)? {
            Some((CALL, answer)) => Ok(answer),
            Some(_) | None => Err("a frame came that answers nothing".to_owned()),
        }
    }

    fn read(&self, answer: Answer) -> Result<Enrolled, JoinError> {
        let address = self.address;
        match answer {
            Answer::Reply(reply) => decode_part(&reply.result)
                .map_err(|fault| JoinError::Protocol { address, reason: fault.message }),
            Answer::Fault(fault, _) if fault.code == FaultCode::RateLimited => {
                let retry_after = fault.retry_after_ms.map_or(RETRY_AFTER, Duration::from_millis);
                Err(JoinError::RateLimited { address, retry_after })
            }
            Answer::Fault(fault, _) => Err(JoinError::Refused { address, fault }),
        }
    }

    /// What a call that brought no answer says. The stream breaks a moment before the connection says why.
    async fn broken(&self, connection: &Connection, reason: String) -> JoinError {
        let address = self.address;
        match timeout(Duration::from_millis(50), connection.closed()).await {
            Ok(ConnectionError::ApplicationClosed(close))
                if close.error_code == VarInt::from(CloseCode::TooManyConnections) =>
            {
                JoinError::RateLimited { address, retry_after: RETRY_AFTER }
            }
            Ok(closed) => JoinError::Lost { address, reason: closed.to_string() },
            Err(_) => JoinError::Protocol { address, reason },
        }
    }
}
