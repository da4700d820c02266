//! The data directory at the start: taken for this process, and closed to everyone else.

use std::{
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use lineside_certs::disk;

use super::address::InUse;
use crate::{
    config::Config,
    exit::{Exit, Failure, OrFail as _},
};

/// Below the data directory: what a member keeps between two starts.
pub(super) const STATE_DIRECTORY: &str = "state";

/// Where that is.
pub(crate) fn state_directory(config: &Config) -> PathBuf {
    config.data_dir().join(STATE_DIRECTORY)
}

/// Takes the data directory for this process.
///
/// # Errors
/// It cannot be used, is open to others, or another process has it.
pub(super) fn take(data: &Path) -> Result<InUse, Failure> {
    let cannot_use = |error: std::io::Error| {
        // A full disk is no mistake in the settings: a supervisor should try again.
        let (exit, remedy) = match error.kind() {
            ErrorKind::StorageFull => (Exit::Failure, "free space, or choose another --data-dir"),
            _ => (Exit::Config, "name a directory that this user may write with --data-dir"),
        };
        Failure::new(exit, format!("cannot use the data directory {}", data.display()), error, remedy)
    };
    if disk::tighten_if_empty(data).map_err(cannot_use)? {
        tracing::info!(directory = %data.display(), "the empty data directory was closed to other users (0700)");
    }
    // Before anything is put there: whatever is wrong with it is wrong as it was found.
    if data.exists() {
        check_own(data)?;
    }
    let taken = InUse::take(data).map_err(cannot_use)?;
    taken.ok_or_else(|| {
        Failure::new(
            Exit::Failure,
            format!("{} is in use", data.display()),
            "another member runs with this data directory, and two with one identity would fight",
            "stop that one, or give this one a directory of its own with --data-dir",
        )
    })
}

/// Whoever may write into the data directory can put another identity there.
fn check_own(data: &Path) -> Result<(), Failure> {
    let unsafe_to_use = format!("the data directory {} is not safe to use", data.display());
    let me = rustix::process::geteuid().as_raw();
    match std::fs::metadata(data).map(|metadata| metadata.uid()) {
        Ok(owner) if owner != me => Err(Failure::new(
            Exit::Config,
            unsafe_to_use,
            format!("it belongs to the user {owner}, and this process is the user {me}"),
            format!("start this as its owner, or take it over: chown -R {me} {}", data.display()),
        )),
        Ok(_) | Err(_) => disk::check_directory(data).or_fail(Exit::Config, unsafe_to_use, ""),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its owner may");
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused_with_the_command_that_mends_it() {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("models"), b"").expect("writable");
        set_mode(home.path(), 0o755);
        let refused = take(home.path()).expect_err("everybody may enter");
        assert_eq!(refused.exit, Exit::Config);
        let text = refused.text();
        assert!(text.contains("chmod 700") && text.contains(&home.path().display().to_string()), "{text}");
        set_mode(home.path(), 0o700);
        assert!(take(home.path()).is_ok());
    }

    #[test]
    fn an_empty_directory_of_our_own_is_closed_and_used() {
        let home = tempfile::tempdir().expect("a directory");
        set_mode(home.path(), 0o755);
        let taken = take(home.path()).expect("it is ours");
        let mode = std::fs::metadata(home.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(take(home.path()).expect_err("one process at a time").exit, Exit::Failure);
        drop(taken);
    }
}
