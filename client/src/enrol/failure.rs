//! Why a machine is no member: what happened where, what to do, and what has become of the token.

use std::{fmt, net::SocketAddr, time::Duration};

use lineside_certs::EnrolError;
use lineside_mesh::JoinError;
use lineside_wire::FaultCode;

/// Whether a token can be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFate {
    /// It was not used.
    Usable,
    /// It was shown to a member that then went silent: it may have been used.
    MaybeUsed,
    /// It was used, or is of no use.
    Spent,
}

impl fmt::Display for TokenFate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usable => "the token was not used: try again with it",
            Self::MaybeUsed => {
                "the token may have been used: try again with it, and if it is refused make a new one \
                 (`lineside token create`)"
            }
            Self::Spent => "the token is of no more use: make a new one (`lineside token create`)",
        })
    }
}

/// An address of the token, and what came of it.
#[derive(Clone, Debug)]
pub struct Tried {
    /// As the token says it, or what that stands for.
    pub address: String,
    /// What came of it.
    pub error: TryError,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, error } = self;
        match error {
            // It says by itself whom it is about.
            TryError::Join(error) => write!(f, "{error}"),
            TryError::Unresolved(_) | TryError::Late { .. } | TryError::NoTimeLeft => {
                write!(f, "{address}: {error}")
            }
        }
    }
}

/// Why there is no certificate from one address.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TryError {
    /// The name stands for no address.
    #[error("the name cannot be resolved: {0}")]
    Unresolved(String),
    /// No answer in time.
    #[error("no answer within {within:?}; does the member with the cluster's authority run there?")]
    Late {
        /// How long was waited.
        within: Duration,
    },
    /// The time was over before its turn came.
    #[error("not asked, for want of time")]
    NoTimeLeft,
    /// It did not give a certificate; the text names the address.
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// Why this machine did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum EnrolFailure {
    /// None of the addresses led to a certificate, and none refused for good.
    #[error("nobody at the token's addresses took this machine in: {}{}", list(tries), summary(tries, *fate))]
    NoAnswer {
        /// Who was asked, and what came of it.
        tries: Vec<Tried>,
        /// What has become of the token.
        fate: TokenFate,
    },
    /// A member with the cluster's authority refused: the others would, too.
    #[error("{error}")]
    Refused {
        /// Who refused.
        address: SocketAddr,
        /// What it said, and what to do.
        error: JoinError,
        /// What has become of the token.
        fate: TokenFate,
    },
    /// The answer makes no identity.
    #[error("{address} gave a certificate that cannot be used: {error}. All in all, {}", TokenFate::Spent)]
    Answer {
        /// Who answered.
        address: SocketAddr,
        /// What is wrong with it.
        error: EnrolError,
    },
}

fn list(tries: &[Tried]) -> String {
    tries.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What has become of the token, where one try does not say it for all.
fn summary(tries: &[Tried], fate: TokenFate) -> String {
    match tries {
        [Tried { error: TryError::Join(_), .. }] => String::new(),
        _ => format!(". All in all, {fate}"),
    }
}

impl EnrolFailure {
    /// What has become of the token.
    #[must_use]
    pub const fn fate(&self) -> TokenFate {
        match self {
            Self::NoAnswer { fate, .. } | Self::Refused { fate, .. } => *fate,
            Self::Answer { .. } => TokenFate::Spent,
        }
    }
}

/// What follows a try that brought no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The next address; the token was not used here.
    Elsewhere,
    /// The next address; the token may have been used here.
    MaybeUsed,
    /// The next address, and this one again after a while.
    Again(Duration),
    /// No other address would do better.
    Refused(TokenFate),
}

impl Verdict {
    pub(super) fn of(error: &JoinError) -> Self {
        match error {
            JoinError::WrongAuthority { .. }
            | JoinError::NotAHolder { .. }
            | JoinError::Tls { .. }
            | JoinError::Unreachable { .. }
            | JoinError::Local(_)
            | JoinError::Timeout { sent: false, .. } => Self::Elsewhere,
            JoinError::Timeout { sent: true, .. } | JoinError::Lost { .. } | JoinError::Protocol { .. } => {
                Self::MaybeUsed
            }
            JoinError::RateLimited { retry_after, .. } => Self::Again(*retry_after),
            JoinError::Refused { fault, .. } if fault.code == FaultCode::PermissionDenied => {
                Self::Refused(TokenFate::Spent)
            }
            // It cannot do it now, for a full disk, say; a second holder of the key may.
            JoinError::Refused { fault, .. } if fault.retryable => Self::MaybeUsed,
            JoinError::Refused { .. } => Self::Refused(TokenFate::MaybeUsed),
        }
    }
}

#[cfg(test)]
mod tests {
    use lineside_mesh::Fingerprint;
    use lineside_wire::Fault;

    use super::*;

    fn address() -> SocketAddr {
        ([10, 0, 0, 7], 7443).into()
    }

    fn refused(code: FaultCode) -> JoinError {
        JoinError::Refused { address: address(), fault: Fault::new(code, "no") }
    }

    #[test]
    fn only_a_refusal_of_the_authority_itself_ends_the_round() {
        let expected = Fingerprint([1; 32]);
        let other = JoinError::WrongAuthority { address: address(), expected, found: None };
        assert_eq!(Verdict::of(&other), Verdict::Elsewhere);
        assert_eq!(Verdict::of(&JoinError::NotAHolder { address: address() }), Verdict::Elsewhere);
        let wait = Duration::from_secs(3);
        let busy = JoinError::RateLimited { address: address(), retry_after: wait };
        assert_eq!(Verdict::of(&busy), Verdict::Again(wait));
        let denied = refused(FaultCode::PermissionDenied);
        assert_eq!(Verdict::of(&denied), Verdict::Refused(TokenFate::Spent));
        assert!(matches!(Verdict::of(&refused(FaultCode::InvalidParams)), Verdict::Refused(_)));
    }

    #[test]
    fn a_request_that_may_have_arrived_leaves_the_token_in_doubt() {
        let silent = |sent| JoinError::Timeout { address: address(), within: Duration::from_secs(5), sent };
        assert_eq!(Verdict::of(&silent(true)), Verdict::MaybeUsed);
        assert_eq!(Verdict::of(&silent(false)), Verdict::Elsewhere);
    }

    #[test]
    fn each_address_is_named_once_and_the_token_is_spoken_of() {
        let unresolved = Tried {
            address: "press:7443".to_owned(),
            error: TryError::Unresolved("no such host".to_owned()),
        };
        let reason = "refused".to_owned();
        let dead = Tried {
            address: address().to_string(),
            error: JoinError::Unreachable { address: address(), reason }.into(),
        };
        let alone = EnrolFailure::NoAnswer { tries: vec![dead.clone()], fate: TokenFate::Usable };
        let text = alone.to_string();
        assert_eq!(text.matches("10.0.0.7:7443").count(), 1, "{text}");
        assert_eq!(text.matches("token can still be used").count(), 1, "{text}");
        let both = EnrolFailure::NoAnswer { tries: vec![unresolved, dead], fate: TokenFate::MaybeUsed };
        let text = both.to_string();
        assert!(text.contains("press:7443: ") && text.ends_with("(`lineside token create`)"), "{text}");
    }
}
