//! TLS alerts as sentences that say what to do.

/// Why a handshake was refused.
///
/// With TLS 1.3 the dialling side is connected before the other has looked at its certificate, so a refusal
/// arrives late, as an alert on what seemed a working connection. Either side can be the one that refused: the
/// sentences hold for both, and whoever tells them says which it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Alerts 48 and 51.
    #[error(
        "the two sides belong to different clusters: one certificate was not signed by an authority that the other \
         trusts; use an identity of this cluster, or join it anew (`lineside token create` on a machine that may, then \
         `lineside up --join`)"
    )]
    UnknownAuthority,
    /// The authority was replaced, and its certificates with it.
    #[error(
        "the cluster's authority was replaced, and the certificate is of the one before; join again (`lineside token \
         create` on a machine that may, then `lineside up --join`)"
    )]
    RetiredAuthority,
    /// Alert 45.
    #[error(
        "a certificate has expired or is not valid yet, or a clock is wrong; see `date` and `lineside certs show` on \
         both machines. A machine that was off for too long to be renewed joins again (`lineside token create`)"
    )]
    Expired,
    /// Alert 44.
    #[error(
        "the certificate was revoked; if that was a mistake, have a token made (`lineside token create`) and let this \
         machine join as a new member"
    )]
    Revoked,
    /// Alert 116.
    #[error("the peer wants a certificate and got none; give an identity directory of this cluster")]
    Missing,
    /// The certificate names no member of the cluster.
    #[error("the certificate names no member of the cluster; see `lineside certs show` on both machines")]
    NotAMember,
    /// Alerts 42 and 112.
    #[error(
        "another member answers at this address than the one that was dialled, or its certificate is damaged; has \
         the address been given to another machine?"
    )]
    WrongName,
    /// Alert 43.
    #[error(
        "the role in the certificate does not allow this side of a connection: only a node or a gateway can be \
         dialled; see `lineside certs show` on the machine that was dialled"
    )]
    WrongRole,
    /// Alert 120.
    #[error("the peer does not speak this protocol; is it another service, or another release of lineside?")]
    WrongProtocol,
    /// Alerts 46 and 49.
    #[error("the certificate was not accepted (alert {0}); see `lineside certs show` on both machines")]
    BadCertificate(u8),
    /// Any other alert.
    #[error(
        "the TLS handshake failed with alert {0}; is it another service, or another release of lineside?"
    )]
    Other(u8),
}

impl Refusal {
    /// The refusal that a TLS alert stands for (RFC 8446, 6.2); QUIC's error code is 0x100 plus the alert.
    #[must_use]
    pub const fn from_alert(alert: u8) -> Self {
        match alert {
            // 51 (decrypt error) is what a signature by a namesake authority leads to.
            48 | 51 => Self::UnknownAuthority,
            45 => Self::Expired,
            44 => Self::Revoked,
            116 => Self::Missing,
            // 42 (bad certificate) is what rustls says when the name does not fit.
            42 | 112 => Self::WrongName,
            43 => Self::WrongRole,
            120 => Self::WrongProtocol,
            46 | 49 => Self::BadCertificate(alert),
            other => Self::Other(other),
        }
    }

    /// Whether it is about a certificate, and not about what is spoken.
    #[must_use]
    pub const fn is_of_certificate(self) -> bool {
        match self {
            Self::UnknownAuthority
            | Self::RetiredAuthority
            | Self::Expired
            | Self::Revoked
            | Self::Missing
            | Self::NotAMember
            | Self::WrongName
            | Self::WrongRole
            | Self::BadCertificate(_) => true,
            Self::WrongProtocol | Self::Other(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alert_has_a_sentence() {
        for alert in 0..=u8::MAX {
            let sentence = Refusal::from_alert(alert).to_string();
            assert!(sentence.len() > 40 && sentence.contains(';'), "{alert}: {sentence}");
        }
    }
}
