//! An identity in two files of any names, renewed so that a power cut leaves the old one or the new one.
//!
//! Two files cannot change at once: the new key is first written beside the old one, then the certificate is replaced,
//! and that decides; at last the new key takes the old one's place. Whoever loads the pair in between finishes that.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use lineside_certs::{
    Identity, IdentityError, Issued,
    disk::{self, PUBLIC_MODE, SECRET_MODE},
    enrolled_to_pem,
};
use lineside_wire::Enrolled;

/// How often to look whether others are done with a pair, and the wait between two looks: five seconds in all.
const LOCK_TRIES: u32 = 500;
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Loads a pair, and finishes a renewal that was cut off.
pub(super) fn load(certificate: &Path, key: &Path) -> Result<Identity, IdentityError> {
    let _lock = lock_beside(key);
    load_locked(certificate, key)
}

fn load_locked(certificate: &Path, key: &Path) -> Result<Identity, IdentityError> {
    let next = next_of(key);
    match Identity::load_pair(certificate, key) {
        Err(mismatch @ IdentityError::KeyMismatch(_)) => match Identity::load_pair(certificate, &next) {
            Ok(identity) => {
                fs::rename(&next, key).map_err(|source| IdentityError::File { path: next, source })?;
                Ok(identity)
            }
            Err(_) => Err(mismatch),
        },
        result => result,
    }
}

/// Writes a renewed certificate and its key over the pair of the same member.
pub(super) fn store_renewed(certificate: &Path, key: &Path, issued: &Issued) -> Result<(), IdentityError> {
    let _lock = lock_beside(key);
    let (present, renewed) = (load_locked(certificate, key)?, Identity::of(issued)?);
    let who = |identity: &Identity| (identity.cluster(), identity.node(), identity.role());
    if who(&present) != who(&renewed) {
        return Err(IdentityError::OtherMember(certificate.to_owned()));
    }
    let next = next_of(key);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::File { path, source }
    };
    disk::write_whole(&next, issued.key.as_bytes(), SECRET_MODE).map_err(failed(&next))?;
    if let Err(error) = disk::write_whole(certificate, text_of(issued).as_bytes(), PUBLIC_MODE) {
        let _not_there = fs::remove_file(&next);
        return Err(failed(certificate)(error));
    }
    fs::rename(&next, key).map_err(failed(key))
}

/// The certificate, and whom to trust behind it.
fn text_of(issued: &Issued) -> String {
    // An answer without certificates is the list alone.
    let list = issued
        .trust
        .clone()
        .map(|trust| enrolled_to_pem(&Enrolled { certificates: Vec::new(), trust, now: 0 }));
    format!("{}{}{}", issued.certificate, issued.authority, list.unwrap_or_default())
}

/// Keeps other programs with this pair out until it is dropped: they hold it for as long as three writes take. A file
/// system that has no locks does without, and so does a directory that somebody holds for longer: whoever may read it can,
/// and there is still the order of the writes.
fn lock_beside(key: &Path) -> Option<File> {
    let directory = key.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(directory.unwrap_or(Path::new("."))).ok()?;
    for _ in 0..LOCK_TRIES {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_POLL),
            Err(TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// Where the new key waits: the key's name with `.next` behind it.
fn next_of(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".next");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use lineside_certs::{Authority, Subject};
    use lineside_wire::Role;

    use super::*;

    struct Desk {
        home: tempfile::TempDir,
        authority: Authority,
        subject: Subject,
    }

    impl Desk {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let authority = Authority::create(&home.path().join("ca"), "floor", SystemTime::now()).unwrap();
            Self { home, authority, subject: Subject::new(Role::Client, "camera-4") }
        }

        fn issue(&self, days_ago: u64) -> Issued {
            let ago = Duration::from_secs(days_ago * 24 * 3600);
            self.authority.issue(&self.subject, SystemTime::now() - ago).unwrap()
        }

        fn files(&self) -> (PathBuf, PathBuf) {
            (self.home.path().join("camera.pem"), self.home.path().join("camera.key"))
        }

        fn write(&self, issued: &Issued) {
            let (certificate, key) = self.files();
            disk::write_whole(&certificate, text_of(issued).as_bytes(), PUBLIC_MODE).unwrap();
            disk::write_whole(&key, issued.key.as_bytes(), SECRET_MODE).unwrap();
        }
    }

    fn serial(issued: &Issued) -> String {
        Identity::of(issued).unwrap().holder().serial.clone()
    }

    #[test]
    fn a_renewed_pair_takes_the_place_of_the_old_one() {
        let desk = Desk::new();
        let (certificate, key) = desk.files();
        desk.write(&desk.issue(3));
        let renewed = desk.issue(0);
        store_renewed(&certificate, &key, &renewed).unwrap();
        assert_eq!(load(&certificate, &key).unwrap().holder().serial, serial(&renewed));
        let trust = Identity::of(&renewed).unwrap().trust().stamp();
        assert!(0 < trust.number);
        assert_eq!(load(&certificate, &key).unwrap().trust().stamp(), trust, "the list is kept, too");
        assert!(!next_of(&key).exists());
        disk::check_secret(&key).unwrap();
    }

    #[test]
    fn a_renewal_that_was_cut_off_leaves_the_old_pair_or_is_finished() {
        let desk = Desk::new();
        let (certificate, key) = desk.files();
        let (old, renewed) = (desk.issue(3), desk.issue(0));
        desk.write(&old);
        // The power goes after the new key was written.
        disk::write_whole(&next_of(&key), renewed.key.as_bytes(), SECRET_MODE).unwrap();
        assert_eq!(load(&certificate, &key).unwrap().holder().serial, serial(&old));
        // And after the certificate was.
        disk::write_whole(&certificate, text_of(&renewed).as_bytes(), PUBLIC_MODE).unwrap();
        for _ in 0..2 {
            assert_eq!(load(&certificate, &key).unwrap().holder().serial, serial(&renewed));
            assert!(!next_of(&key).exists());
        }
    }

    #[test]
    fn a_pair_of_another_member_is_never_replaced_and_one_that_does_not_fit_is_told() {
        let desk = Desk::new();
        let (certificate, key) = desk.files();
        let present = desk.issue(0);
        desk.write(&present);
        let other = Subject::new(Role::Client, "camera-5");
        let other = desk.authority.issue(&other, SystemTime::now()).unwrap();
        assert!(matches!(store_renewed(&certificate, &key, &other), Err(IdentityError::OtherMember(_))));
        assert_eq!(load(&certificate, &key).unwrap().holder().serial, serial(&present));

        disk::write_whole(&key, other.key.as_bytes(), SECRET_MODE).unwrap();
        assert!(matches!(load(&certificate, &key), Err(IdentityError::KeyMismatch(_))));
    }
}
