//! Where the passphrase of the authority's key comes from: a file that only its owner can read, or the terminal. Never an
//! argument or a variable, which other users of the machine could see.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Args;
use lineside_certs::disk;
use zeroize::Zeroizing;

use crate::{
    config::Config,
    exit::{Exit, Failure, OrFail as _},
};

/// Longest passphrase, in bytes: a file that is longer is some other file.
const PASSPHRASE_BYTES_MAX: usize = 1024;

/// The flag of every command that uses the authority's key.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PassphraseArgs {
    /// A file with the passphrase of the authority's key, readable by its owner only [default: the setting
    /// certs.passphrase_file, else it is asked for]
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// The passphrase of a key that has one.
    pub(crate) fn present(&self, config: &Config) -> Result<Zeroizing<String>, Failure> {
        match self.file(config) {
            Some(file) => of_file(file),
            None => ask("Passphrase of the authority's key: "),
        }
    }

    /// A passphrase for a key that has none yet; typed twice where it is typed.
    pub(crate) fn fresh(&self, config: &Config) -> Result<Zeroizing<String>, Failure> {
        fresh(self.file(config))
    }

    /// The file that is named, if any.
    fn file<'a>(&'a self, config: &'a Config) -> Option<&'a Path> {
        self.passphrase_file.as_deref().or(config.certs.passphrase_file.0.as_deref())
    }
}

/// A new passphrase from a file, else from the terminal, twice.
pub(crate) fn fresh(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    let Some(file) = file else {
        let passphrase = ask("New passphrase of the authority's key: ")?;
        return match *passphrase == *ask("The same again: ")? {
            true => Ok(passphrase),
            false => Err(Failure::new(
                Exit::Failure,
                "no passphrase was set",
                "the two that were typed differ",
                "try again",
            )),
        };
    };
    of_file(file)
}

/// The passphrase in a file: its text without the end of the line.
pub(crate) fn of_file(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let what = format!("cannot use the passphrase in {}", file.display());
    let mut text = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 1));
    // Opened first: a file that is not there says so more plainly than its missing permissions.
    let opened = File::open(file).or_fail(
        Exit::Config,
        &what,
        "name a file that is there and can be read with --passphrase-file or certs.passphrase_file",
    )?;
    disk::check_secret(file).or_fail(Exit::Config, &what, "")?;
    let limit = PASSPHRASE_BYTES_MAX as u64 + 1;
    opened.take(limit).read_to_end(&mut text).or_fail(Exit::Config, &what, "")?;
    let unfit =
        |why: &str| Failure::new(Exit::Config, &what, why, "write the passphrase into it as its only line");
    let too_long = PASSPHRASE_BYTES_MAX < text.len();
    let passphrase = std::str::from_utf8(&text).map_err(|_| unfit("it is no text"))?;
    match passphrase.trim_end_matches(['\r', '\n']) {
        _ if too_long => Err(unfit(&format!("it is longer than {PASSPHRASE_BYTES_MAX} bytes"))),
        "" => Err(unfit("it is empty")),
        lines if lines.contains('\n') => Err(unfit("it has several lines")),
        passphrase => Ok(Zeroizing::new(passphrase.to_owned())),
    }
}

/// Asks on the terminal, without an echo.
fn ask(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let typed = rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| {
        Failure::new(
            Exit::Failure,
            "the passphrase of the authority's key is needed, and cannot be asked for",
            format!("there is no terminal ({error})"),
            "write it into a file with mode 0600, and name that with --passphrase-file, the setting \
             certs.passphrase_file, or, for a new one in the place of another, --new-passphrase-file",
        )
    })?;
    match typed.is_empty() {
        true => Err(Failure::new(Exit::Failure, "no passphrase was given", "", "try again")),
        false => Ok(typed),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn written(text: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("passphrase");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        (home, file)
    }

    #[test]
    fn a_passphrase_is_the_one_line_of_its_file() {
        for text in ["four plain short words", "four plain short words\n", "four plain short words\r\n"] {
            let (_home, file) = written(text.as_bytes(), 0o600);
            assert_eq!(*of_file(&file).unwrap(), "four plain short words");
        }
        let long = "x".repeat(PASSPHRASE_BYTES_MAX + 1);
        for text in ["", "\n", "two\nlines\n", long.as_str()] {
            let (_home, file) = written(text.as_bytes(), 0o600);
            let refused = of_file(&file).unwrap_err();
            assert!(refused.exit == Exit::Config && refused.text().contains("its only line"), "{text:?}");
        }
        let (_home, file) = written(&[0xff, 0xfe], 0o600);
        assert!(of_file(&file).unwrap_err().text().contains("no text"));
    }

    #[test]
    fn a_passphrase_that_others_can_read_is_refused_with_the_fix() {
        let (_home, file) = written(b"four plain short words", 0o640);
        let refused = of_file(&file).unwrap_err();
        assert_eq!(refused.exit, Exit::Config);
        assert!(refused.text().contains("chmod 600"), "{}", refused.text());
        let missing = of_file(Path::new("/no/such/file")).unwrap_err();
        assert!(missing.text().contains("--passphrase-file"), "{}", missing.text());
    }

    #[test]
    fn the_flag_wins_over_the_setting() {
        let (_home, one) = written(b"four plain short words", 0o600);
        let (_other, another) = written(b"four other short words", 0o600);
        let mut config = Config::default();
        config.certs.passphrase_file.0 = Some(one);
        let none = PassphraseArgs::default();
        assert_eq!(*none.present(&config).unwrap(), "four plain short words");
        let named = PassphraseArgs { passphrase_file: Some(another) };
        assert_eq!(*named.present(&config).unwrap(), "four other short words");
        assert_eq!(*named.fresh(&config).unwrap(), "four other short words");
    }
}
