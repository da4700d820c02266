use serde::de::DeserializeOwned;

use super::*;
use crate::{
    API_KEYS_BYTES_MAX, API_KEYS_MAX, API_KEYS_REVOKED_MAX, CallContext, EncodedFrame, Limits, Message,
    PayloadBuilder, RequestId, check_document, decode_part, method,
};

const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);

/// A certificate of ours has about 600 bytes, an authority's certificate fewer.
const CERTIFICATE_BYTES: usize = 1024;
/// An entry of a revocation list: a serial number of 16 bytes, a time, and what is around them.
const CRL_ENTRY_BYTES: usize = 48;

fn list(authorities: usize, revoked: usize) -> TrustList {
    let authority = |generation| TrustedAuthority {
        generation,
        certificate: ByteBuf::from(vec![0x30; CERTIFICATE_BYTES]),
        crl: ByteBuf::from(vec![0x30; 512 + revoked * CRL_ENTRY_BYTES]),
    };
    TrustList {
        cluster: CLUSTER,
        number: 7,
        signed_at: 1_795_514_820,
        issuing: 1,
        authorities: (1..).take(authorities).map(authority).collect(),
        revoked_nodes: vec![NodeId::from_bytes([0xdd; 16]); revoked],
        keys: Vec::new(),
        revoked_keys: Vec::new(),
    }
}

fn signed(list: &TrustList) -> SignedTrust {
    let signature = |authority: &TrustedAuthority| TrustSignature {
        generation: authority.generation,
        signature: ByteBuf::from(vec![0x30; 72]),
    };
    SignedTrust {
        document: ByteBuf::from(rmp_serde::to_vec_named(list).unwrap()),
        signatures: list.authorities.iter().map(signature).collect(),
    }
}

fn join(csr_bytes: usize, name: &str) -> JoinParams {
    JoinParams {
        token: ByteArray::new([1; 8]),
        role: Role::Node,
        name: name.to_owned(),
        csr: ByteBuf::from(vec![0x30; csr_bytes]),
        proof: ByteArray::new([2; 32]),
    }
}

fn again<T: Serialize + DeserializeOwned>(value: &T) -> T {
    decode_part(&rmp_serde::to_vec_named(value).unwrap()).unwrap()
}

/// A key with this many bytes of patterns.
fn key(number: u64, pattern_bytes: usize) -> ApiKey {
    ApiKey {
        id: ByteArray::new(number.to_be_bytes()),
        hash: ByteArray::new([0xee; 32]),
        name: "x".repeat(64),
        models: vec!["*".repeat(pattern_bytes)],
        methods: vec!["infer".to_owned()],
        expires: Some(u64::MAX),
        rate: Some(u32::MAX),
        burst: Some(u32::MAX),
    }
}

/// As many bytes of keys as there can be, and as many that were revoked.
fn with_keys(list: TrustList) -> TrustList {
    let bytes = |keys: &[ApiKey]| rmp_serde::to_vec_named(keys).unwrap().len();
    let room = API_KEYS_BYTES_MAX / API_KEYS_MAX - bytes(&[key(0, 0)]) - 4;
    let keys: Vec<_> = (0..API_KEYS_MAX as u64).map(|number| key(number, room)).collect();
    assert!((API_KEYS_BYTES_MAX * 95 / 100..=API_KEYS_BYTES_MAX).contains(&bytes(&keys)), "{}", bytes(&keys));
    let revoked = |number: u64| RevokedApiKey {
        at: u64::MAX,
        id: ByteArray::new(number.to_be_bytes()),
        ends: Some(u64::MAX),
    };
    TrustList { keys, revoked_keys: (0..API_KEYS_REVOKED_MAX as u64).map(revoked).collect(), ..list }
}

