//! Two files with certificate and key: when they are read. Pure but for the looking and reading itself.

use std::{fs, path::PathBuf, time::SystemTime};

use lineside_gateway::{WebTls, WebTlsError};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Config;

/// What reading the files gave.
pub(super) type Read = Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), WebTlsError>;

/// Where the two are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// How the two files looked from outside: changed and length of each, `None` where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look([Option<(SystemTime, u64)>; 2]);

impl Pair {
    /// As the settings name them: that both are there was checked.
    pub(super) fn of(config: &Config) -> Self {
        let path = |file: &Option<PathBuf>| file.clone().unwrap_or_default();
        let gateway = &config.gateway;
        Self { certificate: path(&gateway.tls_certificate.0), key: path(&gateway.tls_key.0) }
    }

    pub(super) fn look(&self) -> Look {
        Look([&self.certificate, &self.key].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        }))
    }

    /// Looks first: whatever changes after that is seen as a change.
    pub(super) fn look_and_read(&self) -> (Look, Read) {
        let look = self.look();
        (look, WebTls::read(&self.certificate, &self.key))
    }
}

/// The files, as they were when they were read, and when they were last looked at.
#[derive(Debug)]
pub(super) struct Watched {
    pair: Pair,
    read: Look,
    seen: Look,
}

impl Watched {
    pub(super) fn new(pair: Pair, read: Look) -> Self {
        Self { pair, seen: read.clone(), read }
    }

    pub(super) const fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Other files from now on.
    pub(super) fn point_to(&mut self, pair: Pair) {
        self.pair = pair;
    }

    /// Whether the files have changed and are now at rest. One of the two is written first: a look in between would find
    /// a pair that does not fit.
    pub(super) fn is_to_be_read(&mut self, look: Look) -> bool {
        let at_rest = self.seen == look;
        let is_new = self.read != look;
        self.seen = look;
        at_rest && is_new
    }

    /// They were read, whatever came of it: the same files are not read again.
    pub(super) fn was_read(&mut self, look: Look) {
        (self.read, self.seen) = (look.clone(), look);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Files that were written so many seconds after the first ones.
    fn written(certificate: u64, key: u64) -> Look {
        let at = |seconds| Some((SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), 100));
        Look([at(certificate), at(key)])
    }

    #[test]
    fn a_new_pair_is_read_once_it_is_at_rest_and_only_once() {
        let mut watched = Watched::new(Pair::default(), written(0, 0));
        assert!(!watched.is_to_be_read(written(0, 0)));
        assert!(!watched.is_to_be_read(written(5, 0)), "the key is still to come");
        assert!(!watched.is_to_be_read(written(5, 6)), "it came just now");
        assert!(watched.is_to_be_read(written(5, 6)));
        watched.was_read(written(5, 6));
        assert!(!watched.is_to_be_read(written(5, 6)));
    }

    #[test]
    fn files_that_are_gone_for_a_moment_are_read_when_they_are_back() {
        let mut watched = Watched::new(Pair::default(), written(0, 0));
        let gone = Look([None, None]);
        assert!(!watched.is_to_be_read(gone.clone()));
        assert!(watched.is_to_be_read(gone.clone()), "and then told as missing, once");
        watched.was_read(gone.clone());
        assert!(!watched.is_to_be_read(gone));
        assert!(!watched.is_to_be_read(written(9, 9)));
        assert!(watched.is_to_be_read(written(9, 9)));
    }

    #[test]
    fn files_are_looked_at_by_time_and_length() {
        let home = tempfile::tempdir().expect("a directory");
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| home.path().join(name));
        let pair = Pair { certificate: certificate.clone(), key };
        assert_eq!(pair.look(), Look([None, None]));
        fs::write(&certificate, "one").expect("writable");
        let before = pair.look();
        fs::write(&certificate, "longer").expect("writable");
        assert_ne!(pair.look(), before);
        let (_, read) = pair.look_and_read();
        let text = read.expect_err("it is no certificate").to_string();
        assert!(text.contains("cert.pem"), "{text}");
    }
}
