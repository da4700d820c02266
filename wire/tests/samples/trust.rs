//! What members tell each other about trust, and how one joins. Where a certificate belongs stand five bytes: frames
//! are the subject here, and `lineside-certs` has the certificates.

use lineside_wire::{
    Enrolled, Fault, FaultCode, JoinParams, NodeId, RenewParams, Role, SignedTrust, TrustList,
    TrustSignature, TrustedAuthority,
};
use serde_bytes::{ByteArray, ByteBuf};

use super::{CLOCK_MS, CLUSTER};

/// The first eight bytes of the SHA-256 of [`rotating`]'s document, big-endian; a test of `lineside-certs` checks it.
pub(crate) const ROTATING_HASH: u64 = 0x4b06_ea46_c60e_813d;

/// A request for a certificate, of the key in RFC 6979, A.2.5.
const CSR: &str = "3081ba306202010030003059301306072a8648ce3d020106082a8648ce3d0301070342000460fed4ba255a9d31c961eb\
    74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c2\
    94d4462299a000300a06082a8648ce3d0403020348003045022100eafaadaccc59cdf47193f5113268f44a952bd275a9\
    e5d974e394d1e5c77ed5dc02201f4340827e0aeb1f7724bb85dee8f054fd82d3dd53622bbc6924b72d5df592ed";

/// The proof of the document's token for that request; a test of `lineside-certs` checks it.
const PROOF: &str = "e56455f20ce0669cd2efeaeee65146453bc47510bf7ef3f9f06008bc4db67637";

/// A cluster with one authority and nothing revoked.
pub(crate) fn first() -> TrustList {
    TrustList {
        cluster: CLUSTER,
        number: 1,
        signed_at: CLOCK_MS / 1000,
        issuing: 1,
        authorities: vec![authority(1)],
        revoked_nodes: Vec::new(),
        keys: Vec::new(),
        revoked_keys: Vec::new(),
    }
}

/// The same cluster in a rotation, with a node that was revoked.
pub(crate) fn rotating() -> TrustList {
    TrustList {
        number: 4,
        issuing: 2,
        authorities: vec![authority(1), authority(2)],
        revoked_nodes: vec![NodeId::from_bytes([0xdd; 16])],
        ..first()
    }
}

/// A list with a signature of each of its authorities.
pub(crate) fn signed(list: &TrustList) -> SignedTrust {
    let signature = |authority: &TrustedAuthority| {
        let number = u8::try_from(authority.generation).unwrap();
        let signature = ByteBuf::from([0x30, 6, 2, 1, number, 2, 1, number]);
        TrustSignature { generation: authority.generation, signature }
    };
    SignedTrust {
        document: ByteBuf::from(rmp_serde::to_vec_named(list).unwrap()),
        signatures: list.authorities.iter().map(signature).collect(),
    }
}

pub(crate) fn join() -> JoinParams {
    JoinParams {
        token: ByteArray::new([1, 2, 3, 4, 5, 6, 7, 8]),
        role: Role::Node,
        name: "press".into(),
        csr: ByteBuf::from(bytes(CSR)),
        proof: ByteArray::new(bytes(PROOF).try_into().unwrap()),
    }
}

/// Another role, no name of its own, and a request as long as it may be.
pub(crate) fn join_of_a_client() -> JoinParams {
    JoinParams {
        token: ByteArray::new([0xff; 8]),
        role: Role::Client,
        name: String::new(),
        csr: ByteBuf::from(vec![0x30; lineside_wire::CSR_BYTES_MAX]),
        proof: ByteArray::new([0; 32]),
    }
}

pub(crate) fn joined() -> Enrolled {
    Enrolled { certificates: vec![der(0x21)], trust: signed(&first()), now: CLOCK_MS / 1000 }
}

pub(crate) fn refusal() -> Fault {
    Fault::new(FaultCode::PermissionDenied, "this token cannot be used: make a new one")
}

pub(crate) fn too_often() -> Fault {
    Fault::new(FaultCode::RateLimited, "too many tries from this address").retry_after_ms(42_000)
}

pub(crate) fn renew() -> RenewParams {
    RenewParams { csr: ByteBuf::from(bytes(CSR)) }
}

/// During a rotation the new authority's certificate, as signed by the old one, comes along.
pub(crate) fn renewed() -> Enrolled {
    Enrolled { certificates: vec![der(0x22), der(0x23)], trust: signed(&rotating()), now: u64::MAX }
}

fn authority(generation: u32) -> TrustedAuthority {
    let number = u8::try_from(generation).unwrap();
    TrustedAuthority { generation, certificate: der(number), crl: der(0x10 + number) }
}

/// The shortest thing that looks like DER and is recognised in a dump.
fn der(number: u8) -> ByteBuf {
    ByteBuf::from([0x30, 3, 2, 1, number])
}

fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
