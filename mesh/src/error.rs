//! What can go wrong between peers, and what became of the work.

use std::{net::SocketAddr, time::Duration};

use lineside_certs::{PeerIdentityError, Refusal, TlsError};
use lineside_wire::{ClusterId, Fault, NodeId, RunReport};
use quinn::{ApplicationClose, ConnectionError, VarInt};

/// Why this process cannot take part in the mesh.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Something else has the address.
    #[error(
        "cannot listen on {address} (UDP): {source}. Another member may run here: choose another port with \
         --listen, or --listen {ip}:0 for any free one", ip = .address.ip()
    )]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The identity cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The TLS settings do not fit QUIC: a defect of ours.
    #[error("the TLS settings do not fit QUIC: {0}")]
    Settings(String),
}

/// Why no connection could be made. Nothing was sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// No answer in time.
    #[error("no answer from {address} within {within:?}; is a member running there, and UDP open between?")]
    Timeout {
        /// Who was dialled.
        address: SocketAddr,
        /// How long was waited.
        within: Duration,
    },
    /// Someone else answered.
    #[error("{address} is {found}, not {expected}")]
    WrongNode {
        /// Who was dialled.
        address: SocketAddr,
        /// Who was expected.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// The peer does not take our certificate, or we do not take its.
    #[error("{}", refused(*address, *by, *refusal))]
    Refused {
        /// Who was dialled.
        address: SocketAddr,
        /// Which side refused.
        by: Refuser,
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// The peer's certificate names no member of a cluster.
    #[error("{address}: {error}")]
    NoIdentity {
        /// Who was dialled.
        address: SocketAddr,
        /// What is wrong with it.
        error: PeerIdentityError,
    },
    /// Another cluster answered.
    #[error("{address} belongs to the cluster {found}, this process to {own}")]
    OtherCluster {
        /// Who was dialled.
        address: SocketAddr,
        /// Its cluster.
        found: ClusterId,
        /// Ours.
        own: ClusterId,
    },
    /// The hello was answered with a fault, or not at all.
    #[error("{address} did not answer our greeting: {reason}")]
    NoGreeting {
        /// Who was dialled.
        address: SocketAddr,
        /// What it said.
        reason: String,
    },
    /// The network says no.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// Who was dialled.
        address: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// The last dial failed a moment ago.
    #[error("{address} did not answer a moment ago; the next dial is in {retry_in:?}")]
    Resting {
        /// Who would be dialled.
        address: SocketAddr,
        /// When.
        retry_in: Duration,
    },
    /// This process is shutting down.
    #[error("this process is shutting down")]
    Closed,
}

/// Which side of a connection refused the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuser {
    /// The one that was dialled.
    Peer,
    /// This process.
    Us,
}

/// A refusal as a sentence that names who refused whom.
pub(crate) fn refused(address: SocketAddr, by: Refuser, refusal: Refusal) -> String {
    match (refusal.is_of_certificate(), by) {
        (true, Refuser::Peer) => format!("the node at {address} refused your certificate: {refusal}"),
        (true, Refuser::Us) => format!("the certificate of {address} is not accepted here: {refusal}"),
        (false, Refuser::Peer | Refuser::Us) => format!("{address}: {refusal}"),
    }
}

/// Why a call brought back no result, and what became of the work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallFailure {
    /// No connection: nothing was sent.
    #[error("cannot reach {node}: {error}")]
    Unreachable {
        /// Who was called.
        node: NodeId,
        /// Why there is no connection.
        error: DialError,
    },
    /// The connection broke before the answer.
    #[error("lost {node} before its answer: {reason}")]
    Lost {
        /// Who was called.
        node: NodeId,
        /// Whether any part of the request may have reached it.
        sent: bool,
        /// What broke.
        reason: String,
    },
    /// The peer answered with a fault.
    #[error("{node}: {fault}")]
    Fault {
        /// Who was called.
        node: NodeId,
        /// What it said.
        fault: Fault,
        /// Its load, if it said that too.
        report: Option<RunReport>,
    },
    /// The answer breaks the protocol.
    #[error("{node} sent an answer that breaks the protocol: {reason}")]
    Invalid {
        /// Who was called.
        node: NodeId,
        /// Which rule.
        reason: String,
    },
}

