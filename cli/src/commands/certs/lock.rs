//! `lineside certs passphrase`: who has the files of the authority still cannot sign.

use std::path::PathBuf;

use clap::Args;

use super::office::{Office, OfficeArgs, unusable_authority};
use crate::{
    commands::{connect::running_here, passphrase},
    exit::{Exit, Failure, Outcome},
    output,
};

/// `lineside certs passphrase`.
#[derive(Debug, Args)]
pub(crate) struct PassphraseCommandArgs {
    #[command(flatten)]
    office: OfficeArgs,
    /// A file with the new passphrase, where the key has one already [default: it is asked for]
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// Keep the key without a passphrase
    #[arg(long, conflicts_with = "new_passphrase_file")]
    remove: bool,
}

impl PassphraseCommandArgs {
    pub(super) fn run(self) -> Outcome {
        let remove = self.remove;
        let office = self.change()?;
        let done = if remove { "the key is no longer encrypted" } else { "the key is encrypted" };
        output::data(format_args!("{}: {done}\n", office.directory().display()))?;
        if remove {
            return Ok(Exit::Ok);
        }
        output::note(
            "\nNobody can tell you the passphrase: without it, or a copy of the key that has none, no machine can\n\
             ever join again, and certificates end. Copies that were made before are not encrypted.",
        );
        if office.config.certs.passphrase_file.0.is_none() {
            output::note(
                "A member on this machine needs it to let machines join and to renew certificates: write it into a\n\
                 file with mode 0600 and name that in the setting certs.passphrase_file.",
            );
        }
        if running_here(&office.config).is_ok() {
            output::note("The member that runs here has the key open until it ends.");
        }
        Ok(Exit::Ok)
    }

    fn change(self) -> Result<Office, Failure> {
        let what = "cannot change the passphrase of the authority's key";
        let flag = self.office.passphrase.clone();
        let office = self.office.open(what)?;
        let new = match (self.remove, office.locked) {
            (true, true) => None,
            (true, false) => {
                let why = "the authority's key has none";
                return Err(Failure::new(Exit::Failure, "there is no passphrase to remove", why, ""));
            }
            (false, true) => Some(passphrase::fresh(self.new_passphrase_file.as_deref())?),
            (false, false) if self.new_passphrase_file.is_some() => {
                Some(passphrase::fresh(self.new_passphrase_file.as_deref())?)
            }
            (false, false) => Some(flag.fresh(&office.config)?),
        };
        let new = new.as_ref().map(|text| text.as_str());
        office.authority.set_passphrase(new).map_err(|error| unusable_authority(what, &error))?;
        Ok(office)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use lineside_certs::Authority;

    use super::*;
    use crate::commands::{certs::tests::Desk, passphrase::PassphraseArgs};

    fn passphrase(desk: &Desk, name: &str, text: &str) -> PathBuf {
        let file = desk.beside(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    }

    #[test]
    fn a_key_is_locked_opened_with_its_passphrase_and_unlocked_again() {
        let desk = Desk::founded("press");
        let (one, two) = (
            passphrase(&desk, "one", "four plain short words"),
            passphrase(&desk, "two", "four other short words"),
        );
        let office = |file: &PathBuf| OfficeArgs {
            settings: desk.settings(),
            passphrase: PassphraseArgs { passphrase_file: Some(file.clone()) },
        };
        let change = |file, new, remove| {
            let office = office(file);
            PassphraseCommandArgs { office, new_passphrase_file: new, remove }.change()
        };
        change(&one, None, false).map(drop).unwrap();
        assert!(Authority::is_locked(&desk.authority()).unwrap());
        assert!(office(&one).open("cannot").is_ok());
        let wrong = office(&two).open("cannot make a token").map(drop).unwrap_err();
        assert!(wrong.text().contains("passphrase"), "{}", wrong.text());

        change(&one, Some(two.clone()), false).map(drop).unwrap();
        assert!(office(&one).open("cannot").is_err() && office(&two).open("cannot").is_ok());
        change(&two, None, true).map(drop).unwrap();
        assert!(!Authority::is_locked(&desk.authority()).unwrap());
        let nothing = change(&two, None, true).map(drop).unwrap_err();
        assert!(nothing.text().contains("has none"), "{}", nothing.text());
    }
}
