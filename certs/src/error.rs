//! Why an identity cannot be used: what, why, what to do.

use std::{io, path::PathBuf, time::SystemTime};

use crate::{AuthorityError, PeerIdentityError, disk::Unsafe, x509::readable};

/// Why an identity cannot be used. What was on disk is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is none.
    #[error(
        "{} holds no identity: make a line with `lineside token create` on the machine with the authority, and join here \
         with it (`lineside up --join LINE`)",
        .0.display()
    )]
    Missing(PathBuf),
    /// A part of it is not there.
    #[error(
        "{} is missing: an identity is cert.pem, key.pem and ca.pem; restore all of them from one backup, or move the \
         directory away and join anew with a line of `lineside token create`",
        .0.display()
    )]
    Incomplete(PathBuf),
    /// The cluster's authority is here, and no identity: a first start that was cut off, or a directory that
    /// was lost.
    #[error(
        "{} holds a cluster's authority but there is no identity in {}: give this machine one (`lineside certs request`, \
         `certs sign` and `certs install`, all of them here); or, if the cluster was only just begun, remove the \
         authority and start again",
        authority.display(),
        identity.display()
    )]
    AuthorityOnly {
        /// The directory of the authority.
        authority: PathBuf,
        /// The directory of the identity that is not there.
        identity: PathBuf,
    },
    /// There is one already.
    #[error("{} already holds an identity; it is never replaced (name another directory, or move it away)", .0.display())]
    Exists(PathBuf),
    /// A renewed certificate is of another member than the one that is there.
    #[error("the identity in {} is another member's than the renewed one; it was not touched", .0.display())]
    OtherMember(PathBuf),
    /// Others can read the key or look into the directory.
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
    #[error("{} is damaged ({reason}): {fix}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        reason: String,
        /// What to do about it.
        fix: &'static str,
    },
    /// Key and certificate are of different identities.
    #[error(
        "{} and the key beside it do not belong together: restore both from one backup, or move them away and join anew \
         with a line of `lineside token create`",
        .0.display()
    )]
    KeyMismatch(PathBuf),
    /// The certificate was signed by another authority than the one beside it.
    #[error(
        "{} was not signed by the authority beside it (ca.pem): they are of different clusters; restore the whole \
         directory of one identity",
        .0.display()
    )]
    ForeignAuthority(PathBuf),
    /// The authority was rotated, and this member missed all of it.
    #[error(
        "{} was signed by the authority g{generation}, which the cluster trusts no more since its authority was rotated: \
         move the directory away and join anew with a line of `lineside token create`",
        path.display()
    )]
    Retired {
        /// The certificate.
        path: PathBuf,
        /// Which authority signed it.
        generation: u32,
    },
    /// The certificate names no member.
    #[error(
        "{}: {error}; move it away and join with a line of `lineside token create`, or have one signed (`lineside certs \
         sign`)",
        path.display()
    )]
    NoMember {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: PeerIdentityError,
    },
    /// The certificate's time is over.
    #[error(
        "the certificate of {name:?} expired on {} (this machine's clock says {}): join anew with a line of `lineside \
         token create`, or set the clock",
        readable(*since),
        readable(*now)
    )]
    Expired {
        /// The holder's name.
        name: String,
        /// When it ended.
        since: SystemTime,
        /// What the clock says.
        now: SystemTime,
    },
    /// The certificate's time has not begun: nearly always a clock that has lost its battery.
    #[error(
        "the certificate of {name:?} is valid from {} and this machine's clock says {}: set the clock",
        readable(*from),
        readable(*now)
    )]
    NotYetValid {
        /// The holder's name.
        name: String,
        /// When it begins.
        from: SystemTime,
        /// What the clock says.
        now: SystemTime,
    },
    /// The cluster took the certificate back.
    #[error(
        "the certificate of {name:?} was revoked: nobody in the cluster speaks with this machine; if that was a mistake, \
         move the identity away and join anew with a line of `lineside token create`"
    )]
    Revoked {
        /// The holder's name.
        name: String,
    },
    /// There is a request for a certificate already.
    #[error(
        "{} holds a request already: have that one signed (`lineside certs sign`), or remove it to make another",
        .0.display()
    )]
    RequestExists(PathBuf),
    /// There is no request for a certificate.
    #[error("{} is missing: an answer is installed where its request was made (`lineside certs request`)", .0.display())]
    RequestMissing(PathBuf),
    /// The cluster could not be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl IdentityError {
    /// What to do about a file that nothing can replace.
    pub(crate) const RESTORE: &str = "restore it from a backup, or move the directory away and join anew with a \
                                      line of `lineside token create`";
    /// What to do about a trust list.
    pub(crate) const FETCHED_ANEW: &str =
        "restore it, or remove it: this member then fetches it anew from the others";
}
