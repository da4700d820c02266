//! One authority takes the place of another, and nobody is cut off.

use std::time::Duration;

use lineside_certs::{
    Authority, AuthorityError, JoinRefusal, Lifetimes, Revoke, Subject, TokenState, Trust, Verdict,
    peer_identity, provider, server_name_of,
};
use lineside_wire::{Role, SignedTrust, TrustList};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationOptionsBuilder,
    UnknownStatusPolicy, anchor_from_trusted_cert,
};

use crate::office::{Office, ask, certificates, chain, holder, key, request};

/// As a member with this list verifies another one's certificates.
fn verify(chain: &[CertificateDer<'_>], list: &TrustList, office: &Office) -> Result<(), webpki::Error> {
    let roots: Vec<_> =
        list.authorities.iter().map(|one| CertificateDer::from(one.certificate.to_vec())).collect();
    let anchors: Vec<_> = roots.iter().map(|root| anchor_from_trusted_cert(root).unwrap()).collect();
    let crls: Vec<_> = list
        .authorities
        .iter()
        .map(|one| OwnedCertRevocationList::from_der(&one.crl).unwrap().into())
        .collect();
    let crls: Vec<&webpki::CertRevocationList<'_>> = crls.iter().collect();
    // Of a generation that a member does not know yet it has no list, either.
    let revocation = RevocationOptionsBuilder::new(&crls)
        .unwrap()
        .with_status_policy(UnknownStatusPolicy::Allow)
        .with_expiration_policy(ExpirationPolicy::Ignore)
        .build();
    let leaf = EndEntityCert::try_from(&chain[0]).unwrap();
    let now =
        UnixTime::since_unix_epoch(office.now.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap());
    let algorithms = provider().signature_verification_algorithms.all;
    leaf.verify_for_usage(
        algorithms,
        &anchors,
        &chain[1..],
        now,
        KeyUsage::server_auth(),
        Some(revocation),
        None,
    )?;
    let member = peer_identity(chain).unwrap();
    let name = ServerName::try_from(server_name_of(member.node, member.cluster)).unwrap();
    leaf.verify_is_valid_for_subject_name(&name)
}

#[test]
fn members_of_both_generations_meet_while_a_rotation_runs() {
    let office = Office::new();
    let old_list = office.list();
    let old = office.authority.issue(&Subject::new(Role::Node, "press"), office.now).unwrap();
    let rotation = office.authority.rotation_start(office.now).unwrap();
    assert_eq!((rotation.issuing, rotation.retiring, rotation.waiting.len()), (2, Some(1), 1));
    let new = office.authority.issue(&Subject::new(Role::Node, "weld"), office.now).unwrap();
    let new_list = office.list();

    let (old_chain, new_chain) = (chain(&old.certificate), chain(&new.certificate));
    assert_eq!((old_chain.len(), new_chain.len(), chain(&new.authority).len()), (1, 2, 2));
    for (chain, list) in
        [(&new_chain, &old_list), (&new_chain, &new_list), (&old_chain, &old_list), (&old_chain, &new_list)]
    {
        verify(chain, list, &office).unwrap();
    }
    assert!(
        verify(&new_chain[..1], &old_list, &office).is_err(),
        "without the cross certificate it is a stranger"
    );
    assert_eq!(peer_identity(&new_chain).unwrap().generation, 2);

    // Both sign the list: who knows the old one only takes it, too.
    let before = Trust::own(old.trust.as_ref().unwrap()).unwrap();
    let after = before.succeed(&office.authority.trust().unwrap()).unwrap();
    assert_eq!((after.issuing(), after.judge(&peer_identity(&new_chain).unwrap())), (2, Verdict::Trusted));
}

#[test]
fn certificates_of_either_generation_can_be_revoked_while_a_rotation_runs() {
    let office = Office::new();
    let old = office.authority.issue(&Subject::new(Role::Node, "press"), office.now).unwrap();
    office.authority.rotation_start(office.now).unwrap();
    let new = office.authority.issue(&Subject::new(Role::Node, "weld"), office.now).unwrap();
    for issued in [&old, &new] {
        let chain = chain(&issued.certificate);
        verify(&chain, &office.list(), &office).unwrap();
        let serial = peer_identity(&chain).unwrap().serial;
        office.authority.revoke(&Revoke::Serial(serial), office.now).unwrap();
        assert_eq!(verify(&chain, &office.list(), &office), Err(webpki::Error::CertRevoked));
    }
}

#[test]
fn a_rotation_is_over_when_it_is_finished_and_the_old_key_is_gone() {
    let office = Office::new();
    let press = office.member(Role::Node, "press");
    let token = office.token(Role::Node);
    let old = office.authority.fingerprint();
    let members = office.authority.trust().unwrap();
    office.authority.rotation_start(office.now).unwrap();
    assert!(matches!(
        office.authority.rotation_start(office.now),
        Err(AuthorityError::Rotating { retiring: 1, issuing: 2 })
    ));
    let overlap = Trust::own(&members).unwrap().succeed(&office.authority.trust().unwrap()).unwrap();
    let press = holder(&office.renew(&press).unwrap());
    assert_eq!(press.generation, 2);
    assert!(office.authority.rotation(office.now).unwrap().waiting.is_empty());
    assert_ne!(office.authority.fingerprint(), old);
    let fresh = office.token(Role::Node);
    assert_eq!(*fresh.authority(), office.authority.fingerprint());

    let rotation = office.authority.rotation_finish(office.now).unwrap();
    assert_eq!((rotation.issuing, rotation.retiring), (2, None));
    for gone in ["ca-g1.key", "ca-g1.pem", "cross-g2.pem"] {
        assert!(!office.file(gone).exists(), "{gone} is still there");
    }
    // The power failed before the key was removed.
    std::fs::write(office.file("ca-g1.key"), "a key").unwrap();
    assert!(matches!(office.authority.rotation_finish(office.now), Err(AuthorityError::NotRotating(2))));
    assert!(!office.file("ca-g1.key").exists());
    let after = overlap.succeed(&office.authority.trust().unwrap()).unwrap();
    assert_eq!(after.judge(&press), Verdict::Trusted);
    assert!(matches!(office.join(&ask(&token, Role::Node, &request(&key()))), Err(JoinRefusal::Used)));
    let states: Vec<_> = office.authority.tokens(office.now).unwrap().iter().map(|row| row.state).collect();
    assert_eq!(states, [TokenState::Open, TokenState::Revoked]);
    let enrolled = office.join(&ask(&fresh, Role::Node, &request(&key()))).unwrap();
    assert_eq!(certificates(&enrolled).len(), 1);
    verify(&certificates(&enrolled), &office.list(), &office).unwrap();
    assert!(office.reopened().is_current());
}

#[test]
fn another_process_follows_a_rotation() {
    let office = Office::new();
    let desk = office.reopened();
    let version = desk.disk_version();
    office.authority.rotation_start(office.now).unwrap();
    assert_ne!(desk.disk_version(), version);
    desk.trust().unwrap();
    assert_eq!(desk.fingerprint(), office.authority.fingerprint());
    let issued = desk.issue(&Subject::new(Role::Node, "weld"), office.now).unwrap();
    assert_eq!(chain(&issued.certificate).len(), 2);
    desk.join_certificates(Subject::new(Role::Node, "weld").node, office.now).unwrap();
    office.authority.rotation_finish(office.now).unwrap();
    let issued = desk.issue(&Subject::new(Role::Node, "drill"), office.now).unwrap();
    assert_eq!((chain(&issued.certificate).len(), chain(&issued.authority).len()), (1, 1));
}

#[test]
fn a_copy_that_a_rotation_left_behind_says_so_and_signs_nothing() {
    let office = Office::new();
    let copy = office.copy();
    office.authority.rotation_start(office.now).unwrap();
    let told: SignedTrust = office.authority.trust().unwrap();
    assert!(copy.authority.is_current());
    assert!(copy.authority.merge(&told, copy.now).unwrap());
    assert!(!copy.authority.is_current() && !copy.reopened().is_current());
    assert_eq!(copy.authority.trust().unwrap(), told);
    let refused = copy.authority.issue(&Subject::new(Role::Node, "weld"), copy.now);
    assert!(matches!(refused, Err(AuthorityError::LeftBehind { issuing: 2 })));
    // What it had revoked before it heard of the rotation is not lost.
    let late = Office::new();
    let behind = late.copy();
    let press = behind.member(Role::Node, "press");
    behind.authority.revoke(&Revoke::Node(press.node), behind.now).unwrap();
    late.authority.rotation_start(late.now).unwrap();
    assert!(behind.authority.merge(&late.authority.trust().unwrap(), behind.now).unwrap());
    assert!(late.authority.merge(&behind.authority.trust().unwrap(), late.now).unwrap());
    let trust = Trust::own(&late.authority.trust().unwrap()).unwrap();
    assert_eq!((trust.judge(&press), trust.issuing()), (Verdict::Revoked, 2));
    assert!(late.authority.is_current());
}

#[test]
fn a_second_holder_finishes_a_rotation_along_with_the_first() {
    let office = Office::new();
    office.authority.rotation_start(office.now).unwrap();
    let copy = office.copy();
    office.authority.rotation_finish(office.now).unwrap();
    assert!(copy.authority.merge(&office.authority.trust().unwrap(), copy.now).unwrap());
    assert!(copy.authority.is_current() && !copy.file("ca-g1.key").exists());
    assert_eq!(copy.authority.rotation(copy.now).unwrap().retiring, None);
}

#[test]
fn lifetimes_are_as_ordered_and_never_beyond_the_authoritys() {
    let office = Office::new();
    let hour = Duration::from_secs(3600);
    let short = Lifetimes { member: 2 * hour, client: 3 * hour, admin: hour };
    let authority: Authority = office.reopened().with_lifetimes(short);
    let ends = |authority: &Authority, role, now| {
        let issued = authority.issue(&Subject::new(role, "x"), now).unwrap();
        peer_identity(&chain(&issued.certificate)).unwrap().not_after
    };
    let left = ends(&authority, Role::Node, office.now).duration_since(office.now).unwrap();
    assert!(hour < left && left <= 2 * hour, "{left:?}");
    let late = office.authority.not_after() - hour;
    assert_eq!(ends(&office.authority, Role::Node, late), office.authority.not_after());
    let refused = office.authority.issue(&Subject::new(Role::Node, "x"), office.authority.not_after());
    assert!(matches!(refused, Err(AuthorityError::Expired(_))));
}
