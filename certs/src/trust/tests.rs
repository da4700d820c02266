//! Trust lists from offices that are made for the test.

use std::time::SystemTime;

use lineside_wire::{Role, TrustSignature};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType, SerialNumber, SigningKey as _,
    string::Ia5String,
};
use rustls_pki_types::pem::PemObject as _;
use serde_bytes::{ByteArray, ByteBuf};

use super::*;
use crate::names::{authority_name, cluster_uri};

const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);
const PRESS: NodeId = NodeId::from_bytes([0x11; 16]);

/// One generation of an authority.
struct Office {
    generation: u32,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Office {
    fn new(generation: u32) -> Self {
        Self::of(CLUSTER, generation, true)
    }

    fn of(cluster: ClusterId, generation: u32, is_authority: bool) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let params = Self::params(cluster, generation, is_authority);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { generation, certificate, issuer: Issuer::new(params, key) }
    }

    fn params(cluster: ClusterId, generation: u32, is_authority: bool) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, authority_name("floor", generation));
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(cluster_uri(cluster)).unwrap())];
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        if is_authority {
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(1));
        }
        params
    }

    fn crl(&self, number: u64, serials: &[u8]) -> Vec<u8> {
        let now: rcgen::CertificateParams = CertificateParams::default();
        let (this_update, next_update) = (now.not_before, now.not_after);
        let revoked = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[*serial; 16]),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    fn entry(&self, crl_number: u64, serials: &[u8]) -> TrustedAuthority {
        TrustedAuthority {
            generation: self.generation,
            certificate: ByteBuf::from(self.certificate.to_vec()),
            crl: ByteBuf::from(self.crl(crl_number, serials)),
        }
    }
}

fn list(number: u64, authorities: Vec<TrustedAuthority>) -> TrustList {
    TrustList {
        cluster: CLUSTER,
        number,
        signed_at: 1_795_514_820,
        issuing: authorities.last().map_or(1, |one| one.generation),
        authorities,
        revoked_nodes: Vec::new(),
        keys: Vec::new(),
        revoked_keys: Vec::new(),
    }
}

fn sign(list: &TrustList, signers: &[&Office]) -> SignedTrust {
    sign_bytes(encode(list), signers)
}

fn sign_bytes(document: Vec<u8>, signers: &[&Office]) -> SignedTrust {
    let bytes = signed_bytes(&document);
    let by = |office: &&Office| TrustSignature {
        generation: office.generation,
        signature: ByteBuf::from(office.issuer.key().sign(&bytes).unwrap()),
    };
    SignedTrust { document: ByteBuf::from(document), signatures: signers.iter().map(by).collect() }
}

fn peer(generation: u32, serial: u8) -> PeerIdentity {
    PeerIdentity {
        cluster: CLUSTER,
        node: PRESS,
        role: Role::Node,
        name: "press".to_owned(),
        not_after: SystemTime::UNIX_EPOCH,
        serial: format!("{serial:02x}").repeat(16),
        generation,
    }
}

fn damage<T>(result: Result<T, TrustError>) -> String {
    match result {
        Err(TrustError::Damaged(reason)) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was taken"),
    }
}

#[test]
fn a_newer_list_takes_the_place_of_the_one_before_and_says_who_is_out() {
    let office = Office::new(1);
    let first = Trust::own(&sign(&list(1, vec![office.entry(1, &[])]), &[&office])).unwrap();
    assert_eq!(first.judge(&peer(1, 7)), Verdict::Trusted);
    let second = sign(&list(2, vec![office.entry(2, &[7])]), &[&office]);
    let second = first.succeed(&second).unwrap();
    assert_eq!((second.stamp().number, second.issuing()), (2, 1));
    assert_ne!(second.stamp().hash, first.stamp().hash);
    assert_eq!(second.judge(&peer(1, 7)), Verdict::Revoked);
    assert_eq!(second.judge(&peer(1, 8)), Verdict::Trusted);
    let third = TrustList { revoked_nodes: vec![PRESS], ..list(3, vec![office.entry(2, &[7])]) };
    let third = second.succeed(&sign(&third, &[&office])).unwrap();
    assert_eq!(third.judge(&peer(1, 8)), Verdict::Revoked, "whatever certificate it shows");
}