#[test]
fn the_longest_trust_list_fits_an_answer_beside_a_certificate() {
    let enrolled = Enrolled {
        certificates: vec![ByteBuf::from(vec![0x30; CERTIFICATE_BYTES]); 2],
        trust: signed(&with_keys(list(AUTHORITIES_MAX, REVOKED_MAX))),
        now: u64::MAX,
    };
    assert!(enrolled.trust.document.len() <= 1 << 20, "{} bytes", enrolled.trust.document.len());
    let frame = EncodedFrame::response(RequestId(1), &enrolled, None, PayloadBuilder::new());
    let most = Limits::default().answer_bytes_max as usize;
    assert!(2 * frame.len() <= most, "{} bytes of {most} leave no room", frame.len());
    assert_eq!(check_document(&frame.start[crate::FRAME_HEAD_BYTES..]), Ok(()));
    assert_eq!(again(&enrolled), enrolled);
}

#[test]
fn the_longest_request_to_join_fits_any_request() {
    let longest = join(CSR_BYTES_MAX, &"x".repeat(64));
    let frame = EncodedFrame::request(
        RequestId(1),
        method::ENROL_JOIN,
        &CallContext::default(),
        &longest,
        PayloadBuilder::new(),
    );
    assert!(frame.len() <= 8192, "{} bytes", frame.len());
    let message =
        Message::decode(crate::FrameKind::Request, &frame.start[crate::FRAME_HEAD_BYTES..]).unwrap();
    let Message::Request { params, .. } = message else { panic!("{message:?}") };
    assert_eq!(decode_part::<JoinParams>(params), Ok(longest));
}

#[test]
fn bytes_travel_as_bytes_and_not_as_arrays_of_numbers() {
    let csr_bytes = 300;
    let written = rmp_serde::to_vec_named(&join(csr_bytes, "press")).unwrap();
    assert!(written.len() < csr_bytes + 100, "{} bytes", written.len());
}

#[test]
fn what_has_a_fixed_length_has_exactly_that() {
    #[derive(Serialize)]
    struct Loose<'a> {
        token: &'a serde_bytes::Bytes,
        role: &'a str,
        name: &'a str,
        csr: &'a serde_bytes::Bytes,
        proof: &'a serde_bytes::Bytes,
    }
    let read = |token: usize, proof: usize, role: &str| {
        let zeros = [0; 64];
        let bytes = |length: usize| serde_bytes::Bytes::new(&zeros[..length]);
        let loose = Loose { token: bytes(token), role, name: "press", csr: bytes(3), proof: bytes(proof) };
        decode_part::<JoinParams>(&rmp_serde::to_vec_named(&loose).unwrap())
    };
    assert!(read(8, 32, "node").is_ok());
    for (token, proof, role) in
        [(7, 32, "node"), (9, 32, "node"), (8, 31, "node"), (8, 33, "node"), (8, 32, "root")]
    {
        assert!(read(token, proof, role).is_err(), "a token of {token}, a proof of {proof}, the role {role}");
    }
}

#[test]
fn a_list_without_revoked_nodes_says_nothing_of_them_and_one_with_says_each() {
    let none = rmp_serde::to_vec_named(&list(1, 0)).unwrap();
    assert!(
        !none.windows(7).any(|bytes| bytes == b"revoked") && !none.windows(4).any(|bytes| bytes == b"keys")
    );
    assert_eq!(again(&list(1, 0)), list(1, 0));
    assert_eq!(again(&list(2, 3)), list(2, 3));
    assert_eq!(again(&with_keys(list(1, 1))), with_keys(list(1, 1)));
}

#[test]
fn a_stamp_is_ordered_by_its_number_first() {
    let stamp = |number, hash| TrustStamp { number, hash };
    assert!(stamp(1, u64::MAX) < stamp(2, 0) && stamp(2, 0) < stamp(2, 1));
    assert_eq!(TrustStamp::default().number, 0);
    assert_eq!(again(&stamp(u64::MAX, u64::MAX)), stamp(u64::MAX, u64::MAX));
}
