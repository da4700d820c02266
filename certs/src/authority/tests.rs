//! What a full disk does.

use std::sync::atomic::Ordering;

use lineside_wire::Role;
use serde_bytes::{ByteArray, ByteBuf};

use super::*;
use crate::{TOKEN_LIFETIME, TokenOrder, TokenState};

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
