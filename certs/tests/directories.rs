//! What is on disk: private, whole, never replaced, and clear about what is wrong.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use lineside_certs::{Authority, AuthorityError, Identity, IdentityError, Subject};
use lineside_wire::Role;
use tempfile::TempDir;

struct Machine {
    data: TempDir,
}

impl Machine {
    fn fresh() -> Self {
        Self { data: tempfile::tempdir().unwrap() }
    }

    fn start(&self) -> Result<(Identity, bool), IdentityError> {
        Identity::ensure(self.data.path(), "press", Role::Node, true, SystemTime::now())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.data.path().join("identity").join(name)
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_first_start_makes_a_cluster_and_the_second_finds_it() {
    let machine = Machine::fresh();
    let (first, created) = machine.start().unwrap();
    assert!(created);
    let (second, created) = machine.start().unwrap();
    assert!(!created);
    assert_eq!((first.node(), first.cluster()), (second.node(), second.cluster()));
}

#[test]
fn keys_are_private_and_so_is_their_directory() {
    let machine = Machine::fresh();
    machine.start().unwrap();
    assert_eq!(mode(&machine.file("key.pem")), 0o600);
    assert_eq!(mode(&machine.data.path().join("ca/ca.key")), 0o600);
    assert_eq!(mode(&machine.data.path().join("identity")), 0o700);
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_fix() {
    let machine = Machine::fresh();
    machine.start().unwrap();
    fs::set_permissions(machine.file("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let text = machine.start().unwrap_err().to_string();
    assert!(text.contains("chmod 600") && text.contains("key.pem"), "{text}");
}

#[test]
fn nothing_is_made_where_that_is_not_wanted() {
    let machine = Machine::fresh();
    let refused = Identity::ensure(machine.data.path(), "press", Role::Node, false, SystemTime::now());
    assert!(matches!(refused, Err(IdentityError::Missing(_))));
    assert_eq!(fs::read_dir(machine.data.path()).unwrap().count(), 0);
}

#[test]
fn a_damaged_identity_is_named_and_never_replaced() {
    let machine = Machine::fresh();
    machine.start().unwrap();
    for name in ["cert.pem", "key.pem", "ca.pem"] {
        let good = fs::read(machine.file(name)).unwrap();
        fs::write(machine.file(name), &good[..good.len() / 2]).unwrap();
        let text = machine.start().unwrap_err().to_string();
        assert!(text.contains(name), "{name}: {text}");
        fs::remove_file(machine.file(name)).unwrap();
        let error = machine.start().unwrap_err();
        assert!(matches!(error, IdentityError::Incomplete(_)), "{name}: {error}");
        fs::write(machine.file(name), good).unwrap();
        fs::set_permissions(machine.file(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert!(!machine.start().unwrap().1);
}

#[test]
fn parts_of_two_identities_do_not_make_one() {
    let (machine, other) = (Machine::fresh(), Machine::fresh());
    machine.start().unwrap();
    other.start().unwrap();
    let swap = |name: &str| {
        let own = fs::read(machine.file(name)).unwrap();
        fs::copy(other.file(name), machine.file(name)).unwrap();
        let error = machine.start().unwrap_err();
        fs::write(machine.file(name), own).unwrap();
        error
    };
    assert!(matches!(swap("key.pem"), IdentityError::KeyMismatch(_)));
    assert!(matches!(swap("ca.pem"), IdentityError::ForeignAuthority(_)));
    assert!(matches!(swap("cert.pem"), IdentityError::ForeignAuthority(_)));
}

#[test]
fn an_authority_is_never_made_twice_in_one_place() {
    let home = tempfile::tempdir().unwrap();
    let first = Authority::create(home.path(), "floor", SystemTime::now()).unwrap();
    let second = Authority::create(home.path(), "floor", SystemTime::now());
    assert!(matches!(second, Err(AuthorityError::Exists(_))));
    assert_eq!(Authority::load(home.path()).unwrap().cluster(), first.cluster());
}

#[test]
fn a_name_that_no_certificate_can_carry_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::create(home.path(), "floor", SystemTime::now()).unwrap();
    for name in ["", "  ", "a/b", "a\nb", &"x".repeat(65)] {
        let refused = authority.issue(&Subject::new(Role::Node, name), SystemTime::now());
        assert!(matches!(refused, Err(AuthorityError::InvalidName(_))), "{name:?} was taken");
    }
}
