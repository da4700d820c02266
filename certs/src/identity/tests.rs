//! A power cut at any step of a renewal, played through.

use std::{fs, os::unix::fs::PermissionsExt as _};

use lineside_wire::RenewParams;
use tempfile::TempDir;

use super::{files::NEXT_KEY, *};
use crate::{CertificateRequest, Revoke};

pub(super) struct Machine {
    pub(super) home: TempDir,
    pub(super) office: Authority,
}

impl Machine {
    pub(super) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        Identity::ensure(home.path(), "press", Role::Node, true, SystemTime::now()).unwrap();
        let office = Authority::load(&home.path().join(AUTHORITY_DIRECTORY)).unwrap();
        Self { home, office }
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.home.path().join(IDENTITY_DIRECTORY)
    }

    pub(super) fn load(&self) -> Identity {
        Identity::load(&self.directory()).unwrap()
    }

    pub(super) fn renewed(&self) -> Issued {
        let (request, present) = (CertificateRequest::new(), self.load());
        let params = RenewParams { csr: request.csr().to_vec().into() };
        let answer = self.office.renew(present.holder(), &params, SystemTime::now()).unwrap();
        request.renew(&present, &answer).unwrap()
    }

    fn steps(&self, issued: &Issued) -> Vec<files::Step> {
        let (directory, renewed) = (self.directory(), Identity::of(issued).unwrap());
        let (_, seed) = Identity::present(&directory).unwrap();
        files::renewal(&directory, &seed, issued, &renewed).unwrap()
    }

    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory()).unwrap();
        let mut names: Vec<_> = entries.map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_power_cut_at_any_step_leaves_the_old_identity_or_the_new_one() {
    let count = {
        let machine = Machine::new();
        machine.steps(&machine.renewed()).len()
    };
    assert!(4 <= count, "{count}");
    for taken in 0..=count {
        let machine = Machine::new();
        let before = machine.load();
        // A change of trust that comes along with the certificate.
        machine.office.revoke(&Revoke::Node(NodeId::from_bytes([9; 16])), SystemTime::now()).unwrap();
        let issued = machine.renewed();
        let after = Identity::of(&issued).unwrap();
        let steps = machine.steps(&issued);
        for step in steps.iter().take(taken) {
            step.take(&machine.directory()).unwrap();
        }

        let found = machine.load();
        let serial = &found.holder().serial;
        let is_new = *serial == after.holder().serial;
        assert!(is_new || *serial == before.holder().serial, "cut off after {taken} steps");
        assert_eq!(is_new, 3 <= taken, "the certificate decides: cut off after {taken} steps");
        assert_eq!(found.derive_secret("reset"), before.derive_secret("reset"));
        assert!(!machine.names().contains(&NEXT_KEY.to_owned()), "cut off after {taken} steps");

        // And whatever was found can be renewed.
        Identity::store_renewed(&machine.directory(), &machine.renewed()).unwrap();
        assert_eq!(machine.names(), [AUTHORITY, CERTIFICATE, KEY, SEED, TRUST]);
        assert!(found.trust().stamp() <= machine.load().trust().stamp());
    }
}

#[test]
fn a_renewal_that_was_cut_off_is_read_even_where_nothing_can_be_written() {
    let machine = Machine::new();
    let issued = machine.renewed();
    for step in machine.steps(&issued).iter().take(3) {
        step.take(&machine.directory()).unwrap();
    }
    // As if the rename had not come through: what is loaded does not depend on it.
    let found = Identity::load_locked(&machine.directory()).unwrap();
    assert_eq!(found.holder().serial, Identity::of(&issued).unwrap().holder().serial);
    assert!(machine.names().contains(&NEXT_KEY.to_owned()));
}

#[test]
fn a_new_key_that_others_can_read_is_not_taken() {
    let machine = Machine::new();
    for step in machine.steps(&machine.renewed()).iter().take(3) {
        step.take(&machine.directory()).unwrap();
    }
    let next = machine.directory().join(NEXT_KEY);
    fs::set_permissions(&next, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Identity::load(&machine.directory()).unwrap_err();
    assert!(matches!(error, IdentityError::Unsafe(_)) && error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn a_reader_never_meets_half_of_a_renewal() {
    let machine = Machine::new();
    let before = machine.load();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = Vec::new();
                    for _ in 0..40 {
                        seen.push(machine.load().holder().serial.clone());
                    }
                    seen
                })
            })
            .collect();
        for _ in 0..10 {
            Identity::store_renewed(&machine.directory(), &machine.renewed()).unwrap();
        }
        for reader in readers {
            assert_eq!(reader.join().unwrap().len(), 40);
        }
    });
    let after = machine.load();
    assert_ne!(after.holder().serial, before.holder().serial);
    assert_eq!(after.member(), before.member());
}

#[test]
fn a_failed_renewal_leaves_the_old_identity_and_nothing_else() {
    let machine = Machine::new();
    let before = machine.load();
    let steps = machine.steps(&machine.renewed());
    // A directory in the certificate's place: the write fails there, as on a full disk.
    let place = machine.directory().join(CERTIFICATE);
    let aside = machine.home.path().join("aside");
    fs::rename(&place, &aside).unwrap();
    fs::create_dir(&place).unwrap();
    fs::write(place.join("x"), b"").unwrap();
    assert!(files::take(&machine.directory(), &steps).is_err());
    fs::remove_dir_all(&place).unwrap();
    fs::rename(&aside, &place).unwrap();
    assert_eq!(machine.load().holder(), before.holder());
    assert!(!machine.names().contains(&NEXT_KEY.to_owned()));
}

#[test]
fn a_renewal_of_another_member_is_not_written() {
    let machine = Machine::new();
    let before = machine.load();
    let other = machine.office.issue(&Subject::new(Role::Node, "press"), SystemTime::now()).unwrap();
    let refused = Identity::store_renewed(&machine.directory(), &other).unwrap_err();
    assert!(matches!(refused, IdentityError::OtherMember(_)), "{refused}");
    assert_eq!(machine.load().holder(), before.holder());
}

#[test]
fn a_damaged_seed_is_named_with_what_to_do() {
    let machine = Machine::new();
    Identity::store_renewed(&machine.directory(), &machine.renewed()).unwrap();
    let seed = machine.directory().join(SEED);
    fs::write(&seed, [7; 31]).unwrap();
    let text = Identity::load(&machine.directory()).unwrap_err().to_string();
    assert!(text.contains(SEED) && text.contains("remove it"), "{text}");
    fs::remove_file(&seed).unwrap();
    machine.load();
}
