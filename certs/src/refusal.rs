//! TLS alerts as sentences that say what to do.

/// Why a handshake was refused.
///
/// With TLS 1.3 the dialling side is connected before the other has looked at its certificate, so a refusal
/// arrives late, as an alert on what seemed a working connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Alerts 48 and 51.
    #[error(
        "the two sides belong to different clusters: one certificate was not signed by the other's authority; \
         use an identity that was issued by this cluster (`lineside certs issue`)"
    )]
    UnknownAuthority,
    /// Alert 45.
    #[error("the certificate has expired, or a clock is wrong; see `lineside certs show` on both machines")]
    Expired,
    /// Alert 44.
    #[error("the certificate was revoked; enrol this machine again")]
    Revoked,
    /// Alert 116.
    #[error("the peer wants a certificate and got none; is the identity directory complete?")]
    Missing,
    /// Alert 112 and what a name that does not fit leads to.
    #[error("another member answers at this address than the one expected")]
    WrongName,
    /// Alert 120.
    #[error("the peer does not speak this protocol; is it another service, or another release of lineside?")]
    WrongProtocol,
    /// Alerts 42, 43, 46 and 49.
    #[error(
        "the certificate was not accepted: its role does not allow this side of a connection, or it does not \
         belong to the name that was dialled (alert {0}); see `lineside certs show`"
    )]
    BadCertificate(u8),
    /// Any other alert.
    #[error("the TLS handshake failed with alert {0}")]
    Other(u8),
}

impl Refusal {
    /// The refusal that a TLS alert stands for (RFC 8446, 6.2).
    #[must_use]
    pub const fn from_alert(alert: u8) -> Self {
        match alert {
            // 51 (decrypt error) is what a signature by a namesake authority leads to.
            48 | 51 => Self::UnknownAuthority,
            45 => Self::Expired,
            44 => Self::Revoked,
            116 => Self::Missing,
            112 => Self::WrongName,
            120 => Self::WrongProtocol,
            42 | 43 | 46 | 49 => Self::BadCertificate(alert),
            other => Self::Other(other),
        }
    }
}
