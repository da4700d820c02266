//! Why an identity cannot be used: what, why, what to do.

use std::{io, path::PathBuf, time::SystemTime};

use crate::{AuthorityError, PeerIdentityError, disk::Unsafe, x509::readable};

/// Why an identity cannot be used. What was on disk is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is none.
    #[error(
        "{} holds no identity: issue one on the machine that made the cluster (`lineside certs issue`) and copy \
         its directory here",
        .0.display()
    )]
    Missing(PathBuf),
    /// A part of it is not there.
    #[error("{} is missing: the identity directory must hold cert.pem, key.pem and ca.pem; copy it whole", .0.display())]
    Incomplete(PathBuf),
    /// The cluster's authority is here, and no identity: a first start that was cut off, or a directory that was lost.
    #[error(
        "{} holds a cluster's authority but there is no identity in {}: issue one from it (`lineside certs issue`) and \
         move it there; or, if the cluster was only just begun, remove the authority and start again",
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
    #[error("{} is damaged ({reason}): restore it, or issue this machine a new identity", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// Key and certificate are of different identities.
    #[error("{} and key.pem do not belong together: copy the whole directory of one identity", .0.display())]
    KeyMismatch(PathBuf),
    /// The certificate was signed by another authority than the one beside it.
    #[error(
        "{} was not signed by the authority in ca.pem: they are of different clusters; copy the whole directory of one \
         identity",
        .0.display()
    )]
    ForeignAuthority(PathBuf),
    /// The certificate names no member.
    #[error("{}: {error}; issue this machine an identity with `lineside certs issue`", path.display())]
    NoMember {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: PeerIdentityError,
    },
    /// The certificate's time is over.
    #[error(
        "the certificate of {name:?} expired on {} (this machine's clock says {}): issue a new one with `lineside \
         certs issue`, or set the clock",
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
    /// The cluster could not be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}
