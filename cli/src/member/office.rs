//! Opens the authority on this machine, where its key is here and can be used.

use std::{fs, path::Path};

use lineside_certs::{AUTHORITY_DIRECTORY, Authority, AuthorityError, Identity, disk};
use zeroize::Zeroizing;

use crate::{
    config::Config,
    exit::{Exit, Failure, OrFail as _},
};

/// Largest file with a passphrase: a line.
const PASSPHRASE_BYTES_MAX: u64 = 4096;

/// The authority below the data directory, if its key is there and can be used. What keeps it from being used is told
/// here, and does not keep the member from working.
///
/// # Errors
/// Others can read the key: nothing is started with that.
pub(super) fn authority(config: &Config, identity: &Identity) -> Result<Option<Authority>, Failure> {
    let directory = config.data_dir().join(AUTHORITY_DIRECTORY);
    if !disk::is_there(&directory).unwrap_or(true) {
        return Ok(None);
    }
    let loaded = match load(config, &directory) {
        Ok(loaded) => loaded,
        Err(AuthorityError::Missing(_)) => return Ok(None),
        Err(error @ AuthorityError::Unsafe(_)) => {
            return Err(error).or_fail(Exit::Config, "the authority's key is not safe to use", "");
        }
        Err(error) => {
            tracing::error!(%error, "the authority on this machine cannot be used: no certificate is issued here");
            return Ok(None);
        }
    };
    let Some(authority) = loaded else { return Ok(None) };
    if authority.cluster() != identity.cluster() {
        tracing::error!(
            authority = %authority.cluster(), own = %identity.cluster(),
            "the authority on this machine is another cluster's: no certificate is issued here"
        );
        return Ok(None);
    }
    if !authority.is_current() {
        behind();
        return Ok(None);
    }
    Ok(Some(authority.with_lifetimes(config.lifetimes())))
}

/// `None` when the key has a passphrase that nobody gave, which was told.
fn load(config: &Config, directory: &Path) -> Result<Option<Authority>, AuthorityError> {
    if !Authority::is_locked(directory)? {
        return Authority::load(directory).map(Some);
    }
    let Some(file) = &config.certs.passphrase_file.0 else {
        tracing::warn!(
            "the authority's key has a passphrase, so no certificate is issued or renewed here: name a file with it \
             in certs.passphrase_file"
        );
        return Ok(None);
    };
    match passphrase(file) {
        Ok(passphrase) => Authority::unlock(directory, &passphrase).map(Some),
        Err(error) => {
            tracing::warn!(
                file = %file.display(), error,
                "the passphrase of the authority's key cannot be read: no certificate is issued or renewed here"
            );
            Ok(None)
        }
    }
}

fn passphrase(file: &Path) -> Result<Zeroizing<String>, String> {
    disk::check_secret(file).map_err(|error| error.to_string())?;
    let length = fs::metadata(file).map_err(|error| error.to_string())?.len();
    if PASSPHRASE_BYTES_MAX < length {
        return Err(format!("it has {length} bytes, and a passphrase has at most {PASSPHRASE_BYTES_MAX}"));
    }
    let text = Zeroizing::new(fs::read_to_string(file).map_err(|error| error.to_string())?);
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Tells that the keys here sign no more.
pub(super) fn behind() {
    tracing::warn!(
        "the authority's key here signs no more: it was rotated on another machine; copy the directory of the \
         authority from there, or remove this one"
    );
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_passphrase_is_one_line_of_a_private_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("passphrase");
        fs::write(&file, "three blind mice\n").expect("writable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("its owner may");
        assert!(passphrase(&file).expect_err("others can read it").contains("chmod 600"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its owner may");
        assert_eq!(*passphrase(&file).expect("private"), "three blind mice");
        fs::write(&file, vec![b'x'; 5000]).expect("writable");
        assert!(passphrase(&file).is_err());
    }
}
