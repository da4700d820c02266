//! Why discovery cannot begin.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::PaceError;

/// Why this process cannot take part in its cluster's gossip. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The heartbeat's times do not fit together.
    #[error(transparent)]
    Pace(#[from] PaceError),
    /// The state directory is not there and cannot be made.
    #[error("the directory {} cannot be made: {source}. The user that runs this member must own the directory above it", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The count of starts cannot be read.
    #[error("the count of starts in {} cannot be read: {source}. The user that runs this member must own the file", path.display())]
    EpochUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The count of starts is no count.
    #[error(
        "{path} is damaged: it should hold one line such as `epoch 17`. If you know the number, write a larger one; \
         if not, delete the file. The others remember this member's last life, and it goes past that when they meet",
        path = .path.display()
    )]
    EpochDamaged {
        /// The file.
        path: PathBuf,
    },
    /// This start cannot be counted. Without it the others would take this member for one that is dead.
    #[error("this start cannot be counted in {}: {source}. Is the disk full, or the directory another user's?", path.display())]
    EpochUnwritable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nobody could reach this member.
    #[error("{address} is no address that other members can dial: give one of this machine's, with a port")]
    Address {
        /// The address that this member would tell.
        address: SocketAddr,
    },
    /// The system gives no thread.
    #[error("the gossip thread cannot start: {0}")]
    Thread(#[source] io::Error),
}
