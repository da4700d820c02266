//! One machine becomes a member, and nobody else does.

use std::time::Duration;

use lineside_certs::{
    AuthorityError, CertificateSummary, JoinRefusal, RenewRefusal, Revoke, Subject, TOKEN_LIFETIME, TokenId,
    TokenOrder, TokenState, parse_member_uri,
};
use lineside_wire::{CSR_BYTES_MAX, JoinParams, RenewParams, Role};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_bytes::{ByteArray, ByteBuf};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::office::{EXPORTER, FROM, Office, ask, certificates, greedy_request, holder, key, request};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn whoever_asks_to_be_an_authority_gets_what_its_token_is_for() {
    let office = Office::new();
    let token = office.token(Role::Node);
    let key = key();
    let csr = greedy_request(&key, &office.authority.cluster().to_string());
    let enrolled = office.join(&ask(&token, Role::Node, &csr)).unwrap();

    let [leaf] = &certificates(&enrolled)[..] else { panic!("one certificate, outside a rotation") };
    let (_, read) = X509Certificate::from_der(leaf).unwrap();
    assert!(!read.is_ca());
    assert!(!read.key_usage().unwrap().unwrap().value.key_cert_sign());
    let names = &read.subject_alternative_name().unwrap().unwrap().value.general_names;
    let uris: Vec<_> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris[..] else { panic!("not one URI name: {uris:?}") };
    let (cluster, role, node) = parse_member_uri(uri).unwrap();
    assert_eq!((cluster, role), (office.authority.cluster(), Role::Node));
    assert_ne!(node.to_string(), "ab".repeat(16), "the id is the authority's to choose");
    assert_eq!(names.len(), 3, "its own server name and that of any member");
    let lifetime = CertificateSummary::of_der(leaf).unwrap().expires_in(office.now).unwrap();
    assert!(13 * DAY < lifetime && lifetime <= 14 * DAY, "{lifetime:?}");

    let diary = office.diary();
    let line = diary.iter().find(|line| line["event"] == "certificate_issued").unwrap();
    assert_eq!((line["role"].as_str(), line["node"].as_str()), (Some("node"), Some(&*node.to_string())));
    let ignored = line["ignored"].to_string();
    assert!(ignored.contains("CA:true") && ignored.contains("/admin/"), "{ignored}");
    let used = office.last_line();
    assert_eq!((used["event"].as_str(), used["from"].as_str()), (Some("token_used"), Some(FROM)));
}

#[test]
fn requests_that_cannot_be_used_are_refused_and_leave_the_token_open() {
    let office = Office::new();
    let token = office.token(Role::Node);
    let plain = |key: &KeyPair| CertificateParams::default().serialize_request(key).unwrap().der().to_vec();
    let mut changed = request(&key());
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let wrong = [
        plain(&KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap()),
        plain(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()),
        plain(&KeyPair::generate_for(&PKCS_ED25519).unwrap()),
        changed,
        vec![0x30; 1 << 20],
        vec![0x30; CSR_BYTES_MAX],
        Vec::new(),
    ];
    for csr in wrong {
        let refused = office.join(&ask(&token, Role::Node, &csr)).unwrap_err();
        assert!(matches!(refused, JoinRefusal::Request(_)), "{refused}");
        assert_eq!(office.last_line()["event"], "token_refused");
    }
    let nameless = JoinParams {
        name: "a/b".to_owned(),
        proof: ByteArray::new(token.proof(&EXPORTER, Role::Node, "a/b", &request(&key()))),
        ..ask(&token, Role::Node, &request(&key()))
    };
    assert!(office.join(&nameless).is_err());
    office.join(&ask(&token, Role::Node, &request(&key()))).unwrap();
}

