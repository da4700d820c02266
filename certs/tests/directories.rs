//! What is on disk: private, whole, never replaced, and clear about what is wrong.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
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
    let office = fs::read_dir(machine.data.path().join("ca")).unwrap().map(|entry| entry.unwrap().path());
    let keys: Vec<_> = office.filter(|path| path.extension().is_some_and(|ending| ending == "key")).collect();
    assert_eq!(keys.len(), 1);
    assert!(keys.iter().all(|key| mode(key) == 0o600), "{keys:?}");
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

#[test]
fn a_directory_that_others_can_enter_is_refused_with_the_fix() {
    let machine = Machine::fresh();
    machine.start().unwrap();
    for below in ["", "identity"] {
        let directory = machine.data.path().join(below);
        for open in [0o750, 0o705, 0o711] {
            fs::set_permissions(&directory, fs::Permissions::from_mode(open)).unwrap();
            let error = machine.start().unwrap_err();
            assert!(matches!(error, IdentityError::Unsafe(_)), "{error}");
            let fix = format!("chmod 700 {}", directory.display());
            assert!(error.to_string().contains(fix.trim_end_matches('/')), "{error}");
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert!(!machine.start().unwrap().1);
}

#[test]
fn an_empty_data_directory_of_our_own_is_made_private() {
    let machine = Machine::fresh();
    fs::set_permissions(machine.data.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(machine.start().unwrap().1);
    assert_eq!(mode(machine.data.path()), 0o700);
}

#[test]
fn a_bundle_that_lost_its_end_is_named_wherever_it_was_cut() {
    let machine = Machine::fresh();
    machine.start().unwrap();
    // Two authorities, as during a rotation; the list of the cluster is not here to make up for one that is lost.
    fs::remove_file(machine.file("trust.bin")).unwrap();
    let office = Authority::load(&machine.data.path().join("ca")).unwrap();
    office.rotation_start(SystemTime::now()).unwrap();
    let issued = office.issue(&Subject::new(Role::Node, "weld"), SystemTime::now()).unwrap();
    let bundle = issued.authority.as_bytes();
    assert_eq!(issued.authority.matches("BEGIN").count(), 2);
    let first = bundle.len() - issued.authority.rfind("-----BEGIN").map(|at| bundle.len() - at).unwrap();
    for length in (0..bundle.len() - 1).filter(|length| !(first - 1..=first).contains(length)).step_by(7) {
        fs::write(machine.file("ca.pem"), &bundle[..length]).unwrap();
        let error = machine.start().unwrap_err();
        assert!(matches!(error, IdentityError::Damaged { .. }), "cut at {length}: {error}");
        let text = error.to_string();
        assert!(text.contains("ca.pem is damaged") && text.contains("restore it"), "{text}");
    }
    fs::write(machine.file("ca.pem"), bundle).unwrap();
    machine.start().unwrap();
}

#[test]
fn a_trust_list_that_lost_its_end_is_named_and_can_be_removed() {
    let machine = Machine::fresh();
    let (first, _) = machine.start().unwrap();
    assert!(0 < first.trust().stamp().number);
    let whole = fs::read(machine.file("trust.bin")).unwrap();
    let longer = [&whole[..], b"x"].concat();
    let cuts = (0..whole.len()).step_by(5).map(|length| &whole[..length]);
    for damaged in cuts.chain([&longer[..], b"\xc1", &[0x91; 100_000]]) {
        fs::write(machine.file("trust.bin"), damaged).unwrap();
        let error = machine.start().unwrap_err();
        assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("trust.bin is damaged") && text.contains("fetches it anew"), "{text}");
    }
    fs::remove_file(machine.file("trust.bin")).unwrap();
    let (again, made) = machine.start().unwrap();
    assert_eq!((again.node(), again.trust().stamp().number, made), (first.node(), 0, false));
}

#[test]
fn a_trust_list_of_another_cluster_is_named() {
    let (machine, other) = (Machine::fresh(), Machine::fresh());
    machine.start().unwrap();
    other.start().unwrap();
    fs::copy(other.file("trust.bin"), machine.file("trust.bin")).unwrap();
    let text = machine.start().unwrap_err().to_string();
    assert!(text.contains("trust.bin") && text.contains("of the cluster"), "{text}");
}

#[test]
fn a_file_without_end_is_not_read_whole() {
    let machine = Machine::fresh();
    machine.start().unwrap();
    for name in ["cert.pem", "ca.pem", "trust.bin"] {
        let good = fs::read(machine.file(name)).unwrap();
        fs::write(machine.file(name), vec![b'A'; 3 << 20]).unwrap();
        let text = machine.start().unwrap_err().to_string();
        assert!(text.contains(name) && text.contains("longer than"), "{text}");
        fs::write(machine.file(name), good).unwrap();
    }
}

#[test]
fn an_expired_identity_is_loaded_and_says_what_to_do() {
    let machine = Machine::fresh();
    let long_ago = SystemTime::now() - Duration::from_secs(400 * 24 * 3600);
    let (press, made) = Identity::ensure(machine.data.path(), "press", Role::Node, true, long_ago).unwrap();
    assert!(made && machine.start().is_ok_and(|(found, made)| found.node() == press.node() && !made));
    let error = press.check_validity(SystemTime::now()).unwrap_err();
    assert!(matches!(error, IdentityError::Expired { .. }), "{error}");
    assert!(
        error.to_string().contains("lineside token create") && error.to_string().contains("set the clock")
    );
    let early = press.check_validity(long_ago - Duration::from_secs(7 * 24 * 3600)).unwrap_err();
    assert!(
        matches!(early, IdentityError::NotYetValid { .. }) && early.to_string().contains("set the clock")
    );
    press.check_validity(long_ago).unwrap();
}

#[test]
fn remains_of_an_identity_are_never_taken_for_an_empty_directory() {
    for name in ["trust.bin", "key.next.pem", "seed.key"] {
        let machine = Machine::fresh();
        machine.start().unwrap();
        fs::remove_dir_all(machine.data.path().join("ca")).unwrap();
        for gone in ["cert.pem", "key.pem", "ca.pem", "trust.bin", "key.next.pem", "seed.key"] {
            drop(fs::remove_file(machine.file(gone)));
        }
        fs::write(machine.file(name), b"left").unwrap();
        let error = machine.start().unwrap_err();
        assert!(matches!(error, IdentityError::Incomplete(_)), "{name}: {error}");
    }
}
