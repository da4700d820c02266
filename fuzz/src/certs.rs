//! The targets of `lineside-certs`. Its tests include this file, which therefore names nothing else of ours but the wire.

use std::{str, sync::OnceLock, time::SystemTime};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use lineside_certs::{
    CertificateRequest, CertificateSummary, PeerIdentity, Token, Trust, Verdict, enrolled_from_pem,
    enrolled_to_pem, key_of_request, peer_identity, request_from_pem,
};
use lineside_wire::{
    CSR_BYTES_MAX, Enrolled, JoinParams, NodeId, RenewParams, Role, SignedTrust, TrustList, TrustSignature,
    check_document, decode_part,
};
use rustls_pki_types::CertificateDer;

use crate::parts::{one_part, told};

/// The private key in RFC 6979, A.2.5, which is no secret: with it a changed trust list is signed again, so that what is
/// behind the signature is reached too.
pub(crate) const KEY: [u8; 32] = [
    0xc9, 0xaf, 0xa9, 0xd8, 0x45, 0xba, 0x75, 0x16, 0x6b, 0x5c, 0x21, 0x57, 0x67, 0xb1, 0xd6, 0x93, 0x4e,
    0x50, 0xc3, 0xdb, 0x36, 0xe8, 0x9b, 0x12, 0x7b, 0x8a, 0x62, 0x2b, 0x12, 0x0f, 0x67, 0x21,
];

/// The public key that belongs to it.
pub(crate) const POINT: [u8; 65] = [
    0x04, 0x60, 0xfe, 0xd4, 0xba, 0x25, 0x5a, 0x9d, 0x31, 0xc9, 0x61, 0xeb, 0x74, 0xc6, 0x35, 0x6d, 0x68,
    0xc0, 0x49, 0xb8, 0x92, 0x3b, 0x61, 0xfa, 0x6c, 0xe6, 0x69, 0x62, 0x2e, 0x60, 0xf2, 0x9f, 0xb6, 0x79,
    0x03, 0xfe, 0x10, 0x08, 0xb8, 0xbc, 0x99, 0xa4, 0x1a, 0xe9, 0xe9, 0x56, 0x28, 0xbc, 0x64, 0xf2, 0xf1,
    0xb2, 0x0c, 0x2d, 0x7e, 0x9f, 0x51, 0x77, 0xa3, 0xc2, 0x94, 0xd4, 0x46, 0x22, 0x99,
];

/// A line that somebody pasted.
pub fn token(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match text.parse::<Token>() {
        Ok(token) => {
            assert!(!token.addresses().is_empty(), "a token without addresses");
            let printed = token.to_string();
            let again: Token = printed.parse().expect("what was printed can be read");
            assert_eq!(again.to_string(), printed, "a token has one spelling");
            // The proof stands for the secret, which is nowhere to be seen.
            let seen = |token: &Token| {
                let proof = token.proof(&[7; 32], Role::Node, "press", b"request");
                (*token.authority(), token.id(), token.addresses().to_vec(), proof)
            };
            assert!(seen(&again) == seen(&token), "{again:?} was {token:?}");
        }
        Err(error) => told(&error),
    }
}

/// A certificate that a peer shows, or a trust list that it tells.
pub fn identity(bytes: &[u8]) {
    certificate(bytes);
    if check_document(bytes).is_err() {
        return;
    }
    if let Ok(signed) = decode_part::<SignedTrust>(bytes) {
        heard(&signed);
    }
    if let Ok(list) = decode_part::<TrustList>(bytes) {
        signed_again(bytes, list);
    }
}

/// What a joiner sends, what it gets, and the file in which that is carried.
pub fn enrolment(bytes: &[u8]) {
    if check_document(bytes).is_ok() {
        one_part::<JoinParams>(bytes);
        one_part::<RenewParams>(bytes);
        if let Some(trust) = one_part::<SignedTrust>(bytes) {
            heard(&trust);
        }
        if let Some(answer) = one_part::<Enrolled>(bytes) {
            answered(&answer);
        }
    }
    request(bytes);
    if let Ok(text) = str::from_utf8(bytes) {
        file(text);
    }
}

