//! What a full disk does.

use std::sync::atomic::Ordering;

use lineside_wire::Role;
use serde_bytes::{ByteArray, ByteBuf};

use super::*;
use crate::{
    TOKEN_LIFETIME, TokenOrder, TokenState,
    disk::cut::{self, Step},
};

const EXPORTER: [u8; 32] = [7; 32];

fn ask(token: &Token) -> JoinParams {
    let csr = rcgen::CertificateParams::default().serialize_request(&keys::generate().unwrap()).unwrap();
    JoinParams {
        token: ByteArray::new(token.id().0),
        role: Role::Node,
        name: "weld".to_owned(),
        csr: ByteBuf::from(csr.der().to_vec()),
        proof: ByteArray::new(token.proof(&EXPORTER, Role::Node, "weld", csr.der())),
    }
}

#[test]
fn on_a_full_disk_a_token_stays_open_and_no_certificate_is_told() {
    let (home, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let authority = Authority::create(&home.path().join("ca"), "plant 2", now).unwrap();
    let order = TokenOrder { role: Role::Node, name: None, lifetime: TOKEN_LIFETIME };
    let token = authority.create_token(&order, now).unwrap();
    let version = authority.disk_version();

    authority.files.full.store(true, Ordering::SeqCst);
    let refused = authority.join(&ask(&token), &EXPORTER, "192.0.2.7", now);
    assert!(matches!(refused, Err(JoinRefusal::Authority(AuthorityError::File { .. }))));
    assert!(authority.revoke(&Revoke::Node(NodeId::from_bytes([9; 16])), now).is_err());
    assert!(authority.rotation_start(now).is_err());
    assert!(authority.set_passphrase(Some("correct horse")).is_err());
    assert_eq!(authority.disk_version(), version);
    assert_eq!(authority.tokens(now).unwrap()[0].state, TokenState::Open);
    assert!(authority.issued().unwrap().is_empty());
    let diary = std::fs::read_to_string(home.path().join("ca/audit.jsonl")).unwrap();
    assert!(diary.contains("\"not_done\""), "{diary}");

    authority.files.full.store(false, Ordering::SeqCst);
    assert!(!Authority::is_locked(&home.path().join("ca")).unwrap());
    authority.join(&ask(&token), &EXPORTER, "192.0.2.7", now).unwrap();
    assert_eq!(
        authority.rotation_start(now).unwrap().issuing,
        2,
        "the next try takes the place of the last one"
    );
}

#[test]
fn a_lock_that_is_never_released_is_named() {
    let (home, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let authority = Authority::create(&home.path().join("ca"), "plant 2", now).unwrap();
    let held = authority.files.lock().unwrap();
    let error = authority.revoke(&Revoke::Node(NodeId::from_bytes([9; 16])), now).unwrap_err();
    assert!(matches!(error, AuthorityError::Busy(_)), "{error}");
    assert_eq!(authority.trust().unwrap().signatures.len(), 1, "reading needs no lock");
    drop(held);
    authority.revoke(&Revoke::Node(NodeId::from_bytes([9; 16])), now).unwrap();
}

#[test]
fn join_certificates_open_no_other_door() {
    let (home, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let authority = Authority::create(&home.path().join("ca"), "plant 2", now).unwrap();
    let old = authority.fingerprint();
    authority.rotation_start(now).unwrap();
    let made = authority.join_certificates(NodeId::from_bytes([9; 16]), now).unwrap();
    assert_eq!(made.0.iter().map(|(of, _)| *of).collect::<Vec<_>>(), [old, authority.fingerprint()]);
    for (_, certified) in &made.0 {
        certified.keys_match().unwrap();
        assert_eq!(certified.cert.len(), 2);
        assert_eq!(crate::peer_identity(&certified.cert), Err(crate::PeerIdentityError::UriCount(0)));
    }
}

#[test]
fn a_registry_that_is_cut_off_anywhere_has_the_token_or_has_it_not() {
    for step in Step::ALL {
        let (home, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let place = home.path().join("ca");
        let authority = Authority::create(&place, "plant 2", now).unwrap();
        let order = TokenOrder { role: Role::Node, name: None, lifetime: TOKEN_LIFETIME };
        authority.create_token(&order, now).unwrap();
        assert!(cut::during(0, step, || authority.create_token(&order, now)).is_none(), "{step:?}");
        let again = Authority::load(&place).unwrap();
        let expected = if step == Step::Renamed { 2 } else { 1 };
        assert_eq!(again.tokens(now).unwrap().len(), expected, "{step:?}");
        again.create_token(&order, now).unwrap();
        assert_eq!(again.tokens(now).unwrap().len(), expected + 1, "{step:?}");
    }
}

#[test]
fn a_cluster_whose_making_was_cut_off_is_there_or_says_what_to_do() {
    let places = (0..4).flat_map(|writes| Step::ALL.map(|step| (writes, step)));
    for (writes, step) in places {
        let data = tempfile::tempdir().unwrap();
        let make = || crate::Identity::ensure(data.path(), "press", Role::Node, true, SystemTime::now());
        if cut::during(writes, step, make).is_some() {
            continue;
        }
        match make() {
            Ok(_) => {}
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("remove the authority and start again"), "{writes} {step:?}: {text}");
                std::fs::remove_dir_all(data.path().join("ca")).unwrap();
                make().unwrap();
            }
        }
    }
}

#[test]
fn a_registry_that_is_missing_cut_short_or_garbage_is_named_and_never_replaced() {
    for damage in [None, Some(""), Some("{\"cluster\":"), Some("who knows"), Some("{\"form\": 99}")] {
        let (home, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let place = home.path().join("ca");
        let authority = Authority::create(&place, "plant 2", now).unwrap();
        let path = authority.files.registry_path();
        match damage {
            None => std::fs::remove_file(&path).unwrap(),
            Some(text) => std::fs::write(&path, text).unwrap(),
        }
        let error = Authority::load(&place).unwrap_err().to_string();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(error.contains(name), "{damage:?}: {error}");
        assert!(Authority::create(&place, "plant 2", now).is_err(), "{damage:?}: another one was made");
        assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), damage);
    }
}