#[test]
fn a_wrong_proof_is_refused_before_the_request_is_read() {
    let office = Office::new();
    let token = office.token(Role::Node);
    let good = ask(&token, Role::Node, &request(&key()));
    let refused = |params: &JoinParams, exporter: &[u8; 32]| {
        let refused = office.authority.join(params, exporter, FROM, office.now).unwrap_err();
        assert!(matches!(refused, JoinRefusal::Unknown), "{refused}");
    };
    for bit in 0..8 {
        let flip = |bytes: &mut [u8]| bytes[usize::from(bit) % bytes.len()] ^= 1 << bit;
        let (mut id, mut proof, mut exporter) = (good.clone(), good.clone(), EXPORTER);
        flip(&mut *id.token);
        flip(&mut *proof.proof);
        flip(&mut exporter);
        refused(&id, &EXPORTER);
        refused(&proof, &EXPORTER);
        refused(&good, &exporter);
        // Were the request read first, this would be refused for the request.
        refused(&JoinParams { csr: ByteBuf::from(vec![bit; 10]), ..good.clone() }, &EXPORTER);
    }
    refused(&JoinParams { role: Role::Gateway, ..good.clone() }, &EXPORTER);
    refused(&JoinParams { name: "press".to_owned(), ..good.clone() }, &EXPORTER);
    // Of another office: the right shape and another secret.
    let stranger = Office::new().token(Role::Node);
    refused(&JoinParams { token: good.token, ..ask(&stranger, Role::Node, &good.csr) }, &EXPORTER);
    let line = office.last_line();
    assert_eq!((line["event"].as_str(), line["from"].as_str()), (Some("token_refused"), Some(FROM)));
    assert!(line["reason"].as_str().unwrap().contains("proof"), "{line}");
    office.join(&good).unwrap();
}

#[test]
fn a_token_is_good_once_for_one_role_and_in_time() {
    let mut office = Office::new();
    let (late, used) = (office.token(Role::Node), office.token(Role::Node));
    let other = ask(&used, Role::Admin, &request(&key()));
    assert!(matches!(office.join(&other), Err(JoinRefusal::OtherRole(Role::Node))));
    office.join(&ask(&used, Role::Node, &request(&key()))).unwrap();
    let again = ask(&used, Role::Node, &request(&key()));
    assert!(matches!(office.join(&again), Err(JoinRefusal::Used)));
    assert!(office.last_line()["reason"].as_str().unwrap().contains("used"));

    office.pass(TOKEN_LIFETIME);
    assert!(matches!(office.join(&ask(&late, Role::Node, &request(&key()))), Err(JoinRefusal::Expired)));
    assert!(matches!(office.join(&again), Err(JoinRefusal::Used)), "used stays used");
    let states: Vec<_> = office.authority.tokens(office.now).unwrap().iter().map(|row| row.state).collect();
    assert_eq!(states, [TokenState::Used, TokenState::Expired]);
    office.pass(DAY);
    assert!(office.authority.tokens(office.now).unwrap().is_empty());
}

#[test]
fn a_used_token_is_used_up_whatever_the_request_is_like() {
    let office = Office::new();
    let token = office.token(Role::Node);
    office.join(&ask(&token, Role::Node, &request(&key()))).unwrap();
    for csr in [b"".to_vec(), vec![0x30; CSR_BYTES_MAX + 1]] {
        assert!(matches!(office.join(&ask(&token, Role::Node, &csr)), Err(JoinRefusal::Used)));
    }
}

#[test]
fn a_stranger_cannot_push_out_of_the_diary_what_it_tells_of_others() {
    let mut office = Office::new();
    let expired = office.token(Role::Node);
    office.pass(TOKEN_LIFETIME);
    let guess = ask(&Office::new().token(Role::Node), Role::Node, b"");
    let lines = office.diary().len();
    for _ in 0..100 {
        office.join(&guess).unwrap_err();
    }
    assert_eq!(office.diary().len() - lines, 60);
    // That a real token was tried is told all the same.
    office.join(&ask(&expired, Role::Node, b"")).unwrap_err();
    assert!(office.last_line()["reason"].as_str().unwrap().contains("expired"));
    office.pass(Duration::from_secs(3600));
    office.join(&guess).unwrap_err();
    assert_eq!(office.last_line()["left_out"], 40);
}

