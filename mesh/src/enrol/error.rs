//! Why a machine could not join, and what to do.

use std::{fmt, net::SocketAddr, time::Duration};

use lineside_certs::Refusal;
use lineside_wire::{Fault, FaultCode};

use crate::{
    Refuser,
    error::{BindError, refused},
};

/// SHA-256 of an authority's SPKI: what a token carries of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a machine could not join. Each says whether the token can still be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JoinError {
    /// Another authority than the token's is behind the address. Nothing was sent.
    #[error(
        "the token is for the cluster whose authority has the fingerprint {expected}, and {address} shows {}: it is \
         another cluster's machine, or somebody is in between. Nothing was sent, and the token can still be used: check the \
         address",
        shown(*found)
    )]
    WrongAuthority {
        /// Who was dialled.
        address: SocketAddr,
        /// The token's authority.
        expected: Fingerprint,
        /// The one that was shown, if any.
        found: Option<Fingerprint>,
    },
    /// The member there does not have the authority's key. Nothing was sent.
    #[error(
        "the machine at {address} does not have the authority's key, or cannot use it (its log says so), and lets nobody \
         join. Nothing was sent, and the token can still be used: give the address of the machine that made it"
    )]
    NotAHolder {
        /// Who was dialled.
        address: SocketAddr,
    },
    /// The handshake failed for another reason. Nothing was sent.
    #[error("{}. Nothing was sent, and the token can still be used", refused(*address, *by, *refusal))]
    Tls {
        /// Who was dialled.
        address: SocketAddr,
        /// Which side refused.
        by: Refuser,
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// The request was answered with a fault.
    #[error("{address} does not let this machine join: {}. {}", fault.message, after(fault))]
    Refused {
        /// Who was asked.
        address: SocketAddr,
        /// What it said.
        fault: Fault,
    },
    /// There were too many tries from this address, or there are too many at once. The request was not looked at.
    #[error(
        "{address} takes no more tries to join for now. The token can still be used: try again in {} s",
        retry_after.as_secs().max(1)
    )]
    RateLimited {
        /// Who was asked.
        address: SocketAddr,
        /// When the next try is taken.
        retry_after: Duration,
    },
    /// No answer in time.
    #[error("no answer from {address} within {within:?}; is a member running there, and UDP open between? {}", spent(*sent))]
    Timeout {
        /// Who was dialled.
        address: SocketAddr,
        /// How long was waited.
        within: Duration,
        /// Whether the request may have arrived.
        sent: bool,
    },
    /// The network says no. Nothing was sent.
    #[error("cannot reach {address}: {reason}. Nothing was sent, and the token can still be used")]
    Unreachable {
        /// Who was dialled.
        address: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// The connection broke after the request was sent.
    #[error("lost {address} before its answer ({reason}). {}", spent(true))]
    Lost {
        /// Who was asked.
        address: SocketAddr,
        /// What broke.
        reason: String,
    },
    /// The answer breaks the protocol.
    #[error(
        "{address} sent an answer that breaks the protocol ({reason}): bring both machines to the same release. {}",
        spent(true)
    )]
    Protocol {
        /// Who was asked.
        address: SocketAddr,
        /// Which rule.
        reason: String,
    },
    /// This machine can open no socket, or its TLS does not work. Nothing was sent.
    #[error("{0}. Nothing was sent, and the token can still be used")]
    Local(String),
}

impl JoinError {
    /// Whether the token is certainly as good as before.
    #[must_use]
    pub const fn leaves_token(&self) -> bool {
        match self {
            Self::WrongAuthority { .. }
            | Self::NotAHolder { .. }
            | Self::Tls { .. }
            | Self::RateLimited { .. }
            | Self::Unreachable { .. }
            | Self::Local(_) => true,
            Self::Timeout { sent, .. } => !*sent,
            Self::Refused { .. } | Self::Lost { .. } | Self::Protocol { .. } => false,
        }
    }
}

impl From<BindError> for JoinError {
    fn from(error: BindError) -> Self {
        Self::Local(error.to_string())
    }
}

fn shown(found: Option<Fingerprint>) -> String {
    found.map_or_else(|| "no authority".to_owned(), |found| found.to_string())
}

fn spent(sent: bool) -> &'static str {
    match sent {
        true => {
            "The token may be used by now: try again with the same one, and with a new one (`lineside token create`) \
             when it is refused"
        }
        false => "Nothing was sent, and the token can still be used",
    }
}

/// What to do after a fault.
fn after(fault: &Fault) -> &'static str {
    match fault.code {
        FaultCode::PermissionDenied => {
            "This token is of no use here: make a new one for the right role (`lineside token create`)"
        }
        _ if fault.retryable => "The token may still be good: try again in a moment",
        _ => "Whether the token was used is shown by `lineside token list` on that machine",
    }
}
