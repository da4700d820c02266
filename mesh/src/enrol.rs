//! Joining: the one thing that somebody without a certificate may do, under a protocol name of its own.
//!
//! ```text
//!   joiner                                               a member with the authority's key
//!     │ TLS, `lineside-join/1`, no certificate ──────────────► shows a certificate and the authority's own
//!     │ is it the token's authority? if not, goodbye: nothing was sent
//!     │ one stream, one request `enrol.join` with a proof ───► few at once, few of one address, small, in time
//!     │ ◄──────────────────────── a certificate, or one fault, and the connection ends
//! ```
//!
//! A connection under this name never becomes a peer: it has no hello, no gossip, no second stream.

mod answer;
mod error;
mod joiner;
mod tries;

use std::{net::SocketAddr, time::Duration};

use futures_util::future::BoxFuture;
use lineside_certs::{JOIN_EXPORTER_LABEL, JoinCertificates};
use lineside_wire::{Enrolled, Fault, JoinParams, Limits};

pub(crate) use self::answer::Joins;
pub use self::{
    error::{Fingerprint, JoinError},
    joiner::join,
};

/// The join protocol's name in the TLS handshake.
pub const JOIN_ALPN: &[u8] = b"lineside-join/1";

/// Longest time for a whole join, on either side: a handshake, one call and a few writes to a disk.
pub const JOIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Longest request to join, in bytes: a certificate request of the largest size, and as much again.
const REQUEST_BYTES_MAX: u32 = 8 << 10;

/// A member with the authority's key, as the mesh sees it.
pub trait Enrolment: Send + Sync + 'static {
    /// What is shown to joiners, who know the authority by its hash alone. Asked for at every change of the own identity, and
    /// every hour. Must return at once.
    fn certificates(&self) -> JoinCertificates;

    /// Answers `enrol.join`. `exporter` is the TLS exporter's value on the joiner's connection. Must return at once; what takes
    /// time is in the future.
    fn join(
        &self,
        params: JoinParams,
        exporter: [u8; 32],
        remote: SocketAddr,
    ) -> BoxFuture<'static, Result<Enrolled, Fault>>;
}

/// What a joiner may send, and what it takes for an answer: a certificate with the trust list behind it.
fn limits() -> Limits {
    Limits { document_bytes_max: REQUEST_BYTES_MAX, payload_bytes_max: 0, ..Limits::default() }
}

/// The value that only the two ends of this very connection have. `None` when TLS gives none.
fn exporter(connection: &quinn::Connection, token: [u8; 8]) -> Option<[u8; 32]> {
    let mut value = [0; 32];
    connection.export_keying_material(&mut value, JOIN_EXPORTER_LABEL, &token).ok()?;
    Some(value)
}
