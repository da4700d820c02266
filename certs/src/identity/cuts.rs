//! A power cut in the middle of each write of an identity, and files as other causes leave them.

use std::fs;

use super::{files::NEXT_KEY, tests::Machine, *};
use crate::{
    Revoke,
    disk::cut::{self, Step},
};

/// More than any of the sequences has.
const WRITES_MAX: usize = 12;

/// Every step of every write; `work` tells whether it was cut.
fn everywhere(mut work: impl FnMut(usize, Step) -> bool) -> usize {
    let places = (0..WRITES_MAX).flat_map(|writes| Step::ALL.map(|step| (writes, step)));
    places.filter(|(writes, step)| work(*writes, *step)).count()
}

#[test]
fn an_identity_that_is_stored_for_the_first_time_is_whole_or_not_there() {
    let home = tempfile::tempdir().unwrap();
    let office = Authority::create(&home.path().join("ca"), "floor", SystemTime::now()).unwrap();
    let issued = office.issue(&Subject::new(Role::Node, "press"), SystemTime::now()).unwrap();
    let cuts = everywhere(|writes, step| {
        let data = tempfile::tempdir().unwrap();
        let directory = data.path().join(IDENTITY_DIRECTORY);
        let stored = cut::during(writes, step, || Identity::store(&directory, &issued));
        match Identity::load(&directory) {
            Ok(found) => assert_eq!(found.holder(), Identity::of(&issued).unwrap().holder()),
            Err(IdentityError::Missing(_)) => {
                assert!(stored.is_none(), "{writes} {step:?}: it was said to be there");
                Identity::store(&directory, &issued).unwrap();
                Identity::load(&directory).unwrap();
            }
            Err(error) => panic!("{writes} {step:?}: {error}"),
        }
        stored.is_none()
    });
    assert!(15 < cuts, "only {cuts}");
}

#[test]
fn a_renewal_that_is_cut_off_anywhere_leaves_the_old_identity_or_the_new_one() {
    let cuts = everywhere(|writes, step| {
        let machine = Machine::new();
        let before = machine.load();
        machine.office.revoke(&Revoke::Node(NodeId::from_bytes([9; 16])), SystemTime::now()).unwrap();
        let issued = machine.renewed();
        let after = Identity::of(&issued).unwrap();
        let directory = machine.directory();
        let cut = cut::during(writes, step, || Identity::store_renewed(&directory, &issued));

        let found = machine.load();
        let serial = &found.holder().serial;
        assert!([&before, &after].into_iter().any(|one| one.holder().serial == *serial), "{writes} {step:?}");
        assert_eq!(found.derive_secret("reset"), before.derive_secret("reset"), "{writes} {step:?}");
        assert!(!machine.names().contains(&NEXT_KEY.to_owned()), "{writes} {step:?}");
        // And whatever was found can be renewed.
        Identity::store_renewed(&directory, &machine.renewed()).unwrap();
        machine.load();
        cut.is_none()
    });
    assert!(20 < cuts, "only {cuts}");
}

#[test]
fn a_trust_list_that_is_cut_off_anywhere_is_the_old_one_or_the_new_one() {
    let cuts = everywhere(|writes, step| {
        let machine = Machine::new();
        let before = machine.load().trust().stamp();
        machine.office.revoke(&Revoke::Node(NodeId::from_bytes([9; 16])), SystemTime::now()).unwrap();
        let newer = Trust::own(&machine.office.trust().unwrap()).unwrap();
        let directory = machine.directory();
        let cut = cut::during(writes, step, || Identity::store_trust(&directory, &newer));
        let found = machine.load().trust().stamp();
        assert!(found == before || found == newer.stamp(), "{writes} {step:?}");
        Identity::store_trust(&directory, &newer).unwrap();
        assert_eq!(machine.load().trust().stamp(), newer.stamp());
        cut.is_none()
    });
    assert!(8 < cuts, "only {cuts}");
}

/// What docs/operations.md says of each file, row by row.
#[test]
fn a_file_that_is_missing_cut_short_or_garbage_is_named_and_never_replaced() {
    for name in [KEY, CERTIFICATE, AUTHORITY] {
        for damage in [None, Some(0), Some(30)] {
            let machine = Machine::new();
            let path = machine.directory().join(name);
            let whole = fs::read(&path).unwrap();
            match damage {
                None => fs::remove_file(&path).unwrap(),
                Some(bytes) => fs::write(&path, &whole[..bytes]).unwrap(),
            }
            let error = Identity::load(&machine.directory()).unwrap_err();
            assert!(error.to_string().contains(name), "{name}, {damage:?}: {error}");
            let started = Identity::ensure(machine.home.path(), "x", Role::Node, true, SystemTime::now());
            assert!(started.is_err(), "{name}, {damage:?}: another identity was made in its place");
            assert_eq!(fs::read(&path).ok(), damage.map(|bytes| whole[..bytes].to_vec()));
        }
    }
}

#[test]
fn a_trust_list_that_is_missing_is_fetched_anew_and_a_damaged_one_is_named() {
    let garbage: [Option<&[u8]>; 4] = [None, Some(b""), Some(b"\x81\xa1x\x01"), Some(b"who knows")];
    for damaged in garbage {
        let machine = Machine::new();
        let path = machine.directory().join(TRUST);
        let Some(bytes) = damaged else {
            fs::remove_file(&path).unwrap();
            assert_eq!(
                machine.load().trust().stamp().number,
                0,
                "it begins with no list, and asks the others"
            );
            continue;
        };
        fs::write(&path, bytes).unwrap();
        // To go on without it would be to trust again whom it had revoked.
        let error = Identity::load(&machine.directory()).unwrap_err().to_string();
        assert!(error.contains(TRUST) && error.contains("remove it"), "{error}");
        // One that comes while the member runs mends it.
        let newer = Trust::own(&machine.office.trust().unwrap()).unwrap();
        Identity::store_trust(&machine.directory(), &newer).unwrap();
        assert_eq!(machine.load().trust().stamp(), newer.stamp(), "{damaged:?}");
    }
}