/// Why a connection is closed; the number is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// The process ends in good order.
    Bye = 0,
    /// The peer broke the protocol.
    ProtocolError = 1,
    /// The peer's certificate is no longer accepted.
    Revoked = 2,
    /// A limit on connections was passed.
    TooManyConnections = 3,
    /// No hello in time.
    NoHello = 4,
    /// The peer belongs to another cluster or its certificate names no member.
    NotAMember = 5,
    /// A certificate of this connection has ended; the holder of a renewed one dials again.
    Expired = 6,
    /// The peer showed no certificate.
    NoCertificate = 7,
    /// The peer owed an acknowledgement, and its system said that nobody listens at its port.
    Deserted = 8,
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> Self {
        Self::from_u32(code as u32)
    }
}

/// What a close says beside its code when the peer's authority was replaced.
const RETIRED_AUTHORITY: &str = "the authority that signed the certificate is trusted no longer";

/// How a peer that may not stay is told so: the code, and a text that says what the code alone does not.
pub(crate) const fn close_of(refusal: Refusal) -> (CloseCode, &'static str) {
    match refusal {
        Refusal::Revoked => (CloseCode::Revoked, "the certificate was revoked"),
        Refusal::RetiredAuthority => (CloseCode::Revoked, RETIRED_AUTHORITY),
        Refusal::Expired => (CloseCode::Expired, "a certificate of this connection has ended"),
        Refusal::Missing => (CloseCode::NoCertificate, "a certificate is wanted"),
        Refusal::UnknownAuthority => (CloseCode::NotAMember, "another cluster"),
        Refusal::NotAMember
        | Refusal::WrongName
        | Refusal::WrongRole
        | Refusal::WrongProtocol
        | Refusal::BadCertificate(_)
        | Refusal::Other(_) => (CloseCode::NotAMember, "the certificate names no member"),
    }
}

/// The refusal that a peer's close stands for. `None` for one that says nothing against our certificate.
fn refusal_of(close: &ApplicationClose) -> Option<Refusal> {
    let is = |code: CloseCode| close.error_code == VarInt::from(code);
    if is(CloseCode::Revoked) {
        let retired = close.reason == RETIRED_AUTHORITY;
        return Some(if retired { Refusal::RetiredAuthority } else { Refusal::Revoked });
    }
    if is(CloseCode::NotAMember) {
        return Some(Refusal::NotAMember);
    }
    if is(CloseCode::NoCertificate) {
        return Some(Refusal::Missing);
    }
    is(CloseCode::Expired).then_some(Refusal::Expired)
}

/// What a broken connection says about certificates, and which side said it.
pub(crate) fn refusal(error: &ConnectionError) -> Option<(Refuser, Refusal)> {
    if let ConnectionError::ApplicationClosed(close) = error {
        return Some((Refuser::Peer, refusal_of(close)?));
    }
    let by = if matches!(error, ConnectionError::ConnectionClosed(_)) { Refuser::Peer } else { Refuser::Us };
    Some((by, Refusal::from_alert(tls_alert(error)?)))
}

/// The TLS alert within QUIC's error codes.
pub(crate) fn tls_alert(error: &ConnectionError) -> Option<u8> {
    let code = match error {
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
        ConnectionError::VersionMismatch
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => return None,
    };
    // RFC 9001, 4.8: a crypto error is 0x100 plus the alert.
    u64::from(code).checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())
}

impl DialError {
    /// What a broken connection says about a dial that had not yet been answered.
    pub(crate) fn from_connection(error: &ConnectionError, address: SocketAddr, within: Duration) -> Self {
        // With TLS 1.3 a client is connected before the server has looked at its certificate: the refusal
        // arrives as an alert, or as a close, on what seemed to be a working connection.
        if let Some((by, refusal)) = refusal(error) {
            return Self::Refused { address, by, refusal };
        }
        match error {
            ConnectionError::TimedOut => Self::Timeout { address, within },
            ConnectionError::LocallyClosed => Self::Closed,
            other => Self::Unreachable { address, reason: other.to_string() },
        }
    }
}