fn certificate(bytes: &[u8]) {
    let certificate = CertificateDer::from(bytes);
    match peer_identity(&[certificate.clone(), certificate.clone()]) {
        Ok(peer) => {
            let summary = CertificateSummary::of_der(&certificate).expect("what names a member can be shown");
            assert_eq!((summary.node, summary.role), (Some(peer.node), Some(peer.role)));
            assert!(peer.serial.bytes().all(|digit| digit.is_ascii_hexdigit()), "{:?}", peer.serial);
        }
        Err(error) => told(&error),
    }
    if let Err(error) = CertificateSummary::of_der(&certificate) {
        told(&error);
    }
    match Trust::bare(vec![certificate.clone().into_owned()]) {
        Ok(trust) => {
            assert_eq!((trust.stamp().number, trust.signed()), (0, None));
            assert!(trust.authorities_pem().contains("BEGIN CERTIFICATE"));
        }
        Err(error) => told(&error),
    }
}

/// A list as it came, with whatever signatures.
fn heard(signed: &SignedTrust) {
    match Trust::own(signed) {
        Ok(trust) => {
            assert_eq!(trust.signed(), Some(signed), "it is passed on as it came");
            assert!(trust.succeed(signed).is_err(), "a list does not succeed itself");
            assert_ne!(trust.stamp().number, 0);
        }
        Err(error) => told(&error),
    }
}

/// A list with good signatures of all its authorities, as far as those have our key.
fn signed_again(document: &[u8], list: TrustList) {
    let signed = sign(document.to_vec(), &list);
    let trust = match Trust::own(&signed) {
        Ok(trust) => trust,
        Err(error) => return told(&error),
    };
    assert_eq!((trust.cluster(), trust.stamp().number), (list.cluster, list.number));
    assert_eq!(trust.issuing(), list.issuing);
    for node in list.revoked_nodes.iter().take(3) {
        assert_eq!(trust.judge(&peer(&list, *node)), Verdict::Revoked, "{node}");
    }
    let Some(number) = list.number.checked_add(1) else { return };
    let next = TrustList { number, ..list };
    let mut next = sign(rmp_serde::to_vec_named(&next).expect("a list can be written"), &next);
    let after = trust.succeed(&next).expect("the next list is taken");
    assert!(trust.stamp().number < after.stamp().number);
    assert!(after.succeed(&signed).is_err(), "the one before does not come back");
    next.signatures.clear();
    assert!(trust.succeed(&next).is_err(), "nobody signed it");
}

fn peer(list: &TrustList, node: NodeId) -> PeerIdentity {
    PeerIdentity {
        cluster: list.cluster,
        node,
        role: Role::Node,
        name: String::new(),
        not_after: SystemTime::UNIX_EPOCH,
        serial: "40".to_owned(),
        generation: list.issuing,
    }
}

/// Signs a document for every authority in it.
pub(crate) fn sign(document: Vec<u8>, list: &TrustList) -> SignedTrust {
    static SIGNER: OnceLock<EcdsaKeyPair> = OnceLock::new();
    let signer = SIGNER.get_or_init(|| {
        EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_ASN1_SIGNING, &KEY, &POINT)
            .expect("the two belong together")
    });
    let bytes = [b"lineside trust list v1\0", &document[..]].concat();
    let signature = signer.sign(&SystemRandom::new(), &bytes).expect("a key signs");
    let of = |generation| TrustSignature { generation, signature: signature.as_ref().to_vec().into() };
    let signatures = list.authorities.iter().take(2).map(|authority| of(authority.generation)).collect();
    SignedTrust { document: document.into(), signatures }
}

/// An answer to somebody else's request, which must not be taken.
fn answered(answer: &Enrolled) {
    static REQUEST: OnceLock<CertificateRequest> = OnceLock::new();
    let request = REQUEST.get_or_init(CertificateRequest::new);
    for expected in [None, Some(&[7; 32])] {
        match request.complete(answer, expected) {
            Ok(_) => panic!("an answer was taken that is for another key: {answer:?}"),
            Err(error) => told(&error),
        }
    }
}

/// A certificate request, as the authority reads it.
fn request(bytes: &[u8]) {
    match key_of_request(bytes) {
        Ok(key) => {
            assert!(bytes.len() <= CSR_BYTES_MAX);
            assert_eq!(key.len(), 91, "a key on P-256 has one length");
        }
        Err(error) => told(&error),
    }
}

/// A file that is to be an answer, or a request.
fn file(text: &str) {
    match enrolled_from_pem(text) {
        Ok(answer) => {
            let again = enrolled_from_pem(&enrolled_to_pem(&answer)).expect("what was written can be read");
            assert_eq!(again, answer);
            answered(&answer);
        }
        Err(error) => told(&error),
    }
    match request_from_pem(text) {
        Ok(csr) => request(&csr),
        Err(error) => told(&error),
    }
}