fn api_key(id: u8, patterns: usize) -> ApiKey {
    ApiKey {
        id: ByteArray::new([id; 8]),
        hash: ByteArray::new([id; 32]),
        name: "press-7".to_owned(),
        models: vec!["*".to_owned(); patterns],
        methods: vec!["infer".to_owned()],
        expires: None,
        rate: None,
        burst: None,
    }
}

#[test]
fn a_key_that_was_taken_back_stays_so_whatever_a_later_list_says() {
    let office = Office::new(1);
    let told = |number, keys: &[u8], revoked: &[u8]| {
        let revoked =
            revoked.iter().map(|id| RevokedApiKey { at: 7, id: ByteArray::new([*id; 8]), ends: None });
        let keys = keys.iter().map(|id| api_key(*id, 1)).collect();
        let list = list(number, vec![office.entry(number, &[])]);
        sign(&TrustList { keys, revoked_keys: revoked.collect(), ..list }, &[&office])
    };
    let ids = |trust: &Trust| trust.keys().iter().map(|key| key.id[0]).collect::<Vec<_>>();
    let first = Trust::own(&told(1, &[1, 2], &[])).unwrap();
    assert_eq!(ids(&first), [1, 2]);
    let second = first.succeed(&told(2, &[2], &[1])).unwrap();
    assert_eq!(ids(&second), [2]);
    // Signed by a copy of the authority that has not heard of it.
    let third = second.succeed(&told(3, &[1, 2, 3], &[])).unwrap();
    assert_eq!(ids(&third), [2, 3]);
    assert!(third.lacks_revocations() && !second.lacks_revocations() && !first.lacks_revocations());
    assert_eq!(ids(&third.succeed(&told(4, &[1, 2, 3], &[3])).unwrap()), [2]);
    // In one list, too, and whatever comes of it.
    assert_eq!(ids(&Trust::own(&told(5, &[4, 5], &[5])).unwrap()), [4]);
}

#[test]
fn a_list_with_more_keys_than_there_can_be_is_damaged() {
    let office = Office::new(1);
    let of = |list: TrustList| damage(Trust::own(&sign(&list, &[&office])));
    let one = || list(1, vec![office.entry(1, &[])]);
    assert!(of(TrustList { keys: vec![api_key(1, 1); API_KEYS_MAX + 1], ..one() }).contains("API keys"));
    assert!(of(TrustList { keys: vec![api_key(1, API_KEY_PATTERNS_MAX + 1)], ..one() }).contains("patterns"));
    let models = vec!["x".repeat(API_KEY_PATTERN_BYTES_MAX + 1)];
    let key = ApiKey { models, ..api_key(1, 1) };
    assert!(of(TrustList { keys: vec![key], ..one() }).contains("bytes in a pattern"));
    let gone = RevokedApiKey { at: 1, id: ByteArray::new([1; 8]), ends: None };
    let revoked_keys = vec![gone; API_KEYS_REVOKED_MAX + 1];
    assert!(of(TrustList { revoked_keys, ..one() }).contains("revoked API keys"));
}

#[test]
fn an_older_list_and_the_present_one_are_not_taken() {
    let office = Office::new(1);
    let told = |number| sign(&list(number, vec![office.entry(number, &[])]), &[&office]);
    let trust = Trust::own(&told(5)).unwrap();
    assert_eq!(trust.succeed(&told(4)).unwrap_err(), TrustError::Older { number: 4, known: 5 });
    assert_eq!(trust.succeed(&told(5)).unwrap_err(), TrustError::SameNumber(5));
    assert!(trust.succeed(&told(6)).is_ok());
}