#[test]
fn an_answer_that_was_lost_is_given_again_to_the_same_key_alone() {
    let mut office = Office::new();
    let token = office.token(Role::Gateway);
    let key = key();
    let first = office.join(&ask(&token, Role::Gateway, &request(&key))).unwrap();
    let issued = office.authority.issued().unwrap().len();
    // A signature is never the same twice: it is the key that counts.
    let again =
        office.reopened().join(&ask(&token, Role::Gateway, &request(&key)), &EXPORTER, FROM, office.now);
    assert_eq!(again.unwrap().certificates, first.certificates);
    assert_eq!(office.authority.issued().unwrap().len(), issued, "nothing new was issued");
    assert_eq!(office.last_line()["event"], "token_answered_again");
    office.authority.revoke(&Revoke::Node(holder(&first).node), office.now).unwrap();
    assert!(matches!(office.join(&ask(&token, Role::Gateway, &request(&key))), Err(JoinRefusal::Used)));
    office.pass(TOKEN_LIFETIME);
    assert!(office.join(&ask(&token, Role::Gateway, &request(&key))).is_err());
}

#[test]
fn tokens_outlive_a_restart_and_their_secret_is_not_on_the_disk() {
    let office = Office::new();
    let order = TokenOrder { role: Role::Node, name: Some("press".to_owned()), lifetime: TOKEN_LIFETIME };
    let token = office.authority.create_token(&order, office.now).unwrap();
    let reopened = office.reopened();
    let row = reopened.tokens(office.now).unwrap().remove(0);
    assert_eq!((row.id, row.state, row.used_by), (token.id(), TokenState::Open, None));
    let enrolled =
        reopened.join(&ask(&token, Role::Node, &request(&key())), &EXPORTER, FROM, office.now).unwrap();
    assert_eq!(holder(&enrolled).name, "press", "a name in the token outranks the joiner's");
    assert_eq!(office.authority.tokens(office.now).unwrap()[0].used_by, Some(holder(&enrolled).node));

    let secret = token.to_string().rsplit_once('.').unwrap().1.to_owned();
    for name in ["registry.json", "audit.jsonl"] {
        assert!(
            !std::fs::read_to_string(office.file(name)).unwrap().contains(&secret),
            "{name} has a secret"
        );
    }
}

#[test]
fn a_token_that_was_taken_back_opens_nothing() {
    let office = Office::new();
    let token = office.token(Role::Client);
    assert!(office.authority.revoke_token(token.id(), office.now).unwrap());
    assert!(!office.authority.revoke_token(token.id(), office.now).unwrap());
    assert!(!office.authority.revoke_token(TokenId([0; 8]), office.now).unwrap());
    assert!(matches!(office.join(&ask(&token, Role::Client, &request(&key()))), Err(JoinRefusal::Used)));
}

#[test]
fn there_are_tokens_that_nobody_makes() {
    let office = Office::new();
    let order = |role, name: Option<&str>, seconds| TokenOrder {
        role,
        name: name.map(str::to_owned),
        lifetime: Duration::from_secs(seconds),
    };
    let make = |order| office.authority.create_token(&order, office.now).unwrap_err();
    assert!(matches!(make(order(Role::Admin, None, 60)), AuthorityError::TokenRole(Role::Admin)));
    assert!(matches!(make(order(Role::Node, None, 0)), AuthorityError::TokenLifetime(_)));
    assert!(matches!(make(order(Role::Node, None, 24 * 3600 + 1)), AuthorityError::TokenLifetime(_)));
    assert!(matches!(make(order(Role::Node, Some("a/b"), 60)), AuthorityError::InvalidName(_)));
}

#[test]
fn a_renewed_certificate_is_the_same_members() {
    let mut office = Office::new();
    let press = office.member(Role::Node, "press");
    office.pass(7 * DAY);
    let renewed = holder(&office.renew(&press).unwrap());
    assert_eq!((renewed.node, renewed.role, &renewed.name), (press.node, press.role, &press.name));
    assert!(press.not_after < renewed.not_after && press.serial != renewed.serial);
    let line = office.last_line();
    assert_eq!(line["event"], "certificate_renewed");
    assert_eq!(
        (line["serial"].as_str(), line["replaces"].as_str()),
        (Some(&*renewed.serial), Some(&*press.serial))
    );
}

