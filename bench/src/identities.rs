//! A cluster of the benchmark's own, in a directory that goes with it.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use anyhow::Context as _;
use lineside_certs::{Authority, Identity, Subject};
use lineside_wire::Role;
use tempfile::TempDir;

/// An authority and what it has issued.
pub(crate) struct Identities {
    pub(crate) home: TempDir,
    authority: Authority,
}

impl Identities {
    pub(crate) fn make() -> anyhow::Result<Self> {
        let home = tempfile::tempdir().context("cannot make a directory")?;
        let authority = Authority::create(&home.path().join("ca"), "bench", SystemTime::now())?;
        Ok(Self { home, authority })
    }

    /// Issues an identity; gives its directory.
    pub(crate) fn issue(&self, role: Role, name: &str, at: &str) -> anyhow::Result<PathBuf> {
        let directory = self.home.path().join(at);
        let issued = self.authority.issue(&Subject::new(role, name), SystemTime::now())?;
        Identity::store(&directory, &issued)?;
        Ok(directory)
    }

    pub(crate) fn load(directory: &std::path::Path) -> anyhow::Result<Arc<Identity>> {
        Ok(Arc::new(Identity::load(directory)?))
    }
}
