//! Why the authority does not do what it is asked: what, why, what to do.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use lineside_wire::{API_KEYS_BYTES_MAX, API_KEYS_MAX, NodeId, REVOKED_MAX, Role};

use super::{NAME_BYTES_MAX, TOKEN_LIFETIME_MAX, registry::OPEN_TOKENS_MAX};
use crate::{TrustError, disk::Unsafe, passphrase::CHARACTERS_MIN, x509::readable};

/// Why the authority cannot be used, or does not do what it was asked. Nothing was signed and nothing told.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one already.
    #[error("{} already holds a cluster's authority; it is never replaced (move it away to begin anew)", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("{} holds no authority: run this on a machine with the authority's key, or name its data directory", .0.display())]
    Missing(PathBuf),
    /// A part of it is not there.
    #[error(
        "{} is missing: an authority is registry.json with the ca-g<N>.pem and ca-g<N>.key that it names; restore all of \
         them from one backup (if making the cluster was cut off just now, remove the directory and begin anew)",
        .0.display()
    )]
    Incomplete(PathBuf),
    /// Others can read the key or change the directory.
    #[error(transparent)]
    Unsafe(#[from] Unsafe),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is damaged.
    #[error("{} is damaged ({reason}): restore it from a backup", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// Another process holds the authority for longer than any change takes.
    #[error("{} is held by another process: end it, or try again", .0.display())]
    Busy(PathBuf),
    /// The key is encrypted, and no passphrase was given.
    #[error("{} is encrypted: its passphrase is needed", .0.display())]
    Locked(PathBuf),
    /// The passphrase does not open the key.
    #[error("the passphrase does not open {}", .0.display())]
    WrongPassphrase(PathBuf),
    /// A passphrase that would be guessed.
    #[error("a passphrase has at least {CHARACTERS_MIN} characters")]
    WeakPassphrase,
    /// The authority's own time is over.
    #[error("the authority ended on {}: nobody would trust what it signs; make a new cluster, or set this machine's clock", readable(*.0))]
    Expired(SystemTime),
    /// A newer generation signs for the cluster, and its key is not here.
    #[error(
        "the key of generation {issuing}, which signs for the cluster, is not here: this is a copy from before a \
         rotation; do it where the rotation was done, or copy the whole directory from there"
    )]
    LeftBehind {
        /// The generation that signs.
        issuing: u32,
    },
    /// A name that no certificate can carry.
    #[error("{0:?} cannot be a name: use 1 to {NAME_BYTES_MAX} letters, digits, spaces, '.', '_' or '-'")]
    InvalidName(String),
    /// The request for a certificate cannot be used.
    #[error("the certificate request cannot be used: {0}")]
    Request(String),
    /// The node was revoked, and its id with it.
    #[error(
        "the node {0} was revoked, and never gets a certificate again: let the machine join anew, under a new id"
    )]
    RevokedNode(NodeId),
    /// A token for a role that takes more than a token.
    #[error(
        "no token makes a machine {0}: use `lineside certs admin` on the machine with the authority's key"
    )]
    TokenRole(Role),
    /// A token that would be good for too long, or not at all.
    #[error("a token is good for 1 s to {} h, not for {} s", TOKEN_LIFETIME_MAX.as_secs() / 3600, .0.as_secs())]
    TokenLifetime(Duration),
    /// Too many tokens can be used.
    #[error("{OPEN_TOKENS_MAX} tokens are open: revoke some, or wait until they expire")]
    TooManyTokens,
    /// Too many API keys.
    #[error(
        "there is no room for another API key: there can be {API_KEYS_MAX}, and {} KiB of them; revoke some that nobody \
         uses (`lineside keys list`)",
        API_KEYS_BYTES_MAX >> 10
    )]
    TooManyKeys,
    /// An API key that could do nothing, or is told wrongly what it may.
    #[error("an API key cannot have this: {0}")]
    ApiKey(String),
    /// Too much is revoked.
    #[error(
        "{REVOKED_MAX} certificates and nodes are revoked, and a list has no room for more: rotate the authority \
         (`lineside certs rotate-ca`), which forgets the old one's certificates"
    )]
    TooManyRevocations,
    /// A text that is no serial number.
    #[error(
        "{0:?} is no serial number: give its hexadecimal digits, at most 40, as `lineside certs show` does"
    )]
    Serial(String),
    /// A rotation runs.
    #[error("a rotation runs already, from generation {retiring} to {issuing}: finish it first")]
    Rotating {
        /// The generation that is to go.
        retiring: u32,
        /// The generation that signs.
        issuing: u32,
    },
    /// No rotation runs.
    #[error("no rotation runs: generation {0} is the only one")]
    NotRotating(u32),
    /// A trust list that is not ours to take.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The certificate could not be made: a defect of ours.
    #[error("the certificate could not be made: {0}")]
    Signing(#[from] rcgen::Error),
}

impl AuthorityError {
    /// For `map_err`: what cannot be done with a file.
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    pub(super) fn damaged(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// Why a join was refused. The joiner is told one and the same for all of the first four. Nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum JoinRefusal {
    /// No such token, or the proof does not fit it.
    #[error("the token is not known here, or the proof does not fit it")]
    Unknown,
    /// Its time is over.
    #[error("the token expired")]
    Expired,
    /// It was used, or taken back.
    #[error("the token was used or revoked")]
    Used,
    /// It is for another role.
    #[error("the token is for the role {0}")]
    OtherRole(Role),
    /// The proof was right and the request for a certificate is not.
    #[error("the certificate request cannot be used: {0}")]
    Request(String),
    /// The authority cannot do it now.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// Why a certificate was not renewed. Nothing was issued; the present certificate is as good as before.
#[derive(Debug, thiserror::Error)]
pub enum RenewRefusal {
    /// The certificate or the node was revoked.
    #[error("the certificate or the node was revoked")]
    Revoked,
    /// Another certificate of the node was revoked after this one was issued: whoever had that one may have got this one.
    #[error(
        "a certificate of this node was revoked after this one was issued, so this one is not renewed: have a new one \
         signed (`lineside certs request`, `certs sign --node`, `certs install`), or join anew with a token"
    )]
    InDoubt,
    /// The node asks for more certificates than it can use.
    #[error("this node got as many certificates within {} s as there are for that time: ask again later", within.as_secs())]
    TooOften {
        /// In which time.
        within: Duration,
    },
    /// The role's certificates are not renewed: an admin's is issued anew.
    #[error("certificates of the role {0} are not renewed")]
    Role(Role),
    /// The request for a certificate cannot be used.
    #[error("the certificate request cannot be used: {0}")]
    Request(String),
    /// The authority cannot do it now.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}