#[test]
fn revoked_ones_and_admins_are_not_renewed() {
    let office = Office::new();
    let (press, weld, anna) = (
        office.member(Role::Node, "press"),
        office.member(Role::Node, "weld"),
        office.member(Role::Admin, "anna"),
    );
    office.authority.revoke(&Revoke::Serial(press.serial.clone()), office.now).unwrap();
    office.authority.revoke(&Revoke::Node(weld.node), office.now).unwrap();
    assert!(matches!(office.renew(&press), Err(RenewRefusal::Revoked)));
    assert!(matches!(office.renew(&weld), Err(RenewRefusal::Revoked)));
    assert!(matches!(office.renew(&anna), Err(RenewRefusal::Role(Role::Admin))));
    assert_eq!(office.last_line()["event"], "renewal_refused");
    let useless = RenewParams { csr: ByteBuf::from(b"x".to_vec()) };
    let door = office.member(Role::Gateway, "door");
    let refused = office.authority.renew(&door, &useless, office.now);
    assert!(matches!(refused, Err(RenewRefusal::Request(_))));
}

#[test]
fn what_a_node_had_when_one_of_its_certificates_was_revoked_is_not_renewed() {
    let mut office = Office::new();
    let first = office.member(Role::Node, "press");
    office.pass(6 * DAY);
    let stolen = holder(&office.renew(&first).unwrap());
    // The thief is fast.
    let of_thief = holder(&office.renew(&stolen).unwrap());
    office.authority.revoke(&Revoke::Serial(stolen.serial.clone()), office.now).unwrap();
    assert!(matches!(office.renew(&stolen), Err(RenewRefusal::Revoked)));
    for kept in [&first, &of_thief] {
        assert!(matches!(office.renew(kept), Err(RenewRefusal::InDoubt)));
    }
    // What a person had signed since then is the node's own again.
    office.pass(Duration::from_secs(60));
    let subject = Subject { role: Role::Node, node: first.node, name: first.name.clone() };
    let signed = holder(&office.authority.sign(&request(&key()), &subject, office.now).unwrap());
    office.renew(&signed).unwrap();
    office.renew(&office.member(Role::Node, "weld")).unwrap();
    office.pass(14 * DAY);
    assert!(office.renew(&signed).is_ok(), "and nothing is held against it for ever");
}

#[test]
fn a_node_that_asks_for_certificates_without_end_gets_some_and_can_be_revoked() {
    let mut office = Office::new();
    let press = office.member(Role::Node, "press");
    let renewed = (0..40).filter(|_| office.renew(&press).is_ok()).count();
    assert_eq!(renewed, 31, "with the first one 32 in a day");
    assert!(matches!(office.renew(&press), Err(RenewRefusal::TooOften { .. })));
    office.renew(&office.member(Role::Node, "weld")).unwrap();
    office.pass(DAY);
    office.renew(&press).unwrap();
    assert_eq!(office.authority.revoke(&Revoke::Node(press.node), office.now).unwrap().len(), 33);
}

#[test]
fn a_person_can_have_a_request_signed_but_not_for_a_revoked_node() {
    let office = Office::new();
    let key = key();
    let subject = Subject::new(Role::Client, "plc");
    let csr = greedy_request(&key, &office.authority.cluster().to_string());
    let signed = office.authority.sign(&csr, &subject, office.now).unwrap();
    assert_eq!((holder(&signed).node, holder(&signed).role), (subject.node, Role::Client));
    assert!(matches!(office.authority.sign(b"", &subject, office.now), Err(AuthorityError::Request(_))));
    office.authority.revoke(&Revoke::Node(subject.node), office.now).unwrap();
    let refused = office.authority.sign(&csr, &subject, office.now);
    assert!(matches!(refused, Err(AuthorityError::RevokedNode(node)) if node == subject.node));
}
