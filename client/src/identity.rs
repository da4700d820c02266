//! Who a client program is.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use lineside_certs::{Identity, IdentityError};

/// What a client can be told to be: an identity, or the directory of one.
pub trait IntoIdentity {
    /// The identity itself.
    ///
    /// # Errors
    /// The directory holds none that can be used.
    fn into_identity(self) -> Result<Arc<Identity>, IdentityError>;
}

impl IntoIdentity for Identity {
    fn into_identity(self) -> Result<Arc<Identity>, IdentityError> {
        Ok(Arc::new(self))
    }
}

impl IntoIdentity for Arc<Identity> {
    fn into_identity(self) -> Result<Arc<Identity>, IdentityError> {
        Ok(self)
    }
}

macro_rules! directories {
    ($($given:ty),*) => {$(
        impl IntoIdentity for $given {
            fn into_identity(self) -> Result<Arc<Identity>, IdentityError> {
                let directory: &Path = self.as_ref();
                Identity::load(directory).map(Arc::new)
            }
        }
    )*};
}

directories!(&Path, &PathBuf, PathBuf, &str, &String, String);
