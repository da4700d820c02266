//! What is on the disk: whole, private, one change after the other, and clear about what is wrong.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _};

use lineside_certs::{Authority, AuthorityError, Revoke, Subject, TOKEN_LIFETIME, TokenOrder, TokenState};
use lineside_wire::{NodeId, Role};

use crate::office::{EXPORTER, FROM, Office, ask, key, request};

#[test]
fn keys_and_the_registry_are_private() {
    let office = Office::new();
    for name in ["registry.json", "ca-g1.key", "audit.jsonl", "lock"] {
        let mode = fs::metadata(office.file(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    for name in ["registry.json", "ca-g1.key"] {
        fs::set_permissions(office.file(name), fs::Permissions::from_mode(0o644)).unwrap();
        let text = Authority::load(&office.directory()).unwrap_err().to_string();
        assert!(text.contains("chmod 600") && text.contains(name), "{text}");
        fs::set_permissions(office.file(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    Authority::load(&office.directory()).unwrap();
}

#[test]
fn a_damaged_authority_is_named_and_never_replaced() {
    let office = Office::new();
    for name in ["registry.json", "ca-g1.pem", "ca-g1.key"] {
        let good = fs::read(office.file(name)).unwrap();
        for damaged in [&good[..good.len() / 2], &good[..0], &b"\xff\xfe"[..], &b"{}"[..]] {
            fs::write(office.file(name), damaged).unwrap();
            let error = Authority::load(&office.directory()).unwrap_err();
            assert!(
                matches!(error, AuthorityError::Damaged { .. } | AuthorityError::Locked(_)),
                "{name}: {error}"
            );
            let text = error.to_string();
            assert!(text.contains(name) && !text.contains('\n'), "{text}");
            assert!(
                office.authority.create_token(&order(), office.now).is_err() == (name == "registry.json")
            );
        }
        fs::remove_file(office.file(name)).unwrap();
        let error = Authority::load(&office.directory()).unwrap_err();
        assert!(matches!(error, AuthorityError::Incomplete(_)), "{name}: {error}");
        let created = Authority::create(&office.directory(), "plant 2", office.now);
        assert!(matches!(created, Err(AuthorityError::Exists(_))));
        if name == "registry.json" {
            lineside_certs::disk::write_new(&office.file(name), &good, 0o600).unwrap();
        } else {
            fs::write(office.file(name), good).unwrap();
            fs::set_permissions(office.file(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    assert_eq!(Authority::load(&office.directory()).unwrap().cluster(), office.authority.cluster());
}

#[test]
fn parts_of_two_authorities_do_not_make_one() {
    let (office, other) = (Office::new(), Office::new());
    for name in ["ca-g1.pem", "ca-g1.key", "registry.json"] {
        let own = fs::read(office.file(name)).unwrap();
        fs::copy(other.file(name), office.file(name)).unwrap();
        assert!(
            matches!(Authority::load(&office.directory()), Err(AuthorityError::Damaged { .. })),
            "{name}"
        );
        fs::write(office.file(name), own).unwrap();
    }
    Authority::load(&office.directory()).unwrap();
}

fn order() -> TokenOrder {
    TokenOrder { role: Role::Node, name: None, lifetime: TOKEN_LIFETIME }
}

#[test]
fn what_two_processes_change_at_once_is_all_there_afterwards() {
    const EACH: usize = 12;
    let office = Office::new();
    let other = office.reopened();
    let work = |authority: &Authority, who: u8| {
        for turn in 0..EACH {
            let token = authority.create_token(&order(), office.now).unwrap();
            let params = ask(&token, Role::Node, &request(&key()));
            authority.join(&params, &EXPORTER, FROM, office.now).unwrap();
            let node = NodeId::from_bytes([who * 100 + u8::try_from(turn).unwrap(); 16]);
            authority.revoke(&Revoke::Node(node), office.now).unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(&office.authority, 0));
        scope.spawn(|| work(&other, 1));
    });
    let tokens = office.authority.tokens(office.now).unwrap();
    assert!(tokens.iter().all(|row| row.state == TokenState::Used));
    let serials: BTreeSet<_> = office.authority.issued().unwrap().into_iter().map(|row| row.serial).collect();
    let list = office.list();
    assert_eq!((tokens.len(), serials.len(), list.revoked_nodes.len()), (2 * EACH, 2 * EACH, 2 * EACH));
    assert_eq!(list.number, 1 + 2 * EACH as u64, "no number was used twice");
    let used = office.diary().iter().filter(|line| line["event"] == "token_used").count();
    assert_eq!(used, 2 * EACH);
}

#[test]
fn of_two_that_use_one_token_at_once_one_joins() {
    let office = Office::new();
    let other = office.reopened();
    for _ in 0..5 {
        let token = office.token(Role::Node);
        let join = |authority: &Authority| {
            let params = ask(&token, Role::Node, &request(&key()));
            authority.join(&params, &EXPORTER, FROM, office.now).is_ok()
        };
        let joined = std::thread::scope(|scope| {
            let (left, right) = (scope.spawn(|| join(&office.authority)), scope.spawn(|| join(&other)));
            [left.join().unwrap(), right.join().unwrap()]
        });
        assert_eq!(joined.iter().filter(|joined| **joined).count(), 1);
    }
}

#[test]
fn without_a_diary_nothing_is_done() {
    let office = Office::new();
    let token = office.token(Role::Node);
    let diary = fs::read(office.file("audit.jsonl")).unwrap();
    fs::remove_file(office.file("audit.jsonl")).unwrap();
    fs::create_dir(office.file("audit.jsonl")).unwrap();
    assert!(office.join(&ask(&token, Role::Node, &request(&key()))).is_err());
    assert!(office.authority.revoke(&Revoke::Node(NodeId::from_bytes([9; 16])), office.now).is_err());
    fs::remove_dir(office.file("audit.jsonl")).unwrap();
    fs::write(office.file("audit.jsonl"), diary).unwrap();
    assert_eq!(office.authority.tokens(office.now).unwrap()[0].state, TokenState::Open);
    assert!(office.authority.issued().unwrap().is_empty() && office.list().number == 1);
    office.join(&ask(&token, Role::Node, &request(&key()))).unwrap();
}

#[test]
fn a_passphrase_locks_the_key_until_it_is_taken_off() {
    let office = Office::new();
    let directory = office.directory();
    assert!(matches!(office.authority.set_passphrase(Some("short")), Err(AuthorityError::WeakPassphrase)));
    assert!(!Authority::is_locked(&directory).unwrap());
    office.authority.set_passphrase(Some("correct horse")).unwrap();
    assert!(Authority::is_locked(&directory).unwrap());
    assert!(!fs::read_to_string(office.file("ca-g1.key")).unwrap().contains("PRIVATE KEY"));
    assert!(matches!(Authority::load(&directory), Err(AuthorityError::Locked(_))));
    assert!(matches!(Authority::unlock(&directory, "correct hors"), Err(AuthorityError::WrongPassphrase(_))));

    // The next generation's key is under the same one.
    let desk = Authority::unlock(&directory, "correct horse").unwrap();
    office.authority.rotation_start(office.now).unwrap();
    assert!(!fs::read_to_string(office.file("ca-g2.key")).unwrap().contains("PRIVATE KEY"));
    desk.issue(&Subject::new(Role::Node, "press"), office.now).unwrap();
    assert_eq!(desk.fingerprint(), office.authority.fingerprint());

    desk.set_passphrase(None).unwrap();
    assert!(!Authority::is_locked(&directory).unwrap());
    Authority::load(&directory).unwrap();
    let events: Vec<_> =
        office.diary().iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
    assert!(
        events.iter().any(|event| event == "passphrase_set")
            && events.last().unwrap() == "passphrase_removed"
    );
}

#[test]
fn a_change_of_the_passphrase_that_was_cut_off_leaves_one_that_opens_all() {
    let office = Office::new();
    office.authority.rotation_start(office.now).unwrap();
    office.authority.set_passphrase(Some("old passphrase")).unwrap();
    let old = fs::read(office.file("ca-g2.key")).unwrap();
    office.authority.set_passphrase(Some("new passphrase")).unwrap();
    // The power failed after the first of two renames.
    fs::rename(office.file("ca-g2.key"), office.file("ca-g2.key.next")).unwrap();
    lineside_certs::disk::write_new(&office.file("ca-g2.key"), &old, 0o600).unwrap();
    Authority::unlock(&office.directory(), "new passphrase").unwrap();
    let refused = Authority::unlock(&office.directory(), "old passphrase");
    assert!(matches!(refused, Err(AuthorityError::WrongPassphrase(_))));
}

#[test]
fn an_authority_whose_passphrase_another_process_changed_begins_no_rotation() {
    let office = Office::new();
    let other = office.reopened();
    office.authority.set_passphrase(Some("correct horse")).unwrap();
    assert!(matches!(other.rotation_start(office.now), Err(AuthorityError::Locked(_))));
    other.issue(&Subject::new(Role::Node, "press"), office.now).unwrap();
    // Nor has it the next one's key; what was decided it can tell all the same.
    office.authority.rotation_start(office.now).unwrap();
    assert_eq!(other.trust().unwrap(), office.authority.trust().unwrap());
    let refused = other.issue(&Subject::new(Role::Node, "weld"), office.now);
    assert!(matches!(refused, Err(AuthorityError::Locked(_))));
}
