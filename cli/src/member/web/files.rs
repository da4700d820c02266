//! Two files with certificate and key: when they are read. Pure but for the looking and reading itself.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::SystemTime};

use lineside_certs::{Alarm, Renewal};
use lineside_gateway::{WebTls, WebTlsError};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::Instant;

use super::LOOK_EVERY;
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
        if self.is_open() {
            tracing::warn!(
                key = %self.key.display(),
                "every user of this machine can read the key of the certificate for HTTPS: take that away with chmod o-rwx"
            );
        }
        (look, WebTls::read(&self.certificate, &self.key))
    }

    /// Whether users of this machine who have nothing to do with it can read the key. A group may be there for that.
    fn is_open(&self) -> bool {
        fs::metadata(&self.key).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0)
    }
}

/// The files, as they were when they were read, and when they were last looked at.
#[derive(Debug)]
pub(super) struct Watched {
    pair: Pair,
    read: Look,
    seen: Look,
    /// When they are looked at next; at once at first.
    look_at: Option<Instant>,
    /// Of the certificate that is shown.
    life: Option<Renewal>,
    /// That it ends soon was told.
    told: bool,
}

impl Watched {
    pub(super) fn new(pair: Pair, read: Look) -> Self {
        Self { pair, seen: read.clone(), read, look_at: None, life: None, told: false }
    }

    /// Whether to look at them now, once in a while, however often somebody asks: two looks with a pause between them tell
    /// files at rest from files that are being written.
    pub(super) fn is_due(&mut self, at: Instant) -> bool {
        let is_due = self.look_at.is_none_or(|due| due <= at);
        if is_due {
            self.look_at = Some(at + LOOK_EVERY);
        }
        is_due
    }

    /// A certificate of this life is shown from now on.
    pub(super) fn shows(&mut self, life: Option<Renewal>) {
        (self.life, self.told) = (life, false);
    }

    /// Whether people are to be told, once, that the certificate ends soon or has ended: nobody put a new one there in
    /// time.
    pub(super) fn ends(&mut self, now: SystemTime) -> bool {
        let soon = self.life.is_some_and(|life| Alarm::Error <= life.alarm(now));
        soon && !std::mem::replace(&mut self.told, true)
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
    fn they_are_looked_at_once_in_a_while_and_not_whenever_somebody_asks() {
        let (start, mut watched) = (Instant::now(), Watched::new(Pair::default(), written(0, 0)));
        let looks = (0..1000).filter(|n| watched.is_due(start + LOOK_EVERY * *n / 100)).count();
        assert_eq!(looks, 10);
    }

    #[test]
    fn a_certificate_that_nobody_replaced_in_time_is_told_once() {
        let day = |n: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(n * 24 * 3600);
        let mut watched = Watched::new(Pair::default(), written(0, 0));
        assert!(!watched.ends(day(500)), "nothing is known of it");
        watched.shows(Some(Renewal { not_before: day(100), not_after: day(190) }));
        assert!(!watched.ends(day(160)) && watched.ends(day(185)) && !watched.ends(day(191)));
        watched.shows(Some(Renewal { not_before: day(1), not_after: day(2) }));
        assert!(watched.ends(day(191)));
    }

    #[test]
    fn a_key_that_every_user_can_read_is_noticed() {
        let home = tempfile::tempdir().expect("a directory");
        let key = home.path().join("key.pem");
        fs::write(&key, "key").expect("writable");
        let pair = Pair { certificate: PathBuf::new(), key: key.clone() };
        for (mode, is_open) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("ours");
            assert_eq!(pair.is_open(), is_open, "{mode:o}");
        }
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
