//! The authority's key on this machine, opened for one command.

use std::{path::PathBuf, time::SystemTime};

use clap::Args;
use lineside_certs::{
    AUTHORITY_DIRECTORY, Authority, AuthorityError, Clock, IDENTITY_DIRECTORY, Identity, IdentityError,
};

use crate::{
    args::SettingsArgs,
    commands::{connect::running_here, passphrase::PassphraseArgs},
    config::Config,
    exit::{Exit, Failure},
    member::state_directory,
    output,
};

/// What an error says itself is not said again.
const SAYS_ITSELF: &str = "";

/// The flags of every command that uses the authority's key.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct OfficeArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
}

/// The authority with its key, and the settings of this machine.
pub(crate) struct Office {
    pub(crate) config: Config,
    pub(crate) authority: Authority,
    /// Whether the key has a passphrase.
    pub(crate) locked: bool,
    /// The time of this command: not before the last one that a member here knew.
    pub(crate) now: SystemTime,
}

impl OfficeArgs {
    /// Opens the authority in the data directory; asks for the passphrase if the key has one.
    ///
    /// `what` is what cannot be done without: "cannot make a token".
    pub(crate) fn open(self, what: &str) -> Result<Office, Failure> {
        let Self { settings, passphrase } = self;
        let config = settings.load(Vec::new())?.config;
        let directory = config.data_dir().join(AUTHORITY_DIRECTORY);
        let fail = |error: AuthorityError| unusable_authority(what, &error);
        let locked = Authority::is_locked(&directory).map_err(fail)?;
        let authority = match locked {
            false => Authority::load(&directory),
            true => Authority::unlock(&directory, &passphrase.present(&config)?),
        };
        let authority = authority.map_err(fail)?.with_lifetimes(config.lifetimes());
        let now = Clock::kept_in(&state_directory(&config)).now();
        Ok(Office { config, authority, locked, now })
    }
}

impl Office {
    /// The directory with the authority.
    pub(crate) fn directory(&self) -> PathBuf {
        self.config.data_dir().join(AUTHORITY_DIRECTORY)
    }

    /// The identity of this machine, if it has one that can be used.
    pub(crate) fn own(&self) -> Option<Identity> {
        Identity::load(&self.config.data_dir().join(IDENTITY_DIRECTORY)).ok()
    }

    /// Whether a member runs here that hears of what was changed, and publishes it.
    pub(crate) fn is_published(&self) -> bool {
        running_here(&self.config).is_ok()
    }

    /// Says what hinders a change from reaching the cluster, if anything does.
    pub(crate) fn warn(&self, until_then: &str) {
        if let Err(why) = running_here(&self.config) {
            let flag = self.config.data_dir_flag();
            output::note(format_args!("\nwarning: {why}:\n{until_then}. Start it: lineside up{flag}"));
        }
        if let Some(warning) = self.key_is_out_of_reach() {
            output::note(format_args!("\nwarning: {warning}"));
        }
    }

    /// Why the member that runs here cannot use the key, which commands can ask a person for.
    fn key_is_out_of_reach(&self) -> Option<&'static str> {
        (self.locked && self.config.certs.passphrase_file.0.is_none()).then_some(
            "the key has a passphrase, and the settings name no certs.passphrase_file:\na member that starts here can \
             neither let machines join nor renew certificates",
        )
    }
}

/// The time by which certificates are judged: not before this software was built.
pub(crate) fn now() -> SystemTime {
    Clock::system().now()
}

/// Seconds since 1970.
pub(crate) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why the authority cannot be used or changed, as the end of a command.
pub(crate) fn unusable_authority(what: &str, error: &AuthorityError) -> Failure {
    let remedy = match error {
        AuthorityError::File { .. } => {
            "nothing was changed; free space, and see that the files belong to this user and their disk can be written"
        }
        AuthorityError::WrongPassphrase(_) => {
            "try again; one that is forgotten opens nothing any more: use a copy of the directory from before it was set, \
             or another machine with the key"
        }
        _ => SAYS_ITSELF,
    };
    Failure::new(exit_of_authority(error), what, error, remedy)
}

/// Why an identity cannot be used or written, as the end of a command.
pub(crate) fn unusable_identity(what: &str, error: &IdentityError) -> Failure {
    Failure::new(exit_of_identity(error), what, error, SAYS_ITSELF)
}

/// Files that are damaged or open to others are a matter of configuration: trying again does not help.
fn exit_of_authority(error: &AuthorityError) -> Exit {
    let is_of_files = matches!(
        error,
        AuthorityError::Incomplete(_) | AuthorityError::Unsafe(_) | AuthorityError::Damaged { .. }
    );
    if is_of_files { Exit::Config } else { Exit::Failure }
}

/// As [`exit_of_authority`].
fn exit_of_identity(error: &IdentityError) -> Exit {
    if let IdentityError::Authority(error) = error {
        return exit_of_authority(error);
    }
    let is_of_files = matches!(
        error,
        IdentityError::Incomplete(_)
            | IdentityError::Unsafe(_)
            | IdentityError::Damaged { .. }
            | IdentityError::KeyMismatch(_)
            | IdentityError::ForeignAuthority(_)
            | IdentityError::NoMember { .. }
            | IdentityError::Retired { .. }
    );
    if is_of_files { Exit::Config } else { Exit::Failure }
}