#[test]
fn an_old_revocation_list_inside_a_new_list_is_not_taken() {
    let office = Office::new(1);
    let trust = Trust::own(&sign(&list(1, vec![office.entry(9, &[7])]), &[&office])).unwrap();
    let replayed = sign(&list(2, vec![office.entry(8, &[])]), &[&office]);
    let refused = trust.succeed(&replayed).unwrap_err();
    assert_eq!(refused, TrustError::OlderCrl { generation: 1, number: 8, known: 9 });
}

#[test]
fn a_list_of_another_cluster_or_signed_by_nobody_that_is_trusted_is_not_taken() {
    let (office, stranger) = (Office::new(1), Office::new(1));
    let trust = Trust::bare(vec![office.certificate.clone()]).unwrap();
    let next = list(1, vec![office.entry(1, &[])]);
    for signed in [sign(&next, &[]), sign(&next, &[&stranger])] {
        assert_eq!(trust.succeed(&signed).unwrap_err(), TrustError::NotSigned);
        assert_eq!(Trust::own(&signed).unwrap_err(), TrustError::NotSigned);
    }
    // Its own authorities vouch for a stranger's list; ours do not.
    let foreign = sign(&list(1, vec![stranger.entry(1, &[])]), &[&stranger]);
    assert!(Trust::own(&foreign).is_ok());
    assert_eq!(trust.succeed(&foreign).unwrap_err(), TrustError::NotSigned);
    let elsewhere = ClusterId::from_bytes([0xc2; 16]);
    let other = TrustList { cluster: elsewhere, ..next };
    let refused = trust.succeed(&sign(&other, &[&office])).unwrap_err();
    assert_eq!(refused, TrustError::OtherCluster { found: elsewhere, own: CLUSTER });
    assert!(Trust::own(&sign(&other, &[&office])).is_err(), "the authority in it is another cluster's");
}

#[test]
fn a_rotation_is_followed_step_by_step_and_not_when_all_of_it_was_missed() {
    let (old, new) = (Office::new(1), Office::new(2));
    let first = Trust::own(&sign(&list(1, vec![old.entry(1, &[])]), &[&old])).unwrap();
    assert_eq!(first.judge(&peer(2, 1)), Verdict::Trusted, "the handshake has seen the old one vouch for it");
    let both = sign(&list(2, vec![old.entry(1, &[]), new.entry(1, &[])]), &[&old, &new]);
    let during = first.succeed(&both).unwrap();
    assert_eq!(during.issuing(), 2);
    assert_eq!(during.judge(&peer(1, 1)), Verdict::Trusted);
    let after = sign(&list(3, vec![new.entry(1, &[])]), &[&new]);
    assert_eq!(first.succeed(&after).unwrap_err(), TrustError::NotSigned);
    let after = during.succeed(&after).unwrap();
    assert_eq!(after.judge(&peer(1, 1)), Verdict::UnknownAuthority);
    assert_eq!(after.judge(&peer(0, 1)), Verdict::UnknownAuthority);
    assert_eq!(after.judge(&peer(2, 1)), Verdict::Trusted);
}

#[test]
fn an_authority_keeps_its_key_for_as_long_as_it_is_trusted() {
    let (old, first, second) = (Office::new(1), Office::new(2), Office::new(2));
    let both =
        |new: &Office, number| sign(&list(number, vec![old.entry(1, &[]), new.entry(1, &[])]), &[&old]);
    let trust = Trust::own(&both(&first, 2)).unwrap();
    assert_eq!(trust.succeed(&both(&second, 3)).unwrap_err(), TrustError::OtherAuthority(2));
}

#[test]
fn a_newer_list_that_forgets_a_revoked_node_does_not_let_it_back_in() {
    let office = Office::new(1);
    let out = TrustList { revoked_nodes: vec![PRESS], ..list(5, vec![office.entry(5, &[])]) };
    let trust = Trust::own(&sign(&out, &[&office])).unwrap();
    // Signed by a copy of the authority that was off when the node was revoked.
    let forgotten = sign(&list(6, vec![office.entry(6, &[])]), &[&office]);
    let next = trust.succeed(&forgotten).unwrap();
    assert_eq!((next.stamp().number, next.judge(&peer(1, 7))), (6, Verdict::Revoked));
}

