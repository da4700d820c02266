//! Who a client program is, and where it keeps that.

mod pair;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use lineside_certs::{Credentials, Identity, IdentityError, Issued, Trust};
use lineside_wire::Role;

/// An identity that a client goes by, and the files that it came from, if it did: they are kept up to date.
#[derive(Clone)]
pub struct ClientIdentity {
    credentials: Credentials,
    home: Home,
}

/// Where an identity is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// On no disk, or somebody else keeps it.
    Nowhere,
    /// In an identity directory.
    Directory(PathBuf),
    /// In two files.
    Pair {
        /// The certificate and the authorities.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
}

impl ClientIdentity {
    /// An identity that this client writes nowhere.
    #[must_use]
    pub fn new(credentials: impl Into<Credentials>) -> Self {
        Self { credentials: credentials.into(), home: Home::Nowhere }
    }

    /// The identity in a directory: `cert.pem`, `key.pem`, `ca.pem`.
    ///
    /// # Errors
    /// The directory holds none that can be used.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Result<Self, IdentityError> {
        Home::Directory(directory.into()).load()
    }

    /// The identity in a pair of files: the certificate, with the authorities' behind it, and the key.
    ///
    /// # Errors
    /// The files hold none that can be used.
    pub fn in_files(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, IdentityError> {
        Home::Pair { certificate: certificate.into(), key: key.into() }.load()
    }

    /// The identity as it is now and as it will be: it changes when it is renewed.
    #[must_use]
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    pub(crate) const fn home(&self) -> &Home {
        &self.home
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.credentials.identity();
        f.debug_struct("ClientIdentity").field("identity", &identity).field("home", &self.home).finish()
    }
}

impl Home {
    fn load(self) -> Result<ClientIdentity, IdentityError> {
        let identity = Arc::new(self.read()?);
        // A member's directory is its own business, and an admin's certificate ends after a day and is not renewed.
        let home = if identity.role() == Role::Client { self } else { Self::Nowhere };
        Ok(ClientIdentity { credentials: identity.into(), home })
    }

    /// Whether anything is kept.
    pub(crate) const fn is_somewhere(&self) -> bool {
        !matches!(self, Self::Nowhere)
    }

    /// What is kept there now.
    fn read(&self) -> Result<Identity, IdentityError> {
        match self {
            Self::Nowhere => Err(IdentityError::Missing(PathBuf::new())),
            Self::Directory(directory) => Identity::load(directory),
            Self::Pair { certificate, key } => pair::load(certificate, key),
        }
    }

    /// The identity that another process with the same files has renewed meanwhile: the same member's, and valid for
    /// longer.
    pub(crate) fn renewed_by_another(&self, present: &Identity) -> Option<Identity> {
        let kept = self.is_somewhere().then(|| self.read().ok()).flatten()?;
        let is_same =
            (kept.cluster(), kept.node(), kept.role()) == (present.cluster(), present.node(), present.role());
        (is_same && present.not_after() < kept.not_after()).then_some(kept)
    }

    /// Writes a renewed certificate over the old one, whole or not at all.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(crate) fn store_renewed(&self, issued: &Issued) -> Result<(), IdentityError> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Directory(directory) => Identity::store_renewed(directory, issued),
            Self::Pair { certificate, key } => pair::store_renewed(certificate, key, issued),
        }
    }

    /// Writes a newer trust list beside the identity. In a pair it is written with the next certificate: until then each
    /// start learns it anew.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(crate) fn store_trust(&self, trust: &Trust) -> Result<(), IdentityError> {
        match self {
            Self::Nowhere | Self::Pair { .. } => Ok(()),
            Self::Directory(directory) => Identity::store_trust(directory, trust),
        }
    }
}

/// What a client can be told to be: an identity, the directory of one, or the two files `(certificate, key)` of one.
pub trait IntoIdentity {
    /// The identity itself.
    ///
    /// # Errors
    /// The files hold none that can be used.
    fn into_identity(self) -> Result<ClientIdentity, IdentityError>;
}

impl IntoIdentity for ClientIdentity {
    fn into_identity(self) -> Result<ClientIdentity, IdentityError> {
        Ok(self)
    }
}

macro_rules! in_memory {
    ($($given:ty),*) => {$(
        impl IntoIdentity for $given {
            fn into_identity(self) -> Result<ClientIdentity, IdentityError> {
                Ok(ClientIdentity::new(self))
            }
        }
    )*};
}

in_memory!(Identity, Arc<Identity>, Credentials);

macro_rules! directories {
    ($($given:ty),*) => {$(
        impl IntoIdentity for $given {
            fn into_identity(self) -> Result<ClientIdentity, IdentityError> {
                let directory: &Path = self.as_ref();
                ClientIdentity::in_directory(directory)
            }
        }
    )*};
}

directories!(&Path, &PathBuf, PathBuf, &str, &String, String);

impl<C: AsRef<Path>, K: AsRef<Path>> IntoIdentity for (C, K) {
    fn into_identity(self) -> Result<ClientIdentity, IdentityError> {
        ClientIdentity::in_files(self.0.as_ref(), self.1.as_ref())
    }
}