#[test]
fn a_list_is_the_word_of_the_authority_that_signed_it_and_of_no_other_in_it() {
    let (office, other) = (Office::new(1), Office::new(2));
    let spki = |of: &Office| Facts::of(&of.certificate).unwrap().spki_sha256;
    let both = list(1, vec![office.entry(1, &[]), other.entry(1, &[])]);
    // Who has no key of the cluster takes what is public of it, and adds an authority of his own.
    let forged = Trust::own(&sign(&both, &[&other])).unwrap();
    assert!(forged.has_authority(&spki(&office)) && !forged.is_word_of(&spki(&office)));
    let told_so = TrustSignature { generation: 1, signature: ByteBuf::from(vec![0; 70]) };
    let mut signed = sign(&both, &[&other]);
    signed.signatures.push(told_so);
    assert!(!Trust::own(&signed).unwrap().is_word_of(&spki(&office)));
    assert!(Trust::own(&sign(&both, &[&other, &office])).unwrap().is_word_of(&spki(&office)));
    assert!(!forged.is_word_of(&[0; 32]));
    assert!(!Trust::bare(vec![office.certificate.clone()]).unwrap().is_word_of(&spki(&office)));
}

#[test]
fn whoever_a_stolen_authority_vouched_for_goes_with_it_whatever_he_calls_himself() {
    let (stolen, new, thief) = (Office::new(1), Office::new(2), Office::new(2));
    let during = list(2, vec![stolen.entry(1, &[]), new.entry(1, &[])]);
    let during = Trust::own(&sign(&during, &[&stolen, &new])).unwrap();
    let after = during.succeed(&sign(&list(3, vec![new.entry(2, &[])]), &[&new])).unwrap();
    let shown = |by: &Office| {
        let uri = crate::names::member_uri(CLUSTER, Role::Node, PRESS);
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri).unwrap())];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let leaf = params.signed_by(&key, &by.issuer).unwrap();
        let cross = Office::params(CLUSTER, 2, true).signed_by(by.issuer.key(), &stolen.issuer).unwrap();
        vec![CertificateDer::from(leaf), CertificateDer::from(cross)]
    };
    for (by, then) in [(&new, Verdict::Trusted), (&thief, Verdict::UnknownAuthority)] {
        let chain = shown(by);
        let peer = crate::peer_identity(&chain).unwrap();
        assert_eq!(peer.generation, 2);
        assert_eq!(during.judge_shown(&peer, &chain), Verdict::Trusted, "for as long as the stolen one is");
        assert_eq!(after.judge_shown(&peer, &chain), then);
    }
}

#[test]
fn a_revocation_list_has_to_be_its_authoritys_own() {
    let (office, stranger, next) = (Office::new(1), Office::new(1), Office::new(2));
    let with = |crl: Vec<u8>| TrustedAuthority { crl: ByteBuf::from(crl), ..office.entry(1, &[]) };
    let own = |crl| Trust::own(&sign(&list(1, vec![with(crl)]), &[&office]));
    assert!(damage(own(stranger.crl(1, &[]))).contains("not signed"));
    assert!(damage(own(next.crl(1, &[]))).contains("another authority"));
    assert!(damage(own(Vec::new())).contains("revocation list of g1"));
    assert!(damage(own([office.crl(1, &[]), vec![0]].concat())).contains("1 bytes follow"));
    let mut longest = office.crl(1, &[]);
    longest.truncate(longest.len() - 1);
    damage(own(longest));
}

#[test]
fn what_a_list_must_not_hold_is_named() {
    let (old, new, third) = (Office::new(1), Office::new(2), Office::new(3));
    let of = |list: &TrustList| damage(Trust::own(&sign(list, &[&old])));
    let one = list(1, vec![old.entry(1, &[])]);
    assert!(of(&list(1, Vec::new())).contains("0 authorities"));
    let three = vec![old.entry(1, &[]), new.entry(1, &[]), third.entry(1, &[])];
    assert!(of(&list(1, three)).contains("3 authorities"));
    assert!(of(&list(1, vec![new.entry(1, &[]), old.entry(1, &[])])).contains("order"));
    assert!(of(&list(1, vec![old.entry(1, &[]), old.entry(1, &[])])).contains("order"));
    assert!(of(&TrustList { issuing: 2, ..one.clone() }).contains("g2"));
    assert!(of(&TrustList { number: 0, ..one.clone() }).contains("number 0"));
    assert!(of(&TrustList { revoked_nodes: vec![PRESS; REVOKED_MAX + 1], ..one.clone() }).contains("nodes"));
    let misnamed = TrustedAuthority { generation: 4, ..old.entry(1, &[]) };
    assert!(of(&list(1, vec![misnamed])).contains("g4"));
    let no_authority = Office::of(CLUSTER, 1, false);
    assert!(of(&list(1, vec![no_authority.entry(1, &[])])).contains("not a cluster's authority"));
    let full: Vec<u8> = vec![7; REVOKED_MAX + 1];
    assert!(of(&list(1, vec![old.entry(1, &full)])).contains("more than 4096"));
}

#[test]
fn bytes_behind_a_list_and_bytes_without_end_are_refused() {
    let office = Office::new(1);
    let document = encode(&list(1, vec![office.entry(1, &[])]));
    let own = |document| damage(Trust::own(&sign_bytes(document, &[&office])));
    assert!(own([document.clone(), vec![0xc0]].concat()).contains("1 bytes follow"));
    assert!(own(vec![0; DOCUMENT_BYTES_MAX + 1]).contains("longer"));
    for bomb in [vec![0x91; 60_000], vec![0xdd, 0xff, 0xff, 0xff, 0xff], vec![0xc1], Vec::new()] {
        own(bomb);
    }
    let mut signatures = sign_bytes(document, &[&office, &office]);
    signatures.signatures.push(signatures.signatures[0].clone());
    assert!(damage(Trust::own(&signatures)).contains("signatures"));
}

#[test]
fn no_changed_byte_passes_and_none_makes_reading_panic() {
    let office = Office::new(1);
    let trust = Trust::bare(vec![office.certificate.clone()]).unwrap();
    let signed = sign(&list(1, vec![office.entry(1, &[7])]), &[&office]);
    for at in 0..signed.document.len() {
        let mut changed = signed.clone();
        changed.document[at] ^= 0x41;
        assert!(trust.succeed(&changed).is_err(), "byte {at}");
        drop(Trust::own(&sign_bytes(changed.document.to_vec(), &[&office])));
    }
}

#[test]
fn authorities_alone_are_trusted_with_nothing_revoked_until_a_list_comes() {
    let (old, new) = (Office::new(1), Office::new(2));
    let trust = Trust::bare(vec![new.certificate.clone(), old.certificate.clone()]).unwrap();
    assert_eq!((trust.cluster(), trust.issuing(), trust.stamp()), (CLUSTER, 2, TrustStamp::default()));
    assert!(trust.signed().is_none());
    assert_eq!(trust.judge(&peer(1, 7)), Verdict::Trusted);
    let pem = trust.authorities_pem();
    let again: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    assert_eq!(again, [old.certificate.clone(), new.certificate]);
    let stranger = Office::of(ClusterId::from_bytes([0xc2; 16]), 2, true);
    let mixed = Trust::bare(vec![old.certificate.clone(), stranger.certificate]);
    assert!(matches!(mixed, Err(TrustError::OtherCluster { .. })));
    damage(Trust::bare(Vec::new()));
    damage(Trust::bare(vec![old.certificate.clone(), old.certificate]));
    damage(Trust::bare(vec![CertificateDer::from(vec![0x30, 0])]));
}
